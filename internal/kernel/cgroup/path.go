package cgroup

import (
	"bytes"
	"path/filepath"
	"strings"

	"brig/api"
)

// group works a linux.cgroupsPath out, in the spec's two forms (config-linux.md, "Cgroups Path"):
//
//   - An absolute path lies below the mount point of each hierarchy.
//   - A relative one lies below the runtime's own group: on version 1 below what /proc/self/cgroup says of each hierarchy, on version 2
//     beside the runtime's group, since a group with processes of its own cannot hand controllers down. So does runc.
//
// A path that would climb is refused, not cleaned: what it meant cannot be what it would become.
func (l *Layout) group(path string) (*Group, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	g := &Group{l: l, dirs: make([]string, len(l.mounts))}
	clean := filepath.Clean("/" + path)
	if path[0] == '/' {
		g.path = clean
		for i := range l.mounts {
			g.dirs[i] = l.mounts[i].dir + clean
		}
		return g, nil
	}
	g.path = clean[1:]
	own, err := readFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	for i := range l.mounts {
		parent, err := l.mounts[i].own(own)
		if err != nil {
			return nil, err
		}
		g.dirs[i] = parent + clean
	}
	return g, nil
}

// checkPath refuses paths that name no group of their own.
func checkPath(path string) error {
	clean := filepath.Clean("/" + path)
	switch {
	case path == "" || clean == "/":
		return api.Errorf(api.InvalidArgument, "linux.cgroupsPath %q: it names no group below the root: write one such as /brig/ID", path)
	case len(path) >= 4096 || strings.ContainsAny(path, "\x00\n"):
		return api.Errorf(api.InvalidArgument, "linux.cgroupsPath %q: it has a NUL byte or a new line, or is longer than 4095 bytes", path)
	}
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case name == "..":
			return api.Errorf(api.InvalidArgument, "linux.cgroupsPath %q: .. is not allowed: write where the group shall lie", path)
		case len(name) > 255:
			return api.Errorf(api.InvalidArgument, "linux.cgroupsPath %q: a name in it is longer than 255 bytes", path)
		}
	}
	return nil
}

// own is the folder that relative paths lie in, from the text of /proc/self/cgroup.
func (m *mount) own(text []byte) (string, error) {
	path, ok := ownPath(text, m)
	if !ok {
		return "", api.Errorf(api.Unavailable, "linux.cgroupsPath is relative, and /proc/self/cgroup does not say where this process is in %s: give an absolute path", m.dir)
	}
	if strings.HasPrefix(path, "/..") {
		return "", api.Errorf(api.Unavailable, "linux.cgroupsPath is relative, and this process is in %s, outside of its cgroup namespace: give an absolute path", path)
	}
	// What is mounted may be a group itself, as in a container without a cgroup namespace.
	if m.root != "" && (path == m.root || strings.HasPrefix(path, m.root+"/")) {
		path = path[len(m.root):]
	}
	if m.v2 {
		path = filepath.Dir("/" + path)
	}
	return strings.TrimSuffix(m.dir+filepath.Clean("/"+path), "/"), nil
}

// ownPath finds the line of a hierarchy in a /proc/PID/cgroup (cgroups(7)): "ID:CONTROLLERS:PATH", "0::PATH" for version 2.
func ownPath(text []byte, m *mount) (string, bool) {
	for line := range bytes.Lines(text) {
		_, rest, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), ":")
		if !ok {
			continue
		}
		list, path, ok := strings.Cut(rest, ":")
		if !ok || !strings.HasPrefix(path, "/") {
			continue
		}
		if m.v2 {
			if list == "" {
				return path, true
			}
			continue
		}
		for name := range strings.SplitSeq(list, ",") {
			if list != "" && name == m.controllers[0] {
				return path, true
			}
		}
	}
	return "", false
}

// LoadPaths takes up a group by the folders that Paths gave, api.NotFound where none of them is left.
func (l *Layout) LoadPaths(path string, paths map[string]string) (*Group, error) {
	g := &Group{l: l, path: path, dirs: make([]string, len(l.mounts))}
	for i := range l.mounts {
		m, key := &l.mounts[i], ""
		if !m.v2 {
			key = m.controllers[0]
		}
		dir, ok := paths[key]
		if !ok {
			continue
		}
		if filepath.Clean(dir) != dir || !strings.HasPrefix(dir, m.dir+"/") {
			return nil, api.Errorf(api.InvalidArgument, "cgroup %s: %q is not in the hierarchy that is mounted at %s", path, dir, m.dir)
		}
		g.dirs[i] = dir
	}
	if !g.exists() {
		return nil, api.Errorf(api.NotFound, "cgroup %s does not exist", path)
	}
	return g, nil
}
