package cgroup

import (
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// Ways to use a device, with the bits of BPF_DEVCG_ACC_*.
const (
	accMknod = 1 << iota
	accRead
	accWrite
	accAll = accMknod | accRead | accWrite
)

// wild stands for every major or minor number.
const wild = -1

// deviceRule is an exception to a default. kind is 'b' or 'c'.
type deviceRule struct {
	kind         byte
	major, minor int64
	access       uint8
}

// deviceSet is a list of rules of the OCI spec worked out: a default, and the exceptions to it.
type deviceSet struct {
	allow      bool
	exceptions []deviceRule
}

// DefaultDevices are the rules for the devices that every container has (config-linux.md, "Default Devices"), pseudo terminals and
// making nodes among them, after a rule that denies all. A runtime puts the container's own rules behind them.
func DefaultDevices() []specs.LinuxDeviceCgroup {
	n := func(v int64) *int64 { return &v }
	list := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	// null, zero, full, random, urandom, tty, ptmx, pts
	for _, d := range [...][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, wild}} {
		r := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: n(d[0]), Access: "rwm"}
		if d[1] != wild {
			r.Minor = n(d[1])
		}
		list = append(list, r)
	}
	return list
}

// resolveDevices works the rules out in their order, as the kernel's v1 controller would, with everything allowed before the first. What
// that controller cannot say, a hole in a range, is refused for version 2 too, so that a spec means the same everywhere.
func resolveDevices(rules []specs.LinuxDeviceCgroup) (deviceSet, error) {
	set := deviceSet{allow: true}
	for _, r := range rules {
		rule, all, err := parseRule(r)
		if err != nil {
			return set, err
		}
		switch {
		case all:
			set = deviceSet{allow: r.Allow}
		case r.Allow != set.allow:
			set.add(rule)
		default:
			if err := set.remove(rule); err != nil {
				return set, err
			}
		}
	}
	return set, nil
}

func parseRule(r specs.LinuxDeviceCgroup) (rule deviceRule, all bool, err error) {
	rule = deviceRule{major: wild, minor: wild}
	if r.Major != nil {
		rule.major = *r.Major
	}
	if r.Minor != nil {
		rule.minor = *r.Minor
	}
	for _, c := range r.Access {
		switch c {
		case 'r':
			rule.access |= accRead
		case 'w':
			rule.access |= accWrite
		case 'm':
			rule.access |= accMknod
		default:
			return rule, false, api.Errorf(api.InvalidArgument, "device rule: access %q: it is made of r, w and m", r.Access)
		}
	}
	if rule.access == 0 {
		rule.access = accAll
	}
	switch r.Type {
	case "b", "c", "u", "p":
		rule.kind = r.Type[0]
		if rule.kind == 'u' { // unbuffered character device; p, a pipe, is no device to the kernel and matches nothing
			rule.kind = 'c'
		}
		return rule, false, nil
	case "", "a":
		if rule.major != wild || rule.minor != wild || rule.access != accAll {
			return rule, false, api.Errorf(api.InvalidArgument, "device rule of type %q: a rule for all types can have no numbers and only access rwm", r.Type)
		}
		return rule, true, nil
	}
	return rule, false, api.Errorf(api.InvalidArgument, "device rule: type %q: it is a, b or c", r.Type)
}

func (r deviceRule) same(o deviceRule) bool {
	return r.kind == o.kind && r.major == o.major && r.minor == o.minor
}

func (r deviceRule) overlaps(o deviceRule) bool {
	return r.kind == o.kind && r.access&o.access != 0 && (r.major == o.major || r.major == wild || o.major == wild) &&
		(r.minor == o.minor || r.minor == wild || o.minor == wild)
}

func (r deviceRule) covers(o deviceRule) bool {
	return r.kind == o.kind && (r.major == wild || r.major == o.major) && (r.minor == wild || r.minor == o.minor)
}

func (s *deviceSet) add(r deviceRule) {
	if r.kind == 'p' {
		return
	}
	for i := range s.exceptions {
		if s.exceptions[i].same(r) {
			s.exceptions[i].access |= r.access
			return
		}
	}
	s.exceptions = append(s.exceptions, r)
}

// remove takes back exceptions that r covers; one that r merely cuts into would need a hole.
func (s *deviceSet) remove(r deviceRule) error {
	for i := range s.exceptions {
		e := &s.exceptions[i]
		switch {
		case r.covers(*e):
			e.access &^= r.access
		case r.overlaps(*e):
			return api.Errorf(api.Unsupported, "device rule for %s: it would cut a hole into the earlier rule for %s, which the kernel cannot keep", r.line(), e.line())
		}
	}
	s.exceptions = slices.DeleteFunc(s.exceptions, func(e deviceRule) bool { return e.access == 0 })
	return nil
}

// line is the rule as devices.allow and devices.deny take it.
func (r deviceRule) line() string {
	var access strings.Builder
	for _, a := range [...]struct {
		bit    uint8
		letter byte
	}{{accRead, 'r'}, {accWrite, 'w'}, {accMknod, 'm'}} {
		if r.access&a.bit != 0 {
			access.WriteByte(a.letter)
		}
	}
	return string(r.kind) + " " + strings.ReplaceAll(device(r.major, r.minor), "-1", "*") + " " + access.String()
}

// setDevices makes the rules stand.
func (g *Group) setDevices(rules []specs.LinuxDeviceCgroup) error {
	set, err := resolveDevices(rules)
	if err != nil {
		return err
	}
	if m := g.l.find("devices"); m != nil {
		return set.write1(m.dir + g.path)
	}
	if m := g.l.unifiedMount(); m != nil {
		return set.attach(m.dir + g.path)
	}
	return api.Errorf(api.Unsupported, "device rules: neither the cgroup controller devices nor cgroup version 2 is mounted")
}

// write1 writes the rules to a v1 group: the default, which forgets all exceptions, then the exceptions, a write each. The first write
// alone leaves a moment in which less is allowed than before and after.
func (s *deviceSet) write1(dir string) error {
	first, second := dir+"/devices.deny", dir+"/devices.allow"
	if s.allow {
		first, second = second, first
	}
	if err := writeFile(first, "a"); err != nil && !(s.allow && errors.Is(err, unix.EPERM)) { // below a restricted parent, "all" is all that it has
		return deviceError(err)
	}
	if len(s.exceptions) == 0 {
		return nil
	}
	fd, err := open(second, unix.O_WRONLY)
	if err != nil {
		return deviceError(err)
	}
	defer unix.Close(fd)
	for _, e := range s.exceptions {
		if err := writeTo(fd, second, e.line()); err != nil {
			return deviceError(err)
		}
	}
	return nil
}

func deviceError(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return api.Errorf(api.Unsupported, "device rules: %w: the parent group, or being no root, does not allow it", err)
	}
	return api.Errorf(api.KindOf(err), "device rules: %w", err)
}
