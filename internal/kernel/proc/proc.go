// Package proc reads what /proc says of a process, enough to tell it from a later one that was given the same number, and writes to a procfs
// that is known to be one.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"brig/internal/base/smallfile"
)

// StartTicks is a process's start time in clock ticks since boot: field 22 of proc_pid_stat(5).
func StartTicks(pid int) (uint64, error) {
	data, err := smallfile.Read("/proc/"+strconv.Itoa(pid)+"/stat", 4<<10)
	if err != nil {
		return 0, err
	}
	ticks, _, err := parseStat(data)
	return ticks, err
}

// Alive reports whether pid is the process that started at ticks, and has not ended. A zombie has ended.
func Alive(pid int, ticks uint64) bool {
	data, err := smallfile.Read("/proc/"+strconv.Itoa(pid)+"/stat", 4<<10)
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
func BootID() string { return bootID() }

var bootID = sync.OnceValue(func() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
})

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
