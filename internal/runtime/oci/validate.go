package oci

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/weak"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/resctrl"
	"brig/internal/kernel/userns"
)

// Validate refuses a configuration that is wrong or asks for what is not built, by the field's name, before anything is made.
func Validate(s *specs.Spec) error {
	if s.Process == nil {
		return api.Errorf(api.InvalidArgument, "config.json: process is missing")
	}
	if s.Root == nil {
		return api.Errorf(api.InvalidArgument, "config.json: root is missing")
	}
	if s.Linux == nil {
		return api.Errorf(api.InvalidArgument, "config.json: linux is missing: this runtime makes Linux containers")
	}
	if err := validateProcess(s.Process); err != nil {
		return err
	}
	if err := validateHooks(s.Hooks); err != nil {
		return err
	}
	if n := len(s.Mounts); n > maxMounts && !weak.Size {
		return api.Errorf(api.InvalidArgument, "config.json: mounts: %d are too many: at most %d", n, maxMounts)
	}
	if err := validateMounts(s); err != nil {
		return err
	}
	seen := map[specs.LinuxNamespaceType]bool{}
	for _, n := range s.Linux.Namespaces {
		if seen[n.Type] {
			return api.Errorf(api.InvalidArgument, "config.json: linux.namespaces: %s is listed twice", n.Type)
		}
		seen[n.Type] = true
		switch n.Type {
		case specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		case specs.UserNamespace:
			if err := validateUserNS(s, &n); err != nil {
				return err
			}
		default:
			return api.Errorf(api.InvalidArgument, "config.json: linux.namespaces: unknown type %q", n.Type)
		}
	}
	if !seen[specs.UserNamespace] && len(s.Linux.UIDMappings)+len(s.Linux.GIDMappings) > 0 {
		return api.Errorf(api.InvalidArgument, "config.json: linux.uidMappings or linux.gidMappings is set, but linux.namespaces has no user namespace")
	}
	if err := validateNetDevices(s.Linux.NetDevices, seen[specs.NetworkNamespace]); err != nil {
		return err
	}
	if s.Hostname != "" && !seen[specs.UTSNamespace] {
		return api.Errorf(api.InvalidArgument, "config.json: hostname is set, but the container has no UTS namespace of its own")
	}
	if err := cgroup.Validate(s.Linux.Resources); err != nil {
		return err
	}
	if err := resctrl.Validate(s.Linux.IntelRdt); err != nil {
		return err
	}
	for k := range s.Linux.Sysctl {
		if err := validateSysctl(k, seen); err != nil {
			return err
		}
	}
	return validateLinuxAttributes(s.Linux)
}

// validateUserNS wants mappings for a new user namespace, and the process's ids among them.
func validateUserNS(s *specs.Spec, n *specs.LinuxNamespace) error {
	uids, gids := s.Linux.UIDMappings, s.Linux.GIDMappings
	if n.Path == "" && (len(uids) == 0 || len(gids) == 0) {
		return api.Errorf(api.InvalidArgument, "config.json: linux.uidMappings or linux.gidMappings is missing: a new user namespace has no ids without")
	}
	if err := userns.Validate("config.json: linux.uidMappings", uids); err != nil {
		return err
	}
	if err := userns.Validate("config.json: linux.gidMappings", gids); err != nil {
		return err
	}
	switch u := &s.Process.User; {
	case len(uids) > 0 && !userns.Has(uids, u.UID):
		return api.Errorf(api.InvalidArgument, "config.json: process.user.uid: %d is not in linux.uidMappings", u.UID)
	case len(gids) > 0 && !userns.Has(gids, u.GID):
		return api.Errorf(api.InvalidArgument, "config.json: process.user.gid: %d is not in linux.gidMappings", u.GID)
	}
	return nil
}

// maxMounts and maxHooks (of each kind) bound how long a creation may take. The kernel would take 100000 mounts in a namespace
// (proc_sys_fs(5), mount-max), a second for every few thousand.
const (
	maxMounts = 8192
	maxHooks  = 1024
)

// validateIDs refuses the number that stands for "leave it as it is" in setresuid(2) and setresgid(2): the process would stay root.
func validateIDs(u *specs.User) error {
	const none = 1<<32 - 1
	switch {
	case weak.IDs:
	case u.UID == none:
		return api.Errorf(api.InvalidArgument, "config.json: process.user.uid: %d is no user", u.UID)
	case u.GID == none:
		return api.Errorf(api.InvalidArgument, "config.json: process.user.gid: %d is no group", u.GID)
	case slices.Contains(u.AdditionalGids, none):
		return api.Errorf(api.InvalidArgument, "config.json: process.user.additionalGids: %d is no group", uint32(none))
	}
	return nil
}

func validateProcess(p *specs.Process) error {
	if err := validateIDs(&p.User); err != nil {
		return err
	}
	if len(p.Args) == 0 {
		return api.Errorf(api.InvalidArgument, "config.json: process.args is empty: there is no command to run")
	}
	if !path.IsAbs(p.Cwd) {
		return api.Errorf(api.InvalidArgument, "config.json: process.cwd %q is not an absolute path", p.Cwd)
	}
	for _, list := range [][]string{p.Args, p.Env, {p.Cwd}} {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return api.Errorf(api.InvalidArgument, "config.json: process: %q has a NUL byte", s)
			}
		}
	}
	return validateAttributes(p)
}

// validateSysctl allows what a namespace of the container's own holds, as runc does: anything else would change the host.
func validateSysctl(key string, own map[specs.LinuxNamespaceType]bool) error {
	if weak.Sysctl {
		return nil
	}
	k := strings.ReplaceAll(key, "/", ".")
	for _, part := range strings.Split(k, ".") {
		if part == "" || part == ".." || strings.ContainsAny(part, "+\n\x00 ") {
			return api.Errorf(api.InvalidArgument, "sysctl %q is not a valid name", key)
		}
	}
	ok := false
	switch {
	case strings.HasPrefix(k, "net."):
		ok = own[specs.NetworkNamespace]
	case strings.HasPrefix(k, "fs.mqueue."), strings.HasPrefix(k, "kernel.shm"), strings.HasPrefix(k, "kernel.msg"), k == "kernel.sem":
		ok = own[specs.IPCNamespace]
	case k == "kernel.domainname":
		ok = own[specs.UTSNamespace]
	default:
		return api.Errorf(api.InvalidArgument, "sysctl %q is not namespaced: it would change the host", key)
	}
	if !ok {
		return api.Errorf(api.InvalidArgument, "sysctl %q: the container shares that namespace with the host, so it would change the host", key)
	}
	return nil
}
