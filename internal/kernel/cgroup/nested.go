package cgroup

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
)

// Nested is the group that a process of g is in by now, for who wants to start another beside it. A container may move its processes to
// groups of its own making and hand controllers down to them: then nobody can join g itself on version 2 (EBUSY). Only the v2 folder
// differs from g's.
func (g *Group) Nested(pid int) (*Group, error) {
	m, dir := g.l.unifiedMount(), g.v2()
	if dir == "" {
		return g, nil
	}
	text, err := readFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil, api.Errorf(api.NotFound, "process %d has ended", pid)
	}
	if err != nil {
		return nil, err
	}
	path, ok := ownPath(text, m)
	if m.root != "" {
		path, ok = strings.CutPrefix(path, m.root)
	}
	now := m.dir + path
	if !ok || now != dir && !strings.HasPrefix(now, dir+"/") || strings.HasSuffix(now, " (deleted)") {
		return nil, api.Errorf(api.Conflict, "process %d is in cgroup %s, which is not in %s any more", pid, path, g.path)
	}
	return g.with(now), nil
}

// Chown gives the v2 folder to a user, with those of its files that may be delegated (cgroups(7), "Cgroup delegation"), so that the root
// of a user namespace can make groups in it. Limits stay the host's. The spec wants it where the container has a cgroup namespace of its own
// and the hierarchy mounted writable (config-linux.md, "Cgroup ownership"). On version 1 nothing is done.
func (g *Group) Chown(uid int) error {
	dir := g.v2()
	if dir == "" || !g.l.V2() {
		return nil
	}
	return delegate(dir, uid)
}

// delegate gives a version 2 folder to a user, with the files that may be his.
func delegate(dir string, uid int) error {
	names := []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}
	if b, err := readFile("/sys/kernel/cgroup/delegate"); err == nil { // Linux 4.15
		names = strings.Fields(string(b))
	}
	if err := unix.Lchown(dir, uid, -1); err != nil {
		return &os.PathError{Op: "chown", Path: dir, Err: err}
	}
	for _, name := range names {
		if err := unix.Lchown(dir+"/"+name, uid, -1); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "chown", Path: dir + "/" + name, Err: err}
		}
	}
	return nil
}
