package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/internal/base/atomicfile"
	"brig/internal/store/erofs"
	"brig/internal/store/packed"

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
	if !s.Packs(erofs.Deflate) {
		t.Skip("this kernel mounts no EROFS image with deflate from a file, or does not read it right")
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
		if err := s.UnmountAll(); err != nil {
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

// TestMount: many want a layer at the same time; each sees it, one mount serves all, and it goes with the layer, from below every state folder.
func TestMount(t *testing.T) {
	s, d := packedStore(t)
	other := s.In(filepath.Join(filepath.Dir(s.state), `a "state" \040folder`))
	var wg sync.WaitGroup
	for i := range 16 {
		store := s
		if i%2 > 0 {
			store = other
		}
		wg.Go(func() {
			for range 20 {
				paths, err := store.Lowers([]string{d})
				if err != nil {
					t.Error(err)
					return
				}
				if b, err := os.ReadFile(filepath.Join(paths[0], "name")); err != nil || string(b) != "hello" {
					t.Errorf("%q, %v", b, err)
				}
				if n := mountsBelow(t, s.state); n != 1 && store == s {
					t.Errorf("%d mounts", n)
				}
			}
		})
	}
	wg.Wait()
	// Somebody unmounted it: the next mounts it again.
	if err := unix.Unmount(s.mounted(strings.TrimPrefix(d, "sha256:")), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lowers([]string{d}); err != nil || mountsBelow(t, s.state) != 1 {
		t.Error(err)
	}
	if err := s.RemoveLayer(d); err != nil {
		t.Fatal(err)
	}
	for _, store := range []*Store{s, other} {
		if names, _ := readNames(filepath.Join(store.state, "layer")); len(names) != 1 || names[0] != ".lock" {
			t.Errorf("left: %v", names)
		}
	}
	if n := mountsBelow(t, filepath.Dir(s.state)); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

// TestPrepareAbovePacked: what is to be mounted has the layer below a writable one.
func TestPrepareAbovePacked(t *testing.T) {
	s, d := packedStore(t)
	m, err := s.Prepare("c", []string{d}, atomicfile.Durable)
	if err != nil || m[0].Type != "overlay" || !strings.HasPrefix(m[0].Options[0], "lowerdir="+s.state) {
		t.Fatal(m, err)
	}
	if err := s.UnmountAll(); err != nil || mountsBelow(t, s.state) != 0 {
		t.Error(err)
	}
	if _, err := Open(s.dir).Lowers([]string{d}); err == nil {
		t.Error("mounted without a folder to mount in")
	}
}

// TestPacksBesideSweeps: others who sweep do not take the probe away.
func TestPacksBesideSweeps(t *testing.T) {
	s, _ := packedStore(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.sweep()
				}
			}
		})
	}
	for i := range 100 {
		if a := []erofs.Algorithm{erofs.Deflate, erofs.LZ4}[i%2]; !s.Packs(a) {
			t.Errorf("a probe of algorithm %d failed", a)
			break
		}
	}
	close(stop)
	wg.Wait()
}

// TestMetadataIsFetched: what names and inodes are read from comes into memory when a layer is mounted, and nothing else.
func TestMetadataIsFetched(t *testing.T) {
	s, d := packedStore(t)
	f, err := os.Open(filepath.Join(s.layer(d[len("sha256:"):]), packed.ImageFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inMemory := func(at, end int64) uint64 {
		var st unix.Cachestat_t
		if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Off: uint64(at), Len: uint64(end - at)}, &st, 0); err != nil {
			t.Skip("this kernel does not tell what is in memory:", err)
		}
		return st.Cache
	}
	at, end, err := erofs.Metadata(f)
	if fi, serr := f.Stat(); err != nil || serr != nil || end != fi.Size() || at%erofs.BlockSize != 0 || at <= 0 || at >= end {
		t.Fatalf("metadata from %d to %d: %v", at, end, err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil || inMemory(0, end) > 0 {
		t.Skip("this file system keeps its files in memory:", err)
	}
	fetchMetadata(f.Name())
	for deadline := time.Now().Add(10 * time.Second); inMemory(at, end) < uint64(end-at)/erofs.BlockSize; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come")
		}
	}
	fetchMetadata(os.DevNull) // no image: that is left to the mount
}
