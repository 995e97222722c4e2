package monitor

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of linux/kvm.h.
const (
	kvmCreateVM   = 0xae01
	kvmVCPUSize   = 0xae04
	kvmCreateVCPU = 0xae41
	kvmRun        = 0xae80
	kvmSetRegs    = 0x4090ae82
	kvmGetSregs   = 0x8138ae83
	kvmSetSregs   = 0x4138ae84
	kvmSetMemory  = 0x4020ae46
	kvmExitHlt    = 5
	exitReason    = 8 // offset in struct kvm_run
)

// budget is how many times the guest goes round: some 10 ms of a processor's, some seconds of an emulator's.
const budget = 20_000_000

func probe() int {
	if err := runGuest(budget); err != nil {
		fmt.Fprintln(os.Stderr, "/dev/kvm:", err)
		return 1
	}
	return 0
}

// runGuest has a guest count down from rounds.
func runGuest(rounds uint32) error {
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(kvm)
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("making a machine: %w", err)
	}
	defer unix.Close(vm)
	const size = 4 << 20
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(memory) //nolint:errcheck // it was mapped
	region := struct {
		slot, flags      uint32
		at, length, host uint64
	}{length: size, host: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	if _, err := ioctl(vm, kvmSetMemory, uintptr(unsafe.Pointer(&region))); err != nil {
		return fmt.Errorf("the machine's memory: %w", err)
	}
	cpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("a processor: %w", err)
	}
	defer unix.Close(cpu)
	n, err := ioctl(kvm, kvmVCPUSize, 0)
	if err != nil {
		return err
	}
	state, err := unix.Mmap(cpu, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(state) //nolint:errcheck // it was mapped

	// mov ecx, rounds; again: mov [0x2000], ecx; dec ecx; jnz again; hlt: in real mode, which a processor starts in.
	const code = 0x1000
	copy(memory[code:], []byte{
		0x66, 0xb9, byte(rounds), byte(rounds >> 8), byte(rounds >> 16), byte(rounds >> 24),
		0x66, 0x89, 0x0e, 0x00, 0x20, 0x66, 0x49, 0x75, 0xf7, 0xf4,
	})
	var sregs [312]byte // struct kvm_sregs
	if _, err := ioctl(cpu, kvmGetSregs, uintptr(unsafe.Pointer(&sregs[0]))); err != nil {
		return err
	}
	clear(sregs[:8])    // the base of cs, struct kvm_segment: base u64, limit u32, selector u16, …
	clear(sregs[12:14]) // and its selector
	if _, err := ioctl(cpu, kvmSetSregs, uintptr(unsafe.Pointer(&sregs[0]))); err != nil {
		return err
	}
	var regs [18]uint64 // struct kvm_regs: 16 registers, rip, rflags
	regs[16], regs[17] = code, 2
	if _, err := ioctl(cpu, kvmSetRegs, uintptr(unsafe.Pointer(&regs[0]))); err != nil {
		return err
	}
	for {
		_, err := ioctl(cpu, kvmRun, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("running: %w", err)
		}
		if reason := *(*uint32)(unsafe.Pointer(&state[exitReason])); reason != kvmExitHlt {
			return fmt.Errorf("the guest stopped for the reason %d instead of when it was done", reason)
		}
		return nil
	}
}

func ioctl(fd int, request, arg uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
