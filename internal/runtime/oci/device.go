package oci

import (
	"os"
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/mount"
)

// boundNode is a device of the host's that takes the place of one that may not be made.
type boundNode struct {
	at, node int // placeholder, detached mount of the host's device
}

// deviceKind is the file type of a device of the specification; 0 for one that it does not know.
func deviceKind(t string) uint32 {
	switch t {
	case "c", "u":
		return unix.S_IFCHR
	case "b":
		return unix.S_IFBLK
	case "p":
		return unix.S_IFIFO
	}
	return 0
}

// makeDevice makes one of linux.devices in the folder at. One that exists already and is the same stays as it is.
func (b *builder) makeDevice(at int, d *specs.LinuxDevice) error {
	mode := deviceKind(d.Type)
	perm := uint32(0o666)
	if d.FileMode != nil {
		perm = uint32(*d.FileMode) & 0o7777
	}
	var rdev uint64
	if mode != unix.S_IFIFO {
		rdev = unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	}
	fresh, err := b.node(at, path.Clean(d.Path), mode|perm, rdev)
	if err != nil || !fresh || d.UID == nil && d.GID == nil {
		return err
	}
	uid, gid := -1, -1
	if d.UID != nil {
		uid = int(*d.UID)
	}
	if d.GID != nil {
		gid = int(*d.GID)
	}
	if err := unix.Fchownat(at, path.Base(d.Path), uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("chown", err)
	}
	return nil
}

// node makes a device node, whose path in the container is full, in the folder at, and reports whether it is new. Where mknod(2) is not allowed, as in a user
// namespace, the host's node of the same path is bound in its place once the folder is attached: then it has the host's mode and owner, which
// no user namespace can change.
func (b *builder) node(at int, full string, mode uint32, rdev uint64) (fresh bool, err error) {
	name := path.Base(full)
	if !b.bindNodes || mode&unix.S_IFMT == unix.S_IFIFO {
		err := unix.Mknodat(at, name, mode, int(rdev))
		switch {
		case err == nil:
			return true, nil
		case err == unix.EEXIST:
			return false, sameNode(at, name, mode, rdev)
		case err != unix.EPERM || mode&unix.S_IFMT == unix.S_IFIFO:
			return false, os.NewSyscallError("mknod", err)
		}
		b.bindNodes = true
	}
	src, err := mount.Clone(unix.AT_FDCWD, full, false)
	if err != nil {
		return false, api.Errorf(api.InvalidArgument, "it may not be made here (mknod is not permitted), and the host's cannot be shown instead: %w", err)
	}
	b.held = append(b.held, src)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != mode&unix.S_IFMT || st.Rdev != rdev {
		return false, api.Errorf(api.InvalidArgument, "it may not be made here (mknod is not permitted), and what the host has at that path is another file")
	}
	f, err := unix.Openat(at, name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o666)
	if err == nil {
		unix.Close(f)
	} else if err != unix.EEXIST {
		return false, &os.PathError{Op: "create", Path: full, Err: err}
	}
	place, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: full, Err: err}
	}
	b.held = append(b.held, place)
	if err := unix.Fstat(place, &st); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 { // a container before this one may have left its placeholder
		return false, sameNode(at, name, mode, rdev)
	}
	b.nodes = append(b.nodes, boundNode{place, src})
	if full == "/dev/null" && b.null < 0 && isNull(src) {
		if b.null, err = unix.FcntlInt(uintptr(src), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return false, err
		}
	}
	return false, nil
}

// bindPending binds the host's devices on their placeholders, which only works once these are attached (before Linux 6.15).
func (b *builder) bindPending() error {
	for _, n := range b.nodes {
		if err := mount.Attach(n.node, n.at); err != nil {
			return err
		}
	}
	b.nodes = nil
	return nil
}

// sameNode refuses what exists unless it is the device that is asked for.
func sameNode(at int, name string, mode uint32, rdev uint64) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	if st.Mode&unix.S_IFMT != mode&unix.S_IFMT || mode&unix.S_IFMT != unix.S_IFIFO && st.Rdev != rdev {
		return api.Errorf(api.InvalidArgument, "there is another file at that path in the container's root already: remove it, or list the device elsewhere")
	}
	return nil
}
