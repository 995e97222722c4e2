package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestExecFlags tries each flag of exec in one container.
func TestExecFlags(t *testing.T) {
	w := newWorld(t)
	id := w.started(w.bundle(func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{3} }, "sleep", "100"))
	const status = `grep -E '^(CapBnd|CapEff|CapPrm|CapAmb|CapInh|NoNewPrivs)' /proc/self/status | tr -d '\t' | tr '\n' ' '`
	for _, c := range []struct {
		flags []string
		cmd   string
		want  string
	}{
		{nil, "id", "uid=0 gid=0 groups=3"},
		{[]string{"--user", "7"}, "id -u; id -g", "7\n0"},
		{[]string{"-u", "7:8"}, "id", "uid=7 gid=8 groups=3"},
		{[]string{"--additional-gids", "11", "-g", "12"}, "id -G", "0 3 11 12"},
		{[]string{"--cwd", "/tmp"}, "pwd", "/tmp"},
		{[]string{"--env", "A=b", "-e", "C=d=e", "-e", "EMPTY="}, "echo $A $C ${EMPTY-unset}", "b d=e"},
		{[]string{"--env", "PATH=/nowhere:/bin"}, "echo $PATH", "/nowhere:/bin"},
		{nil, "echo $HOME", "/"},
		{nil, status, "CapInh:0000000000000000 CapPrm:00000000000404e0 CapEff:00000000000404e0 CapBnd:00000000000404e0 CapAmb:0000000000000000 NoNewPrivs:1"},
		{[]string{"--cap", "CAP_NET_RAW"}, status, "CapInh:0000000000000000 CapPrm:00000000000424e0 CapEff:00000000000424e0 CapBnd:00000000000424e0 CapAmb:0000000000000000 NoNewPrivs:1"},
		{[]string{"--no-new-privs=false"}, "grep NoNew /proc/self/status", "NoNewPrivs:\t0"},
	} {
		r := w.run(append(append([]string{"exec"}, c.flags...), id, "sh", "-c", c.cmd)...)
		if r.code != 0 || strings.TrimSpace(r.out) != c.want {
			t.Errorf("exec %v %s: %s, want %q", c.flags, c.cmd, r, c.want)
		}
	}
	for _, c := range []struct {
		words string
		args  []string
	}{
		{"--user", []string{"--user", "-1", id, "true"}},
		{"--user", []string{"--user", "4294967296", id, "true"}},
		{"--user", []string{"--user", "1:x", id, "true"}},
		{"--additional-gids", []string{"-g", "x", id, "true"}},
		{"--env", []string{"-e", "=x", id, "true"}},
		{"cwd", []string{"--cwd", "tmp", id, "true"}},
		{"working directory", []string{"--cwd", "/no/such", id, "true"}},
		{"/no/such/process.json", []string{"--process", "/no/such/process.json", id}},
		{"--cgroup", []string{"--cgroup", "../other", id, "true"}},
		{"does not exist", []string{"--cgroup", "missing", id, "true"}},
		{"--ignore-nothing", []string{"--ignore-nothing", id, "true"}},
	} {
		w.fails(255, c.words, append([]string{"exec"}, c.args...)...)
	}
	w.must("delete", "--force", id)
}

// TestExecProcessFile: the file says all about the process.
func TestExecProcessFile(t *testing.T) {
	w := newWorld(t)
	id := w.started(w.bundle(nil, "sleep", "100"))
	p := specs.Process{
		Args: []string{"/bin/sh", "-c", "id; pwd; echo $X; cat /proc/self/oom_score_adj; ulimit -n; grep CapEff /proc/self/status; exit 6"},
		Cwd:  "/tmp", Env: []string{"X=y", "PATH=/bin"}, User: specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}},
		Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 99, Soft: 88}},
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.dir+"/process.json", data, 0o644); err != nil {
		t.Fatal(err)
	}
	r := w.run("exec", "--process", w.dir+"/process.json", id)
	own := strings.TrimSpace(w.read("/proc/self/oom_score_adj"))
	if want := "uid=5 gid=6 groups=7\n/tmp\ny\n" + own + "\n88\nCapEff:\t0000000000000000\n"; r.code != 6 || r.out != want {
		t.Errorf("%s, want %q", r, want)
	}
	os.WriteFile(w.dir+"/process.json", []byte(`{"args": 5}`), 0o644)
	w.fails(255, "process.json", "exec", "--process", w.dir+"/process.json", id)
	os.WriteFile(w.dir+"/process.json", []byte(`{"cwd": "/"}`), 0o644)
	w.fails(255, "args", "exec", "--process", w.dir+"/process.json", id)
	w.must("delete", "--force", id)
}

// TestExecPaused: with --ignore-paused the process waits until the container goes on.
func TestExecPaused(t *testing.T) {
	w := newWorld(t)
	id := w.started(w.bundle(nil, "sleep", "100"))
	w.must("pause", id)
	w.fails(255, "paused", "exec", id, "true")
	cmd := w.command("exec", "--ignore-paused", id, "echo", "awake")
	out := w.file()
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if got := w.read(out.Name()); got != "" {
		t.Errorf("a paused container printed %q", got)
	}
	w.must("resume", id)
	if err := waitFor(cmd); err != nil {
		t.Fatal(err)
	}
	if got := w.read(out.Name()); got != "awake\n" || exitCode(cmd) != 0 {
		t.Errorf("after resume: %q, code %d", got, exitCode(cmd))
	}
	w.must("delete", "--force", id)
}

// TestExecCgroup: --cgroup puts the process into a group below the container's.
func TestExecCgroup(t *testing.T) {
	w := newWorld(t)
	id := w.started(w.bundle(nil, "sleep", "100"))
	var made []string
	for _, hierarchy := range strings.Fields("blkio cpu cpuacct cpuset devices freezer memory pids systemd unified") {
		dir := "/sys/fs/cgroup/" + hierarchy + "/" + id
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
			t.Fatal(err)
		}
		made = append(made, dir+"/sub")
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if data, err := os.ReadFile(dir + "/" + f); err == nil && hierarchy == "cpuset" {
				os.WriteFile(dir+"/sub/"+f, data, 0o644)
			}
		}
	}
	if len(made) == 0 {
		t.Skip("the cgroups are not version 1's or hybrid")
	}
	for _, sub := range []string{"sub", "/sub"} {
		out := w.must("exec", "--cgroup", sub, id, "cat", "/proc/self/cgroup")
		if n := strings.Count(out+"\n", "/sub\n"); n < len(made) {
			t.Errorf("--cgroup %s: it is in\n%s", sub, out)
		}
	}
	w.must("delete", "--force", id) // takes the group below with it
	if _, err := os.Stat(made[0]); err == nil {
		t.Errorf("%s is left", made[0])
	}
}

// TestExecManyAtOnce: twenty at once in one container, each with its own output and code.
func TestExecManyAtOnce(t *testing.T) {
	w := newWorld(t)
	id := w.started(w.bundle(nil, "sleep", "100"))
	done := make(chan string)
	for i := range 20 {
		go func() {
			r := w.run("exec", id, "sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i))
			if r.code != i || r.out != fmt.Sprintf("%d\n", i) {
				done <- fmt.Sprintf("exec %d: %s", i, r)
				return
			}
			done <- ""
		}()
	}
	for range 20 {
		if words := <-done; words != "" {
			t.Error(words)
		}
	}
	w.must("delete", "--force", id)
}
