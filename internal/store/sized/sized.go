// Package sized makes folders that hold so much and no more, on any file system: each is an ext4 of its own in a sparse file, attached as a loop device and mounted at
// the folder. A full one is full for whoever writes into it and nobody else; the room that its files free goes back to the disk.
//
// The file is the truth. It is mounted when it is first used, in the mount namespace of who uses it, and stays mounted until it is removed, [Detach]ed, or the machine
// ends; a process may die at any instruction, for the mount is one system call, the device frees itself, and ext4 has a journal. However many namespaces mount it,
// it has one device and so one file system in the kernel.
package sized

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/base/rootless"
	"brig/internal/kernel/loop"
	"brig/internal/kernel/mount"
)

const (
	// Min and Max are the sizes that a folder can have, in bytes: below that there is little beside ext4's own tables, above it ext4 cannot be.
	Min = 4 << 20
	Max = 16 << 40
	// options of the file system: what is removed is removed from the file; one that finds itself damaged stops.
	options = "discard,errors=remount-ro"
)

// Check refuses a size that cannot be had, and a machine on which none can.
func Check(size int64) error {
	switch {
	case rootless.Active():
		return api.Errorf(api.Unsupported, "a size limit takes a file system of its own, which the kernel mounts for root only: leave the size out, or run as root")
	case size < Min || size > Max:
		return api.Errorf(api.InvalidArgument, "a size of %d bytes: it must be 4 MiB to 16 TiB", size)
	}
	if _, err := mkfs(); err != nil {
		return err
	}
	return nil
}

func mkfs() (string, error) {
	for _, path := range []string{"/sbin/mkfs.ext4", "/usr/sbin/mkfs.ext4"} {
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	if path, err := exec.LookPath("mkfs.ext4"); err == nil {
		return path, nil
	}
	return "", api.Errorf(api.Unsupported, "a size limit needs mkfs.ext4, which is not there: install Debian's package e2fsprogs")
}

// Make makes the file of a folder of size bytes. A file that is there is whole and stays; one that a process left which died on the way is made anew. The folder is empty.
func Make(image string, size int64, sync atomicfile.Sync) error {
	if err := Check(size); err != nil {
		return err
	}
	if _, err := os.Lstat(image); err == nil {
		return nil
	}
	program, err := mkfs()
	if err != nil {
		return err
	}
	draft := image + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, os.ErrNotExist) { // the mkfs.ext4 of who was killed may still write to it
		return err
	}
	f, err := os.OpenFile(draft, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	// The tables are zeros in a sparse file: nothing to write. All of the room is the user's (-m 0), and the root has nothing in it but lost+found.
	cmd := exec.Command(program, "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil {
		os.Remove(draft)
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	if err := removeLostFound(f); err != nil {
		os.Remove(draft)
		return err
	}
	if sync == atomicfile.Durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := os.Rename(draft, image); err != nil {
		return err
	}
	if sync == atomicfile.Durable {
		return atomicfile.SyncDir(filepath.Dir(image))
	}
	return nil
}

// removeLostFound makes the root empty, as that of a new folder is. The mount is nobody else's.
func removeLostFound(f *os.File) error {
	fd, err := open(f)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(dir)
	if err := unix.Unlinkat(dir, "lost+found", unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "rmdir", Path: "lost+found", Err: err}
	}
	return nil
}

// open makes a detached mount of a file's file system.
func open(f *os.File) (int, error) {
	dev, err := loop.Attach(f)
	if err != nil {
		return -1, err
	}
	defer dev.Close() // the mount keeps it
	fd, err := mount.New("ext4", dev.Name(), strings.Split(options, ","), 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return fd, nil
}

// Attach mounts a folder's file at it, unless it is.
func Attach(image, at string) error {
	if mounted(at) {
		return nil
	}
	l, err := lock.Take(image + ".lock") // not of the file itself: the device has it open, and would keep the lock
	if err != nil {
		return err
	}
	defer l.Release()
	if mounted(at) {
		return nil
	}
	f, err := os.OpenFile(image, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return api.Errorf(api.Corrupt, "%s is no file", image)
	}
	if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	fd, err := open(f)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	place, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: at, Err: err}
	}
	defer unix.Close(place)
	return mount.Attach(fd, place)
}

// mounted reports whether something is mounted at a folder.
func mounted(at string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, at, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// Detach takes a folder's mount away; who has files open there goes on.
func Detach(at string) error {
	for mounted(at) {
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return &os.PathError{Op: "umount", Path: at, Err: err}
		}
	}
	return nil
}

// ext4ResizeFS is EXT4_IOC_RESIZE_FS of linux/ext4.h: _IOW('f', 16, __u64).
const ext4ResizeFS = 0x40086610

// Grow makes a folder that is mounted hold size bytes. What is reported done is on the disk.
func Grow(image, at string, size int64) error {
	f, err := os.OpenFile(image, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if size < st.Size() {
		return api.Errorf(api.Unsupported, "it holds %d bytes: it can become larger only: make another and copy", st.Size())
	}
	if err := Check(size); err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil { // who dies from here on does it again: the file may be larger than what is in it
		return err
	}
	dev, err := loop.Attach(f)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := loop.Resized(dev); err != nil {
		return err
	}
	dir, err := os.Open(at)
	if err != nil {
		return err
	}
	defer dir.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	blocks := uint64(size) / uint64(fs.Bsize)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ext4ResizeFS, uintptr(unsafe.Pointer(&blocks))); e != 0 {
		_ = f.Truncate(st.Size()) // nothing is there yet
		_ = loop.Resized(dev)
		if e == unix.EPERM {
			return api.Errorf(api.Unsupported, "growing to %d bytes: %w: ext4 grows for who has CAP_SYS_RESOURCE", size, e)
		}
		return fmt.Errorf("growing to %d bytes: %w", size, e)
	}
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	return f.Sync()
}
