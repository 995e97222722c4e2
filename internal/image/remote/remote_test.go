package remote

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/imagetest"
	"brig/internal/image/ref"
	"brig/internal/image/remote/hosts"
)

var ctx = context.Background()

// serve starts a registry on loopback with one image, x:1, and returns its reference. No credentials of the user are seen.
func serve(t *testing.T, wrap func(http.Handler) http.Handler) (*imagetest.Store, ref.Ref, []byte) {
	t.Helper()
	alone(t)
	noise := make([]byte, 300_000)
	rand.Read(noise)
	s := imagetest.New()
	blob := imagetest.Gzip(noise)
	s.PutImage(s.OCI(nil, blob), "1")
	var h http.Handler = s
	if wrap != nil {
		h = wrap(s)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return s, reference(t, strings.TrimPrefix(server.URL, "http://")+"/x:1"), blob
}

// alone hides the user's files.
func alone(t *testing.T) {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	for _, name := range []string{"XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG", "CONTAINERS_REGISTRIES_CONF"} {
		t.Setenv(name, "")
	}
}

func reference(t *testing.T, s string) ref.Ref {
	t.Helper()
	r, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pull resolves the image and reads its layer.
func pull(r ref.Ref, o Options) (*image.Image, []byte, error) {
	repo, err := Open(ctx, r, o)
	if err != nil {
		return nil, nil, err
	}
	d, err := repo.Resolve(ctx)
	if err != nil {
		return nil, nil, err
	}
	img, err := image.Resolve(ctx, repo, d, image.Platform{})
	if err != nil {
		return nil, nil, err
	}
	rc, err := img.Open(ctx, img.Layers[0])
	if err != nil {
		return img, nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	return img, b, err
}

func TestPull(t *testing.T) {
	s, r, blob := serve(t, nil)
	img, got, err := pull(r, Options{})
	if err != nil || string(got) != string(blob) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	repo, err := Open(ctx, r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := repo.Head(ctx); err != nil || d != img.Target.Digest {
		t.Errorf("head: %s, %v", d, err)
	}
	byDigest := r
	byDigest.Tag, byDigest.Digest = "", img.Target.Digest.String()
	if _, _, err := pull(byDigest, Options{}); err != nil {
		t.Errorf("by digest: %v", err)
	}
	// A registry that answers a digest with something else is caught.
	s.Blobs[img.Target.Digest] = []byte(`{"schemaVersion":2}`)
	if _, _, err := pull(byDigest, Options{}); !errors.Is(err, api.Corrupt) {
		t.Errorf("another manifest for a digest: %v", err)
	}
}

func TestMessages(t *testing.T) {
	s, r, _ := serve(t, nil)
	r.Tag = "2"
	_, _, err := pull(r, Options{})
	want := fmt.Sprintf("image %s: not found in registry %s (manifest unknown)", r.Familiar(), r.Domain)
	if !errors.Is(err, api.NotFound) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	for status, kind := range map[int]api.Kind{401: api.Unauthorized, 403: api.Unauthorized, 418: api.Unavailable} {
		s.Hook = func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path == "/v2/" {
				return false
			}
			imagetest.Fail(w, status, "DENIED\x1b[31m", "no \x1b[31mway")
			return true
		}
		_, _, err := pull(r, Options{})
		if !errors.Is(err, kind) || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), r.Familiar()) {
			t.Errorf("%d: %q (%s)", status, err, api.KindOf(err))
		}
	}
	if _, _, err := pull(reference(t, "brig-no-such-host.invalid/x"), Options{}); !errors.Is(err, api.Unavailable) || !strings.Contains(err.Error(), "brig-no-such-host.invalid") || !strings.Contains(err.Error(), "brig load") {
		t.Errorf("no such host: %v", err)
	}
	if _, _, err := pull(reference(t, "127.0.0.1:1/x"), Options{}); !errors.Is(err, api.Unavailable) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("nobody listens: %v", err)
	}
}

// basic asks for user brig and password secret.
func basic(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "brig" || p != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			imagetest.Fail(w, 401, "UNAUTHORIZED", "authentication required")
			return
		}
		h.ServeHTTP(w, r)
	})
}

func TestBasicAuth(t *testing.T) {
	_, r, _ := serve(t, basic)
	if _, _, err := pull(r, Options{}); !errors.Is(err, api.Unauthorized) || !strings.Contains(err.Error(), "pull access denied") {
		t.Errorf("without credentials: %v", err)
	}
	config(t, map[string]any{"auths": map[string]any{r.Domain: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("brig:secret"))}}})
	if _, _, err := pull(r, Options{}); err != nil {
		t.Errorf("with credentials: %v", err)
	}
}

// config writes docker's config file.
func config(t *testing.T, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCredentialHelper(t *testing.T) {
	_, r, _ := serve(t, basic)
	bin := t.TempDir()
	script := "#!/bin/sh\nread host\n[ \"$1 $host\" = \"get " + r.Domain + "\" ] && echo '{\"ServerURL\":\"x\",\"Username\":\"brig\",\"Secret\":\"secret\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-brigtest"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	config(t, map[string]any{"credHelpers": map[string]string{r.Domain: "brigtest"}})
	if _, _, err := pull(r, Options{}); err != nil {
		t.Error(err)
	}
}

// TestTokenAuth: the token server gets the credentials, the registry the token only, and the scope is to pull.
func TestTokenAuth(t *testing.T) {
	var scope atomic.Value
	_, r, _ := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case req.URL.Path == "/token":
				scope.Store(req.URL.Query().Get("scope"))
				if u, p, _ := req.BasicAuth(); u+p != "" && u+p != "brigsecret" {
					w.WriteHeader(401)
					return
				}
				io.WriteString(w, `{"token":"good"}`)
			case req.Header.Get("Authorization") != "Bearer good":
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+req.Host+`/token",service="test",scope="repository:x:pull"`)
				imagetest.Fail(w, 401, "UNAUTHORIZED", "authentication required")
			default:
				h.ServeHTTP(w, req)
			}
		})
	})
	if _, _, err := pull(r, Options{}); err != nil {
		t.Errorf("anonymous: %v", err)
	}
	if scope.Load() != "repository:x:pull" {
		t.Errorf("scope %v", scope.Load())
	}
	config(t, map[string]any{"auths": map[string]any{r.Domain: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("brig:secret"))}}})
	if _, _, err := pull(r, Options{}); err != nil {
		t.Errorf("with credentials: %v", err)
	}
	config(t, map[string]any{"auths": map[string]any{r.Domain: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("brig:wrong"))}}})
	if _, _, err := pull(r, Options{}); !errors.Is(err, api.Unauthorized) {
		t.Errorf("with wrong credentials: %v", err)
	}
}

// TestRedirectDropsCredentials: blobs often lie on another host, which must not see the registry's credentials (CVE-2020-15157).
func TestRedirectDropsCredentials(t *testing.T) {
	var leaked atomic.Bool
	var s *imagetest.Store
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked.Store(leaked.Load() || r.Header.Get("Authorization") != "")
		s.ServeHTTP(w, r)
	}))
	defer other.Close()
	s, r, _ := serve(t, func(h http.Handler) http.Handler {
		return basic(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				http.Redirect(w, req, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+req.URL.Path, 307)
				return
			}
			h.ServeHTTP(w, req)
		}))
	})
	config(t, map[string]any{"auths": map[string]any{r.Domain: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("brig:secret"))}}})
	if _, _, err := pull(r, Options{}); err != nil {
		t.Fatal(err)
	}
	if s.Requests("/blobs/") == 0 {
		t.Fatal("the other host was not asked")
	}
	if leaked.Load() {
		t.Error("another host got the credentials")
	}
}

// TestResume: a layer that breaks off goes on where it stopped, with ranges and without.
func TestResume(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		s, r, blob := serve(t, nil)
		var asked []string
		s.Hook = func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, "/blobs/") || strings.Contains(req.URL.Path, configOf(s)) {
				return false
			}
			asked = append(asked, req.Header.Get("Range"))
			if !ranges {
				req.Header.Del("Range")
			}
			if len(asked) < 3 { // cut after 100000 bytes, then after 100000 more
				limit := 100000
				if !ranges {
					limit *= len(asked)
				}
				s.Serve(&cutter{w, limit}, req)
				return true
			}
			return false
		}
		_, got, err := pull(r, Options{})
		if err != nil || string(got) != string(blob) {
			t.Errorf("ranges %v: %d of %d bytes, %v (asked for %q)", ranges, len(got), len(blob), err, asked)
		}
		if len(asked) != 3 || !strings.HasPrefix(asked[1], "bytes=") {
			t.Errorf("ranges %v: asked for %q", ranges, asked)
		}
	}
}

// TestOpenRange: a part is asked for as such, goes on where it breaks off, and is not made of a whole blob by a registry that knows no ranges.
func TestOpenRange(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		s, r, blob := serve(t, nil)
		var asked []string
		s.Hook = func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, "/blobs/") {
				return false
			}
			asked = append(asked, req.Header.Get("Range"))
			if !ranges {
				req.Header.Del("Range")
			}
			if ranges && len(asked) == 1 {
				s.Serve(&cutter{w, 1000}, req)
				return true
			}
			return false
		}
		repo, err := Open(ctx, r, Options{})
		if err != nil {
			t.Fatal(err)
		}
		d := imagespec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
		rc, err := repo.OpenRange(ctx, d, 500, 20_000)
		if !ranges {
			if !errors.Is(err, api.Unsupported) {
				t.Errorf("without ranges: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(rc)
		rc.Close()
		if err != nil || string(got) != string(blob[500:20_500]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if want := "[bytes=500-20499 bytes=1500-20499]"; fmt.Sprint(asked) != want {
			t.Errorf("asked for %v, want %s", asked, want)
		}
		for _, part := range [][2]int64{{-1, 5}, {0, d.Size + 1}, {d.Size, 1}, {5, -1}} {
			if _, err := repo.OpenRange(ctx, d, part[0], part[1]); !errors.Is(err, api.InvalidArgument) {
				t.Errorf("%v: %v", part, err)
			}
		}
	}
}

func configOf(s *imagetest.Store) string {
	var m imagespec.Manifest
	json.Unmarshal(s.Blobs[s.Tags["1"]], &m)
	return m.Config.Digest.String()
}

// cutter ends the connection after so many bytes of the body.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		c.ResponseWriter.Write(p[:c.left])
		http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// TestTruncated: a layer that always ends early is corrupt, and the message names it, the registry and how far it came.
func TestTruncated(t *testing.T) {
	s, r, _ := serve(t, nil)
	tries := 0
	s.Hook = func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/blobs/") || strings.Contains(req.URL.Path, configOf(s)) {
			return false
		}
		tries++
		req.Header.Del("Range")
		s.Serve(&cutter{w, 1000}, req)
		return true
	}
	_, _, err := pull(r, Options{})
	if !errors.Is(err, api.Corrupt) || !strings.Contains(err.Error(), r.Domain) || !strings.Contains(err.Error(), "1000 of") {
		t.Errorf("%v", err)
	}
	if tries > 1+maxBreaks {
		t.Errorf("asked %d times", tries)
	}
}

func TestWrongLength(t *testing.T) {
	s, r, _ := serve(t, nil)
	for d, b := range s.Blobs {
		if len(b) > 100000 {
			s.Blobs[d] = b[:1000]
		}
	}
	if _, _, err := pull(r, Options{}); !errors.Is(err, api.Corrupt) || !strings.Contains(err.Error(), "announced with 1000 bytes") {
		t.Error(err)
	}
}

// TestRetry: an answer that asks for patience gets it, within bounds.
func TestRetry(t *testing.T) {
	s, r, _ := serve(t, nil)
	for _, c := range []struct {
		status int
		after  string
		times  int
		ok     bool
	}{{503, "", 1, true}, {500, "", 2, true}, {429, "1", 1, true}, {429, "0", 100, false}, {429, "3600", 1, false}, {404, "", 1, false}} {
		left, asked := c.times, 0
		s.Hook = func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, "/manifests/1") {
				return false
			}
			asked++
			if left--; left < 0 {
				return false
			}
			if c.after != "" {
				w.Header().Set("Retry-After", c.after)
			}
			imagetest.Fail(w, c.status, "TOOMANYREQUESTS", "slow down")
			return true
		}
		begin := time.Now()
		_, _, err := pull(r, Options{})
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
		if c.after == "1" && time.Since(begin) < time.Second {
			t.Errorf("%+v: did not wait", c)
		}
		if asked > tries {
			t.Errorf("%+v: asked %d times", c, asked)
		}
	}
	if d := retryAfter("Wed, 21 Oct 2015 07:28:10 GMT", time.Date(2015, 10, 21, 7, 28, 0, 0, time.UTC)); d != 10*time.Second {
		t.Error(d)
	}
}

// TestPlainHTTP: without permission nothing is asked over plain HTTP of a host that is not this machine.
func TestPlainHTTP(t *testing.T) {
	g, err := newGuard(hosts.Endpoint{Host: "192.168.0.1", Schemes: []string{"https"}}, false, patient())
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest("GET", "http://192.168.0.1/v2/", nil)
	if _, err := g.RoundTrip(req); !errors.Is(err, errPlainHTTP) {
		t.Error(err)
	}
	for host, want := range map[string]bool{"localhost": true, "LOCALHOST:5000": true, "127.0.0.1:80": true, "127.9.9.9": true, "[::1]:5000": true, "[::ffff:127.0.0.1]:1": true,
		"localhost.example.org": false, "127.0.0.1.example.org": false, "10.0.0.1:5000": false, "[fe80::1]:5000": false, "": false} {
		if hosts.Loopback(host) != want {
			t.Errorf("loopback(%q) is %v", host, !want)
		}
	}
	if err := (subject{image: reference(t, "r.example.org/x"), place: "registry r.example.org", action: "pull"}).explain(ctx, errPlainHTTP); !errors.Is(err, api.Unavailable) || !strings.Contains(err.Error(), "--tls-verify=false") {
		t.Error(err)
	}
}

// TestTLS: a certificate that cannot be verified is taken from loopback, as by docker; leaving TLS by a redirect is refused.
func TestTLS(t *testing.T) {
	s := imagetest.New()
	s.PutImage(s.OCI(nil, imagetest.Layer("a", "b")), "1")
	server := httptest.NewTLSServer(s)
	defer server.Close()
	alone(t)
	r := reference(t, strings.TrimPrefix(server.URL, "https://")+"/x:1")
	if _, _, err := pull(r, Options{}); err != nil {
		t.Error(err)
	}
	plain := httptest.NewServer(s)
	defer plain.Close()
	s.Hook = func(w http.ResponseWriter, req *http.Request) bool {
		if req.TLS != nil && strings.Contains(req.URL.Path, "/blobs/") {
			http.Redirect(w, req, plain.URL+req.URL.Path, 302)
			return true
		}
		return false
	}
	if _, _, err := pull(r, Options{}); err == nil || !strings.Contains(err.Error(), "redirect from HTTPS") {
		t.Errorf("redirect to plain HTTP: %v", err)
	}
}

func TestCancel(t *testing.T) {
	s, r, _ := serve(t, nil)
	release := make(chan struct{})
	defer close(release)
	s.Hook = func(w http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/manifests/") {
			select {
			case <-release:
			case <-req.Context().Done():
			}
		}
		return false
	}
	repo, err := Open(ctx, r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := repo.Resolve(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if time.Since(begin) > 5*time.Second {
		t.Error("cancelling took", time.Since(begin))
	}
}
