// Package registry holds `brig registry serve` against the conformance suite of the OCI distribution specification, against the clients that
// people have (docker, podman, skopeo, crane, brig), and against being killed and crowded.
//
// `make conform-registry` runs it. BRIG_TEST_CONFORM=1 opens the gate for go test. The programs are those of bin/ (make build), or of the
// folder BRIG_TEST_BIN; suite and crane are built from tools/conform/registry. All runs in private namespaces with a loopback interface only.
package registry

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

const (
	gate  = "BRIG_TEST_CONFORM"
	cache = "../../../.cache/conform/registry" // suite and crane
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

// prepare builds the foreign programs while the module proxy can be reached, and goes into the private namespaces, where /run is empty.
func prepare() error {
	if !machine.Inside() {
		if err := machine.Programs("../../../bin"); err != nil {
			return err
		}
		dir, err := filepath.Abs(cache)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		build := exec.Command("go", "build", "-C", "../../../tools/conform/registry", "-trimpath", "-ldflags=-s -w", "-o", dir+"/", "tool")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("tools/conform/registry: go build tool: %w: %s", err, out)
		}
		os.Setenv("PATH", os.Getenv(machine.BinEnv)+":"+dir+":"+os.Getenv("PATH"))
	}
	if err := machine.Private(false); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("empty /run: %w", err)
	}
	return nil
}

// gated skips a test that make conform-registry runs, with the reason.
func gated(t *testing.T) {
	t.Helper()
	if os.Getenv(gate) == "" {
		t.Skip("runs a foreign test suite and engines, which takes minutes: make conform-registry")
	}
	if os.Geteuid() != 0 {
		t.Skip("containers and private namespaces need root")
	}
}

// server is a `brig registry serve`.
type server struct {
	root, state string
	args        []string
	address     string // 127.0.0.1:port
	cmd         *exec.Cmd
}

// serve starts a registry of a root of its own, which ends with the test.
func serve(t *testing.T, args ...string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "cr") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &server{root: filepath.Join(dir, "root"), state: filepath.Join(dir, "state"), args: args}
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	return s
}

// start starts the server, on a free port, and reads which.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command("brig", append([]string{"--root", s.root, "--state", s.state, "registry", "serve", "--addr", "127.0.0.1:0"}, s.args...)...)
	out, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		_, rest, ok := strings.Cut(lines.Text(), "://")
		if !ok {
			t.Log(lines.Text())
			continue
		}
		s.address = strings.TrimSuffix(rest, "/v2/")
		go func() { // what it says later must not fill the pipe
			for lines.Scan() {
				fmt.Fprintln(os.Stderr, "server:", lines.Text())
			}
		}()
		return
	}
	t.Fatal("the server ended before it was there: ", s.cmd.Wait())
}

// stop ends the server as a service manager would; it must end well.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(unix.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the server: %v", err)
	}
	s.cmd = nil
}

// kill ends it as a power cut would.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// brig runs a command on the server's own store.
func (s *server) brig(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, append([]string{"brig", "--root", s.root, "--state", s.state}, args...)...)
}

// run runs a program, which must succeed within two minutes, and returns its standard output, trimmed.
func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := try(argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, errs.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// installed skips a test for which one of the programs is missing.
func installed(t *testing.T, pkg string, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%v: apt-get install %s", err, pkg)
		}
	}
}
