package conform

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/test/machine"
)

const (
	imageName = "localhost/conform:latest"
	patience  = 20 * time.Second // of one step of an engine
)

// client is the command line of an engine, up to the verb.
type client []string

// result is how a command ended.
type result struct {
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d, standard output %q, standard error %q", r.code, r.out, r.err)
}

func (c client) command(args ...string) *exec.Cmd {
	return exec.Command(c[0], append(slices.Clone(c[1:]), args...)...)
}

// do runs a command to its end, with stdin as its standard input; after two minutes it is killed.
func (c client) do(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c[0], append(slices.Clone(c[1:]), args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = strings.NewReader(stdin), &out, &errs, time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %s: no end after two minutes: %q", c[0], strings.Join(args, " "), errs.String())
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), exitCode(cmd.ProcessState)}
}

// must is do for what must succeed; the standard output is returned, trimmed.
func (c client) must(t *testing.T, args ...string) string {
	t.Helper()
	r := c.do(t, "", args...)
	if r.code != 0 {
		t.Fatalf("%s %s: %v", filepath.Base(c[0]), strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.out)
}

// ends runs a command, which must end with the code and print the text, line ends of terminals aside.
func (c client) ends(t *testing.T, code int, out string, args ...string) {
	t.Helper()
	r := c.do(t, "", args...)
	if r.code != code || strings.ReplaceAll(r.out, "\r", "") != out {
		t.Errorf("%s %s: %v; want exit code %d and output %q", filepath.Base(c[0]), strings.Join(args, " "), r, code, out)
	}
}

// eventually waits until a command's output matches.
func (c client) eventually(t *testing.T, pattern string, args ...string) string {
	t.Helper()
	want := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		r := c.do(t, "", args...)
		if want.MatchString(r.out + r.err) {
			return r.out
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s %s does not match %q within %s: %v", filepath.Base(c[0]), strings.Join(args, " "), pattern, patience, r)
		}
	}
}

// session types on a terminal: pairs of what to wait for and what to type then. The program must end with the code.
func (c client) session(t *testing.T, code int, args []string, steps func(term *machine.Terminal) error) {
	t.Helper()
	cmd := c.command(args...)
	term, err := machine.StartOnTerminal(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	late := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer late.Stop()
	if err := steps(term); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Errorf("%s %s: %v", filepath.Base(c[0]), strings.Join(args, " "), err)
		return
	}
	cmd.Wait()
	if got := exitCode(cmd.ProcessState); got != code {
		t.Errorf("%s %s: exit code %d, want %d; the terminal shows\n%s", filepath.Base(c[0]), strings.Join(args, " "), got, code, term.Close())
	}
}

// shellSession is a session with a shell in a container: it has a prompt, is on a terminal of the right size, and learns of a new one.
func shellSession(term *machine.Terminal) error {
	if err := term.Expect("/ # ", patience); err != nil {
		return err
	}
	// Docker and ctr tell the size after the start: it may come a moment later.
	if err := askSize(term, "24 80"); err != nil {
		return err
	}
	if err := term.Resize(31, 101); err != nil {
		return err
	}
	if err := askSize(term, "31 101"); err != nil {
		return err
	}
	for _, step := range [][2]string{{"tty\r", "/dev/"}, {"test -t 0 && echo in\"\"side\r", "inside"}, {"stty -echo; echo a; kill -INT $$; echo b\r", "b"}, {"exit 4\r", ""}} {
		if err := term.Type(step[0]); err != nil {
			return err
		}
		if err := term.Expect(step[1], patience); err != nil {
			return err
		}
	}
	return nil
}

func askSize(term *machine.Terminal, want string) error {
	for range 20 {
		if err := term.Type("stty size\r"); err != nil {
			return err
		}
		if term.Expect(want, 500*time.Millisecond) == nil {
			return nil
		}
	}
	return term.Expect(want, time.Second)
}

// world is what the engines of one test share: a scratch folder with an image, and a runtime that writes down how it is called.
type world struct {
	dir, archive string
	runtime      string // a program that hands over to the runtime under test
	log          string // a line a call of it
	before       machine.Snapshot
}

// newWorld prepares a test of an engine with the runtime, and its end: nothing may be left.
func newWorld(t *testing.T, runtime string) *world {
	t.Helper()
	path := must[string](t)(exec.LookPath(runtime))
	dir := must[string](t)(os.MkdirTemp("", "ce")) // short: sockets lie in it
	w := &world{dir: dir, runtime: filepath.Join(dir, "runtime"), log: filepath.Join(dir, "calls")}
	w.before = must[machine.Snapshot](t)(machine.Take())
	running := processes()
	t.Cleanup(func() { // after the engine's own end
		left, err := w.before.Settle(5*time.Second, "mount")
		if err != nil {
			t.Error(err)
		}
		for _, l := range append(left, endProcesses(running)...) {
			t.Errorf("left behind: %s", l)
		}
		if t.Failed() {
			t.Logf("calls of the runtime:\n%s", w.calls())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\nexec %s \"$@\"\n", w.log, path)
	if err := os.WriteFile(w.runtime, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	_, archive, err := machine.Busybox(dir, imageName)
	if err != nil {
		t.Fatal(err)
	}
	w.archive = archive
	return w
}

// called fails the test unless the engine has used the runtime for each of the verbs.
func (w *world) called(t *testing.T, verbs ...string) {
	t.Helper()
	calls := w.calls()
	for _, v := range verbs {
		if !regexp.MustCompile(`(?m)^` + v + `\b`).MatchString(calls) {
			t.Errorf("the runtime was never called for %s", v)
		}
	}
}

// calls tells how the runtime was called, without the global flags and with short paths and names.
func (w *world) calls() string {
	data, _ := os.ReadFile(w.log)
	long := regexp.MustCompile(`(/\S*/|\b[0-9a-f]{52})(\S{8,12})\b`)
	verb := regexp.MustCompile(`(?m)^.*?(--log-format json|--root \S+|--systemd-cgroup) (?:--systemd-cgroup )?([a-z])`)
	return long.ReplaceAllString(verb.ReplaceAllString(string(data), "$2"), "…$2")
}

// groupsOf lists the control groups that have the container's ID in their name.
func groupsOf(id string) []string {
	var out []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(d.Name(), id) {
			out = append(out, path)
		}
		return nil
	})
	return out
}

// gone fails the test if a removed container still has groups or a folder of the runtime's.
func (w *world) gone(t *testing.T, id string) {
	t.Helper()
	for range 20 {
		if len(groupsOf(id)) == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, g := range groupsOf(id) {
		t.Errorf("left behind: control group %s", g)
	}
	for _, dir := range []string{w.dir, "/run"} {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && d.Name() == id && strings.Contains(path, "run") && !strings.Contains(path, "containers/") {
				t.Errorf("left behind: %s", path)
			}
			return nil
		})
	}
}

// eachRuntime runs a test with runc, which shows that the test is right, and with brig-oci.
func eachRuntime(t *testing.T, test func(t *testing.T, w *world)) {
	gated(t)
	names := []string{"runc", "brig-oci"}
	if s := os.Getenv("BRIG_CONFORM_RUNTIMES"); s != "" {
		names = strings.Fields(s)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			path := name
			if name == "brig-oci" {
				path = brigOCI()
			}
			test(t, newWorld(t, path))
		})
	}
}
