package garbage

import (
	"context"
	"crypto/rand"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/store/repository"
	"brig/internal/store/usage"
)

func (s store) total() int64 {
	s.Helper()
	n, err := usage.Of(s.Root)
	if err != nil {
		s.Fatal(err)
	}
	return n
}

func (s store) limit(n int64) *Budget {
	s.Helper()
	if err := s.PutSettings(Settings{StoreLimit: n}); err != nil {
		s.Fatal(err)
	}
	b, err := s.Budget()
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(b.Close)
	return b
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// bring is a transfer of one large blob, as it uses a budget.
func (s store) bring(b *Budget, name string, size int) error {
	s.Helper()
	lease, err := s.Lease(ctx)
	if err != nil {
		return err
	}
	defer lease.Release()
	data := noise(size)
	d := digest.FromBytes(data)
	config := noise(100)
	if err := lease.Add(Set{Blobs: []digest.Digest{d, digest.FromBytes(config)}}); err != nil {
		return err
	}
	release, err := b.Reserve(ctx, int64(size)) // what was announced, before the first byte
	if err != nil {
		return err
	}
	defer release()
	w, err := s.Content.Writer(ctx, d, int64(size))
	if err != nil {
		return err
	}
	defer w.Abort()
	for len(data) > 0 {
		n := min(len(data), 64<<10)
		if _, err := w.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	if _, _, err := w.Commit(); err != nil {
		return err
	}
	s.blob(config)
	l, err := s.Lock()
	if err != nil {
		return err
	}
	defer l.Release()
	img := api.Image{Name: name, ID: digest.FromBytes(config).String()}
	img.Manifest = imagespec.Descriptor{Digest: d, Size: int64(size)}
	img.Target = img.Manifest
	return s.Publish(img)
}

// TestBudgetEvicts: the least recently used images go, never one that a container is made of.
func TestBudgetEvicts(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	b := s.limit(5 << 20)
	for _, name := range []string{"one", "two", "three", "four"} {
		if err := s.bring(b, name, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	images, _ := s.Meta.Images()
	for i := range images {
		path := filepath.Join(s.Root, "image", images[i].Name+".json")
		then := time.Now().Add(-map[string]time.Duration{"one": 4, "two": 3, "three": 2, "four": 1}[images[i].Name] * time.Hour)
		os.Chtimes(path, then, then)
		if images[i].Name == "two" {
			s.Meta.UseImage(&images[i])
		}
		if images[i].Name == "one" {
			c := api.Container{ID: id.New(), Name: "of-one", Created: time.Now(), Image: images[i].ID}
			if err := s.Meta.CreateContainer(c, atomicfile.Volatile); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.bring(b, "five", 2<<20); err != nil {
		t.Fatal(err)
	}
	if got := s.names(); got != "five one two" { // three and four were used longest ago
		t.Errorf("left: %s", got)
	}
	if n := s.total(); n > 5<<20 {
		t.Errorf("%d bytes", n)
	}
	// What can never fit takes nothing with it.
	err := s.bring(b, "six", 9<<20)
	if !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), "brig system limit") || s.names() != "five one two" {
		t.Errorf("%v, %s", err, s.names())
	}
	err = s.bring(b, "seven", 4<<20) // with all that is not in use gone it would be too much still
	if !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), "images in use 1") || s.names() != "five one two" {
		t.Errorf("%v, %s", err, s.names())
	}
}

func (s store) names() string {
	images, err := s.Meta.Images()
	if err != nil {
		s.Fatal(err)
	}
	var names []string
	for _, img := range images {
		names = append(names, img.Name)
	}
	return strings.Join(names, " ")
}

// TestBudgetHolds: of many at a time, some of which fail, none exceeds the limit at any moment.
func TestBudgetHolds(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	const limit = 6 << 20
	if err := s.PutSettings(Settings{StoreLimit: limit}); err != nil {
		t.Fatal(err)
	}
	var most atomic.Int64
	stop := make(chan struct{})
	var watcher, all sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			// A file that is renamed while the folders are walked is counted in both: not twice in a row.
			most.Store(max(most.Load(), min(s.total(), s.total())))
		}
	})
	var brought atomic.Int64
	for n := range 4 {
		all.Go(func() {
			b, err := s.Budget() // each is a process of its own
			if err != nil {
				t.Error(err)
				return
			}
			defer b.Close()
			for i := range 12 {
				err := s.bring(b, "img"+string(rune('a'+n*12+i)), 1<<20)
				if err == nil {
					brought.Add(1)
				} else if !errors.Is(err, api.Exhausted) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	close(stop)
	watcher.Wait()
	if most.Load() > limit+BudgetSlack {
		t.Errorf("%d bytes at most, the limit is %d", most.Load(), limit)
	}
	if brought.Load() < 24 {
		t.Errorf("only %d of 48 came in", brought.Load())
	}
	t.Logf("at most %d of %d bytes, %d of 48 came in", most.Load(), limit, brought.Load())
}

// TestBudgetKeepsTheRegistry: what a repository has is not counted as what could go, so nothing is evicted in vain for it.
func TestBudgetKeepsTheRegistry(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	served := s.blob(noise(3 << 20)).Digest
	if _, err := repository.Open(s.Root).AddBlob("team/app", served); err != nil {
		t.Fatal(err)
	}
	b := s.limit(5 << 20)
	if err := s.bring(b, "image", 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := s.bring(b, "large", 3<<20); !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), "images in use 3") {
		t.Errorf("%v", err)
	}
	if got := s.names(); got != "image" || !s.Content.Has(served) {
		t.Errorf("left: %s", got)
	}
	if err := s.bring(b, "small", 1<<20); err != nil { // in the image's place
		t.Error(err)
	}
	if got := s.names(); got != "small" || !s.Content.Has(served) {
		t.Errorf("left: %s", got)
	}
}

// TestBudgetOverflows: a length near the end of the numbers, as a manifest may announce, is not taken for a negative one.
func TestBudgetOverflows(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	b := s.limit(10 << 20)
	defer b.Close()
	for _, n := range []int64{math.MaxInt64, math.MaxInt64 - 4096, 1 << 62} {
		if release, err := b.Reserve(ctx, n); !errors.Is(err, api.Exhausted) {
			t.Errorf("%d bytes: %v", n, err)
			release()
		}
	}
	if _, err := b.Reserve(ctx, 4096); err != nil {
		t.Error(err)
	}
}

// TestGrowth: what is unpacked is reserved as it grows, and given back.
func TestGrowth(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	b := s.limit(4 << 20)
	g := b.Growth(ctx)
	var n int64
	for ; ; n += 64 << 10 {
		if err := g.Add(64 << 10); err != nil {
			if !errors.Is(err, api.Exhausted) {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 3<<20 || n > 4<<20 {
		t.Errorf("%d bytes were granted", n)
	}
	other, err := s.Budget()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Reserve(ctx, 1<<20); !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), "transfers under way") {
		t.Errorf("%v", err)
	}
	g.Release()
	release, err := other.Reserve(ctx, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	release()
	release()
	// A process that died has reserved nothing.
	dead := filepath.Join(s.Root, reserveDir, id.New())
	if err := os.WriteFile(dead, []byte("00000000000099999999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Reserve(ctx, 1<<20); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("the reservation of a dead process is still there")
	}
}

// TestNoLimit: without one nothing is reserved, and nothing written.
func TestNoLimit(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	b, err := s.Budget()
	if err != nil {
		t.Fatal(err)
	}
	release, err := b.Reserve(ctx, 1<<60)
	if err != nil {
		t.Fatal(err)
	}
	release()
	if err := b.Growth(ctx).Add(1 << 60); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.Root, reserveDir)); err == nil {
		t.Error("something was written")
	}
}

// TestBudgetCancelled: who waits for another's reservation goes when it is told to.
func TestBudgetCancelled(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	b := s.limit(4 << 20)
	l, err := b.lock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	c, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := b.Reserve(c, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
