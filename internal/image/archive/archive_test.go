package archive

import (
	"archive/tar"
	"bytes"
	"context"
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
	"brig/internal/image"
	"brig/internal/image/imagetest"
)

var ctx = context.Background()

// file is an entry of a test archive; the order matters.
type file struct {
	name, data string
	kind       byte
	link       string
}

func pack(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if f.kind == 0 {
			f.kind = tar.TypeReg
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: f.kind, Name: f.name, Linkname: f.link, Size: int64(len(f.data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, f.data)
	}
	w.Close()
	return buf.Bytes()
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// docker is a whole archive of docker save with one image, and its parts.
func dockerFiles(layerName string, layer []byte, packed []byte, tags ...string) (config string, files []file) {
	p := imagetest.New().OCI(nil, layer)
	config = asJSON(p.Config)
	return config, []file{
		{name: "c.json", data: config},
		{name: layerName, data: string(packed)},
		{name: "manifest.json", data: asJSON([]map[string]any{{"Config": "c.json", "RepoTags": tags, "Layers": []string{layerName}}})},
	}
}

func openBytes(t testing.TB, b []byte) (image.Lister, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return Open(f, "archive a.tar", t.TempDir())
}

// only resolves the one image of an archive and reads its one layer, unpacked.
func only(t *testing.T, l image.Lister) (*image.Image, []byte, error) {
	t.Helper()
	img, err := image.Resolve(ctx, l, l.Entries()[0].Target, image.Platform{})
	if err != nil {
		return nil, nil, err
	}
	r, err := img.Open(ctx, img.Layers[0])
	if err != nil {
		return img, nil, err
	}
	defer r.Close()
	z, _, err := image.Decompress(r)
	if err != nil {
		return img, nil, err
	}
	defer z.Close()
	b, err := io.ReadAll(z)
	return img, b, err
}

func TestDocker(t *testing.T) {
	layer := imagetest.Layer("etc/x", "y")
	for name, packed := range map[string][]byte{"plain": layer, "gzip": imagetest.Gzip(layer), "zstd": imagetest.Zstd(layer)} {
		config, files := dockerFiles("l/layer.tar", layer, packed, "debian:12", "host.example:5000/a/b:c")
		whole := pack(t, files...)
		for how, b := range map[string][]byte{"tar": whole, "tar.gz": imagetest.Gzip(whole), "tar.zst": imagetest.Zstd(whole)} {
			l, err := openBytes(t, b)
			if err != nil {
				t.Fatal(name, how, err)
			}
			if e := l.Entries(); len(e) != 2 || e[0].Name != "docker.io/library/debian:12" || e[1].Name != "host.example:5000/a/b:c" || e[0].Target.Digest != e[1].Target.Digest {
				t.Errorf("%s %s: %+v", name, how, e)
			}
			img, got, err := only(t, l)
			if err != nil || !bytes.Equal(got, layer) {
				t.Fatalf("%s %s: %v", name, how, err)
			}
			if img.ID != digest.FromString(config) || img.Layers[0].Blob.Digest != digest.FromBytes(packed) || img.Layers[0].Blob.Size != int64(len(packed)) {
				t.Errorf("%s %s: %+v", name, how, img.Layers)
			}
			l.Close()
		}
	}
}

// TestPipe reads an archive that cannot be sought in, and leaves nothing in the spool folder.
func TestPipe(t *testing.T) {
	layer := imagetest.Layer("a", "b")
	_, files := dockerFiles("l", layer, layer)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		w.Write(pack(t, files...))
		w.Close()
	}()
	spool := t.TempDir()
	l, err := Open(r, "standard input", spool)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, got, err := only(t, l); err != nil || !bytes.Equal(got, layer) {
		t.Error(err)
	}
	if names, _ := os.ReadDir(spool); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
}

// TestLinks: podman's archives hold layers as symbolic links to one file.
func TestLinks(t *testing.T) {
	layer := imagetest.Layer("a", "b")
	_, files := dockerFiles("abc/layer.tar", layer, nil)
	files[1] = file{name: "abc/layer.tar", kind: tar.TypeSymlink, link: "../real.tar"}
	files = append(files, file{name: "./hard.tar", data: string(layer)}, file{name: "real.tar", kind: tar.TypeLink, link: "hard.tar"})
	l, err := openBytes(t, pack(t, files...))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, got, err := only(t, l); err != nil || !bytes.Equal(got, layer) {
		t.Error(err)
	}
}

// TestOCI: a layout in a tar; beside manifest.json the layout counts.
func TestOCI(t *testing.T) {
	s := imagetest.New()
	layer := imagetest.Layer("a", "b")
	d := s.PutImage(s.OCI(imagetest.Gzip, layer), "")
	d.Annotations = map[string]string{imagespec.AnnotationRefName: "debian:12"}
	files := []file{{name: "manifest.json", data: "not even JSON"}}
	for dgst, b := range s.Blobs {
		files = append(files, file{name: "blobs/sha256/" + dgst.Encoded(), data: string(b)})
	}
	files = append(files, file{name: "./index.json", data: asJSON(map[string]any{"schemaVersion": 2, "manifests": []any{d}})}, file{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`})
	l, err := openBytes(t, pack(t, files...))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	img, got, err := only(t, l)
	if err != nil || !bytes.Equal(got, layer) || img.Target.Digest != d.Digest || l.Entries()[0].Name != "docker.io/library/debian:12" {
		t.Errorf("%+v, %v", l.Entries(), err)
	}
}

func TestHostile(t *testing.T) {
	layer := imagetest.Layer("a", "b")
	_, good := dockerFiles("l", layer, layer)
	with := func(i int, f file) []file {
		files := append([]file(nil), good...)
		files[i] = f
		return files
	}
	whole := pack(t, good...)
	for name, c := range map[string]struct {
		b    []byte
		kind api.Kind
		word string
	}{
		"no archive":         {[]byte(strings.Repeat("hello", 500)), api.Corrupt, "tar archive"},
		"empty":              {nil, api.InvalidArgument, "neither an OCI layout"},
		"cut in a file":      {whole[:1600], api.Corrupt, ""},
		"neither":            {pack(t, file{name: "etc/passwd"}), api.InvalidArgument, "neither an OCI layout"},
		"outside":            {pack(t, with(2, file{name: "manifest.json", data: `[{"Config":"../../../../etc/passwd","Layers":[]}]`})...), api.Corrupt, "missing"},
		"link outside":       {pack(t, with(0, file{name: "c.json", kind: tar.TypeSymlink, link: "/etc/passwd"})...), api.Corrupt, "missing"},
		"link to itself":     {pack(t, with(0, file{name: "c.json", kind: tar.TypeSymlink, link: "c.json"})...), api.Corrupt, "links"},
		"config is a folder": {pack(t, with(0, file{name: "c.json/", kind: tar.TypeDir})...), api.Corrupt, "missing"},
		"no layer":           {pack(t, good[0], good[2]), api.Corrupt, "layer l"},
		"layers but no IDs":  {pack(t, with(0, file{name: "c.json", data: "{}"})...), api.Corrupt, "diff IDs"},
		"config not JSON":    {pack(t, with(0, file{name: "c.json", data: "{"})...), api.Corrupt, "config c.json"},
		"manifest not JSON":  {pack(t, with(2, file{name: "manifest.json", data: "["})...), api.Corrupt, "manifest.json"},
		"bad tag":            {pack(t, with(2, file{name: "manifest.json", data: `[{"Config":"c.json","Layers":["l"],"RepoTags":["../x:1"]}]`})...), api.InvalidArgument, "reference"},
		"huge document":      {pack(t, with(2, file{name: "manifest.json", data: strings.Repeat(" ", image.MaxDocument+1)})...), api.Exhausted, "manifest.json"},
		"layout version":     {pack(t, file{name: "oci-layout", data: `{"imageLayoutVersion":"9"}`}), api.Unsupported, "version"},
		"layout, no index":   {pack(t, file{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`}), api.Corrupt, "index.json"},
		"layout marker":      {pack(t, file{name: "oci-layout", data: `x`}), api.Corrupt, "oci-layout"},
		"gzip, broken":       {imagetest.Gzip(whole)[:200], api.Corrupt, ""},
	} {
		l, err := openBytes(t, c.b)
		if err == nil {
			l.Close()
		}
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.word) || !strings.Contains(err.Error(), "archive a.tar") {
			t.Errorf("%s: %v (%s)", name, err, api.KindOf(err))
		}
	}
	// A diff ID that is no digest is refused when the image is resolved, before it becomes a path.
	config, files := dockerFiles("l", layer, layer)
	files[0].data = strings.Replace(config, digest.FromBytes(layer).String(), "sha256:../../x", 1)
	l, err := openBytes(t, pack(t, files...))
	if err == nil {
		_, _, err = only(t, l)
		l.Close()
	}
	if !errors.Is(err, api.Corrupt) {
		t.Errorf("diff ID: %v", err)
	}
}

func TestSparse(t *testing.T) {
	h := &tar.Header{Typeflag: tar.TypeReg, PAXRecords: map[string]string{"GNU.sparse.major": "1"}}
	if !sparse(h) || sparse(&tar.Header{Typeflag: tar.TypeReg}) {
		t.Error("sparse files are not recognised")
	}
}

// FuzzOpen: no archive makes Open panic, and what an archive lists can be asked for.
func FuzzOpen(f *testing.F) {
	layer := imagetest.Layer("a", "b")
	_, files := dockerFiles("l", layer, layer, "x:1")
	f.Add(pack(f, files...))
	f.Add(pack(f, file{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`}, file{name: "index.json", data: `{"schemaVersion":2,"manifests":[]}`}))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := New(bytes.NewReader(b), "fuzz")
		if err != nil {
			return
		}
		defer l.Close()
		for _, e := range l.Entries() {
			image.Resolve(ctx, l, e.Target, image.Platform{})
		}
	})
}
