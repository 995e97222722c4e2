package oci

import (
	"encoding/json"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// writeSpec is `brig-oci spec`: a config.json for a shell in ./rootfs, as runc spec's.
func writeSpec(args []string) error {
	if len(args) > 0 {
		return api.Errorf(api.InvalidArgument, "spec: flag %s is not known to this version: see brig-oci help", args[0])
	}
	f, err := os.OpenFile("config.json", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		if os.IsExist(err) {
			return api.Errorf(api.AlreadyExists, "config.json exists: remove it first")
		}
		return err
	}
	enc := json.NewEncoder(f)
	enc.SetIndent("", "\t")
	if err := enc.Encode(example()); err != nil {
		f.Close()
		return err
	}
	return f.Close()
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
