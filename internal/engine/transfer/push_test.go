package transfer

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image/imagetest"
)

// writable is a registry that can be pushed to.
func (w *world) writable() *imagetest.Registry {
	w.Helper()
	g, server := imagetest.NewRegistry()
	w.Cleanup(server.Close)
	return g
}

// tag gives a record of the store one more name.
func (w *world) tag(img api.Image, name string) api.Image {
	w.Helper()
	img.Name = name
	if err := w.tr.put(img); err != nil {
		w.Fatal(err)
	}
	return img
}

// size is a blob's length.
func (w *world) size(d digest.Digest) int64 {
	w.Helper()
	n, err := w.tr.stores.Content.Size(d)
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// spoil changes a byte of a blob in the store.
func (w *world) spoil(d digest.Digest) {
	w.Helper()
	path := filepath.Join(w.root, "content/blobs/sha256", d.Encoded())
	b, err := os.ReadFile(path)
	if err != nil {
		w.Fatal(err)
	}
	b[10] ^= 1
	os.Chmod(path, 0o600)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.Fatal(err)
	}
}

func (w *world) push(name string) (api.TransferReply, string, error) {
	w.Helper()
	reply, _, stderr, err := w.do(api.TransferRequest{Op: "push", Refs: []string{name}})
	return reply, stderr, err
}

// TestPush: the digest stays, what is there is not sent again, and a changed layer is all that travels.
func TestPush(t *testing.T) {
	w, debian, other := pulled(t)
	g := w.writable()
	name := g.Host + "/team/debian:12"
	w.tag(debian, name)
	reply, stderr, err := w.push(name)
	if err != nil {
		t.Fatal(err)
	}
	short := debian.Layers[0].Blob.Digest.Encoded()[:12]
	for _, line := range []string{"The push refers to repository [" + g.Host + "/team/debian]\n", short + ": Pushed\n"} {
		if !strings.Contains(stderr, line) {
			t.Errorf("%q is not in %q", line, stderr)
		}
	}
	if want := (api.Sent{Name: "12", Digest: debian.Manifest.Digest.String(), Size: debian.Manifest.Size}); len(reply.Sent) != 1 || reply.Sent[0] != want {
		t.Errorf("%+v", reply)
	}
	repo := g.Repo("team/debian")
	if repo.Tags["12"] != debian.Target.Digest || len(repo.Blobs) != 4 {
		t.Errorf("%+v", repo.Tags)
	}
	// Again: no upload is begun.
	g.Forget()
	if _, stderr, err = w.push(name); err != nil || g.Requests("POST") != 0 || g.Taken() != 0 || !strings.Contains(stderr, short+": Layer already exists\n") {
		t.Errorf("again: %v, %d uploads, %q", err, g.Requests("POST"), stderr)
	}
	// Another image with the same bottom layer, packed otherwise: both layers are new. Then one that shares a blob.
	next := w.reg.OCI(imagetest.Gzip, imagetest.Layer("etc/debian_version", "12"), imagetest.Layer("a", "changed"))
	w.reg.PutImage(next, "next")
	changed, err := w.pull("debian:next")
	if err != nil {
		t.Fatal(err)
	}
	w.tag(changed.Images[0], g.Host+"/team/debian:13")
	g.Forget()
	if _, _, err := w.push(g.Host + "/team/debian:13"); err != nil {
		t.Fatal(err)
	}
	if want := next.Manifest.Layers[1].Size + next.Manifest.Config.Size; g.Requests("POST") != 2 || g.Taken() != want {
		t.Errorf("a changed top layer: %d uploads, %d bytes, want 2 and %d", g.Requests("POST"), g.Taken(), want)
	}
	_ = other
}

// TestPushMounts: a layer that another repository of the registry has is not sent.
func TestPushMounts(t *testing.T) {
	w, debian, _ := pulled(t)
	g := w.writable()
	w.tag(debian, g.Host+"/base:1")
	if _, _, err := w.push(g.Host + "/base:1"); err != nil {
		t.Fatal(err)
	}
	w.tag(debian, g.Host+"/team/app:2")
	g.Forget()
	_, stderr, err := w.push(g.Host + "/team/app:2")
	if err != nil || g.Taken() != w.size(digest.Digest(debian.ID)) || !strings.Contains(stderr, debian.Layers[1].Blob.Digest.Encoded()[:12]+": Mounted from base\n") || g.Requests("from=base") != 2 {
		t.Errorf("%v, %d bytes, %q", err, g.Taken(), stderr)
	}
	// The registry knows nothing of that repository: the layers are sent after all, and no upload is left behind.
	lost := w.writable()
	w.tag(debian, lost.Host+"/base:1")
	w.tag(debian, lost.Host+"/team/app:2")
	if _, stderr, err := w.push(lost.Host + "/team/app:2"); err != nil || strings.Contains(stderr, "Mounted") || lost.Repo("team/app").Tags["2"] != debian.Target.Digest {
		t.Errorf("%v, %q", err, stderr)
	}
	// All tags: a layer is asked for once.
	w.tag(debian, g.Host+"/team/app:3")
	w.tag(debian, g.Host+"/team/app:4")
	fresh := g.Host + "/all"
	for i := range 3 {
		w.tag(debian, fmt.Sprintf("%s:%d", fresh, i))
	}
	g.Forget()
	reply, _, _, err := w.do(api.TransferRequest{Op: "push", Refs: []string{fresh}, AllTags: true, Quiet: true})
	if err != nil || len(reply.Sent) != 3 || g.Requests("HEAD /v2/all/blobs/") != 3 || len(g.Repo("all").Tags) != 3 {
		t.Errorf("%v %+v %d", err, reply, g.Requests("HEAD /v2/all/blobs/"))
	}
}

func TestPushRefuses(t *testing.T) {
	w, debian, _ := pulled(t)
	g := w.writable()
	name := g.Host + "/x:1"
	w.tag(debian, name)
	for _, c := range []struct {
		r    api.TransferRequest
		kind api.Kind
		word string
	}{
		{api.TransferRequest{Refs: []string{g.Host + "/nosuch:1"}}, api.NotFound, "does not exist locally"},
		{api.TransferRequest{Refs: []string{g.Host + "/nosuch"}, AllTags: true}, api.NotFound, "does not exist locally"},
		{api.TransferRequest{Refs: []string{g.Host + "/x@" + debian.ID}}, api.InvalidArgument, "digest reference"},
		{api.TransferRequest{Refs: []string{"UPPER"}}, api.InvalidArgument, "lowercase"},
		{api.TransferRequest{Refs: []string{"brig/base"}}, api.InvalidArgument, "brig tag"},
		{api.TransferRequest{Refs: []string{name}, Platform: "linux/s390x"}, api.NotFound, "linux/s390x"},
		{api.TransferRequest{Refs: []string{name}, Platform: "x/"}, api.InvalidArgument, "platform"},
		{api.TransferRequest{}, api.InvalidArgument, "want one"},
	} {
		c.r.Op = "push"
		if _, _, _, err := w.do(c.r); err == nil || api.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%+v: %v (%s)", c.r, err, api.KindOf(err))
		}
	}
	for code, c := range map[int]struct {
		kind api.Kind
		word string
	}{http.StatusForbidden: {api.Unauthorized, "push access denied"}, http.StatusMethodNotAllowed: {api.Unsupported, "cannot be written"}, http.StatusRequestEntityTooLarge: {api.Exhausted, "size"}} {
		g.Hook = func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost {
				return false
			}
			imagetest.Fail(rw, code, "NO", "no \x1b[31m")
			return true
		}
		if _, _, err := w.push(name); api.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.word) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%d: %v (%s)", code, err, api.KindOf(err))
		}
	}
}

// TestPushIndex: of an index the one manifest that the store has is pushed, with a word about it; a whole index as it is.
func TestPushIndex(t *testing.T) {
	w := newWorld(t)
	var all []imagespec.Descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		p := w.reg.OCI(imagetest.Gzip, imagetest.Layer("arch", arch))
		p.Config.Architecture = arch
		d := w.reg.PutImage(p, "")
		d.Platform = &imagespec.Platform{OS: "linux", Architecture: arch}
		all = append(all, d)
	}
	w.reg.Index("both", all...)
	one := w.reg.Index("one", all[0])
	g := w.writable()
	for tag, want := range map[string]digest.Digest{"both": all[0].Digest, "one": one.Digest} {
		reply, _, _, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{w.host + "/x:" + tag}, Platform: "linux/amd64"})
		if err != nil {
			t.Fatal(err)
		}
		name := g.Host + "/x:" + tag
		w.tag(reply.Images[0], name)
		_, stderr, err := w.push(name)
		if err != nil || g.Repo("x").Tags[tag] != want || strings.Contains(stderr, "only the available single-platform") != (tag == "both") {
			t.Errorf("%s: %v %s %q", tag, err, g.Repo("x").Tags[tag], stderr)
		}
	}
	if _, _, _, err := w.do(api.TransferRequest{Op: "push", Refs: []string{g.Host + "/x:one"}, Platform: "linux/amd64"}); err != nil || g.Repo("x").Tags["one"] != all[0].Digest {
		t.Errorf("--platform: %v %s", err, g.Repo("x").Tags["one"])
	}
}

// TestPushBreaks: a connection that is cut in the middle of a layer, twice. The upload goes on where the registry has it, or begins anew
// where the registry has forgotten it.
func TestPushBreaks(t *testing.T) {
	const size = 3 << 20
	for _, forgetful := range []bool{false, true} {
		w := newWorld(t)
		w.reg.PutImage(w.reg.OCI(nil, layers(1, size)...), "1")
		reply, err := w.pull("x:1")
		if err != nil {
			t.Fatal(err)
		}
		g := w.writable()
		g.NoResume = forgetful
		var breaks atomic.Int32
		g.Hook = func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPatch && r.ContentLength > 1<<20 && breaks.Add(1) <= 2 {
				r.Body = &breaking{r.Body, 1 << 20}
				g.Serve(rw, r)
				panic(http.ErrAbortHandler)
			}
			return false
		}
		name := g.Host + "/x:1"
		w.tag(reply.Images[0], name)
		if _, _, err := w.push(name); err != nil {
			t.Fatal(err)
		}
		if g.Repo("x").Tags["1"] != reply.Images[0].Target.Digest {
			t.Error("not pushed")
		}
		if again := g.Taken() > size+size/4; again != forgetful {
			t.Errorf("forgetful %v: %d bytes of %d were sent", forgetful, g.Taken(), size)
		}
	}
}

// breaking ends a body after n bytes.
type breaking struct {
	r interface {
		Read([]byte) (int, error)
		Close() error
	}
	n int
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.n <= 0 {
		return 0, errors.New("cut")
	}
	n, err := b.r.Read(p[:min(len(p), b.n)])
	b.n -= n
	return n, err
}

func (b *breaking) Close() error { return b.r.Close() }

// TestPushSpoilt: a blob that the disk has spoilt is told as such, and the registry gets no manifest.
func TestPushSpoilt(t *testing.T) {
	w, debian, _ := pulled(t)
	g := w.writable()
	name := g.Host + "/x:1"
	w.tag(debian, name)
	w.spoil(debian.Layers[1].Blob.Digest)
	if _, _, err := w.push(name); !errors.Is(err, api.Corrupt) || !strings.Contains(err.Error(), debian.Layers[1].Blob.Digest.String()) {
		t.Errorf("%v", err)
	}
	if len(g.Repo("x").Manifests) > 0 {
		t.Error("a manifest was pushed")
	}
}
