package credential

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"brig/api"
)

var ctx = context.Background()

// home makes a user without any credentials.
func home(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, v := range map[string]string{"HOME": dir, "XDG_RUNTIME_DIR": filepath.Join(dir, "run"), "DOCKER_CONFIG": "", "XDG_CONFIG_HOME": "", "REGISTRY_AUTH_FILE": "", "DOCKER_AUTH_CONFIG": ""} {
		t.Setenv(name, v)
	}
	return dir
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// auths is a file with a user for each key; the password is the user's name too.
func auths(pairs ...string) string {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(pairs[i+1] + ":" + pairs[i+1]))}
	}
	b, _ := json.Marshal(map[string]any{"auths": m})
	return string(b)
}

func user(t *testing.T, authFile, host, repo string) string {
	t.Helper()
	c, err := Open(authFile).Get(ctx, host, repo)
	if err != nil {
		return err.Error()
	}
	return c.Username
}

// TestOrder: of the places that know a registry the first decides, and the longest key in it.
func TestOrder(t *testing.T) {
	dir := home(t)
	if got := user(t, "", "r.com", "x"); got != "" {
		t.Error(got)
	}
	put(t, dir+"/.config/containers/auth.json", auths("r.com", "config", "only.com", "config"))
	put(t, dir+"/run/containers/auth.json", auths("r.com", "runtime", "r.com/team", "team", "r.com/team/app", "app", "old.com/v1/", "old"))
	for repo, want := range map[string]string{"": "runtime", "x": "runtime", "team": "team", "team/x": "team", "team/app": "app", "team/app/sub": "app", "teams": "runtime", "team/apps": "team"} {
		if got := user(t, "", "r.com", repo); got != want {
			t.Errorf("r.com/%s: %s, want %s", repo, got, want)
		}
	}
	if got := user(t, "", "only.com", "x") + user(t, "", "old.com", "x"); got != "configold" {
		t.Error(got)
	}
	put(t, dir+"/.docker/config.json", auths("https://r.com", "docker", "https://index.docker.io/v1/", "hub", "http://h.com:5000/v2/", "port"))
	if got := user(t, "", "r.com", "team/app") + user(t, "", "docker.io", "library/debian") + user(t, "", "h.com:5000", ""); got != "dockerhubport" {
		t.Error(got)
	}
	t.Setenv("DOCKER_CONFIG", dir+"/elsewhere")
	put(t, dir+"/elsewhere/config.json", auths("docker.io", "two"))
	if got := user(t, "", "docker.io", "library/debian") + user(t, "", "r.com", "x"); got != "tworuntime" {
		t.Error(got)
	}
	t.Setenv("DOCKER_AUTH_CONFIG", auths("r.com", "text"))
	if got := user(t, "", "r.com", "x") + user(t, "", "docker.io", "x"); got != "texttwo" {
		t.Error(got)
	}
	put(t, dir+"/mine.json", auths("r.com/team", "mine"))
	t.Setenv("REGISTRY_AUTH_FILE", dir+"/mine.json")
	if got := user(t, "", "r.com", "team/x") + user(t, "", "r.com", "x"); got != "mine" {
		t.Error(got)
	}
	put(t, dir+"/given.json", auths("r.com", "given"))
	if got := user(t, dir+"/given.json", "r.com", "team/x"); got != "given" {
		t.Error(got)
	}
}

func TestBadFiles(t *testing.T) {
	dir := home(t)
	path := dir + "/.docker/config.json"
	for text, word := range map[string]string{
		"{": "config.json", `[]`: "config.json", `{"auths":5}`: "auths", `{"credHelpers":{"a":5}}`: "credHelpers", `{"credsStore":5}`: "credsStore",
		`{"auths":{"r.com":{"auth":"!"}}}`: "base64", `{"auths":{"r.com":{"auth":"eA=="}}}`: "base64", `{"auths":{"r.com":5}}`: "r.com",
		`{"credsStore":"../x"}`: "no name", `{"credsStore":"brig-has-not-got-it"}`: "not installed",
	} {
		put(t, path, text)
		if _, err := Open("").Get(ctx, "r.com", "x"); err == nil || !strings.Contains(err.Error(), word) || !strings.Contains(err.Error(), "config.json") {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", " \n", "{}", "null", `{"auths":null,"other":[1]}`, `{"auths":{"r.com":{}}}`, `{"auths":{"other.com":{"auth":"!"}}}`} {
		put(t, path, text)
		if got := user(t, "", "r.com", "x"); got != "" {
			t.Errorf("%s: %s", text, got)
		}
	}
	if err := os.Truncate(path, maxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("").Get(ctx, "r.com", ""); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Error(err)
	}
}

// TestPut: what else is in the file stays, the mode is 0600, a link stays a link, and what docker reads is written.
func TestPut(t *testing.T) {
	dir := home(t)
	kept, err := Open("").Put(ctx, "r.com", Credential{Username: "u", Password: "p:w"})
	path := dir + "/.docker/config.json"
	if err != nil || kept.File != path || kept.Helper != "" {
		t.Fatal(kept, err)
	}
	put(t, dir+"/real.json", `{"HttpHeaders":{"X":"y"},"big":12345678901234567890,"auths":{"https://r.com/v1/":{"auth":"eDp5"},"z.com":{"auth":"eDp5","email":"e"}},"currentContext":"c"}`)
	os.Remove(path)
	if err := os.Symlink(dir+"/real.json", path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("").Put(ctx, "r.com", Credential{Username: "u", Password: "p:w"}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(dir + "/real.json")
	if err != nil {
		t.Fatal(err)
	}
	want := "{\n\t\"HttpHeaders\": {\n\t\t\"X\": \"y\"\n\t},\n\t\"auths\": {\n\t\t\"r.com\": {\n\t\t\t\"auth\": \"dTpwOnc=\"\n\t\t},\n\t\t\"z.com\": {\n\t\t\t\"auth\": \"eDp5\",\n\t\t\t\"email\": \"e\"\n\t\t}\n\t},\n\t\"big\": 12345678901234567890,\n\t\"currentContext\": \"c\"\n}\n"
	if string(b) != want {
		t.Errorf("%s", b)
	}
	if st, err := os.Stat(dir + "/real.json"); err != nil || st.Mode() != 0o600 {
		t.Error(st.Mode(), err)
	}
	if st, err := os.Lstat(path); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is gone")
	}
	if c, err := Open("").Get(ctx, "r.com", ""); err != nil || c.Username != "u" || c.Password != "p:w" {
		t.Error(c, err)
	}
	if _, err := Open("").Put(ctx, "docker.io", Credential{Username: "u", IdentityToken: "id"}); err != nil {
		t.Fatal(err)
	}
	if c, err := Open("").Get(ctx, "docker.io", "x"); err != nil || c.IdentityToken != "id" || c.Password != "" || c.Username != "u" {
		t.Error(c, err)
	}
	put(t, dir+"/run/containers/auth.json", auths("r.com", "podman"))
	found, others, err := Open("").Erase(ctx, "r.com")
	if err != nil || !found || len(others) != 1 || others[0] != dir+"/run/containers/auth.json" {
		t.Error(found, others, err)
	}
	if found, _, err := Open("").Erase(ctx, "docker.io"); err != nil || !found {
		t.Error(found, err)
	}
	if found, _, err := Open("").Erase(ctx, "docker.io"); err != nil || found {
		t.Error(found, err)
	}
	b, _ = os.ReadFile(dir + "/real.json")
	if strings.Contains(string(b), "r.com") || strings.Contains(string(b), "docker.io") || !strings.Contains(string(b), "z.com") {
		t.Errorf("%s", b)
	}
	left, _ := os.ReadDir(dir)
	for _, f := range left {
		if strings.HasPrefix(f.Name(), "real.json.") {
			t.Errorf("left: %s", f.Name())
		}
	}
	// A file that cannot be understood is not replaced.
	put(t, dir+"/real.json", "{broken")
	if _, err := Open("").Put(ctx, "r.com", Credential{Username: "u", Password: "p"}); !errors.Is(err, api.InvalidArgument) {
		t.Error(err)
	}
	if b, _ := os.ReadFile(dir + "/real.json"); string(b) != "{broken" {
		t.Errorf("%s", b)
	}
}

// TestPutAtATime: none of those who log in at a time loses another's credentials.
func TestPutAtATime(t *testing.T) {
	home(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := Open("").Put(ctx, fmt.Sprintf("r%d.com", i), Credential{Username: "u", Password: "p"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 20 {
		if got := user(t, "", fmt.Sprintf("r%d.com", i), ""); got != "u" {
			t.Error(i, got)
		}
	}
}

// helper installs docker-credential-NAME, which keeps what it is told in a folder.
func helper(t *testing.T, name string) string {
	t.Helper()
	bin, keep := t.TempDir(), t.TempDir()
	script := fmt.Sprintf(`#!/bin/sh
in=$(cat)
case $1 in
store) f=$(printf %%s "$in" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/' | tr / _); printf %%s "$in" >%[1]s/"$f";;
get) f=$(printf %%s "$in" | tr / _); [ -f %[1]s/"$f" ] || { echo "credentials not found in native keychain"; exit 1; }; cat %[1]s/"$f";;
erase) f=$(printf %%s "$in" | tr / _); [ -f %[1]s/"$f" ] || { echo "credentials not found in native keychain"; exit 1; }; rm %[1]s/"$f";;
esac
`, keep)
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return keep
}

func TestHelpers(t *testing.T) {
	dir := home(t)
	keep := helper(t, "brigtest")
	path := dir + "/.docker/config.json"
	put(t, path, `{"credsStore":"brigtest","credHelpers":{"bad.com":"brig-has-not-got-it"}}`)
	for _, host := range []string{"r.com", "docker.io"} {
		kept, err := Open("").Put(ctx, host, Credential{Username: "u", Password: "secret"})
		if err != nil || kept.Helper != "brigtest" {
			t.Fatal(kept, err)
		}
		if c, err := Open("").Get(ctx, host, "x"); err != nil || c.Username != "u" || c.Password != "secret" {
			t.Error(c, err)
		}
	}
	b, _ := os.ReadFile(path)
	if strings.Contains(string(b), "auth\"") || !strings.Contains(string(b), `"r.com": {}`) || !strings.Contains(string(b), `"https://index.docker.io/v1/": {}`) {
		t.Errorf("%s", b)
	}
	if _, err := os.Stat(keep + "/https:__index.docker.io_v1_"); err != nil {
		t.Error("docker would not find it:", err)
	}
	if _, err := Open("").Put(ctx, "t.com", Credential{Username: "u", IdentityToken: "id"}); err != nil {
		t.Fatal(err)
	}
	if c, err := Open("").Get(ctx, "t.com", "x"); err != nil || c.IdentityToken != "id" {
		t.Error(c, err)
	}
	if found, _, err := Open("").Erase(ctx, "r.com"); err != nil || !found {
		t.Error(found, err)
	}
	if got := user(t, "", "r.com", "x"); got != "" {
		t.Error(got)
	}
	// A helper that is missing is told, and nothing is written in its place.
	if _, err := Open("").Put(ctx, "bad.com", Credential{Username: "u", Password: "secret"}); err == nil || !strings.Contains(err.Error(), "docker-credential-brig-has-not-got-it") {
		t.Error(err)
	}
	if b, _ := os.ReadFile(path); strings.Contains(string(b), "secret") || strings.Contains(string(b), base64.StdEncoding.EncodeToString([]byte("u:secret"))) {
		t.Errorf("%s", b)
	}
	if _, _, err := Open("").Erase(ctx, "bad.com"); err == nil {
		t.Error("a helper that is missing erased")
	}
	// One of registries.conf is asked after the files.
	put(t, path, "{}")
	if c, err := Open("", "brigtest").Get(ctx, "t.com", "x"); err != nil || c.IdentityToken != "id" {
		t.Error(c, err)
	}
}

// TestDetect: docker's choice where nothing is configured.
func TestDetect(t *testing.T) {
	home(t)
	keep := helper(t, "secretservice")
	t.Setenv("PATH", strings.Split(os.Getenv("PATH"), ":")[0]+":/bin:/usr/bin")
	kept, err := Open("").Put(ctx, "r.com", Credential{Username: "u", Password: "p"})
	if err != nil || kept.Helper != "secretservice" {
		t.Skipf("pass is installed: %v %v", kept, err)
	}
	if list, _ := os.ReadDir(keep); len(list) != 1 {
		t.Error(list)
	}
	if got := user(t, "", "r.com", "x"); got != "u" {
		t.Error(got)
	}
}

func TestHost(t *testing.T) {
	for s, want := range map[string]string{"": "docker.io", "docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io", "registry-1.docker.io": "docker.io", "localhost": "localhost",
		"myhost": "myhost", "https://r.com/v2/": "r.com", "http://r.com:5000": "r.com:5000", "r.com/team/app": "r.com", "[::1]:5000": "[::1]:5000", "10.0.0.1": "10.0.0.1"} {
		if got, err := Host(s); got != want || err != nil {
			t.Errorf("%q: %q %v", s, got, err)
		}
	}
	for _, s := range []string{"a b", "-x", "r.com:port", "..", "x@y", "https:///x:y:z"} {
		if got, err := Host(s); err == nil && got != "docker.io" || s != "https:///x:y:z" && !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%q: %q %v", s, got, err)
		}
	}
}

func FuzzAuthFile(f *testing.F) {
	for _, s := range []string{auths("r.com", "u", "https://r.com/v1/", "v", "r.com/a", "w"), `{"auths":{"r.com":{"identitytoken":"x"}},"credHelpers":{"r.com":""}}`, `{"auths":{"r.com":{"auth":"eA=="}}}`, "null", ""} {
		f.Add([]byte(s), "r.com", "a/b")
	}
	f.Fuzz(func(t *testing.T, b []byte, host, repo string) {
		one, err := parse(b)
		if err != nil {
			return
		}
		before := len(one.auths)
		if _, err := one.held(host, repo); err != nil && strings.Contains(err.Error(), "unexpected end") {
			t.Error(err)
		}
		one.helper(host)
		one.remove(host)
		if err := one.put(host, Credential{Username: "u", Password: "p"}); err != nil {
			t.Fatal(err)
		}
		text, err := one.text()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(text)
		if err != nil || len(again.auths) > before+1 {
			t.Fatalf("%v: %s", err, text)
		}
		if normal(host) == host && strings.ToValidUTF8(host, "") == host {
			if c, err := again.held(host, ""); err != nil || c.Password != "p" {
				t.Errorf("%+v %v", c, err)
			}
		}
	})
}
