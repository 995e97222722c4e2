package cgroup

import (
	"bytes"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
)

const freezeLimit = 5 * time.Second // of Freeze and Thaw, until all tasks stand or run

// Freeze stops all tasks of the group, and returns when they stand. Where that does not come about within 5 s they run again, and the
// error is api.Unavailable.
func (g *Group) Freeze() error {
	if err := g.freezer(true); err != nil {
		return err
	}
	err := g.await(true)
	if err != nil {
		err = errors.Join(err, g.freezer(false)) // half frozen is worse than not
	}
	return err
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
	v1 := g.v1("freezer") != ""
	round := 0
	if !retry(freezeLimit, func() bool {
		var is bool
		if is, err = g.Frozen(); err != nil || is == frozen {
			return true
		}
		if frozen && v1 {
			// Version 1 gives up on a task in the middle of a fork, and on those that such a fork adds; asked again, it takes them too.
			// Some wait for a task that is frozen already, as with vfork(2): a moment of running lets them get past it.
			if round++; round%50 == 0 {
				err = g.freezer(false)
				time.Sleep(time.Millisecond)
			}
			if err == nil {
				err = g.freezer(true)
			}
		}
		return err != nil
	}) {
		return api.Errorf(api.Unavailable, "cgroup %s: not all processes could be frozen or thawed within %v: a process in uninterruptible sleep, which "+
			"/proc/PID/stack shows, or a frozen group above this one holds them", g.path, freezeLimit)
	}
	return err
}

// freezer writes the wanted state and does not wait.
func (g *Group) freezer(freeze bool) error {
	if dir := g.v1("freezer"); dir != "" {
		state := "THAWED"
		if freeze {
			state = "FROZEN"
		}
		return writeFile(dir+"/freezer.state", state)
	}
	dir := g.v2()
	if dir == "" {
		return api.Errorf(api.Unsupported, "cgroup %s: pausing needs the freezer controller, which is not mounted", g.path)
	}
	state := "0"
	if freeze {
		state = "1"
	}
	err := writeFile(dir+"/cgroup.freeze", state)
	if errors.Is(err, unix.ENOENT) && exists(dir) {
		return api.Errorf(api.Unsupported, "cgroup %s: pausing needs cgroup.freeze, which Linux has since 5.2", g.path)
	}
	return err
}

// Frozen reports whether all tasks stand, be it by this group or by one above it.
func (g *Group) Frozen() (bool, error) {
	return frozen(g.v1("freezer"), g.v2())
}

// Frozen is the same of a group by its absolute path, for who asks about hundreds. One that does not exist does not stand.
func (l *Layout) Frozen(path string) (bool, error) {
	if err := checkPath(path); err != nil || path[0] != '/' {
		return false, err
	}
	var v1, v2 string
	if m := l.find("freezer"); m != nil {
		v1 = m.dir + path
	} else if m := l.unifiedMount(); m != nil {
		v2 = m.dir + path
	}
	is, err := frozen(v1, v2)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return is, err
}

// frozen asks in the group's folder, in whichever hierarchy it has one.
func frozen(v1, v2 string) (bool, error) {
	switch {
	case v1 != "":
		b, err := readFile(v1 + "/freezer.state")
		return string(bytes.TrimSpace(b)) == "FROZEN", err
	case v2 != "":
		b, err := readFile(v2 + "/cgroup.events")
		return field(b, "frozen") == 1, err
	}
	return false, nil
}
