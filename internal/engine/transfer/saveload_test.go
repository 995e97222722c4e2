package transfer

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image/imagetest"
)

// pulled has two images in the store, debian:12 and other, which share a layer.
func pulled(t *testing.T) (w *world, debian, other api.Image) {
	t.Helper()
	w = newWorld(t)
	base := imagetest.Layer("etc/debian_version", "12")
	w.reg.PutImage(w.reg.OCI(imagetest.Gzip, base, imagetest.Layer("a", "1")), "12")
	w.reg.PutImage(w.reg.OCI(imagetest.Zstd, base, imagetest.Layer("a", "2")), "other")
	var recs []api.Image
	for _, tag := range []string{"12", "other"} {
		reply, err := w.pull("debian:" + tag)
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, reply.Images[0])
	}
	return w, recs[0], recs[1]
}

// fresh is another, empty store.
func (w *world) fresh() *world {
	f := &world{T: w.T, reg: w.reg, host: w.host, root: filepath.Join(w.TempDir(), "root")}
	f.tr = New(f.root)
	f.tr.Stdout, f.tr.Stderr = &f.out, &f.err
	return f
}

// TestSaveLoad: each format goes out and comes in again with the same digests; from a file, a packed file and a pipe.
func TestSaveLoad(t *testing.T) {
	w, debian, other := pulled(t)
	for _, format := range []string{"", "docker-archive", "oci-archive", "oci-dir"} {
		file := filepath.Join(t.TempDir(), "out")
		reply, stdout, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{debian.Name, other.Name}, File: file, Format: format})
		if err != nil || stdout != "" || len(reply.Images) != 2 {
			t.Fatalf("%s: %q, %v", format, stdout, err)
		}
		sources := map[string]func(f *world) string{"file": func(*world) string { return file }}
		if format != "oci-dir" {
			plain, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sources["gzip"] = func(*world) string { os.WriteFile(file+".gz", imagetest.Gzip(plain), 0o600); return file + ".gz" }
			sources["pipe"] = func(f *world) string {
				r, pw, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				go func() { pw.Write(plain); pw.Close() }()
				f.tr.Stdin = r
				return ""
			}
		}
		for how, source := range sources {
			f := w.fresh()
			reply, stdout, stderr, err := f.do(api.TransferRequest{Op: "load", File: source(f)})
			if err != nil {
				t.Errorf("%s from %s: %v", format, how, err)
				continue
			}
			if want := "Loaded image: " + debian.Name + "\nLoaded image: " + other.Name + "\n"; stdout != want || stderr != "" {
				t.Errorf("%s from %s: %q, %q", format, how, stdout, stderr)
			}
			for i, was := range []api.Image{debian, other} {
				got := reply.Images[i]
				if got.ID != was.ID || got.Manifest.Digest != was.Manifest.Digest || got.Layers[1].Blob.Digest != was.Layers[1].Blob.Digest {
					t.Errorf("%s from %s: %+v became %+v", format, how, was, got)
				}
			}
			if f.file(other.Layers[1].DiffID, "a") != "2" {
				t.Errorf("%s from %s: contents", format, how)
			}
		}
	}
}

// TestSaveByID: without a name in, without a name out, and listed by its ID.
func TestSaveByID(t *testing.T) {
	w, debian, _ := pulled(t)
	file := filepath.Join(t.TempDir(), "out.tar")
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{strings.TrimPrefix(debian.ID, "sha256:")[:12]}, File: file}); err != nil {
		t.Fatal(err)
	}
	f := w.fresh()
	reply, stdout, _, err := f.do(api.TransferRequest{Op: "load", File: file})
	if err != nil || stdout != "Loaded image ID: "+debian.ID+"\n" || reply.Images[0].Name != "" {
		t.Errorf("%q %+v %v", stdout, reply, err)
	}
	if rec, err := f.tr.stores.Meta.ImageByID(debian.ID); err != nil || rec.ID != debian.ID {
		t.Errorf("%+v %v", rec, err)
	}
}

// TestSaveSameBytes: the same images make the same archive, and one without what is not asked for.
func TestSaveSameBytes(t *testing.T) {
	w, debian, other := pulled(t)
	_, a, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{debian.Name}})
	if err != nil {
		t.Fatal(err)
	}
	_, b, _, _ := w.do(api.TransferRequest{Op: "save", Refs: []string{debian.Name}})
	if a != b || a == "" {
		t.Error("two archives of one image differ")
	}
	for r := tar.NewReader(strings.NewReader(a)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(h.Name, digest.Digest(other.ID).Encoded()) || strings.HasPrefix(h.Name, "/") {
			t.Error(h.Name)
		}
	}
}

func TestSaveRefuses(t *testing.T) {
	w, debian, _ := pulled(t)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		r    api.TransferRequest
		kind api.Kind
		word string
	}{
		{api.TransferRequest{Refs: []string{"nosuch:1"}}, api.NotFound, "nosuch:1"},
		{api.TransferRequest{Refs: []string{debian.Name, "UPPER"}}, api.InvalidArgument, "UPPER"},
		{api.TransferRequest{Refs: []string{debian.Name}, Format: "oci-dir"}, api.InvalidArgument, "-o"},
		{api.TransferRequest{Refs: []string{debian.Name}, Format: "oci-dir", File: full}, api.AlreadyExists, "not empty"},
		{api.TransferRequest{Refs: []string{debian.Name}, File: full}, api.InvalidArgument, "folder"},
		{api.TransferRequest{Refs: []string{debian.Name}, File: filepath.Join(full, "no/where.tar")}, "", "no such file"},
	} {
		c.r.Op = "save"
		if _, _, _, err := w.do(c.r); err == nil || api.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%+v: %v (%s)", c.r, err, api.KindOf(err))
		}
	}
	// A blob that the disk has spoilt is noticed, and no archive is left in its place.
	blob := filepath.Join(w.root, "content/blobs/sha256", debian.Layers[0].Blob.Digest.Encoded())
	b, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	b[10] ^= 1
	os.Chmod(blob, 0o600)
	if err := os.WriteFile(blob, b, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, format := range []string{"docker-archive", "oci-dir"} {
		if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{debian.Name}, File: filepath.Join(dir, "a"), Format: format}); !errors.Is(err, api.Corrupt) {
			t.Errorf("%s of a spoilt blob: %v", format, err)
		}
	}
	if names, _ := os.ReadDir(dir); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
}

func TestLoadRefuses(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	put := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var none bytes.Buffer
	tw := tar.NewWriter(&none)
	tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Size: 2})
	io.WriteString(tw, "[]")
	tw.Close()
	for file, kind := range map[string]api.Kind{filepath.Join(dir, "nosuch"): api.NotFound, put("text", bytes.Repeat([]byte("x"), 1000)): api.Corrupt, dir: api.InvalidArgument, put("none", none.Bytes()): api.InvalidArgument} {
		if _, _, _, err := w.do(api.TransferRequest{Op: "load", File: file}); !errors.Is(err, kind) || !strings.Contains(err.Error(), filepath.Base(file)) {
			t.Errorf("%s: %v (%s)", file, err, api.KindOf(err))
		}
	}
	w.empty()
}

// TestLoadSpoilt: an archive whose layer is not what its digest says.
func TestLoadSpoilt(t *testing.T) {
	w, debian, _ := pulled(t)
	dir := filepath.Join(t.TempDir(), "layout")
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{debian.Name}, File: dir, Format: "oci-dir"}); err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(dir, "blobs/sha256", debian.Layers[1].Blob.Digest.Encoded())
	b, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-5] ^= 1
	if err := os.WriteFile(blob, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f := w.fresh()
	_, stdout, _, err := f.do(api.TransferRequest{Op: "load", File: dir})
	if !errors.Is(err, api.Corrupt) || !strings.Contains(err.Error(), debian.Layers[1].Blob.Digest.String()) || stdout != "" {
		t.Errorf("%q %v", stdout, err)
	}
	f.empty()
}

// TestLoadedIndex: what a layout's folder of the store looks like to others: docker's and containerd's annotations.
func TestSavedNames(t *testing.T) {
	w, debian, _ := pulled(t)
	for format, want := range map[string]string{"docker-archive": "12", "oci-archive": debian.Name} {
		_, out, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{debian.Name}, Format: format})
		if err != nil {
			t.Fatal(err)
		}
		var index imagespec.Index
		for r := tar.NewReader(strings.NewReader(out)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if h.Name == "index.json" {
				json.NewDecoder(r).Decode(&index)
			}
		}
		if len(index.Manifests) != 1 || index.Manifests[0].Annotations[containerName] != debian.Name || index.Manifests[0].Annotations[imagespec.AnnotationRefName] != want {
			t.Errorf("%s: %+v", format, index)
		}
	}
}
