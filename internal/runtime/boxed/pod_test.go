package boxed

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/oci"
)

// TestInPod: a member's box has the sockets of the infra's, and no box of another container has.
func TestInPod(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pods", "p")
	for value, want := range map[string]int{
		"": 0, `{"dir":"` + dir + `"}`: 0, `{"dir":"` + dir + `","member":"m.1","mounts":"/proc/7/fd/8"}`: 1,
	} {
		user, box := &specs.Spec{Annotations: map[string]string{}}, &specs.Spec{}
		if value != "" {
			user.Annotations[AnnotationPod] = value
		}
		if err := inPod(user, box); err != nil || len(box.Mounts) != want {
			t.Errorf("%s: %+v, %v", value, box.Mounts, err)
		}
		if want == 1 && (box.Mounts[0].Destination != InfraDir || !slices.Contains(box.Mounts[0].Options, oci.OptionMountNS+"/proc/7/fd/8")) {
			t.Errorf("%+v", box.Mounts[0])
		}
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error("the pod's folder: ", err)
	}
	if err := inPod(&specs.Spec{Annotations: map[string]string{AnnotationPod: "{"}}, &specs.Spec{}); err == nil {
		t.Error("half an annotation passes")
	}
	if m := (specs.Mount{Type: "bind", Options: []string{OptionInfra}}); wire.Bound(&m) {
		t.Error("what the infra container has is said to be the host's")
	}
}

// TestRemoveMember takes the places of one container, then all.
func TestRemoveMember(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{MemberName("aa", "1"), MemberName("aa", "2"), MemberName("aab", "1")} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (names []string) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if err := RemoveMember(dir, "aa"); err != nil || !slices.Equal(left(), []string{"aab.1"}) {
		t.Errorf("%v, %v", left(), err)
	}
	if err := RemovePod(dir); err != nil {
		t.Error(err)
	}
	if err := RemovePod(dir); err != nil {
		t.Error("again: ", err)
	}
	if err := RemoveMember(dir, "aa"); err != nil {
		t.Error("of a pod that is gone: ", err)
	}
}
