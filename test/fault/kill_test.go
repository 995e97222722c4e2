package fault

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// ways are the forms of run that are killed. The container runs on after its command was killed, until it is removed.
var ways = map[string][]string{
	"attached": {"run", "--rm", "-p", "8080:80", "-v", "/data", "brig/base", "true"},
	"detached": {"run", "-d", "--name", "kill", "-p", "8080:80", "brig/base", "sleep", "3600"},
	"chroot":   {"run", "-d", "--name", "kill", "--isolation", "chroot", "-v", "/etc:/data:ro", "--tmpfs", "/tmp", "brig/base", "sh", "-c", "setsid sleep 3600 & exec sleep 3600"},
}

// TestKilledAtAnyStep kills the command, or the shim, at system calls spread over the whole of a run.
func TestKilledAtAnyStep(t *testing.T) {
	for way, args := range ways {
		for _, who := range []victim{theCommand, theShim} {
			t.Run(way+"/"+string(who), func(t *testing.T) {
				w := newWorld(t)
				total := killAt(t, w.command(args...), who, 0)
				w.removeAll()
				w.mustBeClean("after an undisturbed run")
				if total < 100 {
					t.Fatalf("only %d stops counted", total)
				}
				moments := 13 * scale()
				for i := range moments {
					n := 1 + total*i/moments + rand.IntN(total/moments)
					killAt(t, w.command(args...), who, n)
					w.recovers(fmt.Sprintf("%s killed at stop %d of %d", who, n, total), i%2 == 0)
					if t.Failed() {
						return
					}
				}
			})
		}
	}
}

// TestCreateKilledAtAnyStep: wherever create is killed, the next one of its name takes it at once, or is told of the container that was made.
func TestCreateKilledAtAnyStep(t *testing.T) {
	w := newWorld(t)
	args := []string{"create", "--name", "kill", "brig/base", "true"}
	total := killAt(t, w.command(args...), theCommand, 0)
	w.removeAll()
	moments := 20 * scale()
	for i := range moments {
		n := 1 + total*i/moments + rand.IntN(total/moments)
		killAt(t, w.command(args...), theCommand, n)
		if r := w.brig("ps", "-a", "--filter", "name=kill", "--format", "{{.Status}}"); r.Out == "Created\n" { // it was as good as ready
			w.must("rm", "kill")
		}
		w.must(args...)
		w.removeAll()
		if w.mustBeClean(fmt.Sprintf("create killed at stop %d of %d", n, total)); t.Failed() {
			return
		}
	}
}

// TestKilledAtAnyTime kills the command after a delay, at its own speed.
func TestKilledAtAnyTime(t *testing.T) {
	w := newWorld(t)
	moments := 15 * scale()
	for way, args := range ways {
		for i := range moments {
			after := time.Duration(i) * 15 * time.Millisecond / time.Duration(moments)
			cmd := w.command(args...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after)
			cmd.Process.Kill()
			cmd.Wait()
			w.recovers(fmt.Sprintf("%s killed after %s", way, after), i%2 == 0)
			if t.Failed() {
				return
			}
		}
	}
}

// recovers asks for the truth and then for a clean machine, either way.
func (w *world) recovers(when string, remove bool) {
	w.t.Helper()
	if err := eventually(w.truth); err != nil {
		w.t.Errorf("%s: %v", when, err)
	}
	if remove {
		w.removeAll()
	}
	if r := w.brig("rm", "-f", "kill"); r.Code != 0 {
		w.t.Errorf("%s: rm -f kill: %s", when, r)
	}
	// The name that the dead one had can be taken, and its port.
	err := eventually(func() error {
		r := w.brig("run", "--rm", "--name", "kill", "-p", "8080:80", "brig/base", "true")
		if r.Code != 0 {
			return fmt.Errorf("run: %s", r)
		}
		return nil
	})
	if err != nil {
		w.t.Errorf("%s: %v", when, err)
	}
	w.mustBeClean(when)
}

// truth compares what inspect says with the processes that live.
func (w *world) truth() error {
	ids := w.containers()
	for _, id := range ids {
		c, pids := w.inspect(id), processes(id)
		if c.ID == "" {
			continue // --rm has come in between
		}
		if c.State.Running != (len(pids) > 0) || c.State.Running && !slices.Contains(pids, c.State.Pid) {
			return fmt.Errorf("container %.12s is said to be %s with process %d, and has the processes %v", id, c.State.Status, c.State.Pid, pids)
		}
	}
	running := strings.Fields(w.must("ps", "-q", "--no-trunc"))
	for _, id := range running {
		if !slices.Contains(ids, id) {
			return fmt.Errorf("ps lists %s, ps -a does not", id)
		}
	}
	return nil
}
