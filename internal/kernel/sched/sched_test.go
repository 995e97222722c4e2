package sched

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestAttr(t *testing.T) {
	for _, tc := range []struct {
		in   specs.Scheduler
		want unix.SchedAttr
		err  string // its beginning
	}{
		{specs.Scheduler{Policy: specs.SchedOther, Nice: -20}, unix.SchedAttr{Nice: -20}, ""},
		{specs.Scheduler{Policy: specs.SchedBatch, Nice: 19}, unix.SchedAttr{Policy: 3, Nice: 19}, ""},
		{specs.Scheduler{Policy: specs.SchedIdle}, unix.SchedAttr{Policy: 5}, ""},
		{specs.Scheduler{Policy: specs.SchedFIFO, Priority: 1}, unix.SchedAttr{Policy: 1, Priority: 1}, ""},
		{specs.Scheduler{Policy: specs.SchedRR, Priority: 99}, unix.SchedAttr{Policy: 2, Priority: 99}, ""},
		{specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1024, Deadline: 1024}, unix.SchedAttr{Policy: 6, Runtime: 1024, Deadline: 1024}, ""},
		{specs.Scheduler{Policy: specs.SchedFIFO, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagKeepParams}}, unix.SchedAttr{Policy: 1, Flags: 0x10}, ""},
		{specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{
			specs.SchedFlagResetOnFork, specs.SchedFlagReclaim, specs.SchedFlagDLOverrun, specs.SchedFlagKeepPolicy, specs.SchedFlagUtilClampMin, specs.SchedFlagUtilClampMax,
		}}, unix.SchedAttr{Flags: 0x6f}, ""},
		{specs.Scheduler{}, unix.SchedAttr{}, "policy is missing"},
		{specs.Scheduler{Policy: "SCHED_NORMAL"}, unix.SchedAttr{}, `policy: unknown value "SCHED_NORMAL"`},
		{specs.Scheduler{Policy: specs.SchedISO}, unix.SchedAttr{}, "policy: Linux"},
		{specs.Scheduler{Policy: specs.SchedOther, Nice: 20}, unix.SchedAttr{}, "nice: 20"},
		{specs.Scheduler{Policy: specs.SchedOther, Nice: -21}, unix.SchedAttr{}, "nice: -21"},
		{specs.Scheduler{Policy: specs.SchedOther, Priority: 1}, unix.SchedAttr{}, "priority: "},
		{specs.Scheduler{Policy: specs.SchedFIFO}, unix.SchedAttr{}, "priority: 0"},
		{specs.Scheduler{Policy: specs.SchedRR, Priority: 100}, unix.SchedAttr{}, "priority: 100"},
		{specs.Scheduler{Policy: specs.SchedRR, Priority: -1}, unix.SchedAttr{}, "priority: -1"},
		{specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagReclaim, "X"}}, unix.SchedAttr{}, "flags[1]"},
		{specs.Scheduler{Policy: specs.SchedOther, Period: 1}, unix.SchedAttr{}, "runtime, deadline and period"},
		{specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1023, Deadline: 5000}, unix.SchedAttr{}, "runtime 1023"},
		{specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 6000, Deadline: 5000}, unix.SchedAttr{}, "runtime 6000"},
		{specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 2000, Deadline: 5000, Period: 4000}, unix.SchedAttr{}, "runtime 2000"},
		{specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 2000, Deadline: 5000, Period: 1 << 63}, unix.SchedAttr{}, "runtime 2000"},
	} {
		got, err := Attr(&tc.in)
		if tc.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), tc.err) {
				t.Errorf("%+v: %v, want %s…", tc.in, err, tc.err)
			}
			continue
		}
		tc.want.Size = unix.SizeofSchedAttr
		if err != nil || *got != tc.want {
			t.Errorf("%+v: %+v, %v", tc.in, got, err)
		}
	}
}

func TestIOPriority(t *testing.T) {
	for _, tc := range []struct {
		class    specs.IOPriorityClass
		priority int
		want     uintptr
		err      string
	}{
		{specs.IOPRIO_CLASS_RT, 0, 0x2000, ""}, {specs.IOPRIO_CLASS_BE, 7, 0x4007, ""}, {specs.IOPRIO_CLASS_IDLE, 4, 0x6004, ""},
		{"", 0, 0, "class is missing"}, {"IOPRIO_CLASS_NONE", 0, 0, "class: unknown"}, {specs.IOPRIO_CLASS_BE, 8, 0, "priority: 8"}, {specs.IOPRIO_CLASS_BE, -1, 0, "priority: -1"},
	} {
		got, err := IOPriority(&specs.LinuxIOPriority{Class: tc.class, Priority: tc.priority})
		if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.HasPrefix(err.Error(), tc.err) {
			t.Errorf("%s %d: %#x, %v", tc.class, tc.priority, got, err)
		}
	}
}

func TestLists(t *testing.T) {
	for list, want := range map[string][]int{"0": {0}, "0-3,7": {0, 1, 2, 3, 7}, "63-64": {63, 64}, "8191": {8191}, " 1 , 2": {1, 2}, "5,5,4-5": {4, 5}} {
		m, err := ParseCPUs(list)
		if err != nil {
			t.Errorf("%q: %v", list, err)
			continue
		}
		var got []int
		for n := range 64 * len(m) {
			if m[n/64]>>(n%64)&1 != 0 {
				got = append(got, n)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v", list, got)
		}
	}
	for _, list := range []string{"", ",", "1,", "-1", "1-", "3-1", "8192", "0-8192", "x", "+1", "1--2", "0x1", "1_0", "99999999999999999999", "1 2"} {
		if _, err := ParseCPUs(list); err == nil {
			t.Errorf("%q is taken", list)
		}
	}
}

func TestMemory(t *testing.T) {
	for _, tc := range []struct {
		in   specs.LinuxMemoryPolicy
		mode uintptr
		mask uint64
		err  string
	}{
		{specs.LinuxMemoryPolicy{Mode: specs.MpolDefault}, 0, 0, ""},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolLocal}, 4, 0, ""},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolPreferred}, 1, 0, ""},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolPreferred, Nodes: "1"}, 1, 2, ""},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolInterleave, Nodes: "0-1"}, 3, 3, ""},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolWeightedInterleave, Nodes: "0"}, 6, 1, ""},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolPreferredMany, Nodes: "0"}, 5, 1, ""},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0,2", Flags: []specs.MemoryPolicyFlagType{specs.MpolFNumaBalancing, specs.MpolFStaticNodes}}, 2 | 1<<13 | 1<<15, 5, ""},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFRelativeNodes}}, 2 | 1<<14, 1, ""},
		{specs.LinuxMemoryPolicy{}, 0, 0, "mode is missing"},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_X"}, 0, 0, "mode: unknown"},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolBind}, 0, 0, "nodes is empty"},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolDefault, Nodes: "0"}, 0, 0, "nodes: MPOL_DEFAULT"},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "1024"}, 0, 0, "nodes: "},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{"X"}}, 0, 0, "flags[0]"},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFRelativeNodes, specs.MpolFStaticNodes}}, 0, 0, "flags: "},
		{specs.LinuxMemoryPolicy{Mode: specs.MpolPreferred, Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}, 0, 0, "flags: "},
	} {
		got, err := Memory(&tc.in)
		if tc.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), tc.err) {
				t.Errorf("%+v: %v, want %s…", tc.in, err, tc.err)
			}
			continue
		}
		if err != nil || got.Mode != tc.mode || got.Mask[0] != tc.mask || got.HasMask != (tc.mask != 0) {
			t.Errorf("%+v: %+v, %v", tc.in, got, err)
		}
	}
}

func TestPersonality(t *testing.T) {
	for domain, want := range map[specs.LinuxPersonalityDomain]uintptr{specs.PerLinux: 0, specs.PerLinux32: 8} {
		if got, err := Personality(&specs.LinuxPersonality{Domain: domain}); err != nil || got != want {
			t.Errorf("%s: %d, %v", domain, got, err)
		}
	}
	for words, p := range map[string]specs.LinuxPersonality{
		"domain is missing": {}, "domain: unknown": {Domain: "BSD"}, "flags: unknown": {Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"ADDR_NO_RANDOMIZE"}},
	} {
		if _, err := Personality(&p); err == nil || !strings.HasPrefix(err.Error(), words) {
			t.Errorf("%s: %v", words, err)
		}
	}
}
