package cgroup

import (
	"math"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// knob is one write to one file of a group.
type knob struct {
	controller string
	v2         bool
	file       string
	value      string
	option     string // docker's option, or the field of the OCI spec, that asked for it
	optional   bool   // a kernel that does not have the file has nothing to limit
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
		p.set(p.on("pids", "pids"), "pids.max", limit(*r.Pids.Limit), "--pids-limit")
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
	for device, limits := range r.Rdma {
		value := device
		if limits.HcaHandles != nil {
			value += " hca_handle=" + strconv.FormatUint(uint64(*limits.HcaHandles), 10)
		}
		if limits.HcaObjects != nil {
			value += " hca_object=" + strconv.FormatUint(uint64(*limits.HcaObjects), 10)
		}
		p.set(p.on("rdma", "rdma"), "rdma.max", value, "linux.resources.rdma")
	}
	p.unified(r.Unified)
	return p.knobs, p.err
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
		if k.v2 && !slices.Contains(list, k.controller) {
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

func (p *planner) set(s side, file, value, option string) {
	p.knobs = append(p.knobs, knob{controller: s.controller, v2: s.v2, file: file, value: value, option: option})
}

func (p *planner) setOptional(s side, file, value, option string) {
	p.set(s, file, value, option)
	p.knobs[len(p.knobs)-1].optional = true
}

// fail keeps the first error.
func (p *planner) fail(kind api.Kind, format string, args ...any) {
	if p.err == nil {
		p.err = api.Errorf(kind, format, args...)
	}
}

// only1 refuses what version 2 has no file for.
func (p *planner) only1(option, instead string) {
	p.fail(api.Unsupported, "%s: cgroup version 2 has no such limit%s", option, instead)
}

// limit writes a number where -1 (and 0, as docker has it) is none.
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
	if swap > 0 && (max > swap || max == -1) {
		p.fail(api.InvalidArgument, "--memory-swap %d: it counts memory and swap together and cannot be less than --memory %d", swap, max)
	}
	if s.v2 {
		p.memory2(s, m, max, swap)
		return
	}
	if max != 0 {
		p.set(s, "memory.limit_in_bytes", strconv.FormatInt(max, 10), "--memory")
	}
	if swap != 0 {
		p.set(s, "memory.memsw.limit_in_bytes", strconv.FormatInt(swap, 10), "--memory-swap")
		p.knobs[len(p.knobs)-1].optional = swap == -1
	}
	if asked(m.Reservation) {
		p.set(s, "memory.soft_limit_in_bytes", strconv.FormatInt(*m.Reservation, 10), "--memory-reservation")
	}
	if asked(m.KernelTCP) {
		p.set(s, "memory.kmem.tcp.limit_in_bytes", strconv.FormatInt(*m.KernelTCP, 10), "linux.resources.memory.kernelTCP")
	}
	if m.Swappiness != nil {
		p.set(s, "memory.swappiness", strconv.FormatUint(*m.Swappiness, 10), "--memory-swappiness")
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		p.set(s, "memory.oom_control", "1", "--oom-kill-disable")
	}
}

func (p *planner) memory2(s side, m *specs.LinuxMemory, max, swap int64) {
	if max != 0 {
		p.set(s, "memory.max", limit(max), "--memory")
	}
	switch {
	case swap > 0 && max == 0:
		p.fail(api.InvalidArgument, "--memory-swap %d: it counts memory and swap together and needs --memory beside it", swap)
	case swap > 0:
		p.set(s, "memory.swap.max", strconv.FormatInt(swap-max, 10), "--memory-swap")
	case swap == -1:
		p.setOptional(s, "memory.swap.max", "max", "--memory-swap")
	}
	if asked(m.Reservation) {
		p.set(s, "memory.low", limit(*m.Reservation), "--memory-reservation")
	}
	if asked(m.KernelTCP) {
		p.only1("linux.resources.memory.kernelTCP", ": its memory limit counts socket buffers")
	}
	if m.Swappiness != nil {
		p.only1("--memory-swappiness", ": --memory-swap bounds swap")
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		p.only1("--oom-kill-disable", "")
	}
}

func (p *planner) cpu(c *specs.LinuxCPU) {
	s := p.on("cpu", "cpu")
	if c.Idle != nil {
		p.set(s, "cpu.idle", strconv.FormatInt(*c.Idle, 10), "linux.resources.cpu.idle")
	}
	if s.v2 {
		p.cpu2(s, c)
	} else {
		p.cpu1(s, c)
	}
	set := p.on("cpuset", "cpuset")
	if c.Cpus != "" {
		p.set(set, "cpuset.cpus", c.Cpus, "--cpuset-cpus")
	}
	if c.Mems != "" {
		p.set(set, "cpuset.mems", c.Mems, "--cpuset-mems")
	}
}

func (p *planner) cpu1(s side, c *specs.LinuxCPU) {
	if c.Shares != nil && *c.Shares != 0 {
		p.set(s, "cpu.shares", strconv.FormatUint(*c.Shares, 10), "--cpu-shares")
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		p.set(s, "cpu.rt_period_us", strconv.FormatUint(*c.RealtimePeriod, 10), "--cpu-rt-period")
	}
	if asked(c.RealtimeRuntime) {
		p.set(s, "cpu.rt_runtime_us", strconv.FormatInt(*c.RealtimeRuntime, 10), "--cpu-rt-runtime")
	}
	if c.Period != nil && *c.Period != 0 {
		p.set(s, "cpu.cfs_period_us", strconv.FormatUint(*c.Period, 10), "--cpu-period")
	}
	if asked(c.Quota) {
		p.set(s, "cpu.cfs_quota_us", strconv.FormatInt(*c.Quota, 10), "--cpu-quota")
	}
	if c.Burst != nil {
		p.set(s, "cpu.cfs_burst_us", strconv.FormatUint(*c.Burst, 10), "linux.resources.cpu.burst")
	}
}

func (p *planner) cpu2(s side, c *specs.LinuxCPU) {
	if c.Shares != nil && *c.Shares != 0 {
		p.set(s, "cpu.weight", strconv.FormatUint(cpuWeight(*c.Shares), 10), "--cpu-shares")
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		p.only1("--cpu-rt-period", "")
	}
	if asked(c.RealtimeRuntime) {
		p.only1("--cpu-rt-runtime", "")
	}
	period := c.Period != nil && *c.Period != 0
	if asked(c.Quota) || period {
		value := "" // an empty quota stands for the present one, filled in when written
		if asked(c.Quota) {
			value = limit(*c.Quota)
		}
		if period {
			value += " " + strconv.FormatUint(*c.Period, 10)
		}
		p.set(s, "cpu.max", value, "--cpu-quota")
	}
	if c.Burst != nil {
		p.set(s, "cpu.max.burst", strconv.FormatUint(*c.Burst, 10), "linux.resources.cpu.burst")
	}
}

// cpuWeight maps shares (2 to 262144, default 1024) to a weight (1 to 10000, default 100) so that least, default and most fall on each
// other: the quadratic through those three points in logarithms, on which crun 1.23 and runc 1.3.2 agreed.
func cpuWeight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
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

// unified takes files of version 2 as they are, in the order of their names.
func (p *planner) unified(files map[string]string) {
	if len(files) == 0 {
		return
	}
	if p.l.unifiedMount() == nil {
		p.fail(api.Unsupported, "linux.resources.unified: cgroup version 2 is not mounted")
		return
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		dot := 0
		for dot < len(name) && name[dot] != '.' && name[dot] != '/' {
			dot++
		}
		if dot == 0 || dot == len(name) || slices.Contains([]byte(name), '/') {
			p.fail(api.InvalidArgument, "linux.resources.unified: %q is not the name of a cgroup file", name)
			return
		}
		p.set(side{name[:dot], true}, name, files[name], "linux.resources.unified")
	}
}
