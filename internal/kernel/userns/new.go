package userns

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// cloneArgs is struct clone_args of clone3(2), version 2.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// New makes a user namespace with the given mappings and returns its descriptor. Nobody is ever in it but a child that sleeps while
// the mappings are written: a thread of a program with several cannot make one itself.
//
// What a host forbids is api.Unsupported and named, with the next step; the limit of /proc/sys/user/max_user_namespaces is api.Exhausted.
func New(uids, gids []specs.LinuxIDMapping) (ns int, err error) {
	err = withSleeper(unix.CLONE_NEWUSER, uids, gids, func(pid int) (err error) {
		ns, err = Open(pid)
		return err
	})
	if err != nil {
		return -1, err
	}
	return ns, nil
}

// NewNet is New, and a network namespace that belongs to the user namespace. [OwnerOf] tells the user namespace.
func NewNet(uids, gids []specs.LinuxIDMapping) (net *os.File, err error) {
	err = withSleeper(unix.CLONE_NEWUSER|unix.CLONE_NEWNET, uids, gids, func(pid int) (err error) {
		net, err = os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
		return err
	})
	return net, err
}

// OwnerOf opens the user namespace that another namespace belongs to: ioctl_ns(2).
func OwnerOf(ns int) (int, error) {
	fd, err := unix.IoctlRetInt(ns, unix.NS_GET_USERNS)
	return fd, os.NewSyscallError("ioctl NS_GET_USERNS", err)
}

// withSleeper calls f with a process that has the namespaces of flags and the mappings, and ends it.
func withSleeper(flags uint64, uids, gids []specs.LinuxIDMapping, f func(pid int) error) error {
	runtime.LockOSThread() // the child shall die with this process, and the kernel takes that for this thread
	defer runtime.UnlockOSThread()
	pid, pidfd, err := sleeper(flags)
	if err != nil {
		return refused(err)
	}
	defer func() {
		unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		for unix.Waitid(unix.P_PIDFD, pidfd, nil, unix.WEXITED|unix.WALL, nil) == unix.EINTR {
		}
		unix.Close(pidfd)
	}()
	if err := Map(pid, uids, gids); err != nil {
		return err
	}
	return f(pid)
}

// Open opens the user namespace of process pid.
func Open(pid int) (int, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/ns/user"
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return ns, nil
}

// refused says why no user namespace can be made.
func refused(err error) error {
	switch err {
	case unix.ENOSPC:
		return api.Errorf(api.Exhausted, "no user namespace: the limit of /proc/sys/user/max_user_namespaces is reached: raise it with `sysctl user.max_user_namespaces=NUMBER`")
	case unix.EPERM:
		if setting("kernel/unprivileged_userns_clone") == "0" {
			return api.Errorf(api.Unsupported, "no user namespace: this host forbids them to normal users: allow them with `sysctl kernel.unprivileged_userns_clone=1`, or run as root")
		}
		return api.Errorf(api.Unsupported, "no user namespace: %w: the kernel makes none in a chroot, and most containers forbid it: run as root", err)
	case unix.EINVAL, unix.ENOSYS:
		return api.Errorf(api.Unsupported, "no user namespace: %w: this kernel is built without them (CONFIG_USER_NS): run as root", err)
	}
	return os.NewSyscallError("clone3", err)
}

// setting is the value of a sysctl, "" where there is none.
func setting(name string) string {
	data, _ := os.ReadFile("/proc/sys/" + name)
	if n := len(data); n > 0 && data[n-1] == '\n' {
		data = data[:n-1]
	}
	return string(data)
}

// sleeper forks a child into new namespaces, in which it sleeps until it is killed. It is not waited for by who waits for any
// child: it sends no signal at its end.
func sleeper(flags uint64) (pid, pidfd int, err error) {
	var fd int32 = -1
	args := cloneArgs{flags: unix.CLONE_PIDFD | flags, pidfd: uint64(uintptr(unsafe.Pointer(&fd)))}
	self := uintptr(os.Getpid())
	syscall.ForkLock.Lock()
	p, errno := forkSleeper(&args, self)
	syscall.ForkLock.Unlock()
	if errno != 0 {
		return 0, -1, errno
	}
	return int(p), int(fd), nil
}

// forkSleeper clones. In the child it never returns, and makes raw system calls only: of the runtime's threads none but this one is there, and
// no lock that another holds will ever be free.
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
