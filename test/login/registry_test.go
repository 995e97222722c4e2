package login

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair is a key and its certificate, as PEM and parsed.
type pair struct {
	key      *ecdsa.PrivateKey
	cert     *x509.Certificate
	certPEM  []byte
	keyBytes []byte
}

// sign makes a certificate of parent, or one of its own authority where parent is nil.
func sign(t *testing.T, parent *pair) *pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{key: key}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "brig test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(address)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	signer, by := key, template
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
		template.ExtKeyUsage = nil
	} else {
		signer, by = parent.key, parent.cert
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p.certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	p.keyBytes = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: b})
	return p
}

// startRegistry starts Debian's docker-registry with TLS; its authority is in /etc/docker/certs.d. auth is htpasswd or token.
func startRegistry(t *testing.T, auth string) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	authority := sign(t, nil)
	server := sign(t, authority)
	how := fmt.Sprintf("{htpasswd: {realm: test, path: %q}}", put("htpasswd", []byte(user+":"+bcrypt+"\n")))
	if auth == "token" {
		tokens := startTokens(t, server, authority)
		how = fmt.Sprintf("{token: {realm: %q, service: test-registry, issuer: test-issuer, rootcertbundle: %q}}", "https://"+tokens+"/token", put("issuer.pem", authority.certPEM))
	}
	config := put("config.yml", fmt.Appendf(nil, "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}}\nauth: %s\nhttp: {addr: %q, secret: x, tls: {certificate: %q, key: %q}}\n",
		dir+"/data", how, host, put("cert.pem", server.certPEM), put("key.pem", server.keyBytes)))
	certs := "/etc/docker/certs.d/" + host
	if err := os.MkdirAll(certs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(certs+"/ca.crt", authority.certPEM, 0o644); err != nil {
		t.Fatal(err)
	}
	var words bytes.Buffer
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 200 {
		if c, err := net.Dial("tcp", host); err == nil {
			c.Close()
			return host
		}
		time.Sleep(50 * time.Millisecond)
	}
	cmd.Process.Kill()
	cmd.Wait()
	t.Fatalf("docker-registry does not listen:\n%s", &words)
	return ""
}

// startTokens starts a token server as distribution specifies it: it signs what a user may do. Without credentials it gives tokens for
// nothing; so does docker's.
func startTokens(t *testing.T, p, authority *pair) string {
	t.Helper()
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{p.cert.Raw, authority.cert.Raw}, PrivateKey: p.key}}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.ParseForm()
			u, word, has := r.BasicAuth()
			if r.Method == http.MethodPost { // OAuth 2, which docker and containers try too
				u, word, has = r.PostForm.Get("username"), r.PostForm.Get("password"), true
			}
			if has && (u != user || word != password) {
				w.WriteHeader(http.StatusUnauthorized)
				fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}`)
				return
			}
			access := []map[string]any{}
			for _, scope := range strings.Fields(strings.Join(r.Form["scope"], " ")) {
				if parts := strings.Split(scope, ":"); has && len(parts) == 3 {
					access = append(access, map[string]any{"type": parts[0], "name": parts[1], "actions": strings.Split(parts[2], ",")})
				}
			}
			now := time.Now()
			token := p.jwt(t, map[string]any{"iss": "test-issuer", "sub": u, "aud": r.Form.Get("service"), "exp": now.Add(5 * time.Minute).Unix(), "nbf": now.Add(-time.Minute).Unix(), "iat": now.Unix(), "jti": fmt.Sprint(now.UnixNano()), "access": access})
			json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
		}),
	}
	go server.ServeTLS(l, "", "")
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// jwt signs claims with ES256; the registry follows the certificate in x5c to its authority.
func (p *pair) jwt(t *testing.T, claims map[string]any) string {
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Error(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(p.cert.Raw)}}) + "." + part(claims)
	sum := crypto.SHA256.New()
	sum.Write([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, p.key, sum.Sum(nil)[:sha256.Size])
	if err != nil {
		t.Error(err)
	}
	both := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(both)
}
