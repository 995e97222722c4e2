package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/runtime/oci"
)

// checkConsole wants a socket for the terminal where the runtime goes away, and none elsewhere.
func (c *call) checkConsole(terminal, detached bool) error {
	switch socket := c.has("console-socket"); {
	case terminal && detached && !socket:
		return api.Errorf(api.InvalidArgument, "cannot allocate tty if brig-oci will detach without setting console socket: give --console-socket, or set process.terminal to false")
	case socket && !(terminal && detached):
		return api.Errorf(api.InvalidArgument, "cannot use console socket if brig-oci will not detach or allocate tty: leave --console-socket out")
	}
	return nil
}

// sendConsole hands the terminal's master end to whoever listens at --console-socket.
func (c *call) sendConsole(p *oci.Process, detached bool) error {
	if p.Console == nil || !detached {
		return nil
	}
	err := sendFD(c.str("console-socket"), "/dev/ptmx", int(p.Console.Fd()))
	p.Console.Close()
	p.Console = nil
	if err != nil {
		return fmt.Errorf("flag --console-socket: %w", err)
	}
	return nil
}

func (c *call) sendPidfd(fd int) error {
	if !c.has("pidfd-socket") {
		return nil
	}
	if err := sendFD(c.str("pidfd-socket"), "pidfd", fd); err != nil {
		return fmt.Errorf("flag --pidfd-socket: %w", err)
	}
	return nil
}

// sendFD connects to the unix socket at path and sends a descriptor, with its name as the message.
func sendFD(path, name string, fd int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	address := path
	if len(path) > maxSocketName {
		dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
		}
		defer unix.Close(dir)
		address = "/proc/self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(path)
	}
	if err := unix.Connect(s, &unix.SockaddrUnix{Name: address}); err != nil {
		return &os.PathError{Op: "connect", Path: path, Err: err}
	}
	return os.NewSyscallError("sendmsg", unix.Sendmsg(s, []byte(name), unix.UnixRights(fd), nil, 0))
}

// maxSocketName is how long a socket's path may be, in bytes: unix(7).
const maxSocketName = 107

// writePidFile writes a process's number where engines look for it, whole or not at all.
func (c *call) writePidFile(pid int) error {
	path := c.str("pid-file")
	if path == "" {
		return nil
	}
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+strconv.Itoa(os.Getpid()))
	err := os.WriteFile(temp, []byte(strconv.Itoa(pid)), 0o644)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
		return fmt.Errorf("flag --pid-file: %w", err)
	}
	return nil
}
