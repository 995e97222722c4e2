package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image/imagetest"
	"brig/internal/image/remote/credential"
)

func TestChallenges(t *testing.T) {
	for field, want := range map[string][]challenge{
		`Bearer realm="https://a/token",service="s",scope="repository:x:pull,push"`: {{"bearer", map[string]string{"realm": "https://a/token", "service": "s", "scope": "repository:x:pull,push"}}},
		`basic Realm = "with \"quotes\" and, comma"`:                                {{"basic", map[string]string{"realm": `with "quotes" and, comma`}}},
		`Basic realm="a", Bearer realm=https://b/t?x=1 , service=s`:                 {{"basic", map[string]string{"realm": "a"}}, {"bearer", map[string]string{"realm": "https://b/t?x=1", "service": "s"}}},
		`Negotiate, Bearer realm="x"`:                                               {{"negotiate", map[string]string{}}, {"bearer", map[string]string{"realm": "x"}}},
		`Bearer realm="never closed`:                                                {{"bearer", map[string]string{"realm": "never closed"}}},
		`="x"`:                                                                      nil, ``: nil, `,,,`: nil, `realm="x"`: nil,
	} {
		if got := challenges(http.Header{"Www-Authenticate": {field}}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%v, want\n%v", field, got, want)
		}
	}
	if c := choose(http.Header{"Www-Authenticate": {`Basic realm="a"`, `Bearer realm="b"`}}); c.scheme != "bearer" {
		t.Error(c)
	}
	if c := choose(http.Header{"Www-Authenticate": {`Bearer service="b"`, `NTLM`}}); c != nil {
		t.Error(c)
	}
}

func FuzzChallenges(f *testing.F) {
	for _, s := range []string{`Bearer realm="https://a/token",service="s",scope="x"`, `Basic realm="a", Bearer realm=b`, `a b="\`, `, =, a==`, "\x00\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		all := challenges(http.Header{"Www-Authenticate": {s}})
		if len(all) > maxChallenges {
			t.Error(len(all))
		}
		for _, c := range all {
			if c.scheme == "" || len(c.params) > maxParams {
				t.Errorf("%+v", c)
			}
			for k, v := range c.params {
				if k == "" || len(v) > len(s) {
					t.Errorf("%q=%q", k, v)
				}
			}
		}
		if c := choose(http.Header{"Www-Authenticate": {s}}); c != nil && c.scheme == "bearer" {
			s := newSession(nil, "registry.example.com", nil, nil)
			s.challenge, s.secure = c, true
			if u, err := s.realm(); err == nil && (u.Host == "" || u.Scheme != "https" && !sameHost(u, s.host)) {
				t.Errorf("realm %s", u)
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{`{"token":"x"}`, `{"access_token":"y","expires_in":300,"refresh_token":"r"}`, `{"Token":"x"}`, `{"token":5,"expires_in":-1e99}`, `[]`, `null`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := parseToken(b)
		if err == nil && (tok.value == "" || strings.ContainsAny(tok.value, "\r\n\x00") || tok.life < tokenLife || tok.life > 1e6*time.Second) {
			t.Errorf("%+v", tok)
		}
	})
}

// tokens is a token server for a registry: it counts, and may take tokens back.
type tokens struct {
	mu      sync.Mutex
	made    int
	good    string // the token that is taken now; empty: none
	users   map[string]string
	refresh string // given with a password, and taken as an identity token
	asked   []url.Values
}

// ServeHTTP gives tokens.
func (s *tokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.ParseForm()
	s.asked = append(s.asked, r.Form)
	u, p, has := r.BasicAuth()
	answer := map[string]any{}
	switch {
	case r.Method == http.MethodPost && r.Form.Get("grant_type") == "refresh_token" && s.refresh != "" && r.Form.Get("refresh_token") == s.refresh:
	case r.Method == http.MethodPost, has && s.users[u] != p, !has && s.users != nil:
		imagetest.Fail(w, 401, "UNAUTHORIZED", "incorrect username or password")
		return
	case has && r.Form.Get("offline_token") == "true" && s.refresh != "":
		answer["refresh_token"] = s.refresh
	}
	s.made++
	s.good = fmt.Sprint("token-", s.made)
	answer["token"] = s.good
	json.NewEncoder(w).Encode(answer)
}

// guardedBy asks for a token of s, which is at an address of its own.
func guardedBy(t *testing.T, s *tokens) func(http.Handler) http.Handler {
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			good, scope := s.good, "repository:x:pull"
			if strings.HasSuffix(r.URL.Path, "_catalog") {
				if scope = "registry:catalog:*"; len(s.asked) == 0 || !slices.Contains(s.asked[len(s.asked)-1]["scope"], scope) {
					good = ""
				}
			}
			s.mu.Unlock()
			if good == "" || r.Header.Get("Authorization") != "Bearer "+good {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="%s"`, server.URL, scope))
				imagetest.Fail(w, 401, "UNAUTHORIZED", "authentication required")
				return
			}
			h.ServeHTTP(w, r)
		})
	}
}

// TestTokenExpires: a token that is no longer taken in the middle of a pull, and between two ranges of a blob, is renewed once for all.
func TestTokenExpires(t *testing.T) {
	s := &tokens{}
	store, r, blob := serve(t, guardedBy(t, s))
	repo, err := Open(ctx, r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Resolve(ctx); err != nil {
		t.Fatal(err)
	}
	var cut atomic.Bool
	store.Hook = func(w http.ResponseWriter, req *http.Request) bool {
		if blobs(req) && !cut.Swap(true) {
			store.Serve(&cutter{onlyAfter(w, func() {
				s.mu.Lock()
				s.good = "" // revoked while the blob comes
				s.mu.Unlock()
			}), 100_000}, req)
			return true
		}
		return false
	}
	desc := imagespec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	rc, err := repo.Open(ctx, desc)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if b, err := io.ReadAll(rc); err != nil || !bytes.Equal(b, blob) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if s.made != 2 {
		t.Errorf("%d tokens", s.made)
	}
	s.mu.Lock()
	s.good = ""
	s.mu.Unlock()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := repo.Head(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s.made > 4 { // eight were refused, one asks
		t.Errorf("%d tokens", s.made)
	}
	// By the clock: what its server says has ended is not tried.
	se := repo.places[0].session
	se.end = time.Now()
	before := s.made
	if _, err := repo.Head(ctx); err != nil || s.made != before+1 {
		t.Error(err, s.made)
	}
}

// after calls f when the first bytes are written.
type after struct {
	http.ResponseWriter
	f func()
}

func onlyAfter(w http.ResponseWriter, f func()) http.ResponseWriter {
	return &after{w, sync.OnceFunc(f)}
}

// Unwrap is for http.ResponseController.
func (a *after) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *after) Write(p []byte) (int, error) {
	a.f()
	return a.ResponseWriter.Write(p)
}

func TestIdentityToken(t *testing.T) {
	s := &tokens{users: map[string]string{"brig": "secret"}, refresh: "long-lived"}
	_, r, _ := serve(t, guardedBy(t, s))
	c, err := Login(ctx, r.Domain, credential.Credential{Username: "brig", Password: "secret"}, Options{})
	if err != nil || c.IdentityToken != "long-lived" || c.Password != "" {
		t.Fatalf("%+v %v", c, err)
	}
	if _, err := credential.Open("").Put(ctx, r.Domain, c); err != nil {
		t.Fatal(err)
	}
	if _, _, err := pull(r, Options{}); err != nil {
		t.Error(err)
	}
	last := s.asked[len(s.asked)-1]
	if last.Get("refresh_token") != "long-lived" || last.Get("scope") != "repository:x:pull" || last.Get("service") != "test" {
		t.Error(last)
	}
	s.refresh = "another"
	if _, _, err := pull(r, Options{}); !errors.Is(err, api.Unauthorized) || !strings.Contains(err.Error(), "brig login") {
		t.Error(err)
	}
	for _, wrong := range []credential.Credential{{Username: "brig", Password: "x"}, {IdentityToken: "x"}} {
		if _, err := Login(ctx, r.Domain, wrong, Options{}); !errors.Is(err, api.Unauthorized) || !strings.Contains(err.Error(), "login attempt to http://"+r.Domain+"/v2/") {
			t.Error(err)
		}
	}
}

func TestLoginBasic(t *testing.T) {
	_, r, _ := serve(t, basic)
	if _, err := Login(ctx, r.Domain, credential.Credential{Username: "brig", Password: "secret"}, Options{}); err != nil {
		t.Error(err)
	}
	if _, err := Login(ctx, r.Domain, credential.Credential{Username: "brig", Password: "x"}, Options{}); !errors.Is(err, api.Unauthorized) || !strings.HasSuffix(err.Error(), "failed with status: 401 Unauthorized") {
		t.Error(err)
	}
	if _, err := Login(ctx, "127.0.0.1:1", credential.Credential{Username: "brig", Password: "x"}, Options{}); !errors.Is(err, api.Unavailable) || strings.Contains(err.Error(), "brig load") {
		t.Error(err)
	}
}

// TestRealm: a registry cannot send its clients, and what they know, where only their machine gets.
func TestRealm(t *testing.T) {
	for _, c := range []struct {
		host, realm string
		secure, ok  bool
	}{
		{"r.example.com", "https://auth.example.com/token", true, true},
		{"r.example.com", "https://10.1.2.3/token", true, true}, // a company's
		{"r.example.com", "http://auth.example.com/token", true, false},
		{"r.example.com", "https://169.254.169.254/latest/meta-data", true, false},
		{"r.example.com", "http://169.254.169.254/latest/meta-data", false, false},
		{"r.example.com", "https://[fe80::1]/", true, false},
		{"r.example.com", "https://[fd00:ec2::254]/", true, false},
		{"r.example.com", "https://127.0.0.1:8080/", true, false},
		{"r.example.com", "https://localhost/", true, false},
		{"127.0.0.1:5000", "http://127.0.0.1:5001/token", false, true},
		{"localhost:5000", "http://127.0.0.1:5001/token", true, true},
		{"r.example.com", "file:///etc/passwd", true, false},
		{"r.example.com", "https://u:p@auth.example.com/", true, false},
		{"r.example.com", "/token", true, false},
		{"r.example.com", "", true, false},
	} {
		s := newSession(nil, c.host, nil, nil)
		s.challenge, s.secure = &challenge{"bearer", map[string]string{"realm": c.realm}}, c.secure
		if u, err := s.realm(); (err == nil) != c.ok {
			t.Errorf("%+v: %v %v", c, u, err)
		}
	}
}

func TestParseToken(t *testing.T) {
	if _, err := parseToken([]byte(`{"Token":"iam","AccessKeyId":"x"}`)); err == nil {
		t.Error("another service's answer is a token")
	}
	if tok, err := parseToken([]byte(`{"access_token":"a","expires_in":300}`)); err != nil || tok.value != "a" || tok.life != 5*time.Minute {
		t.Error(tok, err)
	}
}

// TestAnotherHostGetsNothing: the session adds nothing to a request for another port, and follows no challenge from there.
func TestAnotherHostGetsNothing(t *testing.T) {
	var got []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Authorization"), r.Header.Get("X-Secret"))
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(401)
	}))
	defer other.Close()
	_, r, _ := serve(t, func(h http.Handler) http.Handler {
		return basic(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if blobs(req) {
				http.Redirect(w, req, other.URL+req.URL.Path, 307)
				return
			}
			h.ServeHTTP(w, req)
		}))
	})
	write(t, "containerd/certs.d/"+r.Domain+"/hosts.toml", "[header]\nX-Secret = \"s\"\n")
	write(t, "containers/auth.json", fmt.Sprintf(`{"auths":{%q:{"auth":"YnJpZzpzZWNyZXQ="}}}`, r.Domain))
	if _, _, err := pull(r, Options{}); !errors.Is(err, api.Unauthorized) {
		t.Error(err)
	}
	if strings.Join(got, "") != "" || len(got) == 0 {
		t.Errorf("another port got %q", got)
	}
}

func TestSearch(t *testing.T) {
	s := &tokens{users: map[string]string{"brig": "secret"}}
	store, r, _ := serve(t, guardedBy(t, s))
	pages := 0
	store.Hook = func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.URL.Path == "/v1/search" && strings.HasPrefix(req.URL.Query().Get("q"), "old"):
			fmt.Fprint(w, `{"results":[{"name":"a/old\u001b[31m","description":"x\ny","star_count":7,"is_official":true},{"name":"b"}]}`)
		case req.URL.Path == "/v2/_catalog" && req.URL.Query().Get("last") == "":
			pages++
			w.Header().Set("Link", `</v2/_catalog?last=b&n=1000>; rel="next"`)
			fmt.Fprint(w, `{"repositories":["team/app","b"]}`)
		case req.URL.Path == "/v2/_catalog":
			pages++
			fmt.Fprint(w, `{"repositories":["other/app"]}`)
		default:
			return false
		}
		return true
	}
	if _, err := Search(ctx, r.Domain, "app", 25, Options{}); !errors.Is(err, api.Unauthorized) || !strings.Contains(err.Error(), "brig login "+r.Domain) {
		t.Error(err)
	}
	write(t, "containers/auth.json", fmt.Sprintf(`{"auths":{%q:{"auth":"YnJpZzpzZWNyZXQ="}}}`, r.Domain))
	found, err := Search(ctx, r.Domain, "app", 25, Options{})
	if err != nil || len(found) != 2 || found[0].Name != r.Domain+"/team/app" || found[1].Name != r.Domain+"/other/app" || pages != 2 {
		t.Errorf("%+v %v", found, err)
	}
	if scope := s.asked[len(s.asked)-1].Get("scope"); scope != "registry:catalog:*" {
		t.Error(scope)
	}
	if found, err = Search(ctx, r.Domain, "app", 1, Options{}); err != nil || len(found) != 1 || pages != 3 {
		t.Errorf("%+v %v %d", found, err, pages)
	}
	found, err = Search(ctx, r.Domain, "old", 1, Options{})
	if err != nil || len(found) != 1 || found[0].Name != r.Domain+"/a/old [31m" || found[0].Description != "x y" || found[0].Stars != 7 || !found[0].Official {
		t.Errorf("%+v %v", found, err)
	}
	// docker.io has the old search alone; here a server of the test stands for it.
	write(t, "containerd/certs.d/docker.io/hosts.toml", fmt.Sprintf("server = \"http://%s\"\n", r.Domain))
	write(t, "containers/auth.json", `{"auths":{"docker.io":{"auth":"YnJpZzpzZWNyZXQ="}}}`)
	if found, err = Search(ctx, "docker.io", "old", 25, Options{}); err != nil || len(found) != 2 || found[1].Name != "b" {
		t.Errorf("%+v %v", found, err)
	}
	store.Hook = func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/v2/" {
			return false
		}
		http.NotFound(w, req)
		return true
	}
	if _, err = Search(ctx, r.Domain, "x", 25, Options{AuthFile: "/dev/null"}); err == nil {
		t.Error("searched without credentials")
	}
	write(t, "containers/auth.json", fmt.Sprintf(`{"auths":{%q:{"auth":"YnJpZzpzZWNyZXQ="}}}`, r.Domain))
	if _, err = Search(ctx, r.Domain, "x", 25, Options{}); !errors.Is(err, api.Unsupported) || !strings.Contains(err.Error(), "cannot be searched") {
		t.Error(err)
	}
}

// TestWriting: the helper for writing sends a body again after a refusal, and follows a Location that the registry gave.
func TestWriting(t *testing.T) {
	s := &tokens{users: map[string]string{"brig": "secret"}}
	store, r, _ := serve(t, guardedBy(t, s))
	write(t, "containers/auth.json", fmt.Sprintf(`{"auths":{%q:{"auth":"YnJpZzpzZWNyZXQ="}}}`, r.Domain))
	var put []string
	store.Hook = func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.Method == http.MethodPost:
			w.Header().Set("Location", "/upload/1?state=a%2Fb")
			w.WriteHeader(202)
		case req.Method == http.MethodPut:
			b, _ := io.ReadAll(req.Body)
			put = append(put, string(b)+" "+req.URL.String())
			w.WriteHeader(201)
		default:
			return false
		}
		return true
	}
	repo, err := Open(ctx, r, Options{Actions: []string{"pull", "push"}, Mount: []string{"other"}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := repo.do(ctx, request{method: http.MethodPost, path: "blobs/uploads/", ok: []int{202}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if scopes := s.asked[0]["scope"]; !reflect.DeepEqual(scopes, []string{"repository:x:pull,push", "repository:other:pull"}) {
		t.Error(scopes)
	}
	u, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.good = "" // expires before the upload
	s.mu.Unlock()
	resp, err = repo.do(ctx, request{method: http.MethodPut, path: u.String(), query: url.Values{"digest": {"sha256:x"}}, size: 5, ok: []int{201},
		body: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("bytes")), nil }})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if len(put) != 1 || put[0] != "bytes /upload/1?digest=sha256%3Ax&state=a%2Fb" {
		t.Error(put)
	}
}

func TestCovered(t *testing.T) {
	s := newSession(nil, "h", []string{"repository:x:pull,push"}, func(context.Context) (credential.Credential, error) { return credential.Credential{}, nil })
	for _, scope := range []string{"repository:x:pull", "repository:x:push,pull"} {
		if !s.covered(scope) {
			t.Error(scope)
		}
	}
	for _, scope := range []string{"repository:x:delete", "repository:xy:pull", "pull", ""} {
		if s.covered(scope) {
			t.Error(scope)
		}
	}
}

// TestTokenServerSendsOn: where a token server redirects to another host, or another port of its own, neither password nor identity token goes along.
func TestTokenServerSendsOn(t *testing.T) {
	var leaked atomic.Value
	leaked.Store("")
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if s := r.Header.Get("Authorization") + string(b); s != "" {
			leaked.Store(s)
		}
		json.NewEncoder(w).Encode(map[string]string{"token": "x"})
	}))
	defer other.Close()
	sends := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/token", http.StatusTemporaryRedirect)
	}))
	defer sends.Close()
	for name, c := range map[string]credential.Credential{"password": {Username: "brig", Password: "secret"}, "identity token": {IdentityToken: "secret"}} {
		leaked.Store("")
		s := newSession(http.DefaultTransport, "127.0.0.1:1", nil, func(context.Context) (credential.Credential, error) { return c, nil })
		s.challenge = &challenge{"bearer", map[string]string{"realm": sends.URL + "/token"}}
		_, err := s.authorization(ctx, "")
		if got := leaked.Load(); got != "" {
			t.Errorf("%s: another host got %s", name, got)
		}
		if err == nil || !strings.Contains(err.Error(), "redirect") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Who is nobody has nothing to lose.
	s := newSession(http.DefaultTransport, "127.0.0.1:1", nil, func(context.Context) (credential.Credential, error) { return credential.Credential{}, nil })
	s.challenge = &challenge{"bearer", map[string]string{"realm": sends.URL + "/token"}}
	if got, err := s.authorization(ctx, ""); err != nil || got != "Bearer x" {
		t.Errorf("%q %v", got, err)
	}
}
