package escape

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSelftestCanTell: `brig selftest escape` finds nothing with Brig's programs, and the way out with programs that a defence was taken from. What a container
// can be given by its flags is in the story of the command; a kernel without modules, /dev/mem or sysrq lets nobody show those.
func TestSelftestCanTell(t *testing.T) {
	if os.Getenv(programsEnv) != "" {
		t.Skip("needs the Go compiler, to build a brig without a defence")
	}
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", disk).CombinedOutput()
	if err != nil {
		t.Skipf("losetup: %v: %s", err, out)
	}
	defer exec.Command("losetup", "-d", strings.TrimSpace(string(out))).Run()
	if r := brig(t, "selftest", "escape", "--isolation", "container"); r.code != 0 {
		t.Errorf("with all defences: %s", r)
	}
	for _, name := range []string{"brig"} {
		data, err := os.ReadFile(program(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-tags", "brig_weaken", "-ldflags", "-X brig/internal/base/weak.built=seccomp,devices,cgroup,copy", "-o", dir+"/", "brig/cmd/brig-oci", "brig/cmd/brig-image")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	cmd := exec.Command(filepath.Join(dir, "brig"), "--root", root, "--state", state, "selftest", "escape", "--isolation", "container")
	report, _ := cmd.Output()
	if cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit code %d, want 1", cmd.ProcessState.ExitCode())
	}
	for probe, defence := range map[string]string{
		"user-namespace": "seccomp", "keyring": "seccomp", "disk": "devices", "cgroup": "cgroup", "copy-out": "copy", "copy-in": "copy",
	} {
		if !regexp.MustCompile(`(?m)^container +` + probe + ` +holds +OPEN `).Match(report) {
			t.Errorf("without defence %s probe %s finds nothing:\n%s", defence, probe, report)
		}
	}
}
