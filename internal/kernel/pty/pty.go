// Package pty opens pseudo-terminals of a devpts instance that is given as a descriptor, so that a container's terminal comes from
// the container's own devpts and no path inside its root is followed.
package pty

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open makes a pseudo-terminal in the devpts mounted at dir and returns both ends, close-on-exec. The kernel's TIOCGPTPEER gives the
// other end without a path (Linux 4.13).
func Open(dir int) (master, slave *os.File, err error) {
	m, err := unix.Openat(dir, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	var unlock int32
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, int(unlock)); err != nil {
		unix.Close(m)
		return nil, nil, fmt.Errorf("pseudo-terminal: unlock: %w", err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		unix.Close(m)
		return nil, nil, fmt.Errorf("pseudo-terminal: peer: %w", errno)
	}
	return os.NewFile(uintptr(m), "ptmx"), os.NewFile(fd, "pts"), nil
}

// Resize sets the size in characters.
func Resize(fd int, rows, cols uint16) error {
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
}
