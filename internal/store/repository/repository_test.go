package repository

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/api"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

func store(t *testing.T) *Store { return Open(filepath.Join(t.TempDir(), "root")) }

func record(text string, needs ...digest.Digest) Manifest {
	return Manifest{Descriptor: imagespec.Descriptor{MediaType: "m/t", Digest: digest.FromString(text), Size: int64(len(text))}, Needs: needs}
}

func referring(s *Store, subject digest.Digest) (all []imagespec.Descriptor, err error) {
	err = s.Referrers("a", subject, "", func(d imagespec.Descriptor) bool { all = append(all, d); return true })
	return all, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestManifestsAndTags(t *testing.T) {
	s := store(t)
	if names, err := s.Names(); len(names) != 0 || err != nil {
		t.Error(names, err)
	}
	if _, err := s.Tag("a", "1"); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
	one, two := record("one", digest.FromString("blob")), record("two")
	two.Subject, two.ArtifactType, two.Annotations = one.Digest, "x/y", map[string]string{"k": "v"}
	for _, name := range []string{"a", "a/b", "a/b/c/d"} {
		must(t, s.PutManifest(name, one))
		must(t, s.PutManifest(name, two))
		must(t, s.SetTag(name, "1", one.Digest))
		must(t, s.SetTag(name, "2", one.Digest))
		must(t, s.SetTag(name, "two.json.tmp1-1", two.Digest))
	}
	if names, err := s.Names(); !slices.Equal(names, []string{"a", "a/b", "a/b/c/d"}) || err != nil {
		t.Error(names, err)
	}
	got, err := s.Manifest("a/b", two.Digest)
	if err != nil || got.Subject != two.Subject || got.Annotations["k"] != "v" || got.MediaType != "m/t" {
		t.Error(got, err)
	}
	if r, err := referring(s, one.Digest); len(r) != 1 || r[0].Digest != two.Digest || r[0].ArtifactType != "x/y" || err != nil {
		t.Error(r, err)
	}
	if tags, err := s.Tags("a"); !slices.Equal(tags, []string{"1", "2", "two.json.tmp1-1"}) || err != nil {
		t.Error(tags, err)
	}
	must(t, s.RemoveTag("a", "2"))
	must(t, s.RemoveManifest("a", one.Digest))
	must(t, s.RemoveManifest("a", two.Digest))
	if tags, err := s.Tags("a"); len(tags) != 0 || err != nil {
		t.Error(tags, err)
	}
	if r, err := referring(s, one.Digest); len(r) != 0 || err != nil {
		t.Error(r, err)
	}
	if s.Exists("a") || !s.Exists("a/b") {
		t.Error("a is gone, a/b is not")
	}
	for _, err := range []error{s.RemoveTag("a", "2"), s.RemoveManifest("a", one.Digest), s.RemoveBlob("a", one.Digest)} {
		if !errors.Is(err, api.NotFound) {
			t.Error(err)
		}
	}
}

// TestNames: no name leads out of the folder, nor to the records of another.
func TestNames(t *testing.T) {
	s := store(t)
	for _, bad := range []string{"", ".", "..", "../x", "a/../b", "/a", "a/", "a//b", "_tag", "a/_blob", "a/_manifest/x", ".a", "-a", "a\x00b", "a\nb", "a b", strings.Repeat("a", 256),
		strings.Repeat("a/", 300) + "a", "%2e"} {
		_, uerr := s.StartUpload(bad)
		_, terr := s.Tags(bad)
		_, berr := s.AddBlob(bad, digest.FromString("x"))
		for _, err := range []error{check(bad), s.PutManifest(bad, record("x")), s.SetTag(bad, "x", digest.FromString("x")), uerr, terr, berr} {
			if !errors.Is(err, api.InvalidArgument) {
				t.Errorf("%q: %v", bad, err)
			}
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "../x", "-a", "a\x00", strings.Repeat("x", 129)} {
		if err := s.SetTag("a", bad, digest.FromString("x")); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []digest.Digest{"", "x", "sha256:../../x", "../x:aa"} {
		if _, err := s.AddBlob("a", bad); !errors.Is(err, api.InvalidArgument) || s.HasBlob("a", bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "../..", strings.Repeat("A", 64), strings.Repeat("a", 63)} {
		if _, err := s.OpenUpload("a", bad); !errors.Is(err, api.NotFound) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Error("something was made:", err)
	}
	for _, good := range []string{"a", "docker.io/library/debian", "localhost:5000/x", strings.Repeat("a/", 127) + "a", strings.Repeat("x", 255)} {
		if err := check(good); err != nil {
			t.Error(err)
		}
	}
}

// TestBlobs: all that a repository has is needed, and a record that cannot be read does not hide it.
func TestBlobs(t *testing.T) {
	s := store(t)
	m := record("m")
	must(t, s.PutManifest("a/b", m))
	b := digest.FromString("b")
	first, err := s.AddBlob("c", b)
	must(t, err)
	second, err := s.AddBlob("c", b)
	must(t, err)
	if first == second || s.BlobClaim("c", b) != second || s.BlobClaim("d", b) != 0 {
		t.Error("a claim is not told from the next", first, second)
	}
	must(t, s.Announce("c", imagespec.Descriptor{Digest: digest.FromString("known"), Size: 5}))
	must(t, os.WriteFile(s.path("a/b", manifests, m.Digest.String()+suffix), []byte("damaged"), 0o600))
	need, err := s.Blobs()
	if len(need) != 2 || !need[b] || !need[m.Digest] || err != nil {
		t.Error(need, err)
	}
	if _, err := s.Manifest("a/b", m.Digest); !errors.Is(err, api.Corrupt) {
		t.Error(err)
	}
	if d, err := s.Announced("c", digest.FromString("known")); d.Size != 5 || err != nil {
		t.Error(d, err)
	}
	if _, err := s.Announced("c", b); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
}

func TestUpload(t *testing.T) {
	s := store(t)
	id, err := s.StartUpload("a")
	must(t, err)
	u, err := s.OpenUpload("a", id)
	must(t, err)
	if _, err := s.OpenUpload("a", id); !errors.Is(err, api.Unavailable) {
		t.Error("two write at a time:", err)
	}
	if _, err := s.OpenUpload("b", id); !errors.Is(err, api.NotFound) {
		t.Error("another repository's:", err)
	}
	io.WriteString(u, "hello")
	must(t, u.Close())
	u, err = s.OpenUpload("a", id)
	must(t, err)
	io.WriteString(u, " world!")
	must(t, u.Truncate(11))
	if b, err := io.ReadAll(u.Reader()); string(b) != "hello world" || err != nil || u.Size() != 11 {
		t.Errorf("%q %v", b, err)
	}
	if n, err := s.UploadSize("a", id); n != 11 || err != nil {
		t.Error(n, err)
	}
	must(t, u.Remove())
	if _, err := s.OpenUpload("a", id); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
	if all, err := os.ReadDir(s.path("a", uploads)); len(all) != 0 || err != nil {
		t.Error(all, err)
	}
}

// TestExpire: what was given up goes, what is needed, new or under way stays.
func TestExpire(t *testing.T) {
	s := store(t)
	old := time.Now().Add(-48 * time.Hour)
	age := func(path string) {
		t.Helper()
		must(t, os.Chtimes(path, time.Time{}, old))
	}
	needed, left, young := digest.FromString("needed"), digest.FromString("left"), digest.FromString("young")
	m := record("m", needed)
	m.Subject = digest.FromString("subject")
	must(t, s.PutManifest("a", m))
	for _, d := range []digest.Digest{needed, left, young} {
		_, err := s.AddBlob("a", d)
		must(t, err)
	}
	age(s.path("a", blobs, needed.String()))
	age(s.path("a", blobs, left.String()))
	var ids []string
	for range 3 {
		id, err := s.StartUpload("a")
		must(t, err)
		ids = append(ids, id)
	}
	age(s.path("a", uploads, ids[0], dataFile))
	age(s.path("a", uploads, ids[1], dataFile))
	u, err := s.OpenUpload("a", ids[1])
	must(t, err)
	dead := s.path("a", tags, "x.json.tmp1-1")
	must(t, makeDirs(filepath.Dir(dead)))
	must(t, os.WriteFile(dead, nil, 0o600))
	age(dead)
	must(t, s.mark("a", referrers, m.Subject.String(), left.String()))
	age(s.path("a", referrers, m.Subject.String(), left.String()))
	_, err = s.AddBlob("gone/deep/er", left)
	must(t, err)
	age(s.path("gone/deep/er", blobs, left.String()))

	given, err := s.Expire(time.Now().Add(-24 * time.Hour))
	if !slices.Equal(given, []digest.Digest{left, left}) || err != nil {
		t.Error(given, err)
	}
	for d, want := range map[digest.Digest]bool{needed: true, left: false, young: true} {
		if s.HasBlob("a", d) != want {
			t.Errorf("%s: %t", d, !want)
		}
	}
	if _, err := s.UploadSize("a", ids[0]); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
	must(t, u.Close())
	for _, id := range ids[1:] {
		if _, err := s.UploadSize("a", id); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(dead); !os.IsNotExist(err) {
		t.Error(err)
	}
	if r, err := s.digests("a", referrers, m.Subject.String()); len(r) != 1 || err != nil {
		t.Error(r, err)
	}
	if _, err := os.Lstat(s.path("gone")); !os.IsNotExist(err) {
		t.Error("an empty folder is left:", err)
	}
	// Without knowing what a manifest needs, no blob goes.
	age(s.path("a", blobs, young.String()))
	must(t, os.WriteFile(s.path("a", manifests, m.Digest.String()+suffix), []byte("{"), 0o600))
	if given, err := s.Expire(time.Now().Add(-24 * time.Hour)); len(given) != 0 || !errors.Is(err, api.Corrupt) || !s.HasBlob("a", needed) || !s.HasBlob("a", young) {
		t.Error(given, err)
	}
}

// TestCrowd: writers and the clean-up do not get in each other's way.
func TestCrowd(t *testing.T) {
	s := store(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 25 {
				name, m := fmt.Sprintf("r%d/x", n%3), record(fmt.Sprint(i, n))
				_, berr := s.AddBlob(name, m.Digest)
				if err := errors.Join(berr, s.PutManifest(name, m), s.SetTag(name, "t", m.Digest), s.RemoveManifest(name, m.Digest)); err != nil && !errors.Is(err, api.NotFound) {
					t.Error(err)
				}
				id, err := s.StartUpload(name)
				if err != nil {
					t.Error(err)
					continue
				}
				u, err := s.OpenUpload(name, id)
				if err != nil {
					t.Error(err)
					continue
				}
				if _, err := io.Copy(u, bytes.NewReader(make([]byte, 100))); err != nil {
					t.Error(err)
				}
				if err := u.Remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			if _, err := s.Expire(time.Now().Add(-time.Hour)); err != nil {
				t.Error(err)
			}
			if _, err := s.Blobs(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
}
