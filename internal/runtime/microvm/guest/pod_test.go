package guest

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	boxed "brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/microvm/wire"
	"brig/internal/runtime/oci"
)

// TestMemberInside: a member joins of its infra container what its configuration says, has limits of its own, and the infra's /dev/shm.
func TestMemberInside(t *testing.T) {
	infra := &container{made: &oci.Container{Process: &oci.Process{Pid: 42}}}
	spec := specOf(specs.Mount{Type: "bind", Source: "/dev/shm", Destination: "/dev/shm", Options: []string{"nosuid", boxed.OptionInfra}})
	quota, period := int64(50), uint64(100)
	spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period, Cpus: "0"}
	spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace, Path: "/proc/1/fd/3"}, {Type: specs.UTSNamespace, Path: "/proc/1/fd/4"}}
	c := &container{spec: spec, tree: t.TempDir(), group: "/m", infra: infra}
	if err := c.inside(); err != nil {
		t.Fatal(err)
	}
	want := map[specs.LinuxNamespaceType]string{
		specs.PIDNamespace: "", specs.IPCNamespace: "/proc/42/ns/ipc", specs.UTSNamespace: "/proc/42/ns/uts",
		specs.MountNamespace: "", specs.CgroupNamespace: "", specs.NetworkNamespace: "",
	}
	for _, n := range spec.Linux.Namespaces {
		if path, ok := want[n.Type]; !ok || path != n.Path {
			t.Errorf("namespace %+v", n)
		}
		delete(want, n.Type)
	}
	if len(want) > 0 {
		t.Errorf("no namespace %v", want)
	}
	if r := spec.Linux.Resources; r.Memory == nil || *r.Memory.Limit != 7 || r.CPU == nil || *r.CPU.Quota != 50 || r.CPU.Cpus != "" || r.Pids == nil {
		t.Errorf("limits %+v", r)
	}
	if len(spec.Mounts) != 1 || !slices.Equal(spec.Mounts[0].Options, []string{"nosuid", "bind", oci.OptionMountNS + "/proc/42/ns/mnt"}) {
		t.Errorf("mounts %+v", spec.Mounts)
	}
}

// TestFurther refuses what cannot be: there is no container yet, or none of that name, or it is no name.
func TestFurther(t *testing.T) {
	a := newAgent(nil)
	for _, body := range []string{
		`{`, `{"process":{}}`, `{"member":"m","exec":{"process":{}}}`, `{"member":"m","config":{}}`,
	} {
		if err := a.further(newStream(a, 2), []byte(body)); err == nil {
			t.Errorf("%s passes", body)
		}
	}
	a.main = &container{}
	for _, name := range []string{"..", "a/b", ".", "../" + wire.MembersDir} {
		if err := a.further(newStream(a, 2), []byte(`{"member":"`+name+`","config":{}}`)); err == nil {
			t.Errorf("the name %q passes", name)
		}
	}
}
