package engine

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/runtime/sentry"
)

// platformVar names a platform of gVisor's.
const platformVar = "BRIG_GVISOR_PLATFORM"

// gvisor is the level whose kernel is a program, gVisor's Sentry.
func (e *Engine) gvisor() level {
	l := sentry.Level{Path: sibling(sentry.Program), Platform: os.Getenv(platformVar), State: filepath.Join(e.state, "gvisor")}
	v := level{name: api.IsolationGVisor, boxed: l, usable: l.Usable, detail: l.Detail, refuses: append(boxRefuses(), gvisorRefuses()...)}
	if rootless.Active() { // who is refused anyhow, and could not try
		v.usable, v.detail = l.Installed, nil
	}
	return v
}

// leastMemory is what gVisor's own processes need at least, in bytes, to be there at all.
const leastMemory = 32 << 20

func gvisorRefuses() []refusal {
	return []refusal{
		{
			"limits in a pod, --memory and --cpus among them", "the Sentry has no control groups for its containers: give --memory and --cpus to `brig pod create`",
			func(s *api.ContainerSpec) bool {
				return s.Pod != "" && !s.Infra && !reflect.DeepEqual(s.Limits, api.Resources{})
			},
		},
		{
			"--ipc and --uts in a pod", "the Sentry has one of each for all its containers",
			func(s *api.ContainerSpec) bool {
				return s.Pod != "" && !s.Infra && s.Namespaces.IPC+s.Namespaces.UTS != ""
			},
		},
		{
			"--memory below 32m", "the Sentry, its gofer and the monitor take 20 MiB of it themselves",
			func(s *api.ContainerSpec) bool { return s.Limits.Memory > 0 && s.Limits.Memory < leastMemory },
		},
		{
			"--pids-limit", "processes inside are none of the host's, whose limit would end the Sentry",
			func(s *api.ContainerSpec) bool { return s.Limits.Pids > 0 },
		},
		{
			"--security-opt seccomp=FILE", "the Sentry would keep it for the first process, and not for those of exec and of health checks",
			func(s *api.ContainerSpec) bool {
				sec, err := parseSecurity(s.Security)
				return err == nil && sec.profile != ""
			},
		},
		{"--sysctl", "the Sentry has none that could be set", func(s *api.ContainerSpec) bool { return len(s.Sysctls) > 0 }},
		{"--umask other than 0022", "the Sentry begins with that one", func(s *api.ContainerSpec) bool { return s.Umask != "" && strings.TrimLeft(s.Umask, "0") != "22" }},
		{"--group-add " + api.KeepGroups, "its groups are not the host's", func(s *api.ContainerSpec) bool { return slices.Contains(s.Groups, api.KeepGroups) }},
		{
			"--systemd always and control groups of its own", "the Sentry's control groups are not those that systemd needs",
			func(s *api.ContainerSpec) bool { return s.Systemd == api.SystemdAlways || s.Entrusted },
		},
		{"--device-cgroup-rule", "the host's devices are not there to have", func(s *api.ContainerSpec) bool { return len(s.DeviceRules) > 0 }},
		{
			"--tmpfs with options other than size, mode, uid, gid and those of all mounts", "the Sentry's tmpfs has no others",
			func(s *api.ContainerSpec) bool { return slices.ContainsFunc(s.Mounts, strangeTmpfs) },
		},
	}
}

// strangeTmpfs reports whether a mount is a tmpfs with an option that the Sentry's does not have.
func strangeTmpfs(m api.MountSpec) bool {
	return m.Type == "tmpfs" && slices.ContainsFunc(m.TmpfsOptions, func(o string) bool {
		name, _, _ := strings.Cut(o, "=")
		return !slices.Contains([]string{"size", "mode", "uid", "gid", "rw", "ro", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime", "relatime", "norelatime"}, name)
	})
}
