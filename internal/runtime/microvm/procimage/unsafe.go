package procimage

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// address is where a slice is.
func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

func pointer[T any](p *T) unsafe.Pointer { return unsafe.Pointer(p) }

// bytesOf are those of a value without pointers.
func bytesOf[T any](p *T) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))...)
}

func ptrace(request, tid int, addr, data uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// ptraceInto is for what has an answer.
func ptraceInto(request, tid int, addr uintptr, data unsafe.Pointer) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, uintptr(data), 0, 0); errno != 0 {
		return errno
	}
	return nil
}
