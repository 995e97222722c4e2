package guest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/guest/wire"
)

// userEnv has this binary start a guest, say the number of QEMU's process, and wait to be killed.
const userEnv = "BRIG_TEST_GUEST_USER"

func TestMain(m *testing.M) {
	if os.Getenv(userEnv) != "" {
		g, err := Start(context.Background())
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(g.vm.cmd.Process.Pid)
		select {}
	}
	os.Exit(m.Run())
}

// clone starts a guest for a test.
func clone(t *testing.T) *Guest {
	t.Helper()
	need(t)
	g, err := Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func must(t *testing.T, g *Guest, script string) string {
	t.Helper()
	out, err := g.Output(t.Context(), "/bin/sh", "-c", script)
	if err != nil {
		t.Fatal(err, out)
	}
	return strings.TrimSpace(out)
}

// TestWhatIsInIt holds the guest to what it is for.
func TestWhatIsInIt(t *testing.T) {
	g := clone(t)
	if got := must(t, g, "stat -fc %T /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.controllers; ps -o comm= 1; systemctl is-system-running"); got !=
		"cgroup2fs\ncpuset cpu io memory hugetlb pids rdma misc\nsystemd\nrunning" {
		t.Errorf("%s", got)
	}
	if got := must(t, g, "findmnt -rno FSTYPE | grep cgroup"); got != "cgroup2" {
		t.Errorf("control group file systems: %q", got)
	}
	seconds, err := strconv.ParseInt(must(t, g, "date +%s"), 10, 64)
	if off := time.Since(time.Unix(seconds, 0)); err != nil || off.Abs() > 10*time.Second {
		t.Errorf("the clock is %s off, %v", off, err)
	}
	if got := must(t, g, `systemd-run --quiet --wait --pipe -p MemoryMax=20M cat /proc/self/cgroup`); !strings.HasPrefix(got, "0::/system.slice/run-") {
		t.Errorf("a unit's control group: %q", got)
	}
	must(t, g, `
set -e
setsid sleep 1000 </dev/null >/dev/null 2>&1 &
pid=$!
mkdir /tmp/images
sleep 0.3
criu dump --tree $pid --images-dir /tmp/images
! kill -0 $pid 2>/dev/null
criu restore --restore-detached --images-dir /tmp/images
kill -0 $pid`)
}

// TestClonesAreApart: two at once have neither randomness nor files nor processes in common.
func TestClonesAreApart(t *testing.T) {
	a, b := clone(t), clone(t)
	seen := map[string]bool{}
	for _, g := range []*Guest{a, b} {
		for _, from := range []string{"head -c 16 /dev/urandom | od -An -tx1", "cat /proc/sys/kernel/random/uuid"} {
			out := must(t, g, from)
			if seen[out] {
				t.Errorf("%s said the same twice: %s", from, out)
			}
			seen[out] = true
		}
	}
	must(t, a, "echo a >/root/mark; echo a >/dev/shm/mark; sync; (exec -a only-in-a sleep 1000) >/dev/null 2>&1 &")
	if out := must(t, b, "ls /root/mark /dev/shm/mark 2>/dev/null; pgrep -f only-in-[a] || true"); out != "" {
		t.Errorf("what happens in one is seen in the other: %q", out)
	}
	a.Close()
	if c := clone(t); must(t, c, "ls /root/mark 2>/dev/null || true") != "" {
		t.Error("what happened in a clone is seen in the next")
	}
}

// TestItDiesWithItsUser: killed, not closed.
func TestItDiesWithItsUser(t *testing.T) {
	need(t)
	user := exec.Command("/proc/self/exe")
	user.Env, user.Stderr = append(os.Environ(), userEnv+"=1"), os.Stderr
	out, err := user.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		user.Process.Kill()
		t.Fatalf("%q: %v", line, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	user.Process.Kill()
	user.Wait()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); n != 1 {
		unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		t.Errorf("QEMU lives on, %v", err)
	}
}

func TestCloseEndsCommands(t *testing.T) {
	g := clone(t)
	ended := make(chan error)
	go func() {
		_, err := g.Output(t.Context(), "sleep", "1000")
		ended <- err
	}()
	time.Sleep(100 * time.Millisecond)
	g.Close()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the command has ended well")
		}
	case <-time.After(10 * time.Second):
		t.Error("the command goes on")
	}
}

func TestFilesComeAlong(t *testing.T) {
	need(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	g, err := StartWith(t.Context(), func(w *tar.Writer) error {
		for _, name := range []string{"opt/a/big", "opt/b"} {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o640, Size: int64(len(big))}); err != nil {
				return err
			}
			if _, err := w.Write(big); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if got := must(t, g, "stat -c '%s %a' /opt/a/big /opt/b; cmp /opt/a/big /opt/b; tail -c 16 /opt/b"); got != "16777216 640\n16777216 640\n0123456789abcdef" {
		t.Error(got)
	}
	if err := g.Put(wire.File{Path: "/opt/c", Mode: 0o600}, bytes.NewReader(big[:1<<20])); err != nil {
		t.Fatal(err)
	}
	if got := must(t, g, "stat -c '%s %a' /opt/c; cmp -n 1048576 /opt/b /opt/c"); got != "1048576 600" {
		t.Error(got)
	}
}

func TestRerun(t *testing.T) {
	if !Rerun(t) {
		return
	}
	if b, err := os.ReadFile("/etc/hostname"); err != nil || string(b) != "guest\n" {
		t.Errorf("hostname %q, %v", b, err)
	}
	if _, err := os.Stat("guest_test.go"); err != nil {
		t.Errorf("not in the package's folder: %v", err)
	}
}

func TestRun(t *testing.T) {
	if Inside() {
		t.Skip("this is the guest")
	}
	Run(t, "brig/test/guest/wire")
}

func TestFindSaysWhatToDo(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, err := Find(); err == nil {
		t.Fatal("a guest outside of the tree")
	}
	if err := os.WriteFile("go.mod", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(); err == nil || !strings.Contains(err.Error(), "make guest") {
		t.Errorf("%v", err)
	}
}

func TestLoadOrder(t *testing.T) {
	index := "k/a.ko:\nk/b.ko: k/a.ko\nk/c.ko: k/b.ko k/a.ko\nk/d.ko: k/a.ko\n"
	got, err := loadOrder(index, []string{"c", "d"})
	if err != nil || !slices.Equal(got, []string{"k/a.ko", "k/b.ko", "k/c.ko", "k/d.ko"}) {
		t.Error(got, err)
	}
	if _, err := loadOrder(index, []string{"none"}); err == nil || !strings.Contains(err.Error(), "none") {
		t.Error(err)
	}
}

// TestInitramfs has another reader look at the archive.
func TestInitramfs(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is not installed: apt-get install busybox-static")
	}
	var b bytes.Buffer
	c := &cpio{w: &b}
	c.add("dir", 0o40755, nil)
	c.add("dir/odd", 0o100644, []byte("12345"))
	c.add("program", 0o100755, []byte("#!"))
	c.add("TRAILER!!!", 0, nil)
	dir := t.TempDir()
	cmd := exec.Command(busybox, "cpio", "-i")
	cmd.Dir, cmd.Stdin = dir, &b
	if out, err := cmd.CombinedOutput(); err != nil || c.err != nil {
		t.Fatal(err, c.err, string(out))
	}
	got, err := os.ReadFile(filepath.Join(dir, "dir/odd"))
	info, statErr := os.Stat(filepath.Join(dir, "program"))
	if err != nil || statErr != nil || string(got) != "12345" || info.Mode() != 0o755 {
		t.Errorf("%q, %v, %v, %v", got, err, info, statErr)
	}
}

func TestWatcher(t *testing.T) {
	var out bytes.Buffer
	w := &watcher{out: &out, pkg: "p"}
	text := "=== RUN   TestA\n    a_test.go:1: no such kernel\n--- SKIP: TestA (0.00s)\n=== RUN   TestB\n--- FAIL: TestB (0.10s)\n    --- SKIP: TestB/sub (0.00s)\nFAIL"
	for i := range len(text) {
		w.Write([]byte(text[i : i+1]))
	}
	w.flush()
	if out.String() != text {
		t.Errorf("passed on: %q", out.String())
	}
	if !slices.Equal(w.skipped, []string{"p TestA: a_test.go:1: no such kernel", "p TestB/sub: "}) || !slices.Equal(w.failed, []string{"p TestB"}) {
		t.Errorf("skipped %q, failed %q", w.skipped, w.failed)
	}
}
