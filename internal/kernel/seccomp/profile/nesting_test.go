package profile

import (
	"slices"
	"testing"

	"brig/internal/kernel/seccomp"
)

// TestNesting: what a container's runtime calls is allowed, what is about the machine is not, and the default profile that it comes from stays as it is.
func TestNesting(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		before := defaultFor(&host{arch, version{6, 1}, dockerDefault})
		p := nesting(&host{arch, version{6, 1}, nestingCaps[:]})
		if _, err := seccomp.CompileFor(arch, p); err != nil {
			t.Error(err)
		}
		allowed := func(call string) bool {
			for _, r := range p.Syscalls {
				if slices.Contains(r.Names, call) && r.Action == "SCMP_ACT_ALLOW" && len(r.Args) == 0 {
					return true
				}
			}
			return false
		}
		for _, call := range []string{"clone", "clone3", "unshare", "setns", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr", "fsopen", "fsconfig", "fsmount", "sethostname",
			"keyctl", "chroot", "ptrace", "read"} {
			if !allowed(call) {
				t.Errorf("%s: %s is refused", arch, call)
			}
		}
		for _, call := range []string{"bpf", "perf_event_open", "init_module", "finit_module", "kexec_load", "reboot", "settimeofday", "swapon", "open_by_handle_at", "fanotify_init", "quotactl", "acct",
			"iopl", "io_uring_setup", "userfaultfd", "syslog"} {
			if allowed(call) {
				t.Errorf("%s: %s is allowed", arch, call)
			}
		}
		if after := defaultFor(&host{arch, version{6, 1}, dockerDefault}); len(after.Syscalls) != len(before.Syscalls) {
			t.Errorf("%s: the default profile has %d rules after, %d before", arch, len(after.Syscalls), len(before.Syscalls))
		}
	}
	for _, r := range defaultRules {
		if slices.Contains(r.Names, "pivot_root") || slices.Contains(r.Names, "mount") && !slices.Contains(r.Names, "bpf") {
			t.Errorf("the default profile's rules were changed: %v", r.Names)
		}
	}
}
