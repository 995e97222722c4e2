package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/image/ref"
)

// signer is a key of a test.
type signer struct {
	name string
	key  crypto.Signer
	hash crypto.Hash // of the message, before it is signed; 0: the key hashes
}

func signers(t testing.TB) []signer {
	t.Helper()
	must := func(k crypto.Signer, err error) crypto.Signer {
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	ec := func(c elliptic.Curve) crypto.Signer {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		return must(k, err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	p384, p521 := ec(elliptic.P384()), ec(elliptic.P521())
	rsaKey, rerr := rsa.GenerateKey(rand.Reader, 2048)
	return []signer{
		{"P-256", ec(elliptic.P256()), crypto.SHA256},
		{"P-384, SHA-256", p384, crypto.SHA256}, {"P-384, SHA-384", p384, crypto.SHA384},
		{"P-521, SHA-512", p521, crypto.SHA512},
		{"Ed25519", must(ed, err), 0}, {"Ed25519ph", must(ed, err), crypto.SHA512},
		{"RSA", must(rsaKey, rerr), crypto.SHA256},
	}
}

// p256 is one key, made at once.
func p256(t testing.TB) signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{"P-256", k, crypto.SHA256}
}

func (s signer) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	if s.hash != 0 {
		h := s.hash.New()
		h.Write(message)
		message = h.Sum(nil)
	}
	sig, err := s.key.Sign(rand.Reader, message, s.hash)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// pem is the public key as users have it.
func (s signer) pem(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// simple signs as cosign 2 and skopeo do.
func (s signer) simple(t testing.TB, name string, d digest.Digest) Signature {
	t.Helper()
	p := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, name, d)
	return Signature{Payload: p, Sig: s.sign(t, p)}
}

// bundle signs a statement as cosign 3 does.
func (s signer) bundle(t testing.TB, statement string) Signature {
	t.Helper()
	message := fmt.Sprintf("DSSEv1 %d %s %d %s", len(intotoPayload), intotoPayload, len(statement), statement)
	b, err := json.Marshal(map[string]any{"mediaType": bundlePrefix + ".v0.3+json", "dsseEnvelope": map[string]any{
		"payload": []byte(statement), "payloadType": intotoPayload, "signatures": []any{map[string]any{"sig": s.sign(t, []byte(message))}}}})
	if err != nil {
		t.Fatal(err)
	}
	return Signature{Bundle: b}
}

const image1, image2 = digest.Digest("sha256:1111111111111111111111111111111111111111111111111111111111111111"), digest.Digest("sha256:2222222222222222222222222222222222222222222222222222222222222222")

func statement(d digest.Digest, predicate, annotations string) string {
	return fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q},"annotations":{%s}}],"predicateType":%q,"predicate":{}}`, d.Encoded(), annotations, predicate)
}

// judge writes a policy, whose default is to reject, and opens it.
func judge(t testing.TB, docker string) *Judge {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(path, []byte(`{"default":[{"type":"reject"}],"transports":{"docker":`+docker+`}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := Open(path)
	if err != nil {
		t.Fatalf("%s: %v", docker, err)
	}
	return j
}

func keyData(t testing.TB, s signer, identity string) string {
	t.Helper()
	if identity != "" {
		identity = `,"signedIdentity":` + identity
	}
	return fmt.Sprintf(`{"":[{"type":"sigstoreSigned","keyData":%q%s}]}`, base64.StdEncoding.EncodeToString(s.pem(t)), identity)
}

func from(name string, digests ...digest.Digest) Subject {
	return Subject{Transport: Docker, Reference: name, Digests: digests}
}

// TestKeys: every kind of key accepts its own signatures, in each of the formats, and no other's nor a changed one.
func TestKeys(t *testing.T) {
	all := signers(t)
	const name = "registry.test/a/b:1"
	for i, s := range all {
		j := judge(t, keyData(t, s, ""))
		good := s.simple(t, name, image1)
		if files, err := j.Decide(from(name, image1), []Signature{good}); err != nil || len(files) != 1 || files[0].Path != j.path {
			t.Errorf("%s: %v, %v", s.name, files, err)
		}
		named := s.bundle(t, statement(image1, signPredicate, `"org.opencontainers.image.ref.name":"`+name+`"`))
		if _, err := j.Decide(from(name, image1), []Signature{named}); err != nil {
			t.Errorf("%s: bundle: %v", s.name, err)
		}
		other := all[(i+3)%len(all)]
		changed := Signature{Payload: []byte(strings.Replace(string(good.Payload), "a/b", "a/c", 1)), Sig: good.Sig}
		broken := Signature{Payload: good.Payload, Sig: append(slices.Clone(good.Sig[:len(good.Sig)-1]), good.Sig[len(good.Sig)-1]^1)}
		for what, bad := range map[string]Signature{"of another key": other.simple(t, name, image1), "of another image": s.simple(t, name, image2), "of another name": s.simple(t, "registry.test/a/b:2", image1),
			"changed": changed, "broken": broken, "empty": {}, "without a signature": {Payload: good.Payload}, "no bundle": {Bundle: []byte("{}")}} {
			if _, err := j.Decide(from(name, image1), []Signature{bad}); !errors.Is(err, api.Denied) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), j.path) {
				t.Errorf("%s: a signature %s: %v", s.name, what, err)
			}
			if _, err := j.Decide(from(name, image1), []Signature{bad, good}); err != nil {
				t.Errorf("%s: a good one after one %s: %v", s.name, what, err)
			}
		}
		if _, err := j.Decide(from(name, image2, image1), []Signature{good}); err != nil {
			t.Errorf("%s: the manifest below an index: %v", s.name, err)
		}
		if _, err := j.Decide(from(name, image1), nil); !errors.Is(err, api.Denied) {
			t.Errorf("%s: no signature: %v", s.name, err)
		}
	}
}

// TestBundles: what is no signature of an image, though the key made it.
func TestBundles(t *testing.T) {
	s := p256(t)
	j := judge(t, keyData(t, s, `{"type":"matchDigestOnly"}`))
	good := s.bundle(t, statement(image1, signPredicate, ""))
	if _, err := j.Decide(from("registry.test/x:1", image1), []Signature{good}); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		statement(image1, "https://slsa.dev/provenance/v1", ""),
		statement(image2, signPredicate, ""),
		strings.Replace(statement(image1, signPredicate, ""), "sha256", "sha1", 1),
		strings.Replace(statement(image1, signPredicate, ""), "Statement/v1", "Statement/v9", 1),
		strings.Replace(statement(image1, signPredicate, ""), `"subject":[`, `"subject":[{"digest":{"sha256":"`+image2.Encoded()+`"}},`, 1),
		strings.Replace(statement(image1, signPredicate, ""), `"predicate":`, `"predicateType":"x","predicate":`, 1),
		`{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"` + signPredicate + `"}`, "", "[]", "null",
	} {
		if _, err := j.Decide(from("registry.test/x:1", image1), []Signature{s.bundle(t, bad)}); !errors.Is(err, api.Denied) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := judge(t, keyData(t, s, "")).Decide(from("registry.test/x:1", image1), []Signature{good}); !errors.Is(err, api.Denied) || !strings.Contains(err.Error(), "matchDigestOnly") {
		t.Errorf("a bundle without a name: %v", err)
	}
	sum := sha256.Sum256([]byte("a manifest"))
	message := func(sum []byte, algorithm string) Signature {
		b, _ := json.Marshal(map[string]any{"mediaType": bundlePrefix + ".v0.3+json", "messageSignature": map[string]any{
			"messageDigest": map[string]any{"algorithm": algorithm, "digest": sum}, "signature": s.sign(t, []byte("a manifest"))}})
		return Signature{Bundle: b}
	}
	this := digest.FromString("a manifest")
	if _, err := j.Decide(from("registry.test/x:1", this), []Signature{message(sum[:], "SHA2_256")}); err != nil {
		t.Error(err)
	}
	for _, bad := range []Signature{message(sum[:31], "SHA2_256"), message(sum[:], "SHA2_512"), message(make([]byte, 32), "SHA2_256")} {
		if _, err := j.Decide(from("registry.test/x:1", this), []Signature{bad}); !errors.Is(err, api.Denied) {
			t.Errorf("%s: %v", bad.Bundle, err)
		}
	}
}

// TestCosign: what cosign 3.1.3 wrote, as a bundle and in the format of version 2, for an image of 127.0.0.1:5599.
func TestCosign(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile("testdata/cosign/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sig, err := decodeSig(strings.TrimSpace(string(read("signature.txt"))))
	if err != nil {
		t.Fatal(err)
	}
	const d = "sha256:8e962f27faa1a54521b4edd9881fd8735538e2251fd4fd51023d8240f5db1079"
	key, err := filepath.Abs("testdata/cosign/key.pub")
	if err != nil {
		t.Fatal(err)
	}
	rule := func(identity string) *Judge {
		return judge(t, fmt.Sprintf(`{"127.0.0.1:5599":[{"type":"sigstoreSigned","keyPath":%q,"signedIdentity":{"type":%q}}]}`, key, identity))
	}
	v2, v3 := Signature{Payload: read("payload.json"), Sig: sig}, Signature{Bundle: read("bundle.json")}
	for _, c := range []struct {
		sig      Signature
		identity string
		name     string
		ok       bool
	}{
		{v2, "matchRepository", "127.0.0.1:5599/legacy:1", true}, {v2, "matchRepository", "127.0.0.1:5599/other:1", false},
		{v2, "matchRepoDigestOrExact", "127.0.0.1:5599/legacy:1", false}, {v3, "matchRepository", "127.0.0.1:5599/legacy:1", false},
		{v3, "matchDigestOnly", "127.0.0.1:5599/legacy:1", true}, {v2, "matchDigestOnly", "127.0.0.1:5599/x:1", true}, {v3, "matchDigestOnly", "elsewhere.test/x:1", false},
	} {
		files, err := rule(c.identity).Decide(from(c.name, d), []Signature{c.sig})
		if (err == nil) != c.ok || c.ok && (len(files) != 2 || files[1].Path != key) {
			t.Errorf("%s %s: %v, %v", c.identity, c.name, files, err)
		}
	}
}

// TestIdentity is the table of containers-policy.json(5).
func TestIdentity(t *testing.T) {
	at := "@" + image1.String()
	for _, c := range []struct {
		identity, asked, claimed string
		ok                       bool
	}{
		{`{"type":"matchExact"}`, "r.test/a:1", "r.test/a:1", true},
		{`{"type":"matchExact"}`, "r.test/a:1", "r.test/a:2", false},
		{`{"type":"matchExact"}`, "r.test/a:1", "r.test/a", false},
		{`{"type":"matchExact"}`, "r.test/a:latest", "r.test/a", false},
		{`{"type":"matchExact"}`, "r.test/a" + at, "r.test/a:1", false},
		{`{"type":"matchExact"}`, "r.test/a" + at, "r.test/a" + at, true},
		{`{"type":"matchExact"}`, "docker.io/library/a:1", "a:1", true},
		{`{"type":"matchRepoDigestOrExact"}`, "r.test/a:1", "r.test/a:1", true},
		{`{"type":"matchRepoDigestOrExact"}`, "r.test/a:1", "r.test/a:2", false},
		{`{"type":"matchRepoDigestOrExact"}`, "r.test/a" + at, "r.test/a:7", true},
		{`{"type":"matchRepoDigestOrExact"}`, "r.test/a" + at, "r.test/a", false},
		{`{"type":"matchRepoDigestOrExact"}`, "r.test/a" + at, "r.test/b:7", false},
		{`{"type":"matchRepository"}`, "r.test/a:1", "r.test/a:9", true},
		{`{"type":"matchRepository"}`, "r.test/a:1", "r.test/a", true},
		{`{"type":"matchRepository"}`, "r.test/a:1", "r.test/a/b", false},
		{`{"type":"matchRepository"}`, "r.test/a:1", "R.TEST/A b", false},
		{`{"type":"exactReference","dockerReference":"s.test/x:1"}`, "r.test/a:1", "s.test/x:1", true},
		{`{"type":"exactReference","dockerReference":"s.test/x:1"}`, "r.test/a:1", "s.test/x:2", false},
		{`{"type":"exactRepository","dockerRepository":"s.test/x"}`, "r.test/a:1", "s.test/x:2", true},
		{`{"type":"exactRepository","dockerRepository":"s.test/x"}`, "r.test/a:1", "s.test/y:2", false},
		{`{"type":"remapIdentity","prefix":"r.test","signedPrefix":"vendor.test"}`, "r.test/a:1", "vendor.test/a:1", true},
		{`{"type":"remapIdentity","prefix":"r.test","signedPrefix":"vendor.test"}`, "r.test/a:1", "r.test/a:1", false},
		{`{"type":"remapIdentity","prefix":"r.test/ns","signedPrefix":"vendor.test/n"}`, "r.test/nsx/a:1", "r.test/nsx/a:1", true},
		{`{"type":"remapIdentity","prefix":"r.test/a","signedPrefix":"vendor.test/b"}`, "r.test/a:1", "vendor.test/b:1", true},
		{`{"type":"matchDigestOnly"}`, "r.test/a:1", "", true},
		{`{"type":"matchExact"}`, "r.test/a:1", "", false},
		{`{"type":"matchExact"}`, "r.test/a" + at, "r.test/a:1" + at, false},
		{`{"type":"matchRepository"}`, "r.test/a:1", "r.test/a:1" + at, true},
	} {
		id, err := parseIdentity([]byte(c.identity))
		if err != nil {
			t.Errorf("%s: %v", c.identity, err)
			continue
		}
		if err := id.accepts(from(c.asked), c.claimed); (err == nil) != c.ok {
			t.Errorf("%s: asked for %s, signed %s: %v", c.identity, c.asked, c.claimed, err)
		}
	}
	for _, bad := range []string{`{}`, `{"type":"x"}`, `{"type":"matchExact","prefix":"a"}`, `{"type":"exactReference"}`, `{"type":"exactReference","dockerReference":"a.test/x"}`,
		`{"type":"exactRepository","dockerRepository":""}`, `{"type":"remapIdentity","prefix":"a.test"}`, `{"type":"remapIdentity","prefix":"","signedPrefix":"a.test"}`,
		`{"type":"remapIdentity","prefix":"a.test:1:2","signedPrefix":"a.test"}`, `[]`, `null`, `{"type":"matchExact","type":"matchDigestOnly"}`} {
		if _, err := parseIdentity([]byte(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// TestScopes: the longest that fits counts, by the rules of containers-policy.json(5).
func TestScopes(t *testing.T) {
	r, err := ref.Parse("a.b.example.com:8443/ns/repo:tag")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a.b.example.com:8443/ns/repo:tag", "a.b.example.com:8443/ns/repo", "a.b.example.com:8443/ns", "a.b.example.com:8443", "*.b.example.com", "*.example.com", "*.com"}
	if got := dockerScopes(r); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := (Subject{Transport: OCIArchive, Reference: "/a/b.tar"}).scopes(); !slices.Equal(got, []string{"/a/b.tar", "/a", ""}) {
		t.Errorf("%q", got)
	}
	const accept, reject = `[{"type":"insecureAcceptAnything"}]`, `[{"type":"reject"}]`
	for scopes, cases := range map[string]map[string]bool{
		`{"docker.io/library":` + accept + `}`:                                        {"docker.io/library/debian:12": true, "docker.io/library2/x:1": false, "docker.io/x/y:1": false},
		`{"":` + accept + `,"*.example.com":` + reject + `}`:                          {"x.example.com/a:1": false, "x.y.example.com:5000/a:1": false, "example.com/a:1": true},
		`{"*.example.com":` + accept + `,"x.example.com":` + reject + `}`:             {"y.example.com/a:1": true, "x.example.com/a:1": false},
		`{"r.test/a":` + reject + `,"r.test/a:good":` + accept + `}`:                  {"r.test/a:good": true, "r.test/a:bad": false},
		`{"r.test":` + reject + `,"r.test/a@` + image1.String() + `":` + accept + `}`: {"r.test/a@" + image1.String(): true, "r.test/a@" + image2.String(): false},
		`{"r.test/a":[{"type":"insecureAcceptAnything"},{"type":"reject"}]}`:          {"r.test/a:1": false},
	} {
		j := judge(t, scopes)
		for name, ok := range cases {
			if _, err := j.Decide(from(name, image1), nil); (err == nil) != ok || err != nil && !errors.Is(err, api.Denied) {
				t.Errorf("%s: %s: %v", scopes, name, err)
			}
		}
	}
}

// TestRefusedByName: what cannot be checked is a reason to reject, and said, whatever else there is.
func TestRefusedByName(t *testing.T) {
	s := p256(t)
	key := base64.StdEncoding.EncodeToString(s.pem(t))
	const name = "r.test/a:1"
	for rule, word := range map[string]string{
		`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}`:                                                           "signedBy",
		`{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}}`:                                             "signedBaseLayer",
		`{"type":"sigstoreSigned","fulcio":{"caPath":"/f","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyPath":"/r"}`: "fulcio",
		`{"type":"sigstoreSigned","pki":{}}`:                                                                               "pki",
		`{"type":"sigstoreSigned","keyData":"` + key + `","rekorPublicKeyPath":"/r"}`:                                      "rekorPublicKeyPath",
		`{"type":"sigstoreSigned","keyData":"` + key + `","rekorPublicKeyDatas":["` + key + `"]}`:                          "rekorPublicKeyDatas",
	} {
		for _, rules := range []string{rule, `{"type":"insecureAcceptAnything"},` + rule, `{"type":"sigstoreSigned","keyData":"` + key + `"},` + rule} {
			_, err := judge(t, `{"r.test":[`+rules+`]}`).Decide(from(name, image1), []Signature{s.simple(t, name, image1)})
			if !errors.Is(err, api.Denied) || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v", rules, err)
			}
		}
	}
}

// TestParse: a policy that is not understood is none that accepts.
func TestParse(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(p256(t).pem(t))
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip(err)
	}
	small := base64.StdEncoding.EncodeToString(signer{key: weak}.pem(t))
	for _, bad := range []string{
		``, `[]`, `null`, `{}`, `{"default":[]}`, `{"default":[{"type":"x"}]}`, `{"default":[{}]}`, `{"Default":[{"type":"reject"}]}`,
		`{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}`, `{"default":[{"type":"reject"}]} {}`, `{"default":[{"type":"reject"}],"x":1}`,
		`{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}`, `{"default":[{"type":"reject","keyPath":"/x"}]}`, `{"default":[{"type":"reject"}],"transports":[]}`,
		`{"default":[{"type":"reject"}],"transports":{"docker":{"x":[]}}}`, `{"default":[{"type":"reject"}],"transports":{"docker":{},"docker":{}}}`,
		`{"default":[{"type":"reject"}],"transports":{"docker":{"r.*.test":[{"type":"reject"}]}}}`, `{"default":[{"type":"reject"}],"transports":{"docker":{"*.test/x":[{"type":"reject"}]}}}`,
		`{"default":[{"type":"sigstoreSigned"}]}`, `{"default":[{"type":"sigstoreSigned","keyPath":"/a","keyData":"` + key + `"}]}`, `{"default":[{"type":"sigstoreSigned","keyData":"aGk="}]}`,
		`{"default":[{"type":"sigstoreSigned","keyDatas":[]}]}`, `{"default":[{"type":"sigstoreSigned","keyPath":"relative.pub"}]}`, `{"default":[{"type":"sigstoreSigned","keyData":"` + small + `"}]}`,
		`{"default":[` + strings.Repeat(`{"type":"reject"},`, maxRequirements) + `{"type":"reject"}]}`, strings.Repeat(" ", maxPolicy) + `{"default":[{"type":"reject"}]}`,
		strings.Repeat("[", 20000),
	} {
		if _, err := Parse([]byte(bad)); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%.100s: %v", bad, err)
		}
	}
	for _, good := range []string{`{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker-daemon":{"":[{"type":"insecureAcceptAnything"}]},"future":{"x":[{"type":"reject"}]}}}`,
		`{"default":[{"type":"sigstoreSigned","keyDatas":["` + key + `","` + key + `"],"signedIdentity":{"type":"matchRepository"}}]}`} {
		if _, err := Parse([]byte(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

// TestFiles: policies and keys that are missing, are no files, are too long or not readable as keys; none of it hangs or accepts.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", filepath.Join(dir, "home"))
	if _, err := Open(filepath.Join(dir, "none")); err == nil {
		t.Error("a policy that is not there was taken")
	}
	if _, err := Open(dir); err == nil {
		t.Error("a folder was taken")
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	long := write("long", strings.Repeat(" ", maxPolicy+1))
	if _, err := Open(long); err == nil {
		t.Error("a policy without end was taken")
	}
	users := write("home/.config/containers/policy.json", `{"default":[{"type":"reject"}]}`)
	if j, err := Open(""); err != nil || j == nil || j.path != users {
		t.Errorf("%+v, %v", j, err)
	}
	two := string(p256(t).pem(t)) + string(p256(t).pem(t))
	for _, key := range []string{filepath.Join(dir, "nokey"), dir, long, write("two", two), "/dev/zero", write("empty", "")} {
		j := judge(t, fmt.Sprintf(`{"":[{"type":"sigstoreSigned","keyPath":%q}]}`, key))
		if _, err := j.Decide(from("r.test/a:1", image1), []Signature{{}}); err == nil {
			t.Errorf("key %s was taken", key)
		}
	}
}

// TestOrigins: the other transports have scopes and no signatures; an image of unknown origin passes only where nothing is asked.
func TestOrigins(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.json")
	open := func(text string) *Judge {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	const accept = `[{"type":"insecureAcceptAnything"}]`
	j := open(`{"default":[{"type":"reject"}],"transports":{"docker-archive":{"":` + accept + `},"oci-archive":{"/good":` + accept + `}}}`)
	for _, c := range []struct {
		s  Subject
		ok bool
	}{
		{Subject{Transport: DockerArchive, Reference: "/x.tar"}, true}, {Subject{Transport: DockerArchive}, true}, {Subject{Transport: OCIArchive, Reference: "/good/a.tar"}, true},
		{Subject{Transport: OCIArchive, Reference: "/goodies/a.tar"}, false}, {Subject{Transport: OCIArchive}, false}, {Subject{Transport: OCI, Reference: "/good"}, false}, {Subject{Transport: Docker}, false},
	} {
		if _, err := j.Decide(c.s, nil); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.s, err)
		}
	}
	if _, err := open(`{"default":`+accept+`}`).Decide(Subject{Transport: Docker}, nil); err != nil {
		t.Error(err)
	}
	if _, err := open(`{"default":`+accept+`,"transports":{"docker":{"evil.test":[{"type":"reject"}]}}}`).Decide(Subject{Transport: Docker}, nil); !errors.Is(err, api.Denied) {
		t.Errorf("of unknown origin: %v", err)
	}
}

func TestPack(t *testing.T) {
	list := []Signature{{Payload: []byte("p"), Sig: []byte("s")}, {Bundle: []byte("{}")}}
	b, err := Pack(list)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Unpack(b); err != nil || len(got) != 2 || string(got[0].Payload) != "p" || string(got[1].Bundle) != "{}" {
		t.Errorf("%v, %v", got, err)
	}
	huge := slices.Repeat([]Signature{{Bundle: make([]byte, maxBundle)}}, maxSignatures)
	if b, err := Pack(huge); err != nil || len(b) > MaxStored {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for _, bad := range []string{"", "{}", `{"version":2}`, "[]"} {
		if _, err := Unpack([]byte(bad)); !errors.Is(err, api.Corrupt) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzPolicy(f *testing.F) {
	key := base64.StdEncoding.EncodeToString(p256(f).pem(f))
	f.Add([]byte(`{"default":[{"type":"reject"}],"transports":{"docker":{"r.test/a":[{"type":"sigstoreSigned","keyData":"` + key + `","signedIdentity":{"type":"remapIdentity","prefix":"a.test","signedPrefix":"b.test"}}]}}}`))
	f.Add([]byte(`{"default":[{"type":"insecureAcceptAnything"}]}`))
	f.Add([]byte(`{"default":[{"type":"reject"}] }A`))
	f.Add([]byte(`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}],"transports":{"oci":{"/a":[{"type":"reject"}]}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		var v struct {
			Default []struct{ Type string }
		}
		if err := json.Unmarshal(b, &v); err != nil || len(v.Default) != len(p.fallback) {
			t.Fatalf("read in two ways: %v, %v", v, p.fallback)
		}
		p.rows()
		p.acceptsAll()
		j := &Judge{policy: p}
		for _, s := range []Subject{from("r.test/a:1", image1), {Transport: OCI, Reference: "/a/b"}} {
			needs, err := j.Needs(s)
			if err == nil && !needs { // then all of it is insecureAcceptAnything
				rules, _ := p.find(s)
				for _, r := range rules {
					if r.kind != typeAccept {
						t.Fatalf("%s passes without a signature", r.kind)
					}
				}
			}
		}
	})
}

// FuzzSignature: whatever a registry sends, no key that did not sign it accepts it.
func FuzzSignature(f *testing.F) {
	s := p256(f)
	good := s.simple(f, "r.test/a:1", image1)
	f.Add(good.Payload, good.Sig, []byte(nil))
	f.Add([]byte(nil), []byte(nil), s.bundle(f, statement(image1, signPredicate, "")).Bundle)
	stranger := signers(f)
	keys := []crypto.PublicKey{stranger[0].key.Public(), stranger[4].key.Public(), stranger[6].key.Public()}
	f.Fuzz(func(t *testing.T, payload, sig, bundle []byte) {
		if c, err := (Signature{Payload: payload, Sig: sig, Bundle: bundle}).open(keys); err == nil {
			t.Fatalf("%+v was believed", c)
		}
		if c, err := parsePayload(payload); err == nil && c.digest.Validate() != nil {
			t.Fatalf("digest %q", c.digest)
		}
		if c, err := parseStatement(payload); err == nil && c.digest.Validate() != nil {
			t.Fatalf("digest %q", c.digest)
		}
		if list, err := Unpack(bundle); err == nil && len(list) > maxSignatures {
			t.Fatal(len(list))
		}
	})
}
