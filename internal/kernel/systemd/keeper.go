package systemd

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// keeper is a process that does nothing until Close or the death of this process, and then ends.
type keeper struct {
	pid  int
	pipe int // its other end, whose closing wakes the keeper
}

func newKeeper() (*keeper, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	syscall.ForkLock.Lock()
	pid, errno := forkKeeper(uintptr(p[0]))
	syscall.ForkLock.Unlock()
	unix.Close(p[0])
	if errno != 0 {
		unix.Close(p[1])
		return nil, os.NewSyscallError("clone", errno)
	}
	return &keeper{int(pid), p[1]}, nil
}

// forkKeeper clones. After that the child has one thread, no Go scheduler and a copied heap: nothing below may allocate, grow the stack,
// take a lock or call anything but raw system calls, as in syscall.forkAndExecInChild. It keeps no descriptor but the pipe.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkKeeper(pipe uintptr) (uintptr, syscall.Errno) {
	beforeFork()
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	if pipe > 0 {
		syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 0, pipe-1, 0)
	}
	syscall.RawSyscall(unix.SYS_CLOSE_RANGE, pipe+1, 1<<32-1, 0)
	var b [1]byte
	for {
		_, _, errno := syscall.RawSyscall(unix.SYS_READ, pipe, uintptr(unsafe.Pointer(&b)), 1)
		if errno != syscall.EINTR {
			break
		}
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// Close ends the keeper; a second call does nothing.
func (k *keeper) Close() {
	if k.pipe < 0 {
		return
	}
	unix.Close(k.pipe)
	k.pipe = -1
	for {
		if _, err := unix.Wait4(k.pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}
