package engine

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/cgroup"
	"brig/internal/runtime"
	"brig/internal/runtime/oci"
)

// defaultPath is PATH where neither image nor user sets it, as docker's.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// initPath is where brig-oci is mounted in a container with --init.
const initPath = "/sbin/brig-init"

// maskedPaths and readonlyPaths are docker's: what /proc and /sys tell about, or let change on, the host.
var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
	"/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
}

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// ociSpec turns a container's record into the bundle's configuration. dir is the container's folder, whose hosts, hostname and resolv.conf are mounted.
func (e *Engine) ociSpec(c *api.Container, join *joined) (*specs.Spec, error) {
	s := &c.Spec
	names, err := rights(s, s.Privileged)
	if err != nil {
		return nil, err
	}
	sec, err := parseSecurity(s.Security)
	if err != nil {
		return nil, err
	}
	if sec.nesting {
		s = withNestingDevices(s)
	}
	limits, err := resources(s)
	if err != nil {
		return nil, err
	}
	detect := cgroup.Detect
	if rootless.Active() || isChroot(s) {
		detect = cgroup.DetectRootless
	}
	layout, err := detect()
	if err != nil {
		return nil, err
	}
	if limits.Memory != nil && !layout.SwapLimit() { // docker's default for swap is a wish, not a demand
		limits.Memory.Swap = nil
	}
	o := &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: "rootfs", Readonly: s.ReadOnly},
		Hostname: hostname(c), Domainname: s.Domainname,
		Process: &specs.Process{
			Terminal:        s.TTY,
			Args:            c.Args,
			Env:             environment(c),
			Cwd:             workingDir(s, c.ImageConfig.WorkingDir),
			NoNewPrivileges: sec.noNewPrivileges,
			Capabilities:    &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names},
		},
		Annotations: map[string]string{oci.AnnotationUser: withGroups(userOf(s, c.ImageConfig.User), s.Groups)},
		Linux: &specs.Linux{
			CgroupsPath:   e.cgroupPath(c),
			Namespaces:    namespaces(s, join, layout.V2()),
			Resources:     limits,
			MaskedPaths:   maskedPaths,
			ReadonlyPaths: readonlyPaths,
		},
	}
	if who := o.Annotations[oci.AnnotationUser]; !isRoot(who) && !s.Privileged {
		// A user that is not root keeps no capability over execve, except what is inherited through files: docker's rule.
		o.Process.Capabilities.Effective, o.Process.Capabilities.Permitted = nil, nil
	}
	if lines := passwdEntries(s, o.Process.Cwd); lines != "" {
		o.Annotations[oci.AnnotationPasswd] = lines
	}
	for k, v := range s.Annotations {
		o.Annotations[k] = v
	}
	if s.Entrusted {
		o.Annotations[oci.AnnotationCgroup] = oci.CgroupEntrusted
	}
	o.Linux.Sysctl = s.Sysctls
	if s.OOMScoreAdj != 0 {
		o.Process.OOMScoreAdj = &s.OOMScoreAdj
	}
	if uts := s.Namespaces.UTS; uts != "" && uts != api.NamespacePrivate {
		o.Hostname, o.Domainname = "", "" // they are another's
	}
	if s.Privileged || sec.nesting {
		o.Linux.MaskedPaths, o.Linux.ReadonlyPaths = nil, nil
	}
	if o.Process.Rlimits, err = rlimits(s.Ulimits); err != nil {
		return nil, err
	}
	if o.Linux.Devices, err = e.devices(s, limits); err != nil {
		return nil, err
	}
	if o.Mounts, err = e.mounts(c, join); err != nil {
		return nil, err
	}
	if err := more(o, s); err != nil {
		return nil, err
	}
	if rootless.Active() || s.UserNS.Mode != "" { // no user namespace may make nodes
		if err := rootlessDevices(o, s); err != nil {
			return nil, err
		}
	}
	if err := e.addCDI(o, s); err != nil {
		return nil, err
	}
	if err := e.addSecrets(o, c); err != nil {
		return nil, err
	}
	if err := e.addPod(o, c, join); err != nil {
		return nil, err
	}
	if isChroot(s) {
		if err := chrootSpec(o, s, withoutGroups(s, layout)); err != nil {
			return nil, err
		}
	}
	dir := e.meta.Dir(c.ID)
	userNS(o, s, map[string]bool{filepath.Join(dir, "resolv.conf"): true, filepath.Join(dir, "hostname"): true, filepath.Join(dir, "hosts"): true})
	if s.Infra {
		o.Process.Args = []string{initPath, "init", runtime.InitPause}
		o.Mounts = append(o.Mounts, specs.Mount{Type: "bind", Source: e.driver.Program, Destination: initPath, Options: []string{"bind", "ro", "nosuid", "nodev"}})
	}
	if s.Init {
		program, args := e.driver.Program, []string{initPath, "init", "--"}
		if s.InitPath != "" {
			program, args = s.InitPath, []string{initPath, "--"}
		}
		o.Process.Args = append(args, c.Args...)
		o.Mounts = append(o.Mounts, specs.Mount{Type: "bind", Source: program, Destination: initPath, Options: []string{"bind", "ro", "nosuid", "nodev"}})
	}
	if sec.builtin() && !s.Privileged {
		o.Annotations[oci.AnnotationSeccomp] = oci.SeccompDefault
		if sec.nesting {
			o.Annotations[oci.AnnotationSeccomp] = oci.SeccompNesting
		}
		return o, nil
	}
	o.Linux.Seccomp, err = sec.filter(names)
	return o, err
}

func hostname(c *api.Container) string {
	if c.Spec.Hostname != "" {
		return c.Spec.Hostname
	}
	if c.Spec.Network.Mode == api.NamespaceHost || c.Spec.Namespaces.UTS == api.NamespaceHost {
		if h, err := os.Hostname(); err == nil {
			return h
		}
	}
	return c.ID[:12]
}

func workingDir(s *api.ContainerSpec, image string) string {
	for _, d := range []string{s.WorkingDir, image} {
		if d != "" {
			return path.Join("/", d)
		}
	}
	return "/"
}

func userOf(s *api.ContainerSpec, image string) string {
	switch {
	case s.User != "":
		return s.User
	case image != "":
		return image
	}
	return "0"
}

// withGroups is a user with more groups, as [oci.AnnotationUser] has it.
func withGroups(who string, groups []string) string {
	return strings.Join(append([]string{who}, groups...), ",")
}

func isRoot(who string) bool {
	name, _, _ := strings.Cut(who, ",")
	name, _, _ = strings.Cut(name, ":")
	return name == "" || name == "root" || strings.Trim(name, "0") == ""
}

// environment merges the standard variables, the image's and the user's, later ones winning; a bare NAME unsets.
func environment(c *api.Container) []string {
	s := &c.Spec
	if s.UnsetEnvAll {
		return mergeEnv(mergeEnv(slices.Clone(s.BaseEnv), expandEnv(s.MergeEnv, c.ImageConfig.Env)), s.Env)
	}
	env := []string{defaultPath, "HOSTNAME=" + hostname(c)}
	if s.TTY {
		env = append(env, "TERM=xterm")
	}
	if s.Systemd == api.SystemdAlways {
		env = append(env, systemdEnv(c)...)
	}
	env = mergeEnv(mergeEnv(env, s.BaseEnv), c.ImageConfig.Env)
	return mergeEnv(mergeEnv(env, expandEnv(s.MergeEnv, env)), s.Env)
}

// expandEnv replaces ${NAME} and $NAME in values by what env says.
func expandEnv(merge, env []string) []string {
	var list []string
	for _, v := range merge {
		name, val, _ := strings.Cut(v, "=")
		list = append(list, name+"="+os.Expand(val, func(want string) string {
			for _, v := range env {
				if have, val, _ := strings.Cut(v, "="); have == want {
					return val
				}
			}
			return ""
		}))
	}
	return list
}

func mergeEnv(env, more []string) []string {
	for _, v := range more {
		name, _, set := strings.Cut(v, "=")
		i := slices.IndexFunc(env, func(o string) bool { return strings.HasPrefix(o, name) && len(o) > len(name) && o[len(name)] == '=' })
		switch {
		case set && i >= 0:
			env[i] = v
		case set:
			env = append(env, v)
		case i >= 0:
			env = slices.Delete(env, i, i+1)
		}
	}
	return env
}

// command merges entrypoint and command of image and user by docker's rule: a new entrypoint drops the image's command.
func command(s *api.ContainerSpec, entrypoint, cmd []string) ([]string, error) {
	if s.Entrypoint != nil {
		entrypoint = *s.Entrypoint
		cmd = nil
	}
	if len(s.Command) > 0 {
		cmd = s.Command
	}
	args := slices.Concat(entrypoint, cmd)
	if len(args) == 0 {
		return nil, api.Errorf(api.InvalidArgument, "image %s has no command, and none was given: name one after the image", s.Image)
	}
	if args[0] == "" {
		return nil, api.Errorf(api.InvalidArgument, "the command is empty: name one after the image")
	}
	return args, nil
}

// cgroupPath is where a container's groups are, below every hierarchy. They have no parent of their own, which would be left when the last is removed, unless the user names one.
// Those of a normal user are in the subtree that was found when the container was started: rootless.go.
func (e *Engine) cgroupPath(c *api.Container) string {
	if rootless.Active() {
		return e.rootlessGroup(c.ID)
	}
	return path.Join("/", c.Spec.CgroupParent, "brig-"+c.ID)
}

// mounts are docker's default ones, Brig's files, then the user's; a user's mount replaces a default one at its place.
func (e *Engine) mounts(c *api.Container, join *joined) ([]specs.Mount, error) {
	s := &c.Spec
	sysOpts := []string{"nosuid", "noexec", "nodev", "ro"}
	if s.Privileged {
		sysOpts = sysOpts[:3]
	}
	list := []specs.Mount{
		{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Type: "devpts", Source: "devpts", Destination: "/dev/pts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Type: "sysfs", Source: "sysfs", Destination: "/sys", Options: sysOpts},
		{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: sysOpts},
	}
	if s.Entrusted {
		list[len(list)-1] = entrustedCgroup
	}
	list = append(list, ipcMounts(s, join)...)
	if s.Systemd == api.SystemdAlways {
		list = append(list, systemdMounts()...)
	}
	dir := e.meta.Dir(e.netFiles(c))
	for _, f := range []string{"resolv.conf", "hostname", "hosts"} {
		if f == "hosts" && s.Network.NoHosts {
			continue
		}
		list = append(list, specs.Mount{Type: "bind", Source: filepath.Join(dir, f), Destination: "/etc/" + f, Options: []string{"bind", "rprivate"}})
	}
	if rootless.Active() {
		list = rootlessMounts(list, s, e.cgroupPath(c) != "")
	}
	var user []specs.Mount
	for i := range s.Mounts {
		m, err := e.userMount(c, &s.Mounts[i])
		if err != nil {
			return nil, err
		}
		list = slices.DeleteFunc(list, func(o specs.Mount) bool { return o.Destination == m.Destination })
		user = append(user, m)
	}
	// A mount below another comes after it, whatever the order of the flags.
	slices.SortStableFunc(user, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return append(list, user...), nil
}

// shmSize is how large /dev/shm may become, in bytes.
func shmSize(s *api.ContainerSpec) int64 {
	if s.ShmSize == 0 {
		return 64 << 20 // docker's default
	}
	return s.ShmSize
}
