package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

func ptr[T any](v T) *T { return &v }

// liveGroup makes a group in the machine's own hierarchies, below one named for this test process, and removes it after the test.
func liveGroup(t testing.TB, r *specs.LinuxResources) *Group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make cgroups")
	}
	l, err := Detect()
	if err != nil {
		t.Skip(err)
	}
	parent := "/brig-test-" + strconv.Itoa(os.Getpid())
	g, err := l.Create(parent+"/"+strconv.FormatInt(time.Now().UnixNano(), 36), r)
	t.Cleanup(func() {
		if g != nil {
			g.Kill(unix.SIGKILL)
			if err := g.Remove(); err != nil {
				t.Error(err)
			}
		}
		p, _ := l.group(parent)
		p.Remove()
	})
	if errors.Is(err, api.Unsupported) && errors.Is(err, unix.EROFS) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// join starts a shell that joins the group by itself, through JoinFiles, before it runs script.
func join(t *testing.T, g *Group, script string) *exec.Cmd {
	t.Helper()
	v1, v2, err := g.JoinFiles()
	if err != nil {
		t.Fatal(err)
	}
	enter := ""
	for i := range v1 {
		enter += "echo 0 >&" + strconv.Itoa(3+i) + "; exec " + strconv.Itoa(3+i) + ">&-; "
	}
	cmd := exec.Command("/bin/bash", "-c", enter+script)
	cmd.ExtraFiles = v1
	if v2 != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(v2.Fd())}
	}
	cmd.Stderr = os.Stderr
	t.Cleanup(func() {
		for _, f := range append(v1, v2) {
			f.Close()
		}
	})
	return cmd
}

func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	if !retry(30*time.Second, is) {
		t.Fatalf("not within 30 s: %s", what)
	}
}

// everywhere reports whether somebody has joined the group in all hierarchies; on a hybrid machine a child is born into one of them.
func everywhere(g *Group) bool {
	for _, dir := range g.dirs {
		if list, err := pidsIn(nil, dir, false); err != nil || len(list) == 0 {
			return false
		}
	}
	return true
}

func TestLiveJoinAndKill(t *testing.T) {
	g := liveGroup(t, nil)
	cmd := join(t, g, "sleep 100 & sleep 100 & wait")
	start(t, cmd)
	eventually(t, "three processes in the group", func() bool { p, err := g.Pids(); return err == nil && len(p) == 3 })
	for name, dir := range g.Paths() {
		b, err := readFile(dir + "/cgroup.procs")
		if err != nil || len(b) == 0 {
			t.Errorf("hierarchy %q: nobody joined: %v", name, err)
		}
	}
	if err := g.Kill(0); err != nil {
		t.Error(err)
	}
	go cmd.Wait()
	if err := g.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if p, _ := g.Pids(); len(p) != 0 {
		t.Errorf("left: %v", p)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	if err := g.Remove(); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if _, err := Load(g.Path()); !errors.Is(err, api.NotFound) {
		t.Errorf("Load of a removed group: %v", err)
	}
}

func TestLiveFreeze(t *testing.T) {
	g := liveGroup(t, nil)
	start(t, join(t, g, "sleep 100"))
	eventually(t, "the process in the group", func() bool { return everywhere(g) })
	if err := g.Freeze(); err != nil {
		t.Fatal(err)
	}
	again, err := Load(g.Path())
	if err != nil {
		t.Fatal(err)
	}
	if is, err := again.Frozen(); !is || err != nil {
		t.Errorf("Frozen after Freeze: %v, %v", is, err)
	}
	if err := again.Thaw(); err != nil {
		t.Fatal(err)
	}
	if is, err := g.Frozen(); is || err != nil {
		t.Errorf("Frozen after Thaw: %v, %v", is, err)
	}
}

// A fork bomb is the worst that Kill meets.
func TestLiveKillForkBomb(t *testing.T) {
	g := liveGroup(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(60))}})
	cmd := join(t, g, "f() { f 2>/dev/null | f 2>/dev/null & }; exec 2>/dev/null; f; sleep 100")
	start(t, cmd)
	eventually(t, "many processes", func() bool { p, _ := g.Pids(); return len(p) > 20 })
	go cmd.Wait()
	if err := g.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if p, _ := g.Pids(); len(p) != 0 {
		t.Errorf("left: %v", p)
	}
}

func TestLiveLimits(t *testing.T) {
	l, err := Detect()
	if err != nil {
		t.Skip(err)
	}
	if l.V2() {
		t.Skip("the files looked at are version 1's")
	}
	g := liveGroup(t, &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(128 << 20)), Reservation: ptr(int64(32 << 20)), Swappiness: ptr(uint64(10))},
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "0", Mems: "0"},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(50))},
		BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttle(254, 0, 1<<20)}},
	})
	check := func(controller, file, want string) {
		t.Helper()
		b, err := readFile(g.Paths()[controller] + "/" + file)
		if err != nil || string(b) != want+"\n" {
			t.Errorf("%s = %q, %v; want %s", file, b, err, want)
		}
	}
	check("memory", "memory.limit_in_bytes", "67108864")
	check("memory", "memory.memsw.limit_in_bytes", "134217728")
	check("memory", "memory.soft_limit_in_bytes", "33554432")
	check("memory", "memory.swappiness", "10")
	check("cpu", "cpu.shares", "512")
	check("cpu", "cpu.cfs_quota_us", "50000")
	check("cpuset", "cpuset.cpus", "0")
	check("pids", "pids.max", "50")
	// Raised beyond the old memory-and-swap, which must be written first.
	if err := g.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(256 << 20)), Swap: ptr(int64(256 << 20))}}); err != nil {
		t.Fatal(err)
	}
	check("memory", "memory.limit_in_bytes", "268435456")
	check("memory", "memory.memsw.limit_in_bytes", "268435456")
	// And lowered, where the other order holds.
	if err := g.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))}}); err != nil {
		t.Fatal(err)
	}
	check("memory", "memory.memsw.limit_in_bytes", "33554432")
	if err := g.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}}); err != nil {
		t.Fatal(err)
	}
	if s, err := g.Stats(); err != nil || s.Memory.Usage.Limit < 1<<60 || s.Pids.Limit != 50 {
		t.Errorf("stats: %+v, %v", s, err)
	}
	if err := g.Set(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}); err != nil {
		t.Fatal(err)
	}
	check("pids", "pids.max", "max")
	err = g.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4096"}})
	if !errors.Is(err, api.InvalidArgument) {
		t.Errorf("a processor that is not there: %v", err)
	}
}

func throttle(major, minor int64, rate uint64) (d specs.LinuxThrottleDevice) {
	d.Major, d.Minor, d.Rate = major, minor, rate
	return d
}

func TestLiveOOMAndStats(t *testing.T) {
	g := liveGroup(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 << 20)), Swap: ptr(int64(16 << 20))}})
	cmd := join(t, g, "x=$(head -c 100000000 /dev/zero | tr '\\000' x)")
	start(t, cmd)
	cmd.Wait()
	if n, err := g.OOMKills(); err != nil || n == 0 {
		t.Errorf("OOMKills = %d, %v after a process of 100 MB in 16 MB", n, err)
	}
	s, err := g.Stats()
	if err != nil || s.CPU.Usage.Total == 0 || s.Memory.Usage.Max == 0 || s.Memory.Usage.Limit != 16<<20 {
		t.Errorf("stats: %+v, %v", s, err)
	}
}

// An OOM kill is told through a descriptor that poll(2) waits on; so is the end of the group.
func TestLiveNotifyOOM(t *testing.T) {
	g := liveGroup(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 << 20)), Swap: ptr(int64(16 << 20))}})
	n, err := g.NotifyOOM()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	pressure, err := g.NotifyPressure("critical")
	if err != nil {
		t.Fatal(err)
	}
	pressure.Close()
	if times, gone, err := n.Read(); times != 0 || gone || err != nil {
		t.Errorf("before: %d, %v, %v", times, gone, err)
	}
	cmd := join(t, g, "x=$(head -c 100000000 /dev/zero | tr '\\000' x)")
	start(t, cmd)
	poll := []unix.PollFd{{Fd: int32(n.Fd()), Events: unix.POLLIN}}
	total, ended := uint64(0), false
	eventually(t, "news of the OOM kill", func() bool {
		unix.Poll(poll, 1000)
		times, gone, err := n.Read()
		total, ended = total+times, gone
		if err != nil || gone && total == 0 {
			t.Fatalf("%d, gone %v, %v", total, gone, err)
		}
		return total > 0
	})
	cmd.Wait()
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "news of the end", func() bool {
		if ended {
			return true
		}
		unix.Poll(poll, 1000)
		_, gone, err := n.Read()
		if err != nil {
			t.Fatal(err)
		}
		return gone
	})
	if _, err := g.NotifyPressure("high"); !errors.Is(err, api.InvalidArgument) {
		t.Errorf("a level that is none: %v", err)
	}
}

func TestLiveRemoveNested(t *testing.T) {
	g := liveGroup(t, nil)
	for _, dir := range g.Paths() {
		if err := os.MkdirAll(dir+"/a/b", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if left := g.Paths(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// Create that fails leaves nothing.
func TestLiveCreateUndone(t *testing.T) {
	l, err := Detect()
	if err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and cgroups")
	}
	path := "/brig-test-undo-" + strconv.Itoa(os.Getpid())
	if _, err := l.Create(path, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4096"}}); err == nil {
		t.Error("a processor that is not there was taken")
	}
	if _, err := l.Load(path); !errors.Is(err, api.NotFound) {
		t.Errorf("left behind: %v", err)
	}
}

// devices tells by opening and making nodes what the rules of a container let through.
const devices = `
exec 2>&-; r=
cat </dev/null && r="$r null-read"
echo >/dev/null && r="$r null-write"
head -c1 /dev/zero >/dev/null && r="$r zero-read"
(: </dev/kmsg) 2>/dev/null && r="$r kmsg-read"
d=$(mktemp -d); mknod $d/x c 250 7 2>/dev/null && r="$r mknod"; rm -rf $d
echo $r
`

func TestLiveDevices1(t *testing.T) {
	l, err := Detect()
	if err != nil || l.find("devices") == nil {
		t.Skip("the v1 controller devices is not mounted")
	}
	for _, c := range deviceCases {
		g := liveGroup(t, &specs.LinuxResources{Devices: c.rules})
		out, err := join(t, g, devices).Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
		if c.name == "default" { // and update
			if err := g.Set(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}}); err != nil {
				t.Fatal(err)
			}
			if b, _ := readFile(g.Paths()["devices"] + "/devices.list"); string(b) != "a *:* rwm\n" {
				t.Errorf("devices.list after allowing all: %q", b)
			}
		}
	}
}

var deviceCases = []struct {
	name  string
	rules []specs.LinuxDeviceCgroup
	want  string
}{
	{"none", nil, "null-read null-write zero-read kmsg-read mknod"},
	{"default", DefaultDevices(), "null-read null-write zero-read mknod"},
	{"all", append(DefaultDevices(), specs.LinuxDeviceCgroup{Allow: true, Type: "a", Access: "rwm"}), "null-read null-write zero-read kmsg-read mknod"},
	{"read only", []specs.LinuxDeviceCgroup{
		{Access: "rwm"}, {Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3)), Access: "r"},
	}, "null-read"},
	{"all but", []specs.LinuxDeviceCgroup{
		{Allow: true, Access: "rwm"}, {Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "r"}, {Type: "c", Access: "m"},
	}, "null-read null-write zero-read"},
}

// Version 2's program is proved on the machine's v2 hierarchy, which a hybrid machine has too.
func TestLiveDevices2(t *testing.T) {
	l, err := Detect()
	if err != nil || l.unifiedMount() == nil {
		t.Skip("cgroup version 2 is not mounted")
	}
	for _, c := range deviceCases {
		if c.rules == nil {
			continue
		}
		g := liveGroup(t, nil)
		set, err := resolveDevices(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		dir := g.Paths()[""]
		for range 2 { // the second takes the place of the first
			if err := set.attach(dir); errors.Is(err, api.Unsupported) {
				t.Skip(err)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		fd, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := attached(fd)
		unix.Close(fd)
		if err != nil || len(ids) != 1 {
			t.Errorf("%s: programs attached: %v, %v", c.name, ids, err)
		}
		out, err := join(t, g, devices).Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func BenchmarkCreateRemove(b *testing.B) {
	limits := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(128 << 20))},
		CPU:    &specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000))},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(50))},
	}
	for _, c := range []struct {
		name string
		r    *specs.LinuxResources
	}{{"none", nil}, {"devices", &specs.LinuxResources{Devices: DefaultDevices()}}, {"limits", limits}} {
		b.Run(c.name, func(b *testing.B) {
			g := liveGroup(b, nil)
			var create, remove []time.Duration
			for range b.N {
				start := time.Now()
				n, err := g.l.Create(g.path+"/x", c.r)
				if err != nil {
					b.Fatal(err)
				}
				made := time.Now()
				if err := n.Remove(); err != nil {
					b.Fatal(err)
				}
				create, remove = append(create, made.Sub(start)), append(remove, time.Since(made))
			}
			slices.Sort(create)
			slices.Sort(remove)
			b.ReportMetric(float64(create[b.N/2].Microseconds()), "median-create-µs")
			b.ReportMetric(float64(remove[b.N/2].Microseconds()), "median-remove-µs")
			b.ReportMetric(float64(create[0].Microseconds()), "least-create-µs")
		})
	}
}

func BenchmarkDetect(b *testing.B) {
	for range b.N {
		if _, err := Detect(); err != nil {
			b.Skip(err)
		}
	}
}

// A paused container can be killed: version 1 keeps frozen tasks from dying.
func TestLiveKillFrozen(t *testing.T) {
	g := liveGroup(t, nil)
	cmd := join(t, g, "sleep 100 & wait")
	start(t, cmd)
	eventually(t, "two processes", func() bool { p, _ := g.Pids(); return len(p) == 2 })
	if err := g.Freeze(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	if err := g.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if p, _ := g.Pids(); len(p) != 0 {
		t.Errorf("left: %v", p)
	}
}

// Remove does not take a group from under live processes.
func TestLiveRemoveBusy(t *testing.T) {
	g := liveGroup(t, nil)
	start(t, join(t, g, "sleep 100"))
	eventually(t, "a process", func() bool { return everywhere(g) })
	for _, dir := range g.dirs {
		if err := removeTree(dir, time.Now().Add(2*time.Millisecond)); !errors.Is(err, api.Conflict) || !exists(dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
