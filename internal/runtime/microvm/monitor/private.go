package monitor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/seccomp"
)

// QEMU opens the file of a machine's memory for reading and writing, however it is mapped. What is a template's must not be written to, and a private mapping needs no more than
// reading. So QEMU is started under a filter that asks the monitor about files to be read and written, and gets for one name, which is no file's, a descriptor that is open for
// reading alone. All that it asks later fails: there is nobody who listens.

// memoryName is what QEMU is told of the file with its memory.
const memoryName = "/template-memory"

// asking calls start on a thread under the filter, which what it executes inherits, and returns the listener.
func asking(start func() error) (listener int, err error) {
	f, err := seccomp.Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls: []specs.LinuxSyscall{{
			Names: []string{"openat"}, Action: specs.ActNotify,
			Args: []specs.LinuxSeccompArg{{Index: 2, Op: specs.OpMaskedEqual, Value: unix.O_ACCMODE, ValueTwo: unix.O_RDWR}},
		}},
	})
	if err != nil {
		return -1, err
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		runtime.LockOSThread() // for good: it ends with the goroutine, and its filter with it
		prog := unix.SockFprog{Len: uint16(len(f.Prog)), Filter: &f.Prog[0]}
		fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(f.Flags), uintptr(unsafe.Pointer(&prog)))
		if errno != 0 {
			listener, err = -1, os.NewSyscallError("seccomp", errno)
			return
		}
		listener, err = int(fd), start()
	}()
	<-over
	if err != nil && listener >= 0 {
		unix.Close(listener)
	}
	return listener, err
}

// notification is a system call that waits for an answer (struct seccomp_notif), reply and addition are the answers to it.
type (
	notification struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	reply struct {
		id    uint64
		val   int64
		errno int32
		flags uint32
	}
	addition struct {
		id                         uint64
		flags, from, to, flagsOfIt uint32
	}
)

// giveMemory answers what QEMU, as pid, asks until that is for the file with its memory, and returns a descriptor of all of QEMU's memory. It closes the listener.
func giveMemory(listener, pid int, memory *os.File) (all *os.File, err error) {
	defer unix.Close(listener)
	defer func() {
		if err != nil && all != nil {
			all.Close()
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(resumeTime.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return all, os.NewSyscallError("poll", err)
		case n == 0 || fds[0].Revents&unix.POLLIN == 0:
			return all, errors.New("QEMU does not open the machine's memory")
		}
		var q notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&q))); errno != 0 {
			if errno == unix.EINTR || errno == unix.ENOENT {
				continue
			}
			return all, os.NewSyscallError("ioctl SECCOMP_IOCTL_NOTIF_RECV", errno)
		}
		if all == nil {
			if all, err = openMemory(pid); err != nil {
				return nil, err
			}
		}
		name := make([]byte, len(memoryName)+1)
		if _, err := all.ReadAt(name, int64(q.args[1])); err == nil && bytes.Equal(name, []byte(memoryName+"\x00")) {
			a := addition{id: q.id, flags: unix.SECCOMP_ADDFD_FLAG_SEND, from: uint32(memory.Fd()), flagsOfIt: unix.O_CLOEXEC}
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_ADDFD, uintptr(unsafe.Pointer(&a))); errno != 0 {
				return all, os.NewSyscallError("ioctl SECCOMP_IOCTL_NOTIF_ADDFD", errno)
			}
			return all, nil
		}
		a := reply{id: q.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a))); errno != 0 && errno != unix.ENOENT {
			return all, os.NewSyscallError("ioctl SECCOMP_IOCTL_NOTIF_SEND", errno)
		}
	}
}

// openMemory opens the memory of QEMU, as pid, for reading and writing. Who has QEMU's user for files may, which takes no right that the monitor would not have already; what was opened
// stays usable when it has none.
func openMemory(pid int) (f *os.File, err error) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		runtime.LockOSThread() // for good: the thread's user is another
		if err = unix.Setfsgid(qemuUser); err == nil {
			err = unix.Setfsuid(qemuUser)
		}
		if err == nil {
			f, err = os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
		}
	}()
	<-over
	return f, err
}
