package cgroup

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// tree makes plain files, "path: content" a line, and returns their folder.
func tree(t *testing.T, lines string) string {
	t.Helper()
	root := t.TempDir()
	for line := range strings.Lines(lines) {
		path, content, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		content = strings.ReplaceAll(strings.TrimSpace(content), `\n`, "\n")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestParse(t *testing.T) {
	const head = "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
	for _, c := range []struct {
		name, info, mode string
		want             map[string]string // controller, "" for v2, to mount point
	}{
		{"debian hybrid", head +
			"31 23 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755\n" +
			"32 31 0:29 / /nosuch/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate\n" +
			"33 31 0:30 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd\n" +
			"37 31 0:34 / /sys/fs/cgroup/cpu,cpuacct rw shared:16 - cgroup cgroup rw,cpu,cpuacct\n" +
			"38 31 0:35 / /sys/fs/cgroup/net_cls,net_prio rw shared:17 - cgroup cgroup rw,net_cls,net_prio,release_agent=/x\n", "hybrid",
			map[string]string{"": "/nosuch/unified", "name=systemd": "/sys/fs/cgroup/systemd", "cpu": "/sys/fs/cgroup/cpu,cpuacct",
				"cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "net_cls": "/sys/fs/cgroup/net_cls,net_prio", "net_prio": "/sys/fs/cgroup/net_cls,net_prio"}},
		{"v2 elsewhere", head + "40 23 0:30 / /my\\040groups rw - cgroup2 none rw\n", "v2", map[string]string{"": "/my groups"}},
		{"twice", head + "1 2 0:30 / /a rw - cgroup c rw,memory\n3 4 0:30 / /b rw - cgroup c rw,memory\n5 6 0:31 / /c rw - cgroup2 c rw\n7 8 0:31 / /d rw - cgroup2 c rw\n",
			"hybrid", map[string]string{"memory": "/a", "": "/c"}},
		{"none", head + "garbage - cgroup\nx - cgroupfs y z\n", "v1", map[string]string{}},
	} {
		l := parse([]byte(c.info))
		got := map[string]string{}
		for _, m := range l.mounts {
			if m.v2 {
				got[""] = m.dir
			} else {
				for _, name := range m.controllers {
					got[name] = m.dir
				}
			}
		}
		if !reflect.DeepEqual(got, c.want) || l.Mode() != c.mode {
			t.Errorf("%s: %s %v, want %s %v", c.name, l.Mode(), got, c.mode, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"))
	f.Fuzz(func(t *testing.T, info []byte) {
		for _, m := range parse(info).mounts {
			if !m.v2 && len(m.controllers) == 0 {
				t.Error("a v1 hierarchy without a name")
			}
		}
	})
}

// fake2 is a v2 hierarchy with a group /brig/x that has all its files.
func fake2(t *testing.T) (*Layout, string) {
	root := tree(t, `
		cgroup.controllers: cpuset cpu io memory pids misc
		cgroup.subtree_control: 
		brig/cgroup.subtree_control: 
		brig/x/cgroup.controllers: cpuset cpu io memory pids
		brig/x/cgroup.procs: 
		brig/x/nested/cgroup.procs: 
		brig/x/cgroup.events: populated 0\nfrozen 0\n
		brig/x/cgroup.freeze: 0
		brig/x/cpu.max: max 100000
		brig/x/cpu.weight: 100
		brig/x/cpu.stat: usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\nthrottled_usec 7\n
		brig/x/memory.max: max
		brig/x/memory.swap.max: max
		brig/x/memory.current: 4096
		brig/x/memory.peak: 8192
		brig/x/memory.swap.current: 7
		brig/x/memory.pressure: some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.50 total=2\n
		brig/x/cpu.pressure: some avg10=1.50 avg60=0.25 avg300=0.00 total=77\n
		brig/x/hugetlb.2MB.current: 4096
		brig/x/hugetlb.2MB.rsvd.current: 2097152
		brig/x/hugetlb.2MB.events: max 6\n
		brig/x/hugetlb.1GB.current: 7
		brig/x/rdma.current: mlx5_0 hca_handle=1 hca_object=20\n
		brig/x/rdma.max: mlx5_0 hca_handle=2 hca_object=max\n
		brig/x/memory.stat: anon 11\nfile 22\ninactive_file 33\n
		brig/x/memory.events: low 0\noom 3\noom_kill 2\noom_group_kill 0\n
		brig/x/pids.max: 1
		brig/x/pids.current: 3
		brig/x/io.weight: default 100
		brig/x/io.stat: 8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=4 dios=1\n8:16 rbytes=5 wbytes=0 rios=1 wios=0\n
	`)
	return unified(root), root + "/brig/x/"
}

func TestFake2(t *testing.T) {
	l, dir := fake2(t)
	g, err := l.Create("/brig/x", &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(1000)), Swap: ptr(int64(1500))},
		CPU:     &specs.LinuxCPU{Quota: ptr(int64(5000)), Period: ptr(uint64(10000)), Shares: ptr(uint64(1024))},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(9))},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(1000))},
	})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"memory.max": "1000", "memory.swap.max": "500", "cpu.max": "5000 10000", "pids.max": "9", "io.weight": "10000"} {
		if got := content(t, dir+file); !strings.HasPrefix(got, strings.TrimSpace(want)) { // plain files keep what was longer before
			t.Errorf("%s = %q, want %q", file, got, want)
		}
	}
	if err := g.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr(uint64(20000))}}); err != nil || !strings.HasPrefix(content(t, dir+"cpu.max"), "5000 20000") {
		t.Errorf("a period alone: %q, %v", content(t, dir+"cpu.max"), err)
	}
	s, err := g.Stats()
	want := &Stats{
		CPU: CPU{Usage: CPUUsage{Total: 5000, User: 3000, Kernel: 2000}, Throttling: Throttling{9, 4, 7000}, PSI: &PSI{Some: PSIData{1.5, 0.25, 0, 77}}},
		Memory: Memory{
			Cache: 22, Usage: MemoryEntry{Limit: 1000, Usage: 4096, Max: 8192}, Swap: MemoryEntry{Limit: 1500, Usage: 4103},
			Raw: map[string]uint64{"anon": 11, "file": 22, "inactive_file": 33},
			PSI: &PSI{Some: PSIData{0, 0, 0, 1}, Full: PSIData{0, 0, 0.5, 2}},
		},
		Pids: Pids{3, 9},
		Blkio: Blkio{
			ServiceBytes: []BlkioEntry{{8, 0, "Read", 10}, {8, 0, "Write", 20}, {8, 0, "Discard", 4}, {8, 16, "Read", 5}, {8, 16, "Write", 0}},
			Serviced:     []BlkioEntry{{8, 0, "Read", 1}, {8, 0, "Write", 2}, {8, 0, "Discard", 1}, {8, 16, "Read", 1}, {8, 16, "Write", 0}},
		},
		Hugetlb: map[string]Hugetlb{"2MB": {Usage: 2097152, Failcnt: 6}, "1GB": {Usage: 7}},
		RDMA:    &RDMA{Limit: []RDMAEntry{{"mlx5_0", 2, math.MaxUint32}}, Current: []RDMAEntry{{"mlx5_0", 1, 20}}},
	}
	if err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("Stats = %+v, %v, want %+v", s, err, want)
	}
	if n, err := g.OOMKills(); n != 2 || err != nil {
		t.Errorf("OOMKills = %d, %v", n, err)
	}
	put(t, dir+"cgroup.procs", "12\n7\n")
	put(t, dir+"nested/cgroup.procs", "31\n")
	put(t, dir+"cgroup.events", "populated 1\nfrozen 1\n")
	if p, err := g.OwnPids(); err != nil || !reflect.DeepEqual(p, []int{7, 12}) {
		t.Errorf("OwnPids = %v, %v", p, err)
	}
	if p, err := g.Pids(); err != nil || !reflect.DeepEqual(p, []int{7, 12, 31}) {
		t.Errorf("Pids = %v, %v", p, err)
	}
	if err := g.Freeze(); err != nil || content(t, dir+"cgroup.freeze") != "1" {
		t.Errorf("Freeze: %v", err)
	}
	_, v2, err := g.JoinFiles()
	if err != nil || v2 == nil {
		t.Fatalf("JoinFiles: %v, %v", v2, err)
	}
	v2.Close()
	if paths := g.Paths(); len(paths) != 1 || paths[""]+"/" != dir {
		t.Errorf("Paths = %v", paths)
	}
}

// What was asked for and cannot be kept is an error with a name; what was not asked for is none.
func TestMissing(t *testing.T) {
	l, dir := fake2(t)
	for option, r := range map[string]specs.LinuxResources{
		"linux.resources.memory.reservation":       {Memory: &specs.LinuxMemory{Reservation: ptr(int64(5))}},
		"linux.resources.hugepageLimits":           {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}}},
		"linux.resources.network.classID":          {Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1))}},
		"linux.resources.unified[\"misc.max\"]":    {Unified: map[string]string{"misc.max": "5"}},
		"linux.resources.cpu.burst":                {CPU: &specs.LinuxCPU{Burst: ptr(uint64(5))}},
		"linux.resources.cpu.realtimeRuntime":      {CPU: &specs.LinuxCPU{RealtimeRuntime: ptr(int64(5))}},
		"linux.resources.memory.kernelTCP: cgroup": {Memory: &specs.LinuxMemory{KernelTCP: ptr(int64(5))}},
	} {
		_, err := l.Create("/brig/x", &r)
		if !errors.Is(err, api.Unsupported) || !strings.HasPrefix(err.Error(), option) {
			t.Errorf("%s: %v", option, err)
		}
	}
	if !exists(dir) {
		t.Error("a group that was there before is gone after an error")
	}
	if _, err := l.Create("/brig/y", nil); err != nil {
		t.Errorf("no limits, no files: %v", err)
	}
	if _, err := l.Create("/brig/z", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}}); !errors.Is(err, api.Unsupported) ||
		!strings.Contains(err.Error(), "Delegate=pids") || exists(filepath.Dir(filepath.Clean(dir))+"/z") {
		t.Errorf("a controller that is not handed down: %v", err)
	}
	l1 := &Layout{v1: true, mounts: []mount{{dir: t.TempDir(), controllers: []string{"memory"}}}}
	if _, err := l1.Create("/brig/x", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}}); !errors.Is(err, api.Unsupported) ||
		!strings.Contains(err.Error(), "linux.resources.pids.limit") || !strings.Contains(err.Error(), "not mounted") {
		t.Errorf("a controller that is not mounted: %v", err)
	}
}

// Controllers are enabled from the root down to the parent of the group, not in it.
func TestEnable(t *testing.T) {
	root := tree(t, "cgroup.controllers: cpu memory misc\ncgroup.subtree_control: \na/cgroup.subtree_control: \na/b/cgroup.subtree_control: \na/b/cgroup.controllers: ")
	if _, err := unified(root).Create("/a/b", nil); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/": "+cpu +memory", "/a/": "+cpu +memory", "/a/b/": ""} {
		if got := content(t, root+path+"cgroup.subtree_control"); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func TestCpuset1(t *testing.T) {
	root := tree(t, "cpuset.cpus: 0-3\\n\ncpuset.mems: 0\\n\na/cpuset.cpus: \na/cpuset.mems: \na/b/cpuset.cpus: 2\na/b/cpuset.mems: ")
	for _, dir := range []string{"/a", "/a/b"} {
		if err := inheritCpuset(root + dir); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]string{"/a/cpuset.cpus": "0-3", "/a/cpuset.mems": "0", "/a/b/cpuset.cpus": "2", "/a/b/cpuset.mems": "0"} {
		if got := content(t, root+file); got != want {
			t.Errorf("%s = %q, want %q", file, got, want)
		}
	}
}

func TestReadLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, n := range []int{0, 1, 4095, 4096, 4097, 50000} {
		text := strings.Repeat("x", n)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := readFile(path); err != nil || string(b) != text {
			t.Errorf("%d bytes: %d, %v", n, len(b), err)
		}
	}
	if _, err := readFile(path + "x"); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
}

func TestRetry(t *testing.T) {
	n := 0
	if !retry(time.Second, func() bool { n++; return n == 5 }) || n != 5 {
		t.Errorf("%d tries", n)
	}
	if start := time.Now(); retry(5*time.Millisecond, func() bool { return false }) || time.Since(start) > time.Second {
		t.Error("no bound")
	}
}

func TestStats1(t *testing.T) {
	root := tree(t, `
		c/g/cpuacct.usage: 5000000
		c/g/cpuacct.stat: user 3\nsystem 2\n
		c/g/cpuacct.usage_percpu: 3000000 2000000 \n
		c/g/cpuacct.usage_percpu_sys: 1 2 \n
		c/g/cpuacct.usage_percpu_user: 3 4 \n
		s/g/cpuset.cpus: 0-1,3\n
		s/g/cpuset.mems: 0\n
		s/g/cpuset.sched_load_balance: 1\n
		s/g/cpuset.sched_relax_domain_level: -1\n
		h/g/hugetlb.2MB.usage_in_bytes: 2097152
		h/g/hugetlb.2MB.max_usage_in_bytes: 4194304
		h/g/hugetlb.2MB.failcnt: 1
		c/g/cpu.stat: nr_periods 9\nnr_throttled 4\nthrottled_time 77\n
		m/g/memory.usage_in_bytes: 4096
		m/g/memory.max_usage_in_bytes: 8192
		m/g/memory.limit_in_bytes: 9223372036854771712
		m/g/memory.failcnt: 5
		m/g/memory.memsw.usage_in_bytes: 4100
		m/g/memory.memsw.max_usage_in_bytes: 8200
		m/g/memory.memsw.limit_in_bytes: 1048576
		m/g/memory.kmem.usage_in_bytes: 3
		m/g/memory.kmem.tcp.usage_in_bytes: 2
		m/g/memory.stat: cache 1\nrss 2\ntotal_cache 22\ntotal_rss 11\ntotal_inactive_file 33\ntotal_swap 44\n
		m/g/memory.oom_control: oom_kill_disable 0\nunder_oom 0\noom_kill 6\n
		p/g/pids.current: 3
		p/g/pids.max: max
		b/g/blkio.throttle.io_service_bytes_recursive: 8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n8:16 Read 5\nTotal 35\n
		b/g/blkio.throttle.io_serviced_recursive: 8:0 Read 1\n8:0 Write 2\n
		b/g/blkio.sectors_recursive: 8:0 6\nTotal 6\n
		f/g/freezer.state: FREEZING\n
	`)
	l := &Layout{v1: true, mounts: []mount{
		{dir: root + "/c", controllers: []string{"cpu", "cpuacct"}}, {dir: root + "/m", controllers: []string{"memory"}},
		{dir: root + "/p", controllers: []string{"pids"}}, {dir: root + "/b", controllers: []string{"blkio"}}, {dir: root + "/f", controllers: []string{"freezer"}},
		{dir: root + "/s", controllers: []string{"cpuset"}}, {dir: root + "/h", controllers: []string{"hugetlb"}},
	}}
	g, err := l.Load("/g")
	if err != nil {
		t.Fatal(err)
	}
	s, err := g.Stats()
	want := &Stats{
		CPU: CPU{
			Usage:      CPUUsage{Total: 5000000, PerCPU: []uint64{3000000, 2000000}, PerCPUKernel: []uint64{1, 2}, PerCPUUser: []uint64{3, 4}, Kernel: 20000000, User: 30000000},
			Throttling: Throttling{9, 4, 77},
		},
		CPUSet: CPUSet{CPUs: []uint16{0, 1, 3}, Mems: []uint16{0}, SchedLoadBalance: 1, SchedRelaxDomainLevel: -1},
		Memory: Memory{
			Cache: 1, Usage: MemoryEntry{9223372036854771712, 4096, 8192, 5}, Swap: MemoryEntry{1 << 20, 4100, 8200, 0},
			Kernel: MemoryEntry{Usage: 3}, KernelTCP: MemoryEntry{Usage: 2},
			Raw: map[string]uint64{"cache": 1, "rss": 2, "total_cache": 22, "total_rss": 11, "total_inactive_file": 33, "total_swap": 44},
		},
		Pids: Pids{3, 0},
		Blkio: Blkio{
			ServiceBytes: []BlkioEntry{{8, 0, "Read", 10}, {8, 0, "Write", 20}, {8, 0, "Total", 30}, {8, 16, "Read", 5}},
			Serviced:     []BlkioEntry{{8, 0, "Read", 1}, {8, 0, "Write", 2}},
			Sectors:      []BlkioEntry{{8, 0, "", 6}},
		},
		Hugetlb: map[string]Hugetlb{"2MB": {2097152, 4194304, 1}},
	}
	if err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("Stats = %+v, %v, want %+v", s, err, want)
	}
	if n, err := g.OOMKills(); n != 6 || err != nil {
		t.Errorf("OOMKills = %d, %v", n, err)
	}
	if is, err := g.Frozen(); is || err != nil {
		t.Errorf("FREEZING is not frozen yet: %v, %v", is, err)
	}
	if want := []string{"b", "c", "c", "f", "h", "m", "p", "s"}; len(g.Paths()) != len(want) {
		t.Errorf("Paths = %v", g.Paths())
	}
	if !g.l.Has("cpuacct") || g.l.SwapLimit() {
		t.Error("Has, SwapLimit")
	}
}

// What the kernel refuses is explained by its kind.
func TestWriteErrors(t *testing.T) {
	l, dir := fake2(t)
	g, err := l.Load("/brig/x")
	if err != nil {
		t.Fatal(err)
	}
	// A folder in the place of a file gives EISDIR: an error without a kind, but with option and path.
	if err := os.Remove(dir + "pids.max"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"pids.max", 0o755); err != nil {
		t.Fatal(err)
	}
	err = g.Set(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(4))}})
	if !errors.Is(err, unix.EISDIR) || !strings.Contains(err.Error(), "linux.resources.pids.limit") || !strings.Contains(err.Error(), dir+"pids.max") || api.KindOf(err) != "" {
		t.Errorf("%v", err)
	}
	err = g.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(5)), CheckBeforeUpdate: ptr(true)}})
	if !errors.Is(err, api.Conflict) {
		t.Errorf("less memory than is in use: %v", err)
	}
	if _, err := l.Load("/brig/none"); !errors.Is(err, api.NotFound) {
		t.Errorf("a group that is not there: %v", err)
	}
	if p, err := (&Group{l: l, path: "/brig/none", dirs: []string{filepath.Dir(filepath.Clean(dir)) + "/none"}}).Pids(); len(p) != 0 || err != nil {
		t.Errorf("Pids of a group that is not there: %v, %v", p, err)
	}
}
