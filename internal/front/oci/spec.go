package oci

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

func specFlags() []flag {
	return []flag{
		{"bundle", "b", isString, "folder to write config.json into (default: the working directory)"},
		{"rootless", "", isBool, "for a user without root's rights: with a user namespace, without limits"},
	}
}

// spec is `brig-oci spec`: a config.json for a shell in ./rootfs, as runc spec's.
func spec(c *call) (int, error) {
	path := filepath.Join(c.str("bundle"), configName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		if os.IsExist(err) {
			return 0, api.Errorf(api.AlreadyExists, "%s exists: remove it first", path)
		}
		return 0, err
	}
	s := example()
	if c.on("rootless") {
		makeRootless(s)
	}
	enc := json.NewEncoder(f)
	enc.SetIndent("", "\t")
	if err := enc.Encode(s); err != nil {
		f.Close()
		os.Remove(path)
		return 0, err
	}
	return 0, f.Close()
}

// makeRootless turns the example into one that a normal user may run: the user is root inside, /sys is the host's, the network too.
func makeRootless(s *specs.Spec) {
	kept := s.Linux.Namespaces[:0]
	for _, n := range s.Linux.Namespaces {
		if n.Type != specs.NetworkNamespace {
			kept = append(kept, n)
		}
	}
	s.Linux.Namespaces = append(kept, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Geteuid()), Size: 1}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(os.Getegid()), Size: 1}}
	var mounts []specs.Mount
	for _, m := range s.Mounts {
		m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "gid=") || strings.HasPrefix(o, "uid=") })
		if m.Destination == "/sys" {
			m = specs.Mount{Type: "none", Source: "/sys", Destination: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
		}
		if m.Type != "cgroup" {
			mounts = append(mounts, m)
		}
	}
	s.Mounts = mounts
	s.Linux.Resources = nil
}

func example() *specs.Spec {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	fs := func(kind, dest string, opts ...string) specs.Mount {
		return specs.Mount{Type: kind, Source: kind, Destination: dest, Options: opts}
	}
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "brig",
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			Terminal: true, Args: []string{"sh"}, Cwd: "/", NoNewPrivileges: true,
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Mounts: []specs.Mount{
			fs("proc", "/proc"),
			fs("tmpfs", "/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
			fs("devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
			fs("tmpfs", "/dev/shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			fs("mqueue", "/dev/mqueue", "nosuid", "noexec", "nodev"),
			fs("sysfs", "/sys", "nosuid", "noexec", "nodev", "ro"),
			fs("cgroup", "/sys/fs/cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
		},
		Linux: &specs.Linux{
			Resources:  &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
				"/proc/sched_debug", "/sys/firmware", "/proc/scsi",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}
