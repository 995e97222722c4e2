package cgroup

import (
	"os"

	"golang.org/x/sys/unix"

	"brig/api"
)

// A container that makes groups of its own, as one with systemd does or with another engine, is given a part of the version 2 hierarchy to rule: not its
// own group, whose files hold its limits, but one below it. Its cgroup namespace has that one as its root, and it sees no other:
//
//	brig-ID                      limits: out of its reach
//	brig-ID/payload              the container's root
//	brig-ID/payload/init.scope   its first process, since a group that hands controllers down may hold none itself
//
// On a hybrid machine, whose controllers are version 1's, these hold the limits, and all of the container's processes stay in its one group there: version 1
// cannot be delegated safely.
const (
	payloadName = "/payload"
	initName    = "/init.scope" // where systemd puts itself, and takes it for the root of what it rules
)

// maxDepth and maxGroups bound what the container makes. Paths have to stay below PATH_MAX with names of 255 bytes; a service manager or a Kubernetes node
// makes hundreds of groups, and a group costs the kernel memory that no limit counts.
const (
	maxDepth  = "14"
	maxGroups = "4096"
)

// CanEntrust is the error that Entrust would return, on a layout that has no version 2 hierarchy.
func (l *Layout) CanEntrust() error {
	if l.unifiedMount() == nil {
		return api.Errorf(api.Unsupported, "a container that rules control groups of its own needs the version 2 hierarchy, which is not mounted: "+
			"`mount -t cgroup2 none %s/unified` mounts it beside version 1", unifiedRoot)
	}
	return nil
}

// Entrust makes the part of g that the container rules, and gives it to uid, the container's root on the host. Bounds that linux.resources.unified
// set before stay. api.Unsupported without a version 2 hierarchy.
func (g *Group) Entrust(uid int) (*Group, error) {
	if err := g.l.CanEntrust(); err != nil {
		return nil, err
	}
	m, dir := g.l.unifiedMount(), g.v2()
	for _, bound := range [...][2]string{{"/cgroup.max.depth", maxDepth}, {"/cgroup.max.descendants", maxGroups}} {
		if have, err := readFile(dir + bound[0]); err != nil || string(have) != "max\n" {
			continue // Linux before 4.14 has none
		}
		if err := writeFile(dir+bound[0], bound[1]); err != nil {
			return nil, err
		}
	}
	p := g.Payload()
	for _, d := range [...]string{p.v2(), p.v2() + initName} {
		if err := unix.Mkdir(d, 0o755); err != nil && err != unix.EEXIST {
			return nil, mkdirError(d, err)
		}
	}
	if err := m.enable(p.v2(), nil); err != nil {
		return nil, err
	}
	if uid == 0 {
		return p, nil
	}
	for _, d := range [...]string{p.v2(), p.v2() + initName} {
		if err := delegate(d, uid); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Payload is the part of g that Entrust made: the same but for the version 2 folder.
func (g *Group) Payload() *Group { return g.with(g.v2() + payloadName) }

// with is g with another version 2 folder.
func (g *Group) with(dir string) *Group {
	n := &Group{l: g.l, path: g.path, dirs: append([]string(nil), g.dirs...), rootless: g.rootless}
	for i := range n.dirs {
		if n.l.mounts[i].v2 {
			n.dirs[i] = dir
		}
	}
	return n
}

// InitFile opens what the container's first process writes "0" to, once its cgroup namespace is made, to get out of a payload's root. It is close-on-exec.
func (g *Group) InitFile() (*os.File, error) {
	path := g.v2() + initName + "/cgroup.procs"
	fd, err := open(path, unix.O_WRONLY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
