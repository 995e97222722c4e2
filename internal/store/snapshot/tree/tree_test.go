package tree

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// nest makes folders within folders, deeper than a path can say.
func nest(t *testing.T, top string, depth int) {
	t.Helper()
	fd, err := unix.Open(top, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := unix.Mkdirat(fd, "d", 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(f)
		next, err := unix.Openat(fd, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
}

func TestRemoveAnyDepth(t *testing.T) {
	top := filepath.Join(t.TempDir(), "top")
	if err := os.Mkdir(top, 0o700); err != nil {
		t.Fatal(err)
	}
	nest(t, top, 3000)
	if err := os.Mkdir(filepath.Join(top, ".moved1"), 0); err != nil { // a name that the removal would use
		t.Fatal(err)
	}
	if _, err := Usage(top); err != nil {
		t.Error(err)
	}
	// The deepest way down must not need a file for each folder.
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	small := old
	small.Cur = 2 * maxHeld
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &small); err != nil {
		t.Fatal(err)
	}
	err := Remove(top)
	if rerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); rerr != nil {
		t.Fatal(rerr)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(top); !os.IsNotExist(err) {
		t.Error("still there:", err)
	}
}

func TestRemoveFollowsNothing(t *testing.T) {
	dir := t.TempDir()
	keep := filepath.Join(dir, "keep")
	top := filepath.Join(dir, "top")
	for _, d := range []string{keep, top} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(keep, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(keep, filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * batch {
		if err := os.WriteFile(filepath.Join(top, strconv.Itoa(i)), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time nothing is there
		if err := Remove(top); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(keep, "file")); err != nil {
		t.Error(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(keep, link); err != nil {
		t.Fatal(err)
	}
	if err := Remove(link); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(keep, "file")); err != nil {
		t.Error(err)
	}
}

func TestUsage(t *testing.T) {
	top := t.TempDir()
	if err := os.MkdirAll(filepath.Join(top, "a/b"), 0o700); err != nil {
		t.Fatal(err)
	}
	before, err := Usage(top)
	if err != nil {
		t.Fatal(err)
	}
	const size = 256 << 10
	one := filepath.Join(top, "a/b/one")
	if err := os.WriteFile(one, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(one, filepath.Join(top, "two")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(top, "root")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(one) // blocks are given out when the file is written back
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	after, err := Usage(top)
	if err != nil {
		t.Fatal(err)
	}
	if grown := after - before; grown < size || grown > size+64<<10 {
		t.Errorf("grew by %d bytes, the file has %d", grown, size)
	}
	if _, err := Usage(filepath.Join(top, "none")); !os.IsNotExist(err) {
		t.Error(err)
	}
}
