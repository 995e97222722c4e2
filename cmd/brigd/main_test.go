package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"brig/api"
	"brig/internal/base/record"
	"brig/internal/engine/registry"
	door "brig/internal/front/registry"
	"brig/internal/image/imagetest"
)

// TestWrongRequests: nothing is served for what makes no sense, and the exit code says whose fault it is.
func TestWrongRequests(t *testing.T) {
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	if err := os.WriteFile(users, []byte("ann:$apr1$abc$def\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	encode := func(r api.RegistryRequest) string {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"nothing":      {nil, 125},
		"other server": {[]string{"nothing", "{}"}, 125},
		"no JSON":      {[]string{"registry", "{"}, 125},
		"flag":         {[]string{"--no-such"}, 125},
		"half of TLS":  {[]string{"registry", encode(api.RegistryRequest{Addr: "127.0.0.1:0", TLSCert: "x"})}, 1},
		"no TLS files": {[]string{"registry", encode(api.RegistryRequest{Addr: "127.0.0.1:0", TLSCert: "/no/x", TLSKey: "/no/y"})}, 1},
		"other hash":   {[]string{"registry", encode(api.RegistryRequest{Addr: "127.0.0.1:0", Htpasswd: users})}, 1},
		"no users":     {[]string{"registry", encode(api.RegistryRequest{Addr: "127.0.0.1:0", Htpasswd: users + "x"})}, 1},
		"mirror":       {[]string{"registry", encode(api.RegistryRequest{Addr: "127.0.0.1:0", Mirrors: []string{"docker.io=ftp://x"}})}, 1},
		"two mirrors":  {[]string{"registry", encode(api.RegistryRequest{Addr: "127.0.0.1:0", Mirrors: []string{"docker.io", "docker.io=https://x"}})}, 1},
		"address":      {[]string{"registry", encode(api.RegistryRequest{Addr: "192.0.2.1:1"})}, 1},
	} {
		if code := run(context.Background(), append([]string{"--root", filepath.Join(dir, "root")}, c.args...)); code != c.code {
			t.Errorf("%s: %d, want %d", name, code, c.code)
		}
	}
}

// TestNewerStore: a store of a newer layout is not served, and one without a layout gets this one.
func TestNewerStore(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "version"), record.Sign([]byte(`{"layout":1000}`)), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, readOnly := range []bool{false, true} {
		if err := serveRegistry(ctx, root, api.RegistryRequest{Addr: "127.0.0.1:0", ReadOnly: readOnly}); !errors.Is(err, api.Unsupported) {
			t.Error(err)
		}
	}
	root = filepath.Join(root, "new")
	_ = serveRegistry(ctx, root, api.RegistryRequest{Addr: "127.0.0.1:0"}) // it is cancelled at once
	if _, err := os.Stat(filepath.Join(root, "version")); err != nil {
		t.Error(err)
	}
}

// TestServes: with TLS and passwords, until its context ends.
func TestServes(t *testing.T) {
	cert, key, pool := certificate(t, 1)
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, fmt.Appendf(nil, "ann:%s\n", hash), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- serveRegistry(ctx, filepath.Join(t.TempDir(), "root"), api.RegistryRequest{Addr: addr, TLSCert: cert, TLSKey: key, Htpasswd: users})
	}()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	get := func(password string) (int, *tls.ConnectionState) {
		req, err := http.NewRequest("GET", "https://"+addr+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if password != "" {
			req.SetBasicAuth("ann", password)
		}
		for range 100 {
			resp, err := client.Do(req)
			if err != nil {
				time.Sleep(50 * time.Millisecond)
				continue
			}
			resp.Body.Close()
			if resp.StatusCode == 401 && !strings.HasPrefix(resp.Header.Get("Www-Authenticate"), "Basic ") {
				t.Error(resp.Header)
			}
			return resp.StatusCode, resp.TLS
		}
		return 0, nil
	}
	for password, want := range map[string]int{"": 401, "wrong": 401, "secret": 200, strings.Repeat("x", 100): 401} {
		if got, _ := get(password); got != want {
			t.Errorf("password %q: %d", password, got)
		}
	}
	// A certificate that is renewed is used at once.
	second, secondKey, more := certificate(t, 2)
	move(t, secondKey, key)
	move(t, second, cert)
	client.Transport.(*http.Transport).TLSClientConfig.RootCAs = more
	if code, state := get("secret"); code != 200 || state.PeerCertificates[0].SerialNumber.Int64() != 2 {
		t.Errorf("%d %v", code, state)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// certificate makes one for 127.0.0.1.
func certificate(t *testing.T, serial int64) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "registry"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return cert, key, pool
}

// mirrored is a registry that mirrors one in memory as docker.io.
func mirrored(t *testing.T) (w *world, origin *imagetest.Store, stop func()) {
	t.Helper()
	origin = imagetest.New()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: origin}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	m, err := registry.ParseMirror("docker.io=http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return open(t, door.Options{}, m), origin, func() { server.Close() }
}

// TestMirror: a tag is asked for each time, everything else is fetched once, also when many ask; without the mirrored registry what came is there.
func TestMirror(t *testing.T) {
	w, origin, stop := mirrored(t)
	layer := bytes.Repeat([]byte("layer"), 1<<18)
	parts := origin.OCI(nil, layer)
	target := origin.PutImage(parts, "1")
	blob := "/v2/x/blobs/" + sum(layer)
	w.want(w.do("GET", blob, nil), 404, "BLOB_UNKNOWN") // no manifest names it yet
	for range 3 {
		a := w.want(w.do("GET", "/v2/x/manifests/1", nil), 200, "")
		if a.header.Get("Docker-Content-Digest") != target.Digest.String() {
			t.Errorf("%v", a.header)
		}
	}
	if n := origin.Requests("GET"); origin.Requests("/manifests/") > 8 {
		t.Errorf("%d requests: %q", n, origin.Log)
	}
	// Half a blob for a client that goes away; it comes in whole all the same.
	if a := w.want(w.do("HEAD", blob, nil), 200, ""); a.header.Get("Content-Length") != fmt.Sprint(len(layer)) {
		t.Errorf("%v", a.header)
	}
	resp, err := http.Get(w.url + blob)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	all := make(chan answer)
	for range 5 {
		go func() { all <- w.do("GET", blob, nil) }()
	}
	for range 5 {
		if a := <-all; a.status != 200 || !bytes.Equal(a.body, layer) {
			t.Errorf("%d, %d bytes", a.status, len(a.body))
		}
	}
	if n := origin.Requests("/blobs/" + sum(layer)); n != 1 {
		t.Errorf("fetched %d times: %q", n, origin.Log)
	}
	// A tag that moves.
	next := origin.PutImage(origin.OCI(nil, []byte("next")), "1")
	if a := w.want(w.do("HEAD", "/v2/docker.io/library/x/manifests/1", nil), 200, ""); a.header.Get("Docker-Content-Digest") != next.Digest.String() {
		t.Errorf("%v", a.header)
	}
	if a := w.want(w.do("GET", "/v2/library/x/tags/list", nil), 200, ""); !strings.Contains(string(a.body), `["1"]`) {
		t.Errorf("%s", a.body)
	}
	w.want(w.do("POST", "/v2/docker.io/library/x/blobs/uploads/", nil), 405, "UNSUPPORTED")
	w.want(w.do("GET", "/v2/library/x/manifests/1?ns=docker.io", nil), 200, "")
	w.want(w.do("GET", "/v2/library/x/manifests/1?ns=quay.io", nil), 404, "MANIFEST_UNKNOWN")
	w.want(w.do("GET", "/v2/x/manifests/none", nil), 404, "MANIFEST_UNKNOWN")
	// What is pushed here is not looked for there.
	w.manifest("x", "mine", []byte("mine"))
	asked := len(origin.Log)
	w.want(w.do("GET", "/v2/x/manifests/1", nil), 404, "MANIFEST_UNKNOWN")
	w.want(w.do("GET", "/v2/x/manifests/mine", nil), 200, "")
	if len(origin.Log) != asked {
		t.Errorf("asked for: %q", origin.Log[asked:])
	}
	stop()
	if a := w.want(w.do("GET", "/v2/docker.io/x/manifests/1", nil), 200, ""); a.header.Get("Docker-Content-Digest") != next.Digest.String() {
		t.Errorf("%v", a.header)
	}
	w.want(w.do("GET", "/v2/docker.io/x/blobs/"+sum(layer), nil), 200, "")
	w.want(w.do("GET", "/v2/docker.io/x/manifests/none", nil), 503, "UNAVAILABLE")
}

// TestMirrorOfItself: where this machine reads docker.io by way of the registry that mirrors it, as registries.conf is meant to say, the registry asks docker.io.
func TestMirrorOfItself(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	origin := imagetest.New()
	server := httptest.NewServer(origin)
	defer server.Close()
	origin.PutImage(origin.OCI(nil, []byte("layer")), "1")
	host := strings.TrimPrefix(server.URL, "http://")
	m, err := registry.ParseMirror(host + "=" + server.URL)
	if err != nil {
		t.Fatal(err)
	}
	w := open(t, door.Options{}, m)
	rules := filepath.Join(home, ".config/containers/registries.conf")
	if err := os.MkdirAll(filepath.Dir(rules), 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[[registry]]\nlocation=%q\n[[registry.mirror]]\nlocation=%q\ninsecure=true\n", host, strings.TrimPrefix(w.url, "http://"))
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	w.want(w.do("GET", "/v2/x/manifests/1", nil), 200, "")
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("after %s", d)
	}
}

// TestEvilMirror: what a mirrored registry sends wrong is neither kept nor given on whole.
func TestEvilMirror(t *testing.T) {
	w, origin, _ := mirrored(t)
	layer := bytes.Repeat([]byte("layer"), 1<<16)
	target := origin.PutImage(origin.OCI(nil, layer), "1")
	w.want(w.do("GET", "/v2/x/manifests/1", nil), 200, "")
	evil := bytes.Clone(layer)
	evil[0] = 'L'
	for name, hook := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"other bytes": func(rw http.ResponseWriter, _ *http.Request) bool { rw.Write(evil); return true },
		"more bytes":  func(rw http.ResponseWriter, _ *http.Request) bool { rw.Write(append(evil, evil...)); return true },
		"fewer bytes": func(rw http.ResponseWriter, _ *http.Request) bool { rw.Write(layer[:10]); return true },
		"an error": func(rw http.ResponseWriter, _ *http.Request) bool {
			imagetest.Fail(rw, 403, "DENIED", "no")
			return true
		},
	} {
		origin.Hook = func(rw http.ResponseWriter, r *http.Request) bool {
			return strings.Contains(r.URL.Path, "/blobs/") && hook(rw, r)
		}
		resp, err := http.Get(w.url + "/v2/x/blobs/" + sum(layer))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err == nil && resp.StatusCode == 200 {
			t.Errorf("%s: %d bytes arrived", name, b.Len())
		}
		resp.Body.Close()
		if _, err := os.Stat(filepath.Join(w.root, "content/blobs/sha256", strings.TrimPrefix(sum(layer), "sha256:"))); !os.IsNotExist(err) {
			t.Errorf("%s: kept", name)
		}
	}
	origin.Hook = nil
	if a := w.want(w.do("GET", "/v2/x/blobs/"+sum(layer), nil), 200, ""); !bytes.Equal(a.body, layer) {
		t.Errorf("%d bytes", len(a.body))
	}
	// A manifest that is another one, one that is none, and one that leads out.
	for _, text := range []string{"{}", "x", `{"schemaVersion":2,"config":{"digest":"sha256:../../x"},"layers":[]}`} {
		origin.Hook = func(rw http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			rw.Header().Set("Content-Type", target.MediaType)
			rw.Write([]byte(text))
			return true
		}
		for _, reference := range []string{"2", sum([]byte("other"))} {
			if a := w.do("GET", "/v2/x/manifests/"+reference, nil); a.status < 400 {
				t.Errorf("%s: %d %s", text, a.status, a.body)
			}
		}
	}
}
