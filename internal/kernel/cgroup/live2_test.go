package cgroup

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// TestLiveLimits on version 2 alone.
func TestLiveLimits2(t *testing.T) {
	l, err := Detect()
	if err != nil {
		t.Skip(err)
	}
	if !l.V2() {
		t.Skip("the files looked at are version 2's, which does not stand alone here")
	}
	g := liveGroup(t, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20)), Reservation: ptr(int64(32 << 20))},
		CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "0", Mems: "0"},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(50))}, Devices: DefaultDevices(),
		Unified: map[string]string{"memory.high": "50331648", "memory.oom.group": "1"},
	})
	check := func(file, want string) {
		t.Helper()
		b, err := readFile(g.v2() + "/" + file)
		if err != nil || string(b) != want+"\n" {
			t.Errorf("%s = %q, %v; want %s", file, b, err, want)
		}
	}
	check("memory.max", "67108864")
	check("memory.low", "33554432")
	check("memory.high", "50331648")
	check("memory.oom.group", "1")
	check("cpu.weight", "59")
	check("cpu.max", "50000 100000")
	check("cpuset.cpus", "0")
	check("pids.max", "50")
	if exists(g.v2() + "/memory.swap.max") {
		check("memory.swap.max", "0")
	}
	if err := g.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr(uint64(50000))}}); err != nil {
		t.Fatal(err)
	}
	check("cpu.max", "50000 50000")
	if err := g.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))}, Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}}); err != nil {
		t.Fatal(err)
	}
	check("cpu.max", "max 50000")
	check("memory.max", "max")
	check("pids.max", "50")
	start(t, join(t, g, "sleep 100"))
	eventually(t, "a process", func() bool { return everywhere(g) })
	if s, err := g.Stats(); err != nil || s.Pids != (Pids{1, 50}) || s.Memory.Usage.Usage == 0 || len(s.Memory.Raw) == 0 {
		t.Errorf("stats: %+v, %v", s, err)
	}
	for field, r := range map[string]*specs.LinuxResources{
		"linux.resources.unified[\"memory.nothing\"]": {Unified: map[string]string{"memory.nothing": "1"}},
		"linux.resources.memory.swappiness":           {Memory: &specs.LinuxMemory{Swappiness: ptr(uint64(5))}},
		"linux.resources.network.classID":             {Network: &specs.LinuxNetwork{ClassID: ptr(uint32(5))}},
	} {
		if err := g.Set(r); !errors.Is(err, api.Unsupported) || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// Controllers do not come through a group that holds processes.
func TestLiveInternalProcesses2(t *testing.T) {
	l, err := Detect()
	if err != nil || !l.V2() {
		t.Skip("version 2 does not stand alone here")
	}
	g := liveGroup(t, nil)
	start(t, join(t, g, "sleep 100"))
	eventually(t, "a process", func() bool { return everywhere(g) })
	_, err = l.Create(g.path+"/child", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 20))}})
	if !errors.Is(err, api.Conflict) || !strings.Contains(err.Error(), "no internal processes") || exists(g.v2()+"/child") {
		t.Errorf("%v", err)
	}
	if b, _ := readFile(g.v2() + "/cgroup.type"); string(b) != "domain\n" {
		t.Errorf("the refusal left the group %q", b)
	}
	// Controllers that know threads come through; the child is then a threaded group, and can be joined all the same.
	child, err := l.Create(g.path+"/child", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(7))}})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := readFile(child.v2() + "/pids.max"); string(b) != "7\n" {
		t.Errorf("pids.max = %q, %v", b, err)
	}
	start(t, join(t, child, "sleep 100"))
	eventually(t, "a process in the child", func() bool { return everywhere(child) })
	if err := child.Kill(unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

// Below a threaded group there are only threaded ones, which know no memory (cgroups(7)).
func TestLiveThreaded(t *testing.T) {
	g := liveGroup(t, nil)
	m := g.l.unifiedMount()
	if m == nil || !exists(g.v2()+"/cgroup.type") {
		t.Skip("cgroup version 2 is not mounted, or has no threads")
	}
	for _, name := range []string{"/threads", "/other", "/third"} {
		if err := unix.Mkdir(g.v2()+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeFile(g.v2()+"/threads/cgroup.type", "threaded"); err != nil {
		t.Skip(err)
	}
	err := domain(m, g.v2()+"/other", []string{"pids", "memory"})
	if !errors.Is(err, api.Unsupported) || !strings.Contains(err.Error(), "memory") || !strings.Contains(err.Error(), "domain invalid") {
		t.Errorf("with a memory limit: %v", err)
	}
	if err := domain(m, g.v2()+"/third", []string{"pids"}); err != nil {
		t.Errorf("without: %v", err)
	}
	if b, _ := readFile(g.v2() + "/third/cgroup.type"); string(b) != "threaded\n" {
		t.Errorf("cgroup.type = %q", b)
	}
}

// An update of device rules never takes away what stays allowed.
func TestLiveDevicesUpdate(t *testing.T) {
	g := liveGroup(t, &specs.LinuxResources{Devices: DefaultDevices()})
	out := t.TempDir() + "/failed"
	start(t, join(t, g, "touch "+out+".up; while :; do : </dev/null || echo x >> "+out+"; done 2>&-"))
	eventually(t, "the loop", func() bool { return exists(out + ".up") })
	tty := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "r"}
	for range 100 {
		for _, rules := range [][]specs.LinuxDeviceCgroup{append(DefaultDevices(), tty), DefaultDevices()} {
			if err := g.Set(&specs.LinuxResources{Devices: rules}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if b, err := os.ReadFile(out); err == nil {
		t.Errorf("/dev/null could not be opened %d times", len(b)/2)
	}
	if dir := g.v1("devices"); dir != "" {
		b, err := readFile(dir + "/devices.list")
		rules, ok := parseList(b)
		set, _ := resolveDevices(DefaultDevices())
		if err != nil || !ok || len(minus(rules, set.exceptions))+len(minus(set.exceptions, rules)) > 0 {
			t.Errorf("devices.list = %q, %v", b, err)
		}
	}
}

// What can be limited here is limited, and nothing fails that was not asked for.
func TestLiveHierarchies(t *testing.T) {
	g := liveGroup(t, &specs.LinuxResources{})
	var names []string
	for _, h := range g.Hierarchies() {
		if !strings.HasPrefix(h.Dir, h.Mount+"/") || !exists(h.Dir) {
			t.Errorf("%+v", h)
		}
		names = append(names, h.Controllers...)
	}
	for controller := range g.Paths() {
		if controller != "" && !slices.Contains(names, controller) {
			t.Errorf("%s is in Paths alone", controller)
		}
	}
	if s, err := g.Stats(); err != nil || s.Pids.Current != 0 {
		t.Errorf("an empty group: %+v, %v", s, err)
	}
	if _, err := (&Group{l: g.l, path: "/gone", dirs: []string{"/nosuch" + strconv.Itoa(os.Getpid())}}).Stats(); !errors.Is(err, api.NotFound) {
		t.Errorf("a group that is gone: %v", err)
	}
}

// A container that has moved its processes further down can still be joined, beside them.
func TestLiveNested(t *testing.T) {
	g := liveGroup(t, nil)
	if g.v2() == "" {
		t.Skip("cgroup version 2 is not mounted")
	}
	cmd := join(t, g, "mkdir "+g.v2()+"/inner && echo $$ > "+g.v2()+"/inner/cgroup.procs && exec sleep 100")
	start(t, cmd)
	inner := g.v2() + "/inner"
	eventually(t, "the process in the inner group", func() bool {
		b, err := readFile(inner + "/cgroup.procs")
		return err == nil && len(b) > 0
	})
	n, err := g.Nested(cmd.Process.Pid)
	if err != nil || n.v2() != inner {
		t.Fatalf("%+v, %v", n, err)
	}
	start(t, join(t, n, "exec sleep 100"))
	eventually(t, "both in the inner group", func() bool {
		b, err := readFile(inner + "/cgroup.procs")
		return err == nil && strings.Count(string(b), "\n") == 2
	})
	if _, err := g.Nested(os.Getpid()); !errors.Is(err, api.Conflict) {
		t.Errorf("a process of somebody else: %v", err)
	}
	if _, err := g.Nested(1 << 30); !errors.Is(err, api.NotFound) {
		t.Errorf("no process: %v", err)
	}
}

func TestLiveChown(t *testing.T) {
	g := liveGroup(t, nil)
	if err := g.Chown(nobody); err != nil {
		t.Fatal(err)
	}
	if !g.l.V2() {
		t.Skip("nothing is given away where version 2 does not stand alone")
	}
	for file, want := range map[string]uint32{"": nobody, "/cgroup.procs": nobody, "/cgroup.subtree_control": nobody, "/memory.max": 0} {
		var st unix.Stat_t
		if err := unix.Stat(g.v2()+file, &st); err != nil || st.Uid != want {
			t.Errorf("%q is %d's, %v; want %d", file, st.Uid, err, want)
		}
	}
}
