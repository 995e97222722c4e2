package registry

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/api"
	"brig/internal/store/content"
	"brig/internal/store/garbage"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

var ctx = context.Background()

func fresh(t *testing.T) *Registry {
	t.Helper()
	r := Open(filepath.Join(t.TempDir(), "root"), nil, t.Logf)
	t.Cleanup(r.Close)
	return r
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// has puts an image that Brig has into the store: its documents are what they need to be here.
func has(t *testing.T, r *Registry, name, text string) api.Image {
	t.Helper()
	put := func(s string) imagespec.Descriptor {
		w, err := r.stores.Content.Writer(ctx, "", -1)
		ok(t, err)
		io.WriteString(w, s)
		d, n, err := w.Commit()
		ok(t, err)
		return imagespec.Descriptor{MediaType: imagespec.MediaTypeImageManifest, Digest: d, Size: n}
	}
	manifest := put("manifest of " + text)
	inner := put(`{"manifests":[]}` + strings.Repeat(" ", len(text)))
	target := put(`{"manifests":[{"mediaType":"` + imagespec.MediaTypeImageIndex + `","digest":"` + inner.Digest.String() + `"}]}` + strings.Repeat(" ", len(text)))
	target.MediaType = imagespec.MediaTypeImageIndex
	img := api.Image{Name: name, Target: target, Manifest: manifest, ID: put("config of " + text).Digest.String(),
		Layers: []api.Layer{{Blob: put("layer of " + text), DiffID: digest.FromString(text).String()}}}
	ok(t, r.stores.Meta.PutImage(img))
	return img
}

// TestImages: an image that Brig has is a repository's, by path and by full name; docker.io's comes first, and what is pushed before it.
func TestImages(t *testing.T) {
	r := fresh(t)
	quay := has(t, r, "quay.io/team/app:1", "quay")
	hub := has(t, r, "docker.io/team/app:1", "the hub")
	has(t, r, "", "one without a name")
	for repo, want := range map[string]api.Image{"team/app": hub, "docker.io/team/app": hub, "quay.io/team/app": quay} {
		desc, b, err := r.Manifest(ctx, repo, "1", "")
		if err != nil || desc.Digest != want.Target.Digest || desc.MediaType != want.Target.MediaType || len(b) == 0 {
			t.Errorf("%s: %v %v", repo, desc, err)
		}
	}
	for d, want := range map[digest.Digest]bool{quay.Manifest.Digest: true, quay.Target.Digest: true, hub.Layers[0].Blob.Digest: false, digest.Digest(hub.ID): false, hub.Target.Digest: true} {
		if _, _, err := r.Manifest(ctx, "team/app", "", d); (err == nil) != want {
			t.Errorf("manifest %s: %v", d, err)
		}
	}
	inner := r.stores.Of(hub).Blobs[3]
	if desc, _, err := r.Manifest(ctx, "team/app", "", inner); err != nil || desc.MediaType != imagespec.MediaTypeImageIndex {
		t.Errorf("the index in the index: %v %v", desc, err)
	}
	for _, d := range []digest.Digest{digest.Digest(hub.ID), hub.Layers[0].Blob.Digest, quay.Layers[0].Blob.Digest} {
		size, open, err := r.Blob(ctx, "team/app", d)
		ok(t, err)
		rc, err := open()
		ok(t, err)
		if b, err := io.ReadAll(rc); err != nil || int64(len(b)) != size {
			t.Errorf("%d of %d bytes, %v", len(b), size, err)
		}
		rc.Close()
		if _, _, err := r.Blob(ctx, "other/app", d); !errors.Is(err, api.NotFound) {
			t.Errorf("another repository has it: %v", err)
		}
	}
	if _, _, err := r.Blob(ctx, "quay.io/team/app", hub.Layers[0].Blob.Digest); !errors.Is(err, api.NotFound) {
		t.Errorf("a full name is one image's: %v", err)
	}
	if all, err := r.Repositories(ctx); !slices.Equal(all, []string{"team/app"}) || err != nil {
		t.Error(all, err)
	}
	if all, err := r.Tags(ctx, "team/app"); !slices.Equal(all, []string{"1"}) || err != nil {
		t.Error(all, err)
	}
	for _, err := range []error{r.DeleteTag(ctx, "team/app", "1"), r.DeleteManifest(ctx, "team/app", hub.Target.Digest), r.DeleteBlob(ctx, "team/app", hub.Layers[0].Blob.Digest)} {
		if !errors.Is(err, api.Unsupported) || !strings.Contains(err.Error(), "brig rmi") {
			t.Error(err)
		}
	}
	config := hub.Layers[0].Blob
	m := `{"config":{"digest":"` + config.Digest.String() + `","size":` + "16" + `},"layers":[]}`
	d, _, err := r.PutManifest(ctx, "team/app", imagespec.MediaTypeImageManifest, []byte(m), "", []string{"1"})
	ok(t, err)
	if desc, _, err := r.Manifest(ctx, "team/app", "1", ""); err != nil || desc.Digest != d {
		t.Errorf("pushed, and not there: %v %v", desc, err)
	}
	// What the manifest names stays when the image goes.
	ok(t, r.stores.Meta.RemoveImage(hub.Name))
	ok(t, r.locked(ctx, func() error { _, err := r.stores.Remove(r.stores.Of(hub)); return err }))
	if !r.stores.Content.Has(config.Digest) || r.stores.Content.Has(hub.Manifest.Digest) {
		t.Error("removed what the registry needs, or nothing")
	}
}

// TestClaims: of two pushes of one blob, where one sends other bytes, the other's stays, in whatever order they end.
func TestClaims(t *testing.T) {
	r := fresh(t)
	d := digest.FromString("good")
	for range 20 {
		good, bad := make(chan error, 1), make(chan error, 1)
		go func() { good <- r.PutBlob(ctx, "a", d, -1, strings.NewReader("good")) }()
		go func() { bad <- r.PutBlob(ctx, "a", d, -1, strings.NewReader("evil")) }()
		if err := <-bad; !errors.Is(err, api.Corrupt) {
			t.Error(err)
		}
		ok(t, <-good)
		if _, _, err := r.Blob(ctx, "a", d); err != nil {
			t.Fatal(err)
		}
		ok(t, r.DeleteBlob(ctx, "a", d))
		if r.stores.Content.Has(d) {
			t.Fatal("deleted, and there")
		}
	}
	// A claim that is not kept gives nobody what others have.
	ok(t, r.PutBlob(ctx, "a", d, 4, strings.NewReader("good")))
	if err := r.PutBlob(ctx, "b", d, 4, strings.NewReader("evil")); !errors.Is(err, api.Corrupt) {
		t.Error(err)
	}
	if _, _, err := r.Blob(ctx, "b", d); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
	if _, _, err := r.Blob(ctx, "a", d); err != nil {
		t.Error(err)
	}
	if err := r.PutBlob(ctx, "b", d, maxBlob+1, strings.NewReader("good")); !errors.Is(err, api.Exhausted) {
		t.Error(err)
	}
}

// TestExpired: a blob that no manifest came to name goes, from the store too, unless an image has it.
func TestExpired(t *testing.T) {
	r := fresh(t)
	img := has(t, r, "docker.io/team/app:1", "x")
	lost := digest.FromString("lost")
	ok(t, r.PutBlob(ctx, "a", lost, -1, strings.NewReader("lost")))
	if mounted, err := r.Mount(ctx, "", "a", img.Layers[0].Blob.Digest); !mounted || err != nil {
		t.Error(mounted, err)
	}
	ok(t, r.Expire(ctx, time.Now().Add(-time.Hour)))
	if !r.stores.Content.Has(lost) {
		t.Error("a new one went")
	}
	set := garbage.Set{Blobs: []digest.Digest{lost}}
	ok(t, r.locked(ctx, func() error { _, err := r.stores.Remove(set); return err }))
	if !r.stores.Content.Has(lost) {
		t.Error("a pushed blob is garbage")
	}
	ok(t, r.Expire(ctx, time.Now().Add(time.Hour)))
	if r.stores.Content.Has(lost) || !r.stores.Content.Has(img.Layers[0].Blob.Digest) {
		t.Error("expired, and there; or an image's, and gone")
	}
}

func TestParseMirror(t *testing.T) {
	for s, want := range map[string]Mirror{
		"docker.io":                              {Domain: "docker.io", host: "docker.io"},
		"quay.io=https://cache.example.org:5000": {Domain: "quay.io", host: "cache.example.org:5000"},
		"ghcr.io=https://cache.example.org/a/b/": {Domain: "ghcr.io", host: "cache.example.org", prefix: "a/b"},
		"localhost:5000=http://127.0.0.1:1":      {Domain: "localhost:5000", host: "127.0.0.1:1", insecure: true},
	} {
		if got, err := ParseMirror(s); got != want || err != nil {
			t.Errorf("%s: %+v %v", s, got, err)
		}
	}
	for _, s := range []string{"", "=", "x", "docker.io=", "docker.io=x", "docker.io=ftp://x", "docker.io=https://", "docker.io=https://u:p@x", "docker.io=https://x?y", "docker.io=https://x/UPPER",
		"docker.io=https://x/../y", "docker.io/library=https://x", "a b=https://x", "docker.io=https://[::1"} {
		if m, err := ParseMirror(s); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%q: %+v %v", s, m, err)
		}
	}
}

// FuzzManifest: what is read as a manifest names things by digests that can be checked, within limits.
func FuzzManifest(f *testing.F) {
	d := digest.FromString("x").String()
	for _, s := range []string{`{}`, `{"mediaType":"a/b"}`, `{"config":{"digest":"` + d + `","size":1},"layers":[],"subject":{"digest":"` + d + `"}}`, `{"manifests":[{"digest":"` + d + `"}]}`,
		`{"manifests":[],"layers":[]}`, `{"config":{"digest":"../x"},"layers":null}`} {
		f.Add(imagespec.MediaTypeImageManifest, []byte(s))
		f.Add("", []byte(s))
	}
	f.Fuzz(func(t *testing.T, mediaType string, b []byte) {
		m, err := read(mediaType, b)
		if err != nil {
			if !errors.Is(err, api.InvalidArgument) {
				t.Error(err)
			}
			return
		}
		rec := m.record(imagespec.Descriptor{})
		for _, d := range append(rec.Needs, rec.Subject) {
			if d != "" && content.Check(d) != nil {
				t.Errorf("%q", d)
			}
		}
		if rec.MediaType == "" || strings.ContainsAny(rec.MediaType, "\r\n") || len(rec.Needs) > maxReferences+1 {
			t.Errorf("%q, %d", rec.MediaType, len(rec.Needs))
		}
	})
}
