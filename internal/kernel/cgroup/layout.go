// Package cgroup makes, limits, watches and removes control groups, straight on the file system: version 1, version 2, and hybrid.
//
// A Layout says where the hierarchies are mounted. A Group is one path, such as /brig/ID, in all of them, or one relative to where the
// runtime itself is in each. Its makers promise:
//
//   - Limits stand before anyone joins: Create returns a group that is ready, or an error and no group.
//   - A limit that was not asked for is never an error; one that was, and that this kernel or mount cannot keep, is
//     api.Unsupported and names the field of the OCI spec, the controller and the file.
//   - Nobody else is in it: a group that exists is taken over when it is empty and thawed, and refused when it is not.
//   - Nobody is moved. A child joins by itself, through the files of JoinFiles, since moving another process through cgroup.procs of a
//     v1 hierarchy waits 5 to 16 ms for an RCU grace period, while writing "0" to tasks costs 10 µs and CLONE_INTO_CGROUP nothing.
//   - Another process may take a group up again with Load: all state is in the kernel.
//
// Files are opened by their paths, with plain system calls: a process makes one group, so that descriptors kept of ten mounts would
// cost more than they save, and os.OpenFile would register each file with the poller. No symbolic link can stand in the way: these file
// systems know none. What a container may make in them is below its own group, and bounded in depth (payload.go).
package cgroup

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
)

// mount is one hierarchy.
type mount struct {
	dir         string   // mount point
	root        string   // the group that is mounted there, "" for the hierarchy's root
	controllers []string // v1: those of this hierarchy, "name=systemd" among them; v2: of the root's cgroup.controllers
	v2          bool
}

// Layout is the set of mounted hierarchies.
type Layout struct {
	mounts []mount
	v1, v2 bool
}

// unifiedRoot is where version 2 is mounted on a machine that has nothing else.
const unifiedRoot = "/sys/fs/cgroup"

// Detect finds the hierarchies. On a machine of version 2 alone that is one statfs(2), elsewhere one reading of /proc/self/mountinfo.
func Detect() (*Layout, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(unifiedRoot, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return unified(unifiedRoot), nil
	}
	info, err := readFile("/proc/self/mountinfo")
	if err != nil {
		return nil, api.Errorf(api.Unavailable, "cgroups: %w", err)
	}
	l := parse(info)
	if len(l.mounts) == 0 {
		return nil, noneMounted()
	}
	return l, nil
}

func noneMounted() error {
	return api.Errorf(api.Unsupported, "no cgroup hierarchy is mounted: `mount -t cgroup2 none %s` mounts version 2", unifiedRoot)
}

// DetectRootless is Detect for who may do without: where nothing is mounted, as in a container, the layout is empty, and nothing is delegated.
func DetectRootless() (*Layout, error) {
	l, err := Detect()
	if errors.Is(err, api.Unsupported) {
		return &Layout{}, nil
	}
	return l, err
}

// unified is the layout of version 2 alone, mounted at dir.
func unified(dir string) *Layout {
	return &Layout{v2: true, mounts: []mount{{dir: dir, v2: true, controllers: v2Controllers(dir)}}}
}

// v2Controllers lists what the group at dir may use.
func v2Controllers(dir string) []string {
	b, err := readFile(dir + "/cgroup.controllers")
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// parse reads mountinfo (proc_pid_mountinfo(5)). Of a hierarchy that is mounted more than once the first counts.
func parse(info []byte) *Layout {
	l := &Layout{}
	for line := range bytes.Lines(info) {
		sep := bytes.Index(line, []byte(" - cgroup"))
		if sep < 0 {
			continue
		}
		tail := strings.Fields(string(line[sep+3:])) // type, source, options of the file system
		head := strings.Fields(string(line[:sep]))   // id, parent, device, root, mount point, …
		if len(tail) < 3 || len(head) < 5 {
			continue
		}
		m := mount{dir: unescape(head[4]), root: strings.TrimSuffix(unescape(head[3]), "/")}
		switch tail[0] {
		case "cgroup2":
			m.v2, m.controllers = true, v2Controllers(m.dir)
			if l.v2 {
				continue
			}
			l.v2 = true
		case "cgroup":
			for option := range strings.SplitSeq(tail[2], ",") {
				switch option {
				case "rw", "ro", "xattr", "noprefix", "clone_children", "all", "none", "favordynmods", "cpuset_v2_mode":
				default:
					if !strings.HasPrefix(option, "release_agent=") {
						m.controllers = append(m.controllers, option)
					}
				}
			}
			if len(m.controllers) == 0 || l.find(m.controllers[0]) != nil {
				continue
			}
			l.v1 = true
		default:
			continue
		}
		l.mounts = append(l.mounts, m)
	}
	return l
}

// unescape undoes mountinfo's \ooo for space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Mode is "v1", "v2" or "hybrid": v1 hierarchies with a v2 one beside them.
func (l *Layout) Mode() string {
	switch {
	case l.v1 && l.v2:
		return "hybrid"
	case l.v2:
		return "v2"
	}
	return "v1"
}

// V2 reports whether version 2 stands alone, so that all limits are its own.
func (l *Layout) V2() bool { return l.v2 && !l.v1 }

// find returns the v1 hierarchy of a controller, or nil.
func (l *Layout) find(controller string) *mount {
	for i := range l.mounts {
		if m := &l.mounts[i]; !m.v2 && slices.Contains(m.controllers, controller) {
			return m
		}
	}
	return nil
}

// unifiedMount returns the v2 hierarchy, or nil.
func (l *Layout) unifiedMount() *mount {
	for i := range l.mounts {
		if l.mounts[i].v2 {
			return &l.mounts[i]
		}
	}
	return nil
}

// Has reports whether limits of a controller ("memory", "pids", "io", …, version 1's names on version 1) can be set.
func (l *Layout) Has(controller string) bool {
	if l.find(controller) != nil {
		return true
	}
	m := l.unifiedMount()
	return m != nil && slices.Contains(m.controllers, controller)
}

// Writable is why this process can make no group at the roots of the hierarchies, as in a container that shows its own read-only; nil: it can.
func (l *Layout) Writable() error {
	if len(l.mounts) == 0 {
		return noneMounted()
	}
	for i := range l.mounts {
		if err := unix.Access(l.mounts[i].dir, unix.W_OK); err != nil {
			return mkdirError(l.mounts[i].dir, err)
		}
	}
	return nil
}
