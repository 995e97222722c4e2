package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"brig/test/machine"
)

// packages are Debian's, in the guest: an init, with what a user's own needs, what tests of a runtime stand beside, and what Brig and its stories call.
var packages = []string{
	"systemd-sysv", "dbus", "libpam-systemd", "dbus-user-session", "kmod", "procps", "strace", "iproute2", "nftables", "iptables", "uidmap", "busybox-static", "apparmor",
	"criu", "runc", "crun", "passt", "slirp4netns", "xz-utils", "bzip2",
}

// kernelPackage depends on the newest kernel for virtual machines.
const kernelPackage = "linux-image-cloud-amd64"

// diskSize is of the guest's file system; the file has holes.
const diskSize = 4 << 30

// agentUnit starts the agent. Commands that it runs are in its control group, which is theirs to divide; one that is killed for want of
// memory must not take the unit with it.
const agentUnit = `[Unit]
Description=Agent of the test host
[Service]
ExecStart=/usr/local/sbin/guest-agent
Restart=always
RestartSec=100ms
Delegate=yes
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=linux
WorkingDirectory=/root
[Install]
WantedBy=multi-user.target
`

// rootFiles are written into the root file system; an empty text is a link to /dev/null, which keeps a unit from ever starting.
var rootFiles = []struct{ path, text string }{
	{"etc/hostname", "guest\n"},
	{"etc/hosts", "127.0.0.1 localhost\n127.0.1.1 guest\n"},
	{"etc/machine-id", "0123456789abcdef0123456789abcdef\n"},
	{"etc/subuid", "root:100000:65536\n"},
	{"etc/subgid", "root:100000:65536\n"},
	{"etc/systemd/system/guest-agent.service", agentUnit},
	{"etc/systemd/journald.conf.d/guest.conf", "[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\n"},
	{"etc/systemd/system/serial-getty@ttyS0.service", ""},
	{"etc/systemd/system/getty@tty1.service", ""},
	{"etc/systemd/system/systemd-timesyncd.service", ""},
	{"etc/systemd/system/apt-daily.timer", ""},
	{"etc/systemd/system/apt-daily-upgrade.timer", ""},
	{"etc/systemd/system/dpkg-db-backup.timer", ""},
	{"etc/systemd/system/e2scrub_all.timer", ""},
	{"etc/systemd/system/e2scrub_reap.service", ""},
	{"etc/systemd/system/fstrim.timer", ""},
	{"etc/systemd/system/systemd-tmpfiles-clean.timer", ""},
	{"etc/systemd/user/systemd-tmpfiles-clean.timer", ""},
	{"var/lib/systemd/linger/brigtest", "\n"}, // its systemd runs though it is not logged in
	{"etc/systemd/system/user@.service.d/delegate.conf", "[Service]\nDelegate=cpu cpuset io memory pids\n"},
}

// setUp are commands in the root file system.
var setUp = [][]string{
	{"systemctl", "enable", "-q", "guest-agent.service"},
	{"useradd", "-m", "-s", "/bin/bash", "-u", "1000", "user"},
	{"groupadd", "-g", strconv.Itoa(machine.UserID), "brigtest"},
	{"useradd", "-r", "-M", "-u", strconv.Itoa(machine.UserID), "-g", "brigtest", "brigtest"}, // without ranges of ids: test/machine/user.go adds them
	{"apt-get", "clean"},
}

// leftOut are paths that nobody reads in the guest.
var leftOut = []string{"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"}

// base makes the folder with the root file system and the kernel, and returns its name in the cache.
func (b *builder) base(ctx context.Context) (string, error) {
	kernel, deb, err := b.kernel(ctx)
	if err != nil {
		return "", err
	}
	name := "base-" + keyOf(deb, fmt.Sprint(packages, rootFiles, leftOut, setUp, diskSize))
	if _, err := os.Stat(filepath.Join(b.cache, name)); err == nil {
		b.say("the root file system is there: %s, %s", name, deb)
		return name, nil
	}
	tmp, err := os.MkdirTemp(b.cache, "tmp-base-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	root := filepath.Join(tmp, "root")
	b.say("mmdebstrap makes a Debian 12 with %s", strings.Join(packages, ", "))
	args := []string{"--quiet", "--variant=minbase", "--format=directory", "--include=" + strings.Join(packages, ",")}
	for _, p := range leftOut {
		args = append(args, "--dpkgopt=path-exclude="+p)
	}
	if _, err := output(ctx, tmp, "mmdebstrap", append(args, "bookworm", root)...); err != nil {
		return "", err
	}
	b.say("unpacks the kernel, %s", deb)
	if err := unpackKernel(ctx, tmp, root, kernel); err != nil {
		return "", err
	}
	if err := configure(ctx, root); err != nil {
		return "", err
	}
	b.say("mkfs.ext4")
	if err := makeDisk(ctx, filepath.Join(tmp, diskFile), root); err != nil {
		return "", err
	}
	if err := os.RemoveAll(root); err != nil {
		return "", err
	}
	return name, os.Rename(tmp, filepath.Join(b.cache, name))
}

// kernel returns the newest kernel's package, and the name of its archive, which has the version.
func (b *builder) kernel(ctx context.Context) (pkg, deb string, err error) {
	for try := range 2 {
		out, err := output(ctx, "", "apt-cache", "depends", "--important", kernelPackage)
		if err != nil && try > 0 {
			return "", "", err
		}
		for line := range strings.Lines(out) {
			if _, name, ok := strings.Cut(line, "Depends: linux-image-"); ok {
				pkg = "linux-image-" + strings.TrimSpace(name)
			}
		}
		if pkg != "" {
			break
		}
		b.say("apt-get update")
		if _, err := output(ctx, "", "apt-get", "update", "-qq"); err != nil {
			return "", "", err
		}
	}
	if pkg == "" {
		return "", "", fmt.Errorf("apt-get knows no %s: are its sources those of Debian 12 for amd64?", kernelPackage)
	}
	out, err := output(ctx, "", "apt-get", "download", "--print-uris", pkg)
	if err != nil {
		return "", "", err
	}
	fields := strings.Fields(out) // 'address' name size hash
	if len(fields) < 2 {
		return "", "", fmt.Errorf("apt-get download --print-uris %s: %q", pkg, out)
	}
	return pkg, fields[1], nil
}

// unpackKernel puts the kernel beside root, in folder tmp, and its modules into root.
func unpackKernel(ctx context.Context, tmp, root, pkg string) error {
	if _, err := output(ctx, tmp, "apt-get", "download", "-qq", pkg); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s: %d archives, %v", pkg, len(debs), err)
	}
	files := filepath.Join(tmp, "kernel")
	if _, err := output(ctx, "", "dpkg-deb", "-x", debs[0], files); err != nil {
		return err
	}
	version := strings.TrimPrefix(pkg, "linux-image-")
	if err := os.Rename(filepath.Join(files, "boot", "vmlinuz-"+version), filepath.Join(tmp, kernelFile)); err != nil {
		return err
	}
	modules := filepath.Join(root, "usr/lib/modules", version)
	if err := os.MkdirAll(filepath.Dir(modules), 0o755); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(files, "lib/modules", version), modules); err != nil {
		return err
	}
	if _, err := output(ctx, "", "chroot", root, "/sbin/depmod", version); err != nil {
		return err
	}
	if err := copyModules(modules, filepath.Join(tmp, modulesDir)); err != nil {
		return err
	}
	busybox, err := os.ReadFile(filepath.Join(root, "bin/busybox"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "busybox"), busybox, 0o755); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(files), os.Remove(debs[0]))
}

// configure writes rootFiles and runs setUp, which adds users for what is not root's.
func configure(ctx context.Context, root string) error {
	for _, f := range rootFiles {
		path := filepath.Join(root, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		var err error
		if f.text == "" {
			err = os.Symlink("/dev/null", path)
		} else {
			err = os.WriteFile(path, []byte(f.text), 0o644)
		}
		if err != nil {
			return err
		}
	}
	for _, args := range setUp {
		if _, err := output(ctx, "", "chroot", append([]string{root}, args...)...); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(root, "var/lib/apt/lists"))
}

// makeDisk makes an ext4 of a tree. It has no journal: nobody repairs it.
func makeDisk(ctx context.Context, file, root string) error {
	if err := makeSparse(file, diskSize); err != nil {
		return err
	}
	_, err := output(ctx, "", "mkfs.ext4", "-q", "-F", "-m", "0", "-N", "131072", "-O", "^has_journal,^metadata_csum",
		"-E", "lazy_itable_init=0,nodiscard", "-L", "guest", "-d", root, file)
	return err
}

// makeSparse makes a file that is one hole.
func makeSparse(file string, size int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// bootFiles puts kernel and initramfs into the image's folder. The agent comes with the latter, so that a new one needs no new base.
func bootFiles(base string, agent binary, img *Image) error {
	kernel, err := os.ReadFile(filepath.Join(base, kernelFile))
	if err != nil {
		return err
	}
	if err := os.WriteFile(img.path(kernelFile), kernel, 0o644); err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := initramfs(&archive, base, agent.content); err != nil {
		return err
	}
	if err := os.WriteFile(img.path(initrdFile), archive.Bytes(), 0o644); err != nil {
		return err
	}
	return makeSparse(img.path(emptyFile), payloadSize)
}
