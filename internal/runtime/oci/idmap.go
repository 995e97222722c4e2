package oci

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/userns"
)

// idmap maps the owners of a detached mount's files, by the mount's own mappings or, where it has none, by the container's user namespace.
// It must be called on a thread of the host.
func (b *builder) idmap(fd int, m *specs.Mount, opts *mountOptions) error {
	uids, gids := m.UIDMappings, m.GIDMappings
	if len(uids)+len(gids) == 0 {
		for _, n := range b.spec.Linux.Namespaces {
			if n.Type == specs.UserNamespace && n.Path != "" {
				ns, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return &os.PathError{Op: "open", Path: n.Path, Err: err}
				}
				defer unix.Close(ns)
				return mount.IDMap(fd, ns, opts.recMap)
			}
		}
		uids, gids = b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings
	}
	ns, err := newUserNS(uids, gids)
	if err != nil {
		return fmt.Errorf("ID-mapped mount: %w", err)
	}
	defer unix.Close(ns)
	return mount.IDMap(fd, ns, opts.recMap)
}

// newUserNS makes a user namespace with the given mappings and returns its descriptor. Nobody is ever in it but a child that sleeps while
// the mappings are written: a thread of a program with several cannot make one itself.
func newUserNS(uids, gids []specs.LinuxIDMapping) (int, error) {
	runtime.LockOSThread() // the child shall die with this process, and the kernel takes that for this thread
	defer runtime.UnlockOSThread()
	pid, pidfd, err := sleeper()
	if err != nil {
		if err == unix.ENOSPC {
			return -1, api.Errorf(api.Exhausted, "the limit of /proc/sys/user/max_user_namespaces is reached")
		}
		return -1, err
	}
	defer func() {
		unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		for unix.Waitid(unix.P_PIDFD, pidfd, nil, unix.WEXITED|unix.WALL, nil) == unix.EINTR {
		}
		unix.Close(pidfd)
	}()
	if err := userns.Map(pid, uids, gids); err != nil {
		return -1, err
	}
	proc := "/proc/" + strconv.Itoa(pid)
	ns, err := unix.Open(proc+"/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: proc + "/ns/user", Err: err}
	}
	return ns, nil
}

// sleeper forks a child into a new user namespace, in which it sleeps until it is killed. It is not waited for by who waits for any
// child: it sends no signal at its end.
func sleeper() (pid, pidfd int, err error) {
	var fd int32 = -1
	args := cloneArgs{flags: unix.CLONE_PIDFD | unix.CLONE_NEWUSER, pidfd: uint64(uintptr(unsafe.Pointer(&fd)))}
	self := uintptr(os.Getpid())
	syscall.ForkLock.Lock()
	p, errno := forkSleeper(&args, self)
	syscall.ForkLock.Unlock()
	if errno != 0 {
		return 0, -1, errno
	}
	return int(p), int(fd), nil
}

// forkSleeper clones. In the child it never returns; forkChild says what may be done there.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkSleeper(args *cloneArgs, parent uintptr) (uintptr, syscall.Errno) {
	beforeFork()
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	for {
		if ppid, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); ppid != parent { // it died before it could be tied to
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
		}
		syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0) // until a signal
	}
}
