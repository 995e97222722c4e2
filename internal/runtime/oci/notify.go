package oci

import (
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/record"
)

// listener is the agent that answers the system calls which a filter hands over (SCMP_ACT_NOTIFY): config-linux.md, "Seccomp", and
// seccomp_unotify(2).
type listener struct {
	path     string // unix socket of the agent
	metadata string
	state    specs.State
}

// listenerTimeout bounds the talk with an agent that does not take what it is sent.
const listenerTimeout = 10 // seconds

func newListener(s *specs.LinuxSeccomp, state specs.State) *listener {
	return &listener{path: s.ListenerPath, metadata: s.ListenerMetadata, state: state}
}

// handOver takes the listener fd from the waiting child pid and sends it to the agent with the container's state; a byte to report lets the child go
// on: what it calls from then on waits for the agent. On error the child is killed: it may wait for an agent that will never answer.
func (l *listener) handOver(pid, pidfd, fd, report int) error {
	err := l.send(pid, pidfd, fd)
	if err == nil {
		err = os.NewSyscallError("send", unix.Send(report, []byte{1}, unix.MSG_NOSIGNAL))
	}
	if err != nil {
		unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	}
	return err
}

func (l *listener) send(pid, pidfd, fd int) error {
	mine, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return fmt.Errorf("seccomp listener: pidfd_getfd: %w", err)
	}
	defer unix.Close(mine)
	state := l.state // of the container, or of one that execs
	if state.Pid == 0 {
		state.Pid = pid
	}
	data, err := record.Marshal(specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: l.metadata, State: state,
	})
	if err != nil {
		return err
	}
	if err := sendWithFD(l.path, data, mine); err != nil {
		return api.Errorf(api.Unavailable, "linux.seccomp.listenerPath: %s: %w", l.path, err)
	}
	return nil
}

// sendWithFD connects to a unix stream socket and sends data, with fd beside its first byte.
func sendWithFD(path string, data []byte, fd int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: listenerTimeout}); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Connect(s, &unix.SockaddrUnix{Name: path}); err != nil {
		return os.NewSyscallError("connect", err)
	}
	n, err := unix.SendmsgN(s, data, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
	for err == nil && n < len(data) {
		data = data[n:]
		n, err = unix.SendmsgN(s, data, nil, nil, unix.MSG_NOSIGNAL)
	}
	return os.NewSyscallError("sendmsg", err)
}
