package monitor

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/internal/runtime/boxed/wire"
)

// TestPod: the containers of a pod are a sandbox and those in it to gVisor, with one /dev/shm, and with the pod's processes where the user's configuration says so.
func TestPod(t *testing.T) {
	infra := &specs.Spec{Mounts: []specs.Mount{{Type: "tmpfs", Source: "shm", Destination: "/dev/shm", Options: []string{"noexec", "size=1m"}}}, Linux: &specs.Linux{}}
	pod(infra, &wire.Pod{})
	if a := infra.Annotations; a["dev.gvisor.spec.mount.shm.source"] != shmSource || a["dev.gvisor.spec.mount.shm.options"] != "noexec,size=1m" || infra.Mounts[0].Source != shmSource {
		t.Errorf("%+v, mounts %+v", a, infra.Mounts)
	}
	score := 5
	member := &specs.Spec{Process: &specs.Process{OOMScoreAdj: &score}, Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}}}
	pod(member, &wire.Pod{Member: "m.1"})
	if a := member.Annotations; a["io.kubernetes.cri.sandbox-id"] != sandboxID || a["io.kubernetes.cri.container-type"] != "container" || member.Process.OOMScoreAdj != nil || len(member.Linux.UIDMappings) != 1 {
		t.Errorf("%+v", member)
	}
	has := func() bool {
		return slices.ContainsFunc(member.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	}
	user := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}}}}
	if joined(member, user); !has() {
		t.Error("a member that does not share processes has no PID namespace")
	}
	user.Linux.Namespaces[0].Path = "/proc/1/fd/3"
	if joined(member, user); has() {
		t.Error("a member that shares processes has a PID namespace of its own")
	}
}
