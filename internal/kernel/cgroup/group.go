package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/undo"
)

// Group is a folder in every hierarchy of a layout.
type Group struct {
	l    *Layout
	path string   // see Path
	dirs []string // by index of l.mounts; "" where the group has no part of that hierarchy

	rootless bool // device rules that are not permitted are left out
	adopted  bool // see Adopt
}

// removeLimit bounds the wait for dying tasks in Remove.
const removeLimit = 5 * time.Second

// Create makes the group at path (see Path in path.go), with the parents that are missing, and sets its limits; r may be nil. A group
// that exists is taken over when nobody is in it; api.Conflict otherwise. On error what was made is gone again, but not what a parent
// got enabled.
func (l *Layout) Create(path string, r *specs.LinuxResources) (*Group, error) {
	g, err := l.group(path)
	if err != nil {
		return nil, err
	}
	if err := g.make(r); err != nil {
		return nil, err
	}
	return g, nil
}

// Adopt is Create for a group that somebody else, such as systemd, has made for the caller, with a process of its own in it. On version 2
// it must be there, and Adopt never makes or removes it; a v1 hierarchy that its maker does not know gets its part.
func (l *Layout) Adopt(path string, r *specs.LinuxResources) (*Group, error) {
	g, err := l.group(path)
	if err != nil {
		return nil, err
	}
	if !g.exists() || l.V2() && !exists(g.v2()) {
		return nil, api.Errorf(api.NotFound, "cgroup %s does not exist", g.path)
	}
	g.adopted = true
	if err := g.make(r); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *Group) make(r *specs.LinuxResources) error {
	if err := Validate(r); err != nil {
		return err
	}
	l := g.l
	var u undo.Stack
	defer u.Run()
	old := false
	for i := range l.mounts {
		m := &l.mounts[i]
		if g.dirs[i] == "" {
			continue
		}
		made, err := l.makeDir(m, g.dirs[i])
		if err != nil {
			return err
		}
		if made {
			u.Add(func() { removeTree(g.dirs[i], time.Now().Add(removeLimit)) })
		}
		old = old || !made
	}
	if old && !g.adopted {
		if err := g.unused(); err != nil {
			return err
		}
	}
	if m := l.unifiedMount(); m != nil {
		if dir := g.dir(m); dir != "" {
			need := needs(l, r)
			if err := m.enable(dir, need); err != nil {
				return err
			}
			if err := domain(m, dir, need); err != nil {
				return err
			}
		}
	}
	if r != nil {
		if err := g.Set(r); err != nil {
			return err
		}
	}
	u.Release()
	return nil
}

// takeoverLimit is how long the last processes of a former life of a group may take to die.
const takeoverLimit = 200 * time.Millisecond

// unused refuses a group that was there before and that somebody is in, as runc does since 1.2: limits would then be those of the last
// who came, and deleting one container would kill the other. A frozen group would never start its process.
func (g *Group) unused() error {
	var list []int
	var err error
	if !retry(takeoverLimit, func() bool {
		list, err = g.Pids()
		return err != nil || len(list) == 0
	}) {
		return api.Errorf(api.Conflict, "cgroup %s exists and holds %d process(es), %d among them: give another linux.cgroupsPath, or end them", g.path, len(list), list[0])
	}
	if err != nil {
		return err
	}
	frozen, err := g.Frozen()
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if frozen {
		return api.Errorf(api.Conflict, "cgroup %s exists and is frozen: thaw or remove it, or give another linux.cgroupsPath", g.path)
	}
	return nil
}

// Load takes up a group that another process made; api.NotFound where no hierarchy has it.
func Load(path string) (*Group, error) {
	l, err := Detect()
	if err != nil {
		return nil, err
	}
	return l.Load(path)
}

// Load is the function Load on a layout that is known already.
func (l *Layout) Load(path string) (*Group, error) {
	g, err := l.group(path)
	if err != nil {
		return nil, err
	}
	if !g.exists() {
		return nil, api.Errorf(api.NotFound, "cgroup %s does not exist", g.path)
	}
	return g, nil
}

// dir is the group's folder in a hierarchy of its layout, "" where it has none.
func (g *Group) dir(m *mount) string {
	for i := range g.l.mounts {
		if &g.l.mounts[i] == m {
			return g.dirs[i]
		}
	}
	return ""
}

// v1 is the folder in the v1 hierarchy of a controller, "" where there is none.
func (g *Group) v1(controller string) string { return g.dir(g.l.find(controller)) }

// v2 is the folder in the v2 hierarchy, "" where there is none.
func (g *Group) v2() string { return g.dir(g.l.unifiedMount()) }

func (g *Group) exists() bool {
	for _, dir := range g.dirs {
		if dir != "" && exists(dir) {
			return true
		}
	}
	return false
}

// makeDir makes a folder in m and says whether it was new.
func (l *Layout) makeDir(m *mount, dir string) (bool, error) {
	err := unix.Mkdir(dir, 0o755)
	if err == unix.ENOENT {
		if err := l.makeParent(m, filepath.Dir(dir)[len(m.dir):]); err != nil {
			return false, err
		}
		err = unix.Mkdir(dir, 0o755)
	}
	if err != nil && err != unix.EEXIST {
		return false, mkdirError(dir, err)
	}
	if !m.v2 && slices.Contains(m.controllers, "cpuset") {
		if err2 := inheritCpuset(dir); err2 != nil {
			if err == nil {
				unix.Rmdir(dir)
			}
			return false, err2
		}
	}
	return err == nil, nil
}

// makeParent makes the folders down to path. In a v1 cpuset hierarchy they hand their processors and memory nodes to their children, so
// that a new child can be joined at once.
func (l *Layout) makeParent(m *mount, path string) error {
	if path == "/" || path == "" {
		return api.Errorf(api.Unavailable, "cgroup hierarchy %s is gone", m.dir)
	}
	cpuset := !m.v2 && slices.Contains(m.controllers, "cpuset")
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		dir := m.dir + path[:i]
		if err := unix.Mkdir(dir, 0o755); err == unix.EEXIST {
			continue
		} else if err != nil {
			return mkdirError(dir, err)
		}
		if cpuset {
			if err := inheritCpuset(dir); err != nil {
				return err
			}
			if err := writeFile(dir+"/cgroup.clone_children", "1"); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	return nil
}

func mkdirError(dir string, err error) error {
	pe := &os.PathError{Op: "mkdir", Path: dir, Err: err}
	switch err {
	case unix.EACCES, unix.EPERM, unix.EROFS:
		return api.Errorf(api.Unsupported, "cgroup: %w: run as root, or below a cgroup that is delegated to this user", pe)
	case unix.EAGAIN:
		return api.Errorf(api.Exhausted, "cgroup: %w: a parent's cgroup.max.descendants or cgroup.max.depth is used up", pe)
	}
	return pe
}

// inheritCpuset gives a v1 cpuset group that has no processors or memory nodes those of its parent: without them nobody may join it.
func inheritCpuset(dir string) error {
	for _, file := range [...]string{"/cpuset.cpus", "/cpuset.mems"} {
		have, err := readFile(dir + file)
		if err != nil {
			return err
		}
		if len(strings.TrimSpace(string(have))) > 0 {
			continue
		}
		theirs, err := readFile(filepath.Dir(dir) + file)
		if err != nil {
			return err
		}
		if err := writeFile(dir+file, strings.TrimSpace(string(theirs))); err != nil {
			return err
		}
	}
	return nil
}

// Path is the path in each hierarchy, when it is absolute; of a relative one it is what was given, and Paths tells where it lies.
func (g *Group) Path() string { return g.path }

// Paths are the folders of the group that exist: by controller for version 1 (a name of several controllers is there for each), and ""
// for version 2. A runtime's state file keeps them, and LoadPaths takes them back.
func (g *Group) Paths() map[string]string {
	paths := make(map[string]string, len(g.l.mounts))
	for i := range g.l.mounts {
		m, dir := &g.l.mounts[i], g.dirs[i]
		if dir == "" || !exists(dir) {
			continue
		}
		if m.v2 {
			paths[""] = dir
			continue
		}
		for _, c := range m.controllers {
			paths[c] = dir
		}
	}
	return paths
}

// Hierarchy is a group's part of one hierarchy.
type Hierarchy struct {
	Mount       string   // where the hierarchy is mounted
	Dir         string   // the group's folder in it
	Controllers []string // of version 1, "name=systemd" among them; nil for version 2
}

// Hierarchies lists the group's folders that exist, one for each hierarchy, in the order of their mounting.
func (g *Group) Hierarchies() []Hierarchy {
	list := make([]Hierarchy, 0, len(g.l.mounts))
	for i := range g.l.mounts {
		m := &g.l.mounts[i]
		if g.dirs[i] == "" || !exists(g.dirs[i]) {
			continue
		}
		h := Hierarchy{Mount: m.dir, Dir: g.dirs[i]}
		if !m.v2 {
			h.Controllers = m.controllers
		}
		list = append(list, h)
	}
	return list
}

// JoinFiles opens what a child needs to join: v1 are the tasks files, to each of which the child's only thread writes "0"; v2 is the
// folder, for CLONE_INTO_CGROUP, nil where version 2 is not mounted. All are close-on-exec; the caller closes them.
func (g *Group) JoinFiles() (v1 []*os.File, v2 *os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range v1 {
				f.Close()
			}
			v1 = nil
		}
	}()
	for i := range g.l.mounts {
		m := &g.l.mounts[i]
		path, flags := g.dirs[i], unix.O_RDONLY|unix.O_DIRECTORY
		if path == "" {
			continue
		}
		if !m.v2 {
			path, flags = path+"/tasks", unix.O_WRONLY
		}
		fd, err := open(path, flags)
		if err != nil {
			if v2 != nil {
				v2.Close()
			}
			return v1, nil, err
		}
		if f := os.NewFile(uintptr(fd), path); m.v2 {
			v2 = f
		} else {
			v1 = append(v1, f)
		}
	}
	return v1, v2, nil
}

// Remove removes the group with all below it, in every hierarchy; it waits up to 5 s for tasks that are dying. A group that is gone is no
// error. With live processes in it, it is api.Conflict.
func (g *Group) Remove() error {
	deadline := time.Now().Add(removeLimit)
	var first error
	for _, dir := range g.dirs {
		if dir == "" {
			continue
		}
		if err := removeTree(dir, deadline); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// RemoveEmpty removes the group where that can be done at once: it holds no process and no group. It reports whether it is gone from every hierarchy.
func (g *Group) RemoveEmpty() bool {
	gone := true
	for _, dir := range g.dirs {
		if dir == "" {
			continue
		}
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			gone = false
		}
	}
	return gone
}

// removeTree removes a cgroup folder and the groups in it. Its files go with it.
func removeTree(dir string, deadline time.Time) error {
	var last error
	done := retry(time.Until(deadline), func() bool {
		switch err := unix.Rmdir(dir); err {
		case nil, unix.ENOENT:
			last = nil
			return true
		case unix.EBUSY, unix.ENOTEMPTY, unix.EINTR:
			last = err
		default:
			last = err
			return true
		}
		for _, child := range children(dir) {
			removeTree(child, time.Now())
		}
		return false
	})
	switch {
	case !done:
		return api.Errorf(api.Conflict, "cgroup %s still has processes: %w", dir, last)
	case last != nil:
		return &os.PathError{Op: "rmdir", Path: dir, Err: last}
	}
	return nil
}

// children are the folders in a cgroup folder.
func children(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range entries {
		if e.IsDir() {
			list = append(list, dir+"/"+e.Name())
		}
	}
	return list
}
