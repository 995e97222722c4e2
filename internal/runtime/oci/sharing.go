package oci

import (
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A child that shares its parent's memory until it executes costs no copy of page tables, no fault for each page that either writes, and nothing to take apart
// at its execve. It is a process all the same: descriptors, signal handlers, namespaces and credentials are its own.
//
// It is not for all. Whoever else is in the child's PID namespace, a hook of the container's too, might trace it, and would have the parent. When a cgroup is
// out of memory, the kernel ends with a process all that share its memory (mm/oom_kill.c): a parent must not die of its container's limit. And who shares memory
// cannot enter a time namespace (setns(2), EUSERS), and sets the badness of all (fs/proc/base.c, __set_oom_adj).

// sharedStack is room for the child's stack: what is nosplit has 792 bytes, and the kernel puts no signal frame on it, since no handler is left.
const sharedStack = 4096

// sharedLimit is the least memory limit, in bytes, with which a child shares: its execve cannot reach that.
const sharedLimit = 16 << 20

// mayShare reports whether the first process of a container may share its parent's memory until it executes.
func mayShare(s *specs.Spec) bool {
	own := false
	for i := range s.Linux.Namespaces {
		switch n := &s.Linux.Namespaces[i]; n.Type {
		case specs.PIDNamespace:
			own = n.Path == ""
		case specs.TimeNamespace, specs.UserNamespace:
			return false
		}
	}
	if s.Process.OOMScoreAdj != nil {
		return false
	}
	if s.Hooks != nil && len(s.Hooks.StartContainer) > 0 {
		return false
	}
	if r := s.Linux.Resources; r != nil {
		if r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit >= 0 && *r.Memory.Limit < sharedLimit {
			return false
		}
		if len(r.Unified) > 0 { // memory.max and memory.high among them, perhaps
			return false
		}
	}
	return own
}

//go:noescape
func cloneSharing(args *cloneArgs, size uintptr, c *child) uintptr

// forkSharing is forkChild for a child that shares. c must be kept, and not be changed, until the child has executed or ended.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkSharing(args *cloneArgs, c *child) (uintptr, syscall.Errno) {
	c.stack = new([sharedStack]byte)
	args.flags |= unix.CLONE_VM | unix.CLONE_CLEAR_SIGHAND
	args.stack, args.stackSize = uint64(uintptr(unsafe.Pointer(c.stack))), sharedStack-64 // room for an argument above
	if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, 0, uintptr(unsafe.Pointer(&c.sigmask)), unsafe.Sizeof(c.sigmask), 0, 0); e != 0 {
		return 0, e
	}
	beforeFork()
	pid := cloneSharing(args, unsafe.Sizeof(*args), c)
	afterFork()
	if e := -pid; e > 0 && e < 4096 {
		return 0, syscall.Errno(e)
	}
	return pid, 0
}

// leadSharing is the child's whole life; see forkChild for its rules. It begins with all signals blocked, as forkSharing's thread had them.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func leadSharing(c *child) {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.sigmask)), 0, unsafe.Sizeof(c.sigmask), 0, 0)
	lead(c)
}
