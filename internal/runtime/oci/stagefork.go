package oci

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stageChild is what the forked child needs to become a stage: the runtime, executed anew inside the container's user namespace.
type stageChild struct {
	exe      int    // descriptor of the program
	join     []int  // namespaces to join from outside, those that a user namespace would keep out of reach
	userNS   int    // the user namespace to join; -1: make one and wait for its mappings
	stdio    [3]int // the container's standard streams
	preserve int    // descriptors from 3 on that stay
	given    []int  // those that come there; nil: they are there
	control  int    // socket to the outer process, to be the next descriptor; -1: none
	argv     []*byte
	envp     []*byte
	sync     [2]int32 // socket pair: the child's end is the second
}

// Bytes between the outer process and a child that is becoming a stage.
const (
	stageUnshared = 'u' // the child has a user namespace; the outer answers when it is mapped
	stageMapped   = 'm'
)

// newStageChild prepares the memory for it.
func newStageChild(exe int, argv, env []string) (*stageChild, error) {
	c := &stageChild{exe: exe, userNS: -1, control: -1}
	var err error
	if c.argv, err = syscall.SlicePtrFromStrings(argv); err != nil {
		return nil, err
	}
	c.envp, err = syscall.SlicePtrFromStrings(env)
	return c, err
}

// forkStage clones; see forkChild for the rules of the child.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkStage(args *cloneArgs, c *stageChild) (uintptr, syscall.Errno) {
	beforeFork()
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	errno = runStage(c)
	msg := [2]byte{'e', byte(errno)}
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(c.sync[1]), uintptr(unsafe.Pointer(&msg)), 2)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// runStage returns only when something failed.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func runStage(c *stageChild) syscall.Errno {
	syscall.RawSyscall(unix.SYS_CLOSE, uintptr(c.sync[0]), 0, 0)
	for _, fd := range c.join {
		// Those that belong to the user namespace cannot be joined yet; the stage tries again.
		syscall.RawSyscall(unix.SYS_SETNS, uintptr(fd), 0, 0)
	}
	if c.userNS >= 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(c.userNS), unix.CLONE_NEWUSER, 0); e != 0 {
			return e
		}
	} else if _, _, e := syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0); e != 0 {
		return e
	}
	var b [1]byte
	b[0] = stageUnshared
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(c.sync[1]), uintptr(unsafe.Pointer(&b)), 1)
	for {
		n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(c.sync[1]), uintptr(unsafe.Pointer(&b)), 1)
		if e == unix.EINTR {
			continue
		}
		if n != 1 {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0) // the outer process died
		}
		break
	}
	// Root of the new namespace, with all its capabilities. Where setgroups(2) is denied the caller's groups stay, which give nobody more than it had.
	syscall.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0); e != 0 {
		return e
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); e != 0 {
		return e
	}
	return execStage(c)
}

//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func execStage(c *stageChild) syscall.Errno {
	for i := range c.stdio {
		if c.stdio[i] == i {
			syscall.RawSyscall(unix.SYS_FCNTL, uintptr(i), unix.F_SETFD, 0)
		} else if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, uintptr(c.stdio[i]), uintptr(i), 0); e != 0 {
			return e
		}
	}
	// Move what is needed out of the way of the control socket's place, then put it there.
	place := uintptr(firstFD + c.preserve)
	var control uintptr
	if c.control >= 0 {
		var e syscall.Errno
		if control, _, e = syscall.RawSyscall(unix.SYS_FCNTL, uintptr(c.control), unix.F_DUPFD_CLOEXEC, place+3); e != 0 {
			return e
		}
	}
	exe, _, e := syscall.RawSyscall(unix.SYS_FCNTL, uintptr(c.exe), unix.F_DUPFD_CLOEXEC, place+3)
	if e != 0 {
		return e
	}
	sync, _, e := syscall.RawSyscall(unix.SYS_FCNTL, uintptr(c.sync[1]), unix.F_DUPFD_CLOEXEC, place+3)
	if e != 0 {
		return e
	}
	if c.given != nil {
		if e = placeGiven(c.given); e != 0 {
			return e
		}
	}
	if c.control >= 0 {
		if _, _, e = syscall.RawSyscall(unix.SYS_DUP3, control, place, 0); e != 0 {
			return e
		}
	} else {
		syscall.RawSyscall(unix.SYS_CLOSE, place, 0, 0)
	}
	if _, _, e = syscall.RawSyscall(unix.SYS_DUP3, exe, place+1, unix.O_CLOEXEC); e != 0 {
		return e
	}
	if _, _, e = syscall.RawSyscall(unix.SYS_DUP3, sync, place+2, unix.O_CLOEXEC); e != 0 {
		return e
	}
	c.sync[1] = int32(place + 2)
	for fd := firstFD; fd < firstFD+c.preserve; fd++ {
		syscall.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFD, 0)
	}
	if _, _, e = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, place+3, ^uintptr(0)>>32, 0); e != 0 {
		return e
	}
	_, _, e = syscall.RawSyscall6(unix.SYS_EXECVEAT, place+1, uintptr(unsafe.Pointer(&emptyName)), uintptr(unsafe.Pointer(unsafe.SliceData(c.argv))),
		uintptr(unsafe.Pointer(unsafe.SliceData(c.envp))), unix.AT_EMPTY_PATH, 0)
	return e
}
