package wire

import (
	"encoding/json"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A pod whose boundary is a program is one box with the program, that of its infra container, and a box for each other container, its member: there runs the same monitor, which has the
// program of the infra's box run the member's process. So a member has a keeper, a tree and a log of its own.

// AnnotationPod says, in the user's configuration, that the container is of such a pod: a Pod as JSON.
const AnnotationPod = "org.brig.pod"

// Pod is a container's place in its pod.
type Pod struct {
	Dir    string `json:"dir"`              // a folder of the host's, the pod's own, for what its boxes share
	Member string `json:"member,omitempty"` // the name of this run of a member: a file's name, no other's. Empty: it is the infra container
	Mounts string `json:"mounts,omitempty"` // path of the mount namespace of the infra's box, while the member's is being made
}

// InfraDir is where, in the box of a member, RunDir of the infra's box is.
const InfraDir = "/infra"

// PodOf is what a configuration says of its pod; nil: it is of none.
func PodOf(s *specs.Spec) (*Pod, error) {
	value, ok := s.Annotations[AnnotationPod]
	if !ok {
		return nil, nil
	}
	p := new(Pod)
	return p, json.Unmarshal([]byte(value), p)
}

// OptionInfra says, of a bind mount, that its source is in the infra container, and that the level makes it.
const OptionInfra = "org.brig.infra"

// Shared reports whether a member's configuration has it join a namespace of the infra container.
func Shared(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind && n.Path != "" })
}

// OfInfra reports whether a mount has OptionInfra.
func OfInfra(m *specs.Mount) bool { return slices.Contains(m.Options, OptionInfra) }
