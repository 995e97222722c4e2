package oci

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestWhoMayShareMemory(t *testing.T) {
	small, large := int64(sharedLimit-1), int64(sharedLimit)
	own := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}
	memory := func(n *int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: n}}
	}
	for name, c := range map[string]struct {
		linux specs.Linux
		hooks *specs.Hooks
		adj   *int
		want  bool
	}{
		"alone in its PID namespace": {linux: specs.Linux{Namespaces: own}, want: true},
		"no PID namespace":           {linux: specs.Linux{Namespaces: own[:1]}},
		"another's PID namespace":    {linux: specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: "/proc/1/ns/pid"}}}},
		"time namespace":             {linux: specs.Linux{Namespaces: append(own[:2:2], specs.LinuxNamespace{Type: specs.TimeNamespace})}},
		"user namespace":             {linux: specs.Linux{Namespaces: append(own[:2:2], specs.LinuxNamespace{Type: specs.UserNamespace})}},
		"small memory limit":         {linux: specs.Linux{Namespaces: own, Resources: memory(&small)}},
		"memory limit":               {linux: specs.Linux{Namespaces: own, Resources: memory(&large)}, want: true},
		"limits of version 2 alone":  {linux: specs.Linux{Namespaces: own, Resources: &specs.LinuxResources{Unified: map[string]string{"memory.max": "1M"}}}},
		"badness":                    {linux: specs.Linux{Namespaces: own}, adj: new(int)},
		"hook in the container":      {linux: specs.Linux{Namespaces: own}, hooks: &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/true"}}}},
	} {
		if got := mayShare(&specs.Spec{Process: &specs.Process{OOMScoreAdj: c.adj}, Linux: &c.linux, Hooks: c.hooks}); got != c.want {
			t.Errorf("%s: shares %v", name, got)
		}
	}
}
