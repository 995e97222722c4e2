package atomicfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriteReplacesWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	for _, sync := range []Sync{Durable, Volatile} {
		for _, text := range []string{"first, and long", "second"} {
			if err := Write(path, []byte(text), 0o600, sync); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != text {
				t.Errorf("read %q, %v; want %q", got, err, text)
			}
		}
	}
	noTemporary(t, filepath.Dir(path), 1)
}

// TestWriteNew: what is there stays, and who was not the first is told.
func TestWriteNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	for i, want := range []error{nil, fs.ErrExist} {
		if err := WriteNew(path, []byte{byte('0' + i)}, 0o600, Durable); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "0" {
		t.Errorf("read %q, %v", got, err)
	}
	noTemporary(t, filepath.Dir(path), 1)
}

// TestModeIsAsAsked: neither a loose nor a strict umask has a say.
func TestModeIsAsAsked(t *testing.T) {
	dir := t.TempDir()
	for _, mask := range []int{0, 0o022, 0o777} {
		old := unix.Umask(mask)
		err := Write(filepath.Join(dir, "f"), []byte("x"), 0o640, Volatile)
		unix.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(filepath.Join(dir, "f")); err != nil || st.Mode().Perm() != 0o640 {
			t.Errorf("umask %o: mode %v, %v; want 0640", mask, st.Mode().Perm(), err)
		}
	}
}

func TestFailureLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "gone", "f"), nil, 0o600, Volatile); !os.IsNotExist(err) {
		t.Errorf("in a missing folder: %v, want not exist", err)
	}
	// A folder with something in it cannot be replaced by a file: the rename fails, which is the last step.
	path := filepath.Join(dir, "f")
	if err := os.MkdirAll(filepath.Join(path, "in it"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("x"), 0o600, Durable); err == nil {
		t.Error("a folder was replaced by a file")
	}
	if _, err := os.Stat(filepath.Join(path, "in it")); err != nil {
		t.Error(err)
	}
	noTemporary(t, dir, 1)
}

// TestFullDiskLeavesTheOldFile: the new bytes do not fit on a file system of one page.
func TestFullDiskLeavesTheOldFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "f")
	if err := Write(path, []byte("old"), 0o600, Durable); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, bytes.Repeat([]byte("new"), 10_000), 0o600, Durable); err == nil {
		t.Error("30 kB written to a disk of 8")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("read %q, %v; want the old file", got, err)
	}
	noTemporary(t, dir, 1)
}

// TestReadersSeeWholeFiles while writers race.
func TestReadersSeeWholeFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := Write(path, bytes.Repeat([]byte{'a'}, 9000), 0o600, Volatile); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for c := byte('b'); c < 'f'; c++ {
		writers.Go(func() {
			for range 50 {
				if err := Write(path, bytes.Repeat([]byte{c}, 9000), 0o600, Volatile); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for {
		got, err := os.ReadFile(path)
		if err != nil || len(got) != 9000 || bytes.Count(got, got[:1]) != 9000 {
			t.Errorf("a reader saw %d bytes, %v", len(got), err)
		}
		select {
		case <-done:
			noTemporary(t, filepath.Dir(path), 1)
			return
		default:
		}
	}
}

func TestSyncDir(t *testing.T) {
	if err := SyncDir(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := SyncDir(filepath.Join(t.TempDir(), "gone")); !os.IsNotExist(err) {
		t.Errorf("a missing folder: %v", err)
	}
}

func noTemporary(t *testing.T, dir string, want int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != want {
		t.Errorf("%d entries, %v; want %d", len(entries), err, want)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), ".tmp") {
			t.Errorf("%s is left", e.Name())
		}
	}
}
