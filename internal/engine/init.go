package engine

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/runtime/shim"
)

// Init makes all of a container that does not run but the last step: its namespaces, mounts, network, limits and process are there, and the process executes its command when it is
// started. So what there would be can be looked at, and copied into, before it runs: podman's init.
func (e *Engine) Init(ctx context.Context, name string) error {
	c, err := e.meta.Container(name)
	if err != nil {
		return err
	}
	cl, err := e.claim(ctx, &c, false, true)
	if err != nil {
		return err
	}
	defer cl.Release()
	switch {
	case e.isInitialized(c.ID):
		return api.Errorf(api.Conflict, "container %s is initialized already: `brig start %s` executes its command", c.Name, c.Name)
	case e.isRunning(c.ID):
		return api.Errorf(api.Conflict, "container %s is running: stop it first", c.Name)
	}
	if err := e.cleared(ctx, &c); err != nil {
		return err
	}
	if err := atomicfile.Write(e.initializedPath(c.ID), nil, 0o600, atomicfile.Volatile); err != nil {
		return err
	}
	l, err := e.launch(ctx, &c, nil, false, e.snapshot, way{waits: true})
	if err != nil {
		_ = os.Remove(e.initializedPath(c.ID)) // it may be there or not
		return err
	}
	l.leave()
	return nil
}

// initializedPath is a file that tells a power cut's survivors that a container was initialized and not started.
func (e *Engine) initializedPath(id string) string {
	return filepath.Join(e.meta.Dir(id), "initialized")
}

// isInitialized reports whether a container's process waits to be executed.
func (e *Engine) isInitialized(id string) bool {
	s, err := shim.ReadState(e.sandboxDir(id))
	return err == nil && s.Waits && running(s)
}

// startInitialized is Start of such a container; cl is the caller's lock on it.
func (e *Engine) startInitialized(ctx context.Context, c *api.Container, cl *lock.Lock, a *api.Attach) (*api.Session, error) {
	if err := e.stillTrusted(ctx, c); err != nil {
		return nil, err
	}
	if err := e.begun(c); err != nil {
		return nil, err
	}
	ct, err := e.existing(ctx, c)
	if err != nil {
		return nil, err
	}
	last := e.lastExit(c.ID)
	st, err := ct.StartKept(ctx, wanted(a))
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		cl.Release() // whoever cleans up takes it
		if serr := e.settle(ctx, c.ID); serr != nil {
			return nil, err
		}
		_ = e.noteNotAgain(c.ID, last, err)
		return nil, err
	}
	_ = os.Remove(e.initializedPath(c.ID)) // else a power cut finds it created
	e.note(happened(c, "start"))
	if a == nil {
		return nil, st.Close()
	}
	return e.join(c.ID, st, *a), nil
}

// unmake ends what Init has made of a container; nothing is there to do for others. How its last run ended stays as it is.
func (e *Engine) unmake(ctx context.Context, c *api.Container) error {
	if !e.isInitialized(c.ID) {
		return nil
	}
	l, err := e.lockContainer(c.ID) // who starts it has it, too
	if err != nil {
		return err
	}
	defer func() { l.Release() }()
	if !e.isInitialized(c.ID) {
		return nil
	}
	ct, err := e.existing(ctx, c)
	if err != nil {
		return nil //nolint:nilerr // it has gone meanwhile
	}
	over := e.watch(ctx, ct, c.ID)
	if err := ct.Signal(ctx, unix.SIGKILL); err != nil && e.isInitialized(c.ID) {
		return err
	}
	e.thaw(c)
	if err := l.Release(); err != nil { // whoever cleans up takes it
		return err
	}
	l = lock.None()
	return <-over
}

// onlyInitialized reports whether what is left of a container's run is that it was initialized: its command was not executed, or could not be.
func (e *Engine) onlyInitialized(id string) bool {
	s, err := shim.ReadState(e.sandboxDir(id))
	return err == nil && s.Waits || err != nil && exists(e.initializedPath(id))
}

// outdated reports whether what an initialized container is made of is not there any more: a container that it requires has ended, or was started since.
func (e *Engine) outdated(c *api.Container) bool {
	made, err := os.Stat(filepath.Join(e.sandboxDir(c.ID), shim.StateName))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(c.Spec.Requires, func(id string) bool {
		s, err := shim.ReadState(e.sandboxDir(id))
		return err != nil || !running(s) || s.StartedAt.After(made.ModTime())
	})
}
