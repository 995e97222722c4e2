package cgroup

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// Set changes the limits that r names, and leaves the others. Device rules, where there are any, replace those of before.
func (g *Group) Set(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if err := Validate(r); err != nil {
		return err
	}
	knobs, err := g.l.plan(r)
	if err != nil {
		return err
	}
	if err := g.Fits(r); err != nil {
		return err
	}
	// Pairs such as quota and period, or memory and memory with swap, bound each other: which one goes first depends on what stands
	// there. What the kernel calls invalid is tried once more after the others.
	var again []knob
	for _, k := range knobs {
		if err := g.write(k); errors.Is(err, unix.EINVAL) {
			again = append(again, k)
		} else if err != nil {
			return err
		}
	}
	for _, k := range again {
		if err := g.write(k); err != nil {
			return err
		}
	}
	if len(r.Devices) > 0 {
		err := g.setDevices(r.Devices)
		if g.rootless && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) {
			return nil
		}
		return err
	}
	return nil
}

// Fits refuses limits that are not above what is in use now, where linux.resources.memory.checkBeforeUpdate asks for that: the kernel
// would kill for them. What cannot be read is for the write to tell. Set asks it too.
func (g *Group) Fits(r *specs.LinuxResources) error {
	m := r.Memory
	if m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate {
		return nil
	}
	memory, both := g.v1("memory"), true
	file, swapFile := "/memory.usage_in_bytes", "/memory.memsw.usage_in_bytes"
	if memory == "" {
		memory, both, file, swapFile = g.v2(), false, "/memory.current", "/memory.swap.current"
	}
	b, err := readFile(memory + file)
	if err != nil {
		return nil //nolint:nilerr // the kernel refuses what does not fit
	}
	usage := parseUint(string(b))
	if m.Limit != nil && *m.Limit > 0 && uint64(*m.Limit) <= usage {
		return api.Errorf(api.Conflict, "linux.resources.memory.limit %d: the container uses %d bytes now", *m.Limit, usage)
	}
	if b, err := readFile(memory + swapFile); err == nil && both {
		usage = parseUint(string(b))
	} else if err == nil {
		usage += parseUint(string(b))
	}
	if m.Swap != nil && *m.Swap > 0 && uint64(*m.Swap) <= usage {
		return api.Errorf(api.Conflict, "linux.resources.memory.swap %d: the container uses %d bytes of memory and swap now", *m.Swap, usage)
	}
	return nil
}

// write turns one knob and explains what went wrong.
func (g *Group) write(k knob) error {
	m := g.l.find(k.controller)
	if k.v2 {
		m = g.l.unifiedMount()
	}
	dir := g.dir(m)
	if dir == "" {
		return api.Errorf(api.Unsupported, "%s: the cgroup controller %s is not mounted (layout: %s)", k.field, k.controller, g.l.Mode())
	}
	value := k.value
	if k.once {
		if have, err := readFile(dir + "/" + k.file); err == nil && strings.TrimSpace(string(have)) == value {
			return nil
		}
	}
	if k.v2 && k.file == "cpu.max" && strings.HasPrefix(value, " ") { // a period alone: the quota stays
		have, err := readFile(dir + "/cpu.max")
		if err == nil {
			quota, _, _ := strings.Cut(string(have), " ")
			value = quota + value
		}
	}
	err := writeFile(dir+"/"+k.file, value)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT):
		if k.alt != nil {
			return g.write(*k.alt)
		}
		if k.optional {
			return nil
		}
		return missing(k, dir)
	case errors.Is(err, unix.EINVAL) && !k.v2 && k.file == "memory.limit_in_bytes":
		swap, _ := readFile(dir + "/memory.memsw.limit_in_bytes")
		return api.Errorf(api.InvalidArgument, "%s: the kernel refuses the value: %w: it cannot be more than memory and swap together, which is %s now: "+
			"give linux.resources.memory.swap with it", k.field, err, strings.TrimSpace(string(swap)))
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE) || errors.Is(err, unix.ENODEV):
		return api.Errorf(api.InvalidArgument, "%s: the kernel refuses the value: %w", k.field, err)
	case errors.Is(err, unix.EBUSY):
		return api.Errorf(api.Conflict, "%s: the container uses more than that now: %w", k.field, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return api.Errorf(api.Unsupported, "%s: %w", k.field, err)
	}
	return api.Errorf(api.KindOf(err), "%s: %w", k.field, err)
}

// missing says why a file that a limit needs is not there.
func missing(k knob, dir string) error {
	if !exists(dir) {
		return api.Errorf(api.NotFound, "%s: cgroup %s is gone", k.field, dir)
	}
	if k.v2 && k.controller != "cgroup" && !slices.Contains(v2Controllers(dir), k.controller) {
		return api.Errorf(api.Unsupported, "%s: the cgroup controller %s is not enabled for %s: it must be in cgroup.subtree_control of each folder above; "+
			"a normal user gets it with Delegate=%s in user@.service", k.field, k.controller, dir, k.controller)
	}
	return api.Errorf(api.Unsupported, "%s: this kernel's cgroup controller %s has no file %s", k.field, k.controller, k.file)
}

// SwapLimit reports whether memory and swap together can be limited (swapaccount=1 on the kernel's command line on old ones).
func (l *Layout) SwapLimit() bool {
	if m := l.find("memory"); m != nil {
		return exists(m.dir + "/memory.memsw.limit_in_bytes")
	}
	return l.Has("memory")
}

func parseUint(s string) uint64 {
	s = strings.TrimSpace(s)
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return Unlimited // "max", and version 1's negative numbers
	}
	return n
}
