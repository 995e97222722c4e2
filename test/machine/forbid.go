package machine

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Forbidden is what a program under a filter may not do.
type Forbidden string

// The kinds of filters.
const (
	// ForbidNamespaces refuses new namespaces, and joining others, as hardened machines and filters of containers do. clone3(2), into whose arguments
	// no filter can look, is said not to exist.
	ForbidNamespaces Forbidden = "without-namespaces"
	// ForbidMounts refuses mounts too.
	ForbidMounts Forbidden = "without-mounts"
)

// Forbid runs the program of os.Args under a filter, in place of this one, if the first argument names one: for TestMain. Else it does nothing.
func Forbid() {
	if len(os.Args) < 3 {
		return
	}
	kind := Forbidden(os.Args[1])
	if kind != ForbidNamespaces && kind != ForbidMounts {
		return
	}
	path, err := exec.LookPath(os.Args[2])
	if err == nil {
		runtime.LockOSThread()
		if err = install(filter(kind)); err == nil {
			err = unix.Exec(path, os.Args[2:], os.Environ())
		}
	}
	os.Stderr.WriteString(string(kind) + ": " + err.Error() + "\n")
	os.Exit(125)
}

// filter is a program of classic BPF over struct seccomp_data: seccomp(2).
func filter(kind Forbidden) []unix.SockFilter {
	const nr, arg0 = 0, 16
	ld := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	ret := func(errno unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)}
	}
	prog := []unix.SockFilter{ld(nr)}
	refuse := func(call uint32, errno unix.Errno) { // the next instruction, unless it is that call
		prog = append(prog, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: call}, ret(errno))
	}
	refuse(unix.SYS_UNSHARE, unix.EPERM)
	refuse(unix.SYS_SETNS, unix.EPERM)
	refuse(unix.SYS_CLONE3, unix.ENOSYS)
	if kind == ForbidMounts {
		for _, call := range []uint32{unix.SYS_MOUNT, unix.SYS_FSOPEN, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT} {
			refuse(call, unix.EPERM)
		}
	}
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
	return append(prog,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: unix.SYS_CLONE},
		ld(arg0), // its low half, on the machines that Brig runs on
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jf: 1, K: namespaces},
		ret(unix.EPERM),
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	)
}

// install puts a filter over all threads of this program. It needs CAP_SYS_ADMIN, so that what is executed may be privileged.
func install(prog []unix.SockFilter) error {
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&f)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	if r != 0 {
		return os.NewSyscallError("seccomp: thread "+strconv.Itoa(int(r)), unix.EBUSY)
	}
	return nil
}
