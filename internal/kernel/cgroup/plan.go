package cgroup

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// knob is one write to one file of a group.
type knob struct {
	controller string
	v2         bool
	file       string
	value      string
	field      string // of the OCI spec, that asked for it
	optional   bool   // a kernel that does not have the file has nothing to limit
	once       bool   // not written where it stands so already
	alt        *knob  // written instead where the file is missing
}

// planner turns the fields of the OCI spec (config-linux.md, "Control groups") into knobs.
type planner struct {
	l     *Layout
	knobs []knob
	err   error
}

// plan lists the writes that r asks for, in their order. Device rules are apart, see devices.go.
func (l *Layout) plan(r *specs.LinuxResources) ([]knob, error) {
	p := &planner{l: l}
	if r.Memory != nil {
		p.memory(r.Memory)
	}
	if r.CPU != nil {
		p.cpu(r.CPU)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		value := limit(*r.Pids.Limit)
		if *r.Pids.Limit == 0 {
			value = "1" // systemd knows no TasksMax of 0, and 1 lets as little fork: so does runc since 1.4, with both drivers
		}
		p.set(p.on("pids", "pids"), "pids.max", value, "linux.resources.pids.limit")
	}
	if r.BlockIO != nil {
		p.blockIO(r.BlockIO)
	}
	for _, h := range r.HugepageLimits {
		p.hugepages(h)
	}
	if r.Network != nil {
		p.network(r.Network)
	}
	p.rdma(r.Rdma)
	p.unified(r.Unified)
	return p.knobs, p.err
}

// Asks names the first field of r that asks for a limit, "" where none does; device rules do not count.
func Asks(r *specs.LinuxResources) string {
	if r == nil {
		return ""
	}
	knobs, _ := (&Layout{v1: true}).plan(r) // without a mount all is version 1's, which has every field but one
	switch {
	case len(knobs) > 0:
		return knobs[0].field
	case len(r.Unified) > 0:
		return "linux.resources.unified"
	}
	return ""
}

// needs lists the v2 controllers that r asks for.
func needs(l *Layout, r *specs.LinuxResources) []string {
	if r == nil {
		return nil
	}
	knobs, err := l.plan(r)
	if err != nil {
		return nil // Set says it
	}
	var list []string
	for _, k := range knobs {
		if k.v2 && k.controller != "cgroup" && !slices.Contains(list, k.controller) {
			list = append(list, k.controller)
		}
	}
	return list
}

// side is a controller in one of the two versions.
type side struct {
	controller string
	v2         bool
}

// on finds where a controller lives: version 1 where it is mounted there, else version 2.
func (p *planner) on(v1, v2 string) side {
	if p.l.find(v1) != nil || p.l.unifiedMount() == nil {
		return side{v1, false}
	}
	return side{v2, true}
}

func (p *planner) set(s side, file, value, field string) {
	p.knobs = append(p.knobs, knob{controller: s.controller, v2: s.v2, file: file, value: value, field: field})
}

func (p *planner) setOptional(s side, file, value, field string) {
	p.set(s, file, value, field)
	p.last().optional = true
}

func (p *planner) last() *knob { return &p.knobs[len(p.knobs)-1] }

// fail keeps the first error.
func (p *planner) fail(kind api.Kind, format string, args ...any) {
	if p.err == nil {
		p.err = api.Errorf(kind, format, args...)
	}
}

// only1 refuses what version 2 has no file for.
func (p *planner) only1(field, instead string) {
	p.fail(api.Unsupported, "%s: cgroup version 2 has no such limit%s", field, instead)
}

// limit writes a number where -1 is none.
func limit(n int64) string {
	if n <= 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

func asked(n *int64) bool { return n != nil && *n != 0 }

func (p *planner) memory(m *specs.LinuxMemory) {
	s := p.on("memory", "memory")
	var max, swap int64
	if m.Limit != nil {
		max = *m.Limit
	}
	if m.Swap != nil {
		swap = *m.Swap
	}
	if max == -1 && swap == 0 {
		swap = -1 // memory and swap are one limit on version 1: the larger must go with the smaller
	}
	if s.v2 {
		p.memory2(s, m, max, swap)
		return
	}
	if m.UseHierarchy != nil {
		value := "0"
		if *m.UseHierarchy {
			value = "1"
		}
		p.set(s, "memory.use_hierarchy", value, "linux.resources.memory.useHierarchy")
		p.last().once = true
	}
	if max != 0 {
		p.set(s, "memory.limit_in_bytes", strconv.FormatInt(max, 10), "linux.resources.memory.limit")
	}
	if swap != 0 {
		p.set(s, "memory.memsw.limit_in_bytes", strconv.FormatInt(swap, 10), "linux.resources.memory.swap")
		p.last().optional = swap == -1
	}
	if asked(m.Reservation) {
		p.set(s, "memory.soft_limit_in_bytes", strconv.FormatInt(*m.Reservation, 10), "linux.resources.memory.reservation")
	}
	// memory.kernel is not written: no kernel since 5.4 keeps such a limit, and the spec lets a runtime pass over it.
	if asked(m.KernelTCP) {
		p.set(s, "memory.kmem.tcp.limit_in_bytes", strconv.FormatInt(*m.KernelTCP, 10), "linux.resources.memory.kernelTCP")
	}
	if m.Swappiness != nil {
		p.set(s, "memory.swappiness", strconv.FormatUint(*m.Swappiness, 10), "linux.resources.memory.swappiness")
	}
	if m.DisableOOMKiller != nil {
		value := "0"
		if *m.DisableOOMKiller {
			value = "1"
		}
		p.set(s, "memory.oom_control", value, "linux.resources.memory.disableOOMKiller")
		p.last().optional = !*m.DisableOOMKiller
	}
}

// memory2 writes the swap limit first, as runc does: under a lowered memory limit nothing shall go to swap that may not be there.
func (p *planner) memory2(s side, m *specs.LinuxMemory, max, swap int64) {
	if m.UseHierarchy != nil && !*m.UseHierarchy {
		p.only1("linux.resources.memory.useHierarchy", ": it always counts what lies below a group")
	}
	value, set, err := swap2(max, swap)
	if err != nil && p.err == nil {
		p.err = err
	}
	if set {
		p.set(s, "memory.swap.max", value, "linux.resources.memory.swap")
		p.last().optional = value == "max" || value == "0" // without swap accounting there is no swap to limit
	}
	if max != 0 {
		p.set(s, "memory.max", limit(max), "linux.resources.memory.limit")
	}
	if asked(m.Reservation) {
		p.set(s, "memory.low", limit(*m.Reservation), "linux.resources.memory.reservation")
	}
	if asked(m.KernelTCP) {
		p.only1("linux.resources.memory.kernelTCP", ": its memory limit counts socket buffers")
	}
	if m.Swappiness != nil {
		p.only1("linux.resources.memory.swappiness", ": linux.resources.memory.swap bounds swap")
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		p.only1("linux.resources.memory.disableOOMKiller", "")
	}
}

// swap2 turns the spec's swap, which counts memory and swap together, into version 2's, which counts swap alone. 0 leaves it as it is.
func swap2(max, swap int64) (value string, set bool, err error) {
	switch {
	case swap == 0:
		return "", false, nil
	case swap < 0:
		return "max", true, nil
	case max <= 0:
		return "", false, api.Errorf(api.InvalidArgument, "linux.resources.memory.swap %d: it counts memory and swap together, and on cgroup version 2 "+
			"it needs a linux.resources.memory.limit beside it", swap)
	}
	return strconv.FormatInt(swap-max, 10), true, nil
}

func (p *planner) cpu(c *specs.LinuxCPU) {
	s := p.on("cpu", "cpu")
	if s.v2 {
		p.cpu2(s, c)
	} else {
		p.cpu1(s, c)
	}
	if c.Idle != nil { // behind the shares: the kernel takes none from a group that is idle
		p.set(s, "cpu.idle", strconv.FormatInt(*c.Idle, 10), "linux.resources.cpu.idle")
	}
	set := p.on("cpuset", "cpuset")
	if c.Cpus != "" {
		p.set(set, "cpuset.cpus", c.Cpus, "linux.resources.cpu.cpus")
	}
	if c.Mems != "" {
		p.set(set, "cpuset.mems", c.Mems, "linux.resources.cpu.mems")
	}
}

func (p *planner) cpu1(s side, c *specs.LinuxCPU) {
	if c.Shares != nil && *c.Shares != 0 {
		if *c.Shares < leastShares || *c.Shares > mostShares { // the kernel would take the nearest, and say nothing
			p.fail(api.InvalidArgument, "linux.resources.cpu.shares %d: the kernel keeps %d to %d", *c.Shares, leastShares, mostShares)
		}
		p.set(s, "cpu.shares", strconv.FormatUint(*c.Shares, 10), "linux.resources.cpu.shares")
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		p.set(s, "cpu.rt_period_us", strconv.FormatUint(*c.RealtimePeriod, 10), "linux.resources.cpu.realtimePeriod")
	}
	if asked(c.RealtimeRuntime) {
		p.set(s, "cpu.rt_runtime_us", strconv.FormatInt(*c.RealtimeRuntime, 10), "linux.resources.cpu.realtimeRuntime")
	}
	if c.Period != nil && *c.Period != 0 {
		p.set(s, "cpu.cfs_period_us", strconv.FormatUint(*c.Period, 10), "linux.resources.cpu.period")
	}
	if asked(c.Quota) {
		p.set(s, "cpu.cfs_quota_us", strconv.FormatInt(*c.Quota, 10), "linux.resources.cpu.quota")
	}
	if c.Burst != nil {
		p.set(s, "cpu.cfs_burst_us", strconv.FormatUint(*c.Burst, 10), "linux.resources.cpu.burst")
	}
}

func (p *planner) cpu2(s side, c *specs.LinuxCPU) {
	if c.Shares != nil && *c.Shares != 0 {
		p.set(s, "cpu.weight", strconv.FormatUint(CPUWeight(*c.Shares), 10), "linux.resources.cpu.shares")
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		p.only1("linux.resources.cpu.realtimePeriod", "")
	}
	if asked(c.RealtimeRuntime) {
		p.only1("linux.resources.cpu.realtimeRuntime", "")
	}
	period := c.Period != nil && *c.Period != 0
	if asked(c.Quota) || period {
		value, field := "", "linux.resources.cpu.period" // an empty quota stands for the present one, filled in when written
		if asked(c.Quota) {
			value, field = limit(*c.Quota), "linux.resources.cpu.quota"
		}
		if period {
			value += " " + strconv.FormatUint(*c.Period, 10)
		}
		p.set(s, "cpu.max", value, field)
	}
	if c.Burst != nil {
		p.set(s, "cpu.max.burst", strconv.FormatUint(*c.Burst, 10), "linux.resources.cpu.burst")
	}
}

// Bounds of cpu.shares (kernel/sched/sched.h, MIN_SHARES and MAX_SHARES).
const leastShares, mostShares = 2, 1 << 18

// CPUWeight maps shares (2 to 262144, default 1024) to a weight (1 to 10000, default 100) so that least, default and most fall on each
// other: the quadratic through those three points in logarithms, on which crun 1.23 and runc 1.3.2 agreed.
func CPUWeight(shares uint64) uint64 {
	switch {
	case shares <= leastShares:
		return 1
	case shares >= mostShares:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func (p *planner) hugepages(h specs.LinuxHugepageLimit) {
	s := p.on("hugetlb", "hugetlb")
	suffix := ".limit_in_bytes"
	if s.v2 {
		suffix = ".max"
	}
	value := strconv.FormatUint(h.Limit, 10)
	p.set(s, "hugetlb."+h.Pagesize+suffix, value, "linux.resources.hugepageLimits")
	p.setOptional(s, "hugetlb."+h.Pagesize+".rsvd"+suffix, value, "linux.resources.hugepageLimits") // Linux 5.7
}

func (p *planner) network(n *specs.LinuxNetwork) {
	if n.ClassID != nil && *n.ClassID != 0 {
		p.set(side{"net_cls", false}, "net_cls.classid", strconv.FormatUint(uint64(*n.ClassID), 10), "linux.resources.network.classID")
	}
	for _, prio := range n.Priorities {
		value := prio.Name + " " + strconv.FormatUint(uint64(prio.Priority), 10)
		p.set(side{"net_prio", false}, "net_prio.ifpriomap", value, "linux.resources.network.priorities")
	}
}

func (p *planner) rdma(devices map[string]specs.LinuxRdma) {
	for _, device := range sorted(devices) {
		value, limits := device, devices[device]
		if limits.HcaHandles != nil {
			value += " hca_handle=" + strconv.FormatUint(uint64(*limits.HcaHandles), 10)
		}
		if limits.HcaObjects != nil {
			value += " hca_object=" + strconv.FormatUint(uint64(*limits.HcaObjects), 10)
		}
		p.set(p.on("rdma", "rdma"), "rdma.max", value, "linux.resources.rdma")
	}
}

// unified takes files of version 2 as they are, in the order of their names, a write for each line of a value. Validate has looked at
// the names.
func (p *planner) unified(files map[string]string) {
	if len(files) == 0 {
		return
	}
	if p.l.unifiedMount() == nil {
		p.fail(api.Unsupported, "linux.resources.unified: cgroup version 2 is not mounted")
		return
	}
	for _, name := range sorted(files) {
		controller, _, _ := strings.Cut(name, ".")
		for line := range strings.SplitSeq(strings.TrimRight(files[name], "\n"), "\n") {
			p.set(side{controller, true}, name, line, "linux.resources.unified["+strconv.Quote(name)+"]")
		}
	}
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
