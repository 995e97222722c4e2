package template

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDamaged opens a template that is whole, and none that is not.
func TestDamaged(t *testing.T) {
	const size = 1 << 20
	for name, damage := range map[string]func(dir string) error{
		"whole":          func(string) error { return nil },
		"no seal":        func(dir string) error { return os.Remove(filepath.Join(dir, sealName)) },
		"seal not JSON":  func(dir string) error { return os.WriteFile(filepath.Join(dir, sealName), []byte("?"), 0o600) },
		"empty seal":     func(dir string) error { return os.Truncate(filepath.Join(dir, sealName), 0) },
		"state cut off":  func(dir string) error { return os.Truncate(filepath.Join(dir, stateName), 3) },
		"state changed":  func(dir string) error { return os.WriteFile(filepath.Join(dir, stateName), []byte("State"), 0o600) },
		"no state":       func(dir string) error { return os.Remove(filepath.Join(dir, stateName)) },
		"stub changed":   func(dir string) error { return os.WriteFile(filepath.Join(dir, stubName), []byte("x"), 0o755) },
		"pages written":  func(dir string) error { return os.WriteFile(filepath.Join(dir, pagesName), []byte("Pages"), 0o600) },
		"pages cut off":  func(dir string) error { return os.Truncate(filepath.Join(dir, pagesName), 2) },
		"no pages":       func(dir string) error { return os.Remove(filepath.Join(dir, pagesName)) },
		"memory cut off": func(dir string) error { return os.Truncate(filepath.Join(dir, memoryName), size/2) },
		"memory written": func(dir string) error { return os.WriteFile(filepath.Join(dir, memoryName), make([]byte, size), 0o600) },
		"no memory":      func(dir string) error { return os.Remove(filepath.Join(dir, memoryName)) },
		"seal is a folder": func(dir string) error {
			os.Remove(filepath.Join(dir, sealName))
			return os.Mkdir(filepath.Join(dir, sealName), 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			made, err := Create(dir, size)
			if err != nil {
				t.Fatal(err)
			}
			defer made.Close()
			if _, err := made.Pages.WriteString("pages"); err != nil {
				t.Fatal(err)
			}
			made.Process = []byte("state")
			if err := made.Seal(dir); err != nil {
				t.Fatal(err)
			}
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			f, err := Open(dir, size)
			if err == nil {
				f.Close()
			}
			if name == "whole" && err != nil || name != "whole" && !errors.Is(err, ErrDamaged) {
				t.Errorf("%v", err)
			}
			if _, err := Open(dir, 2*size); !errors.Is(err, ErrDamaged) {
				t.Errorf("with another size: %v", err)
			}
		})
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none"), size); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
}

// TestThin: what is zero takes no space, and what is not stays.
func TestThin(t *testing.T) {
	const size, page = 4 << 20, 4 << 10
	made, err := Create(t.TempDir(), size)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	want := make([]byte, size)
	for _, at := range []int{5 * page, 7*page - 1, 1<<20 - 1, 1 << 20, 3 << 20} {
		want[at] = 1
	}
	if _, err := made.Memory.WriteAt(want[:3<<20+page], 0); err != nil { // and a hole
		t.Fatal(err)
	}
	if err := made.Thin(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if _, err := made.Memory.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the memory is another: %v", err)
	}
	var s unix.Stat_t
	if err := unix.Fstat(int(made.Memory.Fd()), &s); err != nil || s.Size != size || s.Blocks*512 > 40*page {
		t.Errorf("%d bytes take %d: %v", s.Size, s.Blocks*512, err)
	}
}
