package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"brig/internal/image/ref"
)

func hash(t *testing.T, password string) string {
	t.Helper()
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestUsers: the right password alone is let in, and a change of the file counts at once, also for who is remembered.
func TestUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	said := ""
	write := func(text string, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	write("# people\n\nann:"+hash(t, "secret")+"\nbob:"+hash(t, "s:e:c")+"\n", time.Hour)
	u, err := ReadUsers(path, func(f string, a ...any) { said += fmt.Sprintf(f, a...) })
	if err != nil {
		t.Fatal(err)
	}
	allowed := func(name, password string) bool {
		req := httptest.NewRequest("GET", "/v2/", nil)
		req.SetBasicAuth(name, password)
		return u.allow(req)
	}
	for range 2 {
		if !allowed("ann", "secret") || !allowed("bob", "s:e:c") {
			t.Error("refused")
		}
		if allowed("ann", "secret2") || allowed("ann", "") || allowed("", "") || allowed("eve", "secret") || allowed("bob", "secret") || allowed("ann", strings.Repeat("x", 73)) {
			t.Error("let in")
		}
	}
	if u.allow(httptest.NewRequest("GET", "/v2/", nil)) {
		t.Error("let in without a name")
	}
	write("bob:"+hash(t, "new")+"\n", time.Minute)
	if allowed("ann", "secret") || allowed("bob", "s:e:c") || !allowed("bob", "new") {
		t.Error("an old file counts")
	}
	write("bob:plain\n", time.Second)
	if allowed("bob", "new") || allowed("bob", "plain") || !strings.Contains(said, "htpasswd -B") {
		t.Error("a file that cannot be read lets in:", said)
	}
}

// TestUsersComeBack: a file that could not be read for a moment counts again, and a change counts whose length and time are those of before.
func TestUsersComeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte("ann:"+hash(t, "secret")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := ReadUsers(path, func(string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	allowed := func(password string) bool {
		req := httptest.NewRequest("GET", "/v2/", nil)
		req.SetBasicAuth("ann", password)
		return u.allow(req)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if allowed("secret") {
		t.Error("let in without a file")
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if !allowed("secret") {
		t.Error("nobody is let in any more")
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("ann:"+hash(t, "another")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	if allowed("secret") || !allowed("another") {
		t.Error("an old file counts")
	}
}

func TestNobodyHasNoPassword(t *testing.T) {
	if err := bcrypt.CompareHashAndPassword([]byte(nobody), []byte("x")); !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		t.Errorf("the hash for unknown names costs no time: %v", err)
	}
}

func FuzzUsers(f *testing.F) {
	f.Add([]byte("ann:$2y$05$abcdefghijklmnopqrstuuK4nvXJMGTVGpMSfzqg7P7GFWXd7YvJS\n#\n"))
	f.Add([]byte("ann:$2y$31$abcdefghijklmnopqrstuuK4nvXJMGTVGpMSfzqg7P7GFWXd7YvJS"))
	f.Add([]byte(":::\n\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		hashes, err := parseUsers(b)
		for name, h := range hashes {
			if cost, cerr := bcrypt.Cost(h); err != nil || name == "" || cerr != nil || cost > maxCost {
				t.Errorf("%q %q %v %v", name, h, err, cerr)
			}
		}
	})
}

// FuzzPath: whatever is asked for, what comes out is a name, a tag, a digest by their grammar.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/v2/", "/v2", "/v2/_catalog?n=1", "/v2/a/b/tags/list", "/v2/a/manifests/1", "/v2/a/blobs/sha256:aa", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/x?digest=y",
		"/v2/a/referrers/sha256:" + strings.Repeat("a", 64), "/v2/../../x/manifests/..", "/v2/manifests/manifests/manifests", "/v2/a/tags/list?ns=docker.io", "/v2//blobs//uploads//", "/v2/blobs/uploads/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		for _, method := range []string{"GET", "PUT"} {
			got, err := parse(&http.Request{Method: method, URL: u})
			var f *failure
			if err != nil {
				if !errors.As(err, &f) || f.status < 400 || f.status > 499 {
					t.Errorf("%s: %v", s, err)
				}
				continue
			}
			if got.kind == pingKind || got.kind == catalogKind {
				continue
			}
			_, rest, _ := strings.Cut(got.repo, "/")
			if !ref.ValidPath(got.repo) && (got.query.Get("ns") == "" || !ref.ValidPath(rest)) {
				t.Errorf("%s: repository %q", s, got.repo)
			}
			if got.tag != "" && !ref.ValidTag(got.tag) || got.digest != "" && !ref.ValidDigest(got.digest.String()) || got.kind == manifestKind && got.tag == "" && got.digest == "" {
				t.Errorf("%s: %+v", s, got)
			}
		}
	})
}

// FuzzPart: a part has a beginning and a length that make sense together.
func FuzzPart(f *testing.F) {
	for _, s := range []string{"0-0", "5-9", "9-5", "0-18446744073709551615", "-", "4611686018427387903-4611686018427387904", ""} {
		f.Add(s, int64(5))
	}
	f.Fuzz(func(t *testing.T, header string, length int64) {
		length = max(length, -1)
		req := &http.Request{Header: http.Header{"Content-Range": {header}}, ContentLength: length}
		offset, n, err := part(req)
		if err == nil && (n < -1 || offset < -1 || offset+n < -2 || length >= 0 && n != length) {
			t.Errorf("%q, %d: %d, %d", header, length, offset, n)
		}
	})
}

// readers is a blob that can be opened again and again.
func readers(b []byte, end error) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(b), &failing{end})), nil
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

// TestBlobEnds: the last byte is given when the end is seen, and only then.
func TestBlobEnds(t *testing.T) {
	data := []byte("0123456789")
	bad := errors.New("other digest")
	for name, c := range map[string]struct {
		open func() (io.ReadCloser, error)
		size int64
		err  error
	}{
		"whole":   {readers(data, io.EOF), 10, nil},
		"damaged": {readers(data, bad), 10, bad},
		"short":   {readers(data, io.EOF), 11, errSize},
		"long":    {readers(data, io.EOF), 9, errSize},
	} {
		b := &blob{open: c.open, size: c.size}
		for _, at := range []int64{3, 0, 8} { // also backwards
			if _, err := b.Seek(at, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(b)
			if !errors.Is(err, c.err) || c.err == nil && string(got) != string(data[at:]) || c.err != nil && int64(len(got)) >= c.size-at {
				t.Errorf("%s at %d: %q %v", name, at, got, err)
			}
			b.err = nil
		}
		b.close()
	}
	if _, err := (&blob{}).Seek(-1, io.SeekStart); err == nil {
		t.Error("before the beginning")
	}
}
