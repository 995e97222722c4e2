// Package conform holds brig-oci against what others wrote for such a runtime: the validation programs of opencontainers/runtime-tools
// beside runc and crun, Debian's engines that are made to use it, and runc's command line.
//
// `make conform` runs it all, in some minutes. BRIG_TEST_CONFORM=1 opens the gate for go test; BRIG_CONFORM_RUNTIMES (names of the table's
// columns) and BRIG_CONFORM_ROUNDS choose what runs the validation programs, and how often; BRIG_CONFORM_OUTPUT names a folder for what they
// print. The runtime is that of bin/ (make build), or of the folder BRIG_TEST_BIN. All runs in private namespaces with a loopback interface only.
package conform

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

const (
	gate   = "BRIG_TEST_CONFORM"
	binEnv = "BRIG_TEST_BIN"
	cache  = "../../.cache/conform" // programs built from others' modules
)

// noHugetlb says why no container can have its huge pages limited; "" where one can.
var noHugetlb string

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
		bin, err := filepath.Abs(cmp.Or(os.Getenv(binEnv), "../../bin"))
		if err != nil {
			return err
		}
		os.Setenv(binEnv, bin)
		for _, build := range []func() error{buildRuntimeTools, buildRunc} {
			if err := build(); err != nil {
				return err
			}
		}
	}
	if err := machine.Private(false); err != nil {
		return err
	}
	// Each runtime and engine has its default folders below /run.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("empty /run: %w", err)
	}
	// linux_cgroups_network wants a second network interface.
	if out, err := exec.Command("ip", "link", "add", "conform0", "type", "bridge").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link add conform0: %w: %s", err, out)
	}
	var err error
	noHugetlb, err = machine.Hugetlb()
	return err
}

// buildTools builds the programs that the module tools/conform/NAME names as its tools, and returns their folder.
func buildTools(name, cgo string) (string, error) {
	dir, err := filepath.Abs(filepath.Join(cache, name))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-C", "../../tools/conform/"+name, "-trimpath", "-ldflags=-s -w", "-o", dir+"/", "tool")
	build.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("tools/conform/%s: go build tool: %w: %s", name, err, out)
	}
	return dir, nil
}

// buildRuntimeTools builds the validation programs and what they look for in their working directory: runtimetest, which they run in a
// container, and the busybox that the module ships.
func buildRuntimeTools() error {
	dir, err := buildTools("runtimetools", "0") // runtimetest must be static
	if err != nil {
		return err
	}
	list := exec.Command("go", "list", "-C", "../../tools/conform/runtimetools", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-tools")
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("go list -m runtime-tools: %w", err)
	}
	name := "rootfs-" + runtime.GOARCH + ".tar.gz"
	in, err := os.Open(filepath.Join(strings.TrimSpace(string(out)), name))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("runtime-tools ships no %s: it knows amd64 and 386", name)
	} else if err != nil {
		return err
	}
	defer in.Close()
	to, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, in); err != nil {
		to.Close()
		return err
	}
	return to.Close()
}

// buildRunc builds the newest runc, which is written in C in part.
func buildRunc() error {
	_, err := buildTools("runc", "1")
	return err
}

// gated skips a test that make conform runs, with the reason.
func gated(t *testing.T) {
	t.Helper()
	if os.Getenv(gate) == "" {
		t.Skip("runs foreign test suites and engines, which takes minutes: make conform")
	}
	if os.Geteuid() != 0 {
		t.Skip("containers and private namespaces need root")
	}
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

func brigOCI() string { return filepath.Join(os.Getenv(binEnv), "brig-oci") }

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
