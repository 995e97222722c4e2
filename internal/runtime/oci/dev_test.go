package oci

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/mount"
)

const showDevices = "stat -c '%n %F %t:%T %a %u:%g' "

// ownDev gives a container the /dev that engines ask for.
func ownDev(c *container) {
	c.mount("/dev", "tmpfs", "tmpfs", "nosuid", "mode=755", "size=64k")
	c.mount("/dev/pts", "devpts", "devpts", "newinstance", "ptmxmode=0666")
	c.mount("/dev/shm", "tmpfs", "shm", "mode=1777")
}

// TestDefaultDevices: they are there whatever /dev is, unless it is bound.
func TestDefaultDevices(t *testing.T) {
	const script = showDevices + "/dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; for l in fd stdin stdout stderr ptmx core; do readlink /dev/$l; done; echo x > /dev/null; cat /dev/null"
	want := "/dev/null character special file 1:3 666 0:0\n/dev/zero character special file 1:5 666 0:0\n/dev/full character special file 1:7 666 0:0\n" +
		"/dev/random character special file 1:8 666 0:0\n/dev/urandom character special file 1:9 666 0:0\n/dev/tty character special file 5:0 666 0:0\n" +
		"/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx"
	if _, err := os.Lstat("/proc/kcore"); err == nil { // on the host: not every kernel has it
		want += "\n/proc/kcore"
	}
	for name, set := range map[string]func(*container){
		"tmpfs":    ownDev,
		"root":     func(*container) {},
		"ramfs":    func(c *container) { c.mount("/dev/", "ramfs", "ramfs") },
		"relative": func(c *container) { c.mount("dev", "tmpfs", "tmpfs") },
		"existing": func(c *container) {
			must(c.T, os.Mkdir(c.root+"/dev", 0o755), unix.Mknod(c.root+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), os.Chmod(c.root+"/dev/null", 0o666),
				unix.Mknod(c.root+"/dev/ptmx", unix.S_IFCHR|0o666, int(unix.Mkdev(5, 2))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t)
			set(c)
			c.want(script, want)
		})
	}
	c := newContainer(t)
	must(t, os.Mkdir(c.root+"/dev", 0o755), os.WriteFile(c.root+"/dev/null", []byte("no device"), 0o666))
	c.refused("/dev/null", "another file")
	c = newContainer(t)
	c.mount("/dev", "tmpfs", "tmpfs", "ro", "mode=755")
	c.mount("/dev/a/b", "tmpfs", "tmpfs")
	c.want("ls /dev/null /dev/a; touch /dev/x 2>/dev/null || echo ro; grep ' /dev ' /proc/self/mountinfo | grep -o 'ro,relatime'", "/dev/null\n\n/dev/a:\nb\nro\nro,relatime")
}

// TestBoundDev: in a /dev of the host nothing is made.
func TestBoundDev(t *testing.T) {
	dev := t.TempDir()
	must(t, os.WriteFile(dev+"/mine", nil, 0o644))
	c := newContainer(t)
	c.mount("/dev", "none", dev, "rbind")
	c.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}, {Path: "/outside", Type: "p"}}
	c.spec.Linux.MaskedPaths = []string{"/bin/x"}
	must(t, os.WriteFile(c.root+"/bin/x", nil, 0o644))
	c.want("ls /dev; stat -c %F /outside; stat -L -c '%F %t:%T' /bin/x", "mine\nfifo\ncharacter special file 1:3")
	if list, err := os.ReadDir(dev); err != nil || len(list) != 1 {
		t.Errorf("the host's folder has %v, %v", list, err)
	}
}

// TestDevices: every type at every place, with mode and owner.
func TestDevices(t *testing.T) {
	mode, uid, gid := os.FileMode(0o640), uint32(7), uint32(8)
	for _, own := range []bool{true, false} {
		c := newContainer(t)
		if own {
			ownDev(c)
		}
		c.mount("/vol", "bind", t.TempDir())
		must(t, os.Symlink("/real/place", c.root+"/link"))
		c.spec.Linux.Devices = []specs.LinuxDevice{
			{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode, UID: &uid, GID: &gid},
			{Path: "/dev/sub/dir/loop", Type: "b", Major: 7, Minor: 1},
			{Path: "/dev/shm/fifo", Type: "p", FileMode: &mode},
			{Path: "/devices/u", Type: "u", Major: 1, Minor: 5, UID: &uid},
			{Path: "/link/z", Type: "c", Major: 1, Minor: 5},
			{Path: "/vol/n", Type: "c", Major: 1, Minor: 3},
			{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, GID: &gid},
		}
		c.want(showDevices+"/dev/fuse /dev/sub/dir/loop /dev/shm/fifo /devices/u /real/place/z /vol/n /dev/null",
			"/dev/fuse character special file a:e5 640 7:8\n/dev/sub/dir/loop block special file 7:1 666 0:0\n/dev/shm/fifo fifo 0:0 640 0:0\n"+
				"/devices/u character special file 1:5 666 7:0\n/real/place/z character special file 1:5 666 0:0\n/vol/n character special file 1:3 666 0:0\n"+
				"/dev/null character special file 1:3 666 0:8")
	}
	c := newContainer(t)
	must(t, os.WriteFile(c.root+"/there", []byte("x"), 0o644))
	c.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/there", Type: "c", Major: 1, Minor: 3}}
	c.refused("linux.devices: /there", "another file")
	c = newContainer(t)
	must(t, unix.Mknod(c.root+"/same", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	c.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/same", Type: "c", Major: 1, Minor: 3}}
	c.want("stat -c %a /same", "600")
	c = newContainer(t)
	must(t, unix.Mknod(c.root+"/other", unix.S_IFBLK|0o600, int(unix.Mkdev(1, 3))))
	c.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/other", Type: "c", Major: 1, Minor: 3}}
	c.refused("linux.devices: /other", "another file")
}

// TestConsolePlace: a terminal covers /dev/console whatever /dev is, but no link.
func TestConsolePlace(t *testing.T) {
	for _, own := range []bool{true, false} {
		c := newContainer(t)
		if own {
			ownDev(c)
		} else {
			c.mount("/dev/pts", "devpts", "devpts", "newinstance", "ptmxmode=0666")
		}
		c.spec.Process.Terminal = true
		out := terminalOutput(c, "stat -c '%F %t' /dev/console; test -t 0 && echo terminal")
		if !strings.Contains(out, "character special file 88") || !strings.Contains(out, "terminal") {
			t.Errorf("own /dev %v: %q", own, out)
		}
	}
	c := newContainer(t)
	c.mount("/dev/pts", "devpts", "devpts")
	c.spec.Process.Terminal = true
	must(t, os.Mkdir(c.root+"/dev", 0o755), os.Symlink("/bin/busybox", c.root+"/dev/console"))
	c.refused("/dev/console is a link")
}

// terminalOutput runs a script on a terminal.
func terminalOutput(c *container, script string) string {
	c.Helper()
	c.spec.Process.Args = []string{"/bin/sh", "-c", script}
	made, err := Create(c.req)
	if err != nil {
		c.Fatal(err)
	}
	defer made.Cgroup.Remove()
	defer made.Console.Close()
	if err := made.Start(); err != nil {
		made.Reap()
		c.Fatal(err)
	}
	var out strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := made.Console.Read(buf) // EIO when nobody has the other end any more
		out.Write(buf[:n])
		if err != nil {
			break
		}
	}
	if _, err := made.Reap(); err != nil {
		c.Error(err)
	}
	return out.String()
}

// withoutMknod runs f on a thread in a mount namespace of its own that may not make device nodes, like one in a user namespace.
func withoutMknod(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
				return err
			}
			h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var d [2]unix.CapUserData
			if err := unix.Capget(&h, &d[0]); err != nil {
				return err
			}
			d[0].Effective &^= 1 << unix.CAP_MKNOD
			if err := unix.Capset(&h, &d[0]); err != nil {
				return err
			}
			f()
			return nil
		}()
	}()
	must(t, <-done)
}

// TestBoundNodes: where mknod is not permitted, the host's devices are shown instead, and only those that are what is asked for.
func TestBoundNodes(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("/", dir+"/outside"))
	withoutMknod(t, func() {
		root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		s := validSpec()
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/full", Type: "c", Major: 1, Minor: 7}, {Path: "/dev/q", Type: "p"}}
		b := &builder{spec: s, root: root, null: -1, dev: -1, devpts: -1, proc: -1, host: -1, mask: -1, devMount: -1}
		defer b.close()
		fd, err := mount.New("tmpfs", "tmpfs", nil, 0)
		must(t, err, b.furnishDev(fd))
		at, err := mount.MkdirAllInRoot(root, "/dev", 0o755)
		must(t, err, mount.Attach(fd, at), b.bindPending())
		for name, rdev := range map[string]uint64{"null": unix.Mkdev(1, 3), "full": unix.Mkdev(1, 7), "tty": unix.Mkdev(5, 0)} {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, "dev", name), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != rdev {
				t.Errorf("%s: mode %o number %#x, %v", name, st.Mode, st.Rdev, err)
			}
		}
		if !b.bindNodes || !isNull(b.null) {
			t.Errorf("bound: %v; null device: %v", b.bindNodes, isNull(b.null))
		}
		null, err := b.nullDevice()
		masked := openPath(t, dir+"/dev/full")
		must(t, err, os.WriteFile(dir+"/secret", []byte("x"), 0o600), b.hide(openPath(t, dir+"/secret")), b.hide(masked))
		if !isNull(openPath(t, dir+"/secret")) || !isNull(openPath(t, dir+"/dev/full")) || null != b.null {
			t.Error("a mask is not the null device")
		}
		for _, d := range []specs.LinuxDevice{{Path: "/dev/zero", Type: "c", Major: 1, Minor: 3}, {Path: "/dev/no-such-device", Type: "c", Major: 1, Minor: 3}, {Path: "/dev/zero", Type: "b", Major: 1, Minor: 5}} {
			if err := b.makeDevice(root, &d); err == nil || !strings.Contains(err.Error(), "mknod is not permitted") {
				t.Errorf("%+v: %v", d, err)
			}
		}
	})
}
