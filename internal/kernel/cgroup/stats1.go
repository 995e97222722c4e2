package cgroup

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// stats1 reads the files of one controller of version 1.
func stats1(r *reader, controller string, s *Stats) {
	switch controller {
	case "cpuacct":
		const tick = 1e9 / 100 // USER_HZ is 100 on every architecture that Go has
		stat := r.file("cpuacct.stat")
		s.CPU.Usage = CPUUsage{
			Total: r.number("cpuacct.usage"), PerCPU: r.numbers("cpuacct.usage_percpu"),
			PerCPUKernel: r.numbers("cpuacct.usage_percpu_sys"), PerCPUUser: r.numbers("cpuacct.usage_percpu_user"),
			Kernel: field(stat, "system") * tick, User: field(stat, "user") * tick,
		}
	case "cpu":
		stat := r.file("cpu.stat")
		s.CPU.Throttling = Throttling{field(stat, "nr_periods"), field(stat, "nr_throttled"), field(stat, "throttled_time")}
	case "cpuset":
		s.CPUSet = CPUSet{
			CPUs: r.list("cpuset.cpus"), CPUExclusive: r.number("cpuset.cpu_exclusive"),
			Mems: r.list("cpuset.mems"), MemHardwall: r.number("cpuset.mem_hardwall"), MemExclusive: r.number("cpuset.mem_exclusive"),
			MemoryMigrate: r.number("cpuset.memory_migrate"), MemorySpreadPage: r.number("cpuset.memory_spread_page"),
			MemorySpreadSlab: r.number("cpuset.memory_spread_slab"), MemoryPressure: r.number("cpuset.memory_pressure"),
			SchedLoadBalance: r.number("cpuset.sched_load_balance"),
		}
		s.CPUSet.SchedRelaxDomainLevel, _ = strconv.ParseInt(string(bytes.TrimSpace(r.file("cpuset.sched_relax_domain_level"))), 10, 64) // -1 is its default
	case "memory":
		s.Memory = Memory{
			Usage: r.entry("memory"), Swap: r.entry("memory.memsw"), Kernel: r.entry("memory.kmem"), KernelTCP: r.entry("memory.kmem.tcp"),
			Raw: fields(r.file("memory.stat")),
		}
		s.Memory.Cache = s.Memory.Raw["cache"]
	case "pids":
		s.Pids = Pids{r.number("pids.current"), noLimit(r.number("pids.max"))}
	case "blkio":
		s.Blkio = Blkio{
			ServiceBytes: r.blkio("io_service_bytes", true), Serviced: r.blkio("io_serviced", true), Queued: r.blkio("io_queued", false),
			ServiceTime: r.blkio("io_service_time", false), WaitTime: r.blkio("io_wait_time", false), Merged: r.blkio("io_merged", false),
			Time: r.blkio("time", false), Sectors: r.blkio("sectors", false),
		}
	case "hugetlb":
		for _, size := range r.pageSizes(".usage_in_bytes") {
			prefix := "hugetlb." + size
			if exists(r.dir + "/" + prefix + ".rsvd.usage_in_bytes") {
				prefix += ".rsvd"
			}
			s.Hugetlb[size] = Hugetlb{r.number(prefix + ".usage_in_bytes"), r.number(prefix + ".max_usage_in_bytes"), r.number(prefix + ".failcnt")}
		}
	case "rdma":
		r.rdma(s)
	}
}

// entry reads the four files of a counter of version 1's memory controller.
func (r *reader) entry(prefix string) MemoryEntry {
	return MemoryEntry{
		Limit: r.number(prefix + ".limit_in_bytes"), Usage: r.number(prefix + ".usage_in_bytes"),
		Max: r.number(prefix + ".max_usage_in_bytes"), Failcnt: r.number(prefix + ".failcnt"),
	}
}

// list reads processors or memory nodes, one by one.
func (r *reader) list(name string) (list []uint16) {
	ranges, err := ParseList(string(bytes.TrimSpace(r.file(name))))
	if err != nil {
		return nil
	}
	for _, one := range ranges {
		for n := one[0]; n <= one[1]; n++ {
			list = append(list, uint16(n))
		}
	}
	return list
}

// blkio reads the numbers of the scheduler BFQ, else those of CFQ (Linux before 5.0), else those of throttling, which are there always.
func (r *reader) blkio(what string, throttled bool) []BlkioEntry {
	for _, prefix := range [...]string{"blkio.bfq.", "blkio.", "blkio.throttle."} {
		if prefix == "blkio.throttle." && !throttled {
			break
		}
		if list := parseBlkio(r.file(prefix + what + "_recursive")); len(list) > 0 {
			return list
		}
	}
	return nil
}

// parseBlkio reads lines "8:0 Read 4096" and "8:0 4096"; the line of the sum over all devices is passed over.
func parseBlkio(file []byte) (list []BlkioEntry) {
	for line := range bytes.Lines(file) {
		words := strings.Fields(string(line))
		if len(words) < 2 || len(words) > 3 {
			continue
		}
		major, minor, ok := parseDevice(words[0])
		value, err := strconv.ParseUint(words[len(words)-1], 10, 64)
		if !ok || err != nil {
			continue
		}
		e := BlkioEntry{Major: major, Minor: minor, Value: value}
		if len(words) == 3 {
			e.Op = words[1]
		}
		list = append(list, e)
	}
	return list
}

// pageSizes finds the sizes of huge pages by the names of the files that end so.
func (r *reader) pageSizes(suffix string) (sizes []string) {
	d, err := os.Open(r.dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, "hugetlb.")
		size, ok2 := strings.CutSuffix(rest, suffix)
		if ok && ok2 && pageSize(size) {
			sizes = append(sizes, size)
		}
	}
	return sizes
}

// noLimit shows a limit that is not set as 0.
func noLimit(n uint64) uint64 {
	if n == Unlimited {
		return 0
	}
	return n
}
