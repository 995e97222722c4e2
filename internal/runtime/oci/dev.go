package oci

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/pty"
)

// defaultDevices are what the OCI runtime specification ("Default Devices") puts into every /dev.
var defaultDevices = [...]struct {
	path         string
	major, minor uint32
}{
	{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7}, {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},
}

// defaultLinks are its symbolic links.
var defaultLinks = [...][2]string{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
	{"pts/ptmx", "ptmx"}, {kcore, "core"},
}

// kcore is linked to only where the kernel has it.
const kcore = "/proc/kcore"

// isBind reports whether a mount shows a tree that exists already.
func isBind(m *specs.Mount) bool {
	if m.Type == "bind" {
		return true
	}
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

// planDev finds out what /dev will be: a tmpfs that can be furnished before it is attached, as in almost every container; a tree that
// is bound, in which nothing is made, as in runc; or what else is there, in which devices are made after all mounts.
func (b *builder) planDev() {
	b.devMount = -1
	for i := range b.spec.Mounts {
		m := &b.spec.Mounts[i]
		if destination(m) != "/dev" {
			continue
		}
		if opts := parseOptions(m); opts.remount || opts.beneath != "" {
			continue
		}
		b.devMount = -1
		if isBind(m) {
			b.devBound = true
		} else if m.Type == "tmpfs" {
			b.devMount = i
		}
	}
	if b.devBound {
		b.devMount = -1
	}
}

// furnishDev fills a new /dev while it is still detached, so that nothing in the image can be in the way.
func (b *builder) furnishDev(dev int) error {
	b.dev = dev
	if err := b.furnish(false); err != nil {
		return err
	}
	for i := range b.spec.Mounts { // the folders that the spec will mount on, without a search for each
		m := &b.spec.Mounts[i]
		if rest, ok := strings.CutPrefix(destination(m), "/dev/"); ok && !strings.Contains(rest, "/") && !isBind(m) {
			if err := unix.Mkdirat(dev, rest, 0o755); err != nil && err != unix.EEXIST {
				return &os.PathError{Op: "mkdir", Path: m.Destination, Err: err}
			}
		}
	}
	return nil
}

// devices makes what furnishDev could not: all of /dev where that is no file system of its own, and devices that lie elsewhere or on
// another mount.
func (b *builder) devices() error {
	if b.devMount < 0 && !b.devBound {
		at, err := mount.MkdirAllInRoot(b.root, "/dev", 0o755)
		if err != nil {
			return err
		}
		unix.Close(at)
		if b.dev, err = b.openUnfollowed("/dev"); err != nil {
			return err
		}
		b.held = append(b.held, b.dev)
		if err := b.furnish(true); err != nil {
			return err
		}
	}
	for i := range b.spec.Linux.Devices {
		d := &b.spec.Linux.Devices[i]
		p := path.Clean(d.Path)
		if !b.elsewhere(p) || b.devBound && strings.HasPrefix(p, "/dev/") {
			continue
		}
		at, err := mount.MkdirAllInRoot(b.root, path.Dir(p), 0o755)
		if err == nil {
			err = b.makeDevice(at, d)
			unix.Close(at)
		}
		if err != nil {
			return fmt.Errorf("linux.devices: %s: %w", d.Path, err)
		}
	}
	return b.bindPending()
}

// elsewhere reports whether a device's cleaned path does not lie on the file system of /dev itself.
func (b *builder) elsewhere(p string) bool {
	if !strings.HasPrefix(p, "/dev/") {
		return true
	}
	for i := range b.spec.Mounts {
		if d := destination(&b.spec.Mounts[i]); d != "/dev" && strings.HasPrefix(p, d+"/") {
			return true
		}
	}
	return false
}

// furnish makes devices and links in b.dev. Where that is a folder of the root, it may hold them already.
func (b *builder) furnish(old bool) error {
	for i := range b.spec.Linux.Devices {
		d := &b.spec.Linux.Devices[i]
		rest, p := "", path.Clean(d.Path)
		if b.elsewhere(p) {
			continue
		}
		rest = strings.TrimPrefix(p, "/dev/")
		at := b.dev
		if dir := path.Dir(rest); dir != "." {
			fd, err := mount.MkdirAllInRoot(b.dev, dir, 0o755)
			if err != nil {
				return fmt.Errorf("linux.devices: %s: %w", d.Path, err)
			}
			at = fd
		}
		err := b.makeDevice(at, d)
		if at != b.dev {
			unix.Close(at)
		}
		if err != nil {
			return fmt.Errorf("linux.devices: %s: %w", d.Path, err)
		}
	}
	for i := range defaultDevices {
		d := &defaultDevices[i]
		if b.listed(d.path) {
			continue
		}
		if _, err := b.node(b.dev, d.path, unix.S_IFCHR|0o666, unix.Mkdev(d.major, d.minor)); err != nil {
			return fmt.Errorf("device %s: %w", d.path, err)
		}
	}
	if old {
		if err := dropPtmx(b.dev); err != nil {
			return err
		}
	}
	for _, l := range &defaultLinks {
		if l[0] == kcore && unix.Access(kcore, unix.F_OK) != nil {
			continue
		}
		if err := unix.Symlinkat(l[0], b.dev, l[1]); err != nil && err != unix.EEXIST { // one of linux.devices may stand there
			return &os.PathError{Op: "symlink", Path: "/dev/" + l[1], Err: err}
		}
	}
	if b.spec.Process.Terminal {
		f, err := unix.Openat(b.dev, "console", unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o666)
		if err == nil {
			unix.Close(f)
		} else if err != unix.EEXIST {
			return &os.PathError{Op: "create", Path: "/dev/console", Err: err}
		}
	}
	if b.null >= 0 {
		return nil
	}
	null, err := unix.Openat(b.dev, "null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	if !isNull(null) { // linux.devices may put anything there, or it is a placeholder still
		return unix.Close(null)
	}
	b.null = null
	return nil
}

// listed reports whether linux.devices says what is to be at a default device's path.
func (b *builder) listed(p string) bool {
	for i := range b.spec.Linux.Devices {
		if path.Clean(b.spec.Linux.Devices[i].Path) == p {
			return true
		}
	}
	return false
}

// dropPtmx removes a /dev/ptmx that an image brings, which would open terminals of the host, or none; runc does that too.
func dropPtmx(dev int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dev, "ptmx", &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil //nolint:nilerr // there is none to drop
	}
	if err := unix.Unlinkat(dev, "ptmx", 0); err != nil {
		return &os.PathError{Op: "remove", Path: "/dev/ptmx", Err: err}
	}
	return nil
}

// isNull reports whether a descriptor is the null device, by its number: what hides a path must be nothing else (CVE-2025-31133).
func isNull(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// nullDevice is the null device to hide files with: the container's own, or the host's where it has none.
func (b *builder) nullDevice() (int, error) {
	if b.null >= 0 {
		return b.null, nil
	}
	fd, err := mount.Clone(unix.AT_FDCWD, "/dev/null", false)
	if err != nil {
		return -1, err
	}
	if !isNull(fd) {
		unix.Close(fd)
		return -1, api.Errorf(api.Unsupported, "/dev/null of the host is not the null device")
	}
	b.null = fd
	return fd, nil
}

// openConsole makes a pseudo-terminal in the container's own devpts; for a container's first process it is also /dev/console.
func (b *builder) openConsole() (master, slave *os.File, err error) {
	if b.devpts < 0 { // a bound /dev may have one
		fd, err := mount.OpenInRoot(b.root, "/dev/pts", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err == nil {
			b.held = append(b.held, fd)
			var st unix.Statfs_t
			if err := unix.Fstatfs(fd, &st); err == nil && st.Type == devptsMagic {
				b.devpts = fd
			}
		}
	}
	if b.devpts < 0 {
		return nil, nil, api.Errorf(api.InvalidArgument, "config.json: process.terminal is set, but no devpts is mounted at /dev/pts")
	}
	master, slave, err = pty.Open(b.devpts)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			master.Close()
			slave.Close()
		}
	}()
	if c := b.spec.Process.ConsoleSize; c != nil {
		if err := pty.Resize(int(master.Fd()), uint16(c.Height), uint16(c.Width)); err != nil {
			return nil, nil, fmt.Errorf("pseudo-terminal: size: %w", err)
		}
	}
	at, err := b.consolePlace()
	if err != nil || at < 0 {
		return master, slave, err
	}
	defer unix.Close(at)
	fd, err := mount.Clone(int(slave.Fd()), "", false)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(fd)
	return master, slave, mount.Attach(fd, at)
}

// consolePlace opens what the terminal is mounted on; -1 where there is nothing, or where the mount would be seen outside: in a /dev that is bound,
// nothing is made. A link there is refused, since it would lead the mount astray (CVE-2025-52565).
func (b *builder) consolePlace() (int, error) {
	var at int
	var err error
	if b.dev >= 0 {
		at, err = unix.Openat(b.dev, "console", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	} else {
		if b.sharedWithHost() {
			return -1, nil
		}
		at, err = b.openUnfollowed("/dev/console")
		if errors.Is(err, unix.ENOENT) {
			return -1, nil
		}
	}
	if err != nil {
		return -1, fmt.Errorf("/dev/console: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		unix.Close(at)
		return -1, api.Errorf(api.InvalidArgument, "/dev/console is a link or a folder in the container's root: no terminal can be mounted on it")
	}
	return at, nil
}
