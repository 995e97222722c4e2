// Package systemd keeps a container's cgroup in a transient scope of systemd, for runtimes that are asked to with --systemd-cgroup: the
// tree of cgroups is then systemd's, which knows of every group and its limits, and does not fight the runtime over them.
//
// It speaks D-Bus itself, over the bus or systemd's private socket. github.com/godbus/dbus/v5 would link net, net/url and os/user into the
// runtime, which has none of them, for five methods of one object.
//
// The order of a container's life is this:
//
//	s, err := systemd.Create(&systemd.Request{…}) // the scope runs, with a keeper in it; limits stand
//	… start the container's process in s.Group …
//	s.Release()                                    // the keeper goes
//	systemd.Update(unit, …), systemd.Stop(unit, …) // by any later process
//
// systemd wants a process for a scope, and brig moves none (internal/kernel/cgroup): so a keeper is born for it, which does nothing.
package systemd

import (
	"errors"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/kernel/cgroup"
)

// Unit is a scope and the slice that it lies in.
type Unit struct {
	Slice, Name string
}

// Request is what a scope is made of.
type Request struct {
	CgroupsPath string // "slice:prefix:name", or "" for brig-ID.scope in the default slice
	ID          string // of the container
	Resources   *specs.LinuxResources
	Annotations map[string]string // org.systemd.property.NAME are properties of the scope
	Rootless    bool              // the user's own systemd, on version 2 alone
}

// ParsePath reads a cgroupsPath in runc's form for systemd, "slice:prefix:name". An empty slice is system.slice, or user.slice for a
// rootless container; the scope is prefix-name.scope.
func ParsePath(cgroupsPath, id string, rootless bool) (Unit, error) {
	u := Unit{Slice: "system.slice"}
	if rootless {
		u.Slice = "user.slice"
	}
	prefix, name := "brig", id
	if cgroupsPath != "" {
		parts := strings.Split(cgroupsPath, ":")
		if len(parts) != 3 {
			return Unit{}, api.Errorf(api.InvalidArgument, "linux.cgroupsPath %q: with --systemd-cgroup it is written slice:prefix:name", cgroupsPath)
		}
		if parts[0] != "" {
			u.Slice = parts[0]
		}
		prefix, name = parts[1], parts[2]
	}
	if strings.HasSuffix(name, ".slice") {
		return Unit{}, api.Errorf(api.InvalidArgument, "linux.cgroupsPath %q: a container runs in a scope, not in a slice: name it without .slice", cgroupsPath)
	}
	u.Name = name + ".scope"
	if prefix != "" {
		u.Name = prefix + "-" + u.Name
	}
	if name == "" || !unitName(u.Name) {
		return Unit{}, api.Errorf(api.InvalidArgument, "linux.cgroupsPath %q: %q is not the name of a systemd unit: letters, digits and :-_.\\@, 255 at most", cgroupsPath, u.Name)
	}
	if _, err := expandSlice(u.Slice); err != nil {
		return Unit{}, err
	}
	return u, nil
}

// unitName holds a name against systemd.unit(5).
func unitName(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(":-_.\\@", c) >= 0) {
			return false
		}
	}
	return len(s) <= 255
}

// expandSlice gives the path of a slice: a-b.slice lies in a.slice (systemd.slice(5)), and -.slice is the root.
func expandSlice(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "" || !unitName(slice) {
		return "", api.Errorf(api.InvalidArgument, "linux.cgroupsPath: %q is not the name of a slice, such as machine.slice", slice)
	}
	if name == "-" {
		return "", nil
	}
	path, prefix := "", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", api.Errorf(api.InvalidArgument, "linux.cgroupsPath: slice %q has an empty name between its dashes", slice)
		}
		path += "/" + prefix + part + ".slice"
		prefix += part + "-"
	}
	return path, nil
}

// Scope is a scope that runs.
type Scope struct {
	Unit  string // for Update and Stop
	Group *cgroup.Group

	keeper *keeper
}

// Create starts the scope, and sets the limits that systemd does not know itself. On error there is no scope.
func Create(req *Request) (*Scope, error) {
	unit, err := ParsePath(req.CgroupsPath, req.ID, req.Rootless)
	if err != nil {
		return nil, err
	}
	if err := cgroup.Validate(req.Resources); err != nil {
		return nil, err
	}
	own, err := annotated(req.Annotations)
	if err != nil {
		return nil, err
	}
	l, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	if req.Rootless && !l.V2() {
		return nil, api.Errorf(api.Unsupported, "--systemd-cgroup: a user's systemd has no cgroups on version 1 (layout: %s): boot with "+
			"systemd.unified_cgroup_hierarchy=1, or leave the option out", l.Mode())
	}
	c, err := Dial(req.Rootless)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	k, err := newKeeper()
	if err != nil {
		return nil, err
	}
	s, err := c.create(req, unit, own, l, k)
	if err != nil {
		k.Close()
		return nil, err
	}
	return s, nil
}

func (c *Conn) create(req *Request, unit Unit, own []Property, l *cgroup.Layout, k *keeper) (*Scope, error) {
	version, err := c.Version()
	if err != nil {
		return nil, err
	}
	limits, err := Properties(req.Resources, l.V2(), version)
	if err != nil {
		return nil, err
	}
	path, err := c.path(unit)
	if err != nil {
		return nil, err
	}
	if err := c.start(unit, append(scopeProperties(unit, req.ID, k.pid, req.Resources, l.V2()), append(own, limits...)...)); err != nil {
		return nil, err
	}
	g, err := l.Adopt(path, req.Resources)
	if err != nil {
		k.Close() // an empty scope stops at once
		return nil, errors.Join(err, c.Stop(unit.Name))
	}
	return &Scope{Unit: unit.Name, Group: g, keeper: k}, nil
}

// Release ends the keeper, once the container's process is in the scope: an empty one would be stopped.
func (s *Scope) Release() { s.keeper.Close() }

// path is where systemd will make the scope, below every hierarchy.
func (c *Conn) path(u Unit) (string, error) {
	slice, err := expandSlice(u.Slice)
	if err != nil {
		return "", err
	}
	root := ""
	if c.rootless { // a user's slices lie below user@UID.service
		if root, err = c.property("ControlGroup"); err != nil {
			return "", err
		}
	}
	return strings.TrimSuffix(root, "/") + slice + "/" + u.Name, nil
}

// Version is systemd's main version, such as 252; it is asked once.
func (c *Conn) Version() (int, error) {
	if c.version == 0 {
		text, err := c.property("Version")
		if err != nil {
			return 0, err
		}
		digits := strings.TrimLeft(text, "v")
		for i := range len(digits) {
			if digits[i] < '0' || digits[i] > '9' { // "252.39-1~deb12u1"
				digits = digits[:i]
				break
			}
		}
		if c.version, err = strconv.Atoi(digits); err != nil {
			return 0, api.Errorf(api.Corrupt, "systemd: its version is %q", text)
		}
	}
	return c.version, nil
}

// start starts a transient unit and waits until it runs. What is left of a failed unit of the same name is swept away.
func (c *Conn) start(u Unit, list []Property) error {
	call := func() ([]any, error) {
		return c.method("StartTransientUnit", "ssa(sv)a(sa(sv))", u.Name, "replace", list, auxiliary{})
	}
	v, err := call()
	if named(err, "org.freedesktop.systemd1.UnitExists") {
		_, _ = c.method("ResetFailedUnit", "s", u.Name)
		v, err = call()
	}
	switch {
	case named(err, "org.freedesktop.systemd1.UnitExists"):
		return api.Errorf(api.AlreadyExists, "systemd: unit %s exists: give another linux.cgroupsPath, or `systemctl stop %s`", u.Name, u.Name)
	case named(err, "org.freedesktop.DBus.Error.PropertyReadOnly"), named(err, "org.freedesktop.DBus.Error.InvalidArgs"):
		return api.Errorf(api.InvalidArgument, "systemd: it does not start %s: %w", u.Name, err)
	case err != nil:
		return api.Errorf(api.Unavailable, "systemd: it does not start %s: %w", u.Name, err)
	}
	result, err := c.result(v)
	if err == nil && result != "done" {
		err = api.Errorf(api.Unavailable, "systemd: starting %s ended as %q: `systemctl status %s` says why", u.Name, result, u.Name)
	}
	if err != nil {
		_, _ = c.method("ResetFailedUnit", "s", u.Name)
	}
	return err
}

// StartOwnScope starts a scope with this process in it, which divides it by itself. api.AlreadyExists where it runs.
func (c *Conn) StartOwnScope(u Unit, description string) error {
	return c.start(u, []Property{
		{"Description", description},
		{"Slice", u.Slice},
		{"Delegate", true},
		{"PIDs", []uint32{thisProcess}},
		{"MemoryAccounting", true}, {"CPUAccounting", true}, {"IOAccounting", true}, {"TasksAccounting", true},
		{"TasksMax", infinity},
		{"DefaultDependencies", false}, // see scopeProperties
		{"CollectMode", "inactive-or-failed"},
	})
}

// thisProcess is who sends the message, in whatever PID namespace it is (org.freedesktop.systemd1(5), AttachProcessesToUnit).
const thisProcess = 0

// Attach moves this process into a group below that of a unit which runs; sub begins with a slash.
func (c *Conn) Attach(unit, sub string) error {
	if _, err := c.method("AttachProcessesToUnit", "ssau", unit, sub, []uint32{thisProcess}); err != nil {
		return api.Errorf(api.Unavailable, "systemd: it does not take this process into %s: %w", unit, err)
	}
	return nil
}

// result waits for the job that a method answered with.
func (c *Conn) result(answer []any) (string, error) {
	if len(answer) != 1 {
		return "", api.Errorf(api.Corrupt, "systemd: it answers with no job")
	}
	job, _ := answer[0].(string)
	return c.wait(job)
}

// Stop stops the unit, which kills what is in it, and waits until it is gone. A unit that is not there is no error.
func (c *Conn) Stop(unit string) error {
	v, err := c.method("StopUnit", "ss", unit, "replace")
	if err == nil {
		_, err = c.result(v)
	} else if named(err, "org.freedesktop.systemd1.NoSuchUnit") {
		err = nil
	}
	_, _ = c.method("ResetFailedUnit", "s", unit) // one that failed would stay; that there is none is the rule
	if err != nil {
		return api.Errorf(api.Unavailable, "systemd: it does not stop %s: %w", unit, err)
	}
	return nil
}

// Stop is Conn.Stop over a connection of its own.
func Stop(unit string, rootless bool) error {
	c, err := Dial(rootless)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Stop(unit)
}

// Update changes the limits that r names, with systemd first, so that it does not undo them, then in the group itself.
func Update(unit string, rootless bool, g *cgroup.Group, r *specs.LinuxResources) (err error) {
	if err := cgroup.Validate(r); err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	l, err := cgroup.Detect()
	if err != nil {
		return err
	}
	c, err := Dial(rootless)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.update(unit, l.V2(), g, r)
}

func (c *Conn) update(unit string, v2 bool, g *cgroup.Group, r *specs.LinuxResources) (err error) {
	version, err := c.Version()
	if err != nil {
		return err
	}
	if err := g.Fits(r); err != nil { // systemd would not look, and the kernel kill
		return err
	}
	list, err := Properties(r, v2, version)
	if err != nil {
		return err
	}
	if len(r.Devices) > 0 && !v2 {
		// On version 1 systemd denies all devices before it allows some: nobody shall run meanwhile.
		frozen, ferr := g.Frozen()
		if ferr == nil && !frozen && g.Freeze() == nil {
			defer func() { err = errors.Join(err, g.Thaw()) }()
		}
	}
	if len(list) > 0 {
		if _, err := c.method("SetUnitProperties", "sba(sv)", unit, true, list); err != nil {
			return api.Errorf(api.Unavailable, "systemd: it does not change %s: %w", unit, err)
		}
	}
	return g.Set(r)
}

// named reports whether err is a D-Bus error of that name.
func named(err error, name string) bool {
	var e *callError
	return errors.As(err, &e) && e.name == name
}
