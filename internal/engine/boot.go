package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"brig/api"
)

// bootParallel is how many containers are started, or stopped, at a time.
const bootParallel = 4

// Boot starts the containers that their restart policies want to run after the machine has started, and cleans up after the boot. each is told of every
// one of them, with what went wrong.
func (e *Engine) Boot(ctx context.Context, each func(c api.Container, err error)) error {
	if err := os.Remove(filepath.Join(e.state, haltingName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	e.sweep(ctx)
	return e.forAll(ctx, each, func(c *api.Container) bool {
		return c.State.Status == api.StatusExited && restartable(c) && e.wasStarted(c.ID) && e.due(c, e.lastExit(c.ID), true)
	}, func(ctx context.Context, c *api.Container) error {
		_, err := e.Start(ctx, c.ID, nil)
		return err
	})
}

// Shutdown stops all containers that run, because the machine is about to stop: Boot starts again those that should be. It makes no difference to their
// restart policies whether they were stopped by it.
func (e *Engine) Shutdown(ctx context.Context, each func(c api.Container, err error)) error {
	if err := e.makeState(); err != nil {
		return err
	}
	if err := writePlain(filepath.Join(e.state, haltingName), nil, 0o600); err != nil {
		return err
	}
	return e.forAll(ctx, each, func(c *api.Container) bool {
		return c.State.Status == api.StatusRunning || c.State.Status == api.StatusPaused || c.State.Status == api.StatusRestarting
	}, func(ctx context.Context, c *api.Container) error {
		return e.stop(ctx, c, api.StopOptions{})
	})
}

// forAll does something with all containers that are chosen, several at a time.
func (e *Engine) forAll(ctx context.Context, each func(api.Container, error), chosen func(*api.Container) bool, do func(context.Context, *api.Container) error) error {
	all, err := e.List(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(bootParallel)
	var mu sync.Mutex
	var failed []error
	for _, c := range all {
		if !chosen(&c) {
			continue
		}
		g.Go(func() error {
			err := do(ctx, &c)
			mu.Lock()
			defer mu.Unlock()
			each(c, err)
			failed = append(failed, err)
			return nil
		})
	}
	_ = g.Wait()
	return errors.Join(failed...)
}
