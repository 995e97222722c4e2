package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/caps"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/proc"
	"brig/internal/runtime"
	"brig/internal/runtime/shim"
)

// column is one column of top: podman's descriptor or a format of ps -o, both by one name where both have it.
type column struct {
	title string
	value func(t *topTable, p *proc.Process) string
}

// topTable is what the columns look up.
type topTable struct {
	now         time.Time
	hostUsers   map[string]string
	users       map[string]string // the container's own, by its /etc/passwd
	groups      map[string]string
	hostGroups  map[string]string
	processRoot int  // a descriptor of the container's root, by its first process, -1: none
	inner       bool // the processes are those that a level's own kernel has, which tells less of them
}

// untold are the titles of columns that only the host's kernel could fill.
func untold(title string) bool {
	return slices.Contains([]string{"NI", "NICE", "GROUPS", "HGROUPS", "HPID", "LABEL", "SECCOMP", "S", "STAT", "STATE"}, title)
}

// Top lists a container's processes. words are ps options, as docker's, or podman's descriptors; none: as ps -ef.
//
// Nothing of the container is executed: its processes are those of its control group, and what is told of them is read from the host's /proc. Where other ps
// options are asked for than those known here, it is the host's ps that is asked, from its usual places and not by PATH.
func (e *Engine) Top(ctx context.Context, name string, words []string) (api.ProcessList, error) {
	c, err := e.meta.Container(name)
	if err != nil {
		return api.ProcessList{}, err
	}
	ct, err := e.running(ctx, &c)
	if err != nil {
		return api.ProcessList{}, err
	}
	columns, known, err := topColumns(words)
	if err != nil {
		return api.ProcessList{}, err
	}
	pids, err := ct.Pids()
	if err != nil {
		return api.ProcessList{}, err
	}
	slices.Sort(pids)
	t := &topTable{now: time.Now(), processRoot: -1}
	processes, err := e.processesInside(ctx, &c, ct)
	switch {
	case err == nil:
		if t.inner = true; !known {
			return api.ProcessList{}, api.Errorf(api.Unsupported, "top: %q are options of the host's ps, which does not see the processes inside: use -ef, aux, -o, or podman's descriptors", strings.Join(words, " "))
		}
	case !errors.Is(err, api.Unsupported):
		return api.ProcessList{}, err
	case !known:
		return hostPS(ctx, words, pids)
	default:
		boot := proc.Boot()
		for _, pid := range pids {
			if p, err := proc.Read(pid, boot); err == nil { // else it has ended
				processes = append(processes, *p)
			}
		}
	}
	if t.processRoot = e.rootOfFirst(&c); t.processRoot >= 0 {
		defer unix.Close(t.processRoot)
	}
	var list api.ProcessList
	for _, col := range columns {
		list.Titles = append(list.Titles, col.title)
	}
	for i := range processes {
		var row []string
		for _, col := range columns {
			if t.inner && untold(col.title) {
				row = append(row, "?")
				continue
			}
			row = append(row, printable(col.value(t, &processes[i])))
		}
		list.Rows = append(list.Rows, row)
	}
	return list, nil
}

// rootOfFirst opens a container's root by its first process; -1: it has ended.
func (e *Engine) rootOfFirst(c *api.Container) int {
	s, err := shim.ReadState(e.sandboxDir(c.ID))
	if err != nil {
		return -1
	}
	fd, err := unix.Open("/proc/"+strconv.Itoa(s.Pid)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	if !running(s) { // asked when it is open: it cannot become another's any more
		unix.Close(fd)
		return -1
	}
	below := rootIn(c.Spec.Isolation)
	if below == "" {
		return fd
	}
	defer unix.Close(fd)
	root, err := unix.Openat2(fd, below, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return -1
	}
	return root
}

// processesInside are the processes that a container's level has a kernel of its own for, as that tells them; api.Unsupported where they are the host's.
func (e *Engine) processesInside(ctx context.Context, c *api.Container, ct live) ([]proc.Process, error) {
	inner, ok := ct.(runtime.Inner)
	if !ok {
		return nil, api.Errorf(api.Unsupported, "they are the host's")
	}
	if err := e.notPaused(c, "ask it for its processes"); err != nil {
		return nil, err
	}
	return inner.Processes(ctx)
}

// topColumns reads what the user wants to see. Options that are only the host's ps's are not known.
func topColumns(words []string) (list []column, known bool, err error) {
	var names []string
	switch joined := strings.Join(words, " "); {
	case joined == "" || joined == "-ef":
		names = strings.Fields("ps:uid ps:pid ps:ppid ps:c ps:stime ps:tty ps:time ps:cmd")
	case joined == "aux" || joined == "-aux":
		names = strings.Fields("ps:user ps:pid ps:%cpu ps:%mem ps:vsz ps:rss ps:tty ps:stat ps:start ps:time ps:command")
	case strings.HasPrefix(joined, "-o") || strings.HasPrefix(joined, "-eo") || strings.HasPrefix(joined, "o "):
		_, fields, _ := strings.Cut(joined, "o")
		for _, f := range strings.FieldsFunc(fields, separator) {
			if _, ok := psColumn(f); !ok {
				return nil, false, nil
			}
			names = append(names, "ps:"+f)
		}
		if len(names) == 0 {
			return nil, false, api.Errorf(api.InvalidArgument, "top: -o names no column")
		}
	default:
		names = strings.FieldsFunc(joined, separator)
		for _, n := range names {
			if _, ok := descriptor(n); !ok {
				if len(words) > 0 && (strings.HasPrefix(words[0], "-") || len(names) == 1 && len(n) <= 4) {
					return nil, false, nil
				}
				return nil, false, api.Errorf(api.InvalidArgument, "top: %q is unknown: use options of ps(1), or of: %s", n, strings.Join(descriptorNames(), ", "))
			}
		}
	}
	for _, n := range names {
		if f, ok := strings.CutPrefix(n, "ps:"); ok {
			col, _ := psColumn(f)
			list = append(list, col)
			continue
		}
		col, _ := descriptor(n)
		list = append(list, col)
	}
	return list, true, nil
}

func separator(r rune) bool { return r == ',' || r == ' ' }

// hostPS has the host's ps tell of the processes, as docker does.
func hostPS(ctx context.Context, options []string, pids []int) (api.ProcessList, error) {
	var list api.ProcessList
	program := ""
	for _, p := range []string{"/usr/bin/ps", "/bin/ps"} {
		if exists(p) {
			program = p
			break
		}
	}
	if program == "" {
		return list, api.Errorf(api.Unsupported, "top: the options %q need the host's ps, which is not installed (package procps): use -ef, aux, -o, or podman's "+
			"descriptors", strings.Join(options, " "))
	}
	cmd := exec.CommandContext(ctx, program, options...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return list, api.Errorf(api.InvalidArgument, "ps: %s", strings.TrimSpace(string(exit.Stderr)))
		}
		return list, err
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	list.Titles = strings.Fields(lines[0])
	at := slices.Index(list.Titles, "PID")
	if at < 0 {
		return list, api.Errorf(api.InvalidArgument, "couldn't find PID field in ps output: name pid among the columns")
	}
	for _, line := range lines[1:] {
		words := strings.Fields(line)
		if len(words) <= at {
			continue
		}
		if pid, err := strconv.Atoi(words[at]); err != nil || !slices.Contains(pids, pid) {
			continue
		}
		if last := len(list.Titles) - 1; len(words) > last { // the command may have blanks
			words = append(words[:last:last], strings.Join(words[last:], " "))
		}
		list.Rows = append(list.Rows, words)
	}
	return list, nil
}

// printable keeps what a process calls itself from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// readNames reads a file in the form of passwd(5) or group(5): names by number.
func readNames(data []byte) map[string]string {
	all := map[string]string{}
	for line := range bytes.Lines(data) {
		f := strings.SplitN(string(line), ":", 4)
		if len(f) > 2 {
			if _, ok := all[f[2]]; !ok {
				all[f[2]] = f[0]
			}
		}
	}
	return all
}

const maxNames = 1 << 20 // bytes that are read of a container's passwd or group

// inside reads a file of names in the container's root. What is no regular file there is not opened for more than to see that.
func (t *topTable) inside(name string) map[string]string {
	if t.processRoot < 0 {
		return nil
	}
	fd, err := mount.OpenInRoot(t.processRoot, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	buf := make([]byte, maxNames)
	n, _ := f.Read(buf)
	return readNames(buf[:n])
}

func (t *topTable) hostName(file, id string, cache *map[string]string) string {
	if *cache == nil {
		data, _ := os.ReadFile(file)
		*cache = readNames(data)
	}
	return named(*cache, id)
}

func (t *topTable) name(file, id string, cache *map[string]string) string {
	if *cache == nil {
		if *cache = t.inside(file); *cache == nil {
			*cache = map[string]string{}
		}
	}
	return named(*cache, id)
}

func named(names map[string]string, id string) string {
	if n := names[id]; n != "" {
		return n
	}
	return id
}

// id is one of the four numbers of a line Uid or Gid of /proc/PID/status: real, effective, saved, of the file system.
func id4(p *proc.Process, line string, n int) string {
	f := strings.Fields(p.Status[line])
	if n >= len(f) {
		return "?"
	}
	return f[n]
}

func (t *topTable) cpuShare(p *proc.Process) float64 {
	if lived := t.now.Sub(p.Start); lived > 0 {
		return 100 * p.CPU.Seconds() / lived.Seconds()
	}
	return 0
}

func clock(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

func elapsed(d time.Duration) string {
	s := max(int(d.Seconds()), 0)
	switch days := s / 86400; {
	case days > 0:
		return fmt.Sprintf("%d-%02d:%02d:%02d", days, s/3600%24, s/60%60, s%60)
	case s >= 3600:
		return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%02d:%02d", s/60, s%60)
}

// started is when a process was started: the time of today, else the day.
func (t *topTable) started(p *proc.Process) string {
	switch at := p.Start.Local(); {
	case t.now.Sub(at) < 24*time.Hour:
		return at.Format("15:04")
	case at.Year() == t.now.Year():
		return at.Format("Jan02")
	default:
		return at.Format("2006")
	}
}

func arguments(p *proc.Process) string {
	if len(p.Args) == 0 {
		return "[" + p.Comm + "]"
	}
	return strings.Join(p.Args, " ")
}

// capabilities writes a mask of /proc/PID/status as podman does.
func capabilities(p *proc.Process, line string) string {
	mask, err := strconv.ParseUint(p.Status[line], 16, 64)
	if err != nil {
		return "?"
	}
	names := caps.Set(mask).Names()
	switch {
	case len(names) == 0:
		return "none"
	case caps.Set(mask) == caps.Available():
		return "full"
	}
	for i, n := range names {
		names[i] = strings.TrimPrefix(n, "CAP_")
	}
	return strings.Join(names, ",")
}

// label is the process's label of SELinux or AppArmor.
func label(p *proc.Process) string {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "attr", "current"))
	if s := strings.TrimRight(string(data), "\x00\n"); err == nil && s != "" {
		return s
	}
	return "?"
}

// totalMemory is the machine's, in bytes.
func totalMemory() int64 {
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) != nil {
		return 0
	}
	return int64(s.Totalram) * int64(s.Unit)
}
