package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// Check refuses what Compile would refuse of a profile's words, without the work of making a program. notify tells whether a call is handed to
// a listener.
func Check(s *specs.LinuxSeccomp) (notify bool, err error) {
	if _, err := flags(s.Flags); err != nil {
		return false, err
	}
	if _, err := action(s.DefaultAction, s.DefaultErrnoRet); err != nil {
		return false, err
	}
	if s.DefaultAction == specs.ActNotify {
		return false, errNotifyAll()
	}
	for _, a := range s.Architectures {
		if err := checkArch(a); err != nil {
			return false, err
		}
	}
	for i := range s.Syscalls {
		c := &s.Syscalls[i]
		if len(c.Names) == 0 {
			return false, api.Errorf(api.InvalidArgument, "seccomp: syscalls[%d].names is empty", i)
		}
		if _, err := action(c.Action, c.ErrnoRet); err != nil {
			return false, err
		}
		if _, err := checkArgs(c.Args); err != nil {
			return false, err
		}
		if c.Action != specs.ActNotify {
			continue
		}
		notify = true
		for _, name := range c.Names {
			if name == "write" {
				return false, errNotifyWrite()
			}
		}
	}
	return notify, nil
}

// checkArgs checks the conditions of a rule; twice tells that an argument comes in two of them.
func checkArgs(conds []specs.LinuxSeccompArg) (twice bool, err error) {
	var seen [6]bool
	for _, a := range conds {
		if a.Index >= uint(len(seen)) {
			return false, api.Errorf(api.InvalidArgument, "seccomp: argument index %d: a system call has six, 0 to 5", a.Index)
		}
		switch a.Op {
		case specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		default:
			return false, api.Errorf(api.InvalidArgument, "seccomp: unknown operator %q", a.Op)
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	return twice, nil
}

func checkArch(a specs.Arch) error {
	if len(a) < len("SCMP_ARCH_X") || a[:len("SCMP_ARCH_")] != "SCMP_ARCH_" {
		return api.Errorf(api.InvalidArgument, "seccomp: unknown architecture %q: they are named like SCMP_ARCH_X86_64", a)
	}
	return nil
}

func errNotifyAll() error {
	return api.Errorf(api.InvalidArgument, "seccomp: SCMP_ACT_NOTIFY cannot be the default action: the call that hands the listener over would wait for it")
}

func errNotifyWrite() error {
	return api.Errorf(api.InvalidArgument, "seccomp: SCMP_ACT_NOTIFY cannot be used for write: the runtime needs it after the filter stands")
}

// withListener makes the flags fit together (seccomp(2)): a listener takes the place of TSYNC's return value, so that a failure must be an errno,
// and without one there is nobody whose answer could be waited for.
func withListener(flags uint, notify bool) uint {
	if !notify {
		return flags &^ unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	}
	if flags&unix.SECCOMP_FILTER_FLAG_TSYNC != 0 {
		flags |= unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	}
	return flags | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
}
