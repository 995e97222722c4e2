package cgroup

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Unlimited stands for a limit that is not set.
const Unlimited = math.MaxUint64

// Stats is what a group has used since it was made. What its hierarchies do not measure is zero.
type Stats struct {
	CPU    CPU
	Memory Memory
	Pids   Pids
	IO     IO
}

// CPU is processor time, in nanoseconds, and the work of the quota.
type CPU struct {
	Usage, User, System uint64
	Periods, Throttled  uint64 // quota periods that passed, and those in which the group had to wait
	ThrottledTime       uint64
}

// Memory is in bytes.
type Memory struct {
	Usage, Peak, Limit uint64 // Usage counts the page cache; docker shows Usage less InactiveFile
	Anon, File         uint64 // anonymous memory, page cache
	InactiveFile       uint64 // page cache that the kernel drops first
	Swap               uint64
}

// Pids counts tasks.
type Pids struct{ Current, Limit uint64 }

// IO is what went to and from block devices, in bytes and in operations.
type IO struct{ ReadBytes, WriteBytes, ReadOps, WriteOps uint64 }

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

// Stats reads the group's use.
func (g *Group) Stats() (Stats, error) {
	var s Stats
	var first error
	for i := range g.l.mounts {
		m := &g.l.mounts[i]
		r := &reader{dir: m.dir + g.path}
		if m.v2 {
			g.stats2(r, &s)
		} else {
			for _, c := range m.controllers {
				stats1(r, c, &s)
			}
		}
		if first == nil {
			first = r.err
		}
	}
	return s, first
}

func stats1(r *reader, controller string, s *Stats) {
	switch controller {
	case "cpuacct":
		const tick = 1e9 / 100 // USER_HZ is 100 on every architecture that Go has
		s.CPU.Usage = r.number("cpuacct.usage")
		stat := r.file("cpuacct.stat")
		s.CPU.User, s.CPU.System = field(stat, "user")*tick, field(stat, "system")*tick
	case "cpu":
		stat := r.file("cpu.stat")
		s.CPU.Periods, s.CPU.Throttled, s.CPU.ThrottledTime = field(stat, "nr_periods"), field(stat, "nr_throttled"), field(stat, "throttled_time")
	case "memory":
		stat := r.file("memory.stat")
		s.Memory = Memory{
			Usage: r.number("memory.usage_in_bytes"), Peak: r.number("memory.max_usage_in_bytes"),
			Limit: unlimited(r.number("memory.limit_in_bytes")),
			Anon:  field(stat, "total_rss"), File: field(stat, "total_cache"), InactiveFile: field(stat, "total_inactive_file"),
			Swap: field(stat, "total_swap"),
		}
	case "pids":
		s.Pids = Pids{r.number("pids.current"), r.number("pids.max")}
	case "blkio":
		bytes, ops := r.file("blkio.throttle.io_service_bytes_recursive"), r.file("blkio.throttle.io_serviced_recursive")
		s.IO = IO{sum(bytes, "Read"), sum(bytes, "Write"), sum(ops, "Read"), sum(ops, "Write")}
	}
}

func (g *Group) stats2(r *reader, s *Stats) {
	if g.l.find("cpu") == nil && g.l.find("cpuacct") == nil {
		stat := r.file("cpu.stat")
		s.CPU = CPU{
			Usage: field(stat, "usage_usec") * 1e3, User: field(stat, "user_usec") * 1e3, System: field(stat, "system_usec") * 1e3,
			Periods: field(stat, "nr_periods"), Throttled: field(stat, "nr_throttled"), ThrottledTime: field(stat, "throttled_usec") * 1e3,
		}
	}
	if g.l.find("memory") == nil {
		stat := r.file("memory.stat")
		s.Memory = Memory{
			Usage: r.number("memory.current"), Peak: r.number("memory.peak"), Limit: r.number("memory.max"),
			Anon: field(stat, "anon"), File: field(stat, "file"), InactiveFile: field(stat, "inactive_file"),
			Swap: r.number("memory.swap.current"),
		}
	}
	if g.l.find("pids") == nil {
		s.Pids = Pids{r.number("pids.current"), r.number("pids.max")}
	}
	if g.l.find("blkio") == nil {
		for word := range strings.FieldsSeq(string(r.file("io.stat"))) {
			key, value, _ := strings.Cut(word, "=")
			n, _ := strconv.ParseUint(value, 10, 64)
			switch key {
			case "rbytes":
				s.IO.ReadBytes += n
			case "wbytes":
				s.IO.WriteBytes += n
			case "rios":
				s.IO.ReadOps += n
			case "wios":
				s.IO.WriteOps += n
			}
		}
	}
}

// unlimited names what version 1 shows where there is no limit: the largest whole number of pages.
func unlimited(n uint64) uint64 {
	if n >= math.MaxInt64&^0xffff {
		return Unlimited
	}
	return n
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

// sum adds up the lines "major:minor op number" of blkio's files.
func sum(file []byte, op string) (total uint64) {
	for line := range bytes.Lines(file) {
		if f := bytes.Fields(line); len(f) == 3 && string(f[1]) == op {
			n, _ := strconv.ParseUint(string(f[2]), 10, 64)
			total += n
		}
	}
	return total
}
