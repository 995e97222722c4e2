package base

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"archive/tar"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/imagetest"
	"brig/internal/image/ref"
)

func parse(t *testing.T, s string) ref.Ref {
	t.Helper()
	r, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestIs(t *testing.T) {
	for s, want := range map[string]bool{"brig/base": true, "docker.io/brig/base:latest": true, "brig/base:3": true, "brig/bases": false, "localhost/brig/base": false, "base": false} {
		if Is(parse(t, s)) != want {
			t.Errorf("Is(%s) is %v", s, !want)
		}
	}
	if parse(t, "brig/base").String() != Name {
		t.Error(Name)
	}
}

// archiveOf makes what the generator makes, smaller.
func archiveOf(t *testing.T, images int) []byte {
	t.Helper()
	s := imagetest.New()
	d := s.PutImage(s.OCI(nil, imagetest.Layer("bin/sh", "#")), "")
	d.Annotations = map[string]string{imagespec.AnnotationRefName: Name}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	put := func(name string, b []byte) {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(b))})
		w.Write(b)
	}
	index := map[string]any{"schemaVersion": 2, "manifests": []imagespec.Descriptor{d, d}[:images]}
	b, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	put("index.json", b)
	put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	for dgst, b := range s.Blobs {
		put("blobs/sha256/"+dgst.Encoded(), b)
	}
	w.Close()
	return imagetest.Gzip(buf.Bytes())
}

func TestOpen(t *testing.T) {
	files := fstest.MapFS{archiveFile: {Data: archiveOf(t, 1)}}
	l, e, err := open(files, parse(t, "brig/base"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Resolve(context.Background(), l, e.Target, image.Platform{})
	if err != nil || e.Name != Name {
		t.Fatalf("%s: %+v, %v", e.Name, img, err)
	}
	if _, _, err := open(files, parse(t, "brig/base@"+e.Target.Digest.String())); err != nil {
		t.Errorf("by digest: %v", err)
	}
	if _, _, err := open(files, parse(t, "brig/base:12")); !errors.Is(err, api.NotFound) || !strings.Contains(err.Error(), "brig/base:12") {
		t.Errorf("another tag: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, _, err := open(fstest.MapFS{}, parse(t, "brig/base")); !errors.Is(err, api.NotFound) || !strings.Contains(err.Error(), "run make") {
		t.Errorf("nothing embedded: %v", err)
	}
	for name, b := range map[string][]byte{"no gzip": []byte("x"), "cut": archiveOf(t, 1)[:200], "two images": archiveOf(t, 2)} {
		if _, _, err := open(fstest.MapFS{archiveFile: {Data: b}}, parse(t, "brig/base")); !errors.Is(err, api.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEmbedded opens what this build carries.
func TestEmbedded(t *testing.T) {
	l, e, err := Open(parse(t, "brig/base"))
	if errors.Is(err, api.NotFound) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if img, err := image.Resolve(context.Background(), l, e.Target, image.Platform{}); err != nil || img.Config.Cmd[0] != "sh" {
		t.Errorf("%+v, %v", img, err)
	}
}
