package conform

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/test/machine"
)

// docker is an engine with docker's command line.
type docker struct {
	client
	w    *world
	run  []string // "run" and the flags that each container needs
	v1   bool     // limits are files of cgroup version 1 in the container
	more bool     // it is docker itself
}

// TestDocker uses Debian's dockerd with --add-runtime.
func TestDocker(t *testing.T) {
	eachRuntime(t, func(t *testing.T, w *world) {
		installed(t, "docker.io containerd iptables", "dockerd", "containerd", "docker", "iptables")
		containerd, stop, err := machine.StartContainerd(w.dir)
		t.Cleanup(stop)
		if err != nil {
			t.Fatal(err)
		}
		socket, stop, err := machine.StartDockerd(w.dir, containerd, "--add-runtime", "tested="+w.runtime)
		t.Cleanup(stop)
		if err != nil {
			t.Fatal(err)
		}
		program := "/usr/bin/docker" // Debian's; another version may stand before it in PATH
		if _, err := os.Stat(program); err != nil {
			program = "docker"
		}
		d := &docker{client: client{program, "-H", "unix://" + socket}, w: w, run: []string{"run", "--runtime", "tested"}, more: true}
		d.must(t, "load", "-q", "-i", w.archive)
		d.suite(t)
		w.called(t, "create", "start", "exec", "kill", "pause", "resume", "update", "delete")
	})
}

// TestPodman uses Debian's podman with --runtime.
func TestPodman(t *testing.T) {
	eachRuntime(t, func(t *testing.T, w *world) {
		installed(t, "podman conmon", "podman", "conmon")
		d := &docker{client: append(machine.Podman(w.dir), "--runtime", w.runtime), w: w}
		d.run = append([]string{"run", "--network", "none"}, machine.PodmanLimits()...)
		d.must(t, "load", "-q", "-i", w.archive)
		d.suite(t)
		w.called(t, "create", "start", "exec", "kill", "pause", "resume", "update", "delete")
	})
}

func (d *docker) runs(args ...string) []string { return append(d.run[:len(d.run):len(d.run)], args...) }

func (d *docker) suite(t *testing.T) {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	d.v1 = err != nil
	t.Cleanup(func() { d.do(t, "", "rm", "-f", "subject", "tty") })
	t.Run("run", d.testRun)
	id := d.must(t, d.runs("-d", "--name", "subject", imageName, "sh", "-c",
		`trap "echo bye; exit 5" TERM; trap "echo user" USR1; echo hello; n=0; while :; do n=$((n+1)); echo $n >/tmp/count; sleep 0.1; done`)...)
	for _, s := range []struct {
		name string
		test func(*testing.T)
	}{
		{"logs", func(t *testing.T) { d.eventually(t, `^hello\n$`, "logs", "subject") }},
		{"exec", d.testExec}, {"exec on a terminal", func(t *testing.T) {
			d.session(t, 4, []string{"exec", "-it", "subject", "sh"}, shellSession)
		}},
		{"run on a terminal", func(t *testing.T) {
			d.session(t, 4, d.runs("--rm", "-it", imageName, "sh"), shellSession)
		}},
		{"attach", d.testAttach}, {"top and ps", d.testTop}, {"stats", d.testStats}, {"pause", d.testPause}, {"update", d.testUpdate},
		{"restart", d.testRestart}, {"kill and stop", d.testStop},
	} {
		t.Run(s.name, s.test)
	}
	t.Run("rm", func(t *testing.T) {
		d.must(t, "start", "subject")
		if r := d.do(t, "", "rm", "subject"); r.code == 0 {
			t.Errorf("rm of a running container: %v", r)
		}
		d.must(t, "kill", "subject")
		d.eventually(t, `false 137`, "inspect", "-f", "{{.State.Running}} {{.State.ExitCode}}", "subject")
		d.must(t, "rm", "subject")
		if out := d.must(t, "ps", "-aq"); out != "" {
			t.Errorf("containers are left: %s", out)
		}
		d.w.gone(t, id)
	})
}

func (d *docker) testRun(t *testing.T) {
	r := d.do(t, "", d.runs("--rm", imageName, "sh", "-c", "echo out; echo err >&2; exit 7")...)
	if r.code != 7 || r.out != "out\n" || r.err != "err\n" {
		t.Errorf("run: %v", r)
	}
	if r := d.do(t, "from outside", d.runs("--rm", "-i", imageName, "cat")...); r.code != 0 || r.out != "from outside" {
		t.Errorf("run -i: %v", r)
	}
	d.ends(t, 143, "", d.runs("--rm", imageName, "sh", "-c", "sh -c 'kill -TERM $$'; exit $?")...)
	if r := d.do(t, "", d.runs("--rm", imageName, "/no/such/file")...); r.code != 127 || !strings.Contains(r.err, "no such file or directory") {
		t.Errorf("a missing program: %v", r)
	}
	if r := d.do(t, "", d.runs("--rm", imageName, "/etc/passwd")...); r.code != 126 || !strings.Contains(strings.ToLower(r.err), "permission denied") {
		t.Errorf("a program without the right to be executed: %v", r)
	}
	d.ends(t, 0, "1000 1001 /tmp b box\n", d.runs("--rm", "-u", "1000:1001", "-w", "/tmp", "-e", "A=b", "--hostname", "box", imageName,
		"sh", "-c", `echo $(id -u) $(id -g) $(pwd) $A $(hostname)`)...)
	dir := filepath.Join(d.w.dir, "volume")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d.ends(t, 0, "written\n", d.runs("--rm", "-v", dir+":/v", "-v", dir+":/ro:ro", "--read-only", "--tmpfs", "/t", imageName,
		"sh", "-c", "echo written >/v/file && cat /ro/file && ! touch /ro/x 2>/dev/null && ! touch /x 2>/dev/null && touch /t/x")...)
	d.ends(t, 0, "CapEff:\t0000000000000000\n", d.runs("--rm", "--cap-drop", "all", imageName, "grep", "CapEff", "/proc/self/status")...)
	d.ends(t, 0, "NoNewPrivs:\t1\n", d.runs("--rm", "--security-opt", "no-new-privileges", imageName, "grep", "NoNewPrivs", "/proc/self/status")...)
	d.ends(t, 0, "Seccomp:\t2\n", d.runs("--rm", imageName, "grep", "Seccomp:", "/proc/self/status")...)
	d.ends(t, 0, "100 4096\n", d.runs("--rm", "--ulimit", "core=100:100", "--sysctl", "kernel.msgmax=4096", imageName,
		"sh", "-c", "echo $(awk '/core/{print $5}' /proc/self/limits) $(cat /proc/sys/kernel/msgmax)")...)
}

func (d *docker) testExec(t *testing.T) {
	r := d.do(t, "", "exec", "subject", "sh", "-c", "echo out; echo err >&2; exit 3")
	if r.code != 3 || r.out != "out\n" || r.err != "err\n" {
		t.Errorf("exec: %v", r)
	}
	if r := d.do(t, "from outside", "exec", "-i", "subject", "cat"); r.code != 0 || r.out != "from outside" {
		t.Errorf("exec -i: %v", r)
	}
	d.ends(t, 0, "1000 1001 /tmp b\n", "exec", "-u", "1000:1001", "-w", "/tmp", "-e", "A=b", "subject", "sh", "-c", "echo $(id -u) $(id -g) $(pwd) $A")
	if r := d.do(t, "", "exec", "subject", "/no/such/file"); r.code != 127 && r.code != 126 {
		t.Errorf("exec of a missing program: %v", r)
	}
	d.must(t, "exec", "-d", "subject", "sh", "-c", "echo done >/tmp/detached")
	d.eventually(t, "done", "exec", "subject", "cat", "/tmp/detached")
	d.ends(t, 0, "ok\n", "exec", "subject", "sh", "-c", "[ $(cat /proc/self/cgroup) = $(cat /proc/1/cgroup) ] 2>/dev/null; "+
		`[ "$(readlink /proc/self/ns/mnt)" = "$(readlink /proc/1/ns/mnt)" ] && [ "$(cat /proc/self/cgroup)" = "$(cat /proc/1/cgroup)" ] && echo ok`)
}

// testAttach attaches to a shell twice: the detach keys leave it alive.
func (d *docker) testAttach(t *testing.T) {
	d.must(t, d.runs("-dit", "--name", "tty", imageName, "sh")...)
	detached, ended := 0, 0
	if d.more {
		detached, ended = 1, 4 // docker calls it an error: "read escape sequence"; podman does not hand on the code
	}
	d.session(t, detached, []string{"attach", "tty"}, func(term *machine.Terminal) error {
		if err := term.Type("echo first $((1+1))\r"); err != nil {
			return err
		}
		if err := term.Expect("first 2\r\n", patience); err != nil {
			return err
		}
		if err := term.Type("\x10"); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond) // podman does not find the keys in one piece
		return term.Type("\x11")
	})
	d.session(t, ended, []string{"attach", "tty"}, func(term *machine.Terminal) error {
		if err := term.Type("\r"); err != nil { // an attached client sees no prompt that was printed before
			return err
		}
		return shellSession(term)
	})
	d.eventually(t, "^4\n", "inspect", "-f", "{{.State.ExitCode}}", "tty")
	d.must(t, "rm", "-f", "tty")
}

func (d *docker) testTop(t *testing.T) {
	if out := d.must(t, "top", "subject"); !strings.Contains(out, "sh -c") || !strings.Contains(out, "PID") {
		t.Errorf("top: %s", out)
	}
	if out := d.must(t, "ps", "--format", "{{.Names}} {{.Status}}"); !strings.HasPrefix(out, "subject Up") {
		t.Errorf("ps: %s", out)
	}
}

func (d *docker) testStats(t *testing.T) {
	out := d.must(t, "stats", "--no-stream", "--format", "{{.Name}};{{.MemUsage}};{{.PIDs}}", "subject")
	f := strings.Split(out, ";")
	if len(f) != 3 || f[0] != "subject" || strings.HasPrefix(f[1], "0B") || strings.HasPrefix(f[1], "--") {
		t.Fatalf("stats: %q", out)
	}
	if n, err := strconv.Atoi(f[2]); err != nil || n < 1 || n > 4 {
		t.Errorf("stats: %s processes", f[2])
	}
}

func (d *docker) count(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + d.must(t, "inspect", "-f", "{{.State.Pid}}", "subject") + "/root/tmp/count")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (d *docker) testPause(t *testing.T) {
	d.must(t, "pause", "subject")
	d.eventually(t, "(?i)paused", "inspect", "-f", "{{.State.Status}}", "subject")
	first := d.count(t)
	time.Sleep(500 * time.Millisecond)
	if second := d.count(t); first != second {
		t.Errorf("a paused container went on from %s to %s", first, second)
	}
	if r := d.do(t, "", "exec", "subject", "true"); r.code == 0 {
		t.Errorf("exec in a paused container: %v", r)
	}
	d.must(t, "unpause", "subject")
	d.eventually(t, "running", "inspect", "-f", "{{.State.Status}}", "subject")
	time.Sleep(500 * time.Millisecond)
	if second := d.count(t); first == second {
		t.Errorf("an unpaused container stays at %s", first)
	}
}

func (d *docker) testUpdate(t *testing.T) {
	wants := map[string]string{"memory/memory.limit_in_bytes": "67108864", "memory/memory.memsw.limit_in_bytes": "134217728", "cpu/cpu.cfs_quota_us": "50000"}
	args := []string{"update", "--memory", "64m", "--memory-swap", "128m", "--cpus", "0.5"}
	if d.more { // podman 4.3 knows no such flag
		args, wants["pids/pids.max"] = append(args, "--pids-limit", "50"), "50"
	}
	d.must(t, append(args, "subject")...)
	if !d.v1 {
		t.Skip("reads the limits from files of cgroup version 1")
	}
	group := d.groupOf(t)
	for file, want := range wants {
		controller, name, _ := strings.Cut(file, "/")
		data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, group[controller], name))
		if os.IsNotExist(err) && strings.Contains(name, "memsw") {
			continue // the kernel does not count swap
		}
		if got := strings.TrimSpace(string(data)); err != nil || got != want {
			t.Errorf("%s after update: %s, %v; want %s", file, got, err, want)
		}
	}
}

// groupOf reads the control groups of the subject's first process: controller to path.
func (d *docker) groupOf(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + d.must(t, "inspect", "-f", "{{.State.Pid}}", "subject") + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, c := range strings.Split(f[1], ",") {
			out[c] = f[2]
		}
	}
	return out
}

func (d *docker) testRestart(t *testing.T) {
	pid := d.must(t, "inspect", "-f", "{{.State.Pid}}", "subject")
	d.must(t, "restart", "-t", "5", "subject")
	d.eventually(t, "(?s)hello.*bye.*hello", "logs", "subject")
	if now := d.must(t, "inspect", "-f", "{{.State.Pid}} {{.State.Running}}", "subject"); now == pid+" true" || !strings.HasSuffix(now, "true") {
		t.Errorf("restart: %s, and before %s", now, pid)
	}
}

func (d *docker) testStop(t *testing.T) {
	d.must(t, "kill", "-s", "USR1", "subject")
	d.eventually(t, "user", "logs", "subject")
	begin := time.Now()
	d.must(t, "stop", "-t", "15", "subject")
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("stop took %s: TERM did not reach the container", took)
	}
	d.eventually(t, "^5 ", "inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "subject")
	if out := d.must(t, "logs", "subject"); strings.Count(out, "bye") != 2 {
		t.Errorf("logs after a restart and a stop: %q", out)
	}
	d.must(t, "start", "subject")
	d.must(t, "kill", "subject")
	if out := d.must(t, "wait", "subject"); out != "137" {
		t.Errorf("wait after kill: %s", out)
	}
}

// TestContainerd uses containerd's own client, with the runtime as BinaryName.
func TestContainerd(t *testing.T) {
	eachRuntime(t, func(t *testing.T, w *world) {
		installed(t, "containerd", "containerd", "ctr")
		socket, stop, err := machine.StartContainerd(w.dir)
		t.Cleanup(stop)
		if err != nil {
			t.Fatal(err)
		}
		c := &ctr{client: client{"ctr", "-a", socket, "-n", "conform"}, w: w,
			run: []string{"run", "--runtime", "io.containerd.runc.v2", "--runc-binary", w.runtime}}
		c.must(t, "images", "import", w.archive)
		c.suite(t)
		w.called(t, "create", "start", "exec", "kill", "pause", "resume", "delete")
	})
}

// ctr is containerd's client.
type ctr struct {
	client
	w    *world
	run  []string
	exec int
}

func (c *ctr) runs(args ...string) []string { return append(c.run[:len(c.run):len(c.run)], args...) }

func (c *ctr) execs(args ...string) []string {
	c.exec++
	return append([]string{"task", "exec", "--exec-id", fmt.Sprint("e", c.exec)}, args...)
}

func (c *ctr) suite(t *testing.T) {
	r := c.do(t, "", c.runs("--rm", imageName, "once", "sh", "-c", "echo out; echo err >&2; exit 7")...)
	if r.code != 7 || r.out != "out\n" || r.err != "err\n" {
		t.Errorf("run: %v", r)
	}
	if r := c.do(t, "", c.runs("--rm", imageName, "missing", "/no/such/file")...); r.code == 0 || !strings.Contains(r.err, "no such file or directory") {
		t.Errorf("a missing program: %v", r)
	}
	c.do(t, "", "containers", "rm", "missing")
	t.Run("run on a terminal", func(t *testing.T) { c.session(t, 4, c.runs("--rm", "-t", imageName, "shell", "sh"), shellSession) })

	id := "conform-subject"
	c.must(t, c.runs("-d", "--memory-limit", "67108864", imageName, id, "sh", "-c", `trap "exit 5" TERM; n=0; while :; do n=$((n+1)); echo $n >/tmp/count; sleep 0.1; done`)...)
	t.Cleanup(func() {
		c.do(t, "", "task", "kill", "-s", "KILL", id)
		c.do(t, "", "task", "delete", "-f", id)
		c.do(t, "", "containers", "rm", id)
	})
	t.Run("exec", func(t *testing.T) {
		r := c.do(t, "", c.execs(id, "sh", "-c", "echo out; echo err >&2; exit 3")...)
		if r.code != 3 || r.out != "out\n" || r.err != "err\n" {
			t.Errorf("exec: %v", r)
		}
		c.ends(t, 0, "/tmp 1000\n", c.execs("--cwd", "/tmp", "--user", "1000:1000", id, "sh", "-c", "echo $(pwd) $(id -u)")...)
		if r := c.do(t, "", c.execs(id, "/no/such/file")...); r.code == 0 {
			t.Errorf("exec of a missing program: %v", r)
		}
	})
	t.Run("exec on a terminal", func(t *testing.T) { c.session(t, 4, c.execs("-t", id, "sh"), shellSession) })
	t.Run("ps and metrics", func(t *testing.T) {
		if out := c.must(t, "task", "ps", id); !strings.Contains(out, "PID") || strings.Count(out, "\n") < 1 {
			t.Errorf("ps: %s", out)
		}
		if out := c.must(t, "task", "ls"); !strings.Contains(out, "RUNNING") {
			t.Errorf("ls: %s", out)
		}
		if out := c.must(t, "task", "metrics", id); !strings.Contains(out, "memory.usage_in_bytes") && !strings.Contains(out, "memory.usage") {
			t.Errorf("metrics: %s", out)
		}
	})
	t.Run("pause", func(t *testing.T) {
		c.must(t, "task", "pause", id)
		c.eventually(t, "PAUSED", "task", "ls")
		c.must(t, "task", "resume", id)
		c.eventually(t, "RUNNING", "task", "ls")
		c.ends(t, 0, "", c.execs(id, "true")...)
	})
	t.Run("attach", c.testAttach)
	t.Run("kill and delete", func(t *testing.T) {
		if r := c.do(t, "", "task", "delete", id); r.code == 0 {
			t.Errorf("delete of a running task: %v", r)
		}
		c.must(t, "task", "kill", "-s", "TERM", id)
		c.eventually(t, "STOPPED", "task", "ls")
		if r := c.do(t, "", "task", "delete", id); r.code != 5 && r.code != 0 {
			t.Errorf("delete of a stopped task: %v", r)
		}
		c.must(t, "containers", "rm", id)
		if out := c.must(t, "containers", "ls", "-q"); out != "" {
			t.Errorf("containers are left: %s", out)
		}
		c.w.gone(t, id)
	})
}

// testAttach attaches to the terminal of a task whose client is gone.
func (c *ctr) testAttach(t *testing.T) {
	const id = "conform-tty"
	c.session(t, 0, c.runs("-d", "-t", imageName, id, "sh"), func(*machine.Terminal) error { return nil })
	c.session(t, 4, []string{"task", "attach", id}, func(term *machine.Terminal) error {
		if err := term.Type("\r"); err != nil {
			return err
		}
		return shellSession(term)
	})
	c.do(t, "", "task", "delete", "-f", id)
	c.must(t, "containers", "rm", id)
	c.w.gone(t, id)
}
