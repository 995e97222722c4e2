package layout

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/imagetest"
)

var ctx = context.Background()

// folderOf writes a layout with one image and returns its folder and the image's descriptor.
func folderOf(t *testing.T, annotations map[string]string) (string, imagespec.Descriptor, *imagetest.Store) {
	t.Helper()
	s := imagetest.New()
	d := s.PutImage(s.OCI(imagetest.Gzip, imagetest.Layer("a", "b")), "")
	dir := t.TempDir()
	write(t, dir, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	d.Annotations = annotations
	index, _ := json.Marshal(imagespec.Index{Manifests: []imagespec.Descriptor{d, {MediaType: "application/x-other", Digest: d.Digest, Size: 1}}})
	write(t, dir, "index.json", []byte(strings.Replace(string(index), `"schemaVersion":0`, `"schemaVersion":2`, 1)))
	for dgst, b := range s.Blobs {
		write(t, dir, "blobs/sha256/"+dgst.Encoded(), b)
	}
	return dir, d, s
}

func write(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ containerd, oci, want string }{
		{"", "", ""}, {"", "12", ""}, {"", "debian:12", "docker.io/library/debian:12"}, {"", "r.example/x", "r.example/x:latest"},
		{"docker.io/library/debian:12", "12", "docker.io/library/debian:12"},
	} {
		dir, d, _ := folderOf(t, map[string]string{containerdName: c.containerd, imagespec.AnnotationRefName: c.oci})
		l, err := OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if e := l.Entries(); len(e) != 1 || e[0].Name != c.want || e[0].Target.Digest != d.Digest || e[0].Target.Annotations != nil {
			t.Errorf("%+v: %+v", c, e)
		}
		l.Close()
	}
	dir, _, _ := folderOf(t, map[string]string{containerdName: "../../x"})
	if _, err := OpenDir(dir); !errors.Is(err, api.InvalidArgument) {
		t.Errorf("bad name: %v", err)
	}
}

func TestRead(t *testing.T) {
	dir, d, s := folderOf(t, nil)
	l, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	img, err := image.Resolve(ctx, l, d, image.Platform{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := img.Open(ctx, img.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != string(s.Blobs[img.Layers[0].Blob.Digest]) {
		t.Error(err)
	}
}

// TestHostile: what a layout's folder may hold instead of blobs.
func TestHostile(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, replace := range map[string]func(path string) error{
		"missing":      func(string) error { return nil },
		"link outside": func(p string) error { return os.Symlink(outside, p) },
		"FIFO":         func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"folder":       func(p string) error { return os.Mkdir(p, 0o700) },
		"shorter":      func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) },
	} {
		dir, d, _ := folderOf(t, nil)
		path := filepath.Join(dir, "blobs/sha256", d.Digest.Encoded())
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := replace(path); err != nil {
			t.Fatal(err)
		}
		l, err := OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := l.Open(ctx, d); err == nil {
			b, _ := io.ReadAll(r)
			t.Errorf("%s: read %q", name, b)
		}
		l.Close()
	}
	dir, d, _ := folderOf(t, nil)
	l, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d.Digest = "sha256:../../../etc/passwd"
	if _, err := l.Open(ctx, d); !errors.Is(err, api.Corrupt) {
		t.Errorf("a digest that is a path: %v", err)
	}
	if _, err := OpenDir(filepath.Join(dir, "no")); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
	if _, err := OpenDir(t.TempDir()); !errors.Is(err, api.InvalidArgument) {
		t.Errorf("an empty folder: %v", err)
	}
	write(t, dir, "index.json", []byte(`{"schemaVersion":2,"manifests":[],"layers":[]}`))
	if _, err := OpenDir(dir); !errors.Is(err, api.Corrupt) {
		t.Errorf("an ambiguous index: %v", err)
	}
}
