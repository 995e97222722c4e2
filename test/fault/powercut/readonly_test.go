package powercut

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

// TestReadOnlyStore: with a store that can only be read, what reads works, and all else says that it cannot, and where.
func TestReadOnlyStore(t *testing.T) {
	w := newWorld(t)
	disk, state := w.place("disk"), w.place("state")
	if err := unix.Mount("readonly", disk, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
	root, image := filepath.Join(disk, rootName), w.host+"/x:one"
	archive := filepath.Join(w.dir, "one.tar")
	for _, args := range [][]string{{"pull", "-q", image}, {"save", "-o", archive, image}, {"run", "--network", "none", "--name", "old", image}} {
		w.must(nil, machine.Command(root, state, args...))
	}
	w.settle(root, state, containerIDs(root))
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{"x": {"images"}, "old": {"ps", "-a"}, "alive": {"logs", "old"}, "sha256:": {"inspect", image}} {
		if r := w.must(nil, machine.Command(root, state, args...)); !strings.Contains(r.Out, want) {
			t.Errorf("brig %v: no %q: %s", args, want, r)
		}
	}
	w.must(nil, machine.Command(root, state, "save", "-o", archive+"2", image))
	for _, args := range [][]string{
		{"pull", w.host + "/x:two"}, {"load", "-i", archive}, {"rmi", "-f", image}, {"tag", image, "more:1"},
		{"run", "--rm", "--network", "none", image}, {"run", "--network", "none", image}, {"run", "--rm", "-v", "new:/data", "--network", "none", image},
		{"create", image}, {"start", "-a", "old"}, {"rm", "old"},
	} {
		r := w.run(nil, machine.Command(root, state, args...))
		if r.Code != 1 && r.Code != 125 || !strings.Contains(r.Err, "read-only") || !strings.Contains(r.Err, root) {
			t.Errorf("brig %v: %s", args, r)
		}
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"start", "-a", "old"}, {"rm", "old"}, {"pull", w.host + "/x:two"}, {"run", "--rm", "--network", "none", image}} {
		w.must(nil, machine.Command(root, state, args...))
	}
}
