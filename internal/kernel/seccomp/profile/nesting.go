package profile

import (
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// nestingCaps are the capabilities that docker's profile is asked for a container that runs containers: what comes with others, such as the loading of modules, the clock,
// ports and raw devices, the kernel keeps for root of the machine anyway, and a container's runtime has no use for it.
var nestingCaps = [...]string{"CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_NICE", "CAP_SYS_TTY_CONFIG"}

// nestingMore are calls that docker's profile refuses to everybody: a runtime changes its root, and gives each container a session keyring.
var nestingMore = [...]string{"pivot_root", "keyctl", "add_key", "request_key"}

// nestingLess are calls that CAP_SYS_ADMIN brings in docker's profile, and that are about the machine or a wide door into its kernel.
var nestingLess = [...]string{"bpf", "fanotify_init", "lookup_dcookie", "perf_event_open", "quotactl", "quotactl_fd", "syslog"}

// Nesting is the profile of a container that runs containers, in a user namespace: docker's default with what their runtime calls, the making of namespaces and mounts
// above all.
func Nesting() *specs.LinuxSeccomp {
	return nesting(&host{runtime.GOARCH, kernel(), nestingCaps[:]})
}

func nesting(h *host) *specs.LinuxSeccomp {
	p := defaultFor(h)
	for i := range p.Syscalls {
		r := &p.Syscalls[i] // of a list of its own; the names are shared
		if slices.Contains(r.Names, "bpf") {
			r.Names = slices.DeleteFunc(slices.Clone(r.Names), func(name string) bool { return slices.Contains(nestingLess[:], name) })
		}
	}
	p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: nestingMore[:], Action: specs.ActAllow})
	return p
}
