package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKillRooted ends those whose root is in the mount, in whatever session and below it, also in a copy of the mount, and nobody else.
func TestKillRooted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts and chroot(2) need root")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("no busybox: package busybox-static")
	}
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link") // the state folder may be reached by one
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if pids, err := Rooted(filepath.Join(dir, "no", "folder")); err != nil || len(pids) > 0 {
		t.Errorf("no folder: %v, %v", pids, err)
	}
	place := filepath.Join(link, "with space")
	if err := os.Mkdir(place, 0o700); err != nil {
		t.Fatal(err)
	}
	if pids, err := Rooted(place); err != nil || len(pids) > 0 {
		t.Errorf("not mounted: %v, %v", pids, err)
	}
	layers := t.TempDir()
	for _, name := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(layers, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("root", place, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", layers)); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(place, unix.MNT_DETACH)
	below := filepath.Join(place, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("below", below, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	var started []*exec.Cmd
	start := func(root string, flags uintptr, script string) int {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, "busybox"), busybox, 0o755); err != nil && !errors.Is(err, unix.ETXTBSY) { // it is there
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll(filepath.Join(root, "dev"), 0o755), os.WriteFile(filepath.Join(root, "dev/null"), nil, 0o644)); err != nil {
			t.Fatal(err) // the shell opens it for what it does not wait for
		}
		cmd := exec.Command("/busybox", "sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Setsid: true, Unshareflags: flags, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		started = append(started, cmd)
		return cmd.Process.Pid
	}
	forks := start(place, 0, "while :; do /busybox sleep 100 & /busybox setsid /busybox sleep 100 & /busybox sleep 0.01; done")
	deeper := start(below, 0, "/busybox sleep 100")
	copied := start(place, unix.CLONE_NEWNS, "/busybox sleep 100")
	other := start(dir, 0, "/busybox sleep 100")
	time.Sleep(200 * time.Millisecond)
	pids, err := Rooted(place)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{forks, deeper, copied} {
		if !slices.Contains(pids, want) {
			t.Errorf("process %d is not among %v", want, pids)
		}
	}
	if slices.Contains(pids, other) || slices.Contains(pids, os.Getpid()) || len(pids) < 8 {
		t.Errorf("processes %v; %d is another's", pids, other)
	}
	if err := KillRooted(place); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range started[:3] {
		cmd.Wait()
	}
	if left, err := Rooted(place); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if line, err := os.ReadFile("/proc/" + strconv.Itoa(other) + "/cmdline"); err != nil || !strings.Contains(string(line), "sleep") {
		t.Errorf("the other's process: %q, %v", line, err)
	}
	// A folder of the host's that is bound is the root of others too.
	bound := filepath.Join(t.TempDir(), "bound")
	if err := errors.Join(os.Mkdir(bound, 0o700), unix.Mount(dir, bound, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(bound, unix.MNT_DETACH)
	if pids, err := Rooted(bound); err != nil || slices.Contains(pids, other) {
		t.Errorf("processes %v, %v; %d has the folder itself as its root", pids, err, other)
	}
	started[3].Process.Kill()
	started[3].Wait()
}
