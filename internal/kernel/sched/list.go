package sched

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The most processors and memory nodes that a kernel is built for (NR_CPUS of x86, 1 << NODES_SHIFT).
const (
	maxCPUs  = 8192
	MaxNodes = 1024
)

// CPUs and Nodes are masks as the kernel takes them: bit n of word n/64 is number n.
type (
	CPUs  [maxCPUs / 64]uint64
	Nodes [MaxNodes / 64]uint64
)

// ParseCPUs reads a list of processors such as 0-3,7.
func ParseCPUs(list string) (*CPUs, error) {
	m := new(CPUs)
	return m, parseList(m[:], list, "CPU")
}

// parseList sets the bits of a list of numbers and ranges, which must name one at least.
func parseList(mask []uint64, list, what string) error {
	most := 64*len(mask) - 1
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		from, to, isRange := strings.Cut(part, "-")
		a, err := number(from, most)
		b := a
		if err == nil && isRange {
			b, err = number(to, most)
		}
		switch {
		case err != nil:
			return fmt.Errorf("%q: %q is not a %s number up to %d or a range like 0-3", list, part, what, most)
		case b < a:
			return fmt.Errorf("%q: the range %s ends before it begins", list, part)
		}
		for n := a; n <= b; n++ {
			mask[n/64] |= 1 << (n % 64)
		}
	}
	return nil
}

// number reads digits alone: strconv would take a sign.
func number(s string, most int) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && int(n) > most {
		err = strconv.ErrRange
	}
	return int(n), err
}

// MemoryPolicy is linux.memoryPolicy as set_mempolicy(2) takes it.
type MemoryPolicy struct {
	Mode    uintptr // with the flags
	Mask    Nodes
	HasMask bool
}

// Memory reads linux.memoryPolicy. Which nodes the machine has, only the kernel knows.
func Memory(p *specs.LinuxMemoryPolicy) (*MemoryPolicy, error) {
	m := new(MemoryPolicy)
	needs, may := true, true // nodes
	switch p.Mode {
	case specs.MpolDefault:
		m.Mode, needs, may = unix.MPOL_DEFAULT, false, false
	case specs.MpolLocal:
		m.Mode, needs, may = unix.MPOL_LOCAL, false, false
	case specs.MpolPreferred:
		m.Mode, needs = unix.MPOL_PREFERRED, false
	case specs.MpolBind:
		m.Mode = unix.MPOL_BIND
	case specs.MpolInterleave:
		m.Mode = unix.MPOL_INTERLEAVE
	case specs.MpolWeightedInterleave:
		m.Mode = unix.MPOL_WEIGHTED_INTERLEAVE
	case specs.MpolPreferredMany:
		m.Mode = unix.MPOL_PREFERRED_MANY
	case "":
		return nil, fmt.Errorf("mode is missing")
	default:
		return nil, fmt.Errorf("mode: unknown value %q: they are named like MPOL_BIND", p.Mode)
	}
	switch {
	case p.Nodes == "" && needs:
		return nil, fmt.Errorf("nodes is empty: %s needs one node at least", p.Mode)
	case p.Nodes != "" && !may:
		return nil, fmt.Errorf("nodes: %s takes none", p.Mode)
	case p.Nodes != "":
		m.HasMask = true
		if err := parseList(m.Mask[:], p.Nodes, "node"); err != nil {
			return nil, fmt.Errorf("nodes: %w", err)
		}
	}
	for i, f := range p.Flags {
		switch f {
		case specs.MpolFNumaBalancing:
			m.Mode |= unix.MPOL_F_NUMA_BALANCING
		case specs.MpolFRelativeNodes:
			m.Mode |= unix.MPOL_F_RELATIVE_NODES
		case specs.MpolFStaticNodes:
			m.Mode |= unix.MPOL_F_STATIC_NODES
		default:
			return nil, fmt.Errorf("flags[%d]: unknown value %q: they are named like MPOL_F_STATIC_NODES", i, f)
		}
	}
	const either = unix.MPOL_F_RELATIVE_NODES | unix.MPOL_F_STATIC_NODES
	switch {
	case m.Mode&either == either:
		return nil, fmt.Errorf("flags: MPOL_F_RELATIVE_NODES and MPOL_F_STATIC_NODES exclude each other")
	case m.Mode&either != 0 && !m.HasMask:
		return nil, fmt.Errorf("flags: they say how nodes are meant, and there are none")
	}
	return m, nil
}
