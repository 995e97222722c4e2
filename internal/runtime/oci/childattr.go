package oci

import (
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/proc"
	"brig/internal/kernel/sched"
)

// attributes are what the child gives itself besides its user and capabilities, prepared by procattr.go. The zero value changes nothing.
type attributes struct {
	state specs.State // of the container, for the agent that answers notified calls

	proc int // descriptor of the host's procfs, checked: the child's own entry in it is thread-self; 0 where nothing is to be written

	keyring  *byte   // name of the session keyring to join or make; nil keeps the caller's
	keyPerm  uintptr // permissions to give it; 0 leaves them
	keyLabel []byte  // SELinux label of new keys

	timeNS  int // time namespace to join, 0: none
	oom     []byte
	sched   *unix.SchedAttr
	io      uintptr // value of ioprio_set(2), 0: none
	cpus    *sched.CPUs
	memory  *sched.MemoryPolicy
	persona struct {
		set    bool
		domain uintptr
	}

	profile   []byte // for AppArmor: "exec NAME"
	execLabel []byte // for SELinux
}

// Stages of the attributes, counted from where child.go's leave room.
const (
	stageKeyring = 64 + iota
	stageKeyPerm
	stageKeyLabel
	stageTimeNS
	stageOOM
	stageScheduler
	stageIOPriority
	stageAffinity
	stageMemory
	stagePersonality
	stageAppArmor
	stageSELinux
	stageListener // no failure: errno is the number of the listener's descriptor in the child
)

// Names of files in /proc/thread-self.
var (
	oomName      = [...]byte{'t', 'h', 'r', 'e', 'a', 'd', '-', 's', 'e', 'l', 'f', '/', 'o', 'o', 'm', '_', 's', 'c', 'o', 'r', 'e', '_', 'a', 'd', 'j', 0}
	execName     = [...]byte{'t', 'h', 'r', 'e', 'a', 'd', '-', 's', 'e', 'l', 'f', '/', 'a', 't', 't', 'r', '/', 'e', 'x', 'e', 'c', 0}
	keyName      = [...]byte{'t', 'h', 'r', 'e', 'a', 'd', '-', 's', 'e', 'l', 'f', '/', 'a', 't', 't', 'r', '/', 'k', 'e', 'y', 'c', 'r', 'e', 'a', 't', 'e', 0}
	apparmorName = [...]byte{
		't', 'h', 'r', 'e', 'a', 'd', '-', 's', 'e', 'l', 'f', '/', 'a', 't', 't', 'r', '/', 'a', 'p', 'p', 'a', 'r', 'm', 'o', 'r', '/', 'e', 'x', 'e', 'c', 0,
	}
)

// applyAttributes runs in the child when it is in its cgroups, which bound its processors and memory nodes, and still has every capability.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func applyAttributes(a *attributes) (int32, syscall.Errno) {
	if a.timeNS > 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(a.timeNS), unix.CLONE_NEWTIME, 0); e != 0 {
			return stageTimeNS, e
		}
	}
	if len(a.oom) > 0 {
		if e := writeProc(a.proc, &oomName[0], a.oom); e != 0 {
			return stageOOM, e
		}
	}
	if s, e := applyScheduling(a); e != 0 {
		return s, e
	}
	if a.persona.set {
		if _, _, e := syscall.RawSyscall(unix.SYS_PERSONALITY, a.persona.domain, 0, 0); e != 0 {
			return stagePersonality, e
		}
	}
	return applyLabels(a)
}

// joinKeyring leaves the session keyring of who called the runtime. A kernel without keyrings has nothing to leave, as runc has it.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func joinKeyring(a *attributes) (int32, syscall.Errno) {
	if a.keyring == nil {
		return 0, 0
	}
	if len(a.keyLabel) > 0 {
		if e := writeProc(a.proc, &keyName[0], a.keyLabel); e != 0 {
			return stageKeyLabel, e
		}
	}
	id, _, e := syscall.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, uintptr(unsafe.Pointer(a.keyring)), 0)
	if e == unix.ENOSYS {
		return 0, 0
	}
	if e != 0 {
		return stageKeyring, e
	}
	if a.keyPerm != 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_SETPERM, id, a.keyPerm); e != 0 {
			return stageKeyPerm, e
		}
	}
	return 0, 0
}

// applyScheduling sets the shares of processors, disks and memory nodes.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func applyScheduling(a *attributes) (int32, syscall.Errno) {
	if a.cpus != nil {
		if _, _, e := syscall.RawSyscall(unix.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(*a.cpus), uintptr(unsafe.Pointer(a.cpus))); e != 0 {
			return stageAffinity, e
		}
	}
	if a.sched != nil {
		if _, _, e := syscall.RawSyscall(unix.SYS_SCHED_SETATTR, 0, uintptr(unsafe.Pointer(a.sched)), 0); e != 0 {
			return stageScheduler, e
		}
	}
	if a.io != 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_IOPRIO_SET, sched.IOPriorityProcess, 0, a.io); e != 0 {
			return stageIOPriority, e
		}
	}
	if a.memory != nil {
		var mask, bits uintptr
		if a.memory.HasMask {
			mask, bits = uintptr(unsafe.Pointer(&a.memory.Mask)), sched.MaxNodes+1 // the kernel takes one off: set_mempolicy(2), NOTES
		}
		if _, _, e := syscall.RawSyscall(unix.SYS_SET_MEMPOLICY, a.memory.Mode, mask, bits); e != 0 {
			return stageMemory, e
		}
	}
	return 0, 0
}

// applyLabels says what the process is to become for the security modules when it executes: only a process itself may.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func applyLabels(a *attributes) (int32, syscall.Errno) {
	if len(a.profile) > 0 {
		e := writeProc(a.proc, &apparmorName[0], a.profile)
		if e == unix.ENOENT { // before Linux 5.8 there was one file for whichever module is there
			e = writeProc(a.proc, &execName[0], a.profile)
		}
		if e != 0 {
			return stageAppArmor, e
		}
	}
	if len(a.execLabel) > 0 {
		if e := writeProc(a.proc, &execName[0], a.execLabel); e != 0 {
			return stageSELinux, e
		}
	}
	return 0, 0
}

var procHow = unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: proc.Resolve}

// writeProc is proc.Write for the child.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func writeProc(procfs int, name *byte, data []byte) syscall.Errno {
	fd, _, e := syscall.RawSyscall6(unix.SYS_OPENAT2, uintptr(procfs), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&procHow)), unsafe.Sizeof(procHow), 0, 0)
	if e != 0 {
		return e
	}
	_, _, e = syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)))
	syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	return e
}

// handListener has the parent, or who has come through the gate, take the listener of the seccomp filter that was just installed, and waits for a byte
// that says so: reports go over a socket then. Only write(2) may be called before it has: any
// other call may be one that the filter hands to the listener, which nobody holds yet. The compiler of filters refuses write for that.
// From then on whoever has the listener answers, for this function's calls too.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func handListener(c *child, listener uintptr) {
	report(c.talk, stageListener, syscall.Errno(listener))
	var b byte
	for {
		n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(c.talk), uintptr(unsafe.Pointer(&b)), 1)
		if e == unix.EINTR {
			continue
		}
		if n != 1 || e != 0 {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
		}
		break
	}
	// With this copy open, the end of the listener's other holder would leave notified calls waiting for ever.
	syscall.RawSyscall(unix.SYS_CLOSE, listener, 0, 0)
}

// crash ends the child without a system call: its signal handlers are the kernel's since the fork, and a fault ends the first process of a PID
// namespace too.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func crash() {
	*nowhere = 0
}

var nowhere *byte // nil: a variable, so that the compiler does not see a fault and call the scheduler's panic for it
