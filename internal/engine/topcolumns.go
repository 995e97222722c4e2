package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"brig/internal/kernel/proc"
)

// descriptorNames are podman's descriptors.
func descriptorNames() []string {
	return []string{
		"args", "capamb", "capbnd", "capeff", "capinh", "capprm", "comm", "etime", "group", "groups", "hgroup", "hgroups", "hpid", "huser", "label", "nice", "pcpu", "pgid",
		"pid", "ppid", "rgroup", "rss", "ruser", "seccomp", "state", "stime", "time", "tty", "user", "vsz",
	}
}

// descriptor is a column by podman's name for it: pid, ppid and user are those that the container sees.
func descriptor(name string) (column, bool) {
	if code, ok := aixNames(name); ok {
		name = code
	}
	if !slices.Contains(descriptorNames(), name) {
		return column{}, false
	}
	switch name {
	case "pid":
		return column{"PID", func(_ *topTable, p *proc.Process) string { return strconv.Itoa(p.NSPID) }}, true
	case "hpid":
		return column{"HPID", func(_ *topTable, p *proc.Process) string { return strconv.Itoa(p.PID) }}, true
	case "ppid":
		return column{"PPID", func(_ *topTable, p *proc.Process) string { return strconv.Itoa(p.NSPPID) }}, true
	case "user":
		return column{"USER", func(t *topTable, p *proc.Process) string { return t.name("etc/passwd", id4(p, "Uid", 1), &t.users) }}, true
	case "ruser":
		return column{"RUSER", func(t *topTable, p *proc.Process) string { return t.name("etc/passwd", id4(p, "Uid", 0), &t.users) }}, true
	case "group":
		return column{"GROUP", func(t *topTable, p *proc.Process) string { return t.name("etc/group", id4(p, "Gid", 1), &t.groups) }}, true
	case "rgroup":
		return column{"RGROUP", func(t *topTable, p *proc.Process) string { return t.name("etc/group", id4(p, "Gid", 0), &t.groups) }}, true
	case "groups":
		return column{"GROUPS", func(t *topTable, p *proc.Process) string {
			return groupList(p, func(id string) string { return t.name("etc/group", id, &t.groups) })
		}}, true
	case "hgroups":
		return column{"HGROUPS", func(t *topTable, p *proc.Process) string {
			return groupList(p, func(id string) string { return t.hostName("/etc/group", id, &t.hostGroups) })
		}}, true
	case "etime":
		return column{"ELAPSED", func(t *topTable, p *proc.Process) string { return t.now.Sub(p.Start).Round(1e6).String() }}, true
	case "time":
		return column{"TIME", func(_ *topTable, p *proc.Process) string { return p.CPU.String() }}, true
	case "args":
		return column{"COMMAND", func(_ *topTable, p *proc.Process) string { return arguments(p) }}, true
	case "pcpu":
		return column{"%CPU", func(t *topTable, p *proc.Process) string { return fmt.Sprintf("%.3f", t.cpuShare(p)) }}, true
	case "seccomp":
		return column{"SECCOMP", func(_ *topTable, p *proc.Process) string { return seccompMode(p.Status["Seccomp"]) }}, true
	case "label":
		return column{"LABEL", func(_ *topTable, p *proc.Process) string { return label(p) }}, true
	}
	if set, ok := strings.CutPrefix(name, "cap"); ok {
		line := map[string]string{"amb": "CapAmb", "bnd": "CapBnd", "eff": "CapEff", "inh": "CapInh", "prm": "CapPrm"}[set]
		return column{strings.ToUpper(set) + " CAPS", func(_ *topTable, p *proc.Process) string { return capabilities(p, line) }}, true
	}
	return psColumn(name)
}

// psColumn is a column by the name that ps -o has for it: its numbers and users are the host's.
func psColumn(name string) (column, bool) {
	number := func(title string, of func(*proc.Process) int) (column, bool) {
		return column{title, func(_ *topTable, p *proc.Process) string { return strconv.Itoa(of(p)) }}, true
	}
	switch name {
	case "pid":
		return number("PID", func(p *proc.Process) int { return p.PID })
	case "ppid":
		return number("PPID", func(p *proc.Process) int { return p.PPID })
	case "pgid", "pgrp":
		return number("PGID", func(p *proc.Process) int { return p.PGID })
	case "sid", "sess":
		return number("SID", func(p *proc.Process) int { return p.SID })
	case "nice", "ni":
		return number("NI", func(p *proc.Process) int { return p.Nice })
	case "nlwp", "thcount":
		return number("NLWP", func(p *proc.Process) int { return p.Threads })
	case "vsz":
		return number("VSZ", func(p *proc.Process) int { return int(p.Virtual >> 10) })
	case "rss":
		return number("RSS", func(p *proc.Process) int { return int(p.Resident >> 10) })
	case "c":
		return column{"C", func(t *topTable, p *proc.Process) string { return strconv.Itoa(int(t.cpuShare(p))) }}, true
	case "pcpu", "%cpu":
		return column{"%CPU", func(t *topTable, p *proc.Process) string { return fmt.Sprintf("%.1f", t.cpuShare(p)) }}, true
	case "pmem", "%mem":
		return column{"%MEM", func(_ *topTable, p *proc.Process) string {
			return fmt.Sprintf("%.1f", 100*float64(p.Resident)/max(float64(totalMemory()), 1))
		}}, true
	case "uid", "user", "euser", "huser":
		title := map[string]string{"uid": "UID", "huser": "HUSER", "euser": "EUSER"}[name]
		if title == "" {
			title = "USER"
		}
		return column{title, func(t *topTable, p *proc.Process) string {
			return t.hostName("/etc/passwd", id4(p, "Uid", 1), &t.hostUsers)
		}}, true
	case "group", "egroup", "hgroup":
		title := map[string]string{"hgroup": "HGROUP", "egroup": "EGROUP"}[name]
		if title == "" {
			title = "GROUP"
		}
		return column{title, func(t *topTable, p *proc.Process) string {
			return t.hostName("/etc/group", id4(p, "Gid", 1), &t.hostGroups)
		}}, true
	case "tty", "tt":
		title := "TTY"
		if name == "tt" {
			title = "TT"
		}
		return column{title, func(_ *topTable, p *proc.Process) string { return proc.Terminal(p.TTY) }}, true
	case "time", "cputime":
		return column{"TIME", func(_ *topTable, p *proc.Process) string { return clock(p.CPU) }}, true
	case "etime":
		return column{"ELAPSED", func(t *topTable, p *proc.Process) string { return elapsed(t.now.Sub(p.Start)) }}, true
	case "stime", "start":
		return column{strings.ToUpper(name), func(t *topTable, p *proc.Process) string { return t.started(p) }}, true
	case "stat", "state", "s":
		title := map[string]string{"stat": "STAT", "state": "STATE", "s": "S"}[name]
		return column{title, func(_ *topTable, p *proc.Process) string { return string(rune(p.State)) }}, true
	case "comm", "ucmd", "ucomm":
		return column{"COMMAND", func(_ *topTable, p *proc.Process) string { return p.Comm }}, true
	case "cmd":
		return column{"CMD", func(_ *topTable, p *proc.Process) string { return arguments(p) }}, true
	case "args", "command":
		return column{"COMMAND", func(_ *topTable, p *proc.Process) string { return arguments(p) }}, true
	}
	return column{}, false
}

// aixNames are the short forms of descriptors that podman takes too.
func aixNames(code string) (string, bool) {
	for _, pair := range [...][2]string{
		{"%C", "pcpu"}, {"%G", "group"}, {"%P", "ppid"}, {"%U", "user"}, {"%a", "args"}, {"%c", "comm"}, {"%g", "rgroup"}, {"%n", "nice"}, {"%p", "pid"}, {"%r", "pgid"},
		{"%t", "etime"}, {"%u", "ruser"}, {"%x", "time"}, {"%y", "tty"}, {"%z", "vsz"},
	} {
		if pair[0] == code {
			return pair[1], true
		}
	}
	return "", false
}

func groupList(p *proc.Process, name func(string) string) string {
	var all []string
	for id := range strings.FieldsSeq(p.Status["Groups"]) {
		all = append(all, name(id))
	}
	return strings.Join(all, ",")
}

// seccompMode is a word for the number in /proc/PID/status.
func seccompMode(n string) string {
	switch n {
	case "0":
		return "disabled"
	case "1":
		return "strict"
	case "2":
		return "filter"
	}
	return "?"
}
