package shim

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// TestGoWithout: a systemd that does not answer costs a control group, but no limit that was asked for, and no container that could not be ended without.
func TestGoWithout(t *testing.T) {
	limit := int64(5)
	own := []specs.LinuxNamespace{{Type: specs.PIDNamespace}}
	for name, c := range map[string]struct {
		linux *specs.Linux
		err   string
	}{
		"nothing asked":     {&specs.Linux{CgroupsPath: "/a/b", Namespaces: own, Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}}, ""},
		"a limit":           {&specs.Linux{CgroupsPath: "/a/b", Namespaces: own, Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}}, "linux.resources.pids.limit: no bus"},
		"another's numbers": {&specs.Linux{CgroupsPath: "/a/b", Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: "/proc/7/ns/pid"}}}, "PID namespace"},
	} {
		spec := &specs.Spec{Linux: c.linux, Mounts: []specs.Mount{{Type: "proc"}, {Type: "cgroup"}}}
		err := goWithout(spec, api.Errorf(api.Unavailable, "no bus"))
		if c.err != "" {
			if !errors.Is(err, api.Unavailable) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || spec.Linux.CgroupsPath != "" || slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" }) {
			t.Errorf("%s: %v, %+v", name, err, spec)
		}
	}
}
