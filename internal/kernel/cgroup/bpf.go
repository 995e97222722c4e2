package cgroup

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"brig/api"
)

// On version 2 device rules are an eBPF program of type CGROUP_DEVICE that the kernel runs at each open and mknod of a device, and that
// returns 1 to allow. It is assembled by hand: a BPF library with loader and type information adds more to an idle process than
// this file.

// insn is struct bpf_insn.
type insn struct {
	code byte
	regs byte // destination in the low four bits, source in the high
	off  int16
	imm  int32
}

// Opcodes (include/uapi/linux/bpf.h) and the registers that the program uses.
const (
	opLoadWord = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opMov      = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	opMovReg   = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	opAnd32    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opShr32    = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	opJmpNe    = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
	opExit     = unix.BPF_JMP | unix.BPF_EXIT

	regResult, regContext, regKind, regAccess, regMajor, regMinor, regScratch = 0, 1, 2, 3, 4, 5, 6
)

// program assembles the rules for struct bpf_cgroup_dev_ctx{access_type, major, minor}: access_type holds the kind in its low half and
// the access in its high. An exception to "deny" must hold all the access that is asked for; one to "allow" counts when it holds any.
func (s *deviceSet) program() []insn {
	p := []insn{
		{code: opLoadWord, regs: regKind | regContext<<4, off: 0},
		{code: opMovReg, regs: regAccess | regKind<<4},
		{code: opAnd32, regs: regKind, imm: 0xffff},
		{code: opShr32, regs: regAccess, imm: 16},
		{code: opLoadWord, regs: regMajor | regContext<<4, off: 4},
		{code: opLoadWord, regs: regMinor | regContext<<4, off: 8},
	}
	result := func(allow bool) []insn {
		r := insn{code: opMov, regs: regResult}
		if allow {
			r.imm = 1
		}
		return []insn{r, {code: opExit}}
	}
	for _, e := range s.exceptions {
		var rule []insn
		kind := int32(unix.BPF_DEVCG_DEV_CHAR)
		if e.kind == 'b' {
			kind = unix.BPF_DEVCG_DEV_BLOCK
		}
		rule = append(rule, insn{code: opJmpNe, regs: regKind, imm: kind})
		if e.major != wild {
			rule = append(rule, insn{code: opJmpNe, regs: regMajor, imm: int32(e.major)})
		}
		if e.minor != wild {
			rule = append(rule, insn{code: opJmpNe, regs: regMinor, imm: int32(e.minor)})
		}
		if e.access != accAll {
			mask := int32(e.access)
			jump := byte(unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K) // any of the access: skip when none is left
			if !s.allow {
				mask, jump = accAll&^mask, opJmpNe // all of it: skip when something else is asked for
			}
			rule = append(rule, insn{code: opMovReg, regs: regScratch | regAccess<<4}, insn{code: opAnd32, regs: regScratch, imm: mask},
				insn{code: jump, regs: regScratch, imm: 0})
		}
		rule = append(rule, result(!s.allow)...)
		for i := range rule { // a condition that fails goes to the next rule
			if c := rule[i].code; c == opJmpNe || c == unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K {
				rule[i].off = int16(len(rule) - i - 1)
			}
		}
		p = append(p, rule...)
	}
	return append(p, result(s.allow)...)
}

// attach loads the program and puts it on a v2 group in the place of those that were there.
func (s *deviceSet) attach(dir string) error {
	group, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return deviceError(err)
	}
	defer unix.Close(group)
	old, err := attached(group)
	if err != nil {
		return deviceError(err)
	}
	prog, err := load(s.program())
	if err != nil {
		return deviceError(err)
	}
	defer unix.Close(prog)
	// With ALLOW_MULTI all programs of a group must allow: old and new stand together for a moment, never none.
	attr := struct{ target, prog, kind, flags, replace uint32 }{uint32(group), uint32(prog), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI, 0}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return deviceError(&os.PathError{Op: "attach BPF device program to", Path: dir, Err: err})
	}
	for _, id := range old {
		if err := detach(group, id); err != nil {
			return deviceError(&os.PathError{Op: "detach BPF device program from", Path: dir, Err: err})
		}
	}
	return nil
}

func load(prog []insn) (int, error) {
	license := []byte("Apache\x00")
	var pin runtime.Pinner // the kernel gets these addresses inside of attr, where neither stack nor collector would correct them
	defer pin.Unpin()
	pin.Pin(&prog[0])
	pin.Pin(&license[0])
	attr := struct {
		kind, count      uint32
		insns, license   uint64
		level, size      uint32
		log              uint64
		version, flags   uint32
		name             [16]byte
		ifindex, expects uint32
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(prog)),
		insns: uint64(uintptr(unsafe.Pointer(&prog[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
		expects: unix.BPF_CGROUP_DEVICE,
	}
	copy(attr.name[:], "brig_devices")
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	switch err {
	case nil:
		return fd, nil
	case unix.EPERM, unix.ENOSYS, unix.EINVAL:
		return -1, api.Errorf(api.Unsupported, "load BPF device program: %w: it needs CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) and a kernel with CONFIG_CGROUP_BPF", err)
	}
	return -1, os.NewSyscallError("bpf(PROG_LOAD)", err)
}

// attached lists the IDs of the device programs of a group itself.
func attached(group int) ([]uint32, error) {
	ids := make([]uint32, 64) // the kernel's own bound (BPF_CGROUP_MAX_PROGS)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids[0])
	attr := struct {
		target, kind, query, flags uint32
		ids                        uint64
		count, pad                 uint32
	}{target: uint32(group), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: uint32(len(ids))}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, os.NewSyscallError("bpf(PROG_QUERY)", err)
	}
	return ids[:attr.count], nil
}

func detach(group int, id uint32) error {
	get := struct{ id, next, flags uint32 }{id: id}
	prog, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(prog)
	attr := struct{ target, prog, kind uint32 }{uint32(group), uint32(prog), unix.BPF_CGROUP_DEVICE}
	_, err = bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// bpf is bpf(2). EAGAIN, from a signal during verification, is tried again.
func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EAGAIN {
			return -1, errno
		}
	}
}
