// Package mount is the file-descriptor mount API of Linux 5.2 and later: a file system or a copy of a tree is made detached, off to the side,
// given its attributes there, and then attached at a place that is itself an open descriptor. No path is looked up twice, so a place
// cannot be exchanged for another between its check and its use.
package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"brig/internal/base/weak"
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
	if err := configure(fs, fstype, opts); err != nil {
		return -1, err
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

// configure sets the options of a file system context one by one.
func configure(fs int, fstype string, opts []string) (err error) {
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
			return fsError(fs, fstype, "option "+o, err)
		}
	}
	return nil
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
	if weak.Links {
		return unix.Openat(root, "./"+name, flags|unix.O_CLOEXEC, mode)
	}
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

// maxLinks is how many dangling links are followed for one name: path_resolution(7) has the same limit.
const maxLinks = 40

// MkdirAllInRoot makes name a folder below root, parents too, and returns it as an O_PATH descriptor. Links are followed inside root only;
// what a dangling link names is made inside root as well.
func MkdirAllInRoot(root int, name string, mode uint32) (int, error) {
	return makeInRoot(root, name, true, mode, maxLinks)
}

// MkfileInRoot makes name an empty file below root unless something is there, and returns it as an O_PATH descriptor: the target of a bind mount of a file.
func MkfileInRoot(root int, name string, mode uint32) (int, error) {
	return makeInRoot(root, name, false, mode, maxLinks)
}

func makeInRoot(root int, name string, dir bool, mode uint32, links int) (int, error) {
	flags := unix.O_PATH
	if dir {
		flags |= unix.O_DIRECTORY
	}
	fd, err := OpenInRoot(root, name, flags, 0)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	// Not path.Dir: a link before ".." must be resolved by the kernel, not by the look of the name.
	trimmed := strings.TrimRight(name, "/")
	cut := strings.LastIndexByte(trimmed, '/') + 1
	above, base := trimmed[:cut], trimmed[cut:]
	if base == "" {
		return -1, err // the root itself is gone
	}
	parentMode := uint32(0o755)
	if dir {
		parentMode = mode
	}
	parent, err := makeInRoot(root, above, true, parentMode, links)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if base == "." || base == ".." {
		return OpenInRoot(root, name, flags, 0)
	}
	var buf [unix.PathMax]byte
	if n, err := unix.Readlinkat(parent, base, buf[:]); err == nil {
		if links == 0 {
			return -1, &os.PathError{Op: "open", Path: name, Err: unix.ELOOP}
		}
		to := string(buf[:n])
		if !strings.HasPrefix(to, "/") {
			to = above + to
		}
		return makeInRoot(root, to, dir, mode, links-1)
	}
	if dir {
		err = unix.Mkdirat(parent, base, mode)
	} else if fd, err = unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_RDONLY|unix.O_CLOEXEC, mode); err == nil {
		unix.Close(fd)
	}
	if err != nil && err != unix.EEXIST {
		return -1, &os.PathError{Op: "create", Path: name, Err: err}
	}
	// What has been made, and not what a link that took its place since leads to.
	if fd, err = unix.Openat(parent, base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// IDMap makes a detached mount show file owners through the mappings of a user namespace, and all mounts below it too when recursive
// (Linux 5.12). A refusal names the file system, which must support it.
func IDMap(fd, userns int, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)})
	switch err {
	case nil:
		return nil
	case unix.EINVAL:
		return fmt.Errorf("ID-mapped mount: %w: file system %s, or one mounted below it, does not support that on this kernel", err, FSName(fd))
	case unix.EPERM:
		return fmt.Errorf("ID-mapped mount: %w: the source is mapped already, or lies on a file system (%s) of a user namespace that Brig has no power over", err, FSName(fd))
	case unix.ENOSYS:
		return fmt.Errorf("ID-mapped mount: %w: they came with Linux 5.12", err)
	}
	return fmt.Errorf("ID-mapped mount: %w", os.NewSyscallError("mount_setattr", err))
}

// FSName is the name of the file system that a descriptor lies on, by its number in linux/magic.h; a number for those not known here.
func FSName(fd int) string {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return "unknown"
	}
	switch uint32(st.Type) {
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.CGROUP_SUPER_MAGIC:
		return "cgroup"
	case unix.CGROUP2_SUPER_MAGIC:
		return "cgroup2"
	case unix.DEVPTS_SUPER_MAGIC:
		return "devpts"
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.FUSE_SUPER_MAGIC:
		return "fuse"
	case unix.NFS_SUPER_MAGIC:
		return "nfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay"
	case unix.PROC_SUPER_MAGIC:
		return "proc"
	case unix.RAMFS_MAGIC:
		return "ramfs"
	case unix.SQUASHFS_MAGIC:
		return "squashfs"
	case unix.SYSFS_MAGIC:
		return "sysfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	}
	return fmt.Sprintf("%#x", uint32(st.Type))
}

// Reconfigure changes options of the file system that is mounted at fd (fspick(2)), for everybody who sees it.
func Reconfigure(fd int, opts []string) error {
	fs, err := unix.Fspick(fd, "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fspick", err)
	}
	defer unix.Close(fs)
	if err := configure(fs, FSName(fd), opts); err != nil {
		return err
	}
	if err := unix.FsconfigReconfigure(fs); err != nil {
		return fsError(fs, FSName(fd), "remount", err)
	}
	return nil
}
