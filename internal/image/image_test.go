package image_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/imagetest"
)

var ctx = context.Background()

func layer(i int) []byte { return imagetest.Layer(fmt.Sprintf("file%d", i), "data") }

func platform(t *testing.T, s string) image.Platform {
	t.Helper()
	p, err := image.ParsePlatform(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestResolve(t *testing.T) {
	for _, docker := range []bool{false, true} {
		s := imagetest.New()
		p := s.OCI(imagetest.Gzip, layer(1), layer(2))
		if docker {
			p = p.Docker()
		}
		d := s.PutImage(p, "")
		img, err := image.Resolve(ctx, s, d, image.Platform{})
		if err != nil {
			t.Fatal(err)
		}
		if img.Manifest.Digest != d.Digest || img.Target.Digest != d.Digest || img.ID != p.Manifest.Config.Digest || len(img.Layers) != 2 ||
			img.Layers[1].DiffID != digest.FromBytes(layer(2)).String() || img.Config.Cmd[0] != "sh" || img.Created.IsZero() {
			t.Errorf("docker %v: %+v", docker, img)
		}
		r, err := img.Open(ctx, img.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		z, kind, err := image.Decompress(r)
		if err != nil || kind != image.Gzip {
			t.Fatal(kind, err)
		}
		if b, err := io.ReadAll(z); err != nil || !bytes.Equal(b, layer(1)) {
			t.Errorf("layer 1: %v", err)
		}
	}
}

// TestResolveIndex picks platforms from an index, also from one within another and from entries that say nothing.
func TestResolveIndex(t *testing.T) {
	s := imagetest.New()
	put := func(arch, variant string) imagespec.Descriptor {
		p := s.OCI(nil, layer(len(arch)))
		p.Config.Architecture, p.Config.Variant = arch, variant
		d := s.PutImage(p, "")
		d.Platform = &imagespec.Platform{OS: "linux", Architecture: arch, Variant: variant}
		return d
	}
	attestation := put("riscv64", "")
	attestation.Platform = &imagespec.Platform{OS: "unknown", Architecture: "unknown"}
	bare := put("s390x", "")
	bare.Platform = nil
	inner := s.Index("", put("ppc64le", ""))
	inner.Platform = &imagespec.Platform{OS: "linux", Architecture: "ppc64le"}
	index := s.Index("", attestation, put("arm", "v6"), put("arm", "v7"), put("arm64", "v8"), put("amd64", ""), bare, inner)
	for asked, want := range map[string]string{"linux/amd64": "linux/amd64", "x86_64": "linux/amd64", "linux/arm64": "linux/arm64", "arm64/v8": "", "linux/arm64/v8": "linux/arm64",
		"linux/arm/v7": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6", "linux/arm/v5": "", "linux/arm": "linux/arm/v7", "linux/s390x": "linux/s390x",
		"linux/ppc64le": "linux/ppc64le", "linux/riscv64": "", "windows/amd64": "", "linux/amd64/v3": ""} {
		img, err := image.Resolve(ctx, s, index, platform(t, asked))
		switch {
		case want == "" && !errors.Is(err, api.NotFound):
			t.Errorf("%s: %v, %v", asked, img, err)
		case want == "" && !strings.Contains(err.Error(), "it has: linux/amd64, linux/arm/v6"):
			t.Errorf("%s: the message does not list what there is: %v", asked, err)
		case want != "" && err != nil:
			t.Errorf("%s: %v", asked, err)
		case want != "" && (img.Platform.String() != want || img.Target.Digest != index.Digest || img.Documents[0].Descriptor.Digest != index.Digest):
			t.Errorf("%s: got %s", asked, img.Platform)
		}
	}
	if _, err := image.Resolve(ctx, s, s.Index("", s.Index("", s.Index("", put("amd64", "")))), image.Platform{}); err == nil {
		t.Error("an index three deep was followed")
	}
}

func TestWrongPlatform(t *testing.T) {
	s := imagetest.New()
	p := s.OCI(nil, layer(1))
	p.Config.Architecture = "s390x"
	d := s.PutImage(p, "")
	if _, err := image.Resolve(ctx, s, d, platform(t, "linux/amd64")); !errors.Is(err, api.NotFound) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("asked: %v", err)
	}
	img, err := image.Resolve(ctx, s, d, image.Platform{})
	if err != nil || !strings.Contains(img.Warning, "linux/s390x") {
		t.Errorf("not asked: %v, %v", img, err)
	}
}

// TestHostile feeds manifests that must be refused, each with its kind.
func TestHostile(t *testing.T) {
	type parts = imagetest.Parts
	for name, c := range map[string]struct {
		bend func(*parts)
		kind api.Kind
		word string
	}{
		"foreign layer": {func(p *parts) {
			p.Manifest.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		}, api.Unsupported, "foreign"},
		"non-distributable": {func(p *parts) {
			p.Manifest.Layers[0].MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
		}, api.Unsupported, "foreign"},
		"unknown layer":        {func(p *parts) { p.Manifest.Layers[0].MediaType = "application/x-encrypted" }, api.Unsupported, "application/x-encrypted"},
		"digest is a path":     {func(p *parts) { p.Manifest.Layers[0].Digest = "sha256:../../../../etc/passwd" }, api.Corrupt, "etc/passwd"},
		"short digest":         {func(p *parts) { p.Manifest.Layers[0].Digest = "sha256:abcd" }, api.Corrupt, "abcd"},
		"no digest":            {func(p *parts) { p.Manifest.Layers[0].Digest = "" }, api.Corrupt, "digest"},
		"negative size":        {func(p *parts) { p.Manifest.Layers[0].Size = -1 }, api.Corrupt, "size"},
		"upper case digest":    {func(p *parts) { p.Manifest.Layers[0].Digest = digest.Digest("sha256:" + strings.Repeat("A", 64)) }, api.Corrupt, "AAAA"},
		"upper case algorithm": {func(p *parts) { p.Manifest.Layers[0].Digest = digest.Digest("SHA256:" + strings.Repeat("a", 64)) }, api.Corrupt, "SHA256"},
		"unknown algorithm":    {func(p *parts) { p.Manifest.Layers[0].Digest = digest.Digest("md5:" + strings.Repeat("a", 32)) }, api.Corrupt, "md5"},
		"too few diff IDs":     {func(p *parts) { p.Config.RootFS.DiffIDs = nil }, api.Corrupt, "diff IDs"},
		"bad diff ID":          {func(p *parts) { p.Config.RootFS.DiffIDs[0] = "sha256:../x" }, api.Corrupt, "diff ID"},
		"sha512 diff ID":       {func(p *parts) { p.Config.RootFS.DiffIDs[0] = digest.SHA512.FromString("x") }, api.Corrupt, "diff ID"},
		"many layers":          {func(p *parts) { p.Manifest.Layers = make([]imagespec.Descriptor, image.MaxLayers+1) }, api.Exhausted, "501 layers"},
		"schema version 3":     {func(p *parts) { p.Manifest.SchemaVersion = 3 }, api.Unsupported, "schema version"},
	} {
		s := imagetest.New()
		p := s.OCI(imagetest.Gzip, layer(1))
		c.bend(p)
		_, err := image.Resolve(ctx, s, s.PutImage(p, ""), image.Platform{})
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v (%s)", name, err, api.KindOf(err))
		}
	}
}

func TestHostileDocuments(t *testing.T) {
	s := imagetest.New()
	p := s.OCI(nil, layer(1))
	good := s.PutImage(p, "")
	text := string(s.Blobs[good.Digest])
	const oci, index = imagespec.MediaTypeImageManifest, imagespec.MediaTypeImageIndex
	deep := strings.Repeat(`{"a":`, 100000)
	for _, c := range []struct{ name, mediaType, doc, word string }{
		{"both layers and manifests", oci, strings.Replace(text, `"layers"`, `"manifests":[],"layers"`, 1), "ambiguous"},
		{"index with layers", index, `{"schemaVersion":2,"manifests":[],"layers":[]}`, "ambiguous"},
		{"index with config", index, `{"schemaVersion":2,"manifests":[],"config":{}}`, "ambiguous"},
		{"schema 1 inside", oci, strings.Replace(text, `"layers"`, `"fsLayers":[],"layers"`, 1), "ambiguous"},
		{"other media type inside", imagetest.DockerManifest, text, "announced as"},
		{"a key twice", oci, strings.Replace(text, `"layers"`, `"layers":[],"layers"`, 1), "twice"},
		{"a key twice but for case", oci, strings.Replace(text, `"layers"`, `"LAYERS":[],"layers"`, 1), "other letters"},
		{"a key in other case", oci, strings.Replace(text, `"layers"`, `"Layers"`, 1), "other letters"},
		{"a letter that folds to s", oci, strings.Replace(text, `"layers"`, `"layerſ":[],"layers"`, 1), "other letters"},
		{"more after it", oci, text + `{}`, "follows"},
		{"no object", oci, `[]`, "not a JSON object"},
		{"null", oci, `null`, "not a JSON object"},
		{"empty", oci, ``, "not a JSON object"},
		{"no config", oci, `{"schemaVersion":2,"layers":[]}`, "without config"},
		{"no layers", oci, `{"schemaVersion":2,"config":{}}`, "without config or layers"},
		{"no manifests", index, `{"schemaVersion":2}`, "without manifests"},
		{"index of paths", index, `{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":1,"mediaType":"` + oci + `"}]}`, "digest"},
		{"deep", oci, deep, ""},
		{"deep arrays", oci, strings.Replace(text, `"layers"`, `"x":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+`,"layers"`, 1), "nested deeper"},
		{"a digest twice", oci, strings.Replace(text, `"digest"`, `"digest":"sha256:`+strings.Repeat("a", 64)+`","digest"`, 1), "twice"},
		{"schema 1", "application/vnd.docker.distribution.manifest.v1+prettyjws", `{}`, "schema 1"},
		{"not a manifest at all", "text/html", `<html>`, "text/html"},
		{"a chart", oci, strings.Replace(text, imagespec.MediaTypeImageConfig, "application/vnd.cncf.helm.config.v1+json", 1), "not a container image"},
	} {
		_, err := image.Resolve(ctx, s, s.Put(c.mediaType, []byte(c.doc)), image.Platform{})
		if err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", c.name, err)
		} else if api.KindOf(err) == "" {
			t.Errorf("%s: no kind: %v", c.name, err)
		}
	}
}

// TestVerification: a document with other bytes, or longer than allowed, is not read.
func TestVerification(t *testing.T) {
	s := imagetest.New()
	d := s.PutImage(s.OCI(nil, layer(1)), "")
	s.Blobs[d.Digest] = append([]byte(" "), s.Blobs[d.Digest][1:]...)
	if _, err := image.Resolve(ctx, s, d, image.Platform{}); !errors.Is(err, api.Corrupt) {
		t.Errorf("other bytes: %v", err)
	}
	s.Blobs[d.Digest] = append(s.Blobs[d.Digest], ' ')
	if _, err := image.Resolve(ctx, s, d, image.Platform{}); !errors.Is(err, api.Corrupt) {
		t.Errorf("longer: %v", err)
	}
	d.Size = image.MaxDocument + 1
	if _, err := image.Resolve(ctx, s, d, image.Platform{}); !errors.Is(err, api.Exhausted) {
		t.Errorf("too long: %v", err)
	}
}

// TestIndexWithoutPlatforms reads a bounded number of manifests.
func TestIndexWithoutPlatforms(t *testing.T) {
	s := imagetest.New()
	var all []imagespec.Descriptor
	for i := range 100 {
		p := s.OCI(nil, layer(i))
		p.Config.Architecture = "mips"
		all = append(all, s.PutImage(p, ""))
	}
	counted := &counter{Store: s}
	if _, err := image.Resolve(ctx, counted, s.Index("", all...), image.Platform{}); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
	if counted.n > 20 {
		t.Errorf("%d documents were read", counted.n)
	}
}

type counter struct {
	*imagetest.Store
	n int
}

func (c *counter) Open(ctx context.Context, d imagespec.Descriptor) (io.ReadCloser, error) {
	c.n++
	return c.Store.Open(ctx, d)
}

func TestParsePlatform(t *testing.T) {
	for _, s := range []string{"/", "linux/", "a/b/c/d", "linux/am d64", "li\x00nux"} {
		if p, err := image.ParsePlatform(s); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
	if p := platform(t, "Linux/AArch64"); p.String() != "linux/arm64" {
		t.Error(p)
	}
	if p := platform(t, "linux"); p.OS != "linux" || p.Arch == "" {
		t.Error(p)
	}
}

func TestDetectMediaType(t *testing.T) {
	for _, c := range []struct{ announced, doc, want string }{
		{imagespec.MediaTypeImageIndex + "; charset=utf-8", "", imagespec.MediaTypeImageIndex},
		{"application/json", `{"mediaType":"x"}`, "x"},
		{"text/plain", `{"schemaVersion":2,"layers":[]}`, imagespec.MediaTypeImageManifest},
		{"", `{"schemaVersion":2,"manifests":[]}`, imagespec.MediaTypeImageIndex},
		{"application/json", `{"schemaVersion":1}`, "application/vnd.docker.distribution.manifest.v1+json"},
		{"text/html", `<html>`, "text/html"},
	} {
		if got := image.DetectMediaType(c.announced, []byte(c.doc)); got != c.want {
			t.Errorf("%s %s: %s", c.announced, c.doc, got)
		}
	}
}

func TestDecompress(t *testing.T) {
	data := bytes.Repeat([]byte("Brig "), 100000)
	for kind, packed := range map[image.Compression][]byte{image.Uncompressed: data, image.Gzip: imagetest.Gzip(data), image.Zstd: imagetest.Zstd(data)} {
		r, got, err := image.Decompress(bytes.NewReader(packed))
		if err != nil || got != kind {
			t.Fatal(kind, got, err)
		}
		if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, data) {
			t.Errorf("%q: %v", kind, err)
		}
		r.Close()
		if kind == image.Uncompressed {
			continue
		}
		packed = bytes.Clone(packed)
		packed[len(packed)/2] ^= 0xff
		if r, _, err = image.Decompress(bytes.NewReader(packed)); err == nil {
			_, err = io.ReadAll(r)
			r.Close()
		}
		if !errors.Is(err, api.Corrupt) {
			t.Errorf("%q broken: %v", kind, err)
		}
	}
	// A frame that asks for a window of gigabytes: RFC 8878, section 3.1.1.1.2.
	r, _, err := image.Decompress(bytes.NewReader([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xb8, 0, 0, 0, 0, 0, 0}))
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if err == nil {
		t.Error("a window of gigabytes was accepted")
	}
	if r, kind, err := image.Decompress(bytes.NewReader(nil)); err != nil || kind != image.Uncompressed {
		t.Error(err)
	} else if b, err := io.ReadAll(r); len(b) != 0 || err != nil {
		t.Error(b, err)
	}
}

// FuzzResolve: whatever the documents say, Resolve ends without a panic, and what it accepts has checked digests.
func FuzzResolve(f *testing.F) {
	s := imagetest.New()
	d := s.PutImage(s.OCI(nil, layer(1)), "")
	f.Add(s.Blobs[d.Digest], true)
	f.Add(s.Blobs[s.Index("", d).Digest], false)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"platform":null}]}`), false)
	f.Fuzz(func(t *testing.T, doc []byte, manifest bool) {
		s := imagetest.New()
		s.PutImage(s.OCI(nil, layer(1)), "")
		mediaType := imagespec.MediaTypeImageIndex
		if manifest {
			mediaType = imagespec.MediaTypeImageManifest
		}
		img, err := image.Resolve(ctx, s, s.Put(mediaType, doc), image.Platform{})
		if err != nil {
			return
		}
		for _, l := range img.Layers {
			if l.Blob.Digest.Validate() != nil || l.Blob.Size < 0 {
				t.Fatalf("accepted %+v", l)
			}
		}
		if !json.Valid(doc) {
			t.Fatal("accepted what is not JSON")
		}
	})
}
