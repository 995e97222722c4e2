package fault

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReboot ends everything that a power cut ends and takes the state folder along, or leaves an old one there.
func TestReboot(t *testing.T) {
	for _, stale := range []bool{false, true} {
		name := "state is gone"
		if stale {
			name = "state is stale"
		}
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.must("run", "-d", "--name", "kept", "-p", "8080:80", "brig/base", "sleep", "600")
			w.must("run", "-d", "--rm", "--name", "gone", "-v", "/data", "brig/base", "sleep", "600")
			w.must("create", "--rm", "--name", "waits", "brig/base", "echo", "started")
			w.powerCut(stale)
			for _, c := range []string{"kept", "gone"} {
				if s := w.inspect(c).State; s.Running || s.Pid != 0 || s.Status != "" && (s.Status != "exited" || s.ExitCode != 255) {
					t.Errorf("%s after the boot: %+v", c, s)
				}
			}
			if s := w.inspect("waits").State; s.Status != "created" {
				t.Errorf("what was never started, after the boot: %+v", s)
			}
			if err := w.truth(); err != nil {
				t.Error(err)
			}
			w.must("start", "kept")
			if s := w.inspect("kept").State; !s.Running {
				t.Errorf("kept after start: %+v", s)
			}
			w.must("run", "--rm", "brig/base", "true")
			if err := eventually(func() error { return w.says("[]", "inspect", "gone") }); err != nil {
				t.Errorf("what --rm asked for: %v", err)
			}
			if err := w.says("started", "start", "-a", "waits"); err != nil {
				t.Errorf("--rm takes what was never started: %v", err)
			}
			w.must("rm", "-f", "kept")
			w.mustBeClean("after rm")
		})
	}
}

// powerCut kills all containers and shims, and takes away what the kernel would forget.
func (w *world) powerCut(stale bool) {
	var pids []int
	for _, id := range w.containers() {
		pids = append(pids, processes(id)...)
	}
	shims, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range shims {
		if line, err := os.ReadFile(f); err == nil && len(line) > 13 && string(line[:13]) == "brig-oci\x00shim" {
			var pid int
			json.Unmarshal([]byte(filepath.Base(filepath.Dir(f))), &pid)
			pids = append(pids, pid)
		}
	}
	for _, pid := range pids {
		unix.Kill(pid, unix.SIGKILL)
	}
	for _, pid := range pids {
		eventually(func() error { return notGone(pid) })
	}
	ids := w.containers()
	for _, id := range ids {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/brig-" + id)
		for _, g := range groups {
			os.Remove(g)
		}
	}
	if bridge, _ := filepath.Glob("/sys/class/net/brig-*"); len(bridge) > 0 {
		name := filepath.Base(bridge[0])
		exec.Command("ip", "link", "del", name).Run()
		exec.Command("nft", "delete", "table", "inet", name).Run()
	}
	for _, dir := range []string{w.root, w.state} {
		if err := unmountBelow(dir); err != nil {
			w.t.Fatal(err)
		}
	}
	if !stale {
		os.RemoveAll(w.state)
		return
	}
	for _, id := range ids { // of another boot, with the number of a process that lives now
		path := filepath.Join(w.state, "sandbox", id, "state.json")
		var s map[string]any
		data, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(data, &s) != nil {
			continue
		}
		s["pid"], s["bootID"] = os.Getpid(), "6f2b1c1e-0000-4000-8000-000000000000"
		data, _ = json.Marshal(s)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

// notGone is an error while the process is there.
func notGone(pid int) error {
	if err := unix.Kill(pid, 0); err == nil {
		return os.ErrExist
	}
	return nil
}
