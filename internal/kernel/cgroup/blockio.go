package cgroup

import (
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func (p *planner) blockIO(b *specs.LinuxBlockIO) {
	s := p.on("blkio", "io")
	if b.Weight != nil && *b.Weight != 0 {
		p.ioWeight(s, "", *b.Weight, "linux.resources.blockIO.weight")
	}
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		if s.v2 {
			p.only1("linux.resources.blockIO.leafWeight", "")
		}
		p.set(s, "blkio.leaf_weight", strconv.Itoa(int(*b.LeafWeight)), "linux.resources.blockIO.leafWeight")
	}
	for _, d := range b.WeightDevice {
		dev := device(d.Major, d.Minor) + " "
		if d.Weight != nil && *d.Weight != 0 {
			p.ioWeight(s, dev, *d.Weight, "linux.resources.blockIO.weightDevice")
		}
		if d.LeafWeight != nil && *d.LeafWeight != 0 {
			if s.v2 {
				p.only1("linux.resources.blockIO.weightDevice.leafWeight", "")
			}
			p.set(s, "blkio.leaf_weight_device", dev+strconv.Itoa(int(*d.LeafWeight)), "linux.resources.blockIO.weightDevice.leafWeight")
		}
	}
	p.throttle(s, b.ThrottleReadBpsDevice, "read_bps", "rbps", "linux.resources.blockIO.throttleReadBpsDevice")
	p.throttle(s, b.ThrottleWriteBpsDevice, "write_bps", "wbps", "linux.resources.blockIO.throttleWriteBpsDevice")
	p.throttle(s, b.ThrottleReadIOPSDevice, "read_iops", "riops", "linux.resources.blockIO.throttleReadIOPSDevice")
	p.throttle(s, b.ThrottleWriteIOPSDevice, "write_iops", "wiops", "linux.resources.blockIO.throttleWriteIOPSDevice")
}

// ioWeight sets a weight for one device ("8:0 ") or for all (""). The BFQ scheduler has files of its own that take blkio's 1 to 1000;
// version 2's io.weight is 1 to 10000.
func (p *planner) ioWeight(s side, dev string, weight uint16, field string) {
	value := dev + strconv.Itoa(int(weight))
	first, second, scaled := "blkio.bfq.weight", "blkio.weight", value
	if dev != "" {
		first, second = "blkio.bfq.weight_device", "blkio.weight_device"
	}
	if s.v2 {
		first, second, scaled = "io.bfq.weight", "io.weight", dev+strconv.FormatUint(IOWeight(uint64(weight)), 10)
	}
	p.set(s, first, value, field)
	p.last().alt = &knob{controller: s.controller, v2: s.v2, file: second, value: scaled, field: field}
}

// IOWeight stretches blkio's 10 to 1000 over 1 to 10000.
func IOWeight(weight uint64) uint64 {
	if weight <= 10 {
		return 1
	}
	return 1 + (min(weight, 1000)-10)*9999/990
}

func (p *planner) throttle(s side, devices []specs.LinuxThrottleDevice, file1, key2, field string) {
	for _, d := range devices {
		dev, rate := device(d.Major, d.Minor), strconv.FormatUint(d.Rate, 10)
		if !s.v2 {
			p.set(s, "blkio.throttle."+file1+"_device", dev+" "+rate, field)
			continue
		}
		if d.Rate == 0 {
			rate = "max"
		}
		p.set(s, "io.max", dev+" "+key2+"="+rate, field)
	}
}

func device(major, minor int64) string {
	return strconv.FormatInt(major, 10) + ":" + strconv.FormatInt(minor, 10)
}
