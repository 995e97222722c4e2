package oci

import (
	"os"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/weak"
)

// GateName is the socket in a container's folder at which its process waits to be started. As long as it is there, the container is created; who
// starts it takes it away.
const GateName = "start.sock"

// OpenGate makes the gate in dir, a container's own folder, and returns the listening socket for Request.Gate. A socket keeps the boundaries of messages, tells
// both sides when the other has died, and carries the failure of an execution back to whoever started the container, however much later.
func OpenGate(dir string) (int, error) {
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(at)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if weak.Abstract {
		if f, err := unix.Openat(at, GateName, unix.O_CREAT|unix.O_CLOEXEC, 0o600); err == nil {
			unix.Close(f)
		}
	}
	old := unix.Umask(0o177)
	if weak.Modes {
		unix.Umask(0)
	}
	err = unix.Bind(fd, gateAddress(at))
	unix.Umask(old)
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "listen", Path: dir + "/" + GateName, Err: err}
	}
	return fd, nil
}

// gateAddress goes through a descriptor: the name of a socket has room for 107 bytes only (unix(7)).
func gateAddress(dir int) *unix.SockaddrUnix {
	if weak.Abstract {
		return &unix.SockaddrUnix{Name: "@brig-oci"}
	}
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dir) + "/" + GateName}
}

func errLongState() error {
	return api.Errorf(api.InvalidArgument, "the container's annotations are too long for a startContainer hook: at most %d bytes in all", maxState)
}

// StartAt lets the process at dir's gate execute, with its state for its startContainer hooks, and returns when it has or could not. s is its
// configuration; of has its ID, bundle and process. The caller holds the container's lock.
func StartAt(dir string, s *specs.Spec, of specs.State, state []byte) error {
	name := s.Process.Args[0]
	if len(state) > maxState {
		return errLongState()
	}
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(at)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, gateAddress(at)); err != nil {
		if err == unix.ECONNREFUSED || err == unix.ENOENT {
			return api.Errorf(api.Conflict, "its process does not wait to be started")
		}
		return &os.PathError{Op: "connect", Path: dir + "/" + GateName, Err: err}
	}
	pidfd, err := unix.PidfdOpen(of.Pid, 0)
	if err == nil {
		defer unix.Close(pidfd)
	}
	// Gone before the word is said: should this process be killed between the two, the container ends instead of running while it is called created.
	if err := unix.Unlinkat(at, GateName, 0); err != nil {
		return &os.PathError{Op: "unlink", Path: dir + "/" + GateName, Err: err}
	}
	if err := unix.Send(fd, append([]byte{wordGo}, state...), unix.MSG_NOSIGNAL); err != nil {
		return os.NewSyscallError("send", err)
	}
	stage, errno, err := readReport(fd, name)
	if err == nil && stage == stageListener && s.Linux.Seccomp != nil {
		if err = handOverAt(fd, s, of, int(errno)); err == nil {
			stage, errno, err = readReport(fd, name)
		}
	}
	if err == nil && stage == 0 {
		return nil
	}
	if pidfd >= 0 { // engines delete what did not start at once
		awaitEnd(pidfd)
	}
	if err != nil {
		return err
	}
	return childError(name, stage, errno)
}

// endLimit is how long a child that has said why it cannot execute may take to end, in milliseconds.
const endLimit = 5000

// awaitEnd waits for the end of a process that is about to end.
func awaitEnd(pidfd int) {
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, endLimit); err != unix.EINTR {
			return
		}
	}
}

// handOverAt is handOver by who starts a container that another process has created.
func handOverAt(conn int, s *specs.Spec, of specs.State, fd int) error {
	l := newListener(s.Linux.Seccomp, agentState(&Request{ID: of.ID, Bundle: of.Bundle, Spec: s}))
	pidfd, err := unix.PidfdOpen(of.Pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(pidfd)
	return l.handOver(of.Pid, pidfd, fd, conn)
}
