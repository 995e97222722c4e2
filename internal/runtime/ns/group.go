package ns

import (
	"context"

	"brig/internal/kernel/cgroup"
)

// What is done to all processes of a container at once goes straight to its control group: it needs no keeper, so that one of another version, or one that
// was killed, is in nobody's way.

func (c *container) Pause(context.Context) error {
	g, err := cgroup.Load(c.state.Cgroup)
	if err != nil {
		return err
	}
	return g.Freeze()
}

func (c *container) Resume(context.Context) error {
	g, err := cgroup.Load(c.state.Cgroup)
	if err != nil {
		return err
	}
	return g.Thaw()
}

func (c *container) Paused() (bool, error) {
	g, err := cgroup.Load(c.state.Cgroup)
	if err != nil {
		return false, err
	}
	return g.Frozen()
}

func (c *container) Pids() ([]int, error) {
	g, err := cgroup.Load(c.state.Cgroup)
	if err != nil {
		return nil, err
	}
	return g.Pids()
}
