package meta

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
)

func TestRename(t *testing.T) {
	s := Open(t.TempDir())
	a := api.Container{ID: id.New(), Name: "first", Spec: api.ContainerSpec{Name: "first"}}
	b := api.Container{ID: id.New(), Name: "second"}
	for _, c := range []api.Container{a, b} {
		if err := s.CreateContainer(c, atomicfile.Volatile); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Rename(a, "second", atomicfile.Volatile); !errors.Is(err, api.Conflict) {
		t.Errorf("renaming to a name in use: %v", err)
	}
	if err := s.Rename(a, "x", atomicfile.Volatile); !errors.Is(err, api.InvalidArgument) {
		t.Errorf("renaming to no name: %v", err)
	}
	if err := s.Rename(a, "third", atomicfile.Durable); err != nil {
		t.Fatal(err)
	}
	c, err := s.Container("third")
	if err != nil || c.ID != a.ID || c.Spec.Name != "third" {
		t.Errorf("by its new name: %+v, %v", c, err)
	}
	if _, err := s.Container("first"); !errors.Is(err, api.NotFound) {
		t.Errorf("by its old name: %v", err)
	}
	if err := s.ReserveName("first", b.ID); err != nil {
		t.Errorf("the old name is not free: %v", err)
	}
}

// TestRenameKilled cuts a rename off after each of its steps: the container has one name, and the other can be taken.
func TestRenameKilled(t *testing.T) {
	for _, step := range []string{"linked", "written"} {
		s := Open(t.TempDir())
		c := api.Container{ID: id.New(), Name: "old"}
		if err := s.CreateContainer(c, atomicfile.Volatile); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join("..", containerDir, c.ID), s.namePath("new")); err != nil {
			t.Fatal(err)
		}
		name, other := "old", "new"
		if step == "written" {
			c.Name, name, other = "new", "new", "old"
			if err := s.PutContainer(c, atomicfile.Volatile); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.Container(name); err != nil || got.ID != c.ID {
			t.Errorf("%s: by its name: %v", step, err)
		}
		if _, err := s.Container(other); !errors.Is(err, api.NotFound) {
			t.Errorf("%s: by the other name: %v", step, err)
		}
		second := api.Container{ID: id.New(), Name: other}
		if err := s.CreateContainer(second, atomicfile.Volatile); err != nil {
			t.Errorf("%s: the other name is not free: %v", step, err)
		}
		if got, err := s.Container(other); err != nil || got.ID != second.ID {
			t.Errorf("%s: the other's name leads to %s, %v", step, got.ID, err)
		}
		if err := s.RemoveContainer(c.ID); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Container(other); err != nil || got.ID != second.ID {
			t.Errorf("%s: removing the one took the other's name: %v", step, err)
		}
	}
}

// TestDiscardRenamed removes a container by a record that was read before it was renamed.
func TestDiscardRenamed(t *testing.T) {
	root := t.TempDir()
	s := Open(root)
	c := api.Container{ID: id.New(), Name: "old"}
	if err := s.CreateContainer(c, atomicfile.Volatile); err != nil {
		t.Fatal(err)
	}
	if err := s.Rename(c, "new", atomicfile.Volatile); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(c.ID, c.Name, filepath.Join(root, "trash")); err != nil {
		t.Fatal(err)
	}
	if left, _ := readNames(filepath.Join(root, nameDir)); len(left) != 1 || left[0] != ".lock" {
		t.Errorf("left: %q", left)
	}
}
