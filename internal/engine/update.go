package engine

import (
	"context"
	"errors"
	"reflect"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/cgroup"
)

// Update changes the limits of a container that change names, and leaves the others: zero is no change; restart is its new policy, nil: it keeps it. Limits of one that runs hold at once; where the kernel
// refuses one, all are as before. What it returns having done survives the container's next start.
func (e *Engine) Update(ctx context.Context, name string, change api.Resources, restart *api.RestartPolicy) error {
	c, l, err := e.held(name)
	if err != nil {
		return err
	}
	defer l.Release()
	if c.State.Status == api.StatusDead {
		return api.Errorf(api.Conflict, "cannot update container %s: it is dead: remove it with `brig rm -f %s`", c.ID, c.ID)
	}
	if change.Memory != 0 || change.MemorySwap != 0 || change.MemoryReservation != 0 || change.Pids != 0 {
		if err := e.fixedLive(&c, "the memory and the limit of processes"); err != nil {
			return err
		}
	}
	old := c.Spec.Limits
	if c.Spec.Limits, err = merged(old, &change); err != nil {
		return api.Errorf(api.KindOf(err), "cannot update container %s: %w", c.Name, err)
	}
	if infraOf(&c.Spec) != "" && e.isRunning(c.ID) && !reflect.DeepEqual(c.Spec.Limits, old) {
		return api.Errorf(api.Unsupported, "container %s: the limits of one that runs in a pod of isolation level %s cannot be changed: stop it first", c.Name, c.Spec.Isolation)
	}
	r, err := settings(&c.Spec.Limits, &old)
	if err != nil {
		return api.Errorf(api.KindOf(err), "cannot update container %s: %w", c.Name, err)
	}
	if err := e.checkLevel(&c.Spec); err != nil {
		return api.Errorf(api.KindOf(err), "cannot update container %s: %w", c.Name, err)
	}
	if rootless.Active() {
		if err := e.checkRootless(&c.Spec); err != nil {
			return api.Errorf(api.KindOf(err), "cannot update container %s: %w", c.Name, err)
		}
	}
	if restart != nil {
		c.Spec.Restart = *restart
		if err := checkRestart(&c.Spec); err != nil {
			return api.Errorf(api.KindOf(err), "cannot update container %s: %w", c.Name, err)
		}
	}
	back := func() error { return nil }
	if ct, err := e.existing(ctx, &c); err == nil {
		back = func() error {
			was, err := settings(&old, &c.Spec.Limits)
			if err != nil {
				return err
			}
			return ct.Update(context.WithoutCancel(ctx), was)
		}
		if err := ct.Update(ctx, r); err != nil {
			return api.Errorf(api.KindOf(err), "cannot update container %s: %w", c.Name, errors.Join(err, back()))
		}
	}
	if err := e.meta.PutContainer(c, durability(&c)); err != nil {
		return errors.Join(err, back())
	}
	e.note(happened(&c, "update"))
	return nil
}

// merged puts a change over limits, by docker's rules.
func merged(l api.Resources, change *api.Resources) (api.Resources, error) {
	if change.NanoCPUs != 0 && (l.CPUPeriod != 0 || l.CPUQuota != 0) {
		return l, api.Errorf(api.Conflict, "conflicting options: the number of CPUs cannot be set as CPU period or quota has already been set")
	}
	if (change.CPUPeriod != 0 || change.CPUQuota != 0) && l.NanoCPUs != 0 {
		return l, api.Errorf(api.Conflict, "conflicting options: CPU period or quota cannot be set as the number of CPUs has already been set")
	}
	if change.Memory != 0 && change.MemorySwap == 0 && l.MemorySwap > 0 && change.Memory > l.MemorySwap {
		return l, api.Errorf(api.InvalidArgument, "the memory limit should be smaller than the limit of memory and swap that is set, %d bytes: raise --memory-swap with it", l.MemorySwap)
	}
	set(&l.Memory, change.Memory)
	set(&l.MemorySwap, change.MemorySwap)
	set(&l.MemoryReservation, change.MemoryReservation)
	set(&l.NanoCPUs, change.NanoCPUs)
	set(&l.CPUShares, change.CPUShares)
	set(&l.CPUPeriod, change.CPUPeriod)
	set(&l.CPUQuota, change.CPUQuota)
	set(&l.CPUs, change.CPUs)
	set(&l.MemoryNodes, change.MemoryNodes)
	set(&l.Pids, change.Pids)
	set(&l.BlkioWeight, change.BlkioWeight)
	return l, nil
}

func set[T comparable](to *T, change T) {
	var zero T
	if change != zero {
		*to = change
	}
}

// settings are those of l, with none where was had a limit and l has not: a control group keeps what it is not told to drop.
func settings(l, was *api.Resources) (*specs.LinuxResources, error) {
	r, err := limits(l)
	if err != nil {
		return nil, err
	}
	layout, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	none := int64(-1)
	if l.Memory == 0 && was.Memory != 0 {
		r.Memory = &specs.LinuxMemory{Limit: &none, Swap: &none}
	}
	if r.Memory != nil && !layout.SwapLimit() {
		r.Memory.Swap = nil
	}
	if l.Pids <= 0 && was.Pids > 0 {
		r.Pids = &specs.LinuxPids{Limit: &none}
	}
	if l.NanoCPUs == 0 && l.CPUQuota == 0 && (was.NanoCPUs != 0 || was.CPUQuota != 0) {
		if r.CPU == nil {
			r.CPU = &specs.LinuxCPU{}
		}
		r.CPU.Quota = &none
	}
	return r, nil
}

// Stats tells what a container has used; the zero Usage for one that does not run.
func (e *Engine) Stats(ctx context.Context, name string) (api.Container, api.Usage, error) {
	c, err := e.meta.Container(name)
	if err != nil {
		return c, api.Usage{}, err
	}
	ct, err := e.running(ctx, &c)
	if err != nil {
		return c, api.Usage{}, nil //nolint:nilerr // that it does not run is no failure
	}
	u, err := ct.Stats()
	if errors.Is(err, api.NotFound) { // it ended in between
		return c, api.Usage{}, nil
	}
	if c.Spec.Network.Mode == "host" { // those are the host's
		u.NetIn, u.NetOut = 0, 0
	}
	if all := uint64(totalMemory()); u.MemoryLimit > all {
		u.MemoryLimit = all
	}
	return c, u, err
}
