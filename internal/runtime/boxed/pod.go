package boxed

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/oci"
)

// What the monitors of a pod know too.
const (
	AnnotationPod = wire.AnnotationPod
	OptionInfra   = wire.OptionInfra
	InfraDir      = wire.InfraDir
)

// Pod is a container's place in its pod.
type Pod = wire.Pod

// PodOf is what a configuration says of its pod; nil: it is of none.
func PodOf(s *specs.Spec) (*Pod, error) { return wire.PodOf(s) }

// inPod gives the box of a member the sockets of the infra's monitor.
func inPod(user, box *specs.Spec) error {
	p, err := PodOf(user)
	if p == nil || err != nil {
		return err
	}
	if p.Member == "" {
		return os.MkdirAll(p.Dir, 0o700)
	}
	box.Mounts = append(box.Mounts, specs.Mount{
		Type: "bind", Source: RunDir, Destination: InfraDir, Options: []string{"bind", "ro", "nosuid", "nodev", "noexec", "rprivate", oci.OptionMountNS + p.Mounts},
	})
	return nil
}

// memberSep stands in a name between the ID of a container and what no other run of its has.
const memberSep = "."

// MemberName is the name of a run of the container with that ID, run being what no other one of its is called.
func MemberName(id, run string) string { return id + memberSep + run }

// RemoveMember takes away what is left, in a pod's folder, of the runs of a container. The kernel unmounts what is mounted there in a box.
func RemoveMember(dir, id string) error {
	return removePlaces(dir, func(name string) bool { return strings.HasPrefix(name, id+memberSep) })
}

// RemovePod takes the folder of a pod away whose infra container has ended.
func RemovePod(dir string) error {
	if err := removePlaces(dir, func(string) bool { return true }); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func removePlaces(dir string, which func(string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if !which(entry.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
