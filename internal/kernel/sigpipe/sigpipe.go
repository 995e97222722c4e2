// Package sigpipe catches signals by a handler that writes each signal's number into a pipe (the self-pipe trick).
//
// os/signal changes threads twice for each signal that it enables, which is milliseconds for all of them, a tenth of a whole run of the OCI runtime.
// The handler here is a few instructions of assembly that touch nothing of Go's, so it may run on any thread at any time.
package sigpipe

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pipe is the writing end, for the handler. It stays open for the life of the process, as the handler does.
var pipe int64 = -1

// handler and restorer are called by the kernel alone; see handlerPC.
func handler()
func restorer()

func handlerPC() uintptr
func restorerPC() uintptr

// sigaction is struct kernel_sigaction of rt_sigaction(2).
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const (
	saRestorer = 0x04000000
	saOnstack  = 0x08000000 // on the signal stack that every thread of Go's has
	saRestart  = 0x10000000
	last       = 64
)

// kept are those that stay as they are: what nobody can catch, what a fault of this program raises, what the Go runtime sends itself, and the two that
// the C library keeps (signal(7), nptl(7)).
func kept(s unix.Signal) bool {
	switch s {
	case unix.SIGKILL, unix.SIGSTOP, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGURG, unix.SIGPROF, 32, 33:
		return true
	}
	return false
}

// Catch catches all signals but those that are kept, from now on, and returns the reading end of a non-blocking pipe: one byte is one signal. It must be
// called once, in a process that has no other use for them.
func Catch() (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	pipe = int64(p[1])
	act := sigaction{handler: handlerPC(), flags: saRestorer | saOnstack | saRestart, restorer: restorerPC(), mask: ^uint64(0)}
	for s := unix.Signal(1); s <= last; s++ {
		if kept(s) {
			continue
		}
		if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&act)), 0, unsafe.Sizeof(act.mask), 0, 0); e != 0 {
			return -1, os.NewSyscallError("rt_sigaction", e)
		}
	}
	return p[0], nil
}

// Read appends the signals that have come.
func Read(fd int, to []unix.Signal) []unix.Signal {
	var b [64]byte
	for {
		n, err := unix.Read(fd, b[:])
		if err == unix.EINTR {
			continue
		}
		for _, s := range b[:max(n, 0)] {
			to = append(to, unix.Signal(s))
		}
		return to
	}
}
