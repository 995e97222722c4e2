package cgroup

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
)

// Unlimited stands for a limit that is not set.
const Unlimited = math.MaxUint64

// Stats is what a group has used since it was made, in the shape and with the JSON names of `runc events --stats` (runc's
// types/events.go), less what no cgroup knows (intel_rdt, network_interfaces); rdma is more. What its hierarchies do not measure is zero.
type Stats struct {
	CPU     CPU                `json:"cpu"`
	CPUSet  CPUSet             `json:"cpuset"`
	Memory  Memory             `json:"memory"`
	Pids    Pids               `json:"pids"`
	Blkio   Blkio              `json:"blkio"`
	Hugetlb map[string]Hugetlb `json:"hugetlb"` // by page size, "2MB"
	RDMA    *RDMA              `json:"rdma,omitempty"`
}

// CPU is processor time.
type CPU struct {
	Usage      CPUUsage   `json:"usage"`
	Throttling Throttling `json:"throttling"`
	PSI        *PSI       `json:"psi,omitempty"`
}

// CPUUsage is in nanoseconds. Version 2 has no numbers by processor.
type CPUUsage struct {
	Total        uint64   `json:"total,omitempty"`
	PerCPU       []uint64 `json:"percpu,omitempty"`
	PerCPUKernel []uint64 `json:"percpu_kernel,omitempty"`
	PerCPUUser   []uint64 `json:"percpu_user,omitempty"`
	Kernel       uint64   `json:"kernel"`
	User         uint64   `json:"user"`
}

// Throttling is the work of the quota.
type Throttling struct {
	Periods          uint64 `json:"periods,omitempty"` // that passed
	ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
	ThrottledTime    uint64 `json:"throttledTime,omitempty"` // nanoseconds
}

// CPUSet is what version 1's files of that controller say; version 2 leaves it empty, as runc does.
type CPUSet struct {
	CPUs                  []uint16 `json:"cpus,omitempty"`
	CPUExclusive          uint64   `json:"cpu_exclusive"`
	Mems                  []uint16 `json:"mems,omitempty"`
	MemHardwall           uint64   `json:"mem_hardwall"`
	MemExclusive          uint64   `json:"mem_exclusive"`
	MemoryMigrate         uint64   `json:"memory_migrate"`
	MemorySpreadPage      uint64   `json:"memory_spread_page"`
	MemorySpreadSlab      uint64   `json:"memory_spread_slab"`
	MemoryPressure        uint64   `json:"memory_pressure"`
	SchedLoadBalance      uint64   `json:"sched_load_balance"`
	SchedRelaxDomainLevel int64    `json:"sched_relax_domain_level"`
}

// Memory is in bytes. Usage counts the page cache, and Swap memory and swap together, on version 2 too.
type Memory struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     MemoryEntry       `json:"usage"`
	Swap      MemoryEntry       `json:"swap"`
	Kernel    MemoryEntry       `json:"kernel"`
	KernelTCP MemoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"` // memory.stat
	PSI       *PSI              `json:"psi,omitempty"`
}

// MemoryEntry is one counter of memory: Max is the most that it ever was.
type MemoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// Pids counts tasks. A Limit of 0 is none.
type Pids struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

// Blkio is what went to and from block devices. Version 2 has the first two.
type Blkio struct {
	ServiceBytes []BlkioEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced     []BlkioEntry `json:"ioServicedRecursive,omitempty"`
	Queued       []BlkioEntry `json:"ioQueueRecursive,omitempty"`
	ServiceTime  []BlkioEntry `json:"ioServiceTimeRecursive,omitempty"`
	WaitTime     []BlkioEntry `json:"ioWaitTimeRecursive,omitempty"`
	Merged       []BlkioEntry `json:"ioMergedRecursive,omitempty"`
	Time         []BlkioEntry `json:"ioTimeRecursive,omitempty"`
	Sectors      []BlkioEntry `json:"sectorsRecursive,omitempty"`
	PSI          *PSI         `json:"psi,omitempty"`
}

// BlkioEntry is one number of one device.
type BlkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"` // Read, Write, Sync, Async, Discard, Total
	Value uint64 `json:"value,omitempty"`
}

// Hugetlb is in bytes, of pages reserved where the kernel counts those (Linux 5.7).
type Hugetlb struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// PSI is pressure stall information (accounting/psi.rst).
type PSI struct {
	Some PSIData `json:"some"`
	Full PSIData `json:"full"`
}

// PSIData are shares of time in percent, and the whole in microseconds.
type PSIData struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

// RDMA is what is used of devices, and what may be.
type RDMA struct {
	Limit   []RDMAEntry `json:"rdma_limit,omitempty"`
	Current []RDMAEntry `json:"rdma_current,omitempty"`
}

// RDMAEntry is one device; math.MaxUint32 is no limit.
type RDMAEntry struct {
	Device     string `json:"device,omitempty"`
	HcaHandles uint32 `json:"hca_handles,omitempty"`
	HcaObjects uint32 `json:"hca_objects,omitempty"`
}

// reader reads files of one hierarchy and keeps the first error that is not a missing file.
type reader struct {
	dir string
	err error
}

func (r *reader) file(name string) []byte {
	b, err := readFile(r.dir + "/" + name)
	if err != nil && r.err == nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		r.err = err
	}
	return b
}

func (r *reader) number(name string) uint64 {
	b := r.file(name)
	if b == nil {
		return 0
	}
	return parseUint(string(b))
}

// numbers reads numbers with blanks between them.
func (r *reader) numbers(name string) (list []uint64) {
	for word := range strings.FieldsSeq(string(r.file(name))) {
		n, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return nil
		}
		list = append(list, n)
	}
	return list
}

// Stats reads the group's use; api.NotFound when the group is gone.
func (g *Group) Stats() (*Stats, error) {
	if !g.exists() {
		return nil, api.Errorf(api.NotFound, "cgroup %s does not exist", g.path)
	}
	s := &Stats{Hugetlb: map[string]Hugetlb{}}
	var first error
	for i := range g.l.mounts {
		m := &g.l.mounts[i]
		r := &reader{dir: g.dirs[i]}
		if r.dir == "" {
			continue
		}
		if m.v2 {
			g.stats2(r, s)
		} else {
			for _, c := range m.controllers {
				stats1(r, c, s)
			}
		}
		if first == nil {
			first = r.err
		}
	}
	return s, first
}

// field returns the number beside a key in a file of lines "key number".
func field(file []byte, key string) uint64 {
	for line := range bytes.Lines(file) {
		if len(line) > len(key) && line[len(key)] == ' ' && string(line[:len(key)]) == key {
			n, _ := strconv.ParseUint(string(bytes.TrimSpace(line[len(key)+1:])), 10, 64)
			return n
		}
	}
	return 0
}

// fields are all the numbers of such a file.
func fields(file []byte) map[string]uint64 {
	if file == nil {
		return nil
	}
	all := make(map[string]uint64, bytes.Count(file, []byte{'\n'}))
	for line := range strings.Lines(string(file)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			all[key] = n
		}
	}
	return all
}

// parseDevice reads "8:16".
func parseDevice(s string) (major, minor uint64, ok bool) {
	a, b, _ := strings.Cut(s, ":")
	major, err := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	return major, minor, err == nil && err2 == nil
}

// parsePSI reads lines "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"; nil where the kernel has none.
func parsePSI(file []byte) *PSI {
	if len(file) == 0 {
		return nil
	}
	var p PSI
	for line := range strings.Lines(string(file)) {
		kind, rest, _ := strings.Cut(line, " ")
		d := &p.Some
		if kind == "full" {
			d = &p.Full
		} else if kind != "some" {
			continue
		}
		for word := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(word, "=")
			n, err := strconv.ParseFloat(value, 64)
			if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
				continue
			}
			switch key {
			case "avg10":
				d.Avg10 = n
			case "avg60":
				d.Avg60 = n
			case "avg300":
				d.Avg300 = n
			case "total":
				d.Total, _ = strconv.ParseUint(value, 10, 64)
			}
		}
	}
	return &p
}

// parseRDMA reads lines "mlx5_0 hca_handle=2 hca_object=max".
func parseRDMA(file []byte) (list []RDMAEntry) {
	for line := range strings.Lines(string(file)) {
		device, rest, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		e := RDMAEntry{Device: device}
		for word := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(word, "=")
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				n = math.MaxUint32 // "max"
			}
			switch key {
			case "hca_handle":
				e.HcaHandles = uint32(n)
			case "hca_object":
				e.HcaObjects = uint32(n)
			}
		}
		list = append(list, e)
	}
	return list
}

func (r *reader) rdma(s *Stats) {
	current, max := parseRDMA(r.file("rdma.current")), parseRDMA(r.file("rdma.max"))
	if current != nil || max != nil {
		s.RDMA = &RDMA{Limit: max, Current: current}
	}
}
