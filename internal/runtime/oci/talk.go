package oci

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is room for what the child says or is told together with one descriptor: struct msghdr of sendmsg(2) and what it points to, prepared so that nothing is left
// to allocate.
type message struct {
	head    unix.Msghdr
	vector  unix.Iovec
	text    [2]int32
	control struct {
		head unix.Cmsghdr
		fd   int32
		_    int32
	}
}

// aim makes the pointers point. It is for the parent: the child must not store a pointer, which the garbage collector would have to be told of.
func (m *message) aim() {
	m.vector.Base = (*byte)(unsafe.Pointer(&m.text))
	m.vector.Len = uint64(unsafe.Sizeof(m.text))
	m.head = unix.Msghdr{Iov: &m.vector, Iovlen: 1, Control: (*byte)(unsafe.Pointer(&m.control))}
}

const (
	controlSize = uint64(unsafe.Sizeof(message{}.control))
	rightsSize  = uint64(unsafe.Sizeof(unix.Cmsghdr{})) + 4 // of one descriptor: CMSG_LEN(4)
)

// send says a stage, with a descriptor. In the child.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func (m *message) send(socket int, stage, fd int32) syscall.Errno {
	m.head.Controllen = controlSize
	m.control.head.Len, m.control.head.Level, m.control.head.Type = rightsSize, unix.SOL_SOCKET, unix.SCM_RIGHTS
	m.text[0], m.text[1], m.control.fd = stage, 0, fd
	for {
		_, _, e := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(socket), uintptr(unsafe.Pointer(&m.head)), unix.MSG_NOSIGNAL)
		if e != unix.EINTR {
			return e
		}
	}
}

// receive takes a word, and the descriptor with it; -1: there is none. In the child, which ends when its parent has.
//
//go:nosplit
//go:noinline
//go:norace
//go:nocheckptr
func (m *message) receive(socket int) (int32, syscall.Errno) {
	for {
		m.head.Controllen = controlSize
		n, _, e := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(socket), uintptr(unsafe.Pointer(&m.head)), unix.MSG_CMSG_CLOEXEC)
		switch {
		case e == unix.EINTR:
			continue
		case e != 0:
			return -1, e
		case n == 0:
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
		case m.head.Controllen < rightsSize:
			return -1, 0
		}
		return m.control.fd, 0
	}
}

// newTalk makes the socket between a child and its parent. It keeps the boundaries of messages.
func newTalk() (parent, child int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, os.NewSyscallError("socketpair", err)
	}
	return pair[0], pair[1], nil
}
