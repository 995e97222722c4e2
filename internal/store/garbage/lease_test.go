package garbage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/image/imagetest"
)

func (s store) sweep() Removed {
	s.Helper()
	l, err := s.Lock()
	if err != nil {
		s.Fatal(err)
	}
	defer l.Release()
	gone, err := s.Sweep(ctx)
	if err != nil {
		s.Fatal(err)
	}
	return gone
}

// TestLease: what is under a lease stays, until its holder releases it or dies.
func TestLease(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	a := s.image("a", "x", "y")
	set := s.Of(a)
	lease, err := s.Lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Add(set); err != nil {
		t.Fatal(err)
	}
	if err := s.Meta.RemoveImage("a"); err != nil {
		t.Fatal(err)
	}
	if gone := s.remove(set); gone.Blobs != nil || gone.Layers != nil {
		t.Errorf("removed under a lease: %+v", gone)
	}
	s.sweep()
	if !s.hasAll(set) {
		t.Error("swept under a lease")
	}
	lease.Release()
	lease.Release()
	if err := lease.Add(set); !errors.Is(err, api.Conflict) {
		t.Errorf("added to a released lease: %v", err)
	}
	if gone := s.sweep(); len(gone.Blobs) != 4 || len(gone.Layers) != 2 || gone.Bytes == 0 {
		t.Errorf("%+v", gone)
	}
	// The lease of a dead process: its file, and nobody who holds it.
	dead := filepath.Join(s.Root, leaseDir, id.New())
	b := s.blob([]byte("b"))
	if err := os.WriteFile(dead, []byte("blob "+b.Digest+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.sweep()
	if _, err := os.Stat(dead); err == nil || s.Content.Has(b.Digest) {
		t.Error("the lease of a dead process is not void")
	}
}

// TestLeaseDamaged: nothing goes while a living lease cannot be read.
func TestLeaseDamaged(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	lease, err := s.Lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b := s.blob([]byte("b"))
	if err := lease.Add(Set{Blobs: []digest.Digest{b.Digest}}); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(lease.path)
	text[3] ^= 4
	if err := os.WriteFile(lease.path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l, _ := s.Lock()
	all, _ := s.All()
	if gone, err := s.Remove(all); !errors.Is(err, api.Corrupt) || gone.Blobs != nil {
		t.Errorf("%+v, %v", gone, err)
	}
	l.Release()
	lease.Release()
	if s.sweep(); s.Content.Has(b.Digest) {
		t.Error("still there")
	}
}

// TestLeaseWaits: Add waits for a removal, and not beyond its context.
func TestLeaseWaits(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	c, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	lease, err := s.Lease(c)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	l, err := s.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Add(Set{Blobs: []digest.Digest{digest.FromString("x")}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	l.Release()
}

// TestTransfersBesidePrune is how a transfer uses a lease: what it found it counts on to the end, though others remove all that they can at any time.
func TestTransfersBesidePrune(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	stop := make(chan struct{})
	var pruner, all sync.WaitGroup
	pruner.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, _, err := s.PruneImages(ctx, func([]api.Image) bool { return true }); err != nil {
				t.Error(err)
				return
			}
		}
	})
	tar := imagetest.Layer("file", "content")
	layer := digest.FromBytes(tar)
	config := []byte("config")
	manifest := []byte("manifest")
	for range 3 {
		all.Go(func() {
			for range 30 {
				set := Set{Blobs: []digest.Digest{layer, digest.FromBytes(config), digest.FromBytes(manifest)}, Layers: []digest.Digest{layer}}
				lease, err := s.Lease(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				if err := lease.Add(set); err != nil { // first the lease, then the look
					t.Error(err)
				}
				var img api.Image
				for _, b := range [][]byte{tar, config, manifest} {
					if !s.Content.Has(digest.FromBytes(b)) {
						s.blob(b)
					}
				}
				if !s.Snapshot.Has(layer) {
					if _, err := s.Snapshot.Unpack(ctx, layer, bytes.NewReader(tar)); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(time.Millisecond)
				l, err := s.Lock()
				if err != nil {
					t.Error(err)
					return
				}
				if !s.hasAll(set) {
					t.Error("something was removed under the lease")
				}
				img = api.Image{Name: "docker.io/library/a:1", ID: digest.FromBytes(config).String()}
				img.Manifest.Digest = digest.FromBytes(manifest)
				img.Target = img.Manifest
				img.Layers = []api.Layer{{DiffID: layer.String()}}
				img.Layers[0].Blob.Digest = layer
				if err := s.Publish(img); err != nil {
					t.Error(err)
				}
				l.Release()
				lease.Release()
			}
		})
	}
	all.Wait()
	close(stop)
	pruner.Wait()
	if _, _, err := s.PruneImages(ctx, func([]api.Image) bool { return true }); err != nil {
		t.Error(err)
	}
	if rest, err := s.All(); err != nil || len(rest.Blobs)+len(rest.Layers) != 0 {
		t.Errorf("%+v, %v", rest, err)
	}
}

// TestDamagedRecords: nothing goes that a record needs which cannot be read.
func TestDamagedRecords(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	a := s.image("a", "x")
	damage := func(path string) (undo func()) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(b)
		bad[len(bad)/2] ^= 1
		os.WriteFile(path, bad, 0o600)
		return func() { os.WriteFile(path, b, 0o600) }
	}
	undo := damage(filepath.Join(s.Root, "image", "a.json"))
	l, _ := s.Lock()
	all, _ := s.All()
	if gone, err := s.Remove(all); !errors.Is(err, api.Corrupt) || gone.Blobs != nil || gone.Layers != nil {
		t.Errorf("image: %+v, %v", gone, err)
	}
	l.Release()
	if images, err := s.Meta.Images(); err != nil || len(images) != 0 {
		t.Errorf("%+v, %v", images, err)
	}
	undo()

	// A container's damaged record keeps all layers, and no blob.
	c := api.Container{ID: id.New(), Name: "keeper", Created: time.Now(), Layers: []string{a.Layers[0].DiffID}}
	if err := s.Meta.CreateContainer(c, atomicfile.Durable); err != nil {
		t.Fatal(err)
	}
	if err := s.Meta.RemoveImage("a"); err != nil {
		t.Fatal(err)
	}
	damage(filepath.Join(s.Meta.Dir(c.ID), "record.json"))
	l, _ = s.Lock()
	if gone, err := s.Remove(all); !errors.Is(err, api.Corrupt) || len(gone.Blobs) != 3 || gone.Layers != nil {
		t.Errorf("container: %+v, %v", gone, err)
	}
	l.Release()
	if err := s.Meta.RemoveContainer(c.ID); err != nil {
		t.Fatal(err)
	}
	if gone := s.sweep(); len(gone.Layers) != 1 {
		t.Errorf("%+v", gone)
	}
}

// TestNames: index.json is set right from the records.
func TestNames(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	a, b := s.image("a", "x"), s.image("b", "y")
	if err := s.Content.SetRef("a", b.Target); err != nil {
		t.Fatal(err)
	}
	if err := s.Content.SetRef("gone", b.Target); err != nil {
		t.Fatal(err)
	}
	s.sweep()
	refs, err := s.Content.Refs()
	if err != nil || len(refs) != 2 {
		t.Fatalf("%+v, %v", refs, err)
	}
	for _, r := range refs {
		name := r.Annotations["org.opencontainers.image.ref.name"]
		if name == "a" && r.Digest != a.Target.Digest || name == "b" && r.Digest != b.Target.Digest || name == "gone" {
			t.Errorf("%+v", r)
		}
	}
}

// TestVersion: a store of a newer layout is not written to.
func TestVersion(t *testing.T) {
	s := Open(t.TempDir())
	if err := s.CheckVersion(); err != nil {
		t.Error(err)
	}
	if err := s.EnsureVersion(); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckVersion(); err != nil {
		t.Error(err)
	}
	if err := s.writeSmall(versionFile, version{Version + 1}); err != nil {
		t.Fatal(err)
	}
	if err := s.EnsureVersion(); !errors.Is(err, api.Unsupported) {
		t.Errorf("%v", err)
	}
	path := filepath.Join(s.Root, versionFile)
	whole, _ := os.ReadFile(path)
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 2
		os.WriteFile(path, bad, 0o600)
		if err := s.CheckVersion(); !errors.Is(err, api.Corrupt) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
