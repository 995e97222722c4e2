// Package proc reads what /proc says of a process, enough to tell it from a later one that was given the same number, and writes to a procfs
// that is known to be one.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// StartTicks is a process's start time in clock ticks since boot: field 22 of proc_pid_stat(5).
func StartTicks(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	ticks, _, err := parseStat(data)
	return ticks, err
}

// Alive reports whether pid is the process that started at ticks, and has not ended. A zombie has ended.
func Alive(pid int, ticks uint64) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	t, state, err := parseStat(data)
	return err == nil && t == ticks && state != 'Z' && state != 'X'
}

// parseStat takes the start time and state; the command name may hold any byte, parentheses too.
func parseStat(data []byte) (ticks uint64, state byte, err error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return 0, 0, fmt.Errorf("/proc/PID/stat: no command name in %q", data)
	}
	fields := bytes.Fields(data[end+1:])
	if len(fields) < 20 || len(fields[0]) != 1 {
		return 0, 0, fmt.Errorf("/proc/PID/stat: %d fields after the command name", len(fields))
	}
	ticks, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return ticks, fields[0][0], err
}

// BootID is a name that is new at every boot: random(4).
func BootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// Open returns a descriptor of the procfs at /proc, for Write; another file system there is an error. Close it.
func Open() (int, error) {
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/proc", Err: err}
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.PROC_SUPER_MAGIC {
		unix.Close(fd)
		return -1, fmt.Errorf("/proc is not a proc file system: mount one there")
	}
	return fd, nil
}

// Resolve is how a name in procfs is looked up (openat2(2)): what is mounted over a file of it is not followed, nor the links that lead out.
const Resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS

// Write writes to a file of the procfs that Open returned.
func Write(procfs int, name, text string) error {
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: Resolve}
	fd, err := unix.Openat2(procfs, name, &how)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/proc/" + name, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &os.PathError{Op: "write", Path: "/proc/" + name, Err: err}
	}
	return nil
}

// ThreadID is the calling thread's number in the PID namespace of that procfs, which need not be the thread's own.
func ThreadID(procfs int) (string, error) {
	var buf [64]byte
	n, err := unix.Readlinkat(procfs, "thread-self", buf[:])
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: "/proc/thread-self", Err: err}
	}
	link := string(buf[:n]) // PID/task/TID
	return link[strings.LastIndexByte(link, '/')+1:], nil
}
