package cgroup

import (
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// Delegation says what this user may do with cgroups.
type Delegation struct {
	// Controllers are those that a new group could limit: on version 2 what the nearest group above offers, on version 1 what is mounted.
	Controllers []string
	// Err is nil when the group can be made and joined; else it says what is in the way.
	Err error
}

// Own is the group of version 2 that this process is in, as a path of linux.cgroupsPath.
func (l *Layout) Own() (string, error) {
	m := l.unifiedMount()
	text, err := readFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	own, ok := ownPath(text, m)
	if !ok || strings.HasPrefix(own, "/..") {
		return "", api.Errorf(api.Unsupported, "/proc/self/cgroup does not say where this process is in %s", m.dir)
	}
	if m.root != "" {
		own = strings.TrimPrefix(own, m.root)
	}
	return filepath.Clean("/" + own), nil
}

// Dir is the folder of a group on version 2.
func (l *Layout) Dir(path string) string { return l.unifiedMount().dir + filepath.Clean("/"+path) }

// Delegated looks, and makes nothing, whether this process may make a group at path and start a process in it (cgroups(7), "Cgroup
// delegation"): the nearest group above that exists must be this user's to write, as must cgroup.procs of the nearest one that holds both
// this process and the new group.
func (l *Layout) Delegated(path string) Delegation {
	if len(l.mounts) == 0 {
		return Delegation{Err: noneMounted()}
	}
	g, err := l.group(path)
	if err != nil {
		return Delegation{Err: err}
	}
	var d Delegation
	own, err := readFile("/proc/self/cgroup")
	if err != nil {
		return Delegation{Err: err}
	}
	for i := range l.mounts {
		m := &l.mounts[i]
		above := filepath.Dir(g.dirs[i])
		for above != m.dir && !exists(above) {
			above = filepath.Dir(above)
		}
		files := []string{above}
		if m.v2 {
			d.Controllers = append(d.Controllers, v2Controllers(above)...)
			files = append(files, above+"/cgroup.subtree_control", m.common(own, above)+"/cgroup.procs")
		} else {
			d.Controllers = append(d.Controllers, m.controllers...)
		}
		for _, file := range files {
			if err := unix.Faccessat(unix.AT_FDCWD, file, unix.W_OK, unix.AT_EACCESS); err != nil {
				return Delegation{Err: undelegated(m, file, err)}
			}
		}
	}
	return d
}

func undelegated(m *mount, file string, err error) error {
	hint := "version 1 cannot be delegated safely: boot with systemd.unified_cgroup_hierarchy=1, or run as root"
	if m.v2 {
		hint = "start the runtime where systemd delegates, as with `systemd-run --user --scope -p Delegate=yes`, or use --systemd-cgroup"
	}
	if err == unix.EROFS {
		hint = "the hierarchy is mounted read-only"
	}
	return api.Errorf(api.Unsupported, "no cgroup is delegated to this user: %s cannot be written: %w: %s", file, err, hint)
}

// common is the folder of the nearest group that holds both this process and dir; the mount point where that is not known.
func (m *mount) common(own []byte, dir string) string {
	path, ok := ownPath(own, m)
	if !ok || strings.HasPrefix(path, "/..") {
		return m.dir
	}
	if m.root != "" {
		path = strings.TrimPrefix(path, m.root)
	}
	mine := m.dir + strings.TrimSuffix(path, "/") + "/"
	for dir != m.dir && !strings.HasPrefix(mine, dir+"/") {
		dir = filepath.Dir(dir)
	}
	return dir
}

// CreateRootless is Create for a user who may have no cgroups. Where none is delegated and none is asked for, it returns no group and
// no error, and the container goes without; given says that the spec has a cgroupsPath, which is asking, as is any limit. Device rules
// that the kernel does not let this user set are left out: a user cannot make device nodes either.
func (l *Layout) CreateRootless(path string, given bool, r *specs.LinuxResources) (*Group, error) {
	if err := Validate(r); err != nil {
		return nil, err
	}
	if d := l.Delegated(path); d.Err != nil {
		if field := Asks(r); field != "" {
			return nil, api.Errorf(api.Unsupported, "%s: %w", field, d.Err)
		}
		if given {
			return nil, api.Errorf(api.Unsupported, "linux.cgroupsPath %q: %w", path, d.Err)
		}
		return nil, nil
	}
	g, err := l.group(path)
	if err != nil {
		return nil, err
	}
	g.rootless = true
	if err := g.make(r); err != nil {
		return nil, err
	}
	return g, nil
}
