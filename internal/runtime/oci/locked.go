package oci

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/mount"
)

// lockedSource is the source of a bind mount that must stay read-only, whatever the container's root does to its mounts.
type lockedSource struct {
	index int // in mounts
	fd    int // detached
}

// locksMounts reports whether the container's root may change its mounts, so that what is read-only must be locked.
func locksMounts(s *specs.Spec) bool {
	return hasNamespace(s, specs.MountNamespace) && s.Process.Capabilities != nil && slices.Contains(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
}

// isLocked reports whether a bind mount is one of those.
func (b *builder) isLocked(m *specs.Mount) bool {
	opts := parseOptions(m)
	return opts.bind && (opts.set|opts.recSet)&unix.MOUNT_ATTR_RDONLY != 0 && !b.holdsOthers(destination(m))
}

// withLocked calls f, which forks the stage, on a thread whose working directory holds the sources, with their options: the kernel locks the flags of all mounts that are there when a
// mount namespace is copied for a user namespace (mount_namespaces(7)), as the stage's will be, and clones of them keep the locks.
// Where this process may not mount there is nothing to lock with.
func (o *order) withLocked(req *Request, locked []lockedSource, f func() error) error {
	if len(locked) == 0 {
		return f()
	}
	return onThread(func() error {
		defer closeLocked(locked)
		switch err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err {
		case nil:
		case unix.EPERM:
			return f()
		default:
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("mount propagation of /: %w", err)
		}
		if err := unix.Mount("tmpfs", req.MountPoint, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=64k,mode=711"); err != nil {
			return &os.PathError{Op: "mount", Path: req.MountPoint, Err: err}
		}
		if err := unix.Chdir(req.MountPoint); err != nil {
			return &os.PathError{Op: "chdir", Path: req.MountPoint, Err: err}
		}
		b := &builder{req: req, spec: req.Spec}
		for _, l := range locked {
			if err := b.attachLocked(l); err != nil {
				return fmt.Errorf("mount %s: %w", req.Spec.Mounts[l.index].Destination, err)
			}
			o.Locked = append(o.Locked, l.index)
		}
		return f()
	})
}

// attachLocked attaches a source in the working directory, at its index.
func (b *builder) attachLocked(l lockedSource) error {
	var st unix.Stat_t
	if err := unix.Fstat(l.fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	name, flags := strconv.Itoa(l.index), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := unix.Mkdir(name, 0o700); err != nil {
			return &os.PathError{Op: "mkdir", Path: name, Err: err}
		}
	} else {
		flags = unix.O_CREAT | unix.O_RDONLY | unix.O_CLOEXEC
	}
	at, err := unix.Open(name, flags, 0o600)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(at)
	if err := mount.Attach(l.fd, at); err != nil {
		return err
	}
	opts := parseOptions(&b.spec.Mounts[l.index])
	opts.propagation = 0 // with whom it is shared is a matter of the container's mount
	return b.attributes(l.fd, &opts)
}

// takeLocked clones the sources that the stage has found in its working directory: its mount namespace is its own by now, and the working directory that namespace's.
func (s *staging) takeLocked(spec *specs.Spec) error {
	for i := range s.locked {
		opts := parseOptions(&spec.Mounts[i])
		fd, err := mount.Clone(unix.AT_FDCWD, strconv.Itoa(i), opts.recBind)
		if err != nil {
			return fmt.Errorf("mount %s: %w", spec.Mounts[i].Destination, err)
		}
		s.locked[i] = fd
	}
	return nil
}

func closeLocked(locked []lockedSource) {
	for _, l := range locked {
		unix.Close(l.fd)
	}
}
