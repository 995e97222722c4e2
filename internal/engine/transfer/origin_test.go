package transfer

import (
	"archive/tar"
	"bytes"
	"context"
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
	"brig/internal/base/record"
	"brig/internal/image/imagetest"
	"brig/internal/store/garbage"
)

// TestLoadByForeignDigest: an archive cannot have its image stand for a digest that is another's, neither docker's nor a layout.
func TestLoadByForeignDigest(t *testing.T) {
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(imagetest.Gzip, layers(1, 1000)...), "1")
	if _, err := w.with("pull", w.host+"/app:1", ""); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{w.host + "/app:1"}, File: file}); err != nil {
		t.Fatal(err)
	}
	pinned := w.host + "/app@" + digest.FromString("what the user wants").String()
	for name, keep := range map[string]string{"docker-archive": "manifest.json", "oci-archive": "index.json"} {
		evil := filepath.Join(t.TempDir(), "evil.tar")
		rename(t, file, evil, func(path string, b []byte) ([]byte, bool) {
			if path == "manifest.json" || path == "index.json" || path == "oci-layout" {
				b = bytes.ReplaceAll(b, []byte(w.host+"/app:1"), []byte(pinned))
				return b, path == keep || path == "oci-layout" && keep == "index.json"
			}
			return b, true
		})
		f := w.fresh()
		_, _, _, err := f.do(api.TransferRequest{Op: "load", File: evil})
		if !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
		if rec, err := garbage.Open(f.root).Meta.Image(pinned); err == nil {
			t.Errorf("%s: %s is %s", name, pinned, rec.Target.Digest)
		}
	}
}

// rename copies an archive, its files as change wants them, or without them.
func rename(t *testing.T, from, to string, change func(path string, b []byte) ([]byte, bool)) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r, w := tar.NewReader(bytes.NewReader(b)), tar.NewWriter(&out)
	for {
		h, err := r.Next()
		if err != nil {
			break
		}
		var body bytes.Buffer
		if _, err := body.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		text, ok := change(h.Name, body.Bytes())
		if !ok {
			continue
		}
		h.Size = int64(len(text))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), os.WriteFile(to, out.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// TestOriginIsNotTheName: whatever way an image comes in, the policy judges where it came from. A name that is trusted makes nothing trusted.
func TestOriginIsNotTheName(t *testing.T) {
	const trusted = "trusted.example.com/app:1"
	w := newWorld(t)
	target := w.reg.PutImage(w.reg.OCI(imagetest.Gzip, layers(1, 1000)...), "1")
	if _, err := w.with("pull", w.host+"/app:1", ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar")
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{w.host + "/app:1"}, File: file, Format: "oci-archive"}); err != nil {
		t.Fatal(err)
	}
	stream, reg, sent := session(t, layers(1, 1000)...)
	stream = bytes.Replace(stream, []byte("docker.io/library/x:1"), []byte(trusted), 1)
	stream[4] += byte(len(trusted) - len("docker.io/library/x:1")) // the frame's length
	if len(reg.Blobs) == 0 || sent.Digest == "" {
		t.Fatal("no session")
	}
	const accept = `[{"type":"insecureAcceptAnything"}]`
	write := func(transports string) string {
		path := filepath.Join(t.TempDir(), "policy.json")
		if err := os.WriteFile(path, []byte(`{"default":[{"type":"reject"}],"transports":{`+transports+`}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	names := write(`"docker":{"trusted.example.com":` + accept + `}`) // what is of this name is accepted, and nothing else
	for name, c := range map[string]struct {
		in     func(f *world, policy string) error
		own    string // what accepts just this way
		origin api.Trust
	}{
		"copy from a registry": {func(f *world, p string) error {
			_, _, _, err := f.do(api.TransferRequest{Op: "copy", Refs: []string{"docker://" + w.host + "/app:1", "brig:" + trusted}, Policy: p})
			return err
		}, `"docker":{"` + w.host + `":` + accept + `}`, api.Trust{Transport: "docker", Reference: w.host + "/app:1"}},
		"copy from an archive": {func(f *world, p string) error {
			_, _, _, err := f.do(api.TransferRequest{Op: "copy", Refs: []string{"oci-archive:" + file, "brig:" + trusted}, Policy: p})
			return err
		}, `"oci-archive":{"` + dir + `":` + accept + `}`, api.Trust{Transport: "oci-archive", Reference: file}},
		"received": {func(f *world, p string) error {
			_, _, err := feed(f.root, stream, p)
			return err
		}, `"oci-archive":{"":` + accept + `}`, api.Trust{Transport: "oci-archive"}},
		"imported": {func(f *world, p string) error {
			f.stdin(imagetest.Layer("f", "x"))
			_, _, _, err := f.do(api.TransferRequest{Op: "import", Refs: []string{trusted}, Policy: p})
			return err
		}, `"tarball":{"":` + accept + `}`, api.Trust{Transport: "tarball"}},
	} {
		f := w.fresh()
		if err := c.in(f, names); !errors.Is(err, api.Denied) {
			t.Errorf("%s: it came in as what it is called: %v", name, err)
		}
		f.empty()
		if err := c.in(f, ""); err != nil { // no policy yet
			t.Fatalf("%s: %v", name, err)
		}
		if rec, err := f.with("verify", trusted, names); !errors.Is(err, api.Denied) {
			t.Errorf("%s: it may run as what it is called: %+v %v", name, rec.Trust, err)
		}
		f = w.fresh()
		if err := c.in(f, write(c.own)); err != nil {
			t.Errorf("%s: its own transport is accepted: %v", name, err)
			continue
		}
		rec, err := garbage.Open(f.root).Meta.Image(trusted)
		if err != nil || rec.Trust.Transport != c.origin.Transport || rec.Trust.Reference != c.origin.Reference || len(rec.Trust.Files) != 1 {
			t.Errorf("%s: %+v %v", name, rec.Trust, err)
		}
	}
	// With a signature, by the name of the registry that it is in.
	k := newKey(t)
	k.sign(w.reg, w.host+"/app:1", target.Digest)
	f := w.fresh()
	strict := policy(t, k.rule("matchRepoDigestOrExact"))
	if _, _, _, err := f.do(api.TransferRequest{Op: "copy", Refs: []string{"docker://" + w.host + "/app:1", "brig:" + trusted}, Policy: strict}); err != nil {
		t.Error(err)
	}
	if _, err := f.with("verify", trusted, strict); err != nil {
		t.Error(err)
	}
}

// TestCommittedIsOurs: what was made here is accepted, as podman accepts all from containers-storage, whatever it is called.
func TestCommittedIsOurs(t *testing.T) {
	w := newWorld(t)
	img := w.imported(imagetest.Layer("f", "x"))
	c, _ := w.container(img, api.ContainerSpec{})
	strict := policy(t, `{"type":"reject"}`)
	if _, _, _, err := w.do(api.TransferRequest{Op: "commit", Container: c.ID, Refs: []string{"mine:1"}, Policy: strict}); err != nil {
		t.Fatal(err)
	}
	rec, err := w.with("verify", "docker.io/library/mine:1", strict)
	if err != nil || rec.Trust.Transport != "containers-storage" || len(rec.Trust.Files) != 1 {
		t.Errorf("%+v %v", rec.Trust, err)
	}
}

// TestRepairKeepsOrigin: an image that is repaired is still from where it was, and keeps its signatures and its short name.
func TestRepairKeepsOrigin(t *testing.T) {
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(imagetest.Gzip, layers(1, 1000)...), "1")
	name := w.host + "/app:1"
	if _, err := w.with("pull", name, ""); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{name}, File: file, Format: "oci-archive"}); err != nil {
		t.Fatal(err)
	}
	f := w.fresh()
	if _, _, _, err := f.do(api.TransferRequest{Op: "load", File: file}); err != nil {
		t.Fatal(err)
	}
	stores := garbage.Open(f.root)
	rec, err := stores.Meta.Image(name)
	if err != nil {
		t.Fatal(err)
	}
	rec.Short = "app"
	if err := stores.Meta.PutImage(rec); err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(f.root, "content/blobs/sha256", rec.Layers[0].Blob.Digest.Encoded())
	if err := os.WriteFile(blob, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if reply, _, _, err := f.do(api.TransferRequest{Op: "check", Repair: true}); err != nil || len(reply.Check.Problems) == 0 || reply.Check.Problems[0].Repaired == "" {
		t.Fatalf("%+v %v", reply.Check, err)
	}
	now, err := stores.Meta.Image(name)
	if err != nil || now.Trust.Transport != "oci-archive" || now.Trust.Reference != file || now.Short != "app" {
		t.Errorf("%+v %q %v", now.Trust, now.Short, err)
	}
	// One whose record is gone came from nobody knows where, unless its registry has just that.
	path := filepath.Join(f.root, "image", strings.ReplaceAll(name, "/", "%2F")+".json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := f.do(api.TransferRequest{Op: "check", Repair: true}); err != nil {
		t.Fatal(err)
	}
	anything := policy(t, `{"type":"insecureAcceptAnything"}`)
	if rec, err := f.with("verify", name, anything); !errors.Is(err, api.Denied) {
		t.Errorf("%+v %v", rec.Trust, err)
	}
	if rec, err := f.with("pull", name, anything); err != nil || rec.Trust.Transport != "docker" {
		t.Errorf("%+v %v", rec.Trust, err)
	}
}

// TestIndexWithoutEnd: an index that names an index a thousand times, which names a manifest a thousand times, is not looked through a million times.
func TestIndexWithoutEnd(t *testing.T) {
	w := newWorld(t)
	d := w.reg.PutImage(w.reg.OCI(imagetest.Gzip, layers(1, 1000)...), "")
	d.Platform = &imagespec.Platform{OS: "linux", Architecture: "amd64"}
	inner := w.reg.Index("", slices.Repeat([]imagespec.Descriptor{d}, 999)...)
	inner.Platform = d.Platform
	w.reg.Index("1", slices.Repeat([]imagespec.Descriptor{inner}, 999)...)
	if _, err := w.pull("x:1"); err != nil {
		t.Fatal(err)
	}
	rec, err := garbage.Open(w.root).Meta.Image(w.host + "/x:1")
	if err != nil {
		t.Fatal(err)
	}
	name := w.writable().Host + "/x:1"
	w.tag(rec, name)
	begin := time.Now()
	c, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := w.tr.Do(c, api.TransferRequest{Op: "push", Refs: []string{name}}); err != nil || time.Since(begin) > 20*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}

// TestNewerStore: nothing is brought into a store of a newer layout, whatever way it comes.
func TestNewerStore(t *testing.T) {
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(imagetest.Gzip, layers(1, 1000)...), "1")
	img := w.imported(imagetest.Layer("f", "x"))
	c, _ := w.container(img, api.ContainerSpec{})
	file := filepath.Join(t.TempDir(), "a.tar")
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{img.ID}, File: file}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.root, "version"), record.Sign([]byte(`{"layout":1000}`)), 0o600); err != nil {
		t.Fatal(err)
	}
	stream, _, _ := session(t, layers(1, 1000)...)
	for _, r := range []api.TransferRequest{
		{Op: "pull", Refs: []string{w.host + "/app:1"}}, {Op: "load", File: file}, {Op: "import", File: file}, {Op: "commit", Container: c.ID},
		{Op: "copy", Refs: []string{"docker://" + w.host + "/app:1", "brig:x:1"}},
	} {
		if _, _, _, err := w.do(r); !errors.Is(err, api.Unsupported) || !strings.Contains(err.Error(), "newer") {
			t.Errorf("%s: %v", r.Op, err)
		}
	}
	_, said, err := feed(w.root, stream)
	if !errors.Is(err, api.Unsupported) || !bytes.Contains(said, []byte("newer")) {
		t.Errorf("receive: %v, %q", err, said)
	}
}
