package transfer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image/imagetest"
	"brig/internal/store/garbage"
)

// key is a key pair of a test; its public half is a file.
type key256 struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	path string
}

func newKey(t *testing.T) key256 {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := key256{t, k, filepath.Join(t.TempDir(), "key.pub")}
	s.write()
	return s
}

func (k key256) write() {
	der, err := x509.MarshalPKIXPublicKey(&k.key.PublicKey)
	if err == nil {
		err = os.WriteFile(k.path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// sign puts a signature of d beside the image, as cosign 2 does.
func (k key256) sign(reg *imagetest.Store, name string, d digest.Digest) {
	k.t.Helper()
	p := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, name, d)
	h := sha256.Sum256(p)
	sig, err := ecdsa.SignASN1(rand.Reader, k.key, h[:])
	if err != nil {
		k.t.Fatal(err)
	}
	l := reg.Put("application/vnd.dev.cosign.simplesigning.v1+json", p)
	l.Annotations = map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)}
	m := imagespec.Manifest{MediaType: imagespec.MediaTypeImageManifest, Config: reg.Put(imagespec.MediaTypeImageConfig, []byte("{}")), Layers: []imagespec.Descriptor{l}}
	m.SchemaVersion = 2
	reg.Tag("sha256-"+d.Encoded()+".sig", reg.JSON(m.MediaType, m))
}

// policy writes one whose default is to reject.
func policy(t *testing.T, rules string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(path, []byte(`{"default":[{"type":"reject"}],"transports":{"docker":{"":[`+rules+`]}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (k key256) rule(identity string) string {
	return fmt.Sprintf(`{"type":"sigstoreSigned","keyPath":%q,"signedIdentity":{"type":%q}}`, k.path, identity)
}

func (w *world) with(op, ref, policy string) (api.Image, error) {
	w.Helper()
	reply, _, _, err := w.do(api.TransferRequest{Op: op, Refs: []string{ref}, Policy: policy})
	if err != nil {
		return api.Image{}, err
	}
	return reply.Images[0], nil
}

// TestSigned: an image that needs a signature comes in with one, and without one nothing of it does.
func TestSigned(t *testing.T) {
	w, k := newWorld(t), newKey(t)
	d := w.reg.PutImage(w.reg.OCI(imagetest.Gzip, layers(2, 1000)...), "1")
	name := w.host + "/app:1"
	strict := policy(t, k.rule("matchRepoDigestOrExact"))
	if _, err := w.with("pull", name, strict); !errors.Is(err, api.Denied) {
		t.Errorf("not signed: %v", err)
	}
	w.empty()
	before := w.reg.Requests("/blobs/")
	if _, err := w.with("pull", name, policy(t, `{"type":"reject"}`)); !errors.Is(err, api.Denied) || w.reg.Requests("/blobs/") != before {
		t.Errorf("rejected: %v", err)
	}
	newKey(t).sign(w.reg, name, d.Digest)
	if _, err := w.with("pull", name, strict); !errors.Is(err, api.Denied) {
		t.Errorf("another's signature: %v", err)
	}
	w.empty()
	k.sign(w.reg, name, d.Digest)
	rec, err := w.with("pull", name, strict)
	if err != nil || len(rec.Trust.Files) != 2 || rec.Trust.Files[0].Path != strict || rec.Trust.Files[1].Path != k.path || rec.Trust.Reference != name {
		t.Fatalf("signed: %+v, %v", rec.Trust, err)
	}
	// Later, without the network.
	requests := len(w.reg.Log)
	if again, err := w.with("verify", name, strict); err != nil || !sameTrust(again.Trust, rec.Trust) {
		t.Errorf("%+v, %v", again.Trust, err)
	}
	stricter := policy(t, k.rule("matchRepoDigestOrExact")+","+newKey(t).rule("matchRepository"))
	if _, err := w.with("verify", name, stricter); !errors.Is(err, api.Denied) {
		t.Errorf("two keys: %v", err)
	}
	if other, err := w.with("verify", name, policy(t, k.rule("matchRepository"))); err != nil || other.Trust.Files[0].Path == strict {
		t.Errorf("another policy: %+v, %v", other.Trust, err)
	}
	other := newKey(t)
	if err := os.Rename(other.path, k.path); err != nil { // the key is no longer trusted
		t.Fatal(err)
	}
	if _, err := w.with("verify", name, strict); !errors.Is(err, api.Denied) {
		t.Errorf("another key in its place: %v", err)
	}
	k.write()
	if len(w.reg.Log) != requests {
		t.Errorf("the registry was asked: %q", w.reg.Log[requests:])
	}
	// The kept signatures are what the image needs, and go with it.
	stores := garbage.Open(w.root)
	if of := stores.Of(rec); !slices.Contains(of.Blobs, digest.Digest(rec.Trust.Signatures)) || !stores.Content.Has(digest.Digest(rec.Trust.Signatures)) {
		t.Error("the signatures are not kept")
	}
}

// TestSignedLater: what came in without a policy is judged when there is one, and a pull fetches the signatures it needs.
func TestSignedLater(t *testing.T) {
	w, k := newWorld(t), newKey(t)
	inner := w.reg.PutImage(w.reg.OCI(imagetest.Gzip, layers(1, 1000)...), "")
	inner.Platform = &imagespec.Platform{OS: "linux", Architecture: "amd64"}
	d := w.reg.Index("1", inner)
	name := w.host + "/app:1"
	strict := policy(t, k.rule("matchRepository"))
	if _, err := w.with("pull", name, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.with("verify", name, strict); !errors.Is(err, api.Denied) || !strings.Contains(err.Error(), "brig pull") {
		t.Errorf("%v", err)
	}
	if _, err := w.with("pull", name, strict); !errors.Is(err, api.Denied) {
		t.Errorf("%v", err)
	}
	if rec, err := w.with("verify", name, ""); err != nil || rec.Name != name { // the image is still there
		t.Errorf("%+v, %v", rec, err)
	}
	k.sign(w.reg, w.host+"/app", d.Digest) // of the index
	rec, err := w.with("pull", name, strict)
	if err != nil || rec.Trust.Signatures == "" {
		t.Errorf("%+v, %v", rec.Trust, err)
	}
	if _, err := w.with("verify", name, strict); err != nil {
		t.Error(err)
	}
	// By the digest of the manifest, which is signed by itself.
	k.sign(w.reg, w.host+"/app", inner.Digest)
	if _, err := w.with("pull", w.host+"/app@"+inner.Digest.String(), strict); err != nil {
		t.Error(err)
	}
	if _, err := w.with("pull", w.host+"/other@"+inner.Digest.String(), strict); !errors.Is(err, api.Denied) {
		t.Errorf("from another repository: %v", err)
	}
}

// TestSignaturesWithoutEnd: a registry cannot make a decision take long, and one that fails is not one without signatures.
func TestSignaturesWithoutEnd(t *testing.T) {
	w, k := newWorld(t), newKey(t)
	d := w.reg.PutImage(w.reg.OCI(nil, layers(1, 1000)...), "1")
	name := w.host + "/app:1"
	strict := policy(t, k.rule("matchRepository"))
	many := imagespec.Manifest{MediaType: imagespec.MediaTypeImageManifest, Config: w.reg.Put(imagespec.MediaTypeImageConfig, []byte("{}"))}
	many.SchemaVersion = 2
	for i := range 3000 {
		l := w.reg.Put("application/vnd.dev.cosign.simplesigning.v1+json", fmt.Append(nil, i))
		l.Annotations = map[string]string{"dev.cosignproject.cosign/signature": "AAAA"}
		many.Layers = append(many.Layers, l)
	}
	w.reg.Tag("sha256-"+d.Digest.Encoded()+".sig", w.reg.JSON(many.MediaType, many))
	before := w.reg.Requests("/blobs/")
	if _, err := w.with("pull", name, strict); !errors.Is(err, api.Denied) {
		t.Error(err)
	}
	if n := w.reg.Requests("/blobs/") - before; n > 200 {
		t.Errorf("%d requests", n)
	}
	for i := range many.Layers { // none of which is there
		many.Layers[i].Digest = digest.FromString(fmt.Sprint("missing", i))
	}
	w.reg.Tag("sha256-"+d.Digest.Encoded()+".sig", w.reg.JSON(many.MediaType, many))
	before = w.reg.Requests("/blobs/")
	if _, err := w.with("pull", name, strict); !errors.Is(err, api.Denied) {
		t.Error(err)
	}
	if n := w.reg.Requests("/blobs/") - before; n > 300 {
		t.Errorf("%d requests for what is missing", n)
	}
	for what, doc := range map[string]string{"noise": "\x00\x01", "an index of itself": `{"schemaVersion":2,"manifests":[]}`, "a huge layer": `{"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":99999999999,"digest":"` +
		d.Digest.String() + `"}]}`, "a path": `{"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":1,"digest":"sha256:../../x"}]}`, "null": `null`} {
		w.reg.Tag("sha256-"+d.Digest.Encoded()+".sig", w.reg.Put(imagespec.MediaTypeImageManifest, []byte(doc)))
		w.reg.Tag("sha256-"+d.Digest.Encoded(), w.reg.Put(imagespec.MediaTypeImageIndex, []byte(doc)))
		if _, err := w.with("pull", name, strict); !errors.Is(err, api.Denied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.reg.Hook = func(rw http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, ".sig") {
			imagetest.Fail(rw, http.StatusForbidden, "DENIED", "no")
			return true
		}
		return false
	}
	if _, err := w.with("pull", name, strict); !errors.Is(err, api.Unauthorized) {
		t.Errorf("a registry that refuses: %v", err)
	}
	w.empty()
}

// TestLoadPolicy: archives have transports of their own, and what was loaded stays what it was when it gets a registry's name.
func TestLoadPolicy(t *testing.T) {
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(imagetest.Gzip, layers(1, 1000)...), "1")
	name := w.host + "/app:1"
	if _, err := w.with("pull", name, ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar")
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{name}, File: file, Format: "oci-archive"}); err != nil {
		t.Fatal(err)
	}
	fresh := w.fresh()
	write := func(transports string) string {
		path := filepath.Join(t.TempDir(), "policy.json")
		if err := os.WriteFile(path, []byte(`{"default":[{"type":"reject"}],"transports":{`+transports+`}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const accept = `[{"type":"insecureAcceptAnything"}]`
	for p, ok := range map[string]bool{
		write(`"docker":{"":` + accept + `}`): false, write(`"docker-archive":{"":` + accept + `}`): false, write(`"oci-archive":{"` + dir + `/b":` + accept + `}`): false,
		write(`"oci-archive":{"` + dir + `":` + accept + `}`): true,
	} {
		_, _, _, err := fresh.do(api.TransferRequest{Op: "load", File: file, Policy: p})
		if ok != (err == nil) || !ok && !errors.Is(err, api.Denied) {
			t.Errorf("%v", err)
		}
		if !ok {
			continue
		}
		rec, err := fresh.with("verify", name, p)
		if err != nil || rec.Trust.Transport != "oci-archive" || rec.Trust.Reference != file {
			t.Errorf("%+v, %v", rec.Trust, err)
		}
		if _, err := fresh.with("verify", name, write(`"docker":{"":`+accept+`}`)); !errors.Is(err, api.Denied) {
			t.Errorf("a loaded image counts as one from a registry: %v", err)
		}
	}
}

// TestBaseIsTrusted: the image in the program is as trusted as the program, and nothing else of its name is.
func TestBaseIsTrusted(t *testing.T) {
	w := newWorld(t)
	strict := policy(t, `{"type":"reject"}`)
	if _, err := w.with("pull", "brig/base", ""); err != nil {
		t.Fatal(err)
	}
	if rec, err := w.with("verify", "docker.io/brig/base:latest", strict); err != nil || len(rec.Trust.Files) != 1 {
		t.Errorf("%+v, %v", rec.Trust, err)
	}
}

// buildCosign takes minutes.
func buildCosign(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-C", "../../../tools/cosign", "-o", bin+"/", "tool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin + "/cosign"
}

// TestCosignSigns has the real cosign sign, in both of its formats, what docker's registry holds.
func TestCosignSigns(t *testing.T) {
	if os.Getenv("BRIG_TEST_COSIGN") == "" {
		t.Skip("set BRIG_TEST_COSIGN to cosign's path, or to 1 to have it built (make test-trust)")
	}
	need(t, "docker-registry", "skopeo")
	cosign := os.Getenv("BRIG_TEST_COSIGN")
	if !strings.Contains(cosign, "/") {
		cosign = buildCosign(t)
	}
	w := newWorld(t)
	host := registry(t)
	t.Setenv("COSIGN_PASSWORD", "")
	prefix := filepath.Join(t.TempDir(), "c")
	run(t, cosign, "generate-key-pair", "--output-key-prefix", prefix)
	w.reg.PutImage(w.reg.OCI(imagetest.Gzip, layers(1, 1000)...), "1")
	if _, err := w.with("pull", w.host+"/app:1", ""); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{w.host + "/app:1"}, File: file}); err != nil {
		t.Fatal(err)
	}
	k := key256{path: prefix + ".pub"}
	for _, c := range []struct {
		repo     string
		args     []string
		identity string // the strictest that it satisfies
		fails    string
	}{
		{"v2", []string{"--new-bundle-format=false"}, "matchRepository", "matchRepoDigestOrExact"},
		{"v2name", []string{"--new-bundle-format=false", "--sign-container-identity", host + "/v2name:1"}, "matchExact", ""},
		{"v3", nil, "matchDigestOnly", "matchRepository"},
		{"v3name", []string{"-a", "org.opencontainers.image.ref.name=" + host + "/v3name:1"}, "matchExact", ""},
	} {
		name := host + "/" + c.repo + ":1"
		run(t, "skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "docker-archive:"+file, "docker://"+name)
		if _, err := w.with("pull", name, policy(t, k.rule(c.identity))); !errors.Is(err, api.Denied) {
			t.Errorf("%s before it is signed: %v", c.repo, err)
		}
		d := strings.TrimSpace(run(t, "skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+name))
		args := append([]string{"sign", "-y", "--key", prefix + ".key", "--use-signing-config=false", "--tlog-upload=false", "--allow-insecure-registry"}, c.args...)
		run(t, cosign, append(args, host+"/"+c.repo+"@"+d)...)
		if _, err := w.with("pull", name, policy(t, k.rule(c.identity))); err != nil {
			t.Errorf("%s: %v", c.repo, err)
		}
		if c.fails != "" {
			if _, err := w.with("verify", name, policy(t, k.rule(c.fails))); !errors.Is(err, api.Denied) {
				t.Errorf("%s with %s: %v", c.repo, c.fails, err)
			}
		}
		if _, err := w.with("verify", name, policy(t, newKey(t).rule(c.identity))); !errors.Is(err, api.Denied) {
			t.Errorf("%s with another key: %v", c.repo, err)
		}
	}
}
