package oci

import (
	"io"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/weak"
	"brig/internal/kernel/resctrl"
	"brig/internal/kernel/systemd"
	"brig/internal/runtime/config"
)

func updateFlags() []flag {
	return []flag{
		{"resources", "r", isString, "file with the limits as linux.resources has them, - for standard input; the other flags do not count then"},
		{"blkio-weight", "", isInt, "weight of disk access, 10 to 1000"},
		{"cpu-period", "", isInt, "period of the processor quota, in microseconds"},
		{"cpu-quota", "", isInt, "processor time in each period, in microseconds; -1: all"},
		{"cpu-burst", "", isInt, "processor time that may be saved up, in microseconds"},
		{"cpu-share", "", isInt, "weight of processor time"},
		{"cpu-rt-period", "", isInt, "period of realtime processor time, in microseconds"},
		{"cpu-rt-runtime", "", isInt, "realtime processor time in each period, in microseconds"},
		{"cpuset-cpus", "", isString, "processors to use, such as 0-3,7"},
		{"cpuset-mems", "", isString, "memory nodes to use"},
		{"cpu-idle", "", isInt, "1: run when nobody else does"},
		{"memory", "", isInt, "memory limit, in bytes; -1: none"},
		{"memory-reservation", "", isInt, "memory below which nothing is reclaimed under pressure, in bytes"},
		{"memory-swap", "", isInt, "limit of memory and swap together, in bytes; -1: none"},
		{"pids-limit", "", isInt, "how many processes there may be; -1: any number"},
		{"l3-cache-schema", "", isString, "Intel RDT cache schema"},
		{"mem-bw-schema", "", isString, "Intel RDT memory bandwidth schema"},
	}
}

// update is `brig-oci update`.
func update(c *call) (int, error) {
	e, l, err := c.hold(c.args[0])
	if err != nil {
		return 0, err
	}
	defer l.Release()
	r, err := c.resources()
	if err != nil {
		return 0, err
	}
	if e.status() == specs.StateStopped {
		return 0, api.Errorf(api.Conflict, "cannot update container %s: it has stopped", e.ID)
	}
	g, err := e.group()
	if err != nil {
		return 0, err
	}
	if err := c.updateRDT(e); err != nil {
		return 0, err
	}
	if e.Unit != "" {
		return 0, systemd.Update(e.Unit, c.goWithoutCgroup(), g, r)
	}
	return 0, g.Set(r)
}

// updateRDT changes the shares of caches and memory bandwidth.
func (c *call) updateRDT(e *entry) error {
	if !c.has("l3-cache-schema") && !c.has("mem-bw-schema") || c.has("resources") {
		return nil
	}
	if e.RDT == nil {
		return api.Errorf(api.Conflict, "update: flags --l3-cache-schema and --mem-bw-schema: container %s was created without linux.intelRdt", e.ID)
	}
	tree, err := resctrl.Find()
	if err != nil {
		return err
	}
	return tree.Set(e.RDT, &specs.LinuxIntelRdt{L3CacheSchema: c.str("l3-cache-schema"), MemBwSchema: c.str("mem-bw-schema")})
}

// resources are the limits to change; what is nil stays.
func (c *call) resources() (*specs.LinuxResources, error) {
	r := new(specs.LinuxResources)
	if file := c.str("resources"); file != "" {
		data, err := readInput(file, c.stdin)
		if err == nil {
			r, err = config.DecodeResources(data)
		}
		if err != nil {
			return nil, api.Errorf(api.InvalidArgument, "flag --resources: %w", err)
		}
		r.Devices = nil // runc passes over them as well: changing rules under a running process would cut it off what it has open
		return r, nil
	}
	cpu, memory := new(specs.LinuxCPU), new(specs.LinuxMemory)
	unsigned := func(name string) (*uint64, error) {
		if !c.has(name) {
			return nil, nil
		}
		n := c.num(name)
		if n < 0 {
			return nil, api.Errorf(api.InvalidArgument, "update: flag --%s: %d is negative", name, n)
		}
		u := uint64(n)
		return &u, nil
	}
	signed := func(name string) *int64 {
		if !c.has(name) {
			return nil
		}
		n := c.num(name)
		return &n
	}
	for _, f := range []struct {
		name string
		to   **uint64
	}{{"cpu-period", &cpu.Period}, {"cpu-burst", &cpu.Burst}, {"cpu-share", &cpu.Shares}, {"cpu-rt-period", &cpu.RealtimePeriod}} {
		n, err := unsigned(f.name)
		if err != nil {
			return nil, err
		}
		*f.to = n
	}
	cpu.Quota, cpu.RealtimeRuntime, cpu.Idle = signed("cpu-quota"), signed("cpu-rt-runtime"), signed("cpu-idle")
	cpu.Cpus, cpu.Mems = c.str("cpuset-cpus"), c.str("cpuset-mems")
	memory.Limit, memory.Reservation, memory.Swap = signed("memory"), signed("memory-reservation"), signed("memory-swap")
	if *cpu != (specs.LinuxCPU{}) {
		r.CPU = cpu
	}
	if *memory != (specs.LinuxMemory{}) {
		r.Memory = memory
	}
	if c.has("pids-limit") {
		r.Pids = &specs.LinuxPids{Limit: signed("pids-limit")}
	}
	if c.has("blkio-weight") {
		n := c.num("blkio-weight")
		if n < 10 || n > 1000 {
			return nil, api.Errorf(api.InvalidArgument, "update: flag --blkio-weight: %d is not from 10 to 1000", n)
		}
		w := uint16(n)
		r.BlockIO = &specs.LinuxBlockIO{Weight: &w}
	}
	return r, nil
}

// maxConfig bounds config.json, in bytes: the arguments and environment that the kernel takes are 6 MiB (execve(2)), all else is small.
const maxConfig = 8 << 20

// readConfig reads a config.json, or a part of one.
func readConfig(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if weak.Size {
		return io.ReadAll(f)
	}
	data := make([]byte, 0, min(info.Size(), maxConfig)+1) // one byte more, to see its end
	for len(data) <= maxConfig {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		data = slices.Grow(data, 1)
	}
	return nil, api.Errorf(api.InvalidArgument, "%s: longer than %d MiB", file, maxConfig>>20)
}

// maxInput bounds what is read of a file that a user names, in bytes.
const maxInput = 1 << 20

func readInput(file string, stdin *os.File) ([]byte, error) {
	f := stdin
	if file != "-" {
		var err error
		if f, err = os.Open(file); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	return io.ReadAll(io.LimitReader(f, maxInput))
}
