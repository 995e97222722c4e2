// Package sched turns what an OCI configuration says about processor time, disk time and memory nodes into the arguments of the system calls
// that set them: sched_setattr(2), ioprio_set(2), sched_setaffinity(2), set_mempolicy(2) and personality(2).
//
// Nothing here calls them: a container's process does that itself, where it may not allocate. A value that the specification does not know or
// that the kernel refuses whatever the machine is an error here, whose words begin with the field's name below its object.
package sched

import (
	"fmt"
	"math"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Policies of sched(7) that golang.org/x/sys/unix has no name for (linux/sched.h).
const (
	schedOther = 0
	schedFIFO  = 1
	schedRR    = 2
	schedBatch = 3
	schedIdle  = 5
)

// Bounds of sched(7) and setpriority(2).
const (
	minNice, maxNice = -20, 19
	maxPriority      = 99
	minDeadline      = 1024 // nanoseconds: the scheduler's granularity
)

// Attr is process.scheduler as sched_setattr(2) takes it.
func Attr(s *specs.Scheduler) (*unix.SchedAttr, error) {
	policy, err := policyNumber(s.Policy)
	if err != nil {
		return nil, err
	}
	a := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for i, f := range s.Flags {
		bit := flagBit(f)
		if bit == 0 {
			return nil, fmt.Errorf("flags[%d]: unknown value %q: they are named like SCHED_FLAG_RESET_ON_FORK", i, f)
		}
		a.Flags |= bit
	}
	if s.Nice < minNice || s.Nice > maxNice {
		return nil, fmt.Errorf("nice: %d is not between %d and %d", s.Nice, minNice, maxNice)
	}
	realtime := policy == schedFIFO || policy == schedRR
	keep := a.Flags&unix.SCHED_FLAG_KEEP_PARAMS != 0
	switch {
	case realtime && !keep && (s.Priority < 1 || s.Priority > maxPriority):
		return nil, fmt.Errorf("priority: %d is not between 1 and %d, which %s needs", s.Priority, maxPriority, s.Policy)
	case !realtime && s.Priority != 0:
		return nil, fmt.Errorf("priority: only SCHED_FIFO and SCHED_RR have one, %s does not", s.Policy)
	}
	if policy != unix.SCHED_DEADLINE {
		if s.Runtime != 0 || s.Deadline != 0 || s.Period != 0 {
			return nil, fmt.Errorf("runtime, deadline and period: only SCHED_DEADLINE has them, %s does not", s.Policy)
		}
		return a, nil
	}
	period := s.Period
	if period == 0 {
		period = s.Deadline
	}
	if !keep && (s.Runtime < minDeadline || s.Runtime > s.Deadline || s.Deadline > period || period > math.MaxInt64) {
		return nil, fmt.Errorf("runtime %d, deadline %d, period %d: SCHED_DEADLINE needs %d <= runtime <= deadline <= period, in nanoseconds",
			s.Runtime, s.Deadline, s.Period, minDeadline)
	}
	return a, nil
}

func policyNumber(p specs.LinuxSchedulerPolicy) (uint32, error) {
	switch p {
	case specs.SchedOther:
		return schedOther, nil
	case specs.SchedFIFO:
		return schedFIFO, nil
	case specs.SchedRR:
		return schedRR, nil
	case specs.SchedBatch:
		return schedBatch, nil
	case specs.SchedIdle:
		return schedIdle, nil
	case specs.SchedDeadline:
		return unix.SCHED_DEADLINE, nil
	case specs.SchedISO:
		return 0, fmt.Errorf("policy: Linux has a number for SCHED_ISO but no such policy (sched.h: \"not yet implemented\")")
	case "":
		return 0, fmt.Errorf("policy is missing")
	}
	return 0, fmt.Errorf("policy: unknown value %q: it is one of SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE, SCHED_DEADLINE", p)
}

func flagBit(f specs.LinuxSchedulerFlag) uint64 {
	switch f {
	case specs.SchedFlagResetOnFork:
		return unix.SCHED_FLAG_RESET_ON_FORK
	case specs.SchedFlagReclaim:
		return unix.SCHED_FLAG_RECLAIM
	case specs.SchedFlagDLOverrun:
		return unix.SCHED_FLAG_DL_OVERRUN
	case specs.SchedFlagKeepPolicy:
		return unix.SCHED_FLAG_KEEP_POLICY
	case specs.SchedFlagKeepParams:
		return unix.SCHED_FLAG_KEEP_PARAMS
	case specs.SchedFlagUtilClampMin:
		return unix.SCHED_FLAG_UTIL_CLAMP_MIN
	case specs.SchedFlagUtilClampMax:
		return unix.SCHED_FLAG_UTIL_CLAMP_MAX
	}
	return 0
}

// Who ioprio_set(2) is for, and where the class stands in its value (linux/ioprio.h).
const (
	IOPriorityProcess = 1
	ioClassShift      = 13
	maxIOPriority     = 7
)

// IOPriority is process.ioPriority as ioprio_set(2) takes it.
func IOPriority(p *specs.LinuxIOPriority) (uintptr, error) {
	class := 0
	switch p.Class {
	case specs.IOPRIO_CLASS_RT:
		class = 1
	case specs.IOPRIO_CLASS_BE:
		class = 2
	case specs.IOPRIO_CLASS_IDLE:
		class = 3
	case "":
		return 0, fmt.Errorf("class is missing")
	default:
		return 0, fmt.Errorf("class: unknown value %q: it is one of IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE", p.Class)
	}
	if p.Priority < 0 || p.Priority > maxIOPriority {
		return 0, fmt.Errorf("priority: %d is not between 0 and %d", p.Priority, maxIOPriority)
	}
	return uintptr(class<<ioClassShift | p.Priority), nil
}

// Execution domains of linux/personality.h.
const (
	perLinux   = 0
	perLinux32 = 8
)

// Personality is linux.personality as personality(2) takes it. The specification defines no flag.
func Personality(p *specs.LinuxPersonality) (uintptr, error) {
	if len(p.Flags) > 0 {
		return 0, fmt.Errorf("flags: unknown value %q: the specification defines none", p.Flags[0])
	}
	switch p.Domain {
	case specs.PerLinux:
		return perLinux, nil
	case specs.PerLinux32:
		return perLinux32, nil
	case "":
		return 0, fmt.Errorf("domain is missing")
	}
	return 0, fmt.Errorf("domain: unknown value %q: it is LINUX or LINUX32", p.Domain)
}
