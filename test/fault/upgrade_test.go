package fault

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"brig/test/machine"
)

// oldEnv names a folder with the programs of an older version, to start from. Without it a version replaces itself.
const oldEnv = "BRIG_TEST_OLD"

// TestUpgrade replaces Brig's programs, as a package manager does, under containers that run, wait, are attached to and are asked about their health: all go on, and
// the new programs know them.
func TestUpgrade(t *testing.T) {
	needRoot(t)
	dir, bin := t.TempDir(), filepath.Dir(machine.Program("brig"))
	install := func(from string) {
		t.Helper()
		for _, p := range []string{"brig", "brig-oci", "brig-image", "brigd"} {
			data, err := os.ReadFile(filepath.Join(from, p))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, p+".new"), data, 0o755)
			}
			if err == nil {
				err = os.Rename(filepath.Join(dir, p+".new"), filepath.Join(dir, p))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	old := os.Getenv(oldEnv)
	if old == "" {
		old = bin
	}
	install(old)
	t.Setenv(machine.BinEnv, dir)
	w := newWorld(t)
	if err := os.Mkdir(filepath.Join(w.state, "waiting"), 0o700); err != nil { // containers with a policy make it, and it stays
		t.Fatal(err)
	}
	w.base = w.things()
	const beat = "trap 'exit 7' TERM; while :; do echo beat; sleep 0.05; done"
	w.must("run", "-d", "--name", "quiet", "-p", "8080:80", "-v", "data:/data", "brig/base", "sleep", "600")
	w.must("run", "-d", "--name", "loud", "brig/base", "sh", "-c", beat)
	w.must("run", "-d", "--name", "kept", "--restart", "always", "brig/base", "sleep", "600")
	w.must("run", "-d", "--name", "well", "--health-cmd", "test ! -e /sick", "--health-interval", "100ms", "--health-retries", "1", "--health-on-failure", "restart", "--stop-timeout", "1", "brig/base", "sleep", "600")
	w.must("create", "--name", "made", "brig/base", "echo", "made by the old one")
	if r := w.brig("run", "--name", "over", "brig/base", "sh", "-c", "exit 3"); r.Code != 3 {
		t.Errorf("over: %s", r)
	}
	attached := w.command("run", "--rm", "--name", "attached", "brig/base", "sh", "-c", beat)
	if err := attached.Start(); err != nil {
		t.Fatal(err)
	}
	if err := eventually(func() error { return w.says("healthy", "ps", "--filter", "name=well") }); err != nil {
		t.Error(err)
	}
	if err := eventually(func() error { return w.says("attached", "ps") }); err != nil {
		t.Error(err)
	}
	pid := w.inspect("quiet").State.Pid

	install(bin)
	if s := w.inspect("quiet").State; !s.Running || s.Pid != pid {
		t.Errorf("after the upgrade: %+v, was %d", s, pid)
	}
	for _, c := range []string{"quiet", "loud", "kept", "well", "attached"} {
		if out := w.must("exec", c, "echo", "inside"); out != "inside" {
			t.Errorf("exec in %s says %q", c, out)
		}
	}
	if old == bin { // an old keeper may not know of tools
		if out := w.must("debug", "-c", "ls /dev/brig/bin/sh", "quiet"); out != "/dev/brig/bin/sh" {
			t.Errorf("debug says %q", out)
		}
	}
	if out := w.must("port", "quiet"); !strings.Contains(out, "8080") {
		t.Errorf("port says %q", out)
	}
	if err := w.says("beat", "logs", "--tail", "1", "loud"); err != nil {
		t.Error(err)
	}
	w.must("pause", "loud")
	w.must("unpause", "loud")
	w.must("update", "--memory", "64m", "--memory-swap", "64m", "quiet")
	w.must("cp", "loud:/etc/passwd", filepath.Join(t.TempDir(), "passwd"))
	// What the old keepers start next are the new programs.
	sick := w.inspect("well").State.Pid
	w.must("exec", "well", "touch", "/sick")
	if err := eventually(func() error {
		if s := w.inspect("well").State; !s.Running || s.Pid == sick {
			return fmt.Errorf("well: %+v, was %d", s, sick)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if s := w.inspect("kept").State; s.Running {
		_ = exec.Command("kill", "-9", strconv.Itoa(s.Pid)).Run()
	}
	if err := eventually(func() error {
		return w.says("1 running", "inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "kept")
	}); err != nil {
		t.Error(err)
	}
	w.must("stop", "-t", "5", "loud", "attached")
	if err := attached.Wait(); attached.ProcessState.ExitCode() != 7 {
		t.Errorf("the attached run ends with %v, want the container's 7", err)
	}
	if s := w.inspect("loud").State; s.ExitCode != 7 {
		t.Errorf("loud after stop: %+v", s)
	}
	if s := w.inspect("over").State; s.ExitCode != 3 {
		t.Errorf("over: %+v", s)
	}
	if err := w.says("made by the old one", "start", "-a", "made"); err != nil {
		t.Error(err)
	}
	w.must("start", "over", "loud")
	w.must("restart", "-t", "1", "quiet")
	w.must("rm", "-f", "quiet", "loud", "kept", "well", "made", "over")
	w.must("volume", "rm", "data")
	w.mustBeClean("after rm")
}
