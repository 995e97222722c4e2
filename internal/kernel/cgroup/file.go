package cgroup

import (
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/base/smallfile"
)

// readFile reads a small file of the kernel whole.
func readFile(path string) ([]byte, error) { return smallfile.Read(path, math.MaxInt32) }

// writeFile writes value to a file of the kernel, in one write(2).
func writeFile(path, value string) error {
	fd, err := open(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return writeTo(fd, path, value)
}

func writeTo(fd int, path, value string) error {
	for {
		_, err := unix.Write(fd, []byte(value))
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &os.PathError{Op: "write " + value + " to", Path: path, Err: err}
		}
	}
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			return fd, nil
		}
		if err != unix.EINTR {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

// retry calls try until it says done, at growing intervals of 100 µs to 10 ms, for limit at most. It reports whether try was done.
func retry(limit time.Duration, try func() bool) bool {
	const longest = 10 * time.Millisecond
	deadline := time.Now().Add(limit)
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, longest) {
		if try() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause)
	}
}
