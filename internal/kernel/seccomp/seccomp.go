// Package seccomp compiles the seccomp section of an OCI config (config-linux.md, "Seccomp") to the classic BPF program that seccomp(2)
// takes, without libseccomp.
//
// What a profile means is what runc and crun make of it:
//
//   - The conditions of one rule hold together; several rules for a call are alternatives. A rule that names one argument twice is a rule
//     for each of its conditions, as runc has it since libseccomp cannot say otherwise.
//   - A rule without conditions decides its call alone; of several the first. Rules with more conditions go before those with fewer, and
//     otherwise in the order of the profile. A rule with the default action is no rule.
//   - Names that no architecture here knows are ignored: they belong to others, or to a newer kernel.
//   - Where the default is to refuse, a call that is newer than all that the profile names gives ENOSYS, so that a C library which asks
//     for a new call falls back to the old one.
//   - Calls by an architecture that the profile does not list kill the process.
//   - On 386, rules for socket and System V IPC calls count for socketcall and ipc too, where these carry them.
//
// The program is a binary search over the numbers, an architecture after the other. It loads arguments only where a rule asks for
// them: since Linux 5.11 the kernel tries the filter on each number when it is installed, remembers those that it allows whatever
// their arguments, and does not run it for them again, so that their order does not matter.
package seccomp

import (
	"encoding/binary"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

//go:generate go run ./internal/gentables

// MaxInstructions is the kernel's bound on a program (BPF_MAXINSNS).
const MaxInstructions = 4096

// Filter is a compiled profile.
type Filter struct {
	Prog   []unix.SockFilter
	Flags  uint // of seccomp(2), SECCOMP_FILTER_FLAG_NEW_LISTENER among them where Notify is set
	Notify bool // some call is handed to the listener at listenerPath
}

// Bytes is the program as the kernel reads it, for handing it to another process.
func (f *Filter) Bytes() []byte {
	b := make([]byte, 0, 8*len(f.Prog))
	for _, i := range f.Prog {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b
}

// FromBytes is the way back.
func FromBytes(b []byte) []unix.SockFilter {
	prog := make([]unix.SockFilter, len(b)/8)
	for i := range prog {
		p := b[8*i:]
		prog[i] = unix.SockFilter{Code: binary.NativeEndian.Uint16(p), Jt: p[2], Jf: p[3], K: binary.NativeEndian.Uint32(p[4:])}
	}
	return prog
}

// entry is a system call with its numbers plus one on the architectures of a family; 0 is none.
type entry struct {
	name string
	nr   [3]uint32
}

// arch is an architecture whose programs the kernel runs.
type arch struct {
	name   specs.Arch
	audit  uint32 // AUDIT_ARCH_* as the filter sees it
	offset uint32 // added to the numbers of the table
	narrow bool   // arguments are 32 bits wide
}

// x32Offset marks the calls of x32, which share AUDIT_ARCH_X86_64.
const x32Offset = 0x40000000

// family is the native architecture and those that its kernel can run beside it.
type family struct {
	archs []arch
	table []entry
}

func amd64() family {
	return family{[]arch{
		{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, 0, false},
		{specs.ArchX86, unix.AUDIT_ARCH_I386, 0, true},
		{specs.ArchX32, unix.AUDIT_ARCH_X86_64, x32Offset, true},
	}, tableAMD64[:]}
}

func arm64() family {
	return family{[]arch{
		{specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, 0, false},
		{specs.ArchARM, unix.AUDIT_ARCH_ARM, 0, true},
	}, tableARM64[:]}
}

// familyOf is the family of an architecture by Go's name.
func familyOf(goarch string) (family, error) {
	switch goarch {
	case "amd64":
		return amd64(), nil
	case "arm64":
		return arm64(), nil
	}
	return family{}, noTable(goarch)
}

func noTable(goarch string) error {
	return api.Errorf(api.Unsupported, "seccomp: no system call table for %s: --security-opt seccomp=unconfined runs without a filter", goarch)
}

// find looks a name up; nil where the family does not have it.
func (f *family) find(name string) *entry {
	lo, hi := 0, len(f.table)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if f.table[mid].name < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(f.table) && f.table[lo].name == name {
		return &f.table[lo]
	}
	return nil
}

// flags translates the profile's flags. As with runc, no list at all means SPEC_ALLOW (do not switch speculation off), an empty one none.
func flags(list []specs.LinuxSeccompFlag) (uint, error) {
	if list == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var f uint
	for _, name := range list {
		switch name {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			f |= unix.SECCOMP_FILTER_FLAG_TSYNC
		case specs.LinuxSeccompFlagLog:
			f |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			f |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			f |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		default:
			return 0, api.Errorf(api.InvalidArgument, "seccomp: unknown flag %q", name)
		}
	}
	return f, nil
}

// action translates an action to the filter's return value. errno is for SCMP_ACT_ERRNO and SCMP_ACT_TRACE, EPERM where it is missing.
func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if a != specs.ActErrno && a != specs.ActTrace {
			return 0, api.Errorf(api.InvalidArgument, "seccomp: errnoRet goes with SCMP_ACT_ERRNO and SCMP_ACT_TRACE, not with %s", a)
		}
		if *errno > unix.SECCOMP_RET_DATA {
			return 0, api.Errorf(api.InvalidArgument, "seccomp: errnoRet %d is more than 65535", *errno)
		}
		data = uint32(*errno)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	}
	return 0, api.Errorf(api.InvalidArgument, "seccomp: unknown action %q", a)
}
