package engine

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/cgroup"
	"brig/internal/runtime/shim"
)

// Level chroot: a container of package ns without a namespace. Its root is a mount among the host's (internal/runtime/shim/place.go), which its processes are
// locked in by chroot(2), with the user, capabilities, filter, control group and limits that level container has.

// chroot is that level.
func chroot() level {
	return level{name: api.IsolationChroot, usable: chrootUsable, refuses: chrootRefuses(), implies: chrootImplies}
}

// chrootUsable asks the kernel whether this process may mount: the container's root is a mount, and so are /proc, /dev and its volumes.
func chrootUsable() error {
	if rootless.Active() {
		return nil // refused by name, below
	}
	fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return api.Errorf(api.Unsupported, "this process may not mount (fsopen: %w), and a container's root, its /proc, /dev and volumes are mounts: give it CAP_SYS_ADMIN and a system call filter "+
			"that lets mounts through, as in docker with --cap-add SYS_ADMIN --security-opt apparmor=unconfined", err)
	}
	return unix.Close(fd)
}

// chrootRefuses is what cannot be without namespaces.
func chrootRefuses() []refusal {
	const none = "it has no namespace: that is the host's"
	return []refusal{
		{
			"a normal user's containers", "only root may change the root and mount; in a user namespace, where everybody may, the container has namespaces anyhow: use level container",
			func(*api.ContainerSpec) bool { return rootless.Active() },
		},
		{
			"--network other than host, and --network-alias, --ip and --mac-address", none,
			func(s *api.ContainerSpec) bool {
				n := &s.Network
				return n.Mode != "" && n.Mode != api.NamespaceHost || len(n.Networks) > 0 || n.MAC != ""
			},
		},
		{
			"-p and -P", "it has the host's network: what listens in it listens on the host's addresses",
			func(s *api.ContainerSpec) bool { return len(s.Network.Ports) > 0 || s.Network.PublishAll },
		},
		{
			"--pid, --ipc, --uts and --cgroupns other than host", none,
			func(s *api.ContainerSpec) bool {
				n := &s.Namespaces
				return slices.ContainsFunc([]string{n.PID, n.IPC, n.UTS, n.CgroupNS}, func(mode string) bool { return mode != "" && mode != api.NamespaceHost })
			},
		},
		{"--hostname and --domainname", none, func(s *api.ContainerSpec) bool { return s.Hostname != "" || s.Domainname != "" }},
		{"--sysctl", "it would change the host", func(s *api.ContainerSpec) bool { return len(s.Sysctls) > 0 }},
		{
			"--userns other than host, --uidmap, --gidmap, --subuidname and --subgidname", "its users are the host's",
			func(s *api.ContainerSpec) bool { return s.UserNS.Mode != "" },
		},
		{
			"--rootfs without :O", "what ends must be told from other processes by its root, which others may have too",
			func(s *api.ContainerSpec) bool { return s.Rootfs.Dir != "" && !s.Rootfs.Overlay },
		},
		{"--pod", "the containers of a pod share namespaces", func(s *api.ContainerSpec) bool { return s.Pod != "" }},
		{
			"--systemd=always", "systemd is the first process of a PID namespace",
			func(s *api.ContainerSpec) bool { return s.Systemd == api.SystemdAlways },
		},
		{
			"--security-opt nesting", "what runs containers in a container is kept from the host by namespaces",
			isNesting,
		},
	}
}

// chrootImplies enters what the level means for the rest of a spec.
func chrootImplies(s *api.ContainerSpec) {
	s.Network.Mode = api.NamespaceHost
	s.Namespaces = api.NamespaceSet{PID: api.NamespaceHost, IPC: api.NamespaceHost, UTS: api.NamespaceHost, CgroupNS: api.NamespaceHost}
	s.Systemd = api.SystemdFalse
}

func isChroot(s *api.ContainerSpec) bool { return s.Isolation == api.IsolationChroot }

// chrootDrop is the capability of level container that level chroot leaves out unless it is asked for: whoever may change the root gets out of it.
const chrootDrop = "CAP_SYS_CHROOT"

// withoutGroups is why a container of level chroot has no control group; nil: it has one. Where namespaces are forbidden control groups often are, too.
func withoutGroups(s *api.ContainerSpec, layout *cgroup.Layout) error {
	if !isChroot(s) {
		return nil
	}
	return layout.Writable()
}

// chrootSpec makes of the configuration of a container that shares all namespaces with the host one that has none. placeless is why it has no control group.
func chrootSpec(o *specs.Spec, s *api.ContainerSpec, placeless error) error {
	o.Linux.Namespaces = nil
	if placeless == nil {
		return nil
	}
	if field := cgroup.Asks(withoutDevices(o.Linux.Resources)); field != "" {
		return api.Errorf(api.KindOf(placeless), "%s: %w", field, placeless)
	}
	o.Linux.CgroupsPath, o.Linux.Resources = "", nil
	o.Mounts = slices.DeleteFunc(o.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	for _, set := range []*[]string{&o.Process.Capabilities.Bounding, &o.Process.Capabilities.Effective, &o.Process.Capabilities.Permitted} {
		*set = withoutNodes(s, *set)
	}
	return nil
}

// withoutNodes leaves the capability out with which a container that has no control group could make nodes of the host's disks, and read and write them, unless the
// container was asked to have the host's devices.
func withoutNodes(s *api.ContainerSpec, names []string) []string {
	if s.Privileged || slices.ContainsFunc(s.CapAdd, func(c string) bool { return c == "ALL" || c == "CAP_MKNOD" || c == "CAP_SYS_ADMIN" }) {
		return names
	}
	return slices.DeleteFunc(slices.Clone(names), func(c string) bool { return c == "CAP_MKNOD" })
}

// withoutDevices is what is asked for beside the rules about devices, which every container has.
func withoutDevices(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	rest := *r
	rest.Devices = nil
	return &rest
}

// unmountAll takes the roots of level chroot that are left away from the host's mounts, before the folder that they are in is removed with all that is in it.
func (e *Engine) unmountAll() error {
	dir := filepath.Dir(shim.RootPlace(e.sandboxDir("any")))
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := shim.RemoveRoot(e.sandboxDir(entry.Name())); err != nil {
			return err
		}
	}
	return nil
}
