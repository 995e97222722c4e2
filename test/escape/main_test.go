// Package escape repeats known attacks on container engines, each named after its CVE, against the real Brig: what an attacker in a
// container, in an image or in a command line could do there must be refused here.
//
// Those on the runtime are tried on brig-oci, and then on a brig-oci that the defence in question was taken from (tag brig_weaken), where each must
// succeed: README.md lists them.
//
// The programs are those of bin/ (make build), or of the folder BRIG_TEST_BIN. All runs in private namespaces with a loopback interface
// only, under umask 0. No attack writes: one that succeeds stops at the open file.
package escape

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"brig/test/machine"
)

const (
	binEnv      = "BRIG_TEST_BIN"
	programsEnv = "BRIG_TEST_PROGRAMS" // folder with testdata/probe, built: for a machine without a compiler
)

var patience = time.Minute // of a command: a machine without KVM is slow

// The world of all tests: folders that Brig makes itself, and the attacker's program.
var root, state, probe string

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: containers and private namespaces need root")
		return
	}
	if os.Getenv(binEnv) == "" {
		bin, err := filepath.Abs("../../bin")
		if err != nil {
			fatal(err)
		}
		os.Setenv(binEnv, bin)
	}
	if err := machine.Private(false); err != nil {
		fatal(err)
	}
	os.Exit(inWorld(m))
}

func fatal(what ...any) {
	fmt.Fprintln(os.Stderr, what...)
	os.Exit(1)
}

// inWorld runs the tests and removes what they made; something left behind is a failure.
func inWorld(m *testing.M) int {
	dir, err := os.MkdirTemp("", "escape")
	if err != nil {
		fatal(err)
	}
	defer os.RemoveAll(dir)
	root, state, probe = filepath.Join(dir, "root"), filepath.Join(dir, "state"), filepath.Join(dir, "probe")
	weakened = filepath.Join(dir, "weakened")
	if built := os.Getenv(programsEnv); built != "" {
		probe, weakened = filepath.Join(built, "probe"), filepath.Join(built, "weakened")
	} else {
		for _, args := range [][]string{{"-o", probe, "./testdata/probe"}, {"-tags", "brig_weaken", "-o", weakened, "brig/cmd/brig-oci"}} {
			build := exec.Command("go", append([]string{"build"}, args...)...)
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				fatal(err, string(out))
			}
		}
	}
	before, err := machine.Take()
	if err != nil {
		fatal(err)
	}
	syscall.Umask(0)
	code := m.Run()
	if out, err := command("system", "reset", "--force").CombinedOutput(); err != nil {
		fmt.Fprintln(os.Stderr, "system reset:", err, string(out))
		code = 1
	}
	if left, err := before.Settle(5 * time.Second); err != nil || len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind after system reset: %q, %v\n", left, err)
		code = 1
	}
	return code
}

func program(name string) string { return filepath.Join(os.Getenv(binEnv), name) }

func command(args ...string) *exec.Cmd {
	return exec.Command(program("brig"), append([]string{"--root", root, "--state", state}, atLevel(args)...)...)
}

// result is how a command ended.
type result struct {
	out, err string
	code     int
	hung     bool
}

func (r result) String() string {
	return fmt.Sprintf("code %d, hung %t, out %q, err %q", r.code, r.hung, r.out, r.err)
}

// brig runs a command to its end; one that takes longer than patience is killed and fails the test.
func brig(t *testing.T, args ...string) result {
	t.Helper()
	cmd := command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var hung bool
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	cmd.Wait()
	if hung = !late.Stop(); hung {
		t.Errorf("brig %s: no end after %s", strings.Join(args, " "), patience)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode(), hung}
}

// must is brig for what must succeed; it returns the trimmed output.
func must(t *testing.T, args ...string) string {
	t.Helper()
	r := brig(t, args...)
	if r.code != 0 {
		t.Fatalf("brig %s: %s", strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.out)
}

// victim starts a container that sleeps, until the test's end; it returns the id.
func victim(t *testing.T, args ...string) string {
	t.Helper()
	id := must(t, append([]string{"run", "-d"}, args...)...)
	t.Cleanup(func() { must(t, "rm", "-f", id) })
	return id
}

// loadImage loads an image of one layer: the given entries besides the probe, which is its command.
func loadImage(t *testing.T, name string, labels map[string]string, entries ...tar.Header) {
	t.Helper()
	binary, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}
	var layer, archive bytes.Buffer
	write := func(w *tar.Writer, h tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	w := tar.NewWriter(&layer)
	for _, h := range entries {
		write(w, h, nil)
	}
	write(w, tar.Header{Name: "probe", Mode: 0o755}, binary)
	w.Close()
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	w = tar.NewWriter(&archive)
	write(w, tar.Header{Name: "manifest.json", Mode: 0o644}, encode([]any{map[string]any{
		"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}}))
	write(w, tar.Header{Name: "config.json", Mode: 0o644}, encode(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Cmd": []string{"/probe", "syscalls"}, "Labels": labels},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	}))
	write(w, tar.Header{Name: "layer.tar", Mode: 0o644}, layer.Bytes())
	w.Close()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "load", "-q", "-i", path)
}
