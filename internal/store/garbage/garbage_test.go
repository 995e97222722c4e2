package garbage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/image/imagetest"
	"brig/internal/store/repository"
)

var ctx = context.Background()

type store struct {
	*testing.T
	Stores
}

func (s store) blob(b []byte) imagespec.Descriptor {
	s.Helper()
	w, err := s.Content.Writer(ctx, "", -1)
	if err != nil {
		s.Fatal(err)
	}
	w.Write(b)
	d, n, err := w.Commit()
	if err != nil {
		s.Fatal(err)
	}
	return imagespec.Descriptor{MediaType: imagespec.MediaTypeImageManifest, Digest: d, Size: n}
}

// image puts an image with a layer of each of the texts in the store.
func (s store) image(name string, texts ...string) api.Image {
	s.Helper()
	img := api.Image{Name: name, ID: s.blob([]byte("config " + strings.Join(texts, ","))).Digest.String()}
	img.Manifest = s.blob([]byte("manifest " + strings.Join(texts, ",")))
	img.Target = img.Manifest
	for _, text := range texts {
		tar := imagetest.Layer(text, text)
		blob := s.blob(tar)
		if _, err := s.Snapshot.Unpack(ctx, blob.Digest, bytes.NewReader(tar)); err != nil {
			s.Fatal(err)
		}
		img.Layers = append(img.Layers, api.Layer{Blob: blob, DiffID: blob.Digest.String()})
	}
	if err := s.Meta.PutImage(img); err != nil {
		s.Fatal(err)
	}
	return img
}

func (s store) remove(set Set) Set {
	s.Helper()
	l, err := s.Lock()
	if err != nil {
		s.Fatal(err)
	}
	defer l.Release()
	gone, err := s.Remove(set)
	if err != nil {
		s.Fatal(err)
	}
	return gone.Set
}

func TestRemove(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	a, b := s.image("a", "common", "only a"), s.image("b", "common", "only b")
	if gone := s.remove(s.Of(a)); gone.Blobs != nil || gone.Layers != nil {
		t.Errorf("removed from an image that is there: %+v", gone)
	}
	if err := s.Meta.RemoveImage("a"); err != nil {
		t.Fatal(err)
	}
	only := digest.Digest(a.Layers[1].DiffID)
	gone := s.remove(s.Of(a))
	if !slices.Equal(gone.Layers, []digest.Digest{only}) || len(gone.Blobs) != 3 {
		t.Errorf("%+v", gone)
	}
	for _, l := range b.Layers {
		if !s.Snapshot.Has(digest.Digest(l.DiffID)) || !s.Content.Has(l.Blob.Digest) {
			t.Errorf("image b lost %s", l.DiffID)
		}
	}
	if s.Snapshot.Has(only) || s.Content.Has(only) || s.Content.Has(digest.Digest(a.ID)) {
		t.Error("something of image a is still there")
	}
	if gone := s.remove(s.Of(a)); gone.Blobs != nil || gone.Layers != nil {
		t.Errorf("removed again: %+v", gone)
	}
}

// TestContainer: a container keeps its layers, not the blobs they came from.
func TestContainer(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	a := s.image("a", "x")
	c := api.Container{ID: id.New(), Name: "keeper", Created: time.Now(), Layers: []string{a.Layers[0].DiffID}}
	if err := s.Meta.CreateContainer(c, atomicfile.Volatile); err != nil {
		t.Fatal(err)
	}
	if err := s.Meta.RemoveImage("a"); err != nil {
		t.Fatal(err)
	}
	if gone := s.remove(s.Of(a)); gone.Layers != nil || len(gone.Blobs) != 3 {
		t.Errorf("%+v", gone)
	}
	if err := s.Meta.RemoveContainer(c.ID); err != nil {
		t.Fatal(err)
	}
	if gone := s.remove(s.Of(a)); len(gone.Layers) != 1 {
		t.Errorf("%+v", gone)
	}
}

// TestSweep: what a killed transfer left goes, what images need stays.
func TestSweep(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	a := s.image("a", "x")
	s.blob([]byte("left"))
	s.image("b", "left")
	if err := s.Meta.RemoveImage("b"); err != nil { // as if it had been killed before its record
		t.Fatal(err)
	}
	all, err := s.All()
	if err != nil || len(all.Blobs) != 7 || len(all.Layers) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	if gone := s.remove(all); len(gone.Blobs) != 4 || len(gone.Layers) != 1 {
		t.Errorf("%+v", gone)
	}
	if all, err = s.All(); err != nil || len(all.Blobs) != 3 || !s.Snapshot.Has(digest.Digest(a.Layers[0].DiffID)) {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestSweepTemporaries: what package atomicfile had not renamed when its process was killed goes from every folder that records are in, once nobody can be about to.
func TestSweepTemporaries(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	s.image("a", "x")
	dirs := []string{".", "content", "image", "network", "reserve", "container/" + id.New(), "volume/v"}
	names := map[string]string{".": "version", "content": "oci-layout", "image": "a.json", "network": "bridge.json", "reserve": "ledger", "volume/v": "volume.json"}
	var old []string
	for _, dir := range append(dirs, "volume/v/data") {
		path := filepath.Join(s.Root, dir)
		name := names[dir]
		if name == "" {
			name = "record.json"
		}
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{name + ".tmp12-3", name + ".tmp4-5"} {
			if err := os.WriteFile(filepath.Join(path, f), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(filepath.Join(path, name+".tmp12-3"), time.Time{}, time.Now().Add(-2*time.Hour)); err != nil {
			t.Fatal(err)
		}
		old = append(old, filepath.Join(path, name+".tmp12-3"))
	}
	s.sweep()
	for i, path := range old {
		_, err := os.Lstat(path)
		if mine := i == len(dirs); mine != (err == nil) { // a file in a volume is its user's, whatever it is called
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, dir := range []string{"network", "volume/v", dirs[5]} { // written under no lock that the sweep holds
		if left, err := filepath.Glob(filepath.Join(s.Root, dir, "*.tmp4-5")); err != nil || len(left) != 1 {
			t.Errorf("%s: a file that may be on its way was removed (%q, %v)", dir, left, err)
		}
	}
}

// TestInnerIndex: an index between target and manifest belongs to the image.
func TestInnerIndex(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	a := s.image("a", "x")
	inner := s.blob([]byte("{}"))
	inner.MediaType = imagespec.MediaTypeImageIndex
	doc, err := json.Marshal(imagespec.Index{Manifests: []imagespec.Descriptor{inner}})
	if err != nil {
		t.Fatal(err)
	}
	a.Target = s.blob(doc)
	a.Target.MediaType = imagespec.MediaTypeImageIndex
	if !slices.Contains(s.Of(a).Blobs, inner.Digest) {
		t.Errorf("%+v", s.Of(a))
	}
}

// TestIndexWithoutEnd: of an index that names an index a thousand times, which names a third a thousand times, each is read once.
func TestIndexWithoutEnd(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	a := s.image("a", "x")
	d := a.Manifest
	for range 3 {
		doc, err := json.Marshal(imagespec.Index{Manifests: slices.Repeat([]imagespec.Descriptor{d}, 1000)})
		if err != nil {
			t.Fatal(err)
		}
		d = s.blob(doc)
		d.MediaType = imagespec.MediaTypeImageIndex
	}
	a.Target = d
	a.Layers = append(a.Layers, api.Layer{DiffID: digest.FromString("missing").String(), Blob: imagespec.Descriptor{Digest: digest.FromString("missing")}})
	if err := errors.Join(s.Content.SetRef("a", d), s.Meta.PutImage(a)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := s.needed(); done <- err }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it goes on and on")
	}
}

// TestRegistry: what a repository has stays, and with it the layer that gives it where it is no file; given up, both go.
func TestRegistry(t *testing.T) {
	s := store{t, Open(t.TempDir())}
	repos := repository.Open(s.Root)
	tar := imagetest.Layer("a", "b")
	diffID, d := digest.FromBytes(tar), digest.FromString("compressed")
	if _, err := s.Snapshot.Unpack(ctx, diffID, bytes.NewReader(tar)); err != nil {
		t.Fatal(err)
	}
	if err := s.Content.Derive(d, filepath.Join(s.Root, "snapshot", "layer", diffID.Encoded())); err != nil {
		t.Fatal(err)
	}
	file := s.blob([]byte("a file")).Digest
	for _, b := range []digest.Digest{d, file} {
		if _, err := repos.AddBlob("team/app", b); err != nil {
			t.Fatal(err)
		}
	}
	if need, err := s.RegistryBlobs(); len(need) != 2 || err != nil {
		t.Error(need, err)
	}
	all, err := s.All()
	if err != nil || len(all.Blobs) != 2 || len(all.Layers) != 1 {
		t.Fatal(all, err)
	}
	if removed, err := s.Remove(all); len(removed.Blobs)+len(removed.Layers) != 0 || err != nil {
		t.Error(removed, err)
	}
	for _, b := range []digest.Digest{d, file} {
		if err := repos.RemoveBlob("team/app", b); err != nil {
			t.Fatal(err)
		}
		if removed, err := s.Remove(s.OfBlob(b)); len(removed.Blobs) != 1 || err != nil {
			t.Error(removed, err)
		}
	}
	if s.Snapshot.Has(diffID) || s.Content.Has(d) || s.Content.Has(file) {
		t.Error("given up, and there")
	}
}
