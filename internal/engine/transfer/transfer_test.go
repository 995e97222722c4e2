package transfer

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/imagetest"
)

var ctx = context.Background()

// world is a registry on loopback and a store.
type world struct {
	*testing.T
	reg      *imagetest.Store
	host     string
	root     string
	tr       *Transfer
	out, err bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	w := &world{T: t, reg: imagetest.New(), root: filepath.Join(t.TempDir(), "root")}
	server := httptest.NewServer(w.reg)
	t.Cleanup(server.Close)
	w.host = strings.TrimPrefix(server.URL, "http://")
	w.tr = New(w.root)
	w.tr.Stdout, w.tr.Stderr = &w.out, &w.err
	return w
}

// do runs a request and returns what it wrote.
func (w *world) do(r api.TransferRequest) (reply api.TransferReply, stdout, stderr string, err error) {
	w.Helper()
	w.out.Reset()
	w.err.Reset()
	reply, err = w.tr.Do(ctx, r)
	return reply, w.out.String(), w.err.String(), err
}

func (w *world) pull(name string) (api.TransferReply, error) {
	w.Helper()
	reply, _, _, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{w.host + "/" + name}})
	return reply, err
}

// empty fails unless the store holds nothing: no record, name, blob or layer, nothing half made.
func (w *world) empty() {
	w.Helper()
	filepath.WalkDir(w.root, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(w.root, path)
		switch {
		case err != nil || d.IsDir() && !strings.HasPrefix(rel, "snapshot/layer/"):
		case d.Name() == "oci-layout", d.Name() == ".lock", d.Name() == "version", d.Name() == ".making", strings.HasSuffix(d.Name(), ".lock"):
		case d.Name() == "index.json":
			if b, _ := os.ReadFile(path); bytes.Contains(b, []byte("sha256:")) {
				w.Errorf("index.json: %s", b)
			}
		default:
			w.Errorf("left: %s", rel)
		}
		return nil
	})
}

// file reads a file of an unpacked layer.
func (w *world) file(diffID, name string) string {
	w.Helper()
	b, err := os.ReadFile(filepath.Join(w.root, "snapshot/layer", strings.TrimPrefix(diffID, "sha256:"), "fs", name))
	if err != nil {
		w.Error(err)
	}
	return string(b)
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// layers makes n layers of about size bytes that do not compress.
func layers(n, size int) (all [][]byte) {
	for i := range n {
		all = append(all, imagetest.Layer(fmt.Sprint("file", i), string(noise(size))))
	}
	return all
}

func TestPull(t *testing.T) {
	for name, pack := range map[string]func([]byte) []byte{"plain": nil, "gzip": imagetest.Gzip, "zstd": imagetest.Zstd} {
		w := newWorld(t)
		p := w.reg.OCI(pack, imagetest.Layer("a", "one"), imagetest.Layer("b", "two"), imagetest.Layer("a", "one"))
		target := w.reg.PutImage(p, "12")
		reply, stdout, stderr, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{w.host + "/debian:12"}})
		if err != nil {
			t.Fatal(name, err)
		}
		full := w.host + "/debian:12"
		if stdout != full+"\n" {
			t.Errorf("%s: standard output %q", name, stdout)
		}
		short := p.Manifest.Layers[0].Digest.Encoded()[:12]
		for _, line := range []string{"12: Pulling from " + w.host + "/debian\n", short + ": Pull complete\n", "Digest: " + target.Digest.String() + "\n", "Status: Downloaded newer image for " + full + "\n"} {
			if !strings.Contains(stderr, line) {
				t.Errorf("%s: %q is not in %q", name, line, stderr)
			}
		}
		if strings.Contains(stderr, "\x1b") {
			t.Errorf("%s: colours or cursor movements without a terminal: %q", name, stderr)
		}
		rec := reply.Images[0]
		stored, err := w.tr.stores.Meta.Image(full)
		if err != nil || stored.ID != rec.ID || !reply.Fresh || rec.Target.Digest != target.Digest || rec.Layers[0].Size != 3 || len(rec.Layers) != 3 || rec.Config.Cmd[0] != "sh" {
			t.Errorf("%s: %+v, %v", name, rec, err)
		}
		if w.file(rec.Layers[1].DiffID, "b") != "two" {
			t.Errorf("%s: layer 2", name)
		}
		refs, err := w.tr.stores.Content.Refs()
		if err != nil || len(refs) != 1 || refs[0].Digest != target.Digest || refs[0].Annotations[imagespec.AnnotationRefName] != full {
			t.Errorf("%s: %+v, %v", name, refs, err)
		}

		// Again: nothing is fetched. Another tag of it: no blob is fetched.
		_, stdout, stderr, err = w.do(api.TransferRequest{Op: "pull", Refs: []string{full}})
		if err != nil || stdout != full+"\n" || !strings.Contains(stderr, "Status: Image is up to date for "+full) {
			t.Errorf("%s: again: %v %q", name, err, stderr)
		}
		blobs := w.reg.Requests("/blobs/")
		w.reg.Tag("13", target)
		_, _, stderr, err = w.do(api.TransferRequest{Op: "pull", Refs: []string{w.host + "/debian:13"}})
		if err != nil || !strings.Contains(stderr, short+": Already exists") || w.reg.Requests("/blobs/") != blobs {
			t.Errorf("%s: other tag: %v %q, %d requests", name, err, stderr, w.reg.Requests("/blobs/")-blobs)
		}
	}
}

func TestPullQuiet(t *testing.T) {
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(nil, imagetest.Layer("a", "b")), "1")
	_, stdout, stderr, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{w.host + "/x:1"}, Quiet: true})
	if err != nil || stdout != w.host+"/x:1\n" || stderr != "" {
		t.Errorf("%q %q %v", stdout, stderr, err)
	}
}

// TestPullMovedTag: the image that lost its name stays, without one, until it is removed or gets a name again.
func TestPullMovedTag(t *testing.T) {
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(nil, imagetest.Layer("a", "1")), "1")
	first, err := w.pull("x:1")
	if err != nil {
		t.Fatal(err)
	}
	old := w.reg.Tags["1"]
	w.reg.PutImage(w.reg.OCI(nil, imagetest.Layer("a", "2")), "1")
	second, err := w.pull("x:1")
	if err != nil || !second.Fresh || second.Images[0].ID == first.Images[0].ID {
		t.Fatalf("%+v %v", second, err)
	}
	rec, err := w.tr.stores.Meta.Image(first.Images[0].ID)
	if err != nil || rec.Name != "" {
		t.Errorf("the old image: %+v, %v", rec, err)
	}
	w.reg.Tag("old", imagespec.Descriptor{Digest: old})
	if _, err := w.pull("x:old"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.tr.stores.Meta.Image(first.Images[0].ID); !errors.Is(err, api.NotFound) {
		t.Errorf("listed without a name beside its name: %v", err)
	}
	if all, err := w.tr.stores.Meta.Images(); err != nil || len(all) != 2 {
		t.Errorf("%+v, %v", all, err)
	}
	// The same image packed otherwise: what the old packing alone needed goes.
	w.reg.PutImage(w.reg.OCI(imagetest.Gzip, imagetest.Layer("a", "2")), "1")
	third, err := w.pull("x:1")
	if err != nil || third.Images[0].ID != second.Images[0].ID {
		t.Fatal(err)
	}
	if w.tr.stores.Content.Has(second.Images[0].Layers[0].Blob.Digest) || !w.tr.stores.Content.Has(third.Images[0].Layers[0].Blob.Digest) {
		t.Error("blobs of the old packing stayed, or of the new one went")
	}
}

func TestPullIndex(t *testing.T) {
	w := newWorld(t)
	var all []imagespec.Descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		p := w.reg.OCI(imagetest.Gzip, imagetest.Layer("arch", arch))
		p.Config.Architecture = arch
		d := w.reg.PutImage(p, "")
		d.Platform = &imagespec.Platform{OS: "linux", Architecture: arch}
		all = append(all, d)
	}
	index := w.reg.Index("1", all...)
	for _, arch := range []string{"arm64", "amd64"} {
		reply, _, _, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{w.host + "/x:1"}, Platform: "linux/" + arch})
		if err != nil {
			t.Fatal(err)
		}
		rec := reply.Images[0]
		if rec.Target.Digest != index.Digest || rec.Platform != "linux/"+arch || w.file(rec.Layers[0].DiffID, "arch") != arch || !reply.Fresh {
			t.Errorf("%s: %+v", arch, rec)
		}
	}
	if _, _, _, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{w.host + "/x:1"}, Platform: "linux/s390x"}); !errors.Is(err, api.NotFound) || !strings.Contains(err.Error(), "linux/arm64") {
		t.Error(err)
	}
}

// TestPullFails: whatever is wrong with a layer, the error names it and the registry, and nothing is left of the image.
func TestPullFails(t *testing.T) {
	for name, c := range map[string]struct {
		bend func(w *world, p *imagetest.Parts)
		kind api.Kind
		word string
	}{
		"other bytes": {func(w *world, p *imagetest.Parts) {
			b := w.reg.Blobs[p.Manifest.Layers[2].Digest]
			b[len(b)/2] ^= 1
		}, api.Corrupt, "digest"},
		"other bytes, sound gzip": {func(w *world, p *imagetest.Parts) {
			b := noise(len(w.reg.Blobs[p.Manifest.Layers[2].Digest]) - 100)
			g := imagetest.Gzip(b)
			d := &p.Manifest.Layers[2]
			w.reg.Blobs[d.Digest], d.Size = g, int64(len(g))
		}, api.Corrupt, "digest"},
		"other diff ID": {func(w *world, p *imagetest.Parts) { p.Config.RootFS.DiffIDs[2] = digest.FromString("x") }, api.Corrupt, ""},
		"no tar": {func(w *world, p *imagetest.Parts) {
			b := noise(5000)
			p.Manifest.Layers[2] = w.reg.Put(imagespec.MediaTypeImageLayerGzip, imagetest.Gzip(b))
			p.Config.RootFS.DiffIDs[2] = digest.FromBytes(b)
		}, api.Corrupt, ""},
		"missing": {func(w *world, p *imagetest.Parts) { delete(w.reg.Blobs, p.Manifest.Layers[2].Digest) }, api.NotFound, ""},
		"shorter": {func(w *world, p *imagetest.Parts) { p.Manifest.Layers[2].Size++ }, api.Corrupt, "announced"},
		"half gzip": {func(w *world, p *imagetest.Parts) {
			b := imagetest.Gzip(layers(1, 50000)[0])
			p.Manifest.Layers[2] = w.reg.Put(imagespec.MediaTypeImageLayerGzip, b[:len(b)/2])
		}, api.Corrupt, "gzip"},
	} {
		w := newWorld(t)
		p := w.reg.OCI(imagetest.Gzip, layers(5, 30000)...)
		c.bend(w, p)
		bad := p.Manifest.Layers[2].Digest.String()
		w.reg.PutImage(p, "1")
		_, err := w.pull("x:1")
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.word) || !strings.Contains(err.Error(), w.host) {
			t.Errorf("%s: %v (%s)", name, err, api.KindOf(err))
		}
		if c.kind == api.Corrupt && !strings.Contains(err.Error(), "layer "+bad) {
			t.Errorf("%s: the message does not name the layer: %v", name, err)
		}
		w.empty()
	}
}

// TestPullFailureKeepsOthers: what another image needs stays when a pull that shares it fails.
func TestPullFailureKeepsOthers(t *testing.T) {
	w := newWorld(t)
	shared, bad := layers(1, 1000)[0], layers(1, 1000)[0]
	w.reg.PutImage(w.reg.OCI(imagetest.Gzip, shared), "good")
	good, err := w.pull("x:good")
	if err != nil {
		t.Fatal(err)
	}
	p := w.reg.OCI(imagetest.Gzip, shared, bad)
	delete(w.reg.Blobs, p.Manifest.Layers[1].Digest)
	w.reg.PutImage(p, "bad")
	if _, err := w.pull("x:bad"); !errors.Is(err, api.NotFound) {
		t.Fatal(err)
	}
	if _, ok := w.tr.present(good.Images[0].Name, image.Platform{}); !ok {
		t.Error("the other image lost something")
	}
}

// TestPullCancelled: a server that stops in the middle of a layer; the cancelled pull ends at once and leaves nothing.
func TestPullCancelled(t *testing.T) {
	w := newWorld(t)
	p := w.reg.OCI(imagetest.Gzip, layers(4, 400_000)...)
	w.reg.PutImage(p, "1")
	stopped, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.reg.Hook = func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, p.Manifest.Layers[3].Digest.String()) {
			return false
		}
		rw.Header().Set("Content-Length", fmt.Sprint(p.Manifest.Layers[3].Size))
		rw.Write(w.reg.Blobs[p.Manifest.Layers[3].Digest][:200_000])
		http.NewResponseController(rw).Flush()
		once.Do(func() { close(stopped) })
		<-release
		return true
	}
	defer close(release)
	c, cancel := context.WithCancel(ctx)
	go func() {
		<-stopped
		time.Sleep(50 * time.Millisecond)
		cancel()
	}()
	done := make(chan error, 1)
	go func() {
		_, err := w.tr.Do(c, api.TransferRequest{Op: "pull", Refs: []string{w.host + "/x:1"}})
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the pull goes on")
	}
	w.empty()
}

// TestPullAtATime: several stores' users pull images with shared layers, while one of the pulls keeps failing.
func TestPullAtATime(t *testing.T) {
	w := newWorld(t)
	common := layers(3, 50_000)
	for i := range 4 {
		w.reg.PutImage(w.reg.OCI(imagetest.Gzip, append(common[:3:3], layers(1, 1000)...)...), fmt.Sprint(i))
	}
	broken := w.reg.OCI(imagetest.Gzip, append(common[:3:3], layers(1, 1000)...)...)
	delete(w.reg.Blobs, broken.Manifest.Layers[3].Digest)
	w.reg.PutImage(broken, "broken")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			tr := New(w.root)
			tr.Stdout, tr.Stderr = io.Discard, io.Discard
			tag := fmt.Sprint(i)
			if i >= 4 {
				tag = "broken"
			}
			_, err := tr.Do(ctx, api.TransferRequest{Op: "pull", Refs: []string{w.host + "/x:" + tag}})
			if (err == nil) != (i < 4) {
				t.Errorf("%s: %v", tag, err)
			}
		})
	}
	wg.Wait()
	for i := range 4 {
		if _, ok := w.tr.present(fmt.Sprintf("%s/x:%d", w.host, i), image.Platform{}); !ok {
			t.Errorf("image %d is not whole", i)
		}
	}
}

func TestRequests(t *testing.T) {
	w := newWorld(t)
	for _, r := range []api.TransferRequest{{}, {Op: "push"}, {Op: "pull"}, {Op: "pull", Refs: []string{"a", "b"}}, {Op: "pull", Refs: []string{"A"}}, {Op: "pull", Refs: []string{"a"}, Platform: "x/"},
		{Op: "save"}, {Op: "save", Refs: []string{"a"}, Format: "zip"}, {Op: "load", Platform: "/"}} {
		if _, _, _, err := w.do(r); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestPullBase(t *testing.T) {
	w := newWorld(t)
	reply, stdout, _, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{"brig/base"}})
	if errors.Is(err, api.NotFound) {
		t.Skip(err)
	}
	if err != nil || stdout != "docker.io/brig/base:latest\n" || !reply.Fresh {
		t.Fatalf("%q %+v %v", stdout, reply, err)
	}
	if w.file(reply.Images[0].Layers[0].DiffID, "etc/passwd") == "" {
		t.Error("no /etc/passwd")
	}
	if reply, _, _, err = w.do(api.TransferRequest{Op: "pull", Refs: []string{"brig/base"}}); err != nil || reply.Fresh {
		t.Errorf("again: %+v %v", reply, err)
	}
	old := reply.Images[0]
	old.Target.Digest = digest.FromString("older")
	if err := w.tr.stores.Meta.PutImage(old); err != nil {
		t.Fatal(err)
	}
	if reply, _, _, err = w.do(api.TransferRequest{Op: "pull", Refs: []string{"brig/base"}}); err != nil || !reply.Fresh {
		t.Errorf("an older record: %+v %v", reply, err)
	}
	if _, _, _, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{"brig/base:1"}}); !errors.Is(err, api.NotFound) {
		t.Errorf("another tag: %v", err)
	}
}
