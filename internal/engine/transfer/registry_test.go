package transfer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/image/imagetest"
)

// configure writes a file below the user's configuration.
func (w *world) configure(name, text string) {
	w.Helper()
	path := filepath.Join(os.Getenv("HOME"), ".config", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.Fatal(err)
	}
}

// second starts one more registry.
func second(t *testing.T) (*imagetest.Store, string) {
	s := imagetest.New()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, strings.TrimPrefix(server.URL, "http://")
}

// TestPullCorruptMirror: a mirror that sends other bytes of the right length for a layer, a config or a manifest is found out, named and
// left, and the image comes from the registry.
func TestPullCorruptMirror(t *testing.T) {
	for what := range 3 {
		w := newWorld(t)
		p := w.reg.OCI(imagetest.Gzip, layers(3, 30_000)...)
		target := w.reg.PutImage(p, "1")
		mirror, host := second(t)
		for d, b := range w.reg.Blobs {
			mirror.Blobs[d] = bytes.Clone(b)
		}
		for d, v := range w.reg.Types {
			mirror.Types[d] = v
		}
		index := w.reg.Index("1", target)
		mirror.Put(index.MediaType, w.reg.Blobs[index.Digest])
		mirror.Tags["1"] = index.Digest
		for d, b := range mirror.Blobs {
			if d == []digest.Digest{p.Manifest.Layers[1].Digest, p.Manifest.Config.Digest, target.Digest}[what] {
				b[len(b)/2] ^= 1
			}
		}
		w.configure("containers/registries.conf", fmt.Sprintf("[[registry]]\nlocation=%q\n[[registry.mirror]]\nlocation=%q\n", w.host, host))
		_, _, stderr, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{w.host + "/x:1"}})
		if err != nil || !strings.Contains(stderr, "WARNING: mirror "+host+" of "+w.host+" is passed over") {
			t.Errorf("%d: %v\n%s", what, err, stderr)
		}
		if mirror.Requests("") == 0 || w.reg.Requests("/blobs/") == 0 {
			t.Errorf("%d: one of the two was not asked", what)
		}
	}
}

// TestShortNames: docker.io, until registries.conf has a list; then the first that has it, under its own name, which the short one finds again.
func TestShortNames(t *testing.T) {
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(nil, imagetest.Layer("a", "1")), "1")
	empty, host := second(t)
	empty.Hook = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v2/" {
			http.NotFound(rw, r)
		}
		return r.URL.Path != "/v2/"
	}
	w.configure("containers/registries.conf", fmt.Sprintf("unqualified-search-registries=[%q,%q]\n[aliases]\nnick=%q\n", host, w.host, w.host+"/by/alias"))
	reply, stdout, stderr, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{"team/foo:1"}})
	if err != nil || stdout != w.host+"/team/foo:1\n" || !strings.Contains(stderr, "not found in registry "+host) || reply.Images[0].Short != "team/foo:1" {
		t.Fatalf("%+v %q %q %v", reply, stdout, stderr, err)
	}
	if reply, _, _, err = w.do(api.TransferRequest{Op: "pull", Refs: []string{"nick:1"}}); err != nil || reply.Images[0].Name != w.host+"/by/alias:1" || reply.Images[0].Short != "nick:1" {
		t.Errorf("%+v %v", reply, err)
	}
	// The short name moves with the list.
	w.configure("containers/registries.conf", fmt.Sprintf("unqualified-search-registries=[%q]\n", strings.Replace(w.host, "127.0.0.1", "localhost", 1)))
	if reply, _, _, err = w.do(api.TransferRequest{Op: "pull", Refs: []string{"team/foo:1"}}); err != nil {
		t.Fatal(err)
	}
	all, err := w.tr.stores.Meta.Images()
	if err != nil {
		t.Fatal(err)
	}
	var short []string
	for _, img := range all {
		if img.Short != "" {
			short = append(short, img.Name+" "+img.Short)
		}
	}
	if want := []string{w.host + "/by/alias:1 nick:1", reply.Images[0].Name + " team/foo:1"}; strings.Join(short, ",") != strings.Join(want, ",") {
		t.Errorf("%q, want %q", short, want)
	}
	// The base image is Brig's own, whatever the list says.
	if reply, _, _, err = w.do(api.TransferRequest{Op: "pull", Refs: []string{"brig/base"}}); err != nil || reply.Images[0].Name != "docker.io/brig/base:latest" {
		t.Errorf("%+v %v", reply, err)
	}
	w.configure("containers/registries.conf", "[[")
	if _, err := w.pull("x:1"); !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), "registries.conf") {
		t.Error(err)
	}
}

// TestLoginLogout: what login keeps a pull uses, and what is refused is not kept.
func TestLoginLogout(t *testing.T) {
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(nil, imagetest.Layer("a", "1")), "1")
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:pass word"))
	w.reg.Hook = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == want {
			return false
		}
		rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		imagetest.Fail(rw, 401, "UNAUTHORIZED", "who are you")
		return true
	}
	login := func(user, secret string) (*api.Login, error) {
		t.Helper()
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			out.WriteString(secret)
			out.Close()
		}()
		defer in.Close()
		w.tr.Stdin = in
		reply, _, _, err := w.do(api.TransferRequest{Op: "login", Server: "http://" + w.host + "/v2/", User: user})
		return reply.Login, err
	}
	file := filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json")
	if l, err := login("", ""); err != nil || l.User != "" {
		t.Errorf("nobody: %+v %v", l, err)
	}
	for _, c := range [][2]string{{"me", "wrong"}, {"me", ""}, {"a:b", "x"}, {"me", strings.Repeat("x", maxPassword+1)}} {
		if l, err := login(c[0], c[1]); err == nil {
			t.Errorf("%.20q: %+v", c, l)
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Error("a login that failed left a file")
	}
	if l, err := login("me", "pass word"); err != nil || l.File != file || l.Helper != "" || l.Server != w.host {
		t.Errorf("%+v %v", l, err)
	}
	if _, err := w.pull("x:1"); err != nil {
		t.Error(err)
	}
	if l, err := login("", ""); err != nil || l.User != "me" || l.Refused != "" {
		t.Errorf("kept: %+v %v", l, err)
	}
	want = "nothing"
	if l, err := login("", ""); err != nil || l.User != "me" || !strings.Contains(l.Refused, "401 Unauthorized") {
		t.Errorf("kept and refused: %+v %v", l, err)
	}
	reply, _, _, err := w.do(api.TransferRequest{Op: "logout", Server: w.host})
	if err != nil || reply.Login.Server != w.host {
		t.Error(reply, err)
	}
	var left struct{ Auths map[string]any }
	b, _ := os.ReadFile(file)
	if json.Unmarshal(b, &left) != nil || len(left.Auths) != 0 {
		t.Errorf("%s", b)
	}
	for _, r := range []api.TransferRequest{{Op: "login", Server: "a b"}, {Op: "logout", Server: "a b"}, {Op: "search", Term: "a b:80/x"}, {Op: "search", Term: "x", Limit: 101}, {Op: "search", Term: ""}} {
		if _, _, _, err := w.do(r); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}
