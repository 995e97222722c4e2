package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const wnothread = 0x20000000 // __WNOTHREAD, wait(2): only what this thread started or traces

// killAt runs cmd and kills it at its n-th stop at a system call, of which each has two; with n = 0 it kills nobody. It returns how many stops
// there were until the command had ended. What the command forks goes its own way.
func killAt(t *testing.T, cmd *exec.Cmd, n int) (count int) {
	t.Helper()
	done := make(chan error, 1)
	go onThread(func() {
		var err error
		count, err = trace(cmd, n)
		done <- err
	})
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatalf("%s did not end, killed at stop %d", strings.Join(cmd.Args, " "), n)
	}
	return count
}

// onThread runs f on a thread that ends with it, upon which the kernel lets go of what it traced. The process's first thread never ends.
func onThread(f func()) {
	runtime.LockOSThread() // and never unlocked
	if unix.Gettid() != os.Getpid() {
		f()
		return
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		onThread(f)
	}()
	<-done
}

func trace(cmd *exec.Cmd, n int) (count int, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer cmd.Process.Release()
	pid := cmd.Process.Pid
	if _, err := unix.Wait4(pid, nil, unix.WALL|wnothread, nil); err != nil {
		return 0, fmt.Errorf("first stop: %w", err)
	}
	// Threads are followed, and they alone: clone(2) with SIGCHLD is a fork to ptrace(2).
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_TRACEEXEC); err != nil {
		return 0, err
	}
	unix.PtraceSyscall(pid, 0)
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|wnothread, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return count, nil // nobody is left
		case ws.Exited() || ws.Signaled():
			if tid == pid {
				return count, nil
			}
			continue
		}
		sig := ws.StopSignal()
		switch {
		case sig == unix.SIGTRAP|0x80:
			if count++; count == n {
				unix.Kill(pid, unix.SIGKILL)
			}
			sig = 0
		case sig == unix.SIGTRAP, sig == unix.SIGSTOP: // an event, or a new thread's first stop
			sig = 0
		}
		unix.PtraceSyscall(tid, int(sig))
	}
}

// moments are numbers of stops, spread over all of them.
func moments(total, want int) []int {
	if scale() > 1 || total < want {
		want = min(total, want*scale())
	}
	list := make([]int, 0, want)
	for i := range want {
		list = append(list, 1+i*total/want)
	}
	return list
}

// truth compares what state says with the process itself.
func (w *world) truth(id string) {
	w.t.Helper()
	r := w.run("state", id)
	if r.code != 0 {
		if !strings.Contains(r.err, "does not exist") {
			w.t.Errorf("state: %s", r)
		}
		return
	}
	var s told
	if err := json.Unmarshal([]byte(r.out), &s); err != nil {
		w.t.Errorf("state: %v: %s", err, r)
		return
	}
	if s.Status == "stopped" {
		return
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", s.Pid))
	if now := w.state(id); now.Status != s.Status {
		return // it ended, or was started, meanwhile
	}
	if want := map[string]string{"created": "brig-oci\n", "running": "sleep\n"}[s.Status]; err != nil || string(comm) != want {
		w.t.Errorf("state says %s, process %d is %q, %v", s.Status, s.Pid, comm, err)
	}
}

// gone fails the test over processes that are still in the cgroup of a container.
func (w *world) gone(id string) {
	w.t.Helper()
	if err := eventually(func() error {
		if pids := processesOf(id); len(pids) > 0 {
			return fmt.Errorf("container %s has processes %v", id, pids)
		}
		return nil
	}); err != nil {
		w.t.Error(err)
	}
}

// processesOf are those in the cgroup of a container.
func processesOf(id string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, f := range files {
		groups, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(groups), "/"+id) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// TestCreatorKilled: wherever create, or run, is killed, the same name can be created next, or deleted, and nothing is left.
func TestCreatorKilled(t *testing.T) {
	for _, c := range []struct {
		name string
		verb []string
		edit func(*world, *specs.Spec)
	}{
		{"create", []string{"create"}, nil},
		{"run", []string{"run", "--detach"}, nil},
		{"create in a user namespace", []string{"create"}, func(w *world, s *specs.Spec) { w.mapUsers(s) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			bundle := w.bundle(func(s *specs.Spec) {
				if c.edit != nil {
					c.edit(w, s)
				}
			}, "sleep", "100")
			id := w.name()
			args := append(append([]string{}, c.verb...), "--bundle", bundle, id)
			total := killAt(t, w.command(args...), 0)
			w.must("delete", "--force", id)
			for i, n := range moments(total, 60) {
				killAt(t, w.command(args...), n)
				w.truth(id)
				if i%2 == 0 && !w.has(id) {
					w.must("create", "--bundle", bundle, id)
				}
				w.must("delete", "--force", id)
				w.gone(id)
				if names, err := os.ReadDir(w.root); err == nil && len(names) > 0 {
					t.Errorf("stop %d: left in the state folder: %v", n, names)
				}
				if t.Failed() {
					t.Fatalf("killed at stop %d of %d", n, total)
				}
			}
		})
	}
}

// TestStarterKilled: wherever start is killed, the container is created, running or stopped, state says which, and it can be deleted.
func TestStarterKilled(t *testing.T) {
	w := newWorld(t)
	bundle := w.bundle(nil, "sleep", "100")
	id := w.created(bundle)
	total := killAt(t, w.command("start", id), 0)
	w.must("delete", "--force", id)
	seen := map[string]int{}
	at := func(n int) {
		w.must("create", "--bundle", bundle, id)
		killAt(t, w.command("start", id), n)
		var s string
		eventually(func() error { // it may be on its way from one to another
			w.truth(id)
			s = w.state(id).Status
			return nil
		})
		seen[s]++
		switch s {
		case "created":
			w.must("start", id)
			if again := w.state(id).Status; again != "running" {
				t.Errorf("started again it is %s", again)
			}
		case "running", "stopped":
			w.fails(1, "cannot start", "start", id)
		default:
			t.Errorf("it is %q", s)
		}
		w.must("delete", "--force", id)
		w.gone(id)
		if t.Failed() {
			t.Fatalf("killed at stop %d of %d", n, total)
		}
	}
	for _, n := range moments(total, 60) {
		at(n)
	}
	for n := total; seen["running"] == 0 && n < 10*total; n += total/10 + 1 { // on a busy machine the same way takes more stops
		at(n)
	}
	if seen["created"] == 0 || seen["running"] == 0 {
		t.Errorf("the moments were not spread: %v", seen)
	}
}

// TestDeleterKilled: delete can be done again wherever it was killed.
func TestDeleterKilled(t *testing.T) {
	w := newWorld(t)
	bundle := w.bundle(nil, "sleep", "100")
	id := w.started(bundle)
	total := killAt(t, w.command("delete", "--force", id), 0)
	for _, n := range moments(total, 40) {
		w.must("run", "--detach", "--bundle", bundle, id)
		killAt(t, w.command("delete", "--force", id), n)
		w.truth(id)
		w.must("delete", "--force", id)
		w.gone(id)
		if names, err := os.ReadDir(w.root); err == nil && len(names) > 0 || t.Failed() {
			t.Fatalf("killed at stop %d of %d: left %v", n, total, names)
		}
	}
}

// TestTwoStarters: of two that start at once one does, and the other is told so; the same of two creators and two deleters.
func TestTwoStarters(t *testing.T) {
	w := newWorld(t)
	bundle := w.bundle(nil, "sleep", "100")
	for range 5 {
		id := w.name()
		w.race("already exists", "create", "--bundle", bundle, id)
		w.race("already running", "start", id)
		if s := w.state(id).Status; s != "running" {
			t.Errorf("it is %s", s)
		}
		w.race("does not exist", "delete", "--force", id)
	}
}

// TestRunLeavesAnothersContainer: a run whose container was deleted behind its back leaves the next one of its name alone.
func TestRunLeavesAnothersContainer(t *testing.T) {
	w := newWorld(t)
	bundle := w.bundle(nil, "sleep", "100")
	id := w.name()
	runner := w.command("run", "--bundle", bundle, id)
	if err := runner.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { runner.Process.Kill() })
	if err := eventually(func() error {
		if r := w.run("state", id); r.code != 0 || !strings.Contains(r.out, `"running"`) {
			return errors.New(r.String())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	runner.Process.Signal(unix.SIGSTOP)
	w.must("delete", "--force", id)
	w.must("run", "--detach", "--bundle", bundle, id)
	runner.Process.Signal(unix.SIGCONT)
	runner.Wait()
	if code := runner.ProcessState.ExitCode(); code != 128+9 {
		t.Errorf("the first ended with %d", code)
	}
	if s := w.state(id).Status; s != "running" {
		t.Errorf("the second is %s", s)
	}
	w.must("delete", "--force", id)
	w.gone(id)
}

// race runs one command four times at once: one succeeds, the others fail with these words. delete --force succeeds each time.
func (w *world) race(words string, args ...string) {
	w.t.Helper()
	var wg sync.WaitGroup
	results := make([]result, 4)
	for i := range results {
		wg.Go(func() { results[i] = w.run(args...) })
	}
	wg.Wait()
	won := 0
	for _, r := range results {
		switch {
		case r.code == 0:
			won++
		case !strings.Contains(r.err, words):
			w.t.Errorf("%s: %s; want %q", args[0], r, words)
		}
	}
	if won != 1 && !slices.Contains(args, "--force") {
		w.t.Errorf("%s succeeded %d times of %d", args[0], won, len(results))
	}
}

// TestCreatedContainer: it can be killed, deleted, executed in, and dies as any other.
func TestCreatedContainer(t *testing.T) {
	w := newWorld(t)
	bundle := w.bundle(nil, "sleep", "100")
	id := w.created(bundle)
	if out := w.must("exec", id, "ls", "/bin/busybox"); out != "/bin/busybox" {
		t.Errorf("exec: %q", out)
	}
	w.must("kill", id, "TERM") // as the first process of its namespace it need not heed it: pid_namespaces(7); runc's does not either
	w.must("kill", id, "KILL")
	w.becomes(id, "stopped")
	w.fails(1, "stopped", "start", id)
	w.fails(255, "stopped", "exec", id, "true")
	w.must("delete", id)
	id = w.created(bundle)
	unix.Kill(w.state(id).Pid, unix.SIGKILL)
	w.becomes(id, "stopped")
	w.must("delete", id)
	id = w.created(bundle)
	w.must("delete", id)
	id = w.created(bundle)
	w.must("pause", id)
	w.fails(1, "paused", "start", id)
	w.must("resume", id)
	w.must("start", id)
	w.must("delete", "--force", id)
}

// TestGateIsPrivate: nobody but the owner can knock at the gate, and noise at it starts nothing.
func TestGateIsPrivate(t *testing.T) {
	w := newWorld(t)
	id := w.created(w.bundle(nil, "sleep", "100"))
	st, err := os.Lstat(w.root + "/" + id + "/start.sock")
	if err != nil || st.Mode()&os.ModeSocket == 0 || st.Mode().Perm()&0o077 != 0 {
		t.Errorf("the gate: %v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(w.root + "/" + id); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the container's folder: %v, %v", st.Mode(), err)
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", w.state(id).Pid))
	if err != nil || len(fds) != 4 { // streams, gate
		t.Errorf("the waiting process has %v open, %v", fds, err)
	}
	w.must("delete", id)
}
