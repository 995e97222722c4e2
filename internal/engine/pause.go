package engine

import (
	"context"

	"brig/api"
)

// Pause makes all processes of a running container stand still.
func (e *Engine) Pause(ctx context.Context, name string) error { return e.pause(ctx, name, false) }

// pause is Pause; withPod: the rest of the container's pod is paused, too.
func (e *Engine) pause(ctx context.Context, name string, withPod bool) error {
	c, ct, l, err := e.runningHeld(ctx, name)
	if err != nil {
		return err
	}
	defer l.Release()
	if err := apart(&c, withPod); err != nil {
		return err
	}
	if paused, err := ct.Paused(); err != nil || paused {
		if err == nil {
			err = api.Errorf(api.Conflict, "container %s is already paused", c.Name)
		}
		return err
	}
	if err := ct.Pause(ctx); err != nil {
		return api.Errorf(api.KindOf(err), "pausing container %s: %w", c.Name, err)
	}
	e.note(happened(&c, "pause"))
	return nil
}

// Unpause lets a container that stands still go on.
func (e *Engine) Unpause(ctx context.Context, name string) error { return e.unpause(ctx, name, false) }

func (e *Engine) unpause(ctx context.Context, name string, withPod bool) error {
	c, ct, l, err := e.runningHeld(ctx, name)
	if err != nil {
		return err
	}
	defer l.Release()
	if err := apart(&c, withPod); err != nil {
		return err
	}
	if paused, err := ct.Paused(); err != nil || !paused {
		if err == nil {
			err = api.Errorf(api.Conflict, "container %s is not paused", c.Name)
		}
		return err
	}
	if err := ct.Resume(ctx); err != nil {
		return api.Errorf(api.KindOf(err), "unpausing container %s: %w", c.Name, err)
	}
	e.note(happened(&c, "unpause"))
	return nil
}

// paused reports whether a running container stands still.
func (e *Engine) paused(c *api.Container) bool {
	layout, err := e.cgroups()
	if err != nil {
		return false
	}
	frozen, err := layout.Frozen(e.cgroupPath(c))
	return err == nil && frozen
}

// notPaused is the error of what cannot be done to a container that stands still.
func (e *Engine) notPaused(c *api.Container, what string) error {
	if !e.paused(c) {
		return nil
	}
	return api.Errorf(api.Conflict, "container %s is paused: let it go on with `brig unpause %s` before you %s", c.Name, c.Name, what)
}
