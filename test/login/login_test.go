// Package login holds brig login, logout and search beside docker, podman and skopeo: each reads the credentials that another wrote, at
// Debian's docker-registry with TLS by an authority of the test, behind passwords or behind a token server.
//
// All runs in private namespaces. The registry has an address that is not loopback, so that certificates are verified.
package login

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

// address is the registries': the network namespace's own.
const address = "10.77.0.1"

const (
	user     = "brig"
	password = "s3cret pass"
	bcrypt   = "$2b$04$t4Hm4ZmjNLDtAxXeO9dNKOS1N2e6SiE0IujXRgxddaL7W6XCVFkZm" // of password
)

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func prepare() error {
	if err := machine.Private(false); err != nil {
		return err
	}
	if out, err := exec.Command("ip", "address", "add", address+"/32", "dev", "lo").CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	for _, dir := range []string{"/etc/docker", "/etc/containers/registries.conf.d"} { // the machine's stay out of it
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

// world is a user without any credentials, and a registry.
type world struct {
	*testing.T
	home string
	env  []string
	host string
}

func newWorld(t *testing.T, auth string) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("private namespaces need root")
	}
	for _, p := range []string{"docker-registry", "skopeo", "podman", "docker"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed: make setup setup-bench", p)
		}
	}
	w := &world{T: t, home: t.TempDir()}
	bin := os.Getenv("BRIG_TEST_BIN")
	if bin == "" {
		bin, _ = filepath.Abs("../../bin")
	}
	if _, err := os.Stat(filepath.Join(bin, "brig-image")); err != nil {
		t.Fatalf("%v: make build", err)
	}
	w.env = []string{"HOME=" + w.home, "XDG_RUNTIME_DIR=" + w.home + "/run", "PATH=" + bin + ":" + w.home + "/bin:" + os.Getenv("PATH"),
		"BRIG_ROOT=" + w.home + "/root", "BRIG_STATE=" + w.home + "/state", "TMPDIR=" + os.TempDir()}
	os.MkdirAll(w.home+"/run", 0o700)
	w.host = startRegistry(t, auth)
	return w
}

func (w *world) put(name, text string) {
	w.Helper()
	path := name
	if !filepath.IsAbs(name) {
		path = filepath.Join(w.home, name)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.Fatal(err)
	}
	mode := os.FileMode(0o644)
	if strings.HasPrefix(name, "bin/") {
		mode = 0o755
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		w.Fatal(err)
	}
}

// try runs a command line of words; %H is the registry. It returns all output and the exit code.
func (w *world) try(stdin, line string, more ...string) (string, int) {
	w.Helper()
	words := append(strings.Fields(strings.ReplaceAll(line, "%H", w.host)), more...)
	program, err := exec.LookPath(words[0])
	if words[0] == "brig" {
		program = filepath.Join(strings.Split(strings.TrimPrefix(w.env[2], "PATH="), ":")[0], "brig")
	} else if err != nil {
		w.Fatal(err)
	}
	cmd := exec.Command(program, words[1:]...)
	cmd.Env, cmd.Stdin = w.env, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if _, isExit := err.(*exec.ExitError); err != nil && !isExit { //nolint:errorlint // of exec alone
		w.Fatal(line, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// ok runs a command that must succeed.
func (w *world) ok(stdin, line string, more ...string) string {
	w.Helper()
	out, code := w.try(stdin, line, more...)
	if code != 0 {
		w.Errorf("%s: exit code %d\n%s", line, code, out)
	}
	return out
}

// not runs a command that must fail with docker's 1 or skopeo's and podman's own code.
func (w *world) not(stdin, line string, more ...string) string {
	w.Helper()
	out, code := w.try(stdin, line, more...)
	if code == 0 {
		w.Errorf("%s: succeeded\n%s", line, out)
	}
	return out
}

func (w *world) says(out string, words ...string) {
	w.Helper()
	for _, s := range words {
		if s = strings.ReplaceAll(s, "%H", w.host); !strings.Contains(out, s) {
			w.Errorf("%q is not in\n%s", s, out)
		}
	}
}

// fill puts an image into the registry.
func (w *world) fill(name string) {
	w.Helper()
	archive := filepath.Join(w.home, "image.tar")
	if err := machine.WriteArchive(archive, "x:1", writeLayer(w)); err != nil {
		w.Fatal(err)
	}
	w.ok("", "skopeo copy -q --insecure-policy --dest-creds", user+":"+password, "docker-archive:"+archive, "docker://"+w.host+"/"+name)
}

func writeLayer(w *world) string {
	w.put("layer/file", "hello")
	layer := filepath.Join(w.home, "layer.tar")
	w.ok("", "tar -C "+w.home+"/layer -cf "+layer+" file")
	return layer
}

// dockerKnows asks whether docker finds the credentials. What it does with them is its daemon's, which does not run here.
func (w *world) dockerKnows() {
	w.Helper()
	out, _ := w.try("", "docker login %H")
	w.says(out, "Authenticating with existing credentials... [Username: brig]")
}

// TestBrigWrites: what brig login writes, docker, podman and skopeo read, and after brig logout no more.
func TestBrigWrites(t *testing.T) {
	for _, auth := range []string{"htpasswd", "token"} {
		t.Run(auth, func(t *testing.T) {
			w := newWorld(t, auth)
			w.fill("team/app:1")
			w.says(w.not("", "brig pull -q %H/team/app:1"), "pull access denied", "brig login %H")
			out := w.ok(password+"\n", "brig login -u brig --password-stdin %H")
			config := w.home + "/.docker/config.json"
			w.says(out, "WARNING! Your credentials are stored unencrypted in '"+config+"'.", "Login Succeeded\n")
			if st, err := os.Stat(config); err != nil || st.Mode() != 0o600 {
				t.Error(st.Mode(), err)
			}
			w.ok("", "brig pull -q %H/team/app:1")
			w.ok("", "skopeo inspect docker://%H/team/app:1")
			w.says(w.ok("", "podman login --get-login %H"), user)
			w.dockerKnows()
			w.says(w.ok("", "brig login %H"), "Authenticating with existing credentials... [Username: brig]", "Login Succeeded")
			w.says(w.ok("", "brig search %H/app"), "NAME", "%H/team/app")
			w.says(w.ok("", "brig logout %H"), "Removing login credentials for %H\n")
			w.not("", "brig pull -q --platform linux/amd64 %H/team/app:1")
			w.not("", "skopeo inspect docker://%H/team/app:1")
			w.not("", "podman login --get-login %H")
			w.says(w.ok("", "brig logout %H"), "Removing login credentials for %H\n") // docker does not mind either
		})
	}
}

// TestOthersWrite: what docker, podman and skopeo wrote, Brig reads.
func TestOthersWrite(t *testing.T) {
	w := newWorld(t, "htpasswd")
	w.fill("team/app:1")
	for _, c := range []struct{ in, out string }{
		{"docker login -u brig --password-stdin %H", "docker logout %H"},
		{"podman login -u brig --password-stdin %H", "podman logout %H"},
		{"podman login -u brig --password-stdin %H/team", "podman logout %H/team"},
		{"skopeo login -u brig --password-stdin %H", "skopeo logout %H"},
	} {
		w.not("", "brig pull -q %H/team/app:1")
		w.ok(password, c.in)
		w.ok("", "brig pull -q %H/team/app:1")
		w.ok("", "brig rmi %H/team/app:1")
		w.ok("", c.out)
	}
	// A file of one's own, both ways.
	mine := w.home + "/mine.json"
	w.ok(password, "podman login --authfile "+mine+" -u brig --password-stdin %H")
	w.ok("", "brig pull -q --authfile "+mine+" %H/team/app:1")
	w.ok("", "brig rmi %H/team/app:1")
	w.ok("", "brig logout --authfile "+mine+" %H")
	w.not("", "brig pull -q --authfile "+mine+" %H/team/app:1")
	w.ok(password, "brig login --authfile "+mine+" -u brig --password-stdin %H")
	w.ok("", "skopeo inspect --authfile "+mine+" docker://%H/team/app:1")
	if _, err := os.Stat(w.home + "/.docker/config.json"); err == nil {
		if out := w.ok("", "cat "+w.home+"/.docker/config.json"); strings.Contains(out, w.host) {
			t.Error(out)
		}
	}
	// Podman's credentials stay when docker's go: that is said.
	w.ok(password, "podman login -u brig --password-stdin %H")
	w.says(w.ok("", "brig logout %H"), "run/containers/auth.json still has credentials for %H")
}

// TestHelper: a credential helper keeps the secret; docker, podman and skopeo get it from there, and the other way round.
func TestHelper(t *testing.T) {
	w := newWorld(t, "htpasswd")
	w.fill("team/app:1")
	w.put("bin/docker-credential-brigtest", `#!/bin/sh
in=$(cat)
dir=`+w.home+`/kept; mkdir -p $dir
case $1 in
store) printf %s "$in" >$dir/"$(printf %s "$in" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/' | tr / _)";;
list) echo '{"`+w.host+`":"brig"}';;
*) f=$dir/$(printf %s "$in" | tr / _); [ -f "$f" ] || { echo "credentials not found in native keychain"; exit 1; }
   if [ $1 = get ]; then cat "$f"; else rm "$f"; fi;;
esac
`)
	w.put(".docker/config.json", `{"credHelpers":{"`+w.host+`":"brigtest"},"HttpHeaders":{"X-Meta":"kept"}}`)
	if out := w.ok(password, "brig login -u brig --password-stdin %H"); strings.Contains(out, "unencrypted") {
		t.Error(out)
	}
	b, err := os.ReadFile(w.home + "/.docker/config.json")
	if err != nil || strings.Contains(string(b), `"auth":`) || !strings.Contains(string(b), "X-Meta") {
		t.Errorf("%s %v", b, err)
	}
	w.ok("", "brig pull -q %H/team/app:1")
	w.ok("", "brig rmi %H/team/app:1")
	w.ok("", "skopeo inspect docker://%H/team/app:1")
	w.dockerKnows()
	w.ok("", "brig logout %H")
	w.not("", "skopeo inspect docker://%H/team/app:1")
	w.ok(password, "docker login -u brig --password-stdin %H")
	w.ok("", "brig pull -q %H/team/app:1")
}

// TestWords: docker's words and exit codes, on the same command lines.
func TestWords(t *testing.T) {
	w := newWorld(t, "htpasswd")
	for _, c := range []struct {
		stdin, args string
		words       []string
	}{
		{"", "login -u brig %H", []string{"Cannot perform an interactive login from a non TTY device"}},
		{"", "login %H", []string{"Cannot perform an interactive login from a non TTY device"}},
		{"x", "login --password-stdin %H", []string{"the --password-stdin option requires --username to be set"}},
		{"x", "login -u brig -p x --password-stdin %H", []string{"cannot specify both --password and --password-stdin"}},
		{"wrong", "login -u brig --password-stdin %H", []string{"401 Unauthorized"}},
		{"", "login -u brig -p wrong %H", []string{"WARNING! Using --password via the CLI is insecure. Use --password-stdin.", "401 Unauthorized"}},
		{"", "login a b", []string{"requires at most 1 argument"}},
		{"", "logout a b", []string{"requires at most 1 argument"}},
		{"", "search", []string{"requires 1 argument"}},
	} {
		ours, code := w.try(c.stdin, "brig "+c.args)
		theirs, dockers := w.try(c.stdin, "docker "+c.args)
		if code != dockers || code == 0 {
			t.Errorf("%s: exit code %d, docker's is %d\n%s%s", c.args, code, dockers, ours, theirs)
		}
		w.says(ours, c.words...)
		w.says(theirs, c.words[:1]...)
	}
	if _, err := os.Stat(w.home + "/.docker/config.json"); err == nil {
		if b, _ := os.ReadFile(w.home + "/.docker/config.json"); strings.Contains(string(b), w.host) {
			t.Errorf("a login that failed was kept: %s", b)
		}
	}
}

// TestArguments: the password is in no process's arguments.
func TestArguments(t *testing.T) {
	w := newWorld(t, "htpasswd")
	seen := filepath.Join(w.home, "seen")
	real := filepath.Join(strings.Split(strings.TrimPrefix(w.env[2], "PATH="), ":")[0], "brig-image")
	brig := filepath.Join(w.home, "bin/brig")
	b, err := os.ReadFile(filepath.Join(filepath.Dir(real), "brig"))
	if err != nil {
		t.Fatal(err)
	}
	w.put("bin/brig-image", "#!/bin/sh\necho \"$@\" >>"+seen+"\nenv >>"+seen+"\nexec "+real+" \"$@\"\n")
	w.put("bin/brig", string(b))
	cmd := exec.Command(brig, "login", "-u", user, "--password-stdin", w.host)
	cmd.Env, cmd.Stdin = w.env, strings.NewReader(password)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(seen)
	if err != nil || strings.Contains(string(got), password) || !strings.Contains(string(got), `"op":"login"`) {
		t.Errorf("%v\n%s", err, got)
	}
}

// TestSearchFormats: docker's columns, filters and templates.
func TestSearchFormats(t *testing.T) {
	w := newWorld(t, "htpasswd")
	long := strings.Repeat("long ", 20)
	results := `{"results":[{"name":"b","description":"` + long + `","star_count":3},{"name":"library/a","description":"two\nlines","star_count":9,"is_official":true}]}`
	server := &http.Server{Addr: address + ":8099", Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/search" && r.URL.Query().Get("q") == "word" && (r.URL.Query().Get("n") == "25" || r.URL.Query().Get("n") == "1") {
			fmt.Fprint(rw, results)
			return
		}
		http.NotFound(rw, r)
	})}
	go server.ListenAndServe()
	defer server.Close()
	w.put(".config/containerd/certs.d/docker.io/hosts.toml", "server = \"http://"+address+":8099\"\n")
	want := "NAME      DESCRIPTION                                     STARS     OFFICIAL\n" +
		"a         two lines                                       9         [OK]\n" +
		"b         long long long long long long long long long…   3         \n"
	if out := w.ok("", "brig search word"); out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	if out := w.ok("", "brig search --filter is-official=true --filter stars=4 --format {{.Name}}:{{.StarCount}} word"); out != "a:9\n" {
		t.Error(out)
	}
	w.says(w.ok("", "brig search --no-trunc word"), strings.TrimSpace(long))
	if out := w.ok("", "brig search --limit 1 --format {{.Name}} word"); out != "b\n" {
		t.Error(out)
	}
	var row map[string]string
	if out := w.ok("", "brig search --filter stars=9 --format json word"); json.Unmarshal([]byte(out), &row) != nil || row["StarCount"] != "9" || row["IsOfficial"] != "[OK]" {
		t.Error(out)
	}
	w.says(w.not("", "brig search --limit 101 word"), "limit 101 is outside the range of [1, 100]")
	w.says(w.not("", "brig search --filter stars=x word"), "invalid filter 'stars=x'")
	w.says(w.not("", "brig search --filter nope=x word"), "invalid filter 'nope'")
	w.says(w.not("", "brig search "+address+":8099/word"), "speaks plain HTTP", "--tls-verify=false")
	w.says(w.ok("", "brig search --tls-verify=false "+address+":8099/word"), address+":8099/library/a")
}
