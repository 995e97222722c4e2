package proc

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"
)

// Process is what /proc tells of a process: proc(5). Nothing of it is to be believed that the process itself can set: its name and its arguments.
type Process struct {
	PID, PPID, PGID, SID int
	NSPID, NSPPID        int // in the innermost PID namespace that the process is in; NSPPID is 0 where its parent is outside of that
	State                byte
	Comm                 string
	Args                 []string // empty for a kernel thread and for one that has ended
	TTY                  int      // device number, 0: none
	Nice, Threads        int
	CPU                  time.Duration // used, in user and kernel mode
	Start                time.Time
	Virtual, Resident    int64             // bytes
	Status               map[string]string // the lines of /proc/PID/status
}

const clockTick = time.Second / 100 // USER_HZ is 100 on every architecture that Go has

// Read reads what there is to know of a process. One that has ended meanwhile is fs.ErrNotExist.
func Read(pid int, boot time.Time) (*Process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return nil, err
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return nil, err
	}
	p := &Process{PID: pid, Status: parseStatus(string(status))}
	p.parse(stat, boot)
	if args, err := os.ReadFile(dir + "/cmdline"); err == nil && len(args) > 0 {
		p.Args = strings.Split(strings.TrimRight(string(args), "\x00"), "\x00")
	}
	p.NSPID = lastNumber(p.Status["NSpid"])
	p.NSPPID = p.parentInside()
	return p, nil
}

// parse reads /proc/PID/stat, in which the name may hold anything, brackets too.
func (p *Process) parse(stat []byte, boot time.Time) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return
	}
	p.Comm = string(stat[open+1 : end])
	f := strings.Fields(string(stat[end+1:])) // f[0] is field 3 of proc(5)
	number := func(i int) int64 {
		if i-3 >= len(f) {
			return 0
		}
		n, _ := strconv.ParseInt(f[i-3], 10, 64)
		return n
	}
	if len(f) > 0 && len(f[0]) == 1 {
		p.State = f[0][0]
	}
	p.PPID, p.PGID, p.SID, p.TTY = int(number(4)), int(number(5)), int(number(6)), int(number(7))
	p.CPU = time.Duration(number(14)+number(15)) * clockTick
	p.Nice, p.Threads = int(number(19)), int(number(20))
	p.Start = boot.Add(time.Duration(number(22)) * clockTick)
	p.Virtual, p.Resident = number(23), number(24)*int64(os.Getpagesize())
}

func parseStatus(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			all[key] = strings.TrimSpace(value)
		}
	}
	return all
}

// lastNumber is the last of numbers with blanks between them.
func lastNumber(s string) int {
	n, _ := strconv.Atoi(s[strings.LastIndexAny(s, " \t")+1:])
	return n
}

// parentInside is the parent's number in the process's own PID namespace.
func (p *Process) parentInside() int {
	if p.PPID == 0 || p.NSPID == 1 {
		return 0
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.PPID) + "/status")
	if err != nil {
		return 0
	}
	parent := parseStatus(string(status))["NSpid"]
	if len(strings.Fields(parent)) != len(strings.Fields(p.Status["NSpid"])) { // of a namespace above: who ran exec
		return 0
	}
	return lastNumber(parent)
}

// Boot is when the machine started, to the second.
func Boot() time.Time {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}
	}
	for line := range strings.Lines(string(stat)) {
		if rest, ok := strings.CutPrefix(line, "btime "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return time.Unix(n, 0)
		}
	}
	return time.Time{}
}

// Terminal is how ps(1) calls a terminal by its device number: "pts/0", "tty1", "?" for none.
func Terminal(dev int) string {
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	switch {
	case dev == 0:
		return "?"
	case major >= 136 && major <= 143: // Unix98 pseudoterminals: Documentation/admin-guide/devices.txt
		return "pts/" + strconv.Itoa((major-136)*256+minor)
	case major == 4 && minor < 64:
		return "tty" + strconv.Itoa(minor)
	}
	return strconv.Itoa(major) + "," + strconv.Itoa(minor)
}
