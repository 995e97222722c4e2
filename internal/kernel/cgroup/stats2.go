package cgroup

import (
	"strconv"
	"strings"
)

// stats2 reads the files of version 2 whose controllers are not version 1's on this machine.
func (g *Group) stats2(r *reader, s *Stats) {
	alone := g.l.V2()
	if alone || g.v1("cpu") == "" && g.v1("cpuacct") == "" {
		stat := r.file("cpu.stat")
		s.CPU = CPU{
			Usage:      CPUUsage{Total: field(stat, "usage_usec") * 1e3, User: field(stat, "user_usec") * 1e3, Kernel: field(stat, "system_usec") * 1e3},
			Throttling: Throttling{field(stat, "nr_periods"), field(stat, "nr_throttled"), field(stat, "throttled_usec") * 1e3},
		}
	}
	if alone || g.v1("memory") == "" {
		r.memory2(s)
	}
	if alone || g.v1("pids") == "" {
		s.Pids = Pids{r.number("pids.current"), noLimit(r.number("pids.max"))}
	}
	if alone || g.v1("blkio") == "" {
		s.Blkio.ServiceBytes, s.Blkio.Serviced = parseIO(r.file("io.stat"))
	}
	// Pressure is version 2's alone, and there whatever the controllers are (Linux 4.20).
	s.CPU.PSI, s.Memory.PSI, s.Blkio.PSI = parsePSI(r.file("cpu.pressure")), parsePSI(r.file("memory.pressure")), parsePSI(r.file("io.pressure"))
	if alone || g.v1("hugetlb") == "" {
		for _, size := range r.pageSizes(".current") {
			prefix := "hugetlb." + size
			failed := field(r.file(prefix+".events"), "max")
			if exists(r.dir + "/" + prefix + ".rsvd.current") {
				prefix += ".rsvd"
			}
			s.Hugetlb[size] = Hugetlb{Usage: r.number(prefix + ".current"), Failcnt: failed}
		}
	}
	if alone || g.v1("rdma") == "" {
		r.rdma(s)
	}
}

func (r *reader) memory2(s *Stats) {
	raw := fields(r.file("memory.stat"))
	usage := MemoryEntry{Limit: r.number("memory.max"), Usage: r.number("memory.current"), Max: r.number("memory.peak")} // peak: Linux 5.19
	// As version 1 has it: memory and swap together. Their most cannot be known from the most of each.
	swap := MemoryEntry{Limit: r.number("memory.swap.max"), Usage: r.number("memory.swap.current") + usage.Usage}
	if swap.Limit != Unlimited {
		if usage.Limit == Unlimited {
			swap.Limit = Unlimited
		} else {
			swap.Limit += usage.Limit
		}
	}
	s.Memory = Memory{Cache: raw["file"], Usage: usage, Swap: swap, Raw: raw}
}

// parseIO reads lines "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0".
func parseIO(file []byte) (bytes, ops []BlkioEntry) {
	for line := range strings.Lines(string(file)) {
		device, rest, _ := strings.Cut(line, " ")
		major, minor, ok := parseDevice(device)
		if !ok {
			continue
		}
		for word := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(word, "=")
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil || len(key) == 0 {
				continue
			}
			e := BlkioEntry{Major: major, Minor: minor, Value: n}
			switch key[0] {
			case 'r':
				e.Op = "Read"
			case 'w':
				e.Op = "Write"
			case 'd':
				e.Op = "Discard"
			}
			switch key {
			case "rbytes", "wbytes", "dbytes":
				bytes = append(bytes, e)
			case "rios", "wios", "dios":
				ops = append(ops, e)
			}
		}
	}
	return bytes, ops
}
