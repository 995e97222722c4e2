package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"brig/api"
	"brig/internal/base/lock"
)

// restartLock is held, in a container's folder, by who restarts it: a container with --rm that ends meanwhile is not removed.
const restartLock = "restart"

// Restart stops a container, if it runs, and starts it.
func (e *Engine) Restart(ctx context.Context, name string, o api.StopOptions) error {
	c, err := e.meta.Container(name)
	if err != nil {
		return err
	}
	path := filepath.Join(e.meta.Dir(c.ID), restartLock)
	l, err := lock.Take(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return api.Errorf(api.NotFound, "no such container: %s", name)
		}
		return err
	}
	defer func() {
		os.Remove(path)
		l.Release()
	}()
	if err := e.Stop(ctx, c.ID, o); err != nil {
		return err
	}
	if _, err = e.Start(ctx, c.ID, nil); err == nil {
		e.note(happened(&c, "restart"))
	}
	return err
}

// restarting reports whether a container is about to be started again.
func (e *Engine) restarting(id string) bool {
	return lock.Held(filepath.Join(e.meta.Dir(id), restartLock))
}
