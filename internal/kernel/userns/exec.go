package userns

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"brig/api"
)

// Command is a program to be executed in a user namespace, as its root, with a mount namespace of its own.
type Command struct {
	Path string
	Args []string
	Env  func(member int) []string // member: the descriptor of Members, which stays open; that of the program's other descriptors that are to be closed are
}

// entrant is what the forked child needs.
type entrant struct {
	ns, member uintptr
	parent     uintptr
	path       *byte
	argv, envp []*byte
	report     uintptr // pipe for two bytes: which step failed, and its error number
}

// The steps of an entrant.
const (
	stepJoin = 1 + iota
	stepMounts
	stepMember
	stepExec
)

// Start executes the command in namespace ns as a member and returns the child's PID. It ends with this thread, which the caller must have locked, at the latest.
func (m *Members) Start(ns int, c *Command) (pid int, err error) {
	e := entrant{ns: uintptr(ns), member: m.f.Fd(), parent: uintptr(os.Getpid())}
	if e.path, err = syscall.BytePtrFromString(c.Path); err != nil {
		return 0, err
	}
	if e.argv, err = syscall.SlicePtrFromStrings(c.Args); err != nil {
		return 0, err
	}
	if e.envp, err = syscall.SlicePtrFromStrings(c.Env(int(e.member))); err != nil {
		return 0, err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("pipe2", err)
	}
	e.report = uintptr(pipe[1])
	args := cloneArgs{exitSignal: uint64(unix.SIGCHLD)}
	syscall.ForkLock.Lock()
	p, errno := forkEntrant(&args, &e)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(&e)
	unix.Close(pipe[1])
	defer unix.Close(pipe[0])
	if errno != 0 {
		return 0, os.NewSyscallError("clone3", errno)
	}
	var told [2]byte
	var n int
	for {
		if n, err = unix.Read(pipe[0], told[:]); err != unix.EINTR {
			break
		}
	}
	if n == 0 { // closed by execve
		return int(p), nil
	}
	for {
		if _, err := unix.Wait4(int(p), nil, 0, nil); err != unix.EINTR {
			break
		}
	}
	return 0, entryError(told[0], syscall.Errno(told[1]), c.Path)
}

func entryError(step byte, errno syscall.Errno, path string) error {
	switch step {
	case stepJoin:
		return fmt.Errorf("joining the user namespace: %w", errno)
	case stepMounts:
		if errno == unix.EPERM || errno == unix.EACCES {
			if setting("kernel/apparmor_restrict_unprivileged_userns") == "1" {
				return api.Errorf(api.Unsupported, "AppArmor takes the rights away that a user namespace gives (kernel.apparmor_restrict_unprivileged_userns is 1): "+
					"give brig a profile with the rule userns, or `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or run as root")
			}
			return api.Errorf(api.Unsupported, "mount namespace: %w: a security module forbids it: run as root", errno)
		}
		return fmt.Errorf("mount namespace: %w", errno)
	case stepMember:
		return fmt.Errorf("members of the user namespace: %w", errno)
	}
	return &os.PathError{Op: "exec", Path: strings.TrimSpace(path), Err: errno}
}

// forkEntrant clones; see forkSleeper for the rules of the child.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkEntrant(args *cloneArgs, e *entrant) (uintptr, syscall.Errno) {
	beforeFork()
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	step, errno := enter(e)
	told := [2]byte{step, byte(errno)}
	syscall.RawSyscall(unix.SYS_WRITE, e.report, uintptr(unsafe.Pointer(&told)), 2)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// enter returns only with an error.
//
//go:nosplit
//go:norace
//go:nocheckptr
func enter(e *entrant) (byte, syscall.Errno) {
	if _, _, errno := syscall.RawSyscall(unix.SYS_SETNS, e.ns, unix.CLONE_NEWUSER, 0); errno != 0 {
		return stepJoin, errno
	}
	// After setns(2), which would undo it.
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	if ppid, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); ppid != e.parent {
		return stepJoin, unix.ESRCH
	}
	if _, _, errno := syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWNS, 0, 0); errno != 0 {
		return stepMounts, errno
	}
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if _, _, errno := syscall.RawSyscall(unix.SYS_FCNTL, e.member, unix.F_SETLK, uintptr(unsafe.Pointer(&lock))); errno != 0 {
		return stepMember, errno
	}
	if _, _, errno := syscall.RawSyscall(unix.SYS_FCNTL, e.member, unix.F_SETFD, 0); errno != 0 {
		return stepMember, errno
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(e.path)), uintptr(unsafe.Pointer(&e.argv[0])), uintptr(unsafe.Pointer(&e.envp[0])))
	return stepExec, errno
}
