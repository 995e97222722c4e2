package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// step is one command of a session that runc and brig-oci are put through. ID and BUNDLE stand for a container and its bundle.
type step struct {
	args string
	out  bool // what is printed is compared as well, but for numbers of processes and times
}

// TestAsRunc takes both programs through one session: codes and output must be the same.
func TestAsRunc(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("runc is not installed: make setup")
	}
	steps := []step{
		{"list", true}, {"list -q", true}, {"list -f json", true}, {"list --format xyz", false},
		{"state ID", false}, {"kill ID", false}, {"delete ID", false}, {"delete --force ID", true}, {"start ID", false}, {"exec ID true", false},
		{"ps ID", false}, {"pause ID", false}, {"resume ID", false}, {"update ID", false},
		{"state", false}, {"state a b", false}, {"create ../x", false}, {"create a/b", false}, {"create .", false}, {"create a$b", false},
		{"create -b /nonexistent ID", false}, {"create -b /tmp ID", false}, {"run -b /tmp ID", false},
		{"create --bundle BUNDLE ID", true}, {"create --bundle BUNDLE ID", false}, {"run --bundle BUNDLE ID", false},
		{"state ID", true}, {"list", true}, {"list -q", true}, {"list --format json", true}, {"list --format=json", true}, {"list -format json", true},
		{"ps ID", false}, {"ps -f json ID", true}, {"ps --format json ID", true}, {"ps -f xml ID", false}, {"ps ID -o pid", true}, {"ps ID -o comm", false},
		{"exec ID echo hi", true}, {"pause ID", true}, {"state ID", true}, {"start ID", false}, {"resume ID", true}, {"resume ID", false},
		{"start ID", true}, {"start ID", false}, {"state ID", true}, {"ps ID -o pid,args", true}, {"ps -f json ID", true},
		{"exec ID echo hi", true}, {"exec ID sh -c exit\t7", true}, {"exec ID false", true}, {"exec ID /nope", false}, {"exec ID /proc", false}, {"exec ID noexec", false},
		{"exec ID", false}, {"exec -u 5:6 ID id", true}, {"exec --user 5 ID id", true}, {"exec --cwd /tmp -e A=b ID env", true}, {"exec -u nobody ID id", false},
		{"exec --cwd /tmp ID pwd", true}, {"exec -g 7 -g 8 ID id -G", true}, {"exec --no-new-privs ID true", true}, {"exec --cap CAP_NET_RAW ID true", true}, {"exec --cap CAP_NONSENSE ID true", true},
		{"exec --console-socket /nope ID true", false}, {"exec -t -d ID true", false},
		{"pause ID", true}, {"pause ID", false}, {"state ID", true}, {"list", true}, {"exec ID true", false}, {"kill ID 0", true}, {"resume ID", true},
		{"kill ID NOPE", false}, {"kill ID 999", false}, {"kill ID SIGUSR3", false}, {"kill -a ID CONT", true}, {"kill ID sigcont", true}, {"kill ID cont", true}, {"kill ID 18", true},
		{"delete ID", false}, {"update --memory 100000000 ID", true}, {"update --pids-limit 50 ID", true}, {"kill ID KILL", true}, {"WAIT", false}, {"state ID", true},
		{"kill ID", false}, {"kill ID KILL", false}, {"kill -a ID", true}, {"ps ID", true}, {"ps -f json ID", true}, {"exec ID true", false}, {"start ID", false},
		{"pause ID", false}, {"resume ID", false}, {"update --memory 100000000 ID", false}, {"list", true}, {"delete ID", true}, {"delete ID", false},
		{"frobnicate", false}, {"state --nope x", false}, {"run --nope x", false}, {"--log-format xml list", false}, {"--log /nonexistent/log list", false},
		{"create -b BUNDLE ID", true}, {"delete ID", true}, {"create -b BUNDLE ID", true}, {"delete -f ID", true}, {"create -b BUNDLE ID", true}, {"kill ID KILL", true},
		{"WAIT", false}, {"state ID", true}, {"start ID", false}, {"delete ID", true}, {"run -d -b BUNDLE ID", true}, {"state ID", true}, {"delete -f ID", true},
		{"--rootless true list", true}, {"--rootless 0 list", true}, {"--rootless=auto list", true},
	}
	w := newWorld(t)
	bundle := w.bundle(func(s *specs.Spec) { s.Annotations = map[string]string{"org.example.b": "2", "org.example.a": "<1>"} }, "sleep", "100")
	id := w.name()
	want := session(w, runc, bundle, id, steps)
	got := session(w, w.prog, bundle, id, steps)
	for i, s := range steps {
		switch {
		case got[i].code != want[i].code:
			t.Errorf("step %d, %s: code %d, runc's is %d\nbrig-oci: %s\nrunc: %s", i, s.args, got[i].code, want[i].code, got[i], want[i])
		case s.out && got[i].out != want[i].out:
			t.Errorf("step %d, %s: brig-oci prints\n%s\nrunc prints\n%s", i, s.args, got[i].out, want[i].out)
		case !s.out && want[i].code != 0 && !strings.HasPrefix(got[i].err, "brig-oci: "):
			t.Errorf("step %d, %s: the error is %q", i, s.args, got[i].err)
		}
	}
}

// session runs the steps with one program.
func session(w *world, prog, bundle, id string, steps []step) (results []result) {
	w.t.Helper()
	old := w.prog
	w.prog, w.root = prog, w.dir+"/state"
	defer func() { w.prog = old }()
	pid, stamp := regexp.MustCompile(`\b\d{2,7}\b`), regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z *`)
	for _, s := range steps {
		if s.args == "WAIT" {
			w.becomes(id, "stopped")
			results = append(results, result{})
			continue
		}
		args := strings.Fields(strings.ReplaceAll(s.args, "\t", "\x00"))
		for i, a := range args {
			switch a {
			case "ID":
				args[i] = id
			case "BUNDLE":
				args[i] = bundle
			}
			args[i] = strings.ReplaceAll(args[i], "\x00", " ")
		}
		r := w.run(args...)
		r.out = stamp.ReplaceAllString(strings.ReplaceAll(strings.TrimRight(r.out, "\n"), id, "ID"), "TIME ")
		r.out = strings.ReplaceAll(r.out, bundle, "BUNDLE")
		r.out = pid.ReplaceAllString(r.out, "PID")
		r.out = strings.NewReplacer("1.0.2-dev", "1.0.2", `\u003c`, "<", `\u003e`, ">").Replace(r.out) // runc writes its own version, not the bundle's
		r.out = regexp.MustCompile(`  +`).ReplaceAllString(r.out, "  ")
		results = append(results, r)
	}
	os.RemoveAll(w.root)
	return results
}

// TestWordsThatEnginesLookFor: containerd tells a container that is gone from other errors of kill and delete by these words.
func TestWordsThatEnginesLookFor(t *testing.T) {
	w := newWorld(t)
	w.fails(1, "does not exist", "kill", "brig-none", "KILL")
	w.fails(1, "does not exist", "delete", "brig-none")
	w.fails(1, "does not exist", "state", "brig-none")
	id := w.started(w.bundle(nil, "true"))
	w.becomes(id, "stopped")
	w.fails(1, "container not running", "kill", id, "KILL")
	w.must("delete", id)
	w.fails(1, "already exists", "create", "--bundle", w.bundle(nil, "true"), w.created(w.bundle(nil, "true")))
}

// TestStateTells compares state with what the kernel says, at each point of a life.
func TestStateTells(t *testing.T) {
	w := newWorld(t)
	bundle := w.bundle(func(s *specs.Spec) { s.Annotations = map[string]string{"a": "b"} }, "sleep", "100")
	began := time.Now()
	id := w.created(bundle, "--pid-file", w.dir+"/pid")
	s := w.state(id)
	if s.Version != "1.0.2" || s.ID != id || s.Status != "created" || s.Bundle != bundle || s.Rootfs != sharedRoot || s.Annotations["a"] != "b" || s.Owner == nil {
		t.Errorf("created: %+v", s)
	}
	if s.Created.Before(began.Add(-time.Second)) || s.Created.After(time.Now()) {
		t.Errorf("created at %s, now is %s", s.Created, time.Now())
	}
	if got := w.read(w.dir + "/pid"); got != strconv.Itoa(s.Pid) {
		t.Errorf("pid file %q, state says %d", got, s.Pid)
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.Pid))
	if mine, _ := os.Readlink("/proc/self/ns/pid"); err != nil || ns == mine {
		t.Errorf("process %d is in PID namespace %s, %v", s.Pid, ns, err)
	}
	w.must("start", id)
	if r := w.state(id); r.Status != "running" || r.Pid != s.Pid || !r.Created.Equal(s.Created) {
		t.Errorf("running: %+v; created: %+v", r, s)
	}
	if comm := w.read(fmt.Sprintf("/proc/%d/comm", s.Pid)); comm != "sleep\n" {
		t.Errorf("the process is %q", comm)
	}
	w.must("pause", id)
	if r := w.state(id); r.Status != "paused" || r.Pid != s.Pid {
		t.Errorf("paused: %+v", r)
	}
	w.fails(1, "paused", "delete", id)
	w.must("delete", "--force", id) // of a frozen one
	if w.has(id) {
		t.Error("it is known after delete --force")
	}
}

// TestLog: an engine shows its user the last error line of --log.
func TestLog(t *testing.T) {
	w := newWorld(t)
	log := w.dir + "/log"
	w.flags = []string{"--log", log, "--log-format", "json"}
	w.fails(1, "does not exist", "state", "brig-none")
	w.fails(1, "not a valid", "state", `q"\q`)
	w.fails(1, "frob", "list", "--frob")
	bundle := w.bundle(nil, "/no/such/program")
	w.fails(1, "no such file", "run", "--bundle", bundle, w.name())
	var lines []struct{ Level, Msg, Time string }
	for line := range strings.Lines(w.read(log)) {
		var l struct{ Level, Msg, Time string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if _, err := time.Parse(time.RFC3339, l.Time); err != nil || l.Level != "error" {
			t.Errorf("line %q: %v", line, err)
		}
		lines = append(lines, l)
	}
	want := []string{"brig-none does not exist", `q\"\\q`, "--frob", "/no/such/program"}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d: %+v", len(lines), len(want), lines)
	}
	for i, l := range lines {
		if !strings.Contains(l.Msg, want[i]) {
			t.Errorf("line %d is %q, want %q in it", i, l.Msg, want[i])
		}
	}
	w.flags = []string{"--log", log + ".text"}
	w.fails(1, "does not exist", "state", "brig-none")
	if text := w.read(log + ".text"); !regexp.MustCompile(`^time="[0-9TZ:-]+" level=error msg="container brig-none does not exist"\n$`).MatchString(text) {
		t.Errorf("text log: %q", text)
	}
	w.flags = []string{"--log", "/no/such/folder/log"}
	w.fails(1, "/no/such/folder/log", "list")
	w.flags = []string{"--log-format", "xml"}
	w.fails(1, "xml", "list")
}

// TestDebug: with --debug the log tells what was done, and what was given to whom.
func TestDebug(t *testing.T) {
	w := newWorld(t)
	log := w.dir + "/log"
	w.flags = []string{"--debug", "--log", log, "--log-format", "json"}
	id := w.created(w.bundle(nil, "true"))
	w.must("start", id)
	w.becomes(id, "stopped")
	w.must("delete", id)
	text := w.read(log)
	for _, words := range []string{`"level":"debug"`, "create", "start", "delete", id, "cgroup", "pid"} {
		if !strings.Contains(text, words) {
			t.Errorf("%q is not in the log:\n%s", words, text)
		}
	}
	w.flags = []string{"--debug"}
	if r := w.run("list"); r.code != 0 || !strings.Contains(r.err, "list") {
		t.Errorf("without --log it goes to standard error: %s", r)
	}
}

// TestRunExitCodes: run and exec end as their command does.
func TestRunExitCodes(t *testing.T) {
	w := newWorld(t)
	codes := []int{0, 1, 2, 42, 125, 126, 127, 128, 200, 255}
	for _, code := range codes {
		if r := w.run("run", "--bundle", w.bundle(nil, "sh", "-c", fmt.Sprintf("exit %d", code)), w.name()); r.code != code || r.err != "" {
			t.Errorf("exit %d: %s", code, r)
		}
	}
	id := w.started(w.bundle(nil, "sleep", "100"))
	for _, code := range codes {
		if r := w.run("exec", id, "sh", "-c", fmt.Sprintf("exit %d", code)); r.code != code || r.err != "" {
			t.Errorf("exec, exit %d: %s", code, r)
		}
	}
	for _, sig := range []int{1, 2, 6, 9, 11, 15} {
		if r := w.run("exec", id, "sh", "-c", fmt.Sprintf("kill -%d $$", sig)); r.code != 128+sig {
			t.Errorf("exec, signal %d: %s", sig, r)
		}
	}
	w.must("delete", "--force", id)
	if r := w.run("run", "--bundle", w.bundle(nil, "sh", "-c", "(sleep 0.1; kill -9 1)& wait; sleep 10"), w.name()); r.code == 137 {
		t.Errorf("an own child killed the first process: %s", r)
	}
}

// TestExecutionFails: what cannot be executed is told by run, create and exec; what only execve(2) knows by start, which leaves a container that is stopped.
func TestExecutionFails(t *testing.T) {
	w := newWorld(t)
	sleeper := w.started(w.bundle(nil, "sleep", "100"))
	for _, c := range []struct {
		command, words string
		late           bool
	}{
		{"/no/such/file", "no such file", false}, {"nosuchcommand", "executable file not found", false}, {"/bin/noexec", "permission denied", false},
		{"/bin", "permission denied", false}, {"/bin/badscript", "the interpreter that it names", true}, {"/bin/garbage", "exec format error", true},
		{"/bin/sh/x", "no such file", false},
	} {
		bundle := w.bundle(nil, c.command)
		w.fails(1, c.words, "run", "--bundle", bundle, w.name())
		if !c.late {
			name := w.name()
			w.fails(1, c.words, "create", "--bundle", bundle, name)
			w.fails(1, "does not exist", "state", name)
			w.fails(255, c.words, "exec", sleeper, c.command)
			continue
		}
		id := w.created(bundle)
		w.fails(1, c.words, "start", id)
		if out := w.must("state", id); !strings.Contains(out, `"stopped"`) { // at once: start waits for the end
			t.Errorf("%s: state after a start that failed: %s", c.command, out)
		}
		w.fails(1, "stopped", "start", id)
		w.must("delete", id)
		w.fails(255, c.words, "exec", sleeper, c.command)
	}
	w.must("delete", "--force", sleeper)
}

// TestDebris: folders that are no containers do not confuse list and delete.
func TestDebris(t *testing.T) {
	w := newWorld(t)
	id := w.created(w.bundle(nil, "sleep", "100"))
	if err := os.WriteFile(w.root+"/a-file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"empty", "not a name"} {
		if err := os.Mkdir(w.root+"/"+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if out := w.must("list", "-q"); out != id {
		t.Errorf("list -q: %q, want %q", out, id)
	}
	w.fails(1, "does not exist", "state", "empty")
	w.fails(1, "does not exist", "state", "a-file")
	w.fails(1, "does not exist", "delete", "a-file")
	w.must("delete", "empty")
	if err := os.WriteFile(w.root+"/"+id+"/state.json", []byte(`{"id":`), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fails(1, "delete --force", "state", id)
	if r := w.run("list", "-q"); r.code != 0 || !strings.Contains(r.err, id) {
		t.Errorf("list with a state that cannot be read: %s", r)
	}
	w.must("delete", "--force", id) // ends its process, by its cgroup
	os.Remove(w.root + "/a-file")
	os.Remove(w.root + "/not a name")
}

// TestRefusedBeforeAnythingIsMade: a bundle that cannot be run leaves no trace, and can be mended and run under the same name.
func TestRefusedBeforeAnythingIsMade(t *testing.T) {
	w := newWorld(t)
	id := w.name()
	for _, c := range []struct {
		words string
		edit  func(*specs.Spec)
	}{
		{"process.args", func(s *specs.Spec) { s.Process.Args = nil }},
		{"process.cwd", func(s *specs.Spec) { s.Process.Cwd = "x" }},
		{"root", func(s *specs.Spec) { s.Root = nil }},
		{"no/such/root", func(s *specs.Spec) { s.Root.Path = "no/such/root" }},
		{"hooks.prestart[0].path", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "x"}}} }},
		{"/no/such/source", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: "/no/such/source", Destination: "/tmp", Options: []string{"bind"}})
		}},
		{"/no/such/ns", func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/no/such/ns" }},
		{"RLIMIT_NONSENSE", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NONSENSE"}} }},
	} {
		bundle := w.bundle(c.edit, "true")
		for _, verb := range []string{"create", "run"} {
			w.fails(1, c.words, verb, "--bundle", bundle, id)
			if _, err := os.Stat(w.root + "/" + id); err == nil {
				t.Errorf("%s: a folder is left after %s", c.words, verb)
			}
		}
	}
	w.clean()
	w.must("run", "--bundle", w.bundle(nil, "true"), id)
	dir := w.bundle(nil, "true")
	os.WriteFile(dir+"/config.json", []byte("{"), 0o644)
	w.fails(1, "config.json", "create", "--bundle", dir, id)
	os.Remove(dir + "/config.json")
	w.fails(1, dir+"/config.json: no such file", "create", "--bundle", dir, id)
}

// TestKillAll: --all reaches what the first process left behind in another PID namespace's terms.
func TestKillAll(t *testing.T) {
	w := newWorld(t)
	shared := func(s *specs.Spec) { // the host's PID namespace
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
		s.Mounts = s.Mounts[1:]
	}
	id := w.started(w.bundle(shared, "sh", "-c", "sleep 100 & sleep 101 & wait"))
	count := func() int {
		var pids []int
		if err := json.Unmarshal([]byte(w.must("ps", "--format", "json", id)), &pids); err != nil {
			t.Fatal(err)
		}
		return len(pids)
	}
	if err := eventually(func() error {
		if n := count(); n != 3 {
			return fmt.Errorf("%d processes, want 3", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.must("kill", id, "KILL") // nobody else would take the others with it
	w.becomes(id, "stopped")
	if err := eventually(func() error {
		if n := count(); n != 0 {
			return fmt.Errorf("%d processes are left", n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	w.must("delete", id)
	id = w.started(w.bundle(shared, "sh", "-c", "sleep 100 & exit 0"))
	w.becomes(id, "stopped")
	if n := count(); n != 1 {
		t.Errorf("%d processes are left, want the orphan", n)
	}
	w.must("kill", "--all", id, "KILL")
	w.must("delete", id)
	id = w.started(w.bundle(shared, "sh", "-c", "sleep 100 & exit 0"))
	w.becomes(id, "stopped")
	w.must("delete", id) // ends the orphan, which would keep the cgroup
	w.clean()
}

// TestSpec: the example that spec writes runs.
func TestSpec(t *testing.T) {
	w := newWorld(t)
	dir := w.dir + "/spec"
	if err := makeRoot(dir + "/rootfs"); err != nil {
		t.Fatal(err)
	}
	w.must("spec", "--bundle", dir)
	w.fails(1, "exists", "spec", "-b", dir)
	var s specs.Spec
	if err := json.Unmarshal([]byte(w.read(dir+"/config.json")), &s); err != nil {
		t.Fatal(err)
	}
	s.Process.Terminal, s.Process.Args = false, []string{"sh", "-c", "id -u; hostname; ls /dev | wc -l; touch /x"}
	s.Linux.CgroupsPath = "/" + w.name()
	w.writeConfig(dir, &s)
	if r := w.run("run", "-b", dir, w.name()); r.code != 1 || !strings.HasPrefix(r.out, "0\nbrig\n") || !strings.Contains(r.err, "Read-only") {
		t.Errorf("run: %s", r)
	}
}
