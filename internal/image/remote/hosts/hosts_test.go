package hosts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"brig/api"
	"brig/internal/image/ref"
)

// rulesOf makes a configuration of the text of a registries.conf.
func rulesOf(t *testing.T, text string) *Config {
	t.Helper()
	r, err := parseRules([]byte(text), "test.conf")
	if err != nil {
		t.Fatal(err)
	}
	return &Config{rules: r}
}

func parse(t *testing.T, s string) ref.Ref {
	t.Helper()
	r, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// show lists places as words: ~ is a mirror, ! is insecure.
func show(all []Endpoint, err error) string {
	if err != nil {
		return err.Error()
	}
	var words []string
	for _, e := range all {
		w := e.Host + "/" + e.Repo
		if e.Mirror {
			w = "~" + w
		}
		if e.Insecure {
			w = "!" + w
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// TestRules: the examples of containers-registries.conf(5), and what it says in words.
func TestRules(t *testing.T) {
	c := rulesOf(t, `
unqualified-search-registries = ["example.com"]
[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"
[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"
[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo/"
insecure = true
[[registry]]
location = "registry.com"
[[registry.mirror]]
location = "mirror.registry.com"
[[registry]]
prefix = "*.wild.com"
insecure = true
[[registry.mirror]]
location = "mirror.wild.com:5000/cache"
[[registry]]
prefix = "one.wild.com"
[[registry]]
prefix = "*.moved.com"
location = "new.example.com:8443/old"
[[registry]]
location = "evil.com"
blocked = true
[[registry]]
prefix = "evil.com/good"
[[registry]]
prefix = "docker.io"
mirror-by-digest-only = true
[[registry.mirror]]
location = "hub.local:5000"
[[registry]]
prefix = "docker.io/library/special"
location = "localhost:5000/special"
[[registry]]
prefix = "when.com"
[[registry.mirror]]
location = "tags.com"
pull-from-mirror = "tag-only"
[[registry.mirror]]
location = "digests.com"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "bare/x"
pull-from-mirror = "all"
`)
	digest := "@sha256:" + strings.Repeat("a", 64)
	for name, want := range map[string]string{
		"example.com/foo/image:1":       "~example-mirror-0.local/mirror-for-foo/image !~example-mirror-1.local/mirrors/foo/image internal-registry-for-example.com/bar/image",
		"example.com/foo:1":             "~example-mirror-0.local/mirror-for-foo !~example-mirror-1.local/mirrors/foo internal-registry-for-example.com/bar",
		"example.com/foobar":            "example.com/foobar",
		"example.com/other":             "example.com/other",
		"registry.com/a/b":              "~mirror.registry.com/a/b registry.com/a/b",
		"registry.com:5000/a/b":         "registry.com:5000/a/b",
		"registry.community/a":          "registry.community/a",
		"a.wild.com/x":                  "~mirror.wild.com:5000/cache/x !a.wild.com/x",
		"a.b.wild.com:5000/x":           "~mirror.wild.com:5000/cache/x !a.b.wild.com:5000/x",
		"one.wild.com/x":                "one.wild.com/x",
		"wild.com/x":                    "wild.com/x",
		"x.moved.com/y/z:3":             "new.example.com:8443/old/y/z",
		"evil.com/x":                    "registry evil.com is blocked in test.conf",
		"evil.com/good/x":               "evil.com/good/x",
		"debian":                        "registry-1.docker.io/library/debian",
		"debian" + digest:               "~hub.local:5000/library/debian registry-1.docker.io/library/debian",
		"special:2":                     "localhost:5000/special",
		"when.com/x":                    "~tags.com/x ~bare/x/x when.com/x",
		"when.com/x" + digest:           "~digests.com/x ~bare/x/x when.com/x",
		"docker.io/library/specialties": "registry-1.docker.io/library/specialties",
	} {
		if got := show(c.Endpoints(parse(t, name), false)); got != want {
			t.Errorf("%s:\n%s, want\n%s", name, got, want)
		}
	}
	// What is written goes to the registry by its own name, and is blocked too.
	for name, want := range map[string]string{
		"example.com/foo/image:1": "example.com/foo/image", "a.wild.com/x": "!a.wild.com/x", "evil.com/x": "registry evil.com is blocked in test.conf", "debian" + digest: "registry-1.docker.io/library/debian",
	} {
		if got := show(c.Endpoints(parse(t, name), true)); got != want {
			t.Errorf("push %s:\n%s, want\n%s", name, got, want)
		}
	}
	if e, err := c.Registry("docker.io"); err != nil || e.Host != "registry-1.docker.io" || e.Account != "docker.io" || e.Repo != "" {
		t.Errorf("%+v %v", e, err)
	}
	if _, err := c.Registry("evil.com"); !errors.Is(err, api.Unauthorized) {
		t.Error(err)
	}
}

func TestBadRules(t *testing.T) {
	for text, word := range map[string]string{
		"[registries.search]\nregistries=['docker.io']":                      "version 1",
		"[[registry]]\ninsecure=true":                                        "neither prefix nor location",
		"[[registry]]\nlocation='https://x.com'":                             "scheme",
		"[[registry]]\nprefix='a.*.com'":                                     "wildcard",
		"[[registry]]\nprefix='*.a.com/foo'":                                 "wildcard",
		"[[registry]]\nlocation='x.com'\n[[registry.mirror]]\ninsecure=true": "mirror",
		"[[registry]]\nlocation='x.com'\n[[registry.mirror]]\nlocation='m.com'\npull-from-mirror='sometimes'":                       "sometimes",
		"[[registry]]\nlocation='x.com'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='m.com'\npull-from-mirror='all'": "exclude",
		"unqualified-search-registries=['a.com/b']": "HOST",
		"unqualified-search-registries=['../x']":    "HOST",
		"[[registry]]\nlocation='x.com/UPPER'":      "UPPER",
		"unqualified-search-registries='x'":         "",
		"[[":                                        "",
	} {
		if _, err := parseRules([]byte(text), "f"); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestFiles: which files are read, in which order, and who wins.
func TestFiles(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("CONTAINERS_REGISTRIES_CONF", "")
	put := func(name, text string) string {
		path := filepath.Join(home, ".config/containers", name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	load := func() *Config {
		t.Helper()
		c, err := Load("")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	put("registries.conf", "unqualified-search-registries=['main.com']\n[[registry]]\nlocation='a.com'\ninsecure=true\n[aliases]\nx='main.com/x'\n")
	put("registries.conf.d/20-b.conf", "unqualified-search-registries=['late.com']\n[[registry]]\nlocation='a.com'\n[[registry]]\nlocation='b.com'\ninsecure=true\n[aliases]\nx='late.com/x'\ny='late.com/y'\n")
	put("registries.conf.d/10-a.conf", "unqualified-search-registries=['early.com']")
	put("registries.conf.d/ignored.txt", "[[")
	c := load()
	if got := show(c.Endpoints(parse(t, "a.com/x"), false)) + " " + show(c.Endpoints(parse(t, "b.com/x"), false)); got != "a.com/x !b.com/x" {
		t.Error(got)
	}
	for typed, want := range map[string]string{
		"foo": "[late.com/foo:latest]", "a/foo:1": "[late.com/a/foo:1]", "x:2": "[late.com/x:2]", "y": "[late.com/y:latest]",
		"docker.io/foo": "[docker.io/library/foo:latest]", "localhost/foo": "[localhost/foo:latest]", "a.com:80/foo": "[a.com:80/foo:latest]",
	} {
		if got, err := c.Short(typed); fmt.Sprint(got) != want || err != nil {
			t.Errorf("%s: %v %v, want %s", typed, got, err, want)
		}
	}
	other := filepath.Join(home, "other.conf")
	os.WriteFile(other, []byte("[[registry]]\nlocation='c.com'\ninsecure=true\n"), 0o644)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", other)
	if got := show(load().Endpoints(parse(t, "c.com/x"), false)); got != "!c.com/x" {
		t.Error(got)
	}
	t.Setenv("CONTAINERS_REGISTRIES_CONF", other+"x")
	if _, err := Load(""); !errors.Is(err, api.InvalidArgument) {
		t.Error("a file that the environment names is missing:", err)
	}
	t.Setenv("CONTAINERS_REGISTRIES_CONF", "")
	path := put("registries.conf.d/30-bad.conf", "x = ")
	if _, err := Load(""); !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	os.WriteFile(path, make([]byte, maxFile+1), 0o644)
	if _, err := Load(""); !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), "larger") {
		t.Error(err)
	}
	if _, err := Load(filepath.Join(home, "none")); !errors.Is(err, api.InvalidArgument) {
		t.Error(err)
	}
}

// TestShortByDefault: docker.io, unless somebody says otherwise; aliases alone, which Debian ships, do not.
func TestShortByDefault(t *testing.T) {
	c := rulesOf(t, "[aliases]\nfedora='registry.fedoraproject.org/fedora'")
	if got, err := c.Short("fedora"); err != nil || fmt.Sprint(got) != "[docker.io/library/fedora:latest]" {
		t.Error(got, err)
	}
}

func TestHostsFile(t *testing.T) {
	all, err := parseHosts([]byte(`
server = "https://registry-1.docker.io"
ca = "hub.crt"
[host."https://z.example.com"]
  capabilities = ["pull", "resolve"]
  client = [["a.cert", "/abs/a.key"], ["b.cert", "b.key"]]
  dial_timeout = "3s"
[host."http://a.example.com:5000/v2/proxy"]
  capabilities = ["Pull"]
  override_path = true
  skip_verify = true
  [host."http://a.example.com:5000/v2/proxy".header]
    x-one = "1"
    x-two = ["2", "3"]
[host."plain.example.com"]
  client = ["c.pem"]
  ca = ["one.crt", "/two.crt"]
[host."http://h.example.com/sub/"]
`), "/d/hosts.toml")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range all {
		got = append(got, fmt.Sprint(e.Schemes, e.Host, e.Root, " ", e.Resolve, e.Pull, e.Push, e.CA, e.Client, e.DialTimeout, len(e.Header)))
	}
	want := []string{
		"[https]z.example.com/v2 true true false [] [[/d/a.cert /abs/a.key] [/d/b.cert /d/b.key]] 3s 0",
		"[https http]a.example.com:5000/v2/proxy false true false [] [] 0s 2",
		"[https]plain.example.com/v2 true true true [/d/one.crt /two.crt] [[/d/c.pem ]] 0s 0",
		"[http]h.example.com/sub/v2 true true true [] [] 0s 0",
		"[https]registry-1.docker.io/v2 true true true [/d/hub.crt] [] 0s 0",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for text, word := range map[string]string{
		`[host."https://x"]` + "\ncapabilities=['fly']": "fly", `ca = 5`: "ca", `ca = [5]`: "ca", `client = [["a"]]`: "client", `client = [5]`: "client",
		`dial_timeout = "soon"`: "dial_timeout", `server = "https://"`: "host", `server = "https://u:p@x"`: "want", "[header]\nx = 5": "header", "[header]\nx = \"a\\r\\nb\"": "line break",
		`[host."https://x y"]`: "host", `server`: "",
	} {
		if _, err := parseHosts([]byte(text), "/f"); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestPrecedence: registries.conf says where, once it has a rule with a place; certs.d says how, whoever named the place.
func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := rulesOf(t, "[[registry]]\nlocation='a.com'\n[[registry.mirror]]\nlocation='m.com:5000'\n[[registry]]\nlocation='b.com'\ninsecure=true\n")
	c.hosts, c.certs = []string{filepath.Join(dir, "hosts")}, []string{filepath.Join(dir, "certs")}
	put("hosts/a.com/hosts.toml", "ca='a.crt'\n[host.'https://elsewhere.com']\n")
	put("hosts/b.com/hosts.toml", "[host.'https://elsewhere.com']\n")
	put("hosts/m.com_5000_/hosts.toml", "skip_verify=true\n")
	put("hosts/_default/hosts.toml", "[host.'https://for-all.com']\n")
	put("certs/m.com:5000/x.crt", "")
	put("certs/docker.io/hub.crt", "")
	put("certs/for-all.com/c.cert", "")
	put("certs/for-all.com/c.key", "")
	for name, want := range map[string]string{
		"a.com/x": "~m.com:5000/x a.com/x", "b.com/x": "~elsewhere.com/x !b.com/x", "other.com/x": "~for-all.com/x other.com/x", "debian": "~for-all.com/library/debian registry-1.docker.io/library/debian",
	} {
		if got := show(c.Endpoints(parse(t, name), false)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	all, err := c.Endpoints(parse(t, "a.com/x"), false)
	if err != nil || *all[0].SkipVerify != true || len(all[0].CA) != 1 || all[1].CA[0] != filepath.Join(dir, "hosts/a.com/a.crt") {
		t.Errorf("%+v %v", all, err)
	}
	all, err = c.Endpoints(parse(t, "debian"), false)
	if err != nil || all[0].NS != "docker.io" || all[0].Account != "for-all.com" || len(all[0].Client) != 1 || all[1].NS != "" || all[1].Account != "docker.io" || len(all[1].CA) != 1 {
		t.Errorf("%+v %v", all, err)
	}
	put("hosts/c.com/hosts.toml", "capabilities=['pull']")
	if _, err := c.Endpoints(parse(t, "c.com/x"), true); !errors.Is(err, api.Unsupported) {
		t.Error(err)
	}
	put("hosts/c.com/hosts.toml", "capabilities=[")
	if _, err := c.Endpoints(parse(t, "c.com/x"), false); !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), "c.com/hosts.toml") {
		t.Error(err)
	}
}

func FuzzRegistriesConf(f *testing.F) {
	for _, s := range []string{"[[registry]]\nlocation='a.com/x'\nprefix='*.b.com'\n[[registry.mirror]]\nlocation='m'\n", "unqualified-search-registries=['a.com']\n[aliases]\nx='y'", "[[registry]]\nprefix='docker.io/library/debian:12'\nlocation='h/p'", "[registries]"} {
		f.Add(s, "docker.io/library/debian:12")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		r, err := parseRules([]byte(text), "f")
		if err != nil {
			return
		}
		c := &Config{rules: r}
		image, err := ref.Parse(name)
		if err != nil {
			return
		}
		for _, push := range []bool{false, true} {
			all, err := c.places(image, push)
			if err != nil {
				continue
			}
			if len(all) == 0 || push && len(all) != 1 || all[len(all)-1].Mirror {
				t.Fatalf("%+v", all)
			}
			for _, e := range all { // what a request is built from
				if _, err := ref.Parse(qualified(e.Host) + "/" + e.Repo); err != nil || len(e.Schemes) == 0 {
					t.Errorf("%+v: %v", e, err)
				}
			}
		}
		if _, err := c.Short(name); err == nil && len(r.Search) == 0 {
			if got, _ := c.Short(name); len(got) != 1 || got[0] != image {
				t.Error(got)
			}
		}
	})
}

func FuzzHostsToml(f *testing.F) {
	for _, s := range []string{"server='https://a'\n[host.'http://b/c']\ncapabilities=['pull']\n[host.'http://b/c'.header]\nx=['y']", "ca=['a']\nclient=[['a','b']]\nskip_verify=true", "[host.x]\noverride_path=true", "[[host]]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseHosts(b, "/f/hosts.toml")
		if err != nil {
			return
		}
		if len(all) == 0 {
			t.Fatal("no server")
		}
		for i, e := range all {
			if (e.Host == "" || len(e.Schemes) == 0) && i < len(all)-1 {
				t.Errorf("%+v", e)
			}
			for _, p := range e.CA {
				if !filepath.IsAbs(p) {
					t.Error(p)
				}
			}
			for k, v := range e.Header {
				if strings.ContainsAny(k+strings.Join(v, ""), "\r\n") {
					t.Error(k, v)
				}
			}
		}
	})
}
