// Package caps is the arithmetic of Linux capabilities (capabilities(7)): names and numbers, what the kernel has, docker's default set
// and what --cap-add and --cap-drop make of it, and the data of capset(2).
//
// A set is a Set, one bit a capability. Text comes in as docker takes it, in any case and with or without the prefix CAP_, and goes out
// as the OCI spec wants it, in capitals and with the prefix. What is "all" depends on the machine: Available asks the kernel for the
// bounding set of this process, since a capability outside it cannot be given to anyone by us.
package caps

import (
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"brig/api"
)

// Set is a set of capabilities: bit n stands for capability number n, as in the masks of /proc/PID/status.
type Set uint64

// Default is docker's set for a container that asks for nothing (moby daemon/pkg/oci/caps).
const Default Set = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FSETID | 1<<unix.CAP_FOWNER | 1<<unix.CAP_MKNOD |
	1<<unix.CAP_NET_RAW | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_SETPCAP |
	1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_KILL | 1<<unix.CAP_AUDIT_WRITE

// names by number (include/uapi/linux/capability.h, Linux 6.18).
var names = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
	"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// all is the word that stands for every capability in --cap-add and --cap-drop.
const all = "ALL"

// Number returns the number of a capability name; ok is false for a name that Linux does not have.
func Number(name string) (n int, ok bool) {
	if len(name) >= 4 && strings.EqualFold(name[:4], "CAP_") {
		name = name[4:]
	}
	for n, s := range names {
		if strings.EqualFold(s[4:], name) {
			return n, true
		}
	}
	return 0, false
}

// Name returns the name of capability n, "" where Linux has none.
func Name(n int) string {
	if n < 0 || n >= len(names) {
		return ""
	}
	return names[n]
}

// Parse makes a set of names; api.InvalidArgument names the first unknown one. The word ALL is not a name here.
func Parse(list []string) (Set, error) {
	var s Set
	for _, name := range list {
		n, ok := Number(name)
		if !ok {
			return 0, api.Errorf(api.InvalidArgument, "unknown capability %q: `man 7 capabilities` lists them", name)
		}
		s |= 1 << n
	}
	return s, nil
}

// Known makes a set of those names that Linux has, and ignores the others, as the OCI spec wants it of a runtime.
func Known(list []string) Set {
	var s Set
	for _, name := range list {
		if n, ok := Number(name); ok {
			s |= 1 << n
		}
	}
	return s
}

// Has reports whether capability n is in the set.
func (s Set) Has(n int) bool { return n >= 0 && n < 64 && s>>n&1 != 0 }

// Names lists the set by number. Bits that have no name here (a newer kernel's) are left out.
func (s Set) Names() []string {
	list := make([]string, 0, len(names))
	for n, name := range names {
		if s.Has(n) {
			list = append(list, name)
		}
	}
	return list
}

// kernel is what Last and Available tell, asked once.
type kernel struct {
	last     int
	bounding Set
}

var (
	asked  sync.Once
	answer kernel
)

func ask() kernel {
	asked.Do(func() { answer = probe() })
	return answer
}

func probe() kernel {
	k := kernel{last: -1}
	for n := range 64 {
		// PR_CAPBSET_READ knows every capability of the running kernel and says EINVAL for the first that it does not have: the
		// same answer as /proc/sys/kernel/cap_last_cap, also where /proc is not mounted.
		v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
		if err != nil {
			break
		}
		k.last = n
		if v == 1 {
			k.bounding |= 1 << n
		}
	}
	return k
}

// Last is the number of the newest capability of the running kernel, named here or not.
func Last() int { return ask().last }

// Available is the bounding set of this process as it was when first asked: more it cannot give to a container.
func Available() Set { return ask().bounding }

// Resolve says which capabilities a container gets, by docker's rules: privileged gives all that are available; ALL in add gives all but
// those in drop; ALL in drop gives just those in add; otherwise the default set without drop, with add. A capability in add that this
// kernel, or the environment that Brig runs in, does not have is api.Unsupported.
func Resolve(add, drop []string, privileged bool) ([]string, error) {
	if privileged {
		return Available().Names(), nil
	}
	more, addAll, err := withAll(add)
	if err != nil {
		return nil, err
	}
	less, dropAll, err := withAll(drop)
	if err != nil {
		return nil, err
	}
	if missing := more &^ Available(); missing != 0 {
		return nil, api.Errorf(api.Unsupported, "capability %s: this kernel does not have it, or the environment that brig runs in holds it back",
			strings.Join(missing.Names(), ", "))
	}
	switch {
	case addAll:
		return (Available() &^ less).Names(), nil
	case dropAll:
		return more.Names(), nil
	}
	return (Default&^less&Available() | more).Names(), nil
}

// withAll is Parse with the word ALL told apart.
func withAll(list []string) (s Set, hasAll bool, err error) {
	rest := list[:0:0]
	for _, name := range list {
		if strings.EqualFold(name, all) {
			hasAll = true
		} else {
			rest = append(rest, name)
		}
	}
	s, err = Parse(rest)
	return s, hasAll, err
}

// Data is what capset(2) takes.
type Data struct {
	Header unix.CapUserHeader
	Sets   [2]unix.CapUserData
}

// NewData packs three sets for the calling thread.
func NewData(effective, permitted, inheritable Set) Data {
	return Data{
		Header: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3},
		Sets: [2]unix.CapUserData{
			{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
			{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)},
		},
	}
}

// Set calls capset(2) for the calling thread alone.
func (d *Data) Set() error { return unix.Capset(&d.Header, &d.Sets[0]) }
