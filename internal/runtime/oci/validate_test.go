package oci

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

func validSpec() *specs.Spec {
	return &specs.Spec{
		Process:  &specs.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"A=b"}},
		Root:     &specs.Root{Path: "rootfs"},
		Hostname: "h",
		Mounts:   []specs.Mount{{Destination: "/proc", Type: "proc"}},
		Linux: &specs.Linux{
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.UTSNamespace}},
			Personality: &specs.LinuxPersonality{Domain: specs.PerLinux},
			Seccomp:     &specs.LinuxSeccomp{DefaultAction: specs.ActAllow},
		},
		Hooks: &specs.Hooks{},
	}
}

// TestValidateNamesTheField: every change that makes a valid configuration wrong is refused with its field's name.
func TestValidateNamesTheField(t *testing.T) {
	if err := Validate(validSpec()); err != nil {
		t.Fatal(err)
	}
	ids := []specs.LinuxIDMapping{{Size: 1}}
	for _, tc := range []struct {
		name   string
		kind   api.Kind
		change func(*specs.Spec)
	}{
		{"process is missing", api.InvalidArgument, func(s *specs.Spec) { s.Process = nil }},
		{"root is missing", api.InvalidArgument, func(s *specs.Spec) { s.Root = nil }},
		{"linux is missing", api.InvalidArgument, func(s *specs.Spec) { s.Linux = nil }},
		{"process.args", api.InvalidArgument, func(s *specs.Spec) { s.Process.Args = nil }},
		{"process.cwd", api.InvalidArgument, func(s *specs.Spec) { s.Process.Cwd = "a" }},
		{"process.cwd", api.InvalidArgument, func(s *specs.Spec) { s.Process.Cwd = "" }},
		{"NUL", api.InvalidArgument, func(s *specs.Spec) { s.Process.Args = []string{"a\x00"} }},
		{"NUL", api.InvalidArgument, func(s *specs.Spec) { s.Process.Env = []string{"a\x00=b"} }},
		{"NUL", api.InvalidArgument, func(s *specs.Spec) { s.Process.Cwd = "/\x00" }},
		{"process.scheduler.policy is missing", api.InvalidArgument, func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} }},
		{"process.scheduler.policy: unknown value \"X\"", api.InvalidArgument, func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "X"} }},
		{"process.ioPriority.class is missing", api.InvalidArgument, func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} }},
		{"process.execCPUAffinity.initial", api.InvalidArgument, func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "x"} }},
		{"process.execCPUAffinity.final", api.InvalidArgument, func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "3-1"} }},
		{"process.oomScoreAdj", api.InvalidArgument, func(s *specs.Spec) { s.Process.OOMScoreAdj = new(int); *s.Process.OOMScoreAdj = 1001 }},
		{"process.oomScoreAdj", api.InvalidArgument, func(s *specs.Spec) { s.Process.OOMScoreAdj = new(int); *s.Process.OOMScoreAdj = -1001 }},
		{"process.rlimits[0].type", api.InvalidArgument, func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "X"}} }},
		{"RLIMIT_CPU is listed twice", api.InvalidArgument, func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU"}, {Type: "RLIMIT_CPU"}}
		}},
		{"soft 2 is more than hard 1", api.InvalidArgument, func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}} }},
		{"process.apparmorProfile", api.InvalidArgument, func(s *specs.Spec) { s.Process.ApparmorProfile = "p\x00" }},
		{"process.selinuxLabel", api.InvalidArgument, func(s *specs.Spec) { s.Process.SelinuxLabel = "l\n" }},
		{"linux.mountLabel", api.InvalidArgument, func(s *specs.Spec) { s.Linux.MountLabel = "a\"b" }},
		{"linux.memoryPolicy.mode is missing", api.InvalidArgument, func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} }},
		{"linux.personality.domain: unknown value \"X\"", api.InvalidArgument, func(s *specs.Spec) { s.Linux.Personality.Domain = "X" }},
		{"linux.personality.flags", api.InvalidArgument, func(s *specs.Spec) { s.Linux.Personality.Flags = []specs.LinuxPersonalityFlag{"X"} }},
		{"linux.timeOffsets", api.InvalidArgument, func(s *specs.Spec) { s.Linux.TimeOffsets = offset("boottime", 1, 0) }},
		{"linux.timeOffsets", api.InvalidArgument, func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: "/proc/1/ns/time"})
			s.Linux.TimeOffsets = offset("boottime", 1, 0)
		}},
		{"unknown clock \"tai\"", api.InvalidArgument, func(s *specs.Spec) { addNS(s, specs.TimeNamespace); s.Linux.TimeOffsets = offset("tai", 1, 0) }},
		{"nanosecs", api.InvalidArgument, func(s *specs.Spec) { addNS(s, specs.TimeNamespace); s.Linux.TimeOffsets = offset("monotonic", 1, 1e9) }},
		{"secs", api.InvalidArgument, func(s *specs.Spec) {
			addNS(s, specs.TimeNamespace)
			s.Linux.TimeOffsets = offset("monotonic", 1<<62, 0)
		}},
		{"linux.seccomp: unknown flag \"X\"", api.InvalidArgument, func(s *specs.Spec) { s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{"X"} }},
		{"linux.seccomp: unknown action \"X\"", api.InvalidArgument, func(s *specs.Spec) { s.Linux.Seccomp.DefaultAction = "X" }},
		{"linux.seccomp: SCMP_ACT_NOTIFY", api.InvalidArgument, func(s *specs.Spec) { s.Linux.Seccomp.DefaultAction = specs.ActNotify }},
		{"linux.seccomp.listenerMetadata", api.InvalidArgument, func(s *specs.Spec) { s.Linux.Seccomp.ListenerMetadata = "m" }},
		{"mounts[0].destination", api.InvalidArgument, func(s *specs.Spec) { s.Mounts[0].Destination = "" }},
		{"hooks.createRuntime[0].path", api.InvalidArgument, func(s *specs.Spec) { s.Hooks.CreateRuntime = []specs.Hook{{Path: "hook"}} }},
		{"hooks.poststop[0].timeout", api.InvalidArgument, func(s *specs.Spec) { zero := 0; s.Hooks.Poststop = []specs.Hook{{Path: "/x", Timeout: &zero}} }},
		{"linux.uidMappings", api.InvalidArgument, func(s *specs.Spec) { s.Linux.UIDMappings = ids }},
		{"linux.gidMappings", api.InvalidArgument, func(s *specs.Spec) { s.Linux.GIDMappings = ids }},
		{"linux.netDevices: the container has no network namespace", api.InvalidArgument, func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} }},
		{"linux.namespaces: pid is listed twice", api.InvalidArgument, func(s *specs.Spec) { addNS(s, specs.PIDNamespace) }},
		{"linux.uidMappings", api.InvalidArgument, func(s *specs.Spec) { addNS(s, specs.UserNamespace) }},
		{"linux.namespaces: unknown type \"x\"", api.InvalidArgument, func(s *specs.Spec) { addNS(s, "x") }},
		{"hostname", api.InvalidArgument, func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:2] }},
		{"kernel.panic", api.InvalidArgument, func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.panic": "1"} }},
	} {
		s := validSpec()
		tc.change(s)
		if err := Validate(s); err == nil || !strings.Contains(err.Error(), tc.name) || api.KindOf(err) != tc.kind {
			t.Errorf("%s: %v (%s)", tc.name, err, api.KindOf(err))
		}
	}
}

func offset(clock string, secs int64, nanos uint32) map[string]specs.LinuxTimeOffset {
	return map[string]specs.LinuxTimeOffset{clock: {Secs: secs, Nanosecs: nanos}}
}

func addNS(s *specs.Spec, n specs.LinuxNamespaceType) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: n})
}

// TestSysctlNeedsItsNamespace: a name is allowed with its own namespace and refused without it.
func TestSysctlNeedsItsNamespace(t *testing.T) {
	for key, ns := range map[string]specs.LinuxNamespaceType{
		"net.ipv4.ip_forward": specs.NetworkNamespace, "net/ipv4/conf/eth0.1/forwarding": specs.NetworkNamespace,
		"fs.mqueue.msg_max": specs.IPCNamespace, "kernel.shmmax": specs.IPCNamespace, "kernel.msgmnb": specs.IPCNamespace, "kernel.sem": specs.IPCNamespace,
		"kernel.domainname": specs.UTSNamespace,
	} {
		all := map[specs.LinuxNamespaceType]bool{specs.NetworkNamespace: true, specs.IPCNamespace: true, specs.UTSNamespace: true}
		if err := validateSysctl(key, map[specs.LinuxNamespaceType]bool{ns: true}); err != nil {
			t.Errorf("%s: %v", key, err)
		}
		delete(all, ns)
		if err := validateSysctl(key, all); api.KindOf(err) != api.InvalidArgument {
			t.Errorf("%s without its namespace: %v", key, err)
		}
	}
	all := map[specs.LinuxNamespaceType]bool{specs.NetworkNamespace: true, specs.IPCNamespace: true, specs.UTSNamespace: true}
	for _, key := range []string{
		"", ".", "net", "net.", "net..x", "net/../kernel/panic", "net.x\n", "net.a b", "net.+", "net.\x00", "/net/x",
		"kernel.panic", "kernel.semaphore", "kernel.hostname", "vm.swappiness", "fs.file-max", "Net.x",
	} {
		if err := validateSysctl(key, all); api.KindOf(err) != api.InvalidArgument {
			t.Errorf("%q: %v", key, err)
		}
	}
}
