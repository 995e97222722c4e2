package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"brig/internal/base/atomicfile"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// packedStore is a store with one packed layer, which holds a file "name".
func packedStore(t *testing.T) (*Store, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	s := Open(filepath.Join(dir, "snapshot")).In(filepath.Join(dir, "state"))
	if !s.Packs() {
		t.Skip("this kernel mounts no EROFS image with deflate from a file")
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "name", Typeflag: tar.TypeReg, Mode: 0o644, Size: 5}); err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("hello"))
	w.Close()
	blob := zip(t, b.Bytes())
	d := digest.FromBytes(b.Bytes())
	c, err := s.Claim(context.Background(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	src := Source{Blob: digest.FromBytes(blob), Size: int64(len(blob)), Open: func(context.Context, int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(blob)), nil
	}}
	if _, err := c.Pack(context.Background(), src, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.DetachAll(); err != nil {
			t.Error(err)
		}
	})
	return s, d.String()
}

func mountsBelow(t *testing.T, dir string) int {
	t.Helper()
	all, err := os.ReadFile("/proc/thread-self/mountinfo") // the first thread may be in another namespace, where a test has left it
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(all), " "+dir)
}

// TestAttach: many users come and go at the same time; each sees the layer, one mount serves all, and the last one's leaving takes it away.
func TestAttach(t *testing.T) {
	s, d := packedStore(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			id := fmt.Sprintf("user%d", i)
			for range 20 {
				paths, err := s.lowers(id, []string{d})
				if err != nil {
					t.Error(err)
					return
				}
				if b, err := os.ReadFile(filepath.Join(paths[0], "name")); err != nil || string(b) != "hello" {
					t.Errorf("%q, %v", b, err)
				}
				if n := mountsBelow(t, s.state); n != 1 {
					t.Errorf("%d mounts", n)
				}
				if err := s.Detach(id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := mountsBelow(t, s.state); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
	if names, _ := readNames(filepath.Join(s.state, "layer")); len(names) != 1 || names[0] != ".lock" {
		t.Errorf("left: %v", names)
	}
	if err := s.Detach("nobody"); err != nil {
		t.Error(err)
	}
}

// TestAttachAfterUnmount: somebody unmounted the layer, or a process died before it mounted it; the next user mounts it.
func TestAttachAfterUnmount(t *testing.T) {
	s, d := packedStore(t)
	paths, err := s.lowers("one", []string{d})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(paths[0], 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.lowers("two", []string{d}); err != nil || mountsBelow(t, s.state) != 1 {
		t.Fatal(err)
	}
	for _, id := range []string{"one", "two"} {
		if err := s.Detach(id); err != nil {
			t.Error(err)
		}
	}
	if n := mountsBelow(t, s.state); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

// TestPrepareAbovePacked: what is to be mounted has the layer below a writable one; a view has it alone.
func TestPrepareAbovePacked(t *testing.T) {
	s, d := packedStore(t)
	m, err := s.Prepare("c", []string{d}, atomicfile.Durable)
	if err != nil || m[0].Type != "overlay" || !strings.HasPrefix(m[0].Options[0], "lowerdir="+s.state) {
		t.Fatal(m, err)
	}
	v, err := s.View("viewer", []string{d})
	if err != nil || v[0].Type != "bind" {
		t.Fatal(v, err)
	}
	if b, err := os.ReadFile(filepath.Join(v[0].Source, "name")); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	for _, id := range []string{"viewer", "c"} {
		if mountsBelow(t, s.state) != 1 {
			t.Errorf("unmounted before %s left", id)
		}
		if err := s.Detach(id); err != nil {
			t.Error(err)
		}
	}
	if _, err := Open(s.dir).View("v", []string{d}); err == nil {
		t.Error("mounted without a folder to mount in")
	}
}
