package engine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/base/record"
	"brig/internal/base/rootless"
	"brig/internal/kernel/userns"
	"brig/internal/runtime/shim"
)

// A container with a restart policy is started again by who cleans up after it: `brig reap`, in the place of its shim. From the decision on until the container runs
// that process has
//
//	STATE/waiting/ID  a FIFO, locked by it: a byte written to it ends the waiting, and the container stays as it is
//	STATE/halting     all containers are being stopped: none is started again until Boot
//
// What is to be remembered from run to run lies beside the container's record:
//
//	ROOT/container/ID/restarts.json  how often it was started again, and how long the last wait was; gone when a user starts it
//	ROOT/container/ID/stopped        a user has stopped it: it is not started again, after a boot only with `always`
const (
	waitingDir   = "waiting"
	restartsName = "restarts.json"
	stoppedName  = "stopped"
	haltingName  = "halting"
)

// docker's: each wait is twice as long as the one before, unless the container had got on for a while.
const (
	firstWait = 100 * time.Millisecond
	longWait  = time.Minute
	gotOn     = 10 * time.Second
)

// restarts is the record of a container's restarts since a user started it.
type restarts struct {
	Count int           `json:"count"`
	Wait  time.Duration `json:"wait"` // the last, nanoseconds
}

// checkRestart refuses a policy that there is none of.
func checkRestart(s *api.ContainerSpec) error {
	switch r := s.Restart; r.Name {
	case "", api.RestartNo:
		return nil
	case api.RestartAlways, api.RestartUnlessStopped, api.RestartOnFailure:
		if r.Max != 0 && r.Name != api.RestartOnFailure || r.Max < 0 {
			return api.Errorf(api.InvalidArgument, "maximum retry count %d: it is for the restart policy %q, and not negative", r.Max, api.RestartOnFailure)
		}
		if s.AutoRemove {
			return api.Errorf(api.InvalidArgument, "conflicting options: cannot specify both --restart and --rm")
		}
		return nil
	}
	return api.Errorf(api.InvalidArgument, "invalid restart policy: unknown policy %q; use one of no, always, on-failure or unless-stopped", s.Restart.Name)
}

// restartable reports whether the container has a policy that may start it again.
func restartable(c *api.Container) bool {
	return c.Spec.Restart.Name != "" && c.Spec.Restart.Name != api.RestartNo || c.Healthcheck != nil && c.Spec.Health != nil && c.Spec.Health.OnFailure == api.UnhealthyRestart
}

// due reports whether the policy of a container that ended has it started again; boot: the machine was started, nobody has ended it.
func (e *Engine) due(c *api.Container, exit *shim.ExitRecord, boot bool) bool {
	if !boot && exists(filepath.Join(e.state, haltingName)) {
		return false
	}
	failed := exit == nil || exit.Exit.Code != 0
	stopped := exists(e.stoppedPath(c.ID))
	if exit != nil && !boot {
		switch exit.Unhealthy {
		case api.UnhealthyRestart:
			return !stopped
		case api.UnhealthyStop:
			return false
		}
	}
	switch c.Spec.Restart.Name {
	case api.RestartAlways:
		return boot || !stopped
	case api.RestartUnlessStopped:
		return !stopped
	case api.RestartOnFailure:
		most := c.Spec.Restart.Max
		return failed && !stopped && (most == 0 || boot || e.readRestarts(c.ID).Count < most)
	}
	return false
}

func (e *Engine) stoppedPath(id string) string  { return filepath.Join(e.meta.Dir(id), stoppedName) }
func (e *Engine) restartsPath(id string) string { return filepath.Join(e.meta.Dir(id), restartsName) }

// markStopped keeps in mind, also over a boot, that a user stops the container.
func (e *Engine) markStopped(c *api.Container) error {
	if !restartable(c) {
		return nil
	}
	return atomicfile.Write(e.stoppedPath(c.ID), nil, 0o600, atomicfile.Durable)
}

// begun forgets the container's past: a user starts it.
func (e *Engine) begun(c *api.Container) error {
	if !restartable(c) {
		return nil
	}
	_ = os.Remove(e.restartsPath(c.ID))
	if err := os.Remove(e.stoppedPath(c.ID)); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return atomicfile.SyncDir(e.meta.Dir(c.ID))
}

// readRestarts reads the record; one that is missing or damaged is of a container that was not started again.
func (e *Engine) readRestarts(id string) (r restarts) {
	data, err := os.ReadFile(e.restartsPath(id))
	if err != nil || json.Unmarshal(data, &r) != nil {
		return restarts{}
	}
	return r
}

// Reap cleans up after a container that has ended, and starts it again where its policy says so. It may be called any number of times, by anybody.
func (e *Engine) Reap(ctx context.Context, id string) error {
	if fd := rootless.Membership(); fd >= 0 {
		if err := userns.Join(fd); err != nil {
			return err
		}
	}
	for {
		again, err := e.round(ctx, id)
		if !again || err != nil {
			return err
		}
	}
}

// round is one turn of a container that is kept running: clean up, wait, start. again: the start failed, and there may be another.
func (e *Engine) round(ctx context.Context, id string) (again bool, err error) {
	l, err := e.lockContainer(id)
	if err != nil {
		return false, err
	}
	defer func() { l.Release() }()
	if e.isRunning(id) || e.waitedFor(id) {
		return false, nil
	}
	c, err := e.meta.Container(id)
	if err != nil || !restartable(&c) || e.onlyInitialized(id) || !e.due(&c, e.lastExit(id), false) {
		if err := e.reap(ctx, id); !errors.Is(err, errNotKept) {
			return false, err
		}
		return false, nil
	}
	room, err := e.enterWaiting(id)
	if err != nil {
		return false, errors.Join(err, e.reap(ctx, id))
	}
	defer room.leave()
	if err := e.reap(ctx, id); err != nil && !errors.Is(err, errNotKept) {
		return false, err
	}
	r := e.readRestarts(id)
	r.Wait = min(max(2*r.Wait, firstWait), longWait)
	if exit := e.lastExit(id); exit != nil && exit.NotAgain == "" && !exit.StartedAt.IsZero() && exit.Exit.At.Sub(exit.StartedAt) >= gotOn {
		r.Wait = firstWait
	}
	r.Count++
	l.Release()
	closeSockets() // whoever waits for the end of this run has it
	told := room.wait(ctx, r.Wait)
	if l, err = e.lockContainer(id); err != nil {
		l = lock.None()
		return false, err
	}
	if told || ctx.Err() != nil || exists(e.stoppedPath(id)) {
		return false, ctx.Err()
	}
	if c, err = e.meta.Container(id); err != nil { // removed meanwhile
		return false, nil //nolint:nilerr // then there is nothing to start
	}
	if err := e.stillTrusted(ctx, &c); err != nil {
		return false, e.noteFailure(id, e.lastExit(id), err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	if err := atomicfile.Write(e.restartsPath(id), data, 0o600, atomicfile.Volatile); err != nil {
		return false, err
	}
	last := e.lastExit(id)
	started, err := e.launch(ctx, &c, nil, false, e.snapshot, way{})
	if err != nil {
		return true, e.noteFailure(id, last, err)
	}
	started.leave()
	return false, nil
}

// noteFailure keeps why a container could not be started, as the exit of a run that never was. last is how its last run ended, nil: there was none, and it has not
// left the state created.
func (e *Engine) noteFailure(id string, last *shim.ExitRecord, cause error) error {
	r := shim.ExitRecord{Exit: api.Exit{Code: 125, Error: cause.Error(), At: time.Now().UTC()}, NotAgain: cause.Error()}
	if last != nil {
		r.StartedAt = last.StartedAt
	}
	switch {
	case errors.Is(cause, api.CommandNotFound):
		r.Exit.Code = 127
	case errors.Is(cause, api.CommandNotRunnable):
		r.Exit.Code = 126
	}
	return e.writeExit(id, &r)
}

// noteNotAgain keeps why a container could not be started by who asked for it, beside how its last run ended if there was one.
func (e *Engine) noteNotAgain(id string, last *shim.ExitRecord, cause error) error {
	if last == nil || last.StartedAt.IsZero() {
		return e.noteFailure(id, last, cause)
	}
	r := *last
	r.NotAgain = cause.Error()
	return e.writeExit(id, &r)
}

func (e *Engine) writeExit(id string, r *shim.ExitRecord) error {
	data, err := record.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(e.exitPath(id), data, 0o600, atomicfile.Volatile)
}

// waiting is what a process has that waits between two runs.
type waiting struct {
	path string
	fifo *os.File
}

func (e *Engine) waitingPath(id string) string { return filepath.Join(e.state, waitingDir, id) }

// enterWaiting says that the container is about to be started again, for who holds its lock.
func (e *Engine) enterWaiting(id string) (*waiting, error) {
	w := &waiting{path: e.waitingPath(id)}
	if err := os.MkdirAll(filepath.Dir(w.path), 0o700); err != nil {
		return nil, err
	}
	_ = unix.Unlink(w.path) // of one that was killed
	if err := unix.Mkfifo(w.path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: w.path, Err: err}
	}
	// For writing too: it would be readable for ever else, from the moment on that somebody who wrote has closed it.
	f, err := os.OpenFile(w.path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err == nil {
		w.fifo = f
		err = flock(f)
	}
	if err != nil {
		w.leave()
		return nil, err
	}
	return w, nil
}

// flock locks a file without making it a blocking one, as its Fd would.
func flock(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) { err = unix.Flock(int(fd), unix.LOCK_EX) })
	return errors.Join(cerr, err)
}

// wait returns when the time has passed, or as soon as somebody says that it is for nothing.
func (w *waiting) wait(ctx context.Context, d time.Duration) (told bool) {
	defer context.AfterFunc(ctx, func() { _ = w.fifo.SetReadDeadline(time.Now()) })()
	if w.fifo.SetReadDeadline(time.Now().Add(d)) != nil {
		return true
	}
	var b [1]byte
	n, _ := w.fifo.Read(b[:])
	return n > 0
}

func (w *waiting) leave() {
	_ = unix.Unlink(w.path)
	if w.fifo != nil {
		w.fifo.Close()
	}
}

// waitedFor reports whether a process is about to start the container again.
func (e *Engine) waitedFor(id string) bool { return lock.Held(e.waitingPath(id)) }

// endWaiting tells who waits to start the container again that it is for nothing.
func (e *Engine) endWaiting(id string) {
	f, err := os.OpenFile(e.waitingPath(id), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return // nobody waits, or not any more
	}
	_, _ = f.Write([]byte{'x'})
	f.Close()
}

// sweepWaiting takes up what processes were about to start again that were killed.
func (e *Engine) sweepWaiting() {
	names, err := os.ReadDir(filepath.Join(e.state, waitingDir))
	if err != nil {
		return
	}
	for _, entry := range names {
		if id := entry.Name(); !e.waitedFor(id) {
			if err := unix.Unlink(e.waitingPath(id)); err == nil { // one of those who see it
				e.reapBeside(id)
			}
		}
	}
}

// closeSockets lets those go who wait for the end of a run: their connections came from the shim whose place this process has taken.
func closeSockets() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		var st unix.Stat_t
		if err == nil && fd > 2 && unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			unix.Close(fd)
		}
	}
}
