package cgroup

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
)

const (
	killLimit   = 10 * time.Second // of Kill(SIGKILL), until the group is empty
	freezeLimit = 5 * time.Second  // of Freeze and Thaw
)

// membership returns the group's folder in the hierarchy that tells who belongs to it: the v2 one where it stands alone, else the first
// of those v1 hierarchies that no container is ever given to write.
func (g *Group) membership() (string, error) {
	if m := g.l.unifiedMount(); m != nil && g.l.V2() {
		return m.dir + g.path, nil
	}
	for _, c := range [...]string{"freezer", "pids", "devices", "memory", "cpu"} {
		if m := g.l.find(c); m != nil {
			return m.dir + g.path, nil
		}
	}
	if len(g.l.mounts) > 0 {
		return g.l.mounts[0].dir + g.path, nil
	}
	return "", api.Errorf(api.Unsupported, "cgroup %s: no hierarchy is mounted", g.path)
}

// Pids lists the processes in the group and below, by number. A group that is gone has none.
func (g *Group) Pids() ([]int, error) {
	dir, err := g.membership()
	if err != nil {
		return nil, err
	}
	list, err := pidsBelow(nil, dir)
	slices.Sort(list)
	return slices.Compact(list), err
}

func pidsBelow(list []int, dir string) ([]int, error) {
	b, err := readFile(dir + "/cgroup.procs")
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV):
		return list, nil
	case errors.Is(err, unix.EOPNOTSUPP):
		b, err = readFile(dir + "/cgroup.threads") // a threaded v2 group
	}
	if err != nil {
		return list, err
	}
	for line := range bytes.Lines(b) {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(line))); err == nil && pid > 0 {
			list = append(list, pid)
		}
	}
	for _, child := range children(dir) {
		if list, err = pidsBelow(list, child); err != nil {
			return list, err
		}
	}
	return list, nil
}

// Kill sends a signal to all processes in the group. SIGKILL is repeated until the group is empty, whatever forks in it, for 10 s at
// most; then api.Unavailable names who is left (a process in uninterruptible sleep dies when its device answers).
func (g *Group) Kill(sig unix.Signal) error {
	if sig != unix.SIGKILL {
		return g.signal(sig)
	}
	if g.l.V2() && writeFile(g.l.unifiedMount().dir+g.path+"/cgroup.kill", "1") == nil { // Linux 5.14
		return g.drain(func(int) error { return nil })
	}
	return g.drain(func(round int) error {
		// A frozen task forks no more, and dies when thawed: this outruns what three rounds of plain signals did not.
		hard := round >= 3
		if hard {
			if err := g.freezer(true); err != nil {
				hard = false
			}
		}
		err := g.signal(sig)
		if hard {
			err = errors.Join(err, g.freezer(false))
		}
		return err
	})
}

// drain calls kill round by round until nobody is left.
func (g *Group) drain(kill func(round int) error) error {
	var left []int
	var err error
	round := 0
	if retry(killLimit, func() bool {
		if left, err = g.Pids(); err != nil || len(left) == 0 {
			return true
		}
		err = kill(round)
		round++
		return err != nil
	}) {
		return err
	}
	return api.Errorf(api.Unavailable, "cgroup %s: processes %v do not die: /proc/PID/stack says what the kernel waits for", g.path, left)
}

func (g *Group) signal(sig unix.Signal) error {
	list, err := g.Pids()
	if err != nil {
		return err
	}
	for _, pid := range list {
		if e := unix.Kill(pid, sig); e != nil && e != unix.ESRCH && err == nil {
			err = api.Errorf(api.Unavailable, "signal %d to process %d of cgroup %s: %w", sig, pid, g.path, e)
		}
	}
	return err
}

// Freeze stops all tasks of the group, and returns when they stand.
func (g *Group) Freeze() error {
	if err := g.freezer(true); err != nil {
		return err
	}
	return g.await(true)
}

// Thaw lets them run again.
func (g *Group) Thaw() error {
	if err := g.freezer(false); err != nil {
		return err
	}
	return g.await(false)
}

func (g *Group) await(frozen bool) error {
	var err error
	if !retry(freezeLimit, func() bool {
		var is bool
		if is, err = g.Frozen(); err == nil && frozen && !is && g.l.find("freezer") != nil {
			err = g.freezer(true) // version 1 gives up on a task that was in the middle of a fork; asked again, it takes it too
		}
		return err != nil || is == frozen
	}) {
		return api.Errorf(api.Unavailable, "cgroup %s: not all processes could be frozen or thawed within %v", g.path, freezeLimit)
	}
	return err
}

// freezer writes the wanted state and does not wait.
func (g *Group) freezer(freeze bool) error {
	if m := g.l.find("freezer"); m != nil {
		state := "THAWED"
		if freeze {
			state = "FROZEN"
		}
		return writeFile(m.dir+g.path+"/freezer.state", state)
	}
	m := g.l.unifiedMount()
	if m == nil {
		return api.Errorf(api.Unsupported, "cgroup %s: pausing needs the freezer controller, which is not mounted", g.path)
	}
	state := "0"
	if freeze {
		state = "1"
	}
	return writeFile(m.dir+g.path+"/cgroup.freeze", state) // Linux 5.2
}

// Frozen reports whether all tasks stand.
func (g *Group) Frozen() (bool, error) {
	if m := g.l.find("freezer"); m != nil {
		b, err := readFile(m.dir + g.path + "/freezer.state")
		return strings.TrimSpace(string(b)) == "FROZEN", err
	}
	m := g.l.unifiedMount()
	if m == nil {
		return false, nil
	}
	b, err := readFile(m.dir + g.path + "/cgroup.events")
	return field(b, "frozen") == 1, err
}

// OOMKills counts the processes that the kernel killed in the group for want of memory.
func (g *Group) OOMKills() (int, error) {
	if m := g.l.find("memory"); m != nil {
		b, err := readFile(m.dir + g.path + "/memory.oom_control") // oom_kill: Linux 4.13
		return int(field(b, "oom_kill")), err
	}
	m := g.l.unifiedMount()
	if m == nil {
		return 0, nil
	}
	b, err := readFile(m.dir + g.path + "/memory.events")
	if errors.Is(err, unix.ENOENT) && exists(m.dir+g.path) {
		return 0, nil // no memory controller, no such kill
	}
	return int(field(b, "oom_kill")), err
}
