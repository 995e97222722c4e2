package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
)

// enabled are the controllers that every group gets on version 2, so that it can be measured, and limited later.
var enabled = [...]string{"cpu", "memory", "pids", "io", "cpuset", "hugetlb", "rdma"}

// enable hands the controllers down from the root of a v2 hierarchy to the group at dir. Those in need must arrive; the others may be
// missing.
func (m *mount) enable(dir string, need []string) error {
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
		have := v2Controllers(dir)
		return slices.DeleteFunc(slices.Clone(want), func(c string) bool { return slices.Contains(have, c) })
	}
	todo := lacking()
	if len(todo) == 0 {
		return nil
	}
	var cause error
	for i := len(m.dir); i < len(dir); i++ {
		if dir[i] != '/' {
			continue
		}
		file := dir[:i] + "/cgroup.subtree_control"
		err := writeFile(file, "+"+strings.Join(todo, " +"))
		if err == nil {
			continue
		}
		each := todo // one refused controller refuses all: the others deserve their own try
		if errors.Is(err, unix.EBUSY) {
			// The group has processes. It would take those controllers that know threads, and be a threaded one ever after, in which its
			// children are "domain invalid": only on demand, and not when others are in need, which could not follow then.
			if each = need; slices.ContainsFunc(need, whole) {
				each, cause = nil, err
			}
		}
		for _, c := range each {
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
				"internal processes): %w: move them to a group beside, or take another linux.cgroupsPath", c, cause)
		case errors.Is(cause, unix.EOPNOTSUPP):
			return api.Errorf(api.Unsupported, "cgroup controller %s cannot be enabled for %s: %w: a group above it is threaded, or holds "+
				"processes itself (cgroups(7)): take another linux.cgroupsPath", c, dir, cause)
		case cause != nil:
			return api.Errorf(api.Unsupported, "cgroup controller %s cannot be enabled for %s: %w", c, dir, cause)
		}
	}
	return nil
}

// whole reports whether a controller knows no threads, but whole processes only.
func whole(controller string) bool {
	switch controller {
	case "cpu", "cpuset", "perf_event", "pids":
		return false
	}
	return true
}

// domain looks at the type of a v2 group (cgroups(7), "thread mode"). Below a threaded group a new one is "domain invalid": nobody can
// join it before it is made threaded too, and then it has only the controllers that know threads.
func domain(m *mount, dir string, need []string) error {
	if filepath.Dir(dir) == m.dir && m.root == "" {
		return nil // children of the root are domains
	}
	b, err := readFile(dir + "/cgroup.type")
	if err != nil {
		return nil //nolint:nilerr // Linux before 4.14 has domains only
	}
	kind := strings.TrimSpace(string(b))
	if kind != "domain invalid" && kind != "threaded" {
		return nil
	}
	for _, c := range need {
		if whole(c) {
			return api.Errorf(api.Unsupported, "cgroup %s is %q, for a group above it is threaded (cgroups(7)), and the controller %s knows no threads: "+
				"leave its limit out, or take another linux.cgroupsPath", dir, kind, c)
		}
	}
	if kind == "domain invalid" {
		if err := writeFile(dir+"/cgroup.type", "threaded"); err != nil {
			return api.Errorf(api.Unsupported, "cgroup %s is %q and cannot be made threaded: %w: take another linux.cgroupsPath", dir, kind, err)
		}
	}
	return nil
}
