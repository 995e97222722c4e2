package oci

import (
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/kernel/lsm"
	"brig/internal/kernel/sched"
	"brig/internal/kernel/seccomp"
)

// Bounds of proc_pid_oom_score_adj(5) and, in seconds, of the kernel's clocks (KTIME_SEC_MAX).
const (
	minOOM, maxOOM = -1000, 1000
	maxClock       = math.MaxInt64 / 1_000_000_000
)

// validateAttributes refuses attributes of a process that no kernel takes, and labels of a security module that is not there.
func validateAttributes(p *specs.Process) error {
	if p.Scheduler != nil {
		if _, err := sched.Attr(p.Scheduler); err != nil {
			return field("process.scheduler", err)
		}
	}
	if p.IOPriority != nil {
		if _, err := sched.IOPriority(p.IOPriority); err != nil {
			return field("process.ioPriority", err)
		}
	}
	if a := p.ExecCPUAffinity; a != nil {
		for name, list := range map[string]string{"initial": a.Initial, "final": a.Final} {
			if list == "" {
				continue
			}
			if _, err := sched.ParseCPUs(list); err != nil {
				return api.Errorf(api.InvalidArgument, "config.json: process.execCPUAffinity.%s: %w", name, err)
			}
		}
	}
	if a := p.OOMScoreAdj; a != nil && (*a < minOOM || *a > maxOOM) {
		return api.Errorf(api.InvalidArgument, "config.json: process.oomScoreAdj: %d is not between %d and %d", *a, minOOM, maxOOM)
	}
	if err := validateRlimits(p.Rlimits); err != nil {
		return err
	}
	for name, label := range map[string]string{"process.apparmorProfile": p.ApparmorProfile, "process.selinuxLabel": p.SelinuxLabel} {
		if strings.ContainsAny(label, "\x00\n") {
			return api.Errorf(api.InvalidArgument, "config.json: %s: %q has a NUL byte or a line break", name, label)
		}
	}
	if p.ApparmorProfile != "" {
		if err := (lsm.Host{}).AppArmor(); err != nil {
			return api.Errorf(api.Unsupported, "config.json: process.apparmorProfile %q: %w", p.ApparmorProfile, err)
		}
	}
	if p.SelinuxLabel != "" {
		if err := (lsm.Host{}).SELinux(); err != nil {
			return api.Errorf(api.Unsupported, "config.json: process.selinuxLabel %q: %w", p.SelinuxLabel, err)
		}
	}
	return nil
}

func validateRlimits(list []specs.POSIXRlimit) error {
	var seen [16]bool
	for i, r := range list {
		n, ok := rlimitNumber(r.Type)
		switch {
		case !ok:
			return api.Errorf(api.InvalidArgument, "config.json: process.rlimits[%d].type: unknown value %q: `man 2 getrlimit` lists them", i, r.Type)
		case seen[n]:
			return api.Errorf(api.InvalidArgument, "config.json: process.rlimits[%d]: %s is listed twice", i, r.Type)
		case r.Soft > r.Hard:
			return api.Errorf(api.InvalidArgument, "config.json: process.rlimits[%d]: %s: soft %d is more than hard %d", i, r.Type, r.Soft, r.Hard)
		}
		seen[n] = true
	}
	return nil
}

// validateLinuxAttributes is the part of validateAttributes that stands in the section linux.
func validateLinuxAttributes(l *specs.Linux) error {
	if l.MemoryPolicy != nil {
		if _, err := sched.Memory(l.MemoryPolicy); err != nil {
			return field("linux.memoryPolicy", err)
		}
	}
	if l.Personality != nil {
		if _, err := sched.Personality(l.Personality); err != nil {
			return field("linux.personality", err)
		}
	}
	if l.MountLabel != "" {
		if strings.ContainsAny(l.MountLabel, "\x00\n\"") {
			return api.Errorf(api.InvalidArgument, "config.json: linux.mountLabel: %q has a NUL byte, a line break or a quotation mark", l.MountLabel)
		}
	}
	if err := validateTime(l); err != nil {
		return err
	}
	if l.Seccomp != nil {
		return validateSeccomp(l.Seccomp)
	}
	return nil
}

// validateTime wants a time namespace of the container's own for offsets: the clocks of a joined one stand (time_namespaces(7)).
func validateTime(l *specs.Linux) error {
	if len(l.TimeOffsets) == 0 {
		return nil
	}
	own := false
	for _, n := range l.Namespaces {
		own = own || n.Type == specs.TimeNamespace && n.Path == ""
	}
	if !own {
		return api.Errorf(api.InvalidArgument, "config.json: linux.timeOffsets is set, but linux.namespaces has no new time namespace")
	}
	for clock, o := range l.TimeOffsets {
		switch {
		case clock != "monotonic" && clock != "boottime":
			return api.Errorf(api.InvalidArgument, "config.json: linux.timeOffsets: unknown clock %q: it is monotonic or boottime", clock)
		case o.Nanosecs >= 1_000_000_000:
			return api.Errorf(api.InvalidArgument, "config.json: linux.timeOffsets: %s: nanosecs %d is a second or more", clock, o.Nanosecs)
		case o.Secs > maxClock || o.Secs < -maxClock:
			return api.Errorf(api.InvalidArgument, "config.json: linux.timeOffsets: %s: secs %d is beyond the kernel's clocks (%d)", clock, o.Secs, int64(maxClock))
		}
	}
	return nil
}

func validateSeccomp(s *specs.LinuxSeccomp) error {
	notify, err := seccomp.Check(s)
	if err != nil {
		return api.Errorf(api.KindOf(err), "config.json: linux.%w", err)
	}
	switch {
	case s.ListenerPath == "" && s.ListenerMetadata != "":
		return api.Errorf(api.InvalidArgument, "config.json: linux.seccomp.listenerMetadata is set, but listenerPath is not")
	case !notify: // then the specification has the path ignored
		return nil
	case s.ListenerPath == "":
		return api.Errorf(api.InvalidArgument, "config.json: linux.seccomp.listenerPath is missing: SCMP_ACT_NOTIFY needs somebody to notify")
	}
	st, err := os.Stat(s.ListenerPath)
	if err != nil {
		return api.Errorf(api.Unavailable, "config.json: linux.seccomp.listenerPath: %w: is the agent running?", err)
	}
	if st.Mode()&os.ModeSocket == 0 {
		return api.Errorf(api.InvalidArgument, "config.json: linux.seccomp.listenerPath: %s is not a socket", s.ListenerPath)
	}
	return nil
}

// field puts the name of a field before what is wrong with it.
func field(name string, err error) error {
	return api.Errorf(api.InvalidArgument, "config.json: %w", fmt.Errorf("%s.%w", name, err))
}
