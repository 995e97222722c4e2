package extract

import (
	"archive/tar"
	"strings"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/store/overlay"

	"golang.org/x/sys/unix"
)

const (
	// xattrPrefix marks attributes in PAX records, an invention of star that all tars share.
	xattrPrefix = "SCHILY.xattr."
	maxID       = 1<<32 - 2 // -1 means "as it is" to chown(2)
)

// setByDescriptor sets owner, mode and attributes of an open file or folder: the mode after the owner, for chown(2) clears the
// set-user-ID bit, and the attributes last, for it clears capabilities too.
func setByDescriptor(fd int, hdr *tar.Header) error {
	if err := checkOwner(hdr); err != nil {
		return err
	}
	if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
		return ownerError(hdr, err)
	}
	if err := unix.Fchmod(fd, uint32(hdr.Mode)&0o7777); err != nil {
		return err
	}
	return eachAttribute(hdr, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
}

// setByName does the same, and the times, for what must not be opened: links, devices, FIFOs.
func setByName(at object, hdr *tar.Header) error {
	if err := checkOwner(hdr); err != nil {
		return err
	}
	fd, err := unix.Openat(at.dir, at.base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchownat(fd, "", hdr.Uid, hdr.Gid, unix.AT_EMPTY_PATH); err != nil {
		return ownerError(hdr, err)
	}
	if hdr.Typeflag != tar.TypeSymlink {
		if err := unix.Chmod(procPath(fd), uint32(hdr.Mode)&0o7777); err != nil {
			return err
		}
	}
	err = eachAttribute(hdr, func(name string, value []byte) error { return unix.Setxattr(procPath(fd), name, value, 0) })
	if err != nil {
		return err
	}
	return setTimes(at, timespec(hdr.ModTime))
}

// setTimes sets the time of modification, and of access, for which archives have no better value.
func setTimes(at object, mtime unix.Timespec) error {
	return unix.UtimesNanoAt(at.dir, at.base, []unix.Timespec{mtime, mtime}, unix.AT_SYMLINK_NOFOLLOW)
}

// setOpaque hides what lower layers have in a folder.
func setOpaque(dir int, base string) error {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsetxattr(fd, overlay.Opaque(), []byte("y"), 0)
}

// ownerError explains what the kernel says of an owner that the user namespace has no mapping for.
func ownerError(hdr *tar.Header, err error) error {
	if err != unix.EINVAL || !rootless.Active() {
		return err
	}
	return api.Errorf(api.Unsupported, "%q belongs to user %d and group %d, which this user namespace does not have: a normal user needs a range of ids that reaches there in "+
		"/etc/subuid and /etc/subgid (`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME`) and Debian's package uidmap; stop all containers afterwards", hdr.Name, hdr.Uid, hdr.Gid)
}

func checkOwner(hdr *tar.Header) error {
	if hdr.Uid < 0 || hdr.Uid > maxID || hdr.Gid < 0 || hdr.Gid > maxID {
		return corrupt(hdr.Name, "no file can have the owner %d:%d", hdr.Uid, hdr.Gid)
	}
	return nil
}

// eachAttribute calls set for the extended attributes that an entry may bring. A kind that the file system, or that kind of file, does
// not have is left out.
func eachAttribute(hdr *tar.Header, set func(name string, value []byte) error) error {
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok {
			continue
		}
		if overlay.Reserved(name) {
			return corrupt(hdr.Name, "the attribute %s is not for archives", name)
		}
		if strings.HasPrefix(name, "security.") && name != "security.capability" {
			continue
		}
		err := set(name, []byte(value))
		notHere := err == unix.ENOTSUP || err == unix.EPERM && strings.HasPrefix(name, "trusted.") && rootless.Active() ||
			err == unix.EPERM && strings.HasPrefix(name, "user.") && hdr.Typeflag != tar.TypeReg && hdr.Typeflag != tar.TypeDir
		if err == unix.ENOSPC || err == unix.EDQUOT {
			return err
		}
		if err != nil && !notHere {
			return corrupt(hdr.Name, "attribute %q: %w", name, err)
		}
	}
	return nil
}

// makeFolder makes a parent that the archive does not mention.
func makeFolder(dir int, base string) error {
	if err := unix.Mkdirat(dir, base, 0o755); err != nil {
		return err
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, 0o755) // whatever the umask
}
