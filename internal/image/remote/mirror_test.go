package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image/imagetest"
)

// write puts a file below the user's configuration.
func write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(os.Getenv("HOME"), ".config", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// mirrored is a registry and a mirror of it, and what was said of the mirror.
type mirrored struct {
	t           *testing.T
	registry    *imagetest.Store
	mirror      *imagetest.Store
	host, other string
	blob        []byte
	mu          sync.Mutex
	said        []string
	options     Options
}

func newMirrored(t *testing.T) *mirrored {
	m := &mirrored{t: t}
	s, r, blob := serve(t, nil)
	m.registry, m.host, m.blob = s, r.Domain, blob
	m.mirror = imagetest.New()
	for d, b := range s.Blobs {
		m.mirror.Blobs[d] = bytes.Clone(b)
	}
	for d, v := range s.Types {
		m.mirror.Types[d] = v
	}
	for k, v := range s.Tags {
		m.mirror.Tags[k] = v
	}
	server := httptest.NewServer(m.mirror)
	t.Cleanup(server.Close)
	m.other = strings.TrimPrefix(server.URL, "http://")
	m.options = Options{hasty: &patience{dial: time.Second, header: 300 * time.Millisecond, stall: 300 * time.Millisecond, least: 1 << 10, tries: 2}, Warn: func(f string, args ...any) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.said = append(m.said, fmt.Sprintf(f, args...))
	}}
	write(t, "containers/registries.conf", fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n", m.host, m.other))
	return m
}

func (m *mirrored) pull(name string) error {
	m.t.Helper()
	_, got, err := pull(reference(m.t, m.host+"/"+name), m.options)
	if err == nil && !bytes.Equal(got, m.blob) {
		m.t.Errorf("%d other bytes", len(got))
	}
	return err
}

func TestMirror(t *testing.T) {
	m := newMirrored(t)
	if err := m.pull("x:1"); err != nil || len(m.said) > 0 {
		t.Fatal(err, m.said)
	}
	if n := m.registry.Requests("/x/"); n != 0 {
		t.Errorf("the registry was asked %d times", n)
	}
	repo, err := Open(ctx, reference(t, m.host+"/x:1"), m.options)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Resolve(ctx); err != nil || repo.Where() != "mirror "+m.other+" of "+m.host {
		t.Error(repo.Where(), err)
	}
	// What is written goes to the registry.
	if repo, err = Open(ctx, reference(t, m.host+"/x:1"), Options{Actions: []string{"pull", "push"}}); err != nil || len(repo.places) != 1 || repo.places[0].at.Host != m.host {
		t.Errorf("%+v %v", repo, err)
	}
}

// TestMirrorFails: whatever is wrong with a mirror, the registry steps in, and the user is told which mirror and why; that a mirror lacks
// something is not worth a word.
func TestMirrorFails(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	hang := func(req *http.Request) {
		select {
		case <-release:
		case <-req.Context().Done():
		}
	}
	for name, c := range map[string]struct {
		hook func(m *mirrored, w http.ResponseWriter, req *http.Request) bool
		word string
	}{
		"down":      {nil, "refused"},
		"no answer": {func(_ *mirrored, _ http.ResponseWriter, r *http.Request) bool { hang(r); return true }, "timeout"},
		"404":       {func(_ *mirrored, w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true }, ""},
		"500":       {func(_ *mirrored, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true }, "500"},
		"429":       {func(_ *mirrored, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(429); return true }, "limits the rate"},
		"403":       {func(_ *mirrored, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(403); return true }, "access denied"},
		"no blobs":  {func(_ *mirrored, w http.ResponseWriter, r *http.Request) bool { return blobs(r) && notFound(w, r) }, ""},
		"a web page": {func(_ *mirrored, w http.ResponseWriter, _ *http.Request) bool {
			io.WriteString(w, "<html>")
			return true
		}, ""},
		"short": {func(m *mirrored, w http.ResponseWriter, r *http.Request) bool {
			if !blobs(r) {
				return false
			}
			m.mirror.Serve(&cutter{w, 1000}, r)
			return true
		}, "cut short"},
		"stalls": {func(m *mirrored, w http.ResponseWriter, r *http.Request) bool {
			if !blobs(r) || len(m.mirror.Blobs[digest.Digest(filepath.Base(r.URL.Path))]) < 100_000 {
				return false
			}
			b := m.mirror.Blobs[digest.Digest(filepath.Base(r.URL.Path))]
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			w.Write(b[:50_000])
			http.NewResponseController(w).Flush()
			hang(r)
			return true
		}, "hardly any"},
		"trickles": {func(m *mirrored, w http.ResponseWriter, r *http.Request) bool {
			b := m.mirror.Blobs[digest.Digest(filepath.Base(r.URL.Path))]
			if !blobs(r) || len(b) < 100_000 {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			for i := range b {
				if _, err := w.Write(b[i : i+1]); err != nil || r.Context().Err() != nil {
					break
				}
				http.NewResponseController(w).Flush()
				time.Sleep(20 * time.Millisecond)
			}
			return true
		}, "hardly any"},
		"wrong length": {func(m *mirrored, w http.ResponseWriter, r *http.Request) bool {
			if blobs(r) {
				w.Write(make([]byte, 1234))
			}
			return blobs(r)
		}, "announced"},
		"another range": {func(m *mirrored, w http.ResponseWriter, r *http.Request) bool {
			if !blobs(r) {
				return false
			}
			if r.Header.Get("Range") == "" {
				m.mirror.Serve(&cutter{w, 1000}, r)
				return true
			}
			w.Header().Set("Content-Range", "bytes 0-10/11")
			w.WriteHeader(206)
			return true
		}, "sends others"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMirrored(t)
			if c.hook == nil {
				write(t, "containers/registries.conf", fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = \"127.0.0.1:1\"\n", m.host))
				m.other = "127.0.0.1:1"
			} else {
				m.mirror.Hook = func(w http.ResponseWriter, r *http.Request) bool { return c.hook(m, w, r) }
			}
			tag := "x:1"
			if name == "a web page" { // by a tag it cannot be told from a manifest before it is looked into
				tag = "x@" + m.registry.Tags["1"].String()
			}
			begin := time.Now()
			err := m.pull(tag)
			said := strings.Join(m.said, "\n")
			if err != nil {
				t.Fatal(err)
			}
			if c.word != "" && (!strings.Contains(said, c.word) || !strings.Contains(said, "mirror "+m.other+" of "+m.host)) || c.word == "" && name != "a web page" && said != "" {
				t.Errorf("said %q", said)
			}
			if len(m.said) > 1 {
				t.Errorf("said it %d times: %s", len(m.said), said)
			}
			if d := time.Since(begin); d > 10*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

func blobs(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }

func notFound(w http.ResponseWriter, r *http.Request) bool {
	http.NotFound(w, r)
	return true
}

// TestMirrorAndRegistryFail: the registry's failure is the one that is told.
func TestMirrorAndRegistryFail(t *testing.T) {
	m := newMirrored(t)
	m.mirror.Hook = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true }
	err := m.pull("x:2")
	if !errors.Is(err, api.NotFound) || !strings.Contains(err.Error(), "registry "+m.host) || len(m.said) != 1 {
		t.Error(err, m.said)
	}
}

// TestDistrust: a mirror whose bytes have another digest is left out when the reader, who checks, says so.
func TestDistrust(t *testing.T) {
	m := newMirrored(t)
	var bad []byte
	for d, b := range m.mirror.Blobs {
		if len(b) > 100_000 {
			bad = bytes.Clone(b)
			bad[len(bad)/2] ^= 1
			m.mirror.Blobs[d] = bad
		}
	}
	repo, err := Open(ctx, reference(t, m.host+"/x:1"), m.options)
	if err != nil {
		t.Fatal(err)
	}
	desc := imagespec.Descriptor{Digest: digest.FromBytes(m.blob), Size: int64(len(m.blob))}
	read := func() []byte {
		rc, err := repo.Open(ctx, desc)
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		b, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if repo.Distrust(api.Corrupt) {
		t.Error("distrust before anything came")
	}
	if !bytes.Equal(read(), bad) {
		t.Error("not from the mirror")
	}
	if !repo.Distrust(api.Errorf(api.Corrupt, "digest")) || !bytes.Equal(read(), m.blob) || repo.Distrust(api.Corrupt) || len(m.said) != 1 {
		t.Error("the mirror is still trusted", m.said)
	}
}

// TestHostsToml: capabilities, order, namespace, path and headers of containerd's file.
func TestHostsToml(t *testing.T) {
	m := newMirrored(t)
	os.Remove(filepath.Join(os.Getenv("HOME"), ".config/containers/registries.conf"))
	var asked atomic.Value
	prefixed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.RawQuery + " " + r.Header.Get("X-Brig"))
		path, ok := strings.CutPrefix(r.URL.Path, "/proxy/hub")
		if !ok {
			http.NotFound(w, r)
			return
		}
		r.URL.Path = "/v2" + path
		m.mirror.ServeHTTP(w, r)
	}))
	defer prefixed.Close()
	dir := "containerd/certs.d/" + strings.Replace(m.host, ":", "_", 1) + "_/hosts.toml"
	write(t, dir, fmt.Sprintf("[host.\"http://127.0.0.1:1\"]\n[host.%q]\ncapabilities=[\"pull\"]\noverride_path=true\n[host.%q.header]\nX-Brig=\"yes\"\n[host.\"http://127.0.0.1:2\"]\n",
		prefixed.URL+"/proxy/hub", prefixed.URL+"/proxy/hub"))
	if err := m.pull("x:1"); err != nil {
		t.Fatal(err)
	}
	if got := asked.Load(); got != "ns="+strings.Replace(m.host, ":", "%3A", 1)+" yes" {
		t.Errorf("asked with %v", got)
	}
	if m.registry.Requests("/manifests/1") == 0 || m.registry.Requests("/blobs/") != 0 {
		t.Error("a mirror that may only be pulled from was asked for a tag, or was not asked for content")
	}
	if len(m.said) != 2 { // two that are down
		t.Error(m.said)
	}
	// A server that is elsewhere, and the file for registries without one.
	os.RemoveAll(filepath.Join(os.Getenv("HOME"), ".config/containerd"))
	write(t, "containerd/certs.d/_default/hosts.toml", fmt.Sprintf("server = %q\n", "http://"+m.other))
	if _, _, err := pull(reference(t, "nowhere.example.com/x:1"), Options{}); err != nil {
		t.Error(err)
	}
}

// TestCuts: a connection that breaks at random bytes, with ranges and without, never changes what is read.
func TestCuts(t *testing.T) {
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s, r, blob := serve(t, nil)
		var mu sync.Mutex
		s.Hook = func(w http.ResponseWriter, req *http.Request) bool {
			if !blobs(req) {
				return false
			}
			mu.Lock()
			limit, ranges := 1+rnd.IntN(len(blob)), rnd.IntN(3) > 0
			mu.Unlock()
			if !ranges {
				req.Header.Del("Range")
			}
			s.Serve(&cutter{w, limit}, req)
			return true
		}
		repo, err := Open(ctx, r, Options{})
		if err != nil {
			t.Fatal(err)
		}
		offset := rnd.Int64N(int64(len(blob)))
		rc, err := repo.OpenAt(ctx, imagespec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}, offset)
		if err != nil {
			if !errors.Is(err, api.Corrupt) { // cut four times in a row before the first byte that was wanted
				t.Errorf("seed %d: %v", seed, err)
			}
			continue
		}
		b, err := io.ReadAll(rc)
		rc.Close()
		if err == nil && sha256.Sum256(b) != sha256.Sum256(blob[offset:]) || err != nil && !bytes.HasPrefix(blob[offset:], b) {
			t.Errorf("seed %d: %d bytes from %d on are not the blob's (%v)", seed, len(b), offset, err)
		}
	}
}

// TestCancelledIsNoFailure: a read that is cancelled, with whatever cause, says nothing of the mirror.
func TestCancelledIsNoFailure(t *testing.T) {
	m := newMirrored(t)
	repo, err := Open(ctx, reference(t, m.host+"/x:1"), m.options)
	if err != nil {
		t.Fatal(err)
	}
	c, cancel := context.WithCancelCause(ctx)
	cause := api.Errorf(api.Corrupt, "another layer")
	m.mirror.Hook = func(_ http.ResponseWriter, req *http.Request) bool {
		if blobs(req) {
			cancel(cause)
			<-req.Context().Done()
		}
		return blobs(req)
	}
	if _, err := repo.Open(c, imagespec.Descriptor{Digest: digest.FromBytes(m.blob), Size: int64(len(m.blob))}); !errors.Is(err, api.Corrupt) {
		t.Error(err)
	}
	if !repo.places[0].usable() || len(m.said) > 0 {
		t.Error("the mirror was given up", m.said)
	}
}

func TestOpenAt(t *testing.T) {
	s, r, blob := serve(t, nil)
	desc := imagespec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	repo, err := Open(ctx, r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ranges := range []bool{true, false} {
		s.Hook = func(_ http.ResponseWriter, req *http.Request) bool {
			if !ranges {
				req.Header.Del("Range")
			}
			return false
		}
		for _, offset := range []int64{0, 1, 100_000, desc.Size - 1, desc.Size} {
			rc, err := repo.OpenAt(ctx, desc, offset)
			if err != nil {
				t.Fatal(ranges, offset, err)
			}
			b, err := io.ReadAll(rc)
			if err != nil || !bytes.Equal(b, blob[offset:]) {
				t.Errorf("ranges %v, from %d on: %d bytes, %v", ranges, offset, len(b), err)
			}
			rc.Close()
		}
	}
	for _, offset := range []int64{-1, desc.Size + 1} {
		if _, err := repo.OpenAt(ctx, desc, offset); !errors.Is(err, api.InvalidArgument) {
			t.Error(offset, err)
		}
	}
}

// TestStorm: readers at a time at a registry that answers every other request with 429 all get through; one that always does is named.
func TestStorm(t *testing.T) {
	s, r, blob := serve(t, nil)
	var n, refused atomic.Int64
	s.Hook = func(w http.ResponseWriter, req *http.Request) bool {
		if n.Add(1)%2 == 0 {
			refused.Add(1)
			w.Header().Set("Retry-After", "0")
			imagetest.Fail(w, 429, "TOOMANYREQUESTS", "slow down")
			return true
		}
		return false
	}
	repo, err := Open(ctx, r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var bad atomic.Int64
	for range 12 {
		wg.Go(func() {
			rc, err := repo.Open(ctx, imagespec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))})
			if err == nil {
				b, rerr := io.ReadAll(rc)
				rc.Close()
				if err = rerr; err == nil && !bytes.Equal(b, blob) {
					err = errors.New("other bytes")
				}
			}
			if err != nil && !errors.Is(err, api.Unavailable) {
				t.Error(err)
			} else if err != nil {
				bad.Add(1) // four times in a row
			}
		})
	}
	wg.Wait()
	if bad.Load() > 4 || refused.Load() == 0 {
		t.Errorf("%d of 12 failed", bad.Load())
	}
	s.Hook = func(w http.ResponseWriter, req *http.Request) bool {
		w.Header().Set("Retry-After", "3600")
		imagetest.Fail(w, 429, "TOOMANYREQUESTS", "you have reached your pull rate limit")
		return true
	}
	if _, err := repo.Resolve(ctx); !errors.Is(err, api.Unavailable) || !strings.Contains(err.Error(), "1h0m0s") || !strings.Contains(err.Error(), "pull rate limit") {
		t.Error(err)
	}
}
