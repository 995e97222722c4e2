package smallfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestRead has files below, at and above the buffer's size, one of the kernel's, and what cannot be read.
func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, size := range []int{0, 1, 2<<10 - 1, 2 << 10, 2<<10 + 1, 8 << 10, 100_000} {
		want := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path, 100_000); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d, %v", size, len(got), err)
		}
	}
	if got, err := Read(path, 50_000); err != nil || len(got) <= 50_000 {
		t.Errorf("what is longer than the limit: %d, %v", len(got), err)
	}
	if b, err := Read("/proc/self/stat", 4096); err != nil || len(b) == 0 {
		t.Errorf("/proc/self/stat: %q, %v", b, err)
	}
	var p *fs.PathError
	if _, err := Read(path+"x", 9); !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &p) || p.Path != path+"x" {
		t.Errorf("what is not there: %v", err)
	}
	if _, err := Read(filepath.Dir(path), 9); err == nil {
		t.Error("a folder is read")
	}
}
