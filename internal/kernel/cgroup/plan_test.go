package cgroup

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// layouts without files, for plans alone.
var (
	only1 = &Layout{v1: true, mounts: []mount{
		{dir: "/1", controllers: []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb", "rdma", "devices", "freezer", "net_cls", "net_prio"}},
	}}
	only2 = &Layout{v2: true, mounts: []mount{{dir: "/2", v2: true, controllers: []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma"}}}}
	both  = &Layout{v1: true, v2: true, mounts: []mount{{dir: "/1", controllers: []string{"memory"}}, {dir: "/2", v2: true, controllers: []string{"io"}}}}
)

// shown is a plan as text, "file=value" a knob; a question mark is for knobs that may be missing, a bar for the alternative.
func shown(knobs []knob) string {
	var list []string
	for _, k := range knobs {
		s := k.file + "=" + k.value
		if k.optional {
			s += "?"
		}
		if k.alt != nil {
			s += "|" + k.alt.file + "=" + k.alt.value
		}
		list = append(list, s)
	}
	return strings.Join(list, "; ")
}

func weightDevice(major, minor int64, weight uint16) (d specs.LinuxWeightDevice) {
	d.Major, d.Minor, d.Weight = major, minor, &weight
	return d
}

func TestPlan(t *testing.T) {
	memory := func(m specs.LinuxMemory) specs.LinuxResources { return specs.LinuxResources{Memory: &m} }
	cpu := func(c specs.LinuxCPU) specs.LinuxResources { return specs.LinuxResources{CPU: &c} }
	for _, c := range []struct {
		name   string
		r      specs.LinuxResources
		v1, v2 string // what is written; "!kind" for an error
	}{
		{"nothing", specs.LinuxResources{}, "", ""},
		{"empty", specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, Pids: &specs.LinuxPids{}, BlockIO: &specs.LinuxBlockIO{}, Network: &specs.LinuxNetwork{}}, "", ""},
		{"memory", memory(specs.LinuxMemory{Limit: ptr(int64(100))}), "memory.limit_in_bytes=100", "memory.max=100"},
		{"memory and swap", memory(specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(300))}),
			"memory.limit_in_bytes=100; memory.memsw.limit_in_bytes=300", "memory.swap.max=200; memory.max=100"},
		{"no swap", memory(specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(100))}),
			"memory.limit_in_bytes=100; memory.memsw.limit_in_bytes=100", "memory.swap.max=0?; memory.max=100"},
		{"unlimited swap", memory(specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(-1))}),
			"memory.limit_in_bytes=100; memory.memsw.limit_in_bytes=-1?", "memory.swap.max=max?; memory.max=100"},
		{"unlimited", memory(specs.LinuxMemory{Limit: ptr(int64(-1))}),
			"memory.limit_in_bytes=-1; memory.memsw.limit_in_bytes=-1?", "memory.swap.max=max?; memory.max=max"},
		{"swap alone", memory(specs.LinuxMemory{Swap: ptr(int64(50))}), "memory.memsw.limit_in_bytes=50", "!invalid argument"},
		{"reservation", memory(specs.LinuxMemory{Reservation: ptr(int64(7))}), "memory.soft_limit_in_bytes=7", "memory.low=7"},
		{"swappiness", memory(specs.LinuxMemory{Swappiness: ptr(uint64(0))}), "memory.swappiness=0", "!not supported"},
		{"oom kill disable", memory(specs.LinuxMemory{DisableOOMKiller: ptr(true)}), "memory.oom_control=1", "!not supported"},
		{"oom kill", memory(specs.LinuxMemory{DisableOOMKiller: ptr(false), Kernel: ptr(int64(5))}), "memory.oom_control=0?", ""},
		{"hierarchy", memory(specs.LinuxMemory{UseHierarchy: ptr(true)}), "memory.use_hierarchy=1", ""},
		{"no hierarchy", memory(specs.LinuxMemory{UseHierarchy: ptr(false)}), "memory.use_hierarchy=0", "!not supported"},
		{"few shares", cpu(specs.LinuxCPU{Shares: ptr(uint64(1))}), "!invalid argument", "cpu.weight=1"},
		{"many shares", cpu(specs.LinuxCPU{Shares: ptr(uint64(262145))}), "!invalid argument", "cpu.weight=10000"},
		{"shares before idle", cpu(specs.LinuxCPU{Shares: ptr(uint64(2)), Idle: ptr(int64(1))}), "cpu.shares=2; cpu.idle=1", "cpu.weight=1; cpu.idle=1"},
		{"kernel tcp", memory(specs.LinuxMemory{KernelTCP: ptr(int64(9))}), "memory.kmem.tcp.limit_in_bytes=9", "!not supported"},
		{"shares", cpu(specs.LinuxCPU{Shares: ptr(uint64(1024))}), "cpu.shares=1024", "cpu.weight=100"},
		{"quota", cpu(specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Burst: ptr(uint64(10))}),
			"cpu.cfs_period_us=100000; cpu.cfs_quota_us=50000; cpu.cfs_burst_us=10", "cpu.max=50000 100000; cpu.max.burst=10"},
		{"quota alone", cpu(specs.LinuxCPU{Quota: ptr(int64(-1))}), "cpu.cfs_quota_us=-1", "cpu.max=max"},
		{"period alone", cpu(specs.LinuxCPU{Period: ptr(uint64(5000))}), "cpu.cfs_period_us=5000", "cpu.max= 5000"},
		{"real time", cpu(specs.LinuxCPU{RealtimePeriod: ptr(uint64(5)), RealtimeRuntime: ptr(int64(4))}), "cpu.rt_period_us=5; cpu.rt_runtime_us=4", "!not supported"},
		{"cpuset", cpu(specs.LinuxCPU{Cpus: "0-1", Mems: "0", Idle: ptr(int64(1))}), "cpu.idle=1; cpuset.cpus=0-1; cpuset.mems=0", "cpu.idle=1; cpuset.cpus=0-1; cpuset.mems=0"},
		{"pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}}, "pids.max=5", "pids.max=5"},
		{"no pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}}, "pids.max=1", "pids.max=1"},
		{"no pids limit", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, "pids.max=max", "pids.max=max"},
		{"weight", specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(500)), WeightDevice: []specs.LinuxWeightDevice{weightDevice(8, 0, 1000)}}},
			"blkio.bfq.weight=500|blkio.weight=500; blkio.bfq.weight_device=8:0 1000|blkio.weight_device=8:0 1000",
			"io.bfq.weight=500|io.weight=4950; io.bfq.weight=8:0 1000|io.weight=8:0 10000"},
		{"leaf weight", specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr(uint16(10))}}, "blkio.leaf_weight=10", "!not supported"},
		{"throttle", specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
			ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttle(8, 0, 1)}, ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{throttle(8, 1, 2)},
			ThrottleReadIOPSDevice: []specs.LinuxThrottleDevice{throttle(8, 2, 3)}, ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{throttle(8, 3, 0)}}},
			"blkio.throttle.read_bps_device=8:0 1; blkio.throttle.write_bps_device=8:1 2; blkio.throttle.read_iops_device=8:2 3; blkio.throttle.write_iops_device=8:3 0",
			"io.max=8:0 rbps=1; io.max=8:1 wbps=2; io.max=8:2 riops=3; io.max=8:3 wiops=max"},
		{"hugepages", specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4}}},
			"hugetlb.2MB.limit_in_bytes=4; hugetlb.2MB.rsvd.limit_in_bytes=4?", "hugetlb.2MB.max=4; hugetlb.2MB.rsvd.max=4?"},
		{"rdma", specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx": {HcaHandles: ptr(uint32(1)), HcaObjects: ptr(uint32(2))}}},
			"rdma.max=mlx hca_handle=1 hca_object=2", "rdma.max=mlx hca_handle=1 hca_object=2"},
		{"network", specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(7)), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 3}}}},
			"net_cls.classid=7; net_prio.ifpriomap=eth0 3", "net_cls.classid=7; net_prio.ifpriomap=eth0 3"}, // refused when written: see TestMissing
		{"unified", specs.LinuxResources{Unified: map[string]string{"pids.max": "9", "memory.high": "1"}}, "!not supported", "memory.high=1; pids.max=9"},
		{"unified lines", specs.LinuxResources{Unified: map[string]string{"io.max": "8:0 rbps=1\n8:16 wbps=2\n", "cgroup.max.depth": "3"}},
			"!not supported", "cgroup.max.depth=3; io.max=8:0 rbps=1; io.max=8:16 wbps=2"},
	} {
		for i, l := range []*Layout{only1, only2} {
			want := []string{c.v1, c.v2}[i]
			knobs, err := l.plan(&c.r)
			got := shown(knobs)
			if err != nil {
				got = "!" + string(api.KindOf(err))
			}
			if got != want {
				t.Errorf("%s on %s: %q (%v), want %q", c.name, l.Mode(), got, err, want)
			}
		}
	}
}

// On a hybrid machine a controller is used where it is.
func TestPlanHybrid(t *testing.T) {
	knobs, err := both.plan(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(5))}, BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(10))}})
	if err != nil || shown(knobs) != "memory.limit_in_bytes=5; io.bfq.weight=10|io.weight=1" || knobs[0].v2 || !knobs[1].v2 {
		t.Errorf("%s, %v", shown(knobs), err)
	}
	if both.Mode() != "hybrid" || only1.Mode() != "v1" || only2.Mode() != "v2" || both.V2() || !only2.V2() {
		t.Error("modes")
	}
	if !both.Has("io") || !both.Has("memory") || both.Has("pids") {
		t.Error("Has")
	}
}

func TestWeights(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 3: 2, 512: 59, 1024: 100, 2048: 174, 4096: 303, 262144: 10000, 1 << 40: 10000} {
		if got := CPUWeight(shares); got != want {
			t.Errorf("CPUWeight(%d) = %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for shares := uint64(2); shares <= 262144; shares *= 2 {
		if w := CPUWeight(shares); w < last || w < 1 || w > 10000 {
			t.Errorf("CPUWeight(%d) = %d after %d", shares, w, last)
		} else {
			last = w
		}
	}
	for weight, want := range map[uint64]uint64{10: 1, 1000: 10000, 5: 1, 2000: 10000} {
		if got := IOWeight(weight); got != want {
			t.Errorf("IOWeight(%d) = %d, want %d", weight, got, want)
		}
	}
}

func TestResolveDevices(t *testing.T) {
	rule := func(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		r := specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
		if major != wild {
			r.Major = &major
		}
		if minor != wild {
			r.Minor = &minor
		}
		return r
	}
	denyAll, allowAll := rule(false, "a", wild, wild, "rwm"), rule(true, "", wild, wild, "")
	for _, c := range []struct {
		name  string
		rules []specs.LinuxDeviceCgroup
		want  string
	}{
		{"none", nil, "allow"},
		{"deny all", []specs.LinuxDeviceCgroup{denyAll}, "deny"},
		{"some", []specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, 3, "rw"), rule(true, "b", wild, wild, "m")}, "deny; c 1:3 rw; b *:* m"},
		{"merged", []specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, 3, "r"), rule(true, "c", 1, 3, "wm")}, "deny; c 1:3 rwm"},
		{"all after", []specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, 3, "r"), allowAll}, "allow"},
		{"forgotten", []specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, 3, "r"), denyAll}, "deny"},
		{"taken back", []specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, 3, "rw"), rule(false, "c", 1, 3, "w")}, "deny; c 1:3 r"},
		{"taken back by range", []specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, 3, "rw"), rule(true, "b", 1, 3, "r"), rule(false, "c", 1, wild, "rwm")}, "deny; b 1:3 r"},
		{"denied twice", []specs.LinuxDeviceCgroup{denyAll, rule(false, "c", 1, 3, "w")}, "deny"},
		{"hole", []specs.LinuxDeviceCgroup{denyAll, rule(true, "c", 1, wild, "rw"), rule(false, "c", 1, 3, "w")}, "!not supported"},
		{"all but", []specs.LinuxDeviceCgroup{allowAll, rule(false, "b", 8, wild, "w")}, "allow; b 8:* w"},
		{"unbuffered", []specs.LinuxDeviceCgroup{denyAll, rule(true, "u", 1, 3, "r"), rule(true, "p", wild, wild, "r")}, "deny; c 1:3 r"},
		{"access", []specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "x")}, "!invalid argument"},
		{"type", []specs.LinuxDeviceCgroup{rule(true, "d", 1, 3, "r")}, "!invalid argument"},
		{"all of one", []specs.LinuxDeviceCgroup{rule(true, "a", 1, 3, "rwm")}, "!invalid argument"},
	} {
		set, err := resolveDevices(c.rules)
		list := []string{map[bool]string{true: "allow", false: "deny"}[set.allow]}
		for _, e := range set.exceptions {
			list = append(list, e.line())
		}
		got := strings.Join(list, "; ")
		if err != nil {
			got = "!" + string(api.KindOf(err))
		}
		if got != c.want {
			t.Errorf("%s: %q (%v), want %q", c.name, got, err, c.want)
		}
	}
	if set, err := resolveDevices(DefaultDevices()); err != nil || set.allow || len(set.exceptions) != 10 {
		t.Errorf("DefaultDevices: %+v, %v", set, err)
	}
}

func TestGroupPath(t *testing.T) {
	for path, want := range map[string]string{"/a": "/a", "/a/b/": "/a/b", "/a/./b": "/a/b", "//a": "/a"} {
		if g, err := only2.group(path); err != nil || g.Path() != want {
			t.Errorf("%q: %v, %v", path, g, err)
		}
	}
	for _, path := range []string{"", "/", ".", "/..", "/a/../b", "../a", "/a\nb", "/" + strings.Repeat("x", 256), strings.Repeat("/x", 2048)} {
		if _, err := only2.group(path); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%q: %v", path, err)
		}
	}
	if !slices.Equal(needs(only2, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}, CPU: &specs.LinuxCPU{Cpus: "0"}}), []string{"cpuset", "pids"}) {
		t.Error("needs")
	}
}
