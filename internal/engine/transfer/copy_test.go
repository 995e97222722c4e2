package transfer

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/imagetest"
)

// release is an index as BuildKit makes it, with what people say about its images.
type release struct {
	index, amd64, arm64, attestation imagespec.Descriptor // the image
	signature, opinion, sbom, cosign imagespec.Descriptor // about it: of the index, of the signature, of amd64; by a tag
	cosignTag                        string
}

// publish puts a release into a repository of g.
func publish(g *imagetest.Registry, repo string) (r release) {
	s := imagetest.New()
	put := func(arch string) imagespec.Descriptor {
		p := s.OCI(imagetest.Gzip, imagetest.Layer("etc/common", "1"), imagetest.Layer("arch", arch))
		p.Config.Architecture = arch
		d := s.PutImage(p, "")
		d.Platform = &imagespec.Platform{OS: "linux", Architecture: arch}
		return d
	}
	artifact := func(kind string, subject *imagespec.Descriptor, words string) imagespec.Descriptor {
		m := imagespec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageManifest, ArtifactType: kind,
			Config: s.Put(imagespec.MediaTypeEmptyJSON, []byte("{}")), Layers: []imagespec.Descriptor{s.Put("application/vnd.example+json", []byte(words))}, Subject: subject}
		return s.JSON(imagespec.MediaTypeImageManifest, m)
	}
	bare := func(d imagespec.Descriptor) *imagespec.Descriptor {
		return &imagespec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	}
	r.amd64, r.arm64 = put("amd64"), put("arm64")
	p := s.OCI(nil)
	p.Config.OS, p.Config.Architecture = "unknown", "unknown"
	p.Manifest.Layers = []imagespec.Descriptor{s.Put("application/vnd.in-toto+json", []byte(`{"predicateType":"x"}`))}
	p.Config.RootFS.DiffIDs = []digest.Digest{p.Manifest.Layers[0].Digest}
	r.attestation = s.PutImage(p, "")
	r.attestation.Platform = &imagespec.Platform{OS: "unknown", Architecture: "unknown"}
	r.attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": r.amd64.Digest.String()}
	r.index = s.Index("1", r.amd64, r.arm64, r.attestation)
	r.signature = artifact("application/vnd.signature", bare(r.index), "signed")
	r.opinion = artifact("application/vnd.opinion", bare(r.signature), "I know the signer")
	r.sbom = artifact("application/vnd.sbom", bare(r.amd64), "bill")
	r.cosign = artifact("", nil, "cosign")
	r.cosignTag = image.ReferrersTag(r.index.Digest) + ".sig"
	s.Tag(r.cosignTag, r.cosign)
	g.Fill(repo, s)
	if g.NoReferrers {
		for _, pair := range [][2]imagespec.Descriptor{{r.index, r.signature}, {r.signature, r.opinion}, {r.amd64, r.sbom}} {
			b, _ := json.Marshal(imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex, Manifests: []imagespec.Descriptor{pair[1]}})
			s := imagetest.New()
			s.Tag(image.ReferrersTag(pair[0].Digest), s.Put(imagespec.MediaTypeImageIndex, b))
			g.Fill(repo, s)
		}
	}
	return r
}

func (w *world) copy(r api.TransferRequest, from, to string) (api.TransferReply, string, error) {
	w.Helper()
	r.Op, r.Refs = "copy", []string{from, to}
	reply, _, stderr, err := w.do(r)
	return reply, stderr, err
}

// untouched fails when something was written below --root.
func (w *world) untouched() {
	w.Helper()
	if _, err := os.Stat(w.root); !errors.Is(err, os.ErrNotExist) {
		w.Errorf("the store was written to: %v", err)
	}
}

// TestCopyRegistries: an index with attestations and all that refers to it goes from registry to registry, with or without the referrers
// API on either side. All digests stay, and nothing is written here.
func TestCopyRegistries(t *testing.T) {
	for _, old := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
		w := newWorld(t)
		a, b := w.writable(), w.writable()
		a.NoReferrers, b.NoReferrers = old[0], old[1]
		r := publish(a, "team/app")
		from, to := "docker://"+a.Host+"/team/app:1", "docker://"+b.Host+"/mirror/app:1"
		reply, stderr, err := w.copy(api.TransferRequest{All: true, Referrers: true}, from, to) //nolint:ineffassign // the next copies assign it anew
		if err != nil {
			t.Fatal(old, err)
		}
		got := b.Repo("mirror/app")
		if got.Tags["1"] != r.index.Digest || got.Tags[r.cosignTag] != r.cosign.Digest || reply.Sent[0].Digest != r.index.Digest.String() || reply.Sent[0].Name != to {
			t.Errorf("%v: %+v %+v", old, got.Tags, reply)
		}
		for _, d := range []imagespec.Descriptor{r.index, r.amd64, r.arm64, r.attestation, r.signature, r.opinion, r.sbom, r.cosign} {
			if _, ok := got.Manifests[d.Digest]; !ok {
				t.Errorf("%v: %s is missing", old, d.Digest)
			}
		}
		// Whoever asks over there finds it too: copy on.
		c := w.writable()
		if _, _, err := w.copy(api.TransferRequest{All: true, Referrers: true, Quiet: true}, to, "docker://"+c.Host+"/third:1"); err != nil {
			t.Fatal(old, err)
		}
		for _, d := range []imagespec.Descriptor{r.signature, r.opinion, r.sbom, r.cosign} {
			if _, ok := c.Repo("third").Manifests[d.Digest]; !ok {
				t.Errorf("%v: %s was not found from the copy", old, d.Digest)
			}
		}
		// Again: no blob is sent.
		b.Forget()
		if _, _, err := w.copy(api.TransferRequest{All: true, Referrers: true}, from, to); err != nil || b.Taken() != 0 {
			t.Errorf("%v: again: %v, %d bytes", old, err, b.Taken())
		}
		// In one registry layers are mounted.
		b.Forget()
		_, stderr, err = w.copy(api.TransferRequest{All: true}, to, "docker://"+b.Host+"/beside:2")
		if err != nil || b.Taken() != 0 || !strings.Contains(stderr, "Mounted from mirror/app") || b.Repo("beside").Tags["2"] != r.index.Digest {
			t.Errorf("%v: mounted: %v, %d bytes, %q", old, err, b.Taken(), stderr)
		}
		w.untouched()
	}
}

// TestCopyOne: without --all it is one platform's manifest; a manifest that is no index is taken as it is.
func TestCopyOne(t *testing.T) {
	w := newWorld(t)
	a, b := w.writable(), w.writable()
	r := publish(a, "app")
	for platform, want := range map[string]digest.Digest{"": r.amd64.Digest, "linux/arm64": r.arm64.Digest} {
		to := "docker://" + b.Host + "/app:1"
		reply, _, err := w.copy(api.TransferRequest{Platform: platform}, "docker://"+a.Host+"/app:1", to)
		if err != nil || b.Repo("app").Tags["1"] != want || reply.Sent[0].Digest != want.String() {
			t.Errorf("%q: %v %+v", platform, err, b.Repo("app").Tags)
		}
	}
	// By digest, of any platform, and an artifact that is no image.
	for _, d := range []imagespec.Descriptor{r.arm64, r.signature} {
		if _, _, err := w.copy(api.TransferRequest{}, "docker://"+a.Host+"/app@"+d.Digest.String(), "docker://"+b.Host+"/app:2"); err != nil || b.Repo("app").Tags["2"] != d.Digest {
			t.Errorf("%v %+v", err, b.Repo("app").Tags)
		}
	}
	if _, _, err := w.copy(api.TransferRequest{Platform: "linux/s390x"}, "docker://"+a.Host+"/app:1", "docker://"+b.Host+"/app:3"); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
	w.untouched()
}

// TestCopyArchives: through each kind of archive and back, with the digests that the format can hold.
func TestCopyArchives(t *testing.T) {
	w := newWorld(t)
	a := w.writable()
	r := publish(a, "app")
	from := "docker://" + a.Host + "/app:1"
	for _, c := range []struct {
		transport, name string
		all             bool
	}{{"oci", "", true}, {"oci", "v1", true}, {"oci", "example.com/app:1", false}, {"oci-archive", "", true}, {"oci-archive", "v1", false}, {"docker-archive", "app:1", false}, {"docker-archive", "", false}} {
		path := filepath.Join(t.TempDir(), "out")
		place := c.transport + ":" + path
		if c.name != "" {
			place += ":" + c.name
		}
		want := r.amd64.Digest
		if c.all {
			want = r.index.Digest
		}
		reply, stderr, err := w.copy(api.TransferRequest{All: c.all, Referrers: c.all}, from, place)
		if err != nil || reply.Sent[0].Digest != want.String() {
			t.Errorf("%s: %v %+v %q", place, err, reply, stderr)
			continue
		}
		b := w.writable()
		if _, _, err := w.copy(api.TransferRequest{All: true, Referrers: c.all}, place, "docker://"+b.Host+"/back:1"); err != nil || b.Repo("back").Tags["1"] != want {
			t.Errorf("%s and back: %v %+v", place, err, b.Repo("back").Tags)
		}
		if _, ok := b.Repo("back").Manifests[r.sbom.Digest]; ok != c.all {
			t.Errorf("%s and back: referrers came: %v", place, ok)
		}
		if _, ok := b.Repo("back").Tags[r.cosignTag]; ok != c.all {
			t.Errorf("%s and back: cosign's tag came: %v", place, ok)
		}
		w.untouched()
		f := w.fresh()
		got, _, _, err := f.do(api.TransferRequest{Op: "load", File: path, Platform: "linux/amd64"})
		if err != nil || f.file(got.Images[0].Layers[1].DiffID, "arch") != "amd64" {
			t.Errorf("%s: load: %v", place, err)
		}
		if strings.Contains(c.name, ":") && familiar(got.Images[0].Name) != c.name {
			t.Errorf("%s: loaded as %q", place, got.Images[0].Name)
		}
	}
}

// TestCopyStore: into the store as a pull, and out of it again.
func TestCopyStore(t *testing.T) {
	w := newWorld(t)
	a, b := w.writable(), w.writable()
	r := publish(a, "app")
	reply, _, err := w.copy(api.TransferRequest{}, "docker://"+a.Host+"/app:1", "brig:app:1")
	if err != nil || reply.Images[0].Target.Digest != r.index.Digest || w.file(reply.Images[0].Layers[1].DiffID, "arch") != "amd64" {
		t.Fatalf("%v %+v", err, reply)
	}
	if _, _, err := w.copy(api.TransferRequest{}, "brig:app:1", "docker://"+b.Host+"/app:1"); err != nil || b.Repo("app").Tags["1"] != r.amd64.Digest {
		t.Errorf("%v %+v", err, b.Repo("app").Tags)
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	if _, _, err := w.copy(api.TransferRequest{}, "brig:"+reply.Images[0].ID[7:20], "docker-archive:"+file+":again:2"); err != nil {
		t.Error(err)
	}
	f := w.fresh()
	if got, _, err := f.copy(api.TransferRequest{}, "docker-archive:"+file, "brig:third"); err != nil || got.Images[0].Name != "docker.io/library/third:latest" || got.Images[0].Manifest.Digest != r.amd64.Digest {
		t.Errorf("%v %+v", err, got)
	}
}

// TestCopyIntoLayout: a folder takes several images, and the same name again; what fails leaves it as it was.
func TestCopyIntoLayout(t *testing.T) {
	w := newWorld(t)
	a := w.writable()
	r := publish(a, "app")
	dir := filepath.Join(t.TempDir(), "layout")
	from := "docker://" + a.Host + "/app"
	for _, c := range []struct{ from, name string }{{from + ":1", "one"}, {from + "@" + r.arm64.Digest.String(), "two"}, {from + "@" + r.arm64.Digest.String(), "one"}} {
		if _, _, err := w.copy(api.TransferRequest{}, c.from, "oci:"+dir+":"+c.name); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil || bytes.Count(before, []byte(r.arm64.Digest)) != 2 || bytes.Contains(before, []byte(r.amd64.Digest)) {
		t.Errorf("%v %s", err, before)
	}
	broken := a.Repo("broken")
	for d, m := range a.Repo("app").Manifests {
		broken.Manifests[d] = m
	}
	for d, b := range a.Repo("app").Blobs {
		broken.Blobs[d] = b
	}
	broken.Tags["1"] = r.signature.Digest
	var m imagespec.Manifest
	json.Unmarshal(broken.Blobs[r.signature.Digest], &m)
	bad := bytes.Clone(broken.Blobs[m.Layers[0].Digest])
	bad[0] ^= 1
	broken.Blobs[m.Layers[0].Digest] = bad
	_, _, err = w.copy(api.TransferRequest{}, "docker://"+a.Host+"/broken:1", "oci:"+dir+":three")
	after, _ := os.ReadFile(filepath.Join(dir, "index.json"))
	if !errors.Is(err, api.Corrupt) || !bytes.Equal(before, after) {
		t.Errorf("%v\n%s\n%s", err, before, after)
	}
	if _, err := os.Stat(filepath.Join(dir, "blobs/sha256", m.Layers[0].Digest.Encoded())); err == nil {
		t.Error("the broken blob is there")
	}
	for _, place := range []string{"oci-archive:" + filepath.Join(t.TempDir(), "a"), "docker://" + w.writable().Host + "/x:1"} {
		if _, _, err := w.copy(api.TransferRequest{}, "docker://"+a.Host+"/broken:1", place); err == nil {
			t.Errorf("%s took a broken blob", place)
		}
		if names, _ := os.ReadDir(filepath.Dir(strings.TrimPrefix(place, "oci-archive:"))); len(names) > 0 {
			t.Errorf("%s: left %v", place, names)
		}
	}
}

func TestCopyRefuses(t *testing.T) {
	w := newWorld(t)
	a := w.writable()
	publish(a, "app")
	from, dir := "docker://"+a.Host+"/app:1", t.TempDir()
	os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600)
	for _, c := range []struct {
		r        api.TransferRequest
		from, to string
		kind     api.Kind
		word     string
	}{
		{api.TransferRequest{}, "app:1", from, api.InvalidArgument, "transport"},
		{api.TransferRequest{}, "app", from, api.InvalidArgument, "has no transport"},
		{api.TransferRequest{}, "docker:app", from, api.InvalidArgument, "docker://"},
		{api.TransferRequest{}, from, "dir:/tmp/x", api.Unsupported, "dir is not supported"},
		{api.TransferRequest{}, "containers-storage:x", from, api.Unsupported, "containers-storage is not supported"},
		{api.TransferRequest{}, "docker-daemon:x", from, api.Unsupported, "docker-daemon is not supported"},
		{api.TransferRequest{}, "docker://UPPER", from, api.InvalidArgument, "lowercase"},
		{api.TransferRequest{}, from, "brig:", api.InvalidArgument, "brig:REFERENCE"},
		{api.TransferRequest{}, from, "oci:", api.InvalidArgument, "PATH"},
		{api.TransferRequest{}, from, "docker-archive:x:UPPER", api.InvalidArgument, "lowercase"},
		{api.TransferRequest{}, from, "oci:x:a b", api.InvalidArgument, "spaces"},
		{api.TransferRequest{}, "brig:a", "brig:b", api.InvalidArgument, "brig tag"},
		{api.TransferRequest{}, "brig:nosuch", from, api.NotFound, "nosuch"},
		{api.TransferRequest{All: true}, from, "brig:b", api.Unsupported, "--platform"},
		{api.TransferRequest{All: true}, from, "docker-archive:b", api.Unsupported, "oci-archive"},
		{api.TransferRequest{All: true, Platform: "linux/arm64"}, from, "oci:b", api.InvalidArgument, "--all"},
		{api.TransferRequest{Referrers: true}, from, "brig:b", api.Unsupported, "--referrers"},
		{api.TransferRequest{Referrers: true}, "brig:b", from, api.Unsupported, "--referrers"},
		{api.TransferRequest{}, from, "docker://" + a.Host + "/x@sha256:" + strings.Repeat("a", 64), api.InvalidArgument, "digest"},
		{api.TransferRequest{}, "docker://" + a.Host + "/nosuch:1", "oci:" + dir + "/l", api.NotFound, "nosuch"},
		{api.TransferRequest{}, from, "oci:" + dir, api.AlreadyExists, "neither empty"},
		{api.TransferRequest{}, from, "docker-archive:" + dir, api.InvalidArgument, "folder"},
		{api.TransferRequest{}, from, "docker-archive:" + dir + "/file", api.AlreadyExists, "exists"},
		{api.TransferRequest{}, "oci:" + dir + "/nosuch", from, api.NotFound, "nosuch"},
		{api.TransferRequest{}, "oci-archive:" + dir + "/nosuch", from, api.NotFound, "nosuch"},
		{api.TransferRequest{}, "oci-archive:" + dir, from, api.InvalidArgument, "oci:"},
		{api.TransferRequest{}, "oci-archive:" + dir + "/file", from, api.Corrupt, "file"},
	} {
		if _, _, err := w.copy(c.r, c.from, c.to); err == nil || api.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s %s %+v: %v (%s)", c.from, c.to, c.r, err, api.KindOf(err))
		}
	}
	w.untouched()
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("left: %v", names)
	}
}

// TestCopyChooses: an archive of several images asks which one.
func TestCopyChooses(t *testing.T) {
	w, debian, other := pulled(t)
	file, b := filepath.Join(t.TempDir(), "two.tar"), w.writable()
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{debian.Name, other.Name}, File: file}); err != nil {
		t.Fatal(err)
	}
	to := "docker://" + b.Host + "/x:1"
	if _, _, err := w.copy(api.TransferRequest{}, "docker-archive:"+file, to); !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), "several images") {
		t.Error(err)
	}
	if _, _, err := w.copy(api.TransferRequest{}, "docker-archive:"+file+":nosuch:1", to); !errors.Is(err, api.NotFound) || !strings.Contains(err.Error(), "12") {
		t.Error(err)
	}
	if _, _, err := w.copy(api.TransferRequest{}, "docker-archive:"+file+":"+other.Name, to); err != nil || b.Repo("x").Tags["1"] != other.Manifest.Digest {
		t.Error(err)
	}
}

// TestCopyHostile: indexes that would never end, or are too much, are refused before anything is written.
func TestCopyHostile(t *testing.T) {
	for name, c := range map[string]struct {
		make func(s *imagetest.Store) imagespec.Descriptor
		kind api.Kind
	}{
		"two thousand entries": {func(s *imagetest.Store) imagespec.Descriptor {
			d := s.PutImage(s.OCI(nil), "")
			var all []imagespec.Descriptor
			for range 2000 {
				all = append(all, d)
			}
			return s.Index("", all...)
		}, api.Exhausted},
		"indexes in one another": {func(s *imagetest.Store) imagespec.Descriptor {
			d := s.PutImage(s.OCI(nil), "")
			for range 10 {
				d = s.Index("", d)
			}
			return d
		}, api.Exhausted},
		"a wide tree": {func(s *imagetest.Store) imagespec.Descriptor {
			n := 0
			var grow func(depth int) imagespec.Descriptor
			grow = func(depth int) imagespec.Descriptor {
				var all []imagespec.Descriptor
				for range 80 {
					n++
					d := s.JSON(imagespec.MediaTypeImageManifest, map[string]any{"schemaVersion": 2, "config": s.Put(imagespec.MediaTypeEmptyJSON, []byte("{}")), "layers": []any{}, "annotations": map[string]string{"n": fmt.Sprint(n)}})
					if depth > 0 {
						d = grow(depth - 1)
					}
					all = append(all, d)
				}
				return s.Index("", all...)
			}
			return grow(1)
		}, api.Exhausted},
		"an index that is a manifest too": {func(s *imagetest.Store) imagespec.Descriptor {
			return s.JSON(imagespec.MediaTypeImageIndex, map[string]any{"schemaVersion": 2, "manifests": []any{}, "layers": []any{}, "config": map[string]any{}})
		}, api.Corrupt},
		"an entry of another type": {func(s *imagetest.Store) imagespec.Descriptor { return s.Index("", s.Put("text/plain", []byte("x"))) }, api.Unsupported},
		"a digest that is a path": {func(s *imagetest.Store) imagespec.Descriptor {
			return s.JSON(imagespec.MediaTypeImageManifest, map[string]any{"schemaVersion": 2, "config": map[string]any{"digest": "sha256:../../../etc/passwd", "size": 1}, "layers": []any{}})
		}, api.Corrupt},
		"a layer of more bytes than it says": {func(s *imagetest.Store) imagespec.Descriptor {
			p := s.OCI(nil, imagetest.Layer("a", "b"))
			p.Manifest.Layers[0].Size--
			return s.PutImage(p, "")
		}, api.Corrupt},
	} {
		w := newWorld(t)
		a := w.writable()
		s := imagetest.New()
		s.Tag("1", c.make(s))
		a.Fill("x", s)
		out := filepath.Join(t.TempDir(), "out")
		if name == "a wide tree" { // 6480 manifests
			out = os.DevNull
		}
		_, _, err := w.copy(api.TransferRequest{All: true}, "docker://"+a.Host+"/x:1", "oci-archive:"+out)
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: %v (%s)", name, err, api.KindOf(err))
		}
		if _, err := os.Stat(out); err == nil && out != os.DevNull {
			t.Errorf("%s: an archive was made", name)
		}
		w.untouched()
	}
}

// TestCopyForeignLayer: a layer that registries do not hold stays where it is, and is not put into an archive.
func TestCopyForeignLayer(t *testing.T) {
	w := newWorld(t)
	a, b := w.writable(), w.writable()
	s := imagetest.New()
	p := s.OCI(nil, imagetest.Layer("a", "b"))
	p.Manifest.Layers = append(p.Manifest.Layers, imagespec.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest: digest.FromString("x"), Size: 1, URLs: []string{"https://example.com/x"}})
	d := s.PutImage(p, "1")
	a.Fill("x", s)
	b.Hook = func(rw http.ResponseWriter, r *http.Request) bool { // real registries let such layers be missing
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/1") {
			b.Repo("x").Blobs[digest.FromString("x")] = nil
		}
		return false
	}
	if _, _, err := w.copy(api.TransferRequest{}, "docker://"+a.Host+"/x:1", "docker://"+b.Host+"/x:1"); err != nil || b.Repo("x").Tags["1"] != d.Digest {
		t.Error(err)
	}
	if _, _, err := w.copy(api.TransferRequest{}, "docker://"+a.Host+"/x:1", "oci:"+filepath.Join(t.TempDir(), "l")); !errors.Is(err, api.Unsupported) {
		t.Error(err)
	}
}

// TestCopySHA512: blobs and manifests may have sha512 digests.
func TestCopySHA512(t *testing.T) {
	w := newWorld(t)
	a, b := w.writable(), w.writable()
	s := imagetest.New()
	p := s.OCI(nil, imagetest.Layer("a", "b"))
	l := &p.Manifest.Layers[0]
	l.Digest = digest.SHA512.FromBytes(s.Blobs[l.Digest])
	s.Blobs[l.Digest] = imagetest.Layer("a", "b")
	d := s.PutImage(p, "1")
	a.Fill("x", s)
	file := filepath.Join(t.TempDir(), "a.tar")
	if _, _, err := w.copy(api.TransferRequest{}, "docker://"+a.Host+"/x:1", "oci-archive:"+file); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if all := strings.Join(names, " "); !strings.Contains(all, "blobs/sha512/ blobs/sha512/"+l.Digest.Encoded()) {
		t.Error(all)
	}
	if _, _, err := w.copy(api.TransferRequest{}, "oci-archive:"+file, "docker://"+b.Host+"/x:1"); err != nil || b.Repo("x").Tags["1"] != d.Digest {
		t.Error(err)
	}
	// And through the store.
	if _, _, err := w.copy(api.TransferRequest{}, "oci-archive:"+file, "brig:x:1"); err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(t.TempDir(), "saved.tar")
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{"x:1"}, File: saved}); err != nil {
		t.Fatal(err)
	}
	fresh := w.fresh()
	if got, _, _, err := fresh.do(api.TransferRequest{Op: "load", File: saved}); err != nil || got.Images[0].Manifest.Digest != d.Digest || fresh.file(got.Images[0].Layers[0].DiffID, "a") != "b" {
		t.Errorf("%v %+v", err, got)
	}
}
