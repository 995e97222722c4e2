package fault

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/test/machine"
)

// TestShiftingKilled kills a normal user's first run with a user namespace at many moments. Whatever it has left, the next run finds a whole image, and its files are the
// container's root's.
func TestShiftingKilled(t *testing.T) {
	needRoot(t)
	u, remove, err := machine.NormalUser(filepath.Dir(machine.Program("brig")))
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	home := t.TempDir()
	env := append(os.Environ(), "HOME="+home)
	var root string
	run, err := u.Folders(home, func(k, v string) {
		env = append(env, k+"="+v)
		if k == "XDG_DATA_HOME" {
			root = filepath.Join(v, "brig")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(run)
	brig := func(args ...string) *exec.Cmd {
		cmd := exec.Command(u.Brig(), args...)
		cmd.Env = env
		return cmd
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := brig(args...).CombinedOutput()
		if err != nil {
			t.Fatalf("brig %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	defer func() { must("system", "reset", "--force") }()
	const count = "find / -xdev -user 0 | wc -l; find / -xdev ! -user 0 ! -path /proc ! -path /sys | wc -l; find /bin /etc -type f | xargs cat | wc -c"
	args := []string{"run", "--rm", "--network", "none", "--userns", "nomap", "brig/base", "sh", "-c", count}
	want := must(args...)
	if !strings.Contains(want, "\n0\n") {
		t.Fatalf("files of others than root: %s", want)
	}
	moments := 10 * scale()
	for i := range moments {
		must("system", "prune", "-f")
		if left, _ := os.ReadDir(filepath.Join(root, "snapshot/shifted")); len(left) > 0 {
			t.Fatalf("prune left %v", left)
		}
		cmd := brig(args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 60 * time.Millisecond / time.Duration(moments))
		cmd.Process.Kill()
		cmd.Wait()
		if got := must(args...); got != want {
			t.Fatalf("killed at moment %d of %d: %s, want %s", i, moments, got, want)
		}
	}
	must("system", "prune", "-f")
	if out := must("system", "check"); !strings.Contains(out, "all is well") {
		t.Error(out)
	}
	if left, _ := os.ReadDir(filepath.Join(root, "snapshot/unpack")); len(left) > 0 {
		t.Errorf("left in unpack: %v", left)
	}
}
