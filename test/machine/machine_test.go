package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets a test call this binary again as a program that moves itself into private namespaces.
func TestMain(m *testing.M) {
	if os.Getenv("BRIG_TEST_PROGRAM") == "" {
		os.Exit(m.Run())
	}
	if err := Private(false); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	links, _ := os.ReadDir("/sys/class/net")
	for _, l := range links {
		fmt.Print(l.Name(), " ")
	}
	fmt.Print("pid ", os.Getpid())
	os.Exit(42)
}

func program(t *testing.T) (string, int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("private namespaces need root")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "BRIG_TEST_PROGRAM=1")
	cmd.Stderr = os.Stderr
	out, _ := cmd.Output()
	return string(out), cmd.ProcessState.ExitCode()
}

func TestPrivateShowsItsOwnNetworkAndHandsOnTheExitCode(t *testing.T) {
	out, code := program(t)
	if code != 42 {
		t.Fatalf("exit code %d, want 42; output %q", code, out)
	}
	links, pid, _ := strings.Cut(out, "pid ")
	if strings.TrimSpace(links) != "lo" {
		t.Errorf("links %q, want lo alone", links)
	}
	if pid == "" || len(pid) > 2 {
		t.Errorf("pid %q: not a PID namespace of its own", pid)
	}
}

func TestSnapshotSeesAMountAndItsEnd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mount needs root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed: apt-get install nftables")
	}
	before, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	mounted := true
	defer func() {
		if mounted {
			_ = unix.Unmount(dir, 0)
		}
	}()
	now, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	seen := slices.ContainsFunc(before.Left(now), func(l string) bool { return strings.Contains(l, dir) })
	if !seen {
		t.Errorf("the mount on %s is not in %q", dir, before.Left(now))
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	mounted = false
	now, err = Take()
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(before.Left(now), func(l string) bool { return strings.Contains(l, dir) }) {
		t.Error("the mount is gone and still reported")
	}
}

func TestSettleGivesUpWithWhatIsLeft(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed: apt-get install nftables")
	}
	now, err := Take()
	if err != nil {
		t.Skip("cannot look at this machine: ", err)
	}
	if len(now["link"]) == 0 {
		t.Fatal("no link at all, not even lo")
	}
	before := Snapshot{"link": now["link"][1:], "mount": now["mount"], "process": now["process"], "control group": now["control group"], "nftables table": now["nftables table"]}
	left, err := before.Settle(time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(left, "link: "+now["link"][0]) {
		t.Errorf("left %q lacks %s", left, now["link"][0])
	}
}

// TestForeignGroups: files stand for a control group, as the kernel shows it to this PID namespace.
func TestForeignGroups(t *testing.T) {
	for name, c := range map[string]struct {
		dir, current, procs string
		want                bool
	}{
		"cpu/brig-empty":          {"pids/brig-empty", "0\n", "", false},
		"cpu/brig-ours":           {"pids/brig-ours", "2\n", "71\n72\n", false},
		"cpu/brig-foreign":        {"pids/brig-foreign", "1\n", "", true},
		"cpu/brig-pod/brig-other": {"pids/brig-pod/brig-other", "1\n", "", true},
		"brig-foreign-2":          {"brig-foreign-2", "1\n", "0\n", true},
		"brig-mixed":              {"brig-mixed", "2\n", "0\n71\n", false},
		"cpu/brig-none":           {"elsewhere", "1\n", "", false},
	} {
		root := t.TempDir()
		dir := filepath.Join(root, c.dir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"pids.current": c.current, "cgroup.procs": c.procs} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := foreign(root, name); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
