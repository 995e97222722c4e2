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
			Seccomp:     &specs.LinuxSeccomp{},
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
		{"process.apparmorProfile", api.Unsupported, func(s *specs.Spec) { s.Process.ApparmorProfile = "p" }},
		{"process.selinuxLabel", api.Unsupported, func(s *specs.Spec) { s.Process.SelinuxLabel = "l" }},
		{"process.scheduler", api.Unsupported, func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} }},
		{"process.ioPriority", api.Unsupported, func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} }},
		{"process.execCPUAffinity", api.Unsupported, func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{} }},
		{"mounts[0].destination", api.InvalidArgument, func(s *specs.Spec) { s.Mounts[0].Destination = "" }},
		{"hooks.createRuntime[0].path", api.InvalidArgument, func(s *specs.Spec) { s.Hooks.CreateRuntime = []specs.Hook{{Path: "hook"}} }},
		{"hooks.poststop[0].timeout", api.InvalidArgument, func(s *specs.Spec) { zero := 0; s.Hooks.Poststop = []specs.Hook{{Path: "/x", Timeout: &zero}} }},
		{"linux.uidMappings", api.InvalidArgument, func(s *specs.Spec) { s.Linux.UIDMappings = ids }},
		{"linux.gidMappings", api.InvalidArgument, func(s *specs.Spec) { s.Linux.GIDMappings = ids }},
		{"linux.timeOffsets", api.Unsupported, func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} }},
		{"linux.intelRdt", api.Unsupported, func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }},
		{"linux.mountLabel", api.Unsupported, func(s *specs.Spec) { s.Linux.MountLabel = "l" }},
		{"linux.netDevices: the container has no network namespace", api.InvalidArgument, func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} }},
		{"linux.memoryPolicy", api.Unsupported, func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} }},
		{"linux.personality", api.Unsupported, func(s *specs.Spec) { s.Linux.Personality.Domain = specs.PerLinux32 }},
		{"linux.seccomp.listenerPath", api.Unsupported, func(s *specs.Spec) { s.Linux.Seccomp.ListenerPath = "/s" }},
		{"linux.namespaces: pid is listed twice", api.InvalidArgument, func(s *specs.Spec) { addNS(s, specs.PIDNamespace) }},
		{"linux.uidMappings", api.InvalidArgument, func(s *specs.Spec) { addNS(s, specs.UserNamespace) }},
		{"linux.namespaces: time", api.Unsupported, func(s *specs.Spec) { addNS(s, specs.TimeNamespace) }},
		{"linux.namespaces: unknown type \"x\"", api.InvalidArgument, func(s *specs.Spec) { addNS(s, "x") }},
		{"mount namespace", api.Unsupported, func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }},
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
