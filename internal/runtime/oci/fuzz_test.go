package oci

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// FuzzConfig: no configuration makes the checks panic, and what they let pass can be prepared without a panic.
func FuzzConfig(f *testing.F) {
	full := validSpec()
	adj := 5
	full.Process.OOMScoreAdj = &adj
	full.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 2000, Deadline: 3000, Period: 4000, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagReclaim}}
	full.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 3}
	full.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0-3,7", Final: "1"}
	full.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 1, Hard: 2}}
	full.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Ambient: []string{"CAP_X"}}
	full.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0-3,7", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
	full.Linux.TimeOffsets = offset("boottime", -5, 7)
	addNS(full, specs.TimeNamespace)
	code := uint(7)
	full.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, DefaultErrnoRet: &code, Architectures: []specs.Arch{specs.ArchX86}, ListenerPath: "/s", ListenerMetadata: "m",
		Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "write"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 2, Op: specs.OpMaskedEqual}}},
			{Names: []string{"mkdir"}, Action: specs.ActNotify},
		},
	}
	for _, s := range []*specs.Spec{validSpec(), full, {}} {
		data, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	root, err := unix.Open(f.TempDir(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { unix.Close(root) })
	f.Fuzz(func(t *testing.T, data []byte) {
		s := new(specs.Spec)
		if json.Unmarshal(data, s) != nil {
			return
		}
		Warnings(s)
		if Validate(s) != nil {
			return
		}
		filter, err := FilterOf(s.Annotations, s.Linux.Seccomp)
		if err != nil {
			return
		}
		if c, err := prepare(s.Process, s.Annotations[AnnotationUser], filter, root, [3]int{}); err == nil && len(c.paths) == 0 && s.Process.Args[0] != "" {
			t.Error("nothing to execute")
		}
		a, err := containerAttributes(&Request{ID: "fuzz", Spec: s, Gate: -1})
		if err != nil {
			return
		}
		a.close()
	})
}
