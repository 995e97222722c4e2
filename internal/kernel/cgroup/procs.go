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

const killLimit = 10 * time.Second // of Kill(SIGKILL), until the group is empty

// membership returns the group's folder in the hierarchy that tells who belongs to it: the v2 one where it stands alone, else the first
// of those v1 hierarchies that no container is ever given to write.
func (g *Group) membership() (string, error) {
	if g.l.V2() {
		return g.v2(), nil
	}
	for _, c := range [...]string{"freezer", "pids", "devices", "memory", "cpu"} {
		if dir := g.v1(c); dir != "" {
			return dir, nil
		}
	}
	for _, dir := range g.dirs {
		if dir != "" {
			return dir, nil
		}
	}
	return "", api.Errorf(api.Unsupported, "cgroup %s: no hierarchy is mounted", g.path)
}

// Pids lists the processes in the group and below, by number. A group that is gone has none.
func (g *Group) Pids() ([]int, error) { return g.list(true) }

// OwnPids lists the processes in the group itself, without those in groups that the container made below.
func (g *Group) OwnPids() ([]int, error) { return g.list(false) }

func (g *Group) list(below bool) ([]int, error) {
	dir, err := g.membership()
	if err != nil {
		return nil, err
	}
	list, err := pidsIn(nil, dir, below)
	if v2 := g.v2(); err == nil && v2 != "" && v2 != dir {
		list, err = pidsIn(list, v2, below) // on a hybrid machine a child is born into the v2 group, and joins the others a moment later
	}
	slices.Sort(list)
	return slices.Compact(list), err
}

// pidsIn appends the processes of a group, with those below it.
func pidsIn(list []int, dir string, below bool) ([]int, error) {
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
	list = parsePids(list, b)
	if !below {
		return list, nil
	}
	for _, child := range children(dir) {
		if list, err = pidsIn(list, child, true); err != nil {
			return list, err
		}
	}
	return list, nil
}

// parsePids appends the numbers of a cgroup.procs. 0 stands for a process that this PID namespace cannot see.
func parsePids(list []int, procs []byte) []int {
	for line := range bytes.Lines(procs) {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(line))); err == nil && pid > 0 {
			list = append(list, pid)
		}
	}
	return list
}

// Kill sends a signal to all processes in the group. SIGKILL is repeated until the group is empty, whatever forks in it, for 10 s at
// most; then api.Unavailable names who is left (a process in uninterruptible sleep dies when its device answers).
func (g *Group) Kill(sig unix.Signal) error {
	if sig != unix.SIGKILL {
		return g.signal(sig)
	}
	if g.l.V2() && writeFile(g.v2()+"/cgroup.kill", "1") == nil { // Linux 5.14
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
