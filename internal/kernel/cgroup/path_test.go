package cgroup

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

func TestOwn(t *testing.T) {
	const text = "9:name=systemd:/user\n4:memory:/docker/abc\n2:cpu,cpuacct:/a:b\n1:net_prio:relative\n0::/user.slice/run.scope\ngarbage\n5::\n"
	for _, c := range []struct {
		m    mount
		want string // "" for an error
	}{
		{mount{dir: "/m", controllers: []string{"memory"}}, "/m/docker/abc"},
		{mount{dir: "/m", root: "/docker/abc", controllers: []string{"memory"}}, "/m"},
		{mount{dir: "/m", root: "/docker", controllers: []string{"memory"}}, "/m/abc"},
		{mount{dir: "/m", root: "/dock", controllers: []string{"memory"}}, "/m/docker/abc"},
		{mount{dir: "/m", controllers: []string{"cpu", "cpuacct"}}, "/m/a:b"},
		{mount{dir: "/m", controllers: []string{"name=systemd"}}, "/m/user"},
		{mount{dir: "/m", controllers: []string{"net_prio"}}, ""},
		{mount{dir: "/m", controllers: []string{"pids"}}, ""},
		{mount{dir: "/2", v2: true}, "/2/user.slice"},
		{mount{dir: "/2", v2: true, root: "/user.slice"}, "/2"},
	} {
		got, err := c.m.own([]byte(text))
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%+v: %q, %v; want %q", c.m, got, err, c.want)
		}
	}
	for _, text := range []string{"", "0::/../x\n"} {
		if got, err := (&mount{dir: "/2", v2: true}).own([]byte(text)); !errors.Is(err, api.Unavailable) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if got, err := (&mount{dir: "/2", v2: true}).own([]byte("0::/\n")); got != "/2" || err != nil {
		t.Errorf("in the root: %q, %v", got, err)
	}
}

func FuzzOwn(f *testing.F) {
	f.Add([]byte("2:cpu,cpuacct:/x\n0::/a/b\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, m := range []mount{{dir: "/m", controllers: []string{"cpu"}}, {dir: "/m", v2: true, root: "/a"}} {
			dir, err := m.own(text)
			if err == nil && (!strings.HasPrefix(dir+"/", "/m/") || strings.Contains(dir, "/../")) {
				t.Errorf("%q is outside of the hierarchy", dir)
			}
		}
	})
}

func TestLoadPaths(t *testing.T) {
	root := tree(t, "1/memory/own/x/tasks: \n2/x/cgroup.procs: ")
	l := &Layout{v1: true, v2: true, mounts: []mount{
		{dir: root + "/1/memory", controllers: []string{"memory"}}, {dir: root + "/1/new", controllers: []string{"pids"}}, {dir: root + "/2", v2: true},
	}}
	paths := map[string]string{"memory": root + "/1/memory/own/x", "": root + "/2/x"}
	g, err := l.LoadPaths("x", paths)
	if err != nil || g.v1("memory") != paths["memory"] || g.v1("pids") != "" || g.v2() != paths[""] || g.Path() != "x" {
		t.Errorf("%+v, %v", g, err)
	}
	if err := g.Set(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(1))}}); !errors.Is(err, api.Unsupported) {
		t.Errorf("a hierarchy that the group has no part of: %v", err)
	}
	if h := g.Hierarchies(); len(h) != 2 || h[0].Controllers[0] != "memory" || h[1].Controllers != nil || h[1].Mount != root+"/2" {
		t.Errorf("Hierarchies = %+v", h)
	}
	for _, bad := range []string{root + "/1/memory/../../x", root + "/2", root + "/1/memory", "/etc", ""} {
		if _, err := l.LoadPaths("x", map[string]string{"memory": bad}); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := l.LoadPaths("y", map[string]string{"memory": root + "/1/memory/y"}); !errors.Is(err, api.NotFound) {
		t.Errorf("gone: %v", err)
	}
}

// A relative path lies below this process's own groups, on version 2 beside it, and Paths leads back to it.
func TestLiveRelative(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make cgroups")
	}
	l, err := Detect()
	if err != nil {
		t.Skip(err)
	}
	name := "brig-test-rel-" + strconv.Itoa(os.Getpid())
	g, err := l.Create(name, nil)
	if err != nil {
		if errors.Is(err, unix.EROFS) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	defer g.Remove()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for controller, dir := range g.Paths() {
		m := l.find(controller)
		if controller == "" {
			m = l.unifiedMount()
		}
		path, ok := ownPath(own, m)
		if controller == "" {
			path = path[:strings.LastIndexByte(path, '/')]
		}
		if want := m.dir + strings.TrimSuffix(path, "/") + "/" + name; !ok || dir != want {
			t.Errorf("%q: %s, want %s", controller, dir, want)
		}
	}
	again, err := l.LoadPaths(name, g.Paths())
	if err != nil {
		t.Fatal(err)
	}
	start(t, join(t, again, "sleep 100"))
	eventually(t, "a process", func() bool { return everywhere(g) })
	if err := again.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := again.Remove(); err != nil || g.exists() {
		t.Error(err)
	}
}

// A group that exists is taken over, unless somebody is in it or it is frozen.
func TestLiveTakeover(t *testing.T) {
	g := liveGroup(t, nil)
	limits := &specs.LinuxResources{Devices: DefaultDevices()}
	if _, err := g.l.Create(g.path, limits); err != nil {
		t.Errorf("an empty group: %v", err)
	}
	if err := g.Freeze(); err == nil { // an empty one is frozen at once
		if _, err := g.l.Create(g.path, limits); !errors.Is(err, api.Conflict) || !strings.Contains(err.Error(), "frozen") {
			t.Errorf("a frozen group: %v", err)
		}
		if err := g.Thaw(); err != nil {
			t.Fatal(err)
		}
	}
	start(t, join(t, g, "sleep 100"))
	eventually(t, "a process", func() bool { return everywhere(g) })
	if _, err := g.l.Create(g.path, limits); !errors.Is(err, api.Conflict) || !strings.Contains(err.Error(), "1 process") {
		t.Errorf("a group with a process in it: %v", err)
	}
	if !g.exists() {
		t.Error("refusing removed the group")
	}
}

// Delegation is seen on a plain tree: what counts is what may be written.
func TestDelegated(t *testing.T) {
	root := tree(t, "cgroup.controllers: cpu pids\ncgroup.procs: \ncgroup.subtree_control: \na/cgroup.controllers: pids\na/cgroup.procs: \na/cgroup.subtree_control: ")
	l := unified(root)
	if d := l.Delegated("/a/b/c"); d.Err != nil || len(d.Controllers) != 1 || d.Controllers[0] != "pids" {
		t.Errorf("as root: %+v", d)
	}
	if os.Geteuid() != 0 {
		return
	}
	for _, dir := range []string{root, root + "/a"} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// All folders above must be open to the other user too.
	for dir := root; dir != "/"; dir = dir[:max(1, strings.LastIndexByte(dir, '/'))] {
		if st, err := os.Stat(dir); err == nil && st.Mode()&0o005 != 0o005 {
			os.Chmod(dir, st.Mode()|0o005)
		}
	}
	asNobody(t, func() {
		d := l.Delegated("/a/b")
		if !errors.Is(d.Err, api.Unsupported) || !strings.Contains(d.Err.Error(), root+"/a") {
			t.Errorf("not delegated: %+v", d)
		}
		if g, err := l.CreateRootless("/a/b", false, nil); g != nil || err != nil {
			t.Errorf("without limits: %v, %v", g, err)
		}
		_, err := l.CreateRootless("/a/b", false, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(4))}})
		if !errors.Is(err, api.Unsupported) || !strings.HasPrefix(err.Error(), "linux.resources.pids.limit: no cgroup is delegated") {
			t.Errorf("with a limit: %v", err)
		}
		_, err = l.CreateRootless("/a/b", true, nil)
		if !errors.Is(err, api.Unsupported) || !strings.HasPrefix(err.Error(), "linux.cgroupsPath") {
			t.Errorf("with a path: %v", err)
		}
	})
	for _, path := range []string{root + "/cgroup.procs", root + "/a", root + "/a/cgroup.subtree_control", root + "/a/cgroup.procs"} {
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	asNobody(t, func() {
		if d := l.Delegated("/a/b"); d.Err != nil {
			t.Errorf("delegated: %v", d.Err)
		}
		g, err := l.CreateRootless("/a/b", true, &specs.LinuxResources{Devices: DefaultDevices()})
		if err != nil || g == nil || !exists(root+"/a/b") {
			t.Errorf("delegated: %v, %v", g, err)
		}
	})
}

const nobody = 65534

// asNobody runs f on a thread with the effective user and group nobody, which ends with it.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		defer close(done)
		// Not unlocked: the thread ends here.
		lockThread()
		for _, id := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, errno := unix.RawSyscall(id, ^uintptr(0), nobody, ^uintptr(0)); errno != 0 {
				done <- errno
				return
			}
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestAsks(t *testing.T) {
	for want, r := range map[string]*specs.LinuxResources{
		"":                                  {Devices: DefaultDevices(), CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{Limit: ptr(int64(0))}},
		"linux.resources.memory.limit":      {Memory: &specs.LinuxMemory{Limit: ptr(int64(5))}, CPU: &specs.LinuxCPU{Cpus: "0"}},
		"linux.resources.memory.swappiness": {Memory: &specs.LinuxMemory{Swappiness: ptr(uint64(5))}},
		"linux.resources.unified":           {Unified: map[string]string{"memory.high": "5"}},
		"linux.resources.network.classID":   {Network: &specs.LinuxNetwork{ClassID: ptr(uint32(5))}},
	} {
		if got := Asks(r); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if Asks(nil) != "" {
		t.Error("nil")
	}
}
