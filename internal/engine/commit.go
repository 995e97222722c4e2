package engine

import (
	"context"
	"fmt"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/cgroup"
)

// Commit makes an image of a container, named o.Name where that is not empty. A container that runs stands still while its files are read, unless
// o.NoPause; one that does not is not started meanwhile.
func (e *Engine) Commit(ctx context.Context, name string, o api.CommitOptions, s api.Streams) (api.Image, error) {
	c, err := e.meta.Container(name)
	if err != nil {
		return api.Image{}, err
	}
	r := api.TransferRequest{Op: "commit", Container: c.ID, Author: o.Author, Message: o.Message, Changes: o.Changes}
	if o.Name != "" {
		r.Refs = []string{o.Name}
	}
	thaw := func() {}
	if !o.NoPause || !e.isRunning(c.ID) {
		l, err := e.claim(ctx, &c, false, false)
		if err != nil {
			return api.Image{}, err
		}
		defer l.Release()
		if c, err = e.meta.Container(c.ID); err != nil { // while we waited it may have been removed
			return api.Image{}, err
		}
		switch {
		case !e.isRunning(c.ID):
		case rootless.Active() && !isGroup(e.cgroupPath(&c)):
			fmt.Fprintf(s.Stderr, "WARNING: Container %s runs on while it is committed: without root's rights it has no control group to be paused by\n", c.Name)
		default:
			if r.Freeze, thaw, err = e.freezing(&c); err != nil {
				return api.Image{}, err
			}
		}
	}
	rep, err := e.Transfer(ctx, r, s)
	if !rep.Thawed {
		thaw()
	}
	if err != nil {
		return api.Image{}, err
	}
	e.note(happened(&c, "commit"))
	if len(rep.Images) != 1 {
		return api.Image{}, api.Errorf(api.NotFound, "commit of container %s: brig-image made no image", c.Name)
	}
	return rep.Images[0], nil
}

// isGroup reports whether a container has a control group at this path: one of a normal user's may have none.
func isGroup(path string) bool {
	_, err := cgroup.Load(path)
	return err == nil
}

// freezing returns the control group of a running container that brig-image is to freeze, and what lets it run again; none where it stands still already.
//
// Both brig-image, which freezes it, and this process let it run again, so that it takes both of them being killed to leave a container frozen.
func (e *Engine) freezing(c *api.Container) (group string, thaw func(), err error) {
	path := e.cgroupPath(c)
	g, err := cgroup.Load(path)
	if err != nil {
		return "", nil, api.Errorf(api.KindOf(err), "pausing container %s: %w", c.Name, err)
	}
	if frozen, err := g.Frozen(); err == nil && frozen {
		return "", func() {}, nil
	}
	return path, func() { _ = g.Thaw() }, nil
}
