package fault

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

// TestCrowd has twenty workers run, stop and remove containers beside each other. No command may fail that should not.
func TestCrowd(t *testing.T) {
	w := newWorld(t)
	const workers = 20
	perWorker := 5 * scale() // 500 containers with a scale of 5
	var all sync.WaitGroup
	for id := range workers {
		all.Go(func() {
			for i := range perWorker {
				w.life(id, i)
			}
		})
	}
	all.Wait()
	if left := w.containers(); len(left) > 0 {
		t.Errorf("ps -a still lists %v", left)
	}
	w.mustBeClean("after the crowd")
}

// life is one container's: which kind depends on its number.
func (w *world) life(worker, i int) {
	name := fmt.Sprintf("w%d-%d", worker, i)
	port := fmt.Sprintf("%d:80", 20000+worker*100+i%100)
	switch (worker + i) % 5 {
	case 0:
		w.must("run", "--rm", "-p", port, "brig/base", "true")
	case 1:
		w.must("run", "-d", "--name", name, "-p", port, "brig/base", "sleep", "600")
		if out := w.must("exec", name, "echo", "inside"); out != "inside" {
			w.t.Errorf("exec in %s: %q", name, out)
		}
		w.must("stop", "-t", "0", name)
		if s := w.inspect(name).State; s.Status != "exited" || s.ExitCode != 137 {
			w.t.Errorf("%s after stop: %+v", name, s)
		}
		w.must("rm", name)
	case 2:
		w.must("create", "--name", name, "-v", "/data", "brig/base", "sleep", "600")
		w.must("start", name)
		w.must("kill", name)
		w.must("start", name)
		w.must("rm", "-f", "-v", name)
	case 3: // two want a name
		codes := make(chan int, 2)
		for range cap(codes) {
			go func() { codes <- w.brig("create", "--name", name, "brig/base").Code }()
		}
		if a, b := <-codes, <-codes; a+b == 0 || a != 0 && b != 0 {
			w.t.Errorf("two creates named %s end with %d and %d", name, a, b)
		}
		w.must("rm", name)
	case 4: // one removes what another has just started, or both remove it
		w.must("run", "-d", "--rm", "--name", name, "brig/base", "sleep", "0.05")
		gone := func(r machine.Result) bool { return r.Code == 0 || strings.Contains(r.Err, "no such container") }
		done := make(chan bool)
		go func() {
			if r := w.brig("rm", "-f", name); !gone(r) {
				w.t.Errorf("first rm -f %s: %s", name, r)
			}
			close(done)
		}()
		if r := w.brig("rm", "-f", name); !gone(r) {
			w.t.Errorf("second rm -f %s: %s", name, r)
		}
		<-done
	}
}

// TestStartsAtOnce starts many containers in the same moment; each is running when its command has ended.
func TestStartsAtOnce(t *testing.T) {
	w := newWorld(t)
	n := 100
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { w.must("run", "-d", "--name", fmt.Sprint("at-once-", i), "brig/base", "sleep", "600") })
	}
	all.Wait()
	if running := strings.Fields(w.must("ps", "-q")); len(running) != n {
		t.Errorf("%d of %d run", len(running), n)
	}
	w.removeAll()
	w.mustBeClean("after all are removed")
}

// TestOneStarterWins starts one container from many sides, which is no error for any of them, and removes it in between.
func TestOneStarterWins(t *testing.T) {
	w := newWorld(t)
	for range 3 * scale() {
		w.must("create", "--name", "one", "brig/base", "sleep", "600")
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { w.must("start", "one") })
		}
		all.Wait()
		if pids := processes(w.inspect("one").ID); len(pids) != 1 {
			t.Errorf("container one has the processes %v, want one", pids)
		}
		w.must("rm", "-f", "one")
	}
	w.mustBeClean("after the last")
}

// TestCommandKilledContainerLives: what the user's terminal takes with it is the command, not the container.
func TestCommandKilledContainerLives(t *testing.T) {
	w := newWorld(t)
	cmd := w.command("run", "--name", "orphan", "-p", "8080:80", "brig/base", "sh", "-c", "trap 'exit 7' TERM; while :; do echo beat; sleep 0.05; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := eventually(func() error { return w.says("beat", "logs", "orphan") }); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	lines := strings.Count(w.must("logs", "orphan"), "beat")
	if err := eventually(func() error {
		if now := strings.Count(w.must("logs", "orphan"), "beat"); now <= lines+2 {
			return fmt.Errorf("the log stands still at %d lines", now)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	follow, attach := w.command("logs", "-f", "orphan"), w.command("attach", "--no-stdin", "orphan")
	for _, c := range []*exec.Cmd{follow, attach} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	w.must("stop", "orphan")
	if follow.Wait(); follow.ProcessState.ExitCode() != 0 {
		t.Errorf("logs -f ends with %d", follow.ProcessState.ExitCode())
	}
	if attach.Wait(); attach.ProcessState.ExitCode() != 7 {
		t.Errorf("attach ends with %d, want the container's 7", attach.ProcessState.ExitCode())
	}
	if s := w.inspect("orphan").State; s.Status != "exited" || s.ExitCode != 7 {
		t.Errorf("after stop: %+v", s)
	}
	l, err := net.Listen("tcp", ":8080") // the shim's clean-up gave the port back
	if err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
	w.must("rm", "orphan")
	w.mustBeClean("after rm")
}

// says runs a command and wants text in what it prints.
func (w *world) says(text string, args ...string) error {
	if r := w.brig(args...); !strings.Contains(r.Out, text) {
		return fmt.Errorf("brig %s: no %q in %s", strings.Join(args, " "), text, r)
	}
	return nil
}

// TestOwnerThatDoesNotGetOn stops the command that owns a container, as ctrl-z does, or leaves its output unread: others can still end it.
func TestOwnerThatDoesNotGetOn(t *testing.T) {
	w := newWorld(t)
	for _, verb := range [][]string{{"rm", "-f"}, {"stop", "-t", "0"}, {"kill"}} {
		cmd := w.command("run", "--rm", "--name", "owned", "brig/base", "sh", "-c", "yes")
		unread, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := eventually(func() error { return w.says("Up", "ps") }); err != nil {
			t.Fatal(err)
		}
		w.must(append(verb, "owned")...)
		if left := w.containers(); len(left) > 0 {
			t.Errorf("%v: ps -a lists %v", verb, left)
		}
		unread.Close()
		cmd.Wait()
		w.mustBeClean(fmt.Sprint("after ", verb))
	}
}

// TestExitIsNeverLost asks for the status in the moment between a process's end and its shim's word on it.
func TestExitIsNeverLost(t *testing.T) {
	w := newWorld(t)
	w.must("create", "--name", "short", "brig/base", "sh", "-c", "exit 5")
	for range 20 * scale() {
		w.must("start", "short")
		for {
			s := w.inspect("short").State
			if s.Running {
				continue
			}
			if s.ExitCode != 5 {
				t.Errorf("inspect: %+v", s)
			}
			break
		}
		w.must("start", "short")
		if code := w.must("wait", "short"); code != "5" {
			t.Errorf("wait: %s", code)
		}
	}
	w.must("rm", "short")
	w.mustBeClean("after rm")
}

// TestExitIsWaitedFor: a shim that gets on slowly, as one of a machine that has more to do, still says how its container ended.
func TestExitIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	for range 2 * scale() {
		id := w.must("run", "-d", "brig/base", "sleep", "600")
		shim := w.keeper(id)
		unix.Kill(shim, unix.SIGSTOP)
		goesOn := time.AfterFunc(700*time.Millisecond, func() { unix.Kill(shim, unix.SIGCONT) }) // longer than it is waited for to answer
		w.must("stop", "-t", "0", id)
		if s := w.inspect(id).State; s.ExitCode != 137 {
			t.Errorf("after stop: %+v", s)
		}
		if goesOn.Stop() {
			t.Error("the stop did not wait for the shim, which stands still")
			unix.Kill(shim, unix.SIGCONT)
		}
		w.must("rm", id)
	}
	w.mustBeClean("after rm")
}

// TestExecLeavesAWriter: what an exec left in the background does not keep the shim from its work.
func TestExecLeavesAWriter(t *testing.T) {
	w := newWorld(t)
	w.must("run", "-d", "--name", "host", "brig/base", "sleep", "600")
	w.must("exec", "host", "sh", "-c", "yes & sleep 0.1")
	w.must("exec", "host", "true")
	w.must("rm", "-f", "host")
	w.mustBeClean("after rm")
}
