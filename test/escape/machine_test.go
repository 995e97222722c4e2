package escape

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/test/machine"
)

// evilHost gives Brig's programs a folder of their own, where the agent in virtual machines is the attacker's, and returns a brig of it. All else is as it is.
func evilHost(t *testing.T) func(args ...string) *exec.Cmd {
	t.Helper()
	for _, f := range []string{"/usr/bin/qemu-system-x86_64", "/usr/lib/qemu/virtiofsd", program("vm-kernel"), program("brig-vm")} {
		if _, err := os.Stat(f); err != nil {
			t.Skip("virtual machines need QEMU, virtiofsd and bin/vm-kernel: make setup-vm guest-kernel")
		}
	}
	if os.Getenv(programsEnv) != "" {
		t.Skip("needs the Go compiler, to build the attacker that takes the agent's place")
	}
	dir := t.TempDir()
	for _, p := range []string{"brig", "brig-oci", "brig-image", "brig-vm", "vm-kernel"} {
		if err := os.Link(program(p), filepath.Join(dir, p)); err != nil {
			if out, err := exec.Command("cp", program(p), dir).CombinedOutput(); err != nil {
				t.Fatal(err, string(out))
			}
		}
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "brig-guest"), "./testdata/machine")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	return func(args ...string) *exec.Cmd {
		return exec.Command(filepath.Join(dir, "brig"), append([]string{"--root", root, "--state", state}, args...)...)
	}
}

// finish runs a command to its end, which comes in time.
func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(3*patience, func() { cmd.Process.Kill() })
	cmd.Wait()
	r := result{out.String(), errs.String(), cmd.ProcessState.ExitCode(), !late.Stop()}
	if r.hung {
		t.Errorf("%q: no end in time: %s", cmd.Args, r)
	}
	return r
}

// TestEvilMachine has the agent in a virtual machine be an attacker's. The host notices, says so, and takes everything away.
func TestEvilMachine(t *testing.T) {
	evil := evilHost(t)
	run := func(attack string, flags ...string) []string {
		return append(append([]string{"run", "--isolation", "vm", "--network", "none"}, flags...), "brig/base", "true", "attack:"+attack)
	}
	// Rules that are broken, before the process inside runs or after.
	for _, c := range []struct {
		attack string
		code   int
		says   string
	}{
		{"garbage", 125, "the virtual machine breaks the rules"},
		{"huge", 125, "a frame of 4294967295 bytes"},
		{"early", 125, "before its process"},
		{"wrong", 255, "stream 77, which there is not"},
		{"words", 125, "evil [2J ]0;title   brig: all is well"},
		{"dies", 255, "the virtual machine has ended"},
		{"panics", 255, "Attempted to kill init"},
	} {
		r := finish(t, evil(run(c.attack, "--name", c.attack)...))
		if r.code != c.code || !strings.Contains(r.err, c.says) || strings.ContainsAny(r.err, "\x1b\x07\r") {
			t.Errorf("%s: %s, want code %d and the words %q", c.attack, r, c.code, c.says)
		}
		want := "what it ran in has ended"
		if c.code == 125 {
			want = "could not be started"
		}
		if why := finish(t, evil("why", c.attack)); !strings.Contains(why.out, want) {
			t.Errorf("why %s: %s, want %q", c.attack, why, want)
		}
		if r := finish(t, evil("rm", c.attack)); r.code != 0 {
			t.Errorf("rm %s: %s", c.attack, r)
		}
	}
	// One that hears nothing is ended all the same.
	begin := func(attack string, flags ...string) string {
		t.Helper()
		r := finish(t, evil(run(attack, append(flags, "-d")...)...))
		if r.code != 0 {
			t.Fatalf("%s: %s", attack, r)
		}
		id := strings.TrimSpace(r.out)
		t.Cleanup(func() { finish(t, evil("rm", "-f", id)) })
		return id
	}
	id := begin("hangs")
	if r := finish(t, evil("stop", "-t", "1", id)); r.code != 0 {
		t.Errorf("stop: %s", r)
	}
	if r := finish(t, evil("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", id)); r.out != "exited 137\n" {
		t.Errorf("after stop: %s", r)
	}
	// One that floods what it can costs the host's monitor no memory, and its log does not grow.
	id = begin("floods")
	time.Sleep(machine.Patience(3 * time.Second))
	pid := strings.TrimSpace(finish(t, evil("inspect", "-f", "{{.State.Pid}}", id)).out)
	if kib := residentKiB(t, pid); kib > 64<<10 {
		t.Errorf("the monitor of a machine that floods it has %d KiB", kib)
	}
	if r := finish(t, evil("logs", id)); len(r.out)+len(r.err) > 4<<10 {
		t.Errorf("its log has %d bytes", len(r.out)+len(r.err))
	}
	if r := finish(t, evil("rm", "-f", id)); r.code != 0 {
		t.Errorf("rm: %s", r)
	}
	// What it says runs in it is what top prints, and no more.
	id = begin("lists")
	for _, words := range [][]string{{}, {"aux"}, {"pid", "user", "args", "label", "groups", "capeff", "etime"}} {
		r := finish(t, evil(append([]string{"top", id}, words...)...))
		if r.code != 0 || strings.Count(r.out, "\n") != 2 || !strings.Contains(r.out, "made?[2J?up") || strings.Contains(r.out, "\x1b") {
			t.Errorf("top %v: %s", words, r)
		}
	}
	// What it fills is its own.
	id = begin("fills", "--storage-opt", "size=16m")
	eventually(t, func() string { return finish(t, evil("logs", id)).out }, "full: ")
	if err := os.WriteFile(filepath.Join(root, "room"), []byte("is left"), 0o600); err != nil {
		t.Error("the host's disk: ", err)
	}
	if r := finish(t, evil("rm", "-f", id)); r.code != 0 {
		t.Errorf("rm: %s", r)
	}
}

// TestEvilMachineTree: links, pipes and names that a machine leaves in its container's tree lead nobody on the host out of it, and hold nobody up.
func TestEvilMachineTree(t *testing.T) {
	evil := evilHost(t)
	r := finish(t, evil("run", "-d", "--isolation", "vm", "--network", "none", "brig/base", "true", "attack:tree"))
	if r.code != 0 {
		t.Fatal(r)
	}
	id := strings.TrimSpace(r.out)
	t.Cleanup(func() { finish(t, evil("rm", "-f", id)) })
	eventually(t, func() string { return finish(t, evil("logs", id)).out }, "left")
	dir := t.TempDir()
	file := filepath.Join(dir, "canary")
	if err := os.WriteFile(file, []byte("canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"/out/brig-escape", "/up/brig-escape", "/hostname", "/loop", "/fifo"} {
		finish(t, evil("cp", file, id+":"+to)) // wherever it goes, it is not the host's
	}
	for _, path := range []string{"/etc/brig-escape", "/etc/hostname"} {
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte("canary")) {
			t.Errorf("%s of the host was written to", path)
		} else if err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	}
	hosts, err := os.ReadFile("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"/hostname", "/out/hostname", "/up/hostname", "/fifo", "/loop"} {
		to := filepath.Join(dir, "copy")
		os.RemoveAll(to)
		finish(t, evil("cp", "-L", id+":"+from, to))
		if info, err := os.Lstat(to); err == nil && info.Mode().IsRegular() {
			if b, err := os.ReadFile(to); err != nil || len(hosts) > 0 && bytes.Equal(b, hosts) {
				t.Errorf("%s brought the host's file: %q, %v", from, b, err)
			}
		}
	}
	for _, args := range [][]string{{"diff", id}, {"export", "-o", filepath.Join(dir, "tar"), id}, {"commit", id, "evil:1"}, {"rm", "-f", id}, {"rmi", "evil:1"}} {
		if r := finish(t, evil(args...)); r.code != 0 {
			t.Errorf("%s: %s", args[0], r)
		}
	}
}

// eventually waits until what is said has a word.
func eventually(t *testing.T, say func() string, word string) {
	t.Helper()
	for end := time.Now().Add(2 * patience); ; time.Sleep(200 * time.Millisecond) {
		said := say()
		if strings.Contains(said, word) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%q is not said, but %q", word, said)
		}
	}
}

// residentKiB is how much memory a process has.
func residentKiB(t *testing.T, pid string) (kib int) {
	t.Helper()
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscanf(rest, "%d", &kib); !ok || err != nil {
		t.Fatal(pid, fs.ErrInvalid, err)
	}
	return kib
}
