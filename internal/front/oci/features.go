package oci

import (
	"encoding/json"
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	wanted "github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/caps"
)

// mountOptions are the options that this runtime knows itself; others go to the file system.
var mountOptions = [...]string{
	"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "iversion", "lazytime", "loud", "mand", "noatime", "nodev", "nodiratime", "noexec",
	"noiversion", "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev", "rdiratime", "relatime",
	"remount", "rexec", "ridmap", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate",
	"rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid",
	"symfollow", "sync", "tmpcopyup", "unbindable",
}

// features is `brig-oci features`: what this build can do, whatever the host has: features.md of the runtime specification.
func features(c *call) (int, error) {
	yes := true
	f := wanted.Features{
		OCIVersionMin: "1.0.0", OCIVersionMax: specVersion,
		Hooks:        []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions: mountOptions[:],
		Linux: &wanted.Linux{
			Namespaces:   []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"},
			Capabilities: capabilityNames(),
			Cgroup:       &wanted.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &yes},
			Seccomp:      seccompFeatures(),
			Apparmor:     &wanted.Apparmor{Enabled: &yes},
			Selinux:      &wanted.Selinux{Enabled: &yes},
			IntelRdt:     &wanted.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy: &wanted.MemoryPolicy{
				Modes: []string{"MPOL_DEFAULT", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE", "MPOL_PREFERRED", "MPOL_PREFERRED_MANY", "MPOL_LOCAL"},
				Flags: []string{"MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"},
			},
			MountExtensions: &wanted.MountExtensions{IDMap: &wanted.IDMap{Enabled: &yes}},
			NetDevices:      &wanted.NetDevices{Enabled: &yes},
		},
		Annotations: map[string]string{"org.brig.version": Version},
		// They name programs and properties of the host's: features.md, "Potentially unsafe annotations".
		PotentiallyUnsafeConfigAnnotations: []string{"org.systemd.property.", "org.brig."},
	}
	data, err := json.MarshalIndent(&f, "", "    ")
	if err == nil {
		_, err = c.stdout.Write(append(data, '\n'))
	}
	return 0, err
}

// capabilityNames are those that this build knows.
func capabilityNames() (list []string) {
	for n := 0; caps.Name(n) != ""; n++ {
		list = append(list, caps.Name(n))
	}
	return list
}

func seccompFeatures() *wanted.Seccomp {
	yes := true
	s := &wanted.Seccomp{
		Enabled: &yes,
		Operators: []string{
			string(specs.OpEqualTo), string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpLessEqual), string(specs.OpLessThan),
			string(specs.OpMaskedEqual), string(specs.OpNotEqual),
		},
	}
	for _, a := range []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActLog, specs.ActNotify, specs.ActTrace, specs.ActTrap,
	} {
		s.Actions = append(s.Actions, string(a))
	}
	s.Archs = []string{string(specs.ArchX86), string(specs.ArchX32), string(specs.ArchX86_64)}
	if runtime.GOARCH == "arm64" {
		s.Archs = []string{string(specs.ArchAARCH64), string(specs.ArchARM)}
	}
	slices.Sort(s.Actions)
	for _, f := range []struct {
		name specs.LinuxSeccompFlag
		flag uintptr
	}{
		{specs.LinuxSeccompFlagLog, unix.SECCOMP_FILTER_FLAG_LOG}, {specs.LinuxSeccompFlagSpecAllow, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{"SECCOMP_FILTER_FLAG_TSYNC", unix.SECCOMP_FILTER_FLAG_TSYNC},
		{specs.LinuxSeccompFlagWaitKillableRecv, unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER},
	} {
		s.KnownFlags = append(s.KnownFlags, string(f.name))
		// A kernel that knows the flag gets as far as the missing filter: seccomp(2), EFAULT.
		if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, f.flag, 0); e == unix.EFAULT {
			s.SupportedFlags = append(s.SupportedFlags, string(f.name))
		}
	}
	return s
}
