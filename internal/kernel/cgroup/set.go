package cgroup

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// Set changes the limits that r names, and leaves the others. Device rules, where there are any, replace those of before.
func (g *Group) Set(r *specs.LinuxResources) error {
	knobs, err := g.l.plan(r)
	if err != nil {
		return err
	}
	if m := r.Memory; m != nil && m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate && m.Limit != nil && *m.Limit > 0 {
		if s, _ := g.Stats(); s.Memory.Usage > uint64(*m.Limit) { // what cannot be read is for the write to tell
			return api.Errorf(api.Conflict, "--memory %d: the container uses %d bytes now", *m.Limit, s.Memory.Usage)
		}
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
		return g.setDevices(r.Devices)
	}
	return nil
}

// write turns one knob and explains what went wrong.
func (g *Group) write(k knob) error {
	m := g.l.find(k.controller)
	if k.v2 {
		m = g.l.unifiedMount()
	}
	if m == nil {
		return api.Errorf(api.Unsupported, "%s: the cgroup controller %s is not mounted (layout: %s)", k.option, k.controller, g.l.Mode())
	}
	dir := m.dir + g.path
	value := k.value
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
		return g.missing(k, m)
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE) || errors.Is(err, unix.ENODEV):
		return api.Errorf(api.InvalidArgument, "%s: the kernel refuses the value: %w", k.option, err)
	case errors.Is(err, unix.EBUSY):
		return api.Errorf(api.Conflict, "%s: the container uses more than that now: %w", k.option, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return api.Errorf(api.Unsupported, "%s: %w", k.option, err)
	}
	return api.Errorf(api.KindOf(err), "%s: %w", k.option, err)
}

// missing says why a file that a limit needs is not there.
func (g *Group) missing(k knob, m *mount) error {
	dir := m.dir + g.path
	if !exists(dir) {
		return api.Errorf(api.NotFound, "%s: cgroup %s is gone", k.option, dir)
	}
	if k.v2 && !slices.Contains(v2Controllers(dir), k.controller) {
		return api.Errorf(api.Unsupported, "%s: the cgroup controller %s is not enabled for %s: it must be in cgroup.subtree_control of each folder above; "+
			"a normal user gets it with Delegate=%s in user@.service", k.option, k.controller, dir, k.controller)
	}
	return api.Errorf(api.Unsupported, "%s: this kernel's cgroup controller %s has no file %s", k.option, k.controller, k.file)
}

// enabled are the controllers that every group gets on version 2, so that it can be measured, and limited later.
var enabled = [...]string{"cpu", "memory", "pids", "io", "cpuset", "hugetlb", "rdma"}

// enable hands the controllers down from the root of a v2 hierarchy to path. Those in need must arrive; the others may be missing.
func (m *mount) enable(path string, need []string) error {
	var want []string
	for _, c := range m.controllers {
		if slices.Contains(enabled[:], c) || slices.Contains(need, c) {
			want = append(want, c)
		}
	}
	if len(want) == 0 {
		return nil // Set names what is missing
	}
	lacking := func() []string {
		have := v2Controllers(m.dir + path)
		return slices.DeleteFunc(slices.Clone(want), func(c string) bool { return slices.Contains(have, c) })
	}
	todo := lacking()
	if len(todo) == 0 {
		return nil
	}
	var cause error
	for i := range len(path) {
		if path[i] != '/' {
			continue
		}
		file := m.dir + path[:i] + "/cgroup.subtree_control"
		if writeFile(file, "+"+strings.Join(todo, " +")) == nil {
			continue
		}
		for _, c := range todo { // one refused controller refuses all: the others deserve their own try
			if err := writeFile(file, "+"+c); err != nil && slices.Contains(need, c) && cause == nil {
				cause = err
			}
		}
	}
	for _, c := range lacking() {
		if !slices.Contains(need, c) {
			continue
		}
		var pe *os.PathError
		switch {
		case errors.Is(cause, unix.EBUSY) && errors.As(cause, &pe):
			return api.Errorf(api.Conflict, "cgroup controller %s cannot be enabled below a group that holds processes itself (version 2's rule of no "+
				"internal processes): %w: move them to a group beside, or give another --cgroup-parent", c, cause)
		case cause != nil:
			return api.Errorf(api.Unsupported, "cgroup controller %s cannot be enabled for %s: %w", c, path, cause)
		}
	}
	return nil
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
