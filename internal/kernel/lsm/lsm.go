// Package lsm asks whether the kernel enforces AppArmor or SELinux, whose labels a container's process may be given.
package lsm

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
)

// Host is the machine to ask. Root is put before every path: "" for this one.
type Host struct {
	Root string
}

// AppArmor is nil where AppArmor enforces profiles. Like runc it wants securityfs too: a container whose host has AppArmor may not see it, and
// could not load profiles either.
func (h Host) AppArmor() error {
	const hint = "leave the profile out, or load the module with the kernel parameter lsm=…,apparmor"
	if _, err := os.Stat(h.Root + "/sys/kernel/security/apparmor"); err != nil {
		return api.Errorf(api.Unsupported, "this kernel has no AppArmor (%s/sys/kernel/security/apparmor is missing): %s", h.Root, hint)
	}
	on, err := os.ReadFile(h.Root + "/sys/module/apparmor/parameters/enabled")
	if err != nil || len(on) == 0 || on[0] != 'Y' {
		return api.Errorf(api.Unsupported, "AppArmor is off on this machine (/sys/module/apparmor/parameters/enabled): %s", hint)
	}
	return nil
}

// SELinux is nil where SELinux has a policy. Without one, every process has the context "kernel".
func (h Host) SELinux() error {
	const off = "SELinux is off on this machine"
	var st unix.Statfs_t
	dir := filepath.Join(h.Root, "/sys/fs/selinux")
	if err := unix.Statfs(dir, &st); err != nil || h.Root == "" && st.Type != unix.SELINUX_MAGIC {
		return api.Errorf(api.Unsupported, "%s (no selinuxfs at %s): leave the label out", off, dir)
	}
	context, err := os.ReadFile(h.Root + "/proc/thread-self/attr/current")
	if label := strings.TrimRight(string(context), "\x00\n"); err != nil || label == "" || label == "kernel" {
		return api.Errorf(api.Unsupported, "%s (no policy is loaded): leave the label out", off)
	}
	return nil
}
