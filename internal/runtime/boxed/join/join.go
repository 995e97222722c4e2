// Package join is one more process in a box, which stands there for one inside: the box's monitor runs that with the standard streams of this one, gets this one's signals to hand
// on, and this one ends as it does. Part of brig-oci, since it is there as long as the process inside.
package join

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/runtime/boxed/wire"
)

// startLimit is how long the monitor, which may have been executed just now, may take to listen.
const startLimit = 20 * time.Second

// exitFailed is docker's exit status for what the engine could not do.
const exitFailed = 125

// Main asks for the process in the environment and returns the exit status.
func Main(stderr io.Writer) int {
	code, err := join()
	if err != nil {
		fmt.Fprintf(stderr, "brig: %v\n", err)
	}
	return code
}

func join() (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	fd, err := dial()
	if err != nil {
		return exitFailed, fmt.Errorf("the container's monitor does not answer: %w", err)
	}
	if err := ask(fd, wire.AskedExec(os.Getenv)); err != nil {
		return exitFailed, fmt.Errorf("asking the container's monitor: %w", err)
	}
	go func() {
		for s := range signals {
			n := s.(syscall.Signal)
			switch n {
			case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE: // of this process's own doing
				continue
			}
			_ = unix.Send(fd, []byte{byte(n)}, unix.MSG_NOSIGNAL) // the process may have ended
		}
	}()
	b := make([]byte, wire.MaxOutcome)
	n, err := unix.Read(fd, b)
	for err == unix.EINTR {
		n, err = unix.Read(fd, b)
	}
	if err != nil || n == 0 {
		return 128 + int(unix.SIGKILL), nil //nolint:nilerr // the container has ended
	}
	o, err := wire.DecodeOutcome(b[:n])
	if err != nil {
		return exitFailed, err
	}
	if o.Error != "" {
		return int(o.Code), errors.New(o.Error)
	}
	ws := unix.WaitStatus(o.Status)
	if !ws.Signaled() {
		return ws.ExitStatus(), nil
	}
	signal.Reset()
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Kill(os.Getpid(), ws.Signal())
	return 128 + int(ws.Signal()), nil // of one that Go's runtime does not die of
}

// ask sends the first message. What is asked for stands in a file, since a socket's message has little room.
func ask(fd int, exec []byte) error {
	file, err := unix.MemfdCreate("exec", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(file)
	if _, err := unix.Pwrite(file, exec, 0); err != nil {
		return os.NewSyscallError("pwrite", err)
	}
	return os.NewSyscallError("sendmsg", unix.Sendmsg(fd, []byte{0}, unix.UnixRights(0, 1, 2, file), nil, unix.MSG_NOSIGNAL))
}

// dial connects to the monitor.
func dial() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for end := time.Now().Add(startLimit); ; time.Sleep(2 * time.Millisecond) {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: wire.JoinSocket})
		if err == nil {
			return fd, nil
		}
		if time.Now().After(end) {
			unix.Close(fd)
			return -1, os.NewSyscallError("connect", err)
		}
	}
}
