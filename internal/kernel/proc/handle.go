package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"brig/internal/base/weak"
)

// Who can mount on the host, or made the namespaces that this program runs in, may have put something over /proc or over files in it, to have what is
// written there written somewhere else (CVE-2019-16884, CVE-2025-52881). So nothing is written to a path below /proc. A handle is taken on
// a file system that has been looked at, names are resolved from it without leaving it, and what has something mounted over it is
// reached through a procfs of the caller's own, detached, over which nobody can mount.

// Resolve is how a name in procfs is looked up (openat2(2)): what is mounted over a file of it is not followed, nor links of any kind out of it.
const Resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS

// rootIno is PROC_ROOT_INO of linux/proc_fs.h.
const rootIno = 1

// Open returns a descriptor of the procfs of this PID namespace, for Write: that at /proc when it is one, as a look that costs microseconds tells, or one
// of the caller's own, whose making and ending costs a hundred times as much. Close it.
func Open() (int, error) {
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil && err != unix.ENOENT && err != unix.ENOTDIR {
		return -1, &os.PathError{Op: "open", Path: "/proc", Err: err}
	}
	if err == nil {
		if weak.Procfs || Check(fd) == nil {
			return fd, nil
		}
		unix.Close(fd)
	}
	return Detached()
}

// Check reports whether fd is the root of a procfs, and of this process's PID namespace.
func Check(fd int) error {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		return fmt.Errorf("/proc is not a proc file system")
	}
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != rootIno {
		return fmt.Errorf("/proc is not the root of a proc file system")
	}
	var buf [16]byte
	n, err := unix.Readlinkat(fd, "self", buf[:])
	if err != nil || string(buf[:n]) != strconv.Itoa(unix.Getpid()) {
		return fmt.Errorf("/proc is the proc file system of another PID namespace")
	}
	return nil
}

// Detached makes a procfs of this process's PID namespace that is mounted nowhere. It needs CAP_SYS_ADMIN.
func Detached() (int, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("/proc cannot be trusted, and a proc file system of one's own needs root: fsopen: %w", err)
	}
	defer unix.Close(fs)
	// Only processes: the rest is the whole machine's, and may be hidden from who runs this. Before Linux 5.8 there is no such option.
	if err := unix.FsconfigSetString(fs, "subset", "pid"); err != nil && err != unix.EINVAL {
		return -1, fmt.Errorf("proc file system: subset=pid: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("/proc cannot be trusted, and a proc file system of one's own needs root: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, fmt.Errorf("/proc cannot be trusted, and a proc file system of one's own needs root: fsmount: %w", err)
	}
	return fd, nil
}

// Write writes to a file of the procfs that Open returned, all in one, and around what is mounted over it.
func Write(procfs int, name, text string) error {
	fd, err := openFile(procfs, name)
	if errors.Is(err, unix.EXDEV) {
		own, derr := Detached()
		if derr != nil {
			return fmt.Errorf("/proc/%s has something mounted over it: %w", name, derr)
		}
		defer unix.Close(own)
		fd, err = openFile(own, name)
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: "/proc/" + name, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &os.PathError{Op: "write", Path: "/proc/" + name, Err: err}
	}
	return nil
}

func openFile(procfs int, name string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: Resolve}
	if weak.Procfs {
		how.Resolve = 0
	}
	for {
		fd, err := unix.Openat2(procfs, name, &how)
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
}
