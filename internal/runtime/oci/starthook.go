package oci

import (
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// maxState is the longest state of a container that start hands to its startContainer hooks, in bytes.
const maxState = 32 << 10

// startHook is one of hooks.startContainer. The child runs it inside the container, before its own command, since nobody else is there.
type startHook struct {
	path    *byte
	argv    []*byte
	envp    []*byte
	timeout int64 // seconds, 0: none
}

// prepareStartHooks turns hooks into what the child can execute.
func (c *child) prepareStartHooks(hooks []specs.Hook) error {
	for i := range hooks {
		h := &hooks[i]
		var s startHook
		var err error
		if s.path, err = syscall.BytePtrFromString(h.Path); err != nil {
			return api.Errorf(api.InvalidArgument, "config.json: hooks.startContainer[%d].path: %w", i, err)
		}
		if s.argv, err = syscall.SlicePtrFromStrings(hookArgs(h)); err != nil {
			return api.Errorf(api.InvalidArgument, "config.json: hooks.startContainer[%d].args: %w", i, err)
		}
		if s.envp, err = syscall.SlicePtrFromStrings(h.Env); err != nil {
			return api.Errorf(api.InvalidArgument, "config.json: hooks.startContainer[%d].env: %w", i, err)
		}
		if h.Timeout != nil {
			s.timeout = int64(*h.Timeout)
		}
		c.startHooks = append(c.startHooks, s)
	}
	return nil
}

// hookArgs are a hook's arguments; without any its path is the only one, as execv(3) callers do.
func hookArgs(h *specs.Hook) []string {
	if len(h.Args) > 0 {
		return h.Args
	}
	return []string{h.Path}
}

// runStartHooks runs the hooks one after the other; the first that fails ends the container.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func runStartHooks(c *child) syscall.Errno {
	for i := range c.startHooks {
		if e := runStartHook(c, &c.startHooks[i]); e != 0 {
			return e
		}
	}
	return 0
}

// runStartHook forks and executes h with the container's state on its standard input. ECHILD stands for a hook that says no, ETIMEDOUT for one
// that takes too long.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func runStartHook(c *child, h *startHook) syscall.Errno {
	var pipe [2]int32
	if _, _, e := syscall.RawSyscall(unix.SYS_PIPE2, uintptr(unsafe.Pointer(&pipe)), unix.O_CLOEXEC, 0); e != 0 {
		return e
	}
	// The pipe holds all of the state (64 KiB, pipe(7)), so writing it first cannot block.
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(pipe[1]), uintptr(unsafe.Add(unsafe.Pointer(unsafe.SliceData(c.state)), 1)), c.stateLen)
	var pidfd int32 = -1
	pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_PIDFD|uintptr(unix.SIGCHLD), 0, uintptr(unsafe.Pointer(&pidfd)), 0, 0, 0)
	if e != 0 {
		return e
	}
	if pid == 0 {
		syscall.RawSyscall(unix.SYS_DUP3, uintptr(pipe[0]), 0, 0)
		syscall.RawSyscall(unix.SYS_DUP3, uintptr(c.stdio[1]), 1, 0)
		syscall.RawSyscall(unix.SYS_DUP3, uintptr(c.stdio[2]), 2, 0)
		syscall.RawSyscall(unix.SYS_CLOSE_RANGE, firstFD, ^uintptr(0)>>32, 0)
		syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(h.path)), uintptr(unsafe.Pointer(&h.argv[0])), uintptr(unsafe.Pointer(&h.envp[0])))
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
		}
	}
	syscall.RawSyscall(unix.SYS_CLOSE, uintptr(pipe[0]), 0, 0)
	syscall.RawSyscall(unix.SYS_CLOSE, uintptr(pipe[1]), 0, 0)
	e = awaitHook(pid, uintptr(pidfd), h.timeout)
	syscall.RawSyscall(unix.SYS_CLOSE, uintptr(pidfd), 0, 0)
	return e
}

//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func awaitHook(pid, pidfd uintptr, timeout int64) syscall.Errno {
	late := false
	if timeout > 0 {
		poll := unix.PollFd{Fd: int32(pidfd), Events: unix.POLLIN}
		limit := unix.Timespec{Sec: timeout}
		for { // the kernel leaves what is left of the time in limit: ppoll(2)
			n, _, e := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
			if e == unix.EINTR {
				continue
			}
			late = n == 0
			break
		}
		if late {
			syscall.RawSyscall6(unix.SYS_PIDFD_SEND_SIGNAL, pidfd, uintptr(unix.SIGKILL), 0, 0, 0, 0)
		}
	}
	var status int32
	for {
		_, _, e := syscall.RawSyscall6(unix.SYS_WAIT4, pid, uintptr(unsafe.Pointer(&status)), 0, 0, 0, 0)
		if e == unix.EINTR {
			continue
		}
		switch {
		case e != 0:
			return e
		case late:
			return unix.ETIMEDOUT
		case status != 0:
			return unix.ECHILD
		}
		return 0
	}
}
