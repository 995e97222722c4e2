package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"encoding/xml"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// least is how many tests of the suite must have passed: the suite of 2026 has 860 for version 1.1. Fewer would mean that it left some out.
const least = 840

// TestSuite runs the conformance suite of the distribution specification on a fresh store, at version 1.1 and with what version 1.2 adds;
// and once more behind TLS and passwords. Nothing may fail, be skipped or go wrong.
func TestSuite(t *testing.T) {
	gated(t)
	t.Run("1.1", func(t *testing.T) { suite(t, serve(t), "OCI_TLS=disabled") })
	t.Run("1.2", func(t *testing.T) {
		suite(t, serve(t), "OCI_TLS=disabled", "OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_TAG_PARAM=true")
	})
	t.Run("TLS and passwords", func(t *testing.T) {
		cert, key := certificate(t)
		s := serve(t, "--tls-cert", cert, "--tls-key", key, "--htpasswd", htpasswd(t, "ann", "secret"))
		suite(t, s, "OCI_TLS=enabled", "SSL_CERT_FILE="+cert, "OCI_USERNAME=ann", "OCI_PASSWORD=secret")
	})
}

// testsuites is what the suite writes down.
type testsuites struct {
	Suites []struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Disabled int `xml:"disabled,attr"`
		Cases    []struct {
			Name   string `xml:"name,attr"`
			Status string `xml:"status,attr"`
			Output string `xml:"system-err"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func suite(t *testing.T, s *server, env ...string) {
	results := t.TempDir()
	cmd := exec.Command("conformance")
	cmd.Env = append(append(os.Environ(), "OCI_REGISTRY="+s.address, "OCI_RESULTS_DIR="+results, "OCI_LOG=error", "OCI_VERSION=1.1",
		"OCI_API_BLOBS_UPLOAD_CANCEL=true"), env...) // to cancel an upload is optional in 1.1
	cmd.Dir = results
	if out, err := cmd.CombinedOutput(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(results, "junit.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var all testsuites
	if err := xml.Unmarshal(data, &all); err != nil || len(all.Suites) != 1 {
		t.Fatalf("junit.xml: %v, %d suites", err, len(all.Suites))
	}
	got, passed := all.Suites[0], 0
	for _, c := range got.Cases {
		if c.Status == "passed" {
			passed++
		} else {
			t.Errorf("%s: %s\n%s", c.Name, c.Status, c.Output[:min(len(c.Output), 4000)])
		}
	}
	if got.Failures+got.Errors+got.Disabled > 0 || got.Tests < least || passed != len(got.Cases) {
		t.Errorf("%d tests, %d failures, %d errors, %d disabled", got.Tests, got.Failures, got.Errors, got.Disabled)
	}
	t.Logf("%d tests, %d failures", got.Tests, got.Failures)
}

// certificate makes one for 127.0.0.1.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "registry"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	der2, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: der2}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func htpasswd(t *testing.T, name, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte(name+":"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
