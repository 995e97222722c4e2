// Package debian tells the story of a real distribution: a Debian made from its packages goes through a registry into Brig, installs
// more packages from the network, and runs nginx and redis, which are fetched from and loaded. make test-debian runs it.
package debian

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/test/machine"
)

const (
	gate    = "BRIG_TEST_DEBIAN"
	tarball = "BRIG_TEST_DEBIAN_TARBALL"
)

func TestMain(m *testing.M) {
	if os.Getenv(gate) != "" && os.Geteuid() == 0 {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// prepare makes the distribution, then moves the test away from the machine's mounts and processes. The network stays the machine's:
// the packages come from outside.
func prepare() error {
	if !machine.Inside() {
		file, err := machine.DebianTarball("../../.cache", "nginx-light", "redis-server", "redis-tools")
		if err != nil {
			return err
		}
		if err := os.Setenv(tarball, file); err != nil {
			return err
		}
	}
	return machine.Private(true)
}

// engine runs Brig with a store of its own.
type engine struct {
	t   *testing.T
	bin string
	env []string
}

func (e *engine) run(args ...string) string {
	e.t.Helper()
	cmd := exec.Command(e.bin, args...)
	cmd.Env = e.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		e.t.Fatalf("brig %s: %v\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}

func (e *engine) port(name, port string) string {
	return e.run("inspect", "--format", `{{(index (index .NetworkSettings.Ports "`+port+`") 0).HostPort}}`, name)
}

func start(t *testing.T) (*engine, string) {
	t.Helper()
	if os.Getenv(gate) == "" {
		t.Skip("makes a whole Debian from a package mirror, which takes minutes: make test-debian")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bin, err := filepath.Abs("../../bin/brig")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("%v: make build", err)
	}
	before, err := machine.Take()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	state, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, bin: bin, env: append(os.Environ(), "BRIG_ROOT="+filepath.Join(dir, "root"), "BRIG_STATE="+state)}
	t.Cleanup(func() {
		e.run("system", "reset", "--force")
		os.RemoveAll(state)
		left, err := before.Settle(5 * time.Second)
		if err != nil {
			t.Error(err)
		}
		for _, l := range left {
			t.Errorf("left behind: %s", l)
		}
	})

	r, err := machine.StartRegistry(filepath.Join(dir, "registry"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	ref, archive := r.Address+"/debian:12", filepath.Join(dir, "debian.tar")
	if err := machine.WriteArchive(archive, ref, os.Getenv(tarball)); err != nil {
		t.Fatal(err)
	}
	if err := r.Push(archive, ref); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	e.run("pull", "-q", ref)
	t.Logf("pulled in %.1f s", time.Since(begin).Seconds())
	return e, ref
}

func TestDebian(t *testing.T) {
	e, image := start(t)
	t.Run("release", func(t *testing.T) {
		if out := e.run("run", "--rm", image, "cat", "/etc/os-release"); !strings.Contains(out, "VERSION_CODENAME=bookworm") {
			t.Errorf("os-release: %s", out)
		}
	})
	t.Run("apt-get", func(t *testing.T) { aptGet(t, e, image) })
	t.Run("nginx", func(t *testing.T) { nginx(t, e, image) })
	t.Run("redis", func(t *testing.T) { redis(t, e, image) })
}

// aptGet installs a package from the network, as root with docker's default rights, with the proxy that the host's apt uses, if any.
func aptGet(t *testing.T, e *engine, image string) {
	args := []string{"run", "--rm"}
	if out, err := exec.Command("apt-config", "shell", "P", "Acquire::http::Proxy").Output(); err == nil {
		if _, proxy, ok := strings.Cut(strings.TrimSpace(string(out)), "P="); ok {
			args = append(args, "-e", "http_proxy="+strings.Trim(proxy, "'"))
		}
	}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		if os.Getenv(name) != "" {
			args = append(args, "-e", name)
		}
	}
	out := e.run(append(args, image, "sh", "-c", "apt-get update -q && apt-get install -q -y --no-install-recommends hello && hello")...)
	if !strings.HasSuffix(out, "Hello, world!") {
		t.Errorf("apt-get install hello && hello ends with: %.300s", out)
	}
}

func nginx(t *testing.T, e *engine, image string) {
	e.run("run", "-d", "--name", "web", "-p", "127.0.0.1::80", image, "nginx", "-g", "daemon off;")
	body, err := get("http://127.0.0.1:" + e.port("web", "80/tcp") + "/")
	if err != nil {
		t.Fatalf("%v\n%s", err, e.run("logs", "web"))
	}
	if !strings.Contains(body, "Welcome to nginx") {
		t.Errorf("nginx served %.200s", body)
	}
	e.run("stop", "web")
	if code := e.run("inspect", "--format", "{{.State.ExitCode}}", "web"); code != "0" {
		t.Errorf("nginx ended with %s after stop, want 0: TERM did not reach it", code)
	}
}

// redis loads a server from the host through its published port and from a second container over the bridge.
func redis(t *testing.T, e *engine, image string) {
	e.run("run", "-d", "--name", "redis", "-p", "127.0.0.1::6379", image, "redis-server", "--protected-mode", "no", "--save", "")
	port := e.port("redis", "6379/tcp")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, _ := exec.Command("redis-cli", "-h", "127.0.0.1", "-p", port, "ping").Output()
		if strings.TrimSpace(string(out)) == "PONG" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("redis does not answer on port %s\n%s", port, e.run("logs", "redis"))
		}
	}
	load := []string{"-n", "20000", "-c", "20", "-q", "-t", "set,get"}
	out, err := exec.Command("redis-benchmark", append([]string{"-h", "127.0.0.1", "-p", port}, load...)...).Output()
	if err != nil || !strings.Contains(string(out), "requests per second") {
		t.Errorf("redis-benchmark from the host: %v %s", err, out)
	}
	t.Logf("from the host: %s", lastOf(string(out)))
	address := e.run("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "redis")
	inside := e.run(append([]string{"run", "--rm", image, "redis-benchmark", "-h", address}, load...)...)
	if !strings.Contains(inside, "requests per second") {
		t.Errorf("redis-benchmark from a container: %s", inside)
	}
	t.Logf("from a container: %s", lastOf(inside))
}

// lastOf gives the summary lines of redis-benchmark -q, which overwrites its progress with carriage returns.
func lastOf(s string) string {
	var out []string
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == '\r' || r == '\n' }) {
		if strings.Contains(part, "requests per second") {
			out = append(out, strings.TrimSpace(part))
		}
	}
	return strings.Join(out, "; ")
}

func get(url string) (body string, err error) {
	client := &http.Client{Timeout: 2 * time.Second}
	for range 50 {
		var resp *http.Response
		if resp, err = client.Get(url); err == nil {
			data, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			return string(data), err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "", err
}
