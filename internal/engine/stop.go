package engine

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/kernel/cgroup"
	"brig/internal/runtime"
	"brig/internal/runtime/ns"
	"brig/internal/runtime/shim"
)

// defaultStopTimeout is docker's, in seconds.
const defaultStopTimeout = 10

// live is what the verbs use of a running container.
type live interface {
	runtime.Container
	runtime.Attacher
	runtime.Pauser
	runtime.Lister
	runtime.Updater
	runtime.Statser
	runtime.Starter
}

// running takes up a container's process; api.Conflict when it does not run, or is only initialized.
func (e *Engine) running(ctx context.Context, c *api.Container) (live, error) {
	if e.isInitialized(c.ID) {
		return nil, api.Errorf(api.Conflict, "container %s is not running: it is initialized: `brig start %s` executes its command", c.Name, c.Name)
	}
	return e.existing(ctx, c)
}

// existing takes up a container's process, executed or not; api.Conflict when there is none.
func (e *Engine) existing(ctx context.Context, c *api.Container) (live, error) {
	if !e.isRunning(c.ID) {
		return nil, api.Errorf(api.Conflict, "container %s is not running", c.Name)
	}
	sb, err := e.driverOf(c).Find(ctx, api.SandboxSpec{ID: c.ID, Dir: e.sandboxDir(c.ID)})
	if err != nil {
		return nil, api.Errorf(api.Conflict, "container %s is not running", c.Name)
	}
	ct, err := sb.Find(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	return ct.(live), nil
}

// Stop sends a signal, and SIGKILL when the time is up. It returns when the container has ended and is cleaned up.
func (e *Engine) Stop(ctx context.Context, name string, o api.StopOptions) error {
	if o.Signal != "" {
		if _, err := parseSignal(o.Signal); err != nil { // also where it does not run
			return err
		}
	}
	c, err := e.meta.Container(name)
	if err != nil {
		return err
	}
	if err := e.markStopped(&c); err != nil {
		return err
	}
	return e.stop(ctx, &c, o)
}

// stop is Stop of a container whose policy is not told.
func (e *Engine) stop(ctx context.Context, c *api.Container, o api.StopOptions) error {
	if err := e.unmake(ctx, c); err != nil {
		return err
	}
	ct, err := e.running(ctx, c)
	for err != nil {
		if !errors.Is(err, api.Conflict) {
			return err
		}
		l, cerr := e.claim(ctx, c, true, true) // it may have ended a moment ago, or be started
		if cerr != nil {
			return cerr
		}
		running := e.isRunning(c.ID)
		if err := l.Release(); err != nil || !running {
			return err // docker stop of a stopped container is no error
		}
		ct, err = e.running(ctx, c)
	}
	signal := o.Signal
	if signal == "" {
		signal = stopSignal(c)
	}
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	seconds := stopSeconds(c, o.Timeout)
	over := e.watch(ctx, ct, c.ID)
	e.asks(c.ID, "brig stop sent %s", unix.SignalName(sig))
	if err := ct.Signal(ctx, sig); err != nil && !errors.Is(err, api.Conflict) {
		return err
	}
	e.note(happened(c, "kill", "signal", strconv.Itoa(int(sig))))
	e.thaw(c) // one that stands still would not hear of it
	var deadline <-chan time.Time
	if seconds >= 0 {
		deadline = time.After(time.Duration(seconds) * time.Second)
	}
	select {
	case err := <-over:
		e.note(happened(c, "stop"))
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-deadline:
	}
	e.asks(c.ID, "brig stop sent %s, and SIGKILL since it had not ended %d seconds later", unix.SignalName(sig), seconds)
	ct.Signal(ctx, unix.SIGKILL)
	e.thaw(c)
	select {
	case err := <-over:
		e.note(happened(c, "stop"))
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watchLimit is how long watch waits for a keeper: one that starts a virtual machine is busy for seconds.
const watchLimit = 300 * time.Millisecond

// watch tells when a container has ended and its clean-up too. It is connected before it returns.
func (e *Engine) watch(ctx context.Context, ct live, id string) <-chan error {
	ended := make(chan error, 1)
	soon, cancel := context.WithTimeout(ctx, watchLimit)
	st, err := ct.Attach(soon, runtime.Streams{})
	cancel()
	if err != nil { // its shim was killed, or is busy: poll the process, clean up here
		go func() { ended <- e.pollEnd(ctx, id) }()
		return ended
	}
	go func() {
		defer st.Close()
		if _, err := st.Wait(ctx, nil, nil); err != nil && ctx.Err() != nil {
			ended <- ctx.Err()
			return
		}
		drain(ctx, st)
		ended <- e.settle(ctx, id)
	}()
	return ended
}

// drain waits for the clean-up after a container, but not for an owner that does not get on with it: one that was stopped, or waits for who
// reads its output.
func drain(ctx context.Context, st runtime.Stream) {
	ctx, cancel := context.WithTimeout(ctx, claimLimit)
	defer cancel()
	if d, ok := st.(interface{ Drain(context.Context) error }); ok {
		d.Drain(ctx)
	}
}

// settle makes sure of the clean-up, also when who should have done it was killed, and the container with its shim.
func (e *Engine) settle(ctx context.Context, id string) error {
	if e.isRunning(id) {
		return e.pollEnd(ctx, id)
	}
	return e.tidy(ctx, id)
}

// pollEnd waits for a container whose shim was killed, or is too busy to say anything: one that lives has claimLimit to write down how its container ended.
func (e *Engine) pollEnd(ctx context.Context, id string) error {
	for e.isRunning(id) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	for deadline := time.Now().Add(claimLimit); e.unwritten(id) && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
	return e.tidy(ctx, id)
}

// unwritten reports whether a shim lives that has not yet written down how the last run of its container ended.
func (e *Engine) unwritten(id string) bool {
	s, err := shim.ReadState(e.sandboxDir(id))
	return err == nil && !s.Waits && !running(s) && e.occupied(id) && !tellsOf(e.lastExit(id), s)
}

// stopSeconds is how long a container has from its stop signal to SIGKILL; -1: for ever.
func stopSeconds(c *api.Container, given *int) int {
	switch {
	case given != nil:
		return *given
	case c.Spec.StopTimeout != nil:
		return *c.Spec.StopTimeout
	}
	return defaultStopTimeout
}

func stopSignal(c *api.Container) string {
	for _, s := range []string{c.Spec.StopSignal, c.ImageConfig.StopSignal} {
		if s != "" {
			return s
		}
	}
	return "SIGTERM"
}

// parseSignal takes a signal's number or name, with or without SIG.
func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, api.Errorf(api.InvalidArgument, "invalid signal: %s", s)
		}
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	for base, from := range map[string]int{"SIGRTMIN": 34, "SIGRTMAX": 64} {
		rest, ok := strings.CutPrefix(name, base)
		if !ok {
			continue
		}
		n, err := strconv.Atoi("0" + strings.TrimLeft(rest, "+-"))
		if strings.HasPrefix(rest, "-") {
			n = -n
		}
		if err == nil && from+n >= 34 && from+n <= 64 {
			return syscall.Signal(from + n), nil
		}
	}
	return 0, api.Errorf(api.InvalidArgument, "invalid signal: %s", s)
}

// Kill sends a signal to a container's first process.
func (e *Engine) Kill(ctx context.Context, name, signal string) error {
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	c, err := e.meta.Container(name)
	if err != nil {
		return err
	}
	ct, err := e.running(ctx, &c)
	if err != nil {
		return api.Errorf(api.Conflict, "cannot kill container: %s: container %s is not running", name, c.ID)
	}
	if own, err := parseSignal(stopSignal(&c)); sig == unix.SIGKILL || sig == unix.SIGTERM || err == nil && sig == own {
		if err := e.markStopped(&c); err != nil {
			return err
		}
	}
	e.asks(c.ID, "brig kill sent %s", unix.SignalName(sig))
	if sig != unix.SIGKILL {
		err := ct.Signal(ctx, sig)
		if err == nil {
			e.note(happened(&c, "kill", "signal", strconv.Itoa(int(sig))))
		}
		if own, perr := parseSignal(stopSignal(&c)); err == nil && perr == nil && own == sig {
			e.thaw(&c) // who is asked to end must hear of it: docker's rule
		}
		return err
	}
	over := e.watch(ctx, ct, c.ID)
	if err := ct.Signal(ctx, sig); err != nil {
		return err
	}
	e.note(happened(&c, "kill", "signal", strconv.Itoa(int(sig))))
	e.thaw(&c)
	return <-over
}

// thaw lets a container that stands still run again, to die of the signal that it was sent: under cgroup version 1 a frozen process cannot even be killed.
func (e *Engine) thaw(c *api.Container) {
	g, err := cgroup.Load(e.cgroupPath(c))
	if err != nil {
		return
	}
	if frozen, err := g.Frozen(); err == nil && frozen {
		_ = g.Thaw() // else it ends when whoever froze it thaws it
	}
}

// signal is Kill for a session that proxies its terminal's signals.
func (e *Engine) signal(id string, sig syscall.Signal) error {
	ctx := context.Background()
	c, err := e.meta.Container(id)
	if err != nil {
		return err
	}
	ct, err := e.running(ctx, &c)
	if err != nil {
		return err
	}
	return ct.Signal(ctx, sig)
}

// Wait returns when a container has ended and been cleaned up.
func (e *Engine) Wait(ctx context.Context, name string) (api.Exit, error) {
	c, err := e.meta.Container(name)
	if err != nil {
		return api.Exit{}, err
	}
	ct, err := e.existing(ctx, &c)
	if err == nil {
		st, err := ct.Attach(ctx, runtime.Streams{})
		if err == nil {
			defer st.Close()
			exit, err := st.Wait(ctx, nil, nil)
			if err == nil {
				drain(ctx, st)
				return exit, nil
			}
			if ctx.Err() != nil {
				return exit, err
			}
		}
		if err := e.pollEnd(ctx, c.ID); err != nil {
			return api.Exit{}, err
		}
	}
	for {
		e.fillState(&c)
		if c.State.Exit != nil {
			return *c.State.Exit, nil
		}
		if c.State.Status != api.StatusRunning && c.State.Status != api.StatusPaused && c.State.Status != api.StatusInitialized {
			return api.Exit{}, nil // never started: docker wait says 0
		}
		select { // it ended a moment ago, and its shim writes the status down
		case <-ctx.Done():
			return api.Exit{}, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Remove removes a container; force ends it first, volumes takes its anonymous volumes along.
func (e *Engine) Remove(ctx context.Context, name string, force, volumes bool) error {
	if c, err := e.meta.Container(name); err == nil && c.Spec.Infra {
		if p, err := e.pod(c.Spec.Pod); err == nil {
			return api.Errorf(api.Conflict, "container %s is the infra container of pod %s: it goes with the pod: `brig pod rm %s`", c.Name, p.Spec.Name, p.Spec.Name)
		}
	}
	return e.remove(ctx, name, force, volumes)
}

// remove is Remove, also for what holds a pod's namespaces.
func (e *Engine) remove(ctx context.Context, name string, force, volumes bool) error {
	c, err := e.meta.Container(name)
	if err != nil {
		if force && errors.Is(err, api.Corrupt) {
			return e.removeBroken(ctx, name)
		}
		return err
	}
	restarts := func() error {
		if force || !e.waitedFor(c.ID) {
			return nil
		}
		return api.Errorf(api.Conflict, "cannot remove container %q: it is about to be started again: stop it with `brig stop %s`, or remove it with `brig rm -f %s`", c.Name, name, name)
	}
	if err := restarts(); err != nil {
		return err
	}
	for {
		if force {
			if err := e.freeLock(ctx, &c); err != nil {
				return err
			}
		}
		if err := e.unmake(ctx, &c); err != nil {
			return err
		}
		l, err := e.claim(ctx, &c, force, force)
		if err != nil {
			return err
		}
		if !e.isRunning(c.ID) {
			defer l.Release()
			if err := restarts(); err != nil { // it has ended since, and waits
				return err
			}
			return e.removeEnded(ctx, &c, volumes || c.Spec.AutoRemove)
		}
		l.Release()
		if !force {
			return api.Errorf(api.Conflict, "cannot remove container %q: it is running: stop it with `brig stop %s`, or remove it with `brig rm -f %s`", c.Name, name, name)
		}
		ct, err := e.running(ctx, &c)
		if err != nil {
			continue // it ended in between
		}
		if err := e.markStopped(&c); err != nil { // or it comes back while it is being removed
			return err
		}
		ended := e.watch(ctx, ct, c.ID)
		ct.Signal(ctx, unix.SIGKILL)
		e.thaw(&c)
		if err := <-ended; err != nil {
			return err
		}
	}
}

// removeEnded removes a container that does not run, for who holds its lock.
func (e *Engine) removeEnded(ctx context.Context, c *api.Container, volumes bool) error {
	group := e.cgroupPath(c)
	if err := ns.DeleteCgroup(group); err != nil {
		return err
	}
	if err := errors.Join(shim.RemoveRoot(e.sandboxDir(c.ID)), e.leavePod(c.ID, &c.Spec)); err != nil {
		return err
	}
	if c.Spec.Pod != "" {
		removeParent(group)
	}
	if err := e.network.Detach(ctx, c.ID); err != nil {
		return err
	}
	if err := e.removeAll(c, c.ID, volumes, nil); err != nil {
		return err
	}
	if c.ID != "" {
		e.note(happened(c, "destroy"))
	}
	if durability(c) == atomicfile.Durable { // or it is back after a power cut
		if err := atomicfile.SyncDir(filepath.Dir(e.meta.Dir(c.ID))); err != nil {
			return err
		}
	}
	return lock.RemoveDir(e.sandboxDir(c.ID))
}

// removeBroken removes a container whose record cannot be read, by its whole ID.
func (e *Engine) removeBroken(ctx context.Context, id string) error {
	if err := ns.DeleteCgroup(e.cgroupPath(&api.Container{ID: id})); err != nil {
		return err
	}
	if err := e.reap(ctx, id); err != nil {
		return err
	}
	return e.removeAll(&api.Container{}, id, false, nil)
}
