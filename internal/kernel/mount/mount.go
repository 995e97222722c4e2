// Package mount is the file-descriptor mount API of Linux 5.2 and later: a file system or a copy of a tree is made detached, off to the side,
// given its attributes there, and then attached at a place that is itself an open descriptor. No path is looked up twice, so a place
// cannot be exchanged for another between its check and its use.
package mount

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// New makes a detached mount of a new file system: fsopen(2), fsconfig(2), fsmount(2). opts are the file system's own options, key or key=value;
// attr is of MOUNT_ATTR_*. The kernel's own words about a refused option are part of the error.
func New(fstype, source string, opts []string, attr int) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		if err == unix.ENODEV {
			return -1, fmt.Errorf("file system %s: this kernel does not have it", fstype)
		}
		return -1, fmt.Errorf("file system %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return -1, fsError(fs, fstype, "source="+source, err)
		}
	}
	for _, o := range opts {
		if o == "" {
			continue
		}
		key, value, ok := strings.Cut(o, "=")
		if ok {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return -1, fsError(fs, fstype, "option "+o, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fsError(fs, fstype, "create", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return -1, fsError(fs, fstype, "mount", err)
	}
	return fd, nil
}

// fsError adds what the kernel logged for this file system context.
func fsError(fs int, fstype, what string, err error) error {
	var words []string
	buf := make([]byte, 1024)
	for range 8 {
		n, rerr := unix.Read(fs, buf)
		if rerr != nil || n <= 0 {
			break
		}
		words = append(words, strings.TrimSpace(string(buf[:n])))
	}
	if len(words) > 0 {
		return fmt.Errorf("file system %s: %s: %w (%s)", fstype, what, err, strings.Join(words, "; "))
	}
	return fmt.Errorf("file system %s: %s: %w", fstype, what, err)
}

// Clone makes a detached copy of the mount at path below dirfd: the first half of a bind mount.
func Clone(dirfd int, path string, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	fd, err := unix.OpenTree(dirfd, path, flags)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return fd, nil
}

// Attach moves a detached mount onto the place that target, an open descriptor, stands for.
func Attach(fd, target int) error {
	err := unix.MoveMount(fd, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	return nil
}

// SetAttr sets and clears MOUNT_ATTR_* flags of a mount, and of all below it when recursive; propagation is 0 or one of MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE.
func SetAttr(fd int, recursive bool, set, clr, propagation uint64) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: set, Attr_clr: clr, Propagation: propagation}
	if err := unix.MountSetattr(fd, "", flags, &attr); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	return nil
}

// OpenInRoot opens name with root as its root directory: symbolic links and dots cannot leave it, magic links are refused.
func OpenInRoot(root int, name string, flags int, mode uint32) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if name == "" {
		name = "."
	}
	for {
		fd, err := unix.Openat2(root, name, &how)
		if err == unix.EAGAIN || err == unix.EINTR { // a rename raced with the walk: openat2(2)
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, nil
	}
}

// MkdirAllInRoot makes name a folder below root, parents too, and returns it as an O_PATH descriptor. Links are followed inside root only.
func MkdirAllInRoot(root int, name string, mode uint32) (int, error) {
	fd, err := OpenInRoot(root, name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	parent, err := parentInRoot(root, name, mode)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, path.Base(name), mode); err != nil && err != unix.EEXIST {
		return -1, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err = OpenInRoot(root, name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, fmt.Errorf("%w (a dangling link is in the way)", err)
	}
	return fd, nil
}

// MkfileInRoot makes name an empty file below root unless something is there, and returns it as an O_PATH descriptor: the target of a bind mount of a file.
func MkfileInRoot(root int, name string, mode uint32) (int, error) {
	fd, err := OpenInRoot(root, name, unix.O_PATH, 0)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	parent, err := parentInRoot(root, name, 0o755)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	f, err := unix.Openat(parent, path.Base(name), unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_RDONLY|unix.O_CLOEXEC, mode)
	if err != nil {
		return -1, &os.PathError{Op: "create", Path: name, Err: err}
	}
	unix.Close(f)
	return OpenInRoot(root, name, unix.O_PATH, 0)
}

func parentInRoot(root int, name string, mode uint32) (int, error) {
	dir := path.Dir(path.Clean("/" + name))
	return MkdirAllInRoot(root, dir, mode)
}
