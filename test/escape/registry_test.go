package escape

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// evil is a registry whose answers a test bends. It notes what was asked of it.
type evil struct {
	address string
	bend    func(w http.ResponseWriter, r *http.Request) bool // answers, or says that it did not
	b       *bundle

	mu  sync.Mutex
	log []string // method, path and whether credentials came
}

func serve(t *testing.T, b *bundle, bend func(w http.ResponseWriter, r *http.Request) bool) *evil {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &evil{address: l.Addr().String(), bend: bend, b: b}
	s := &http.Server{Handler: e, ReadHeaderTimeout: time.Minute}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return e
}

func (e *evil) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.log = append(e.log, fmt.Sprintf("%s %s auth=%t", r.Method, r.URL.Path, r.Header.Get("Authorization") != ""))
	e.mu.Unlock()
	if e.bend != nil && e.bend(w, r) || r.URL.Path == "/v2/" {
		return
	}
	_, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/x/"), "/")
	kind := "application/octet-stream"
	if strings.Contains(r.URL.Path, "/manifests/") && e.b != nil {
		kind = e.b.target["mediaType"].(string)
		if id == "1" {
			id = e.b.target["digest"].(string)
		}
	}
	if e.b == nil || e.b.blobs[id] == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Write(e.b.blobs[id])
}

func (e *evil) asked(part string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.log {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

func (p *place) pull(t *testing.T, weak, address string) moved {
	t.Helper()
	return p.move(t, weak, map[string]any{"op": "pull", "refs": []string{address + "/x:1"}, "quiet": true})
}

// forever writes until the other side goes away.
func forever(w io.Writer) {
	chunk := []byte(strings.Repeat(" ", 64<<10))
	for {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func isBlob(r *http.Request) bool     { return strings.Contains(r.URL.Path, "/blobs/") }
func isManifest(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }

// TestHostileRegistries: answers without end, lies about lengths and ranges, redirects to files and to what only this machine can reach.
func TestHostileRegistries(t *testing.T) {
	layer := tarOf(t, asFile("file", strings.Repeat("some text ", 5000)))
	good := newBundle(t).image(nil, nil, layer)
	var packed string // digest of the layer's blob
	for d, b := range good.blobs {
		if len(b) > 2 && b[0] == 0x1f {
			packed = d
		}
	}
	isLayer := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, packed) }
	redirect := func(to string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				w.Header().Set("Location", to)
				w.WriteHeader(http.StatusTemporaryRedirect)
				return true
			}
			return false
		}
	}
	outside := newPlace(t)
	for name, bend := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"a manifest without end": func(w http.ResponseWriter, r *http.Request) bool {
			if isManifest(r) {
				w.Header().Set("Content-Type", ociManifest)
				forever(w)
				return true
			}
			return false
		},
		"a config without end": func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) && !isLayer(r) {
				forever(w)
				return true
			}
			return false
		},
		"a layer without end": func(w http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				forever(w)
				return true
			}
			return false
		},
		"an error without end": func(w http.ResponseWriter, r *http.Request) bool {
			if isManifest(r) {
				w.WriteHeader(http.StatusNotFound)
				forever(w)
				return true
			}
			return false
		},
		"a greeting without end": func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			forever(w)
			return true
		},
		"headers without end": func(w http.ResponseWriter, r *http.Request) bool {
			if !isManifest(r) {
				return false
			}
			c, buf, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return false
			}
			defer c.Close()
			fmt.Fprint(buf, "HTTP/1.1 200 OK\r\n")
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(buf, "X-%d: %s\r\n", i, strings.Repeat("x", 10000)); err != nil {
					return true
				}
			}
		},
		"a token without end": func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				forever(w)
				return true
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
		"a realm that is a file": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Bearer realm="file:///etc/passwd",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
		"a layer cut short": func(w http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				w.Header().Set("Content-Length", fmt.Sprint(len(good.blobs[packed])))
				w.Write(good.blobs[packed][:50])
				panic(http.ErrAbortHandler)
			}
			return false
		},
		"a range that is another": func(w http.ResponseWriter, r *http.Request) bool {
			if !isLayer(r) {
				return false
			}
			b := good.blobs[packed]
			if r.Header.Get("Range") == "" {
				w.Header().Set("Content-Length", fmt.Sprint(len(b)))
				w.Write(b[:50])
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(b)-51, len(b)))
			w.Header().Set("Content-Length", fmt.Sprint(len(b)-50))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(b[:len(b)-50])
			return true
		},
		"a redirect to a file":              redirect("file://" + filepath.Join(outside.outside, "file")),
		"a redirect to the machine's cloud": redirect("http://169.254.169.254/latest/meta-data/"),
		"a redirect to a link-local one":    redirect("http://[fe80::1%25lo]/x"),
		"a redirect to itself":              redirect(""),
		"a redirect to nowhere":             redirect("http://\x7f/"),
	} {
		e := serve(t, good, bend)
		p := newPlace(t)
		m := p.pull(t, "", e.address)
		m.sound(t, name)
		if m.code == 0 {
			t.Errorf("%s: it was taken", name)
		}
		if strings.Contains(m.err, "untouched") || strings.Contains(m.err, "root:") {
			t.Errorf("%s: what was read is told: %s", name, m)
		}
		t.Logf("%s: %s", name, m)
	}
	if m := newPlace(t).pull(t, "", serve(t, good, nil).address); m.code != 0 {
		t.Errorf("an honest registry: %s", m)
	}
}

// TestDigestsInAddresses: no request is made of a digest that is none (2024-3727).
func TestDigestsInAddresses(t *testing.T) {
	layer := tarOf(t, asFile("file", "x"))
	for _, bad := range []string{"sha256:../../../../evil", "sha256:" + strings.Repeat("A", 64), "../evil", "sha256:evil?x=", "md5:" + strings.Repeat("a", 32)} {
		make := func() *evil {
			return serve(t, newBundle(t).image(nil, func(m map[string]any) { m["layers"].([]any)[0].(map[string]any)["digest"] = bad }, layer), nil)
		}
		e := make()
		m := newPlace(t).pull(t, "", e.address)
		m.sound(t, bad)
		if m.code == 0 || e.asked("/blobs/") > 0 {
			t.Errorf("%s: %s, asked for %q", bad, m, e.log)
		}
		if !strings.Contains(bad, "evil") || strings.HasPrefix(bad, "..") {
			continue
		}
		if e = make(); newPlace(t).pull(t, "digests", e.address).code == 0 || e.asked("evil") == 0 {
			t.Errorf("%s without \"digests\" shows nothing: asked for %q", bad, e.log)
		}
	}
}

// TestForeignLayers: the addresses in a manifest are not asked, least of all with credentials; nor does a redirect take them along (2020-15157).
func TestForeignLayers(t *testing.T) {
	layer := tarOf(t, asFile("file", "x"))
	other := serve(t, newBundle(t).image(nil, nil, layer), nil)
	for _, mediaType := range []string{"", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"} {
		b := newBundle(t)
		b.image(nil, func(m map[string]any) {
			l := m["layers"].([]any)[0].(map[string]any)
			l["urls"] = []string{"http://user:secret@" + other.address + "/v2/x/blobs/" + l["digest"].(string), "file:///etc/passwd"}
			if mediaType != "" {
				l["mediaType"] = mediaType
			}
			delete(b.blobs, l["digest"].(string))
		}, layer)
		m := newPlace(t).pull(t, "", serve(t, b, nil).address)
		m.sound(t, "foreign layer "+mediaType)
		if m.code == 0 || strings.Contains(m.err, "secret") {
			t.Errorf("%s: %s", mediaType, m)
		}
	}
	if len(other.log) > 0 {
		t.Errorf("it was asked: %q", other.log)
	}
	there := strings.Replace(other.address, "127.0.0.1", "localhost", 1)
	e := serve(t, other.b, nil)
	e.bend = func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, ok := r.BasicAuth(); !ok || u+p != "brigsecret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if isBlob(r) {
			http.Redirect(w, r, "http://"+there+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	p := newPlace(t)
	auth := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, e.address, base64.StdEncoding.EncodeToString([]byte("brig:secret")))
	if err := os.WriteFile(filepath.Join(p.top, "config.json"), []byte(auth), 0o600); err != nil {
		t.Fatal(err)
	}
	p.before = p.look(t)
	if m := p.pull(t, "", e.address); m.code != 0 || other.asked("/blobs/") == 0 || other.asked("auth=true") > 0 {
		t.Errorf("%s, asked of the other: %q", m, other.log)
	}
}
