package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"brig/internal/engine/registry"
	door "brig/internal/front/registry"
)

// world is a registry of a fresh root behind HTTP.
type world struct {
	*testing.T
	root, url string
	said      bytes.Buffer
}

func open(t *testing.T, o door.Options, mirrors ...registry.Mirror) *world {
	t.Helper()
	w := &world{T: t, root: filepath.Join(t.TempDir(), "root")}
	o.Log = func(format string, args ...any) { fmt.Fprintf(&w.said, format+"\n", args...) }
	backend := registry.Open(w.root, mirrors, o.Log)
	s := httptest.NewServer(door.New(backend, o))
	t.Cleanup(func() { s.Close(); backend.Close() })
	w.url = s.URL
	return w
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request; path is sent as it is, with whatever is in it.
func (w *world) do(method, path string, body io.Reader, headers ...string) answer {
	w.Helper()
	req, err := http.NewRequest(method, w.url, body)
	if err != nil {
		w.Fatal(err)
	}
	req.URL.Opaque = strings.Replace(w.url, "http:", "", 1) + path
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, b}
}

// want fails the test unless the answer has a status and, where code is not empty, an error's code in its body.
func (w *world) want(a answer, status int, code string) answer {
	w.Helper()
	if a.status != status || code != "" && !strings.Contains(string(a.body), `"code":"`+code+`"`) {
		w.Errorf("status %d, body %s; want %d %s", a.status, a.body, status, code)
	}
	return a
}

func sum(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// blob pushes a blob at once.
func (w *world) blob(repo string, b []byte) string {
	w.Helper()
	w.want(w.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+sum(b), bytes.NewReader(b)), 201, "")
	return sum(b)
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// manifest pushes an image of one layer and returns its bytes.
func (w *world) manifest(repo, tag string, layer []byte) []byte {
	w.Helper()
	config := []byte("{}")
	w.blob(repo, config)
	w.blob(repo, layer)
	m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, manifestType, sum(config), sum(layer), len(layer))
	w.want(w.do("PUT", "/v2/"+repo+"/manifests/"+tag, bytes.NewReader(m), "Content-Type", manifestType), 201, "")
	return m
}

// TestTraversal: no name, tag, digest or upload's ID leads out of the store, whatever it is made of.
func TestTraversal(t *testing.T) {
	w := open(t, door.Options{})
	if err := os.MkdirAll(w.root, 0o700); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(filepath.Dir(w.root), "secret")
	if err := os.WriteFile(secret, []byte("hidden"), 0o600); err != nil {
		t.Fatal(err)
	}
	hex := strings.Repeat("a", 64)
	for _, evil := range []string{"..", "../..", "%2e%2e", "%2e%2e%2f%2e%2e", "..%2f..%2fsecret", "%00", "a%00b", "a//b", "/a", "a/", "_blob", "a/_blob/b", "A", ".a", "-a", "a:b", "a b",
		"a%0d%0aX:1", strings.Repeat("a/", 200) + "a", strings.Repeat("x", 300), "%ff", "ä", "a\\..\\b", "~", "a/../b"} {
		for _, path := range []string{"/v2/" + evil + "/manifests/x", "/v2/" + evil + "/blobs/sha256:" + hex, "/v2/" + evil + "/tags/list", "/v2/" + evil + "/blobs/uploads/" + hex,
			"/v2/" + evil + "/referrers/sha256:" + hex, "/v2/a/manifests/" + evil, "/v2/a/blobs/" + evil, "/v2/a/blobs/sha256:" + evil, "/v2/a/blobs/uploads/" + evil,
			"/v2/a/referrers/" + evil, "/v2/a/manifests/sha256:" + evil, "/v2/a/tags/" + evil, "/" + evil, "/v2/a/tags/list?ns=" + evil} {
			for _, method := range []string{"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "BREW"} {
				a := w.do(method, path, strings.NewReader("x"))
				ok := a.status >= 400 && a.status < 500 || a.status == 307 || a.status == 301 ||
					a.status == 200 && strings.Contains(path, "/referrers/") || a.status == 202 && method == "POST" && strings.HasSuffix(path, "/blobs/uploads/")
				if !ok || bytes.Contains(a.body, []byte("hidden")) {
					t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
				}
			}
		}
	}
	w.want(w.do("POST", "/v2/a/blobs/uploads/?mount=sha256:"+hex+"&from=../../x", nil), 400, "NAME_INVALID")
	w.want(w.do("POST", "/v2/a/blobs/uploads/?digest=sha256:../../secret", nil), 400, "DIGEST_INVALID")
	w.want(w.do("POST", "/v2/a/blobs/uploads/?digest=md5:d41d8cd98f00b204e9800998ecf8427e", nil), 400, "DIGEST_INVALID")
	w.want(w.do("GET", "/v2/a/blobs/sha384:"+strings.Repeat("a", 96), nil), 400, "DIGEST_INVALID")
	if b, err := os.ReadFile(secret); err != nil || string(b) != "hidden" {
		t.Error(string(b), err)
	}
	entries, err := os.ReadDir(filepath.Dir(w.root))
	if err != nil || len(entries) != 2 {
		t.Error(entries, err)
	}
	if w.said.Len() > 0 {
		t.Errorf("the server failed: %s", w.said.String())
	}
}

// TestManifests: what is accepted as a manifest is one, whole, of things that are there.
func TestManifests(t *testing.T) {
	w := open(t, door.Options{})
	m := w.manifest("a", "1", []byte("layer"))
	put := func(m, mediaType string) answer {
		t.Helper()
		return w.do("PUT", "/v2/a/manifests/bad", strings.NewReader(m), "Content-Type", mediaType)
	}
	for text, mediaType := range map[string]string{
		"": manifestType, "null": manifestType, "[]": manifestType, "{": manifestType, "{}": manifestType, "x": "text/plain", `{"schemaVersion":2}`: "",
		string(m) + "x": manifestType, string(m): "application/vnd.oci.image.index.v1+json",
		strings.Replace(string(m), `"layers"`, `"manifests":[],"layers"`, 1):    manifestType,
		strings.Replace(string(m), `"layers"`, `"layers":[],"layers"`, 1):       manifestType,
		strings.Replace(string(m), `"layers"`, `"Layers":[],"layers"`, 1):       manifestType,
		strings.Replace(string(m), `"size":5`, `"size":5,"size":5`, 1):          manifestType,
		strings.Replace(string(m), `"size":5`, `"size":-5`, 1):                  manifestType,
		strings.Replace(string(m), `"size":5`, `"size":6`, 1):                   manifestType,
		strings.Replace(string(m), `sha256:`, `sha256:../../`, 1):               manifestType,
		strings.Replace(string(m), `"size":5`, `"size":9223372036854775807`, 1): manifestType,
		`{"schemaVersion":1,"name":"a","fsLayers":[]}`:                          "application/vnd.docker.distribution.manifest.v1+prettyjws",
		strings.Repeat("[", 100000):                                             manifestType,
	} {
		w.want(put(text, mediaType), 400, "")
	}
	w.want(put(strings.Replace(string(m), sum([]byte("layer")), sum([]byte("other")), 1), manifestType), 404, "MANIFEST_BLOB_UNKNOWN")
	w.want(put(string(m), "a/b\r\nX: 1"[:3]), 400, "MANIFEST_INVALID")
	w.want(w.do("GET", "/v2/a/manifests/bad", nil), 404, "MANIFEST_UNKNOWN")
	w.want(w.do("PUT", "/v2/a/manifests/"+sum([]byte("x")), bytes.NewReader(m), "Content-Type", manifestType), 400, "DIGEST_INVALID")

	// 4 MiB and no byte more.
	pad := func(n int) string {
		s := strings.TrimSuffix(string(m), "}") + `,"annotations":{"a":"`
		return s + strings.Repeat("x", n-len(s)-3) + `"}}`
	}
	w.want(w.do("PUT", "/v2/a/manifests/big", strings.NewReader(pad(4<<20)), "Content-Type", manifestType), 201, "")
	w.want(put(pad(4<<20+1), manifestType), 413, "")
	// Endless, without a length.
	w.want(w.do("PUT", "/v2/a/manifests/bad", io.LimitReader(endless{}, 16<<20), "Content-Type", manifestType), 413, "")

	// A blob is not a manifest, and one repository's is not another's.
	w.want(w.do("GET", "/v2/a/manifests/"+sum([]byte("layer")), nil), 404, "MANIFEST_UNKNOWN")
	w.want(w.do("GET", "/v2/b/manifests/"+sum(m), nil), 404, "MANIFEST_UNKNOWN")
	w.want(w.do("GET", "/v2/b/blobs/"+sum([]byte("layer")), nil), 404, "BLOB_UNKNOWN")
	w.want(w.do("POST", "/v2/b/blobs/uploads/?from=c&mount="+sum([]byte("layer")), nil), 202, "")
	w.want(w.do("POST", "/v2/b/blobs/uploads/?from=a&mount="+sum([]byte("layer")), nil), 201, "")
	w.want(w.do("GET", "/v2/b/blobs/"+sum([]byte("layer")), nil), 200, "")

	// With the manifest its tags go, and its bytes if nobody has them otherwise; a tag goes alone.
	w.want(w.do("PUT", "/v2/a/manifests/2", bytes.NewReader(m), "Content-Type", manifestType), 201, "")
	w.want(w.do("DELETE", "/v2/a/manifests/2", nil), 202, "")
	w.want(w.do("DELETE", "/v2/a/manifests/2", nil), 404, "MANIFEST_UNKNOWN")
	w.want(w.do("GET", "/v2/a/manifests/"+sum(m), nil), 200, "")
	w.want(w.do("DELETE", "/v2/a/manifests/"+sum(m), nil), 202, "")
	w.want(w.do("GET", "/v2/a/manifests/1", nil), 404, "MANIFEST_UNKNOWN")
	if got := w.want(w.do("GET", "/v2/a/tags/list", nil), 200, ""); string(got.body) != `{"name":"a","tags":["big"]}` {
		t.Errorf("%s", got.body)
	}
	if _, err := os.Stat(filepath.Join(w.root, "content/blobs/sha256", strings.TrimPrefix(sum(m), "sha256:"))); !os.IsNotExist(err) {
		t.Error("a deleted manifest's bytes are still there:", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestUploads: parts in order only, of their length only, of this repository only.
func TestUploads(t *testing.T) {
	w := open(t, door.Options{})
	start := func() string {
		t.Helper()
		return w.want(w.do("POST", "/v2/a/blobs/uploads/", nil), 202, "").header.Get("Location")
	}
	data := []byte("0123456789")
	up := start()
	patch := func(body, r string) answer {
		return w.do("PATCH", up, strings.NewReader(body), "Content-Range", r)
	}
	w.want(patch("01234", "0-4"), 202, "")
	for _, r := range []string{"0-4", "6-10", "4-8", "5-10", "5-8", "9-5", "5", "-5", "x-y", "5-", "5-18446744073709551615", "bytes 5-9/10", "5-9/10", "05-09-1", "+5-+9"} {
		a := w.want(patch("56789", r), 416, "BLOB_UPLOAD_INVALID")
		if a.header.Get("Range") != "0-4" || a.header.Get("Location") != up {
			t.Errorf("%s: %v", r, a.header)
		}
	}
	w.want(w.do("PUT", up+"?digest="+sum(data), strings.NewReader("56789"), "Content-Range", "6-10"), 416, "BLOB_UPLOAD_INVALID")
	// More, and less, than the range says, of unknown length.
	w.want(w.do("PATCH", up, io.MultiReader(strings.NewReader("56789"), strings.NewReader("x")), "Content-Range", "5-9"), 400, "BLOB_UPLOAD_INVALID")
	if a := w.want(w.do("GET", up, nil), 204, ""); a.header.Get("Range") != "0-4" {
		t.Errorf("%v", a.header)
	}
	// Somebody else's.
	other := strings.Replace(up, "/v2/a/", "/v2/b/", 1)
	for _, m := range []string{"GET", "PATCH", "DELETE"} {
		w.want(w.do(m, other, strings.NewReader("56789")), 404, "BLOB_UPLOAD_UNKNOWN")
	}
	w.want(w.do("PUT", other+"?digest="+sum(data), strings.NewReader("56789")), 404, "BLOB_UPLOAD_UNKNOWN")
	w.want(w.do("PUT", up, strings.NewReader("56789")), 400, "DIGEST_INVALID")
	w.want(w.do("PUT", up+"?digest="+sum(data), strings.NewReader("56789"), "Content-Range", "5-9"), 201, "")
	w.want(w.do("GET", up, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	if a := w.want(w.do("GET", "/v2/a/blobs/"+sum(data), nil), 200, ""); !bytes.Equal(a.body, data) {
		t.Errorf("%q", a.body)
	}

	// Other bytes than the digest's leave nothing behind, neither the upload nor a claim.
	up = start()
	w.want(w.do("PATCH", up, strings.NewReader("evil")), 202, "")
	w.want(w.do("PUT", up+"?digest="+sum([]byte("good")), nil), 400, "DIGEST_INVALID")
	w.want(w.do("GET", up, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	w.want(w.do("PUT", start()+"?digest="+sum(data), strings.NewReader("evil")), 400, "DIGEST_INVALID")
	w.want(w.do("POST", "/v2/c/blobs/uploads/?digest="+sum(data), strings.NewReader("evil")), 400, "DIGEST_INVALID")
	w.want(w.do("HEAD", "/v2/c/blobs/"+sum(data), nil), 404, "")
	w.want(w.do("HEAD", "/v2/a/blobs/"+sum(data), nil), 200, "")
	up = start()
	w.want(w.do("DELETE", up, nil), 204, "")
	w.want(w.do("PATCH", up, strings.NewReader("x")), 404, "BLOB_UPLOAD_UNKNOWN")

	// A crowd of unfinished uploads is bounded.
	for i := range 1001 {
		if a := w.do("POST", "/v2/a/blobs/uploads/", nil); a.status == 429 && i > 900 {
			return
		} else if a.status != 202 {
			t.Fatal(i, a.status)
		}
	}
	t.Error("a thousand uploads, and no end")
}

// TestRanges: parts of blobs, and what is no part of them.
func TestRanges(t *testing.T) {
	w := open(t, door.Options{})
	d := w.blob("a", []byte("0123456789"))
	for r, want := range map[string]string{"bytes=0-3": "0123", "bytes=7-": "789", "bytes=-2": "89", "bytes=9-100": "9", "bytes=0-0,5-6,2-3": "0123456789", "lines=1-2": ""} {
		a := w.do("GET", "/v2/a/blobs/"+d, nil, "Range", r)
		if want == "" {
			w.want(a, 416, "")
		} else if string(a.body) != want {
			t.Errorf("%s: %d %q", r, a.status, a.body)
		}
	}
	for _, r := range []string{"bytes=10-", "bytes=5-2", "bytes=--1", "bytes=a-b", "bytes=99999999999999999999-"} {
		w.want(w.do("GET", "/v2/a/blobs/"+d, nil, "Range", r), 416, "")
	}
	if a := w.do("HEAD", "/v2/a/blobs/"+d, nil); a.header.Get("Content-Length") != "10" || a.header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("%v", a.header)
	}
	w.want(w.do("GET", "/v2/a/blobs/"+d, nil, "If-None-Match", `"`+d+`"`), 304, "")
}

// TestDamagedBlob: one whose bytes are not its digest's never arrives whole.
func TestDamagedBlob(t *testing.T) {
	w := open(t, door.Options{})
	b := bytes.Repeat([]byte("x"), 1<<20)
	d := w.blob("a", b)
	b[5] = 'y'
	if err := os.WriteFile(filepath.Join(w.root, "content/blobs/sha256", strings.TrimPrefix(d, "sha256:")), b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, r := range []string{"", "bytes=1000-"} {
		req, _ := http.NewRequest("GET", w.url+"/v2/a/blobs/"+d, nil)
		req.Header.Set("Range", r)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("%q: %d bytes arrived, and an end", r, n)
		}
		resp.Body.Close()
	}
}

// TestReadOnly: nothing is changed.
func TestReadOnly(t *testing.T) {
	w := open(t, door.Options{ReadOnly: true})
	for _, r := range [][2]string{{"POST", "/v2/a/blobs/uploads/"}, {"PUT", "/v2/a/manifests/1"}, {"DELETE", "/v2/a/manifests/1"}, {"DELETE", "/v2/a/blobs/" + sum(nil)},
		{"PATCH", "/v2/a/blobs/uploads/" + strings.Repeat("a", 64)}} {
		w.want(w.do(r[0], r[1], strings.NewReader("x")), 405, "UNSUPPORTED")
	}
	w.want(w.do("GET", "/v2/", nil), 200, "")
	if _, err := os.Stat(filepath.Join(w.root, "registry")); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// TestLists: pages of tags and repositories.
func TestLists(t *testing.T) {
	w := open(t, door.Options{})
	m := w.manifest("b/b", "t1", []byte("layer"))
	for _, tag := range []string{"t3", "t2", "x.json", "x.json.tmp12-1"} {
		w.want(w.do("PUT", "/v2/b/b/manifests/"+tag, bytes.NewReader(m), "Content-Type", manifestType), 201, "")
	}
	w.manifest("a", "1", []byte("layer"))
	for path, want := range map[string]string{
		"/v2/_catalog": `{"repositories":["a","b/b"]}`, "/v2/_catalog?n=1": `{"repositories":["a"]}`, "/v2/_catalog?last=a": `{"repositories":["b/b"]}`,
		"/v2/b/b/tags/list":                `{"name":"b/b","tags":["t1","t2","t3","x.json","x.json.tmp12-1"]}`,
		"/v2/b/b/tags/list?n=2":            `{"name":"b/b","tags":["t1","t2"]}`,
		"/v2/b/b/tags/list?n=2&last=t2":    `{"name":"b/b","tags":["t3","x.json"]}`,
		"/v2/b/b/tags/list?n=0":            `{"name":"b/b","tags":[]}`,
		"/v2/b/b/tags/list?last=t1a&n=100": `{"name":"b/b","tags":["t2","t3","x.json","x.json.tmp12-1"]}`,
		"/v2/b/b/tags/list?last=zz":        `{"name":"b/b","tags":[]}`,
	} {
		if a := w.want(w.do("GET", path, nil), 200, ""); string(a.body) != want {
			t.Errorf("%s: %s, want %s", path, a.body, want)
		}
	}
	if a := w.do("GET", "/v2/b/b/tags/list?n=2", nil); a.header.Get("Link") != `</v2/b/b/tags/list?last=t2&n=2>; rel="next"` {
		t.Errorf("%v", a.header)
	}
	for _, n := range []string{"-1", "x", "99999999999999999999"} {
		w.want(w.do("GET", "/v2/_catalog?n="+n, nil), 400, "")
	}
	w.want(w.do("GET", "/v2/none/tags/list", nil), 404, "NAME_UNKNOWN")
}

// TestReferrersInPages: a long list comes in pages of less than 4 MiB, each referrer once.
func TestReferrersInPages(t *testing.T) {
	w := open(t, door.Options{})
	config := []byte("{}")
	w.blob("a", config)
	subject := sum([]byte("subject"))
	const n = 5
	for i := range n {
		m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"x/y","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],`+
			`"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"n":"%d","pad":%q}}`, manifestType, sum(config), manifestType, subject, i, strings.Repeat("x", 1<<20))
		a := w.want(w.do("PUT", "/v2/a/manifests/"+sum([]byte(m)), strings.NewReader(m), "Content-Type", manifestType), 201, "")
		if a.header.Get("Oci-Subject") != subject {
			t.Errorf("%v", a.header)
		}
	}
	seen := map[string]bool{}
	for next := "/v2/a/referrers/" + subject + "?artifactType=x/y"; next != ""; {
		a := w.want(w.do("GET", next, nil), 200, "")
		var index struct{ Manifests []struct{ Digest string } }
		if err := json.Unmarshal(a.body, &index); err != nil || len(a.body) > 4<<20 {
			t.Fatal(len(a.body), err)
		}
		for _, m := range index.Manifests {
			if seen[m.Digest] {
				t.Fatal("twice:", m.Digest)
			}
			seen[m.Digest] = true
		}
		next, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
	}
	if len(seen) != n {
		t.Errorf("%d of %d referrers", len(seen), n)
	}
	if a := w.do("GET", "/v2/a/referrers/"+subject+"?artifactType=other", nil); !strings.Contains(string(a.body), `"manifests":[]`) {
		t.Errorf("%.300s", a.body)
	}
}

// TestReferrersInMemory: a page takes the memory of a page, however many refer to a manifest, and whatever they say.
func TestReferrersInMemory(t *testing.T) {
	w := open(t, door.Options{})
	config := []byte("{}")
	w.blob("a", config)
	subject := sum([]byte("subject"))
	for i := range 20 {
		m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],`+
			`"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"n":"%d","pad":%q}}`, manifestType, sum(config), manifestType, subject, i, strings.Repeat("x", 4000000))
		w.want(w.do("PUT", "/v2/a/manifests/"+sum([]byte(m)), strings.NewReader(m), "Content-Type", manifestType), 201, "")
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w.want(w.do("HEAD", "/v2/a/referrers/"+subject, nil), 405, "")
	w.want(w.do("GET", "/v2/a/referrers/"+subject, nil), 200, "")
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 150<<20 {
		t.Errorf("%d MiB for a page", n>>20)
	}
}

// TestNoLeak: clients that go away in the middle leave no goroutine.
func TestNoLeak(t *testing.T) {
	w := open(t, door.Options{})
	d := w.blob("a", bytes.Repeat([]byte("x"), 8<<20))
	before := runtime.NumGoroutine()
	for range 50 {
		resp, err := http.Get(w.url + "/v2/a/blobs/" + d)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		pr, pw := io.Pipe()
		go func() { pw.Write([]byte("half")); pw.CloseWithError(io.ErrUnexpectedEOF) }()
		if resp, err := http.Post(w.url+"/v2/a/blobs/uploads/?digest="+sum([]byte("never")), "application/octet-stream", pr); err == nil {
			resp.Body.Close()
			t.Error("half a request had an answer:", resp.Status)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	for range 100 {
		if runtime.NumGoroutine() <= before+2 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before+2 {
		t.Errorf("%d goroutines, before %d", n, before)
	}
	w.want(w.do("HEAD", "/v2/a/blobs/"+sum([]byte("never")), nil), 404, "")
	if left, _ := filepath.Glob(filepath.Join(w.root, "content/ingest/*")); len(left) > 0 {
		t.Error("left:", left)
	}
}
