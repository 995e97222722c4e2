package oci

import (
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
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

// defaultLinks are its symbolic links.
var defaultLinks = [...][2]string{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
	{"pts/ptmx", "ptmx"}, {"/proc/kcore", "core"},
}

// furnishDev fills a new /dev while it is still detached, so that nothing in the image can be in the way.
func (b *builder) furnishDev(dev int) error {
	for _, d := range &defaultDevices {
		if err := mknod(dev, d.name, unix.S_IFCHR|0o666, d.major, d.minor); err != nil {
			return err
		}
	}
	for i := range b.spec.Linux.Devices {
		if err := makeDevice(dev, &b.spec.Linux.Devices[i]); err != nil {
			return err
		}
	}
	for _, l := range &defaultLinks {
		if err := unix.Symlinkat(l[0], dev, l[1]); err != nil && err != unix.EEXIST { // one of linux.devices may stand there
			return &os.PathError{Op: "symlink", Path: "/dev/" + l[1], Err: err}
		}
	}
	for _, m := range b.spec.Mounts { // the folders that the spec will mount on, without a search for each
		if rest, ok := strings.CutPrefix(m.Destination, "/dev/"); ok && !strings.Contains(rest, "/") && m.Type != "bind" {
			if err := unix.Mkdirat(dev, rest, 0o755); err != nil && err != unix.EEXIST {
				return &os.PathError{Op: "mkdir", Path: m.Destination, Err: err}
			}
		}
	}
	if b.spec.Process.Terminal {
		f, err := unix.Openat(dev, "console", unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o666)
		if err != nil {
			return &os.PathError{Op: "create", Path: "/dev/console", Err: err}
		}
		unix.Close(f)
	}
	null, err := unix.Openat(dev, "null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	b.null = null
	return nil
}

func mknod(dev int, name string, mode, major, minor uint32) error {
	if err := unix.Mknodat(dev, name, mode, int(unix.Mkdev(major, minor))); err != nil {
		return &os.PathError{Op: "mknod", Path: "/dev/" + name, Err: err}
	}
	return nil
}

// makeDevice makes one of linux.devices below the detached /dev.
func makeDevice(dev int, d *specs.LinuxDevice) error {
	name, ok := strings.CutPrefix(path.Clean(d.Path), "/dev/")
	if !ok {
		return api.Errorf(api.InvalidArgument, "device %s: only devices below /dev can be made", d.Path)
	}
	var kind uint32
	switch d.Type {
	case "c", "u":
		kind = unix.S_IFCHR
	case "b":
		kind = unix.S_IFBLK
	case "p":
		kind = unix.S_IFIFO
	default:
		return api.Errorf(api.InvalidArgument, "device %s: unknown type %q", d.Path, d.Type)
	}
	perm := uint32(0o666)
	if d.FileMode != nil {
		perm = uint32(d.FileMode.Perm())
	}
	at := dev
	if dir := path.Dir(name); dir != "." {
		fd, err := mount.MkdirAllInRoot(dev, dir, 0o755)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		at = fd
	}
	err := unix.Mknodat(at, path.Base(name), kind|perm, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor))))
	if err == unix.EEXIST { // one of the default devices, listed again
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "mknod", Path: d.Path, Err: err}
	}
	if d.UID != nil || d.GID != nil {
		uid, gid := -1, -1
		if d.UID != nil {
			uid = int(*d.UID)
		}
		if d.GID != nil {
			gid = int(*d.GID)
		}
		if err := unix.Fchownat(at, path.Base(name), uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "chown", Path: d.Path, Err: err}
		}
	}
	return nil
}

// openConsole makes a pseudo-terminal in the container's own devpts; for a container's first process it is also /dev/console.
func (b *builder) openConsole() (master, slave *os.File, err error) {
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
	if b.dev < 0 {
		return master, slave, nil
	}
	at, err := unix.Openat(b.dev, "console", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(at)
	fd, err := mount.Clone(int(slave.Fd()), "", false)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(fd)
	return master, slave, mount.Attach(fd, at)
}
