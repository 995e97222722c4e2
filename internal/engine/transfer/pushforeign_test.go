package transfer

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/image"
)

// proxy stands before a registry and sees what goes by; hook may answer in its place.
func proxy(t *testing.T, host string, hook func(w http.ResponseWriter, r *http.Request) bool) (front string, count func(part string) int) {
	t.Helper()
	to := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	direct := to.Director
	to.Director = func(r *http.Request) {
		front := r.Host
		direct(r)
		r.Host = front // the registry makes its addresses of it
	}
	var mu sync.Mutex
	var log []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		log = append(log, r.Method+" "+r.URL.RequestURI())
		mu.Unlock()
		if hook == nil || !hook(w, r) {
			to.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), func(part string) int {
		mu.Lock()
		defer mu.Unlock()
		n := 0
		for _, l := range log {
			if strings.Contains(l, part) {
				n++
			}
		}
		return n
	}
}

// TestPushPeers pushes to docker's registry; skopeo, podman and crane get the same digests from it.
func TestPushPeers(t *testing.T) {
	need(t, "docker-registry", "skopeo")
	w, debian, other := pulled(t)
	host, count := proxy(t, registry(t), nil)
	for tag, img := range map[string]api.Image{"12": debian, "other": other} {
		name := host + "/team/debian:" + tag
		w.tag(img, name)
		if _, _, err := w.push(name); err != nil {
			t.Fatal(err)
		}
		raw := run(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+name)
		if d := digest.FromString(raw); d != img.Target.Digest {
			t.Errorf("%s: skopeo sees %s, the store has %s", tag, d, img.Target.Digest)
		}
		back := filepath.Join(t.TempDir(), "back")
		run(t, "skopeo", "copy", "-q", "--src-tls-verify=false", "--preserve-digests", "docker://"+name, "oci:"+back+":x")
		f := w.fresh()
		got, _, _, err := f.do(api.TransferRequest{Op: "load", File: back})
		if err != nil || got.Images[0].Target.Digest != img.Target.Digest || f.file(img.Layers[0].DiffID, "etc/debian_version") != "12" {
			t.Errorf("%s: %v %+v", tag, err, got)
		}
	}
	// What is shared is not sent: not to the same repository, nor to another one of the registry.
	before := count("POST")
	w.tag(debian, host+"/team/debian:again")
	if _, _, err := w.push(host + "/team/debian:again"); err != nil || count("POST") != before {
		t.Errorf("again: %v, %d uploads", err, count("POST")-before)
	}
	w.tag(debian, host+"/other/app:1")
	if _, stderr, err := w.push(host + "/other/app:1"); err != nil || !strings.Contains(stderr, "Mounted from team/debian") || count("PATCH /v2/other/app/") != 1 { // the config
		t.Errorf("mounted: %v, %d uploads, %q", err, count("PATCH /v2/other/app/"), stderr)
	}
	if _, err := exec.LookPath("crane"); err == nil {
		if out := run(t, "crane", "digest", "--insecure", host+"/team/debian:12"); strings.TrimSpace(out) != debian.Target.Digest.String() {
			t.Errorf("crane digest: %s", out)
		}
		run(t, "crane", "validate", "--insecure", "--remote", host+"/team/debian:12")
	}
	if _, err := exec.LookPath("podman"); err == nil {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		id := run(t, "podman", "--root", dir+"/root", "--runroot", dir+"/run", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "pull", "-q", "--tls-verify=false", host+"/team/debian:12")
		if "sha256:"+strings.TrimSpace(id) != debian.ID {
			t.Errorf("podman pull: %s, want %s", id, debian.ID)
		}
	}
}

// TestPushBreaksPeers: the connection to docker's registry is cut in the middle of a layer, twice.
func TestPushBreaksPeers(t *testing.T) {
	need(t, "docker-registry")
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(nil, layers(1, 3<<20)...), "1")
	reply, err := w.pull("x:1")
	if err != nil {
		t.Fatal(err)
	}
	var breaks atomic.Int32
	to := registry(t)
	host, count := proxy(t, to, func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || r.ContentLength < 1<<20 || breaks.Add(1) > 2 {
			return false
		}
		half, _ := http.NewRequest(r.Method, "http://"+to+r.URL.RequestURI(), io.LimitReader(r.Body, 1<<20))
		half.Host, half.ContentLength = r.Host, r.ContentLength
		if resp, err := http.DefaultTransport.RoundTrip(half); err == nil {
			resp.Body.Close()
		}
		panic(http.ErrAbortHandler)
	})
	name := host + "/x:1"
	w.tag(reply.Images[0], name)
	if _, _, err := w.push(name); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d uploads begun, %d pieces", count("POST"), count("PATCH"))
	f := w.fresh()
	if got, _, _, err := f.do(api.TransferRequest{Op: "pull", Refs: []string{name}}); err != nil || got.Images[0].Target.Digest != reply.Images[0].Target.Digest {
		t.Errorf("%v %+v", err, got)
	}
}

// TestCopyPeers: an index with what refers to it goes from docker's registry, which has no referrers API, to another, to a layout and to
// an archive that skopeo reads, and what skopeo wrote comes in.
func TestCopyPeers(t *testing.T) {
	need(t, "docker-registry", "skopeo")
	w := newWorld(t)
	g := w.writable()
	r := publish(g, "app")
	a, b := registry(t), registry(t)
	for _, hop := range [][2]string{{g.Host, a}, {a, b}} {
		if _, _, err := w.copy(api.TransferRequest{All: true, Referrers: true}, "docker://"+hop[0]+"/app:1", "docker://"+hop[1]+"/app:1"); err != nil {
			t.Fatal(err)
		}
	}
	if d := digest.FromString(run(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+b+"/app:1")); d != r.index.Digest {
		t.Errorf("skopeo sees %s", d)
	}
	for _, d := range []digest.Digest{r.signature.Digest, r.opinion.Digest, r.sbom.Digest, r.cosign.Digest, r.attestation.Digest} {
		run(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+b+"/app@"+d.String())
	}
	dir := t.TempDir()
	for transport, args := range map[string][]string{"oci": {"--all", "--preserve-digests"}, "oci-archive": {"--all", "--preserve-digests"}, "docker-archive": nil} {
		ours, theirs := transport+":"+filepath.Join(dir, "ours-"+transport), transport+":"+filepath.Join(dir, "theirs-"+transport)
		if transport == "docker-archive" {
			theirs += ":app:1"
		}
		if _, _, err := w.copy(api.TransferRequest{All: args != nil}, "docker://"+b+"/app:1", ours); err != nil {
			t.Fatal(err)
		}
		run(t, "skopeo", append([]string{"copy", "-q"}, append(args, ours, theirs)...)...)
		c := w.writable()
		if _, _, err := w.copy(api.TransferRequest{All: args != nil}, theirs, "docker://"+c.Host+"/app:1"); err != nil {
			t.Error(err)
		}
		if got := c.Repo("app").Tags["1"]; args != nil && got != r.index.Digest {
			t.Errorf("%s: %s came back from skopeo, %s went out", transport, got, r.index.Digest)
		}
	}
	w.untouched()
}

// TestSaveLoadPeers: archives of several images, one by its ID, to and from skopeo.
func TestSaveLoadPeers(t *testing.T) {
	need(t, "skopeo")
	w, debian, other := pulled(t)
	dir := t.TempDir()
	for _, format := range []string{"docker-archive", "oci-archive"} {
		file := filepath.Join(dir, format)
		if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{debian.Name, other.Name, debian.ID}, File: file, Format: format}); err != nil {
			t.Fatal(err)
		}
		for i, img := range []api.Image{debian, other} {
			back := filepath.Join(dir, fmt.Sprint(format, i))
			run(t, "skopeo", "copy", "-q", format+":"+file+":"+img.Name, format+":"+back+":again:1")
			f := w.fresh()
			if got, _, _, err := f.do(api.TransferRequest{Op: "load", File: back}); err != nil || got.Images[0].ID != img.ID {
				t.Errorf("%s of %s: %v", img.Name, format, err)
			}
		}
	}
}

// TestSendPeers sends an image through a real sshd on loopback.
func TestSendPeers(t *testing.T) {
	need(t, "ssh", "ssh-keygen")
	const sshd = "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and sshd: apt-get install openssh-server")
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	w, debian, _ := pulled(t)
	f, dir := w.fresh(), t.TempDir()
	for _, key := range []string{"host", "user"} {
		run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	server := exec.Command(sshd, "-D", "-e", "-f", write("sshd_config", fmt.Sprintf("ListenAddress 127.0.0.1:%s\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\n"+
		"StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nSetEnv BRIG_TEST_RECEIVE=%s\n", port, dir, dir, f.root), 0o600))
	var words bytes.Buffer
	server.Stderr = &words
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	for range 100 {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	host, _ := os.ReadFile(filepath.Join(dir, "host.pub"))
	config := write("ssh_config", fmt.Sprintf("IdentityFile %s/user\nIdentitiesOnly yes\nUserKnownHostsFile %s\nGlobalKnownHostsFile none\nStrictHostKeyChecking yes\nBatchMode yes\n", dir,
		write("known_hosts", "[127.0.0.1]:"+port+" "+string(host), 0o600)), 0o600)
	program, _ := exec.LookPath("ssh")
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("bin/ssh", "#!/bin/sh\nexec "+program+" -F "+config+" \"$@\"\n", 0o755)
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	to := "ssh://root@127.0.0.1:" + port
	if _, _, _, err := w.do(api.TransferRequest{Op: "push", Refs: []string{debian.Name}, To: to + self}); err != nil {
		t.Fatalf("%v\n%s", err, &words)
	}
	if rec, ok := f.tr.present(debian.Name, image.Platform{}); !ok || rec.Target.Digest != debian.Target.Digest {
		t.Errorf("%+v", rec)
	}
	if _, _, _, err := w.do(api.TransferRequest{Op: "push", Refs: []string{debian.Name}, To: to + "/no/brig"}); err == nil || !strings.Contains(err.Error(), "no brig in the PATH there") {
		t.Error(err)
	}
	server.Process.Kill()
	server.Wait()
	if _, _, _, err := w.do(api.TransferRequest{Op: "push", Refs: []string{debian.Name}, To: to}); err == nil || !strings.Contains(err.Error(), "ssh could not connect (ssh: connect to host") {
		t.Error(err)
	}
}
