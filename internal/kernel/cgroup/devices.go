package cgroup

import (
	"errors"
	"math"
	"slices"
	"strconv"
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
	for _, n := range []*int64{r.Major, r.Minor} {
		if n != nil && (*n < wild || *n > math.MaxInt32) {
			return rule, false, api.Errorf(api.InvalidArgument, "linux.resources.devices: number %d: it is 0 to %d, or -1 for all", *n, math.MaxInt32)
		}
	}
	if r.Major != nil {
		rule.major = *r.Major
	}
	if r.Minor != nil {
		rule.minor = *r.Minor
	}
	if rule.access, err = parseAccess(r.Access); err != nil {
		return rule, false, err
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
			return rule, false, api.Errorf(api.InvalidArgument, "linux.resources.devices: rule of type %q: a rule for all types can have no numbers and only access rwm", r.Type)
		}
		return rule, true, nil
	}
	return rule, false, api.Errorf(api.InvalidArgument, "linux.resources.devices: type %q: it is a, b or c", r.Type)
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
			return api.Errorf(api.Unsupported, "linux.resources.devices: rule for %s: it would cut a hole into the earlier rule for %s, which the kernel cannot keep", r.line(), e.line())
		}
	}
	s.exceptions = slices.DeleteFunc(s.exceptions, func(e deviceRule) bool { return e.access == 0 })
	return nil
}

// AllowedDevice is a kind of device, with its numbers, -1 for all, and the access to it that is allowed.
type AllowedDevice struct {
	Kind         byte // 'b' or 'c'
	Major, Minor int64
	Access       string // of r, w and m
}

// AllowedDevices works rules out for who can keep a list of what is allowed, as systemd does. list is false for rules that allow by
// default, with or without exceptions.
func AllowedDevices(rules []specs.LinuxDeviceCgroup) (allowed []AllowedDevice, list bool, err error) {
	set, err := resolveDevices(rules)
	if err != nil || set.allow {
		return nil, false, err
	}
	for _, e := range set.exceptions {
		_, access, _ := strings.Cut(e.line()[2:], " ")
		allowed = append(allowed, AllowedDevice{e.kind, e.major, e.minor, access})
	}
	return allowed, true, nil
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
	if dir := g.v1("devices"); dir != "" {
		return set.write1(dir)
	}
	if dir := g.v2(); dir != "" {
		return set.attach(dir)
	}
	return api.Errorf(api.Unsupported, "linux.resources.devices: neither the cgroup controller devices nor cgroup version 2 is mounted")
}

// write1 makes the rules stand in a v1 group. Where the group denies by default already, as at every update, only the difference is
// written, what is new first, so that a process in it never loses a device that it keeps. Else the default goes first, which forgets all
// exceptions, then the exceptions: that leaves a moment in which less is allowed than before and after.
func (s *deviceSet) write1(dir string) error {
	first, second := dir+"/devices.deny", dir+"/devices.allow"
	add, drop := s.exceptions, []deviceRule(nil)
	if s.allow {
		first, second = second, first
	}
	have, err := readFile(dir + "/devices.list")
	if err != nil {
		return deviceError(err)
	}
	if now, ok := parseList(have); ok && !s.allow {
		add, drop = minus(s.exceptions, now), minus(now, s.exceptions)
	} else if err := writeFile(first, "a"); err != nil && !(s.allow && errors.Is(err, unix.EPERM)) { // below a restricted parent, "all" is all that it has
		return deviceError(err)
	}
	if err := writeRules(second, add); err != nil {
		return err
	}
	return writeRules(first, drop)
}

func writeRules(path string, rules []deviceRule) error {
	if len(rules) == 0 {
		return nil
	}
	fd, err := open(path, unix.O_WRONLY)
	if err != nil {
		return deviceError(err)
	}
	defer unix.Close(fd)
	for _, e := range rules {
		if err := writeTo(fd, path, e.line()); err != nil {
			return deviceError(err)
		}
	}
	return nil
}

// parseList reads devices.list (cgroup-v1/devices.rst): the exceptions of a group that denies by default. One that allows by default
// shows "a *:* rwm", whatever its exceptions are.
func parseList(list []byte) (rules []deviceRule, ok bool) {
	for line := range strings.Lines(string(list)) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		numbers, access, ok := strings.Cut(rest, " ")
		major, minor, ok2 := strings.Cut(numbers, ":")
		if !ok || !ok2 || kind != "b" && kind != "c" {
			return nil, false
		}
		r := deviceRule{kind: kind[0]}
		var err error
		if r.major, err = parseNumber(major); err != nil {
			return nil, false
		}
		if r.minor, err = parseNumber(minor); err != nil {
			return nil, false
		}
		if r.access, err = parseAccess(access); err != nil || r.access == 0 {
			return nil, false
		}
		rules = append(rules, r)
	}
	return rules, true
}

func parseNumber(s string) (int64, error) {
	if s == "*" {
		return wild, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return int64(n), err
}

func parseAccess(s string) (access uint8, err error) {
	for _, c := range s {
		switch c {
		case 'r':
			access |= accRead
		case 'w':
			access |= accWrite
		case 'm':
			access |= accMknod
		default:
			return 0, api.Errorf(api.InvalidArgument, "linux.resources.devices: access %q: it is made of r, w and m", s)
		}
	}
	return access, nil
}

// minus gives the rules of a with the access that b has not: each device is in a list once.
func minus(a, b []deviceRule) (list []deviceRule) {
	for _, r := range a {
		for _, o := range b {
			if r.same(o) {
				r.access &^= o.access
			}
		}
		if r.access != 0 {
			list = append(list, r)
		}
	}
	return list
}

func deviceError(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return api.Errorf(api.Unsupported, "linux.resources.devices: %w: the parent group, or being no root, does not allow it", err)
	}
	return api.Errorf(api.KindOf(err), "linux.resources.devices: %w", err)
}
