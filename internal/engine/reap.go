package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/runtime/ns"
	"brig/internal/runtime/shim"
)

// Reap cleans up after a container that has ended: cgroup, network, sandbox folder, and with --rm the container itself. It may be called any
// number of times, by anybody, also when a former call was cut off. A container that runs is left alone.
func (e *Engine) Reap(ctx context.Context, id string) error {
	l, err := e.lockContainer(id)
	if err != nil {
		return err
	}
	defer l.Release()
	if e.isRunning(id) {
		return nil
	}
	if err := e.reap(ctx, id); !errors.Is(err, errNotKept) {
		return err
	}
	return nil
}

// errNotKept says that all is cleaned up but the sandbox's folder, which tells the exit status as long as the disk has no room for it.
var errNotKept = errors.New("the exit status of the last run cannot be kept")

// lockContainer takes a container's own lock; a container that has no record any more needs none.
func (e *Engine) lockContainer(id string) (*lock.Lock, error) {
	l, err := lock.Take(filepath.Join(e.meta.Dir(id), "lock"))
	if errors.Is(err, os.ErrNotExist) {
		return lock.None(), nil
	}
	return l, err
}

// claimLimit is how long a command waits for another that starts or cleans up the same container: usually milliseconds, but the other may
// have been stopped, or may be waiting for who reads its output.
const claimLimit = 2 * time.Second

// claim takes a container's lock when nobody is just starting it or cleaning it up. Who still is after claimLimit does not get on: what has
// ended may be cleaned up in its stead, what has not started only by force.
func (e *Engine) claim(ctx context.Context, c *api.Container, force bool) (*lock.Lock, error) {
	for deadline := time.Now().Add(claimLimit); ; {
		l, err := e.lockContainer(c.ID)
		if err != nil || e.isRunning(c.ID) || !e.occupied(c.ID) {
			return l, err
		}
		if time.Now().After(deadline) {
			if _, err := readShimState(e.sandboxDir(c.ID)); err == nil || force {
				return l, nil
			}
			l.Release()
			return nil, api.Errorf(api.Conflict, "container %s is being started by another process: try again, or remove it with `brig rm -f %s`", c.Name, c.Name)
		}
		l.Release()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// reap is Reap for who holds the container's lock.
func (e *Engine) reap(ctx context.Context, id string) error {
	dir := e.sandboxDir(id)
	c, err := e.meta.Container(id)
	known := err == nil && c.State.Status != api.StatusDead
	if !exists(dir) && !(known && c.Spec.AutoRemove && e.wasStarted(id)) {
		return nil
	}
	if err := ns.DeleteCgroup(e.cgroupPath(id)); err != nil {
		return err
	}
	if err := e.network.Detach(ctx, id); err != nil {
		return err
	}
	if !known || c.Spec.AutoRemove {
		err = e.removeAll(&c, id, true)
	} else {
		err = e.keepExit(id, dir) // last: on a full disk all the rest is free already
	}
	if err != nil {
		return err
	}
	return lock.RemoveDir(dir)
}

// wasStarted reports whether the container ever got as far as its bundle.
func (e *Engine) wasStarted(id string) bool {
	return exists(filepath.Join(e.meta.Dir(id), "config.json"))
}

// keepExit writes the exit status down where the shim could not, or that it is lost where the shim was killed.
func (e *Engine) keepExit(id, dir string) error {
	s, err := readShimState(dir)
	if err != nil || exists(e.exitPath(id)) {
		return nil
	}
	exit := readExit(filepath.Join(dir, shim.ExitName))
	if exit == nil {
		exit = &shim.ExitRecord{Exit: lostExit, StartedAt: s.StartedAt}
		exit.At = time.Now()
	}
	data, err := json.Marshal(exit)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(e.exitPath(id), data, 0o600, atomicfile.Durable); err != nil {
		return fmt.Errorf("%w: %w", errNotKept, err)
	}
	return nil
}

// removeAll removes what a container keeps on the disk.
func (e *Engine) removeAll(c *api.Container, id string, volumes bool) error {
	if err := e.snapshot.Remove(id); err != nil {
		return err
	}
	if volumes && c.ID != "" {
		if err := e.removeAnonymous(c); err != nil {
			return err
		}
	}
	return e.meta.RemoveContainer(id)
}

// sweep reaps what processes that died have left. It looks at the sandboxes only, of which there is one for each container that runs; the
// first time after a boot also at the records, for what --rm would have removed.
func (e *Engine) sweep(ctx context.Context) {
	parent := filepath.Join(e.state, "sandbox")
	if swept := filepath.Join(parent, ".swept"); !exists(swept) && e.sweepRecords(ctx) == nil {
		writePlain(swept, nil, 0o600)
	}
	d, err := os.Open(parent)
	if err != nil {
		return
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return
	}
	for _, id := range names {
		if strings.HasPrefix(id, ".") || ctx.Err() != nil {
			continue
		}
		dir := filepath.Join(parent, id)
		if lock.Held(filepath.Join(dir, shim.LockName)) {
			continue
		}
		if s, err := readShimState(dir); err == nil && running(s) {
			continue // its shim was killed, it runs on
		}
		e.sweepOne(ctx, id, dir)
	}
}

// sweepRecords removes the containers with --rm whose sandbox went with the last boot.
func (e *Engine) sweepRecords(ctx context.Context) error {
	ids, err := e.meta.ContainerIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c, err := e.meta.Container(id); err != nil || !c.Spec.AutoRemove || exists(e.sandboxDir(id)) {
			continue
		}
		if err := e.Reap(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// sweepOne reaps one sandbox unless somebody is making it.
func (e *Engine) sweepOne(ctx context.Context, id, dir string) {
	making, err := lock.Try(filepath.Join(e.state, "sandbox", ".lock"))
	if err != nil {
		return // somebody makes a sandbox at this moment: the next sweep will find it
	}
	l, err := lock.Try(filepath.Join(dir, shim.LockName))
	making.Release()
	if err != nil {
		return
	}
	defer l.Release()
	e.Reap(ctx, id)
}
