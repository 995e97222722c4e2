package cgroup

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// Validate says what is wrong with r, whatever the kernel, and names the field, "linux.resources.memory.limit: …", as api.InvalidArgument.
// A runtime asks before it makes anything. What this machine's hierarchies lack is for Create and Set to tell.
func Validate(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	v := &validator{}
	if r.Memory != nil {
		v.memory(r.Memory)
	}
	if r.CPU != nil {
		v.cpu(r.CPU)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		v.limit("pids.limit", r.Pids.Limit)
	}
	if r.BlockIO != nil {
		v.blockIO(r.BlockIO)
	}
	for i, h := range r.HugepageLimits {
		if !pageSize(h.Pagesize) {
			v.fail("hugepageLimits["+strconv.Itoa(i)+"].pageSize", "%q: it is a number and KB, MB or GB, such as 2MB", h.Pagesize)
		}
	}
	if r.Network != nil {
		for i, prio := range r.Network.Priorities {
			if !word(prio.Name) || strings.Contains(prio.Name, "/") || len(prio.Name) > 15 {
				v.fail("network.priorities["+strconv.Itoa(i)+"].name", "%q is not the name of a network interface", prio.Name)
			}
		}
	}
	for _, device := range sorted(r.Rdma) {
		limits := r.Rdma[device]
		if !word(device) {
			v.fail("rdma", "%q is not the name of a device", device)
		} else if limits.HcaHandles == nil && limits.HcaObjects == nil {
			v.fail("rdma["+strconv.Quote(device)+"]", "hcaHandles or hcaObjects must be given")
		}
	}
	for _, name := range sorted(r.Unified) {
		v.unified(name)
	}
	if v.err != nil {
		return v.err
	}
	_, err := resolveDevices(r.Devices)
	return err
}

// validator keeps the first error.
type validator struct{ err error }

func (v *validator) fail(field, format string, args ...any) {
	if v.err == nil {
		v.err = api.Errorf(api.InvalidArgument, "linux.resources."+field+": "+format, args...)
	}
}

// limit takes a number of 0 or more, and -1 for none.
func (v *validator) limit(field string, n *int64) {
	if n != nil && *n < -1 {
		v.fail(field, "%d: it is a number, or -1 for no limit", *n)
	}
}

func (v *validator) memory(m *specs.LinuxMemory) {
	v.limit("memory.limit", m.Limit)
	v.limit("memory.reservation", m.Reservation)
	v.limit("memory.swap", m.Swap)
	v.limit("memory.kernel", m.Kernel) //nolint:staticcheck // deprecated, and still written by engines
	v.limit("memory.kernelTCP", m.KernelTCP)
	if m.Swap != nil && m.Limit != nil && *m.Swap > 0 && (*m.Limit > *m.Swap || *m.Limit == -1) {
		v.fail("memory.swap", "%d: it counts memory and swap together and cannot be less than linux.resources.memory.limit, %d", *m.Swap, *m.Limit)
	}
	if m.Swappiness != nil && *m.Swappiness > 100 {
		v.fail("memory.swappiness", "%d: it is 0 to 100", *m.Swappiness)
	}
}

// Bounds of CPU bandwidth, in microseconds (kernel/sched/core.c, min_cfs_quota_period, max_cfs_quota_period).
const leastPeriod, mostPeriod = 1000, 1000000

func (v *validator) cpu(c *specs.LinuxCPU) {
	if c.Period != nil && *c.Period != 0 && (*c.Period < leastPeriod || *c.Period > mostPeriod) {
		v.fail("cpu.period", "%d: it is %d to %d µs", *c.Period, leastPeriod, mostPeriod)
	}
	if c.Quota != nil && *c.Quota > 0 {
		if *c.Quota < leastPeriod {
			v.fail("cpu.quota", "%d: it is %d µs at least, or -1 for no limit", *c.Quota, leastPeriod)
		}
		if c.Burst != nil && *c.Burst > uint64(*c.Quota) {
			v.fail("cpu.burst", "%d: it cannot be more than linux.resources.cpu.quota, %d", *c.Burst, *c.Quota)
		}
	}
	if c.RealtimePeriod != nil && c.RealtimeRuntime != nil && *c.RealtimePeriod != 0 && *c.RealtimeRuntime > 0 && uint64(*c.RealtimeRuntime) > *c.RealtimePeriod {
		v.fail("cpu.realtimeRuntime", "%d: it cannot be more than linux.resources.cpu.realtimePeriod, %d", *c.RealtimeRuntime, *c.RealtimePeriod)
	}
	if c.Idle != nil && *c.Idle != 0 && *c.Idle != 1 {
		v.fail("cpu.idle", "%d: it is 0, or 1 for SCHED_IDLE", *c.Idle)
	}
	if _, err := ParseList(c.Cpus); err != nil {
		v.fail("cpu.cpus", "%w", err)
	}
	if _, err := ParseList(c.Mems); err != nil {
		v.fail("cpu.mems", "%w", err)
	}
}

// mostInList bounds a list of processors or memory nodes, well above CONFIG_NR_CPUS of any distribution.
const mostInList = 1 << 16

// ParseList reads a list of processors or memory nodes such as "0-3,8" (cpuset(7), "List format") as ranges of first and last.
func ParseList(list string) ([][2]int, error) {
	var ranges [][2]int
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		low, high, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(low, 10, 32)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(high, 10, 32)
		}
		if err != nil || first > last || last >= mostInList {
			return nil, api.Errorf(api.InvalidArgument, "%q: %q is not a number or a range: a list is written 0-3,8", list, part)
		}
		ranges = append(ranges, [2]int{int(first), int(last)})
	}
	if list != "" && ranges == nil {
		return nil, api.Errorf(api.InvalidArgument, "%q: a list is written 0-3,8", list)
	}
	return ranges, nil
}

func (v *validator) blockIO(b *specs.LinuxBlockIO) {
	const most = 1000 // of blkio.weight (cgroup-v1/blkio-controller.rst) and io.bfq.weight
	weight := func(field string, n *uint16) {
		if n != nil && *n > most {
			v.fail("blockIO."+field, "%d: it is 10 to %d, or 0 for the default", *n, most)
		}
	}
	number := func(field string, major, minor int64) {
		if major < 0 || minor < 0 {
			v.fail("blockIO."+field, "device %d:%d: numbers cannot be negative", major, minor)
		}
	}
	weight("weight", b.Weight)
	weight("leafWeight", b.LeafWeight)
	for _, d := range b.WeightDevice {
		number("weightDevice", d.Major, d.Minor)
		weight("weightDevice.weight", d.Weight)
		weight("weightDevice.leafWeight", d.LeafWeight)
	}
	for _, t := range [...]struct {
		field string
		list  []specs.LinuxThrottleDevice
	}{
		{"throttleReadBpsDevice", b.ThrottleReadBpsDevice}, {"throttleWriteBpsDevice", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", b.ThrottleReadIOPSDevice}, {"throttleWriteIOPSDevice", b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.list {
			number(t.field, d.Major, d.Minor)
		}
	}
}

// unified takes names of files such as memory.high. Some of the core's files are no resources, but would move, stop or kill whoever
// writes them.
func (v *validator) unified(name string) {
	field := "unified[" + strconv.Quote(name) + "]"
	dot := strings.IndexByte(name, '.')
	switch {
	case strings.Contains(name, "/"):
		v.fail(field, "a file is named without slashes")
		return
	case dot <= 0 || dot == len(name)-1 || !word(name):
		v.fail(field, "a file is named CONTROLLER.PARAMETER, such as memory.high")
		return
	}
	switch name {
	case "cgroup.procs", "cgroup.threads", "cgroup.type", "cgroup.kill", "cgroup.freeze", "cgroup.subtree_control":
		v.fail(field, "it is no resource: the runtime writes that file itself")
	}
}

// pageSize reports whether s is how hugetlb files call a size: 64KB, 2MB, 1GB.
func pageSize(s string) bool {
	if len(s) < 3 || s[0] == '0' {
		return false
	}
	for _, c := range s[:len(s)-2] {
		if c < '0' || c > '9' {
			return false
		}
	}
	switch s[len(s)-2:] {
	case "KB", "MB", "GB":
		return true
	}
	return false
}

// word reports whether s can stand between blanks in a line that the kernel reads.
func word(s string) bool { return s != "" && !strings.ContainsAny(s, " \t\n\v\f\r\x00") }
