package ns

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/proc"
	"brig/internal/runtime/shim"
)

// What is done to all processes of a container at once goes straight to its control group: it needs no keeper, so that one of another version, or one that
// was killed, is in nobody's way.

// group is the container's control group. Without root's rights it has none.
func (c *container) group() (*cgroup.Group, error) {
	if c.state.Cgroup == "" {
		return nil, api.Errorf(api.Unsupported, "container %.12s has no control group, by which it could be paused, measured or limited: run it as root, where control groups can be made", c.id)
	}
	return cgroup.Load(c.state.Cgroup)
}

func (c *container) Pause(context.Context) error {
	g, err := c.group()
	if err != nil {
		return err
	}
	return g.Freeze()
}

func (c *container) Resume(context.Context) error {
	g, err := c.group()
	if err != nil {
		return err
	}
	return g.Thaw()
}

func (c *container) Paused() (bool, error) {
	g, err := c.group()
	if err != nil {
		return false, err
	}
	return g.Frozen()
}

// Pids are the processes of the container, without a control group those in its root, where that is among the host's mounts, or of its PID namespace.
func (c *container) Pids() ([]int, error) {
	if c.state.Cgroup == "" {
		if pids, err := proc.Rooted(shim.RootPlace(c.s.spec.Dir)); err != nil || len(pids) > 0 {
			return pids, err
		}
		return c.namesakes()
	}
	g, err := c.group()
	if err != nil {
		return nil, err
	}
	return g.Pids()
}

// namesakes are the processes in the PID namespace of the container's first one, as far as this process may look at them.
func (c *container) namesakes() ([]int, error) {
	const nsOf = "/proc/%d/ns/pid"
	own, err := os.Readlink(fmt.Sprintf(nsOf, c.state.Pid))
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ns, err := os.Readlink(fmt.Sprintf(nsOf, pid)); err == nil && ns == own {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func (c *container) Update(_ context.Context, r *specs.LinuxResources) error {
	g, err := c.group()
	if err != nil {
		return err
	}
	return g.Set(r)
}

// Stats reads the counters of the control group, and of the network by the container's first process.
func (c *container) Stats() (api.Usage, error) {
	u := api.Usage{At: time.Now()}
	g, err := c.group()
	if err != nil {
		return u, err
	}
	s, err := g.Stats()
	if err != nil {
		return u, err
	}
	u.CPU = time.Duration(s.CPU.Usage.Total)
	u.Memory, u.MemoryLimit = workingSet(&s.Memory), s.Memory.Usage.Limit
	u.Pids = s.Pids.Current
	for _, e := range s.Blkio.ServiceBytes {
		switch strings.ToLower(e.Op) {
		case "read":
			u.BlockIn += e.Value
		case "write":
			u.BlockOut += e.Value
		}
	}
	dev, err := os.ReadFile("/proc/" + strconv.Itoa(c.state.Pid) + "/net/dev")
	if err == nil && c.Running() { // else it may be another process's
		u.NetIn, u.NetOut = traffic(string(dev))
	}
	return u, nil
}

// workingSet is what docker shows: less what was read from files once and is only kept because there is room.
func workingSet(m *cgroup.Memory) uint64 {
	inactive, ok := m.Raw["total_inactive_file"] // version 1
	if !ok {
		inactive = m.Raw["inactive_file"]
	}
	if inactive >= m.Usage.Usage {
		return m.Usage.Usage
	}
	return m.Usage.Usage - inactive
}

// traffic adds up the bytes received and sent of the interfaces in /proc/PID/net/dev, proc(5), but of the loopback.
func traffic(text string) (in, out uint64) {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !ok || strings.TrimSpace(name) == "lo" || len(f) < 9 {
			continue
		}
		r, _ := strconv.ParseUint(f[0], 10, 64)
		t, _ := strconv.ParseUint(f[8], 10, 64)
		in, out = in+r, out+t
	}
	return in, out
}
