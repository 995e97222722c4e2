package engine

import (
	"context"

	"brig/api"
	"brig/internal/base/lock"
)

// Rename gives a container another name. A process that is killed on the way leaves it with the old name or the new one, and the other free.
func (e *Engine) Rename(_ context.Context, name, to string) error {
	c, l, err := e.held(name)
	if err != nil {
		return err
	}
	defer l.Release()
	if c.State.Status == api.StatusDead {
		return api.Errorf(api.Conflict, "container %s is dead: all that can be done with it is `brig rm -f %s`", c.ID, c.ID)
	}
	if c.Name == to {
		return api.Errorf(api.InvalidArgument, "renaming a container with the same name as its current name: %s", to)
	}
	if err := e.meta.Rename(c, to, durability(&c)); err != nil {
		return err
	}
	old := c.Name
	c.Name = to
	if err := e.renameLive(&c, old); err != nil {
		return api.Errorf(api.KindOf(err), "container %s has its new name, but others still find it by the old one until it is started again: %w", to, err)
	}
	e.note(happened(&c, "rename", "oldName", "/"+old))
	return nil
}

// held takes the lock of a container, so that nobody else changes it, and returns its record as it is then.
func (e *Engine) held(name string) (api.Container, *lock.Lock, error) {
	c, err := e.meta.Container(name)
	if err != nil {
		return c, nil, err
	}
	l, err := e.lockContainer(c.ID)
	if err != nil {
		return c, nil, err
	}
	if c, err = e.meta.Container(c.ID); err != nil { // while we waited it may have been removed
		l.Release()
		return c, nil, err
	}
	return c, l, nil
}

// runningHeld is held for a container that runs, which then does not end unseen: nobody cleans up after it until the lock is released.
func (e *Engine) runningHeld(ctx context.Context, name string) (api.Container, live, *lock.Lock, error) {
	c, l, err := e.held(name)
	if err != nil {
		return c, nil, nil, err
	}
	ct, err := e.running(ctx, &c)
	if err != nil {
		l.Release()
		return c, nil, nil, err
	}
	return c, ct, l, nil
}
