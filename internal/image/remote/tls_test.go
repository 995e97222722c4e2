package remote

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/api"
	"brig/internal/image/imagetest"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// sign makes a certificate and its key as PEM.
func (a *authority) sign(names ...string) (cert, key []byte) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

// serveTLS starts a registry with TLS; clients, when set, signs the certificates that it wants of those who ask.
func (a *authority) serveTLS(clients *authority, names ...string) (*imagetest.Store, string) {
	s := imagetest.New()
	s.PutImage(s.OCI(nil, imagetest.Layer("a", "b")), "1")
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	cert, key := a.sign(names...)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		a.t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	if clients != nil {
		server.TLS.ClientAuth, server.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		server.TLS.ClientCAs.AddCert(clients.cert)
	}
	server.StartTLS()
	a.t.Cleanup(server.Close)
	return s, strings.TrimPrefix(server.URL, "https://")
}

// TestAuthorities: an authority of certs.d, of --cert-dir and of hosts.toml is trusted for its host; another one's certificate is not, nor
// is one for another name. That this is loopback does not matter once an authority is named.
func TestAuthorities(t *testing.T) {
	alone(t)
	good, bad := newAuthority(t), newAuthority(t)
	_, host := good.serveTLS(nil, "127.0.0.1")
	_, misnamed := good.serveTLS(nil, "elsewhere.example.com")
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "ca.crt"), good.pem, 0o644)
	wrong := t.TempDir()
	os.WriteFile(filepath.Join(wrong, "ca.crt"), bad.pem, 0o644)
	for _, c := range []struct {
		name, file, text string
		o                Options
		host             string
		ok               bool
	}{
		{"none named", "", "", Options{}, host, true},
		{"podman's folder", "containers/certs.d/" + host + "/ca.crt", string(good.pem), Options{}, host, true},
		{"docker's folder", "docker/certs.d/" + host + "/any.crt", string(good.pem), Options{}, host, true},
		{"another authority", "docker/certs.d/" + host + "/ca.crt", string(bad.pem), Options{}, host, false},
		{"another authority, allowed", "docker/certs.d/" + host + "/ca.crt", string(bad.pem), Options{Insecure: true}, host, true},
		{"another name", "docker/certs.d/" + misnamed + "/ca.crt", string(good.pem), Options{}, misnamed, false},
		{"--cert-dir", "", "", Options{CertDir: dir}, host, true},
		{"--cert-dir of another", "", "", Options{CertDir: wrong}, host, false},
		{"hosts.toml", "containerd/certs.d/" + host + "/hosts.toml", fmt.Sprintf("ca = %q", filepath.Join(dir, "ca.crt")), Options{}, host, true},
		{"hosts.toml, another", "containerd/certs.d/" + host + "/hosts.toml", fmt.Sprintf("ca = [%q]", filepath.Join(wrong, "ca.crt")), Options{}, host, false},
		{"hosts.toml, another, unverified", "containerd/certs.d/" + host + "/hosts.toml", fmt.Sprintf("ca = [%q]\nskip_verify = true", filepath.Join(wrong, "ca.crt")), Options{}, host, true},
		{"hosts.toml, verified against the system's", "containerd/certs.d/" + host + "/hosts.toml", "skip_verify = false", Options{}, host, false},
		{"insecure in registries.conf", "containers/registries.conf", fmt.Sprintf("[[registry]]\nlocation=%q\ninsecure=true\n", misnamed), Options{}, misnamed, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			alone(t)
			if c.file != "" {
				write(t, c.file, c.text)
			}
			_, _, err := pull(reference(t, c.host+"/x:1"), c.o)
			if (err == nil) != c.ok {
				t.Error(err)
			}
			if !c.ok && (!errors.Is(err, api.Unavailable) || !strings.Contains(err.Error(), "certificate cannot be verified")) {
				t.Error(err)
			}
		})
	}
	alone(t)
	write(t, "docker/certs.d/"+host+"/ca.crt", "no certificate")
	if _, _, err := pull(reference(t, host+"/x:1"), Options{}); !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), "ca.crt") {
		t.Error(err)
	}
}

func TestClientCertificates(t *testing.T) {
	alone(t)
	server, clients := newAuthority(t), newAuthority(t)
	_, host := server.serveTLS(clients, "127.0.0.1")
	r := reference(t, host+"/x:1")
	if _, _, err := pull(r, Options{}); !errors.Is(err, api.Unauthorized) || !strings.Contains(err.Error(), "client certificate") {
		t.Errorf("without a certificate: %v", err)
	}
	cert, key := clients.sign("client")
	write(t, "docker/certs.d/"+host+"/client.cert", string(cert))
	if _, _, err := pull(r, Options{}); !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), "client.key") {
		t.Errorf("without its key: %v", err)
	}
	write(t, "docker/certs.d/"+host+"/client.key", string(key))
	if _, _, err := pull(r, Options{}); err != nil {
		t.Error(err)
	}
	os.RemoveAll(filepath.Join(os.Getenv("HOME"), ".config/docker"))
	write(t, "containerd/certs.d/"+host+"/both.pem", string(cert)+string(key))
	write(t, "containerd/certs.d/"+host+"/hosts.toml", `client = "both.pem"`)
	if _, _, err := pull(r, Options{}); err != nil {
		t.Error(err)
	}
	// A redirect does not take it to another host.
	store, from := server.serveTLS(nil, "127.0.0.1")
	store.Hook = func(w http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/manifests/") {
			http.Redirect(w, req, "https://"+host+req.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	write(t, "docker/certs.d/"+from+"/client.cert", string(cert))
	write(t, "docker/certs.d/"+from+"/client.key", string(key))
	if _, _, err := pull(reference(t, from+"/x:1"), Options{}); !errors.Is(err, api.Unauthorized) {
		t.Errorf("another host saw the client's certificate: %v", err)
	}
}

// TestNoDowngrade: who fails to show a good certificate is not asked in plain HTTP instead, though both would be allowed.
func TestNoDowngrade(t *testing.T) {
	alone(t)
	good, bad := newAuthority(t), newAuthority(t)
	store, host := good.serveTLS(nil, "127.0.0.1")
	write(t, "docker/certs.d/"+host+"/ca.crt", string(bad.pem))
	if _, err := Open(ctx, reference(t, host+"/x:1"), Options{}); err == nil || len(store.Log) > 0 {
		t.Error(err, store.Log)
	}
}

// The proxy test runs in a process of its own: net/http reads the environment once.
const proxyEnv = "BRIG_TEST_PROXY_CHILD"

// TestProxy: CONNECT for HTTPS, plain for HTTP, with the proxy's own credentials; NO_PROXY goes past it. The hosts of the test have no
// address: only the proxy knows them.
func TestProxy(t *testing.T) {
	if os.Getenv(proxyEnv) != "" {
		proxyChild(t)
		return
	}
	alone(t)
	a := newAuthority(t)
	_, secure := a.serveTLS(nil, "secure.brig.test")
	plainStore := imagetest.New()
	plainStore.PutImage(plainStore.OCI(nil, imagetest.Layer("a", "b")), "1")
	plain := httptest.NewServer(plainStore)
	defer plain.Close()
	p := &proxy{to: map[string]string{"secure.brig.test:443": secure, "plain.brig.test:5000": strings.TrimPrefix(plain.URL, "http://")}}
	server := httptest.NewServer(p)
	defer server.Close()
	address := strings.Replace(server.URL, "http://", "http://me:word@", 1)
	write(t, "docker/certs.d/secure.brig.test/ca.crt", string(a.pem))
	for _, c := range []struct {
		image, no string
		insecure  string
		ok        bool
		asked     string
	}{
		{"secure.brig.test/x:1", "", "", true, "CONNECT secure.brig.test:443"},
		{"plain.brig.test:5000/x:1", "", "yes", true, "GET http://plain.brig.test:5000/v2/x/manifests/1"},
		{"plain.brig.test:5000/x:1", "", "", false, ""},
		{"secure.brig.test/x:1", "brig.test", "", false, ""},
	} {
		p.mu.Lock()
		p.asked = nil
		p.mu.Unlock()
		child := exec.Command(os.Args[0], "-test.run=^TestProxy$", "-test.v")
		child.Env = append(os.Environ(), proxyEnv+"="+c.image, "BRIG_TEST_INSECURE="+c.insecure, "HTTP_PROXY="+address, "HTTPS_PROXY="+address, "NO_PROXY="+c.no)
		out, err := child.CombinedOutput()
		asked := strings.Join(p.asked, "\n")
		if (err == nil) != c.ok || !strings.Contains(asked, c.asked) || c.no != "" && strings.Contains(asked, "brig.test") {
			t.Errorf("%+v: %v\n%s\nthe proxy was asked:\n%s", c, err, out, asked)
		}
		if strings.Contains(asked, "without credentials") {
			t.Errorf("%+v: %s", c, asked)
		}
	}
}

func proxyChild(t *testing.T) {
	if _, _, err := pull(reference(t, os.Getenv(proxyEnv)), Options{Insecure: os.Getenv("BRIG_TEST_INSECURE") != ""}); err != nil {
		t.Fatal(err)
	}
}

// proxy forwards to where to says, and knows no other host.
type proxy struct {
	to    map[string]string
	mu    sync.Mutex
	asked []string
}

// ServeHTTP forwards a request, or joins two connections.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	word := r.Method + " " + r.RequestURI
	if r.Header.Get("Proxy-Authorization") != "Basic bWU6d29yZA==" {
		word += " without credentials"
	}
	p.mu.Lock()
	p.asked = append(p.asked, word)
	p.mu.Unlock()
	there, ok := p.to[r.Host]
	if !ok {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	up, err := net.Dial("tcp", there)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer up.Close()
	if r.Method != http.MethodConnect {
		r.Header.Del("Proxy-Authorization")
		r.Write(up)
		resp, err := http.ReadResponse(bufio.NewReader(up), r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
		return
	}
	down, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer down.Close()
	io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
	ctx, cancel := context.WithCancel(context.Background())
	go func() { io.Copy(up, down); cancel() }()
	go func() { io.Copy(down, up); cancel() }()
	<-ctx.Done()
}
