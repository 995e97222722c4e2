package fault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

// boundary is a level of isolation, and the processes that it has.
type boundary struct {
	level  string
	needs  []string      // files without which it is skipped
	args   []string      // of run, besides
	roles  []string      // of processes, in the order in which they appear
	rounds int           // in make test; 0: only with a scale
	slow   time.Duration // how long a start may take
}

// roles tell processes by how their command lines begin.
var roles = map[string]string{
	"keeper": "brig-oci shim ", "first": "sh -c trap ", "monitor": "/box/monitor run", "gofer": "runsc-gofer ", "sentry": "runsc-sandbox ",
	"join": "/box/join exec", "exec": "/box/monitor exec", "virtiofsd": "/usr/lib/qemu/virtiofsd ", "machine": "/usr/bin/qemu-system",
}

func boundaries() []boundary {
	return []boundary{
		{level: "chroot", roles: []string{"command", "keeper", "first"}, rounds: 8, slow: patience},
		{level: "gvisor", needs: []string{machine.Program("brig-sentry")}, args: []string{"-p", "8080:80"}, roles: []string{"command", "keeper", "monitor", "gofer", "sentry", "join"},
			rounds: 8, slow: 2 * time.Minute},
		{level: "vm", needs: []string{machine.Program("vm-kernel"), "/usr/bin/qemu-system-x86_64", "/usr/lib/qemu/virtiofsd"}, args: []string{"-p", "8080:80"},
			roles: []string{"command", "keeper", "monitor", "virtiofsd", "machine", "exec"}, slow: 5 * time.Minute},
	}
}

// at skips where the level cannot be used. Machines are each started from nothing, or from a template, which is there then.
func (b *boundary) at(t *testing.T, template bool) *world {
	t.Helper()
	needRoot(t)
	if b.rounds == 0 && scale() == 1 {
		t.Skip("machines take seconds to start, with an emulator some: make test-fault")
	}
	for _, file := range b.needs {
		if _, err := os.Stat(file); err != nil {
			t.Skipf("%v: make build setup-vm guest-kernel", err)
		}
	}
	t.Setenv("BRIG_VM_TEMPLATE", map[bool]string{false: "off", true: "on"}[template])
	w := newWorld(t)
	w.patience = b.slow
	w.must("run", "--rm", "--isolation", b.level, "brig/base", "true")
	for deadline := time.Now().Add(w.patience); template && b.level == "vm"; time.Sleep(100 * time.Millisecond) { // it is made beside the first machine
		made, _ := filepath.Glob(filepath.Join(w.root, "vm/templates/[^.]*/*"))
		making, _ := filepath.Glob(filepath.Join(w.root, "vm/templates/.new-*"))
		if len(made) > 0 && len(making) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("there is no template of machines: made %q, in the making %q", made, making)
		}
	}
	w.base = w.things() // with what it found out about the machine
	return w
}

// run is the start of a container that takes a moment to stop, and that has a child and mounts.
func (b *boundary) run(args ...string) []string {
	all := append([]string{"run", "-d", "--name", "kill", "--isolation", b.level, "-v", "/etc:/data:ro", "--tmpfs", "/tmp"}, b.args...)
	return append(append(all, args...), "brig/base", "sh", "-c", `trap "sleep 0.2; exit 0" TERM; sleep 3600 & while :; do sleep 0.1; done`)
}

// find is the process of a role, 0: there is none.
func find(role string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err == nil && bytes.HasPrefix(bytes.ReplaceAll(line, []byte{0}, []byte{' '}), []byte(roles[role])) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			return pid
		}
	}
	return 0
}

// killDuring kills the process of a role some time after a command has begun, or as soon as there is one; not at all where the command ends before.
func (w *world) killDuring(role string, after time.Duration, args ...string) (hit bool) {
	w.t.Helper()
	cmd := w.command(args...)
	ended := make(chan struct{})
	var r machine.Result
	started := make(chan int, 1)
	go func() {
		defer close(ended)
		var err error
		r, err = machine.Run(cmd, w.patience, func() error {
			err := cmd.Start()
			if err == nil {
				started <- cmd.Process.Pid
			}
			return err
		})
		if err != nil {
			w.t.Error(err)
		}
	}()
	pid := <-started
	time.Sleep(after)
	for {
		who := pid
		if role != "command" {
			who = find(role)
		}
		if who != 0 {
			hit = unix.Kill(who, unix.SIGKILL) == nil
			break
		}
		select {
		case <-ended:
			if r.Code != 0 {
				w.t.Errorf("brig %s, undisturbed: %s", strings.Join(args, " "), r)
			}
			return false
		default:
			time.Sleep(time.Millisecond)
		}
	}
	<-ended
	return hit
}

// moments are when processes are killed: what is done then, and how long it takes about.
var moments = []struct {
	name  string
	takes time.Duration
	args  []string // empty: it is started
}{
	{name: "starting", takes: 600 * time.Millisecond},
	{name: "running", takes: 50 * time.Millisecond, args: []string{"inspect", "kill"}},
	{name: "exec", takes: 400 * time.Millisecond, args: []string{"exec", "kill", "sh", "-c", "sleep 0.3"}},
	{name: "stopping", takes: 300 * time.Millisecond, args: []string{"stop", "-t", "5", "kill"}},
}

// TestLevelsKilled kills each process of a container of each level whose boundary is not the kernel's namespaces, while it starts, runs, has an exec, and stops.
func TestLevelsKilled(t *testing.T) {
	for _, b := range boundaries() {
		t.Run(b.level, func(t *testing.T) {
			w := b.at(t, true)
			w.must(b.run()...)
			w.removeAll()
			w.mustBeClean("after an undisturbed run")
			var turns []func()
			hits := map[string]int{}
			for _, m := range moments {
				for _, role := range b.roles {
					turns = append(turns, func() {
						args := m.args
						if args == nil {
							args = b.run()
						} else {
							w.must(b.run()...)
						}
						after := time.Duration(rand.Int64N(int64(m.takes)))
						if b.rounds == 0 {
							after *= 10
						}
						hit := w.killDuring(role, after, args...)
						if hit {
							hits[role]++
						}
						when := fmt.Sprintf("%s killed (%t) %s after the beginning of %s", role, hit, after.Round(time.Millisecond), m.name)
						w.tellsOf(when, hit && m.name != "stopping" && !slices.Contains([]string{"command", "keeper", "exec", "join"}, role))
						w.recovers(when, rand.IntN(2) == 0)
					})
				}
			}
			rounds := b.rounds * scale()
			if b.rounds == 0 {
				rounds = len(turns)
			}
			begin := time.Now()
			for n := 0; n < rounds && !t.Failed(); n += len(turns) {
				for _, i := range rand.Perm(len(turns))[:min(len(turns), rounds-n)] {
					if turns[i](); t.Failed() {
						break
					}
				}
			}
			t.Logf("%d rounds in %.0f s, killed: %v", rounds, time.Since(begin).Seconds(), hits)
		})
	}
}

// tellsOf holds what ps, inspect and why say of the container against one another. ended says that it must have ended, and not well.
func (w *world) tellsOf(when string, ended bool) {
	w.t.Helper()
	err := eventually(func() error {
		if err := w.truth(); err != nil {
			return err
		}
		c := w.inspect("kill")
		if c.ID == "" { // it never came to be
			if r := w.brig("why", "kill"); r.Code == 0 {
				return fmt.Errorf("why tells of what inspect does not know: %s", r)
			}
			return nil
		}
		if ended && (c.State.Running || c.State.ExitCode == 0 && c.State.Status == "exited") {
			return fmt.Errorf("it is said to be %s with code %d", c.State.Status, c.State.ExitCode)
		}
		if why := w.brig("why", "--format", "{{.Status}}", "kill"); why.Code != 0 || strings.TrimSpace(why.Out) != c.State.Status {
			return fmt.Errorf("it is said to be %s, and why says %s", c.State.Status, why)
		}
		if listed := w.must("ps", "-aq", "--no-trunc", "--filter", "status="+c.State.Status); listed != c.ID {
			return fmt.Errorf("ps --filter status=%s lists %q", c.State.Status, listed)
		}
		return nil
	})
	if err != nil {
		w.t.Errorf("%s: %v", when, err)
	}
}

// TestLevelsRebooted: after a power cut what had a restart policy is brought back by boot at each level, and of what had none nothing is left.
func TestLevelsRebooted(t *testing.T) {
	for _, b := range boundaries() {
		t.Run(b.level, func(t *testing.T) {
			w := b.at(t, false)
			w.must(b.run("--restart", "always", "-v", "/vol")...)
			w.must("run", "-d", "--name", "once", "--isolation", b.level, "brig/base", "sleep", "600")
			w.must("run", "-d", "--rm", "--name", "gone", "--isolation", b.level, "brig/base", "sleep", "600")
			w.must("exec", "kill", "sh", "-c", "echo before >/vol/file")
			w.powerCut(false)
			if err := w.truth(); err != nil {
				t.Error(err)
			}
			w.must("boot")
			if s := w.inspect("kill").State; !s.Running {
				t.Errorf("with a restart policy, after boot: %+v", s)
			}
			if s := w.inspect("once").State; s.Running {
				t.Errorf("without one: %+v", s)
			}
			if out := w.must("exec", "kill", "cat", "/vol/file"); out != "before" {
				t.Errorf("its volume has %q", out)
			}
			if err := eventually(func() error { return w.says("[]", "inspect", "gone") }); err != nil {
				t.Errorf("what --rm asked for: %v", err)
			}
			w.removeAll()
			w.mustBeClean("after rm")
		})
	}
}

// TestSavedInTraffic: a container whose network is never quiet is saved and goes on, again and again, also from what was saved while it ran on. What gVisor was about to hand on when
// it was saved is in the checkpoint, and crashed the Sentry that it was restored in, each time that it was tried.
func TestSavedInTraffic(t *testing.T) {
	b := &boundaries()[1]
	w := b.at(t, false)
	w.must("run", "-d", "--name", "kill", "--isolation", b.level, "brig/base", "httpd", "-f", "-p", "80") // the network's state is saved with a socket
	var to atomic.Value
	to.Store("")
	var done atomic.Bool
	var senders sync.WaitGroup
	for range runtime.NumCPU() { // no processor is idle: what has come waits to be handed on
		senders.Go(func() {
			s, err := net.ListenPacket("udp4", ":0")
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			for port := 7000; !done.Load(); port = 7000 + (port+1)%32 {
				if ip := net.ParseIP(to.Load().(string)); ip != nil {
					_, _ = s.WriteTo([]byte("to nobody"), &net.UDPAddr{IP: ip, Port: port}) // it may be gone
				}
			}
		})
	}
	for n := 0; n < 4*scale() && !t.Failed(); n++ {
		to.Store(w.must("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "kill"))
		first := fmt.Sprint("first", n)
		w.must("checkpoint", "create", "--leave-running", "kill", first)
		w.must("checkpoint", "create", "kill", "second")
		for _, name := range []string{"second", first} {
			w.must("start", "--checkpoint", name, "kill")
			w.must("exec", "kill", "true")
			w.must("checkpoint", "rm", "kill", name)
			if name == "second" {
				w.must("kill", "kill")
			}
		}
	}
	done.Store(true)
	senders.Wait()
	w.removeAll()
	w.mustBeClean("after rm")
}

// keeper is the process that keeps a container of this world, 0: there is none.
func (w *world) keeper(id string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err == nil && bytes.HasPrefix(line, []byte("brig-oci\x00shim\x00"+filepath.Join(w.state, "sandbox", id)+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			return pid
		}
	}
	return 0
}

// started begins to start a container, and returns when its first process, the monitor, is recorded and has not told yet that what is inside runs.
func (w *world) started(id string, args ...string) (cmd *exec.Cmd, monitor int) {
	w.t.Helper()
	cmd = w.command(args...)
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	for deadline := time.Now().Add(w.patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var state struct{ Pid int }
		data, err := os.ReadFile(filepath.Join(w.state, "sandbox", id, "state.json"))
		if err == nil && json.Unmarshal(data, &state) == nil && state.Pid > 0 {
			return cmd, state.Pid
		}
	}
	w.t.Fatalf("%s: it has not come to be started within %s", strings.Join(args, " "), w.patience)
	return nil, 0
}

// TestStartKilled: how a container ended is known until it has been started again: also when the command that starts it and the keeper are killed meanwhile.
func TestStartKilled(t *testing.T) {
	b := &boundaries()[1]
	w := b.at(t, false)
	id := w.must("create", "--name", "kill", "--isolation", b.level, "brig/base", "sh", "-c", "sleep 1; exit 7")
	w.brig("start", "-a", "kill")
	for range 2 * scale() {
		if code := w.inspect("kill").State.ExitCode; code != 7 {
			t.Fatalf("it ended with code %d", code)
		}
		cmd, _ := w.started(id, "start", "kill")
		cmd.Process.Kill()
		unix.Kill(w.keeper(id), unix.SIGKILL)
		cmd.Wait()
		if err := eventually(func() error {
			if s := w.inspect("kill").State; s.Status != "exited" || s.ExitCode != 7 {
				return fmt.Errorf("a start was killed, and it is said to be %s with code %d", s.Status, s.ExitCode)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		w.brig("start", "-a", "kill")
	}
	w.removeAll()
	w.mustBeClean("after rm")
}

// TestRemovedWhileStartHangs: rm -f takes a container away whose start hangs, since a process that it waits for has been stopped.
func TestRemovedWhileStartHangs(t *testing.T) {
	b := &boundaries()[1]
	w := b.at(t, false)
	for _, who := range []string{"monitor", "keeper", "both"} {
		id := w.must("create", "--name", "kill", "--isolation", b.level, "-v", "/data", "brig/base", "sleep", "600")
		cmd, monitor := w.started(id, "start", "kill")
		if who != "keeper" {
			unix.Kill(monitor, unix.SIGSTOP)
		}
		if who != "monitor" {
			unix.Kill(w.keeper(id), unix.SIGSTOP)
		}
		begin := time.Now()
		w.must("rm", "-f", "-v", "kill")
		if took := time.Since(begin); took > machine.Patience(15*time.Second) {
			t.Errorf("the %s was stopped: rm -f took %s", who, took)
		}
		if cmd.Wait() == nil {
			t.Errorf("the %s was stopped, and the start succeeded", who)
		}
		w.mustBeClean("after rm -f while the " + who + " was stopped")
	}
}

// TestSelftestKilled: of a selftest that is killed the next one leaves nothing.
func TestSelftestKilled(t *testing.T) {
	for _, b := range boundaries() {
		t.Run(b.level, func(t *testing.T) {
			w := b.at(t, false)
			test := []string{"selftest", "escape", "--isolation", b.level}
			w.must(test...)
			w.base = w.things() // with the lock that it keeps
			rounds := 2
			if b.rounds > 0 {
				rounds *= scale()
			}
			for range rounds {
				after := rand.N(time.Second)
				cmd := w.command(test...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(after)
				cmd.Process.Kill()
				cmd.Wait()
				w.must(test...)
				if ids := w.containers(); len(ids) > 0 {
					t.Errorf("killed after %s and done again it left %q", after, ids)
				}
				w.mustBeClean(fmt.Sprintf("killed after %s and done again", after))
			}
		})
	}
}

// unmountBelow takes away the mounts below a folder, as a boot does: what is removed there afterwards would be removed from what is mounted.
func unmountBelow(dir string) error {
	for {
		data, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		var last string
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
				last = f[4]
			}
		}
		if last == "" {
			return nil
		}
		if err := unix.Unmount(last, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("umount %s: %w", last, err)
		}
	}
}
