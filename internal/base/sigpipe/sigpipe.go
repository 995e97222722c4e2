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

// pipe is the writing end, for the handler, and reading the other. They stay open for the life of the process.
var (
	pipe    int64 = -1
	reading       = -1
)

// old are the actions before Catch, by signal.
var old [last + 1]*sigaction

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

// Kept are those that stay as they are: what nobody can catch, what a fault of this program raises, what the Go runtime sends itself, and the two that
// the C library keeps (signal(7), nptl(7)).
func Kept(s unix.Signal) bool {
	switch s {
	case unix.SIGKILL, unix.SIGSTOP, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGURG, 32, 33:
		return true
	}
	return false
}

// Ignored reports whether a signal is ignored, as nohup(1) has it for what it starts.
func Ignored(s unix.Signal) bool {
	const sigIgn = 1
	var act sigaction
	return set(s, nil, &act) == nil && act.handler == sigIgn
}

// All is for Catch.
func All(unix.Signal) bool { return true }

// Catch catches the signals that are wanted, but for those that are kept, and returns the reading end of a non-blocking pipe, the same each time: one
// byte is one signal. The process has no other use for them. It is for one goroutine at a time, as Restore is.
func Catch(wanted func(unix.Signal) bool) (int, error) {
	if reading < 0 {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			return -1, os.NewSyscallError("pipe2", err)
		}
		reading, pipe = p[0], int64(p[1])
	}
	act := &sigaction{handler: handlerPC(), flags: saRestorer | saOnstack | saRestart, restorer: restorerPC(), mask: ^uint64(0)}
	before := new([last + 1]sigaction)
	for s := unix.Signal(1); s <= last; s++ {
		if Kept(s) || !wanted(s) || old[s] != nil {
			continue
		}
		if err := set(s, act, &before[s]); err != nil {
			return -1, err
		}
		old[s] = &before[s]
	}
	return reading, nil
}

// Restore has signals do what they did before they were caught.
func Restore() error {
	for s := range old {
		if old[s] == nil {
			continue
		}
		if err := set(unix.Signal(s), old[s], nil); err != nil {
			return err
		}
		old[s] = nil
	}
	return nil
}

// set is rt_sigaction(2).
func set(s unix.Signal, act, before *sigaction) error {
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(act)), uintptr(unsafe.Pointer(before)), unsafe.Sizeof(act.mask), 0, 0)
	if e != 0 {
		return os.NewSyscallError("rt_sigaction", e)
	}
	return nil
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
