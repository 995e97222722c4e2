package systemd

import (
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/kernel/cgroup"
)

// Versions of systemd since when it has a property, or a form of it (systemd.resource-control(5), "History").
const (
	sinceDeviceNumbers = 240 // DeviceAllow=char-MAJOR
	sinceQuotaPeriod   = 242
	sinceAllowedCPUs   = 244
	sinceIdleWeight    = 252 // CPUWeight=idle, 0 on the bus
)

const infinity = uint64(math.MaxUint64)

// scopeProperties are what every container's scope has.
func scopeProperties(u Unit, id string, pid int, r *specs.LinuxResources, v2 bool) []Property {
	io := "IOAccounting"
	if !v2 {
		io = "BlockIOAccounting"
	}
	list := []Property{
		{"Description", "OCI container " + id},
		{"Slice", u.Slice},
		{"Delegate", true},
		{"PIDs", []uint32{uint32(pid)}},
		// Measured from the start: a memory group that is joined later has not counted what came before.
		{"MemoryAccounting", true}, {"CPUAccounting", true}, {io, true}, {"TasksAccounting", true},
		// systemd would order the scope before shutdown.target and so kill the container first of all.
		{"DefaultDependencies", false},
	}
	if r != nil {
		switch strings.TrimSpace(r.Unified["memory.oom.group"]) {
		case "0":
			list = append(list, Property{"OOMPolicy", "continue"})
		case "1":
			list = append(list, Property{"OOMPolicy", "kill"})
		}
	}
	return list
}

// Properties turns limits into properties of a unit, as far as this version of systemd knows them; the rest is for cgroup.Group.Set, which
// sets all of them. What systemd does not know of it may undo at a daemon-reload, so all that can be told is told.
func Properties(r *specs.LinuxResources, v2 bool, version int) ([]Property, error) {
	if r == nil {
		return nil, nil
	}
	p := &mapper{v2: v2, version: version}
	p.devices(r.Devices)
	if r.Memory != nil {
		p.memory(r.Memory)
	}
	if r.CPU != nil {
		p.cpu(r.CPU)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		switch limit := *r.Pids.Limit; {
		case limit < 0:
			p.add("TasksMax", infinity)
		default:
			p.add("TasksMax", uint64(max(limit, 1))) // 0 is refused there
		}
	}
	if r.BlockIO != nil && r.BlockIO.Weight != nil && *r.BlockIO.Weight != 0 {
		if v2 {
			p.add("IOWeight", cgroup.IOWeight(uint64(*r.BlockIO.Weight)))
		} else {
			p.add("BlockIOWeight", uint64(*r.BlockIO.Weight))
		}
	}
	p.unified(r.Unified)
	return p.list, p.err
}

// mapper collects properties and keeps the first error.
type mapper struct {
	v2      bool
	version int
	list    []Property
	err     error
}

func (p *mapper) add(name string, value any) { p.list = append(p.list, Property{name, value}) }

func (p *mapper) fail(field, format string, args ...any) {
	if p.err == nil {
		p.err = api.Errorf(api.InvalidArgument, "linux.resources."+field+": "+format, args...)
	}
}

// limit turns -1 into infinity; 0 and nil are not set.
func limit(n *int64) (uint64, bool) {
	switch {
	case n == nil || *n == 0:
		return 0, false
	case *n < 0:
		return infinity, true
	}
	return uint64(*n), true
}

func (p *mapper) memory(m *specs.LinuxMemory) {
	n, set := limit(m.Limit)
	if !p.v2 {
		if set {
			p.add("MemoryLimit", n)
		}
		return
	}
	if set {
		p.add("MemoryMax", n)
	}
	if low, ok := limit(m.Reservation); ok {
		p.add("MemoryLow", low)
	}
	swap, ok := limit(m.Swap)
	switch {
	case !ok && n == infinity:
		p.add("MemorySwapMax", infinity)
	case ok && swap == infinity:
		p.add("MemorySwapMax", infinity)
	case ok && set && n != infinity && swap >= n:
		p.add("MemorySwapMax", swap-n) // the spec counts both together
	}
}

func (p *mapper) cpu(c *specs.LinuxCPU) {
	idle := c.Idle != nil && *c.Idle == 1 && p.version >= sinceIdleWeight && p.v2
	switch {
	case idle:
		p.add("CPUWeight", uint64(0))
	case c.Shares == nil || *c.Shares == 0:
	case p.v2:
		p.add("CPUWeight", cgroup.CPUWeight(*c.Shares))
	default:
		p.add("CPUShares", *c.Shares)
	}
	quota, period := int64(0), uint64(0)
	if c.Quota != nil {
		quota = *c.Quota
	}
	if c.Period != nil {
		period = *c.Period
	}
	p.quota(quota, period)
	p.set("AllowedCPUs", "cpu.cpus", c.Cpus)
	p.set("AllowedMemoryNodes", "cpu.mems", c.Mems)
}

// quota takes microseconds in a period of microseconds; a quota below 1 is none.
func (p *mapper) quota(quota int64, period uint64) {
	if quota == 0 && period == 0 {
		return
	}
	if period != 0 && p.version >= sinceQuotaPeriod {
		p.add("CPUQuotaPeriodUSec", period)
	}
	perSecond := infinity
	if quota > 0 {
		if period == 0 {
			period = 100000 // the kernel's default
		}
		const percent = 10000 // systemd keeps whole percents: up, so that it does not hold the container below its own quota
		if uint64(quota) < infinity/1000000-percent {
			perSecond = (uint64(quota)*1000000/period + percent - 1) / percent * percent
		}
	}
	p.add("CPUQuotaPerSecUSec", perSecond)
}

// set adds a set of processors or nodes as a bitmap, the lowest first (org.freedesktop.systemd1(5), AllowedCPUs).
func (p *mapper) set(name, field, list string) {
	if list == "" || p.version < sinceAllowedCPUs {
		return
	}
	ranges, err := cgroup.ParseList(list)
	if err != nil {
		p.fail(field, "%w", err)
		return
	}
	var bits []byte
	for _, r := range ranges {
		for n := r[0]; n <= r[1]; n++ {
			for len(bits) <= n/8 {
				bits = append(bits, 0)
			}
			bits[n/8] |= 1 << (n % 8)
		}
	}
	p.add(name, bits)
}

// devices makes systemd's list of what is allowed. Rules that allow by default it cannot keep: then it is told to allow all, and the
// group's own rules, which Set makes, deny.
func (p *mapper) devices(rules []specs.LinuxDeviceCgroup) {
	if len(rules) == 0 {
		return
	}
	allowed, list, err := cgroup.AllowedDevices(rules)
	if err != nil {
		if p.err == nil {
			p.err = err
		}
		return
	}
	if !list {
		p.add("DevicePolicy", "auto")
		p.add("DeviceAllow", []Pair{})
		return
	}
	p.add("DevicePolicy", "strict")
	p.add("DeviceAllow", []Pair{}) // forgets what was there
	var pairs []Pair
	for _, d := range allowed {
		if path := p.device(d); path != "" {
			pairs = append(pairs, Pair{path, d.Access})
		}
	}
	if len(pairs) > 0 {
		p.add("DeviceAllow", pairs)
	}
}

// device writes a kind of device as DeviceAllow takes it, "" for one that this systemd cannot say.
func (p *mapper) device(d cgroup.AllowedDevice) string {
	group, dir := "char-", "/dev/char/"
	if d.Kind == 'b' {
		group, dir = "block-", "/dev/block/"
	}
	switch {
	case d.Major < 0 && d.Minor < 0:
		return group + "*"
	case d.Major < 0:
		return ""
	case d.Minor < 0 && p.version >= sinceDeviceNumbers:
		return group + strconv.FormatInt(d.Major, 10)
	case d.Minor < 0:
		return ""
	}
	path := dir + strconv.FormatInt(d.Major, 10) + ":" + strconv.FormatInt(d.Minor, 10)
	if p.version < sinceDeviceNumbers { // an old one looks the file up, and complains where there is none
		if _, err := os.Stat(path); err != nil {
			return ""
		}
	}
	return path
}

// unified maps the files of version 2 that have a property.
func (p *mapper) unified(files map[string]string) {
	if !p.v2 {
		return
	}
	for _, f := range [...]struct{ file, property string }{
		{"cpu.weight", "CPUWeight"}, {"memory.high", "MemoryHigh"}, {"memory.low", "MemoryLow"}, {"memory.max", "MemoryMax"},
		{"memory.min", "MemoryMin"}, {"memory.swap.max", "MemorySwapMax"}, {"pids.max", "TasksMax"},
	} {
		value, ok := files[f.file]
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		n, err := infinity, error(nil)
		if value != "max" {
			n, err = strconv.ParseUint(value, 10, 64)
		}
		if err != nil {
			p.fail("unified["+strconv.Quote(f.file)+"]", "%q is neither a number nor max", value)
			continue
		}
		p.add(f.property, n)
	}
	if value, ok := files["cpu.max"]; ok {
		words := strings.Fields(value)
		quota, period := int64(-1), uint64(100000)
		var err, err2 error
		if len(words) > 0 && words[0] != "max" {
			quota, err = strconv.ParseInt(words[0], 10, 64)
		}
		if len(words) == 2 {
			period, err2 = strconv.ParseUint(words[1], 10, 64)
		}
		if err != nil || err2 != nil || len(words) == 0 || len(words) > 2 || period == 0 {
			p.fail(`unified["cpu.max"]`, "%q: it is a quota or max, and a period", value)
			return
		}
		p.quota(quota, period)
	}
	if strings.TrimSpace(files["cpu.idle"]) == "1" && p.version >= sinceIdleWeight {
		p.add("CPUWeight", uint64(0))
	}
	p.set("AllowedCPUs", `unified["cpuset.cpus"]`, strings.TrimSpace(files["cpuset.cpus"]))
	p.set("AllowedMemoryNodes", `unified["cpuset.mems"]`, strings.TrimSpace(files["cpuset.mems"]))
}
