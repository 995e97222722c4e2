// Package resctrl gives a container its share of the processor's caches and of memory bandwidth: linux.intelRdt of the OCI spec
// (config-linux.md, "IntelRdt"), through the resctrl file system (Documentation/filesystems/resctrl.rst).
//
// A class of service (CLOS) is a folder there, with a file schemata that says what it may use, and a file tasks that says who is in it.
// A monitoring group is a folder below it, in mon_groups. There are few of either, often sixteen for the whole machine, so what is made
// for one container goes with it.
package resctrl

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
)

// Tree is a mounted resctrl.
type Tree struct {
	dir   string
	mkdir func(dir string) error // unix.Mkdir, but in tests, where no kernel fills new folders
}

// Group is a container's place in a tree. A runtime's state file keeps it as JSON.
type Group struct {
	Dir     string `json:"dir"`           // of the class
	Monitor string `json:"mon,omitempty"` // of the monitoring group, which is the container's own
	Own     bool   `json:"own,omitempty"` // Remove removes the class too
}

// Validate says what is wrong with r, whatever the machine, and names the field.
func Validate(r *specs.LinuxIntelRdt) error {
	if r == nil {
		return nil
	}
	fail := func(field, format string, args ...any) error {
		return api.Errorf(api.InvalidArgument, "linux.intelRdt."+field+": "+format, args...)
	}
	if r.ClosID != "/" && r.ClosID != "" && !groupName(r.ClosID) {
		return fail("closID", "%q: it is the name of one folder, or / for the root", r.ClosID)
	}
	if s := r.L3CacheSchema; s != "" && (!strings.HasPrefix(s, "L3") || !schema(s)) {
		return fail("l3CacheSchema", "%q: it is one line such as L3:0=7f0;1=1f", s)
	}
	if s := r.MemBwSchema; s != "" && (!strings.HasPrefix(s, "MB:") || !schema(s)) {
		return fail("memBwSchema", "%q: it is one line such as MB:0=20;1=70", s)
	}
	for i, s := range r.Schemata {
		if !schema(s) {
			return fail("schemata["+strconv.Itoa(i)+"]", "%q: it is one line such as L2:0=f;1=f", s)
		}
	}
	return nil
}

// groupName reports whether s can be a folder of a class, beside those that the kernel has there.
func groupName(s string) bool {
	switch s {
	case ".", "..", "info", "mon_groups", "mon_data":
		return false
	}
	return len(s) <= 255 && !strings.ContainsAny(s, "/\n\x00")
}

// schema reports whether s is a line "NAME:DOMAIN=VALUE;…".
func schema(s string) bool {
	_, domains, ok := parseSchema(s)
	return ok && len(domains) > 0 && !strings.ContainsAny(s, "\n\x00")
}

// Find finds where resctrl is mounted; api.Unsupported where it is not.
func Find() (*Tree, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	dir, ok := mountPoint(info)
	if !ok {
		return nil, api.Errorf(api.Unsupported, "linux.intelRdt: no resctrl file system is mounted: `mount -t resctrl resctrl /sys/fs/resctrl`, on a processor "+
			"with Intel RDT or AMD QoS and a kernel with CONFIG_X86_CPU_RESCTRL")
	}
	return &Tree{dir: dir, mkdir: mkdir}, nil
}

func mkdir(dir string) error {
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return nil
}

// mountPoint finds resctrl in a mountinfo (proc_pid_mountinfo(5)).
func mountPoint(info []byte) (string, bool) {
	for line := range bytes.Lines(info) {
		head, tail, ok := strings.Cut(string(line), " - ")
		words := strings.Fields(head)
		if !ok || !strings.HasPrefix(tail, "resctrl ") || len(words) < 5 {
			continue
		}
		return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(words[4]), true
	}
	return "", false
}

// Create makes or finds the class that r names, writes what it may use, and makes the monitoring group. On error what was made is gone.
func (t *Tree) Create(r *specs.LinuxIntelRdt, id string) (*Group, error) {
	if err := Validate(r); err != nil {
		return nil, err
	}
	if !groupName(id) || id == "" {
		return nil, api.Errorf(api.InvalidArgument, "linux.intelRdt: container ID %q cannot be the name of a folder", id)
	}
	g := &Group{Dir: t.dir + "/" + id}
	lines := wanted(r)
	made := false
	switch {
	case r.ClosID == "/":
		g.Dir = t.dir
	case r.ClosID != "":
		g.Dir = t.dir + "/" + r.ClosID
	}
	if g.Dir != t.dir {
		err := t.mkdirIf(g.Dir, r.ClosID == "" || len(lines) > 0)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
		made = err == nil
		g.Own = made && r.ClosID == ""
	}
	err := t.fill(g, r, id, lines, made)
	if err != nil {
		if made {
			unix.Rmdir(g.Dir)
		}
		return nil, err
	}
	return g, nil
}

// mkdirIf makes a class, or says that the one named must be there.
func (t *Tree) mkdirIf(dir string, may bool) error {
	if !may {
		if _, err := os.Stat(dir); err != nil {
			return api.Errorf(api.NotFound, "linux.intelRdt.closID: the class %s does not exist, and no schema says what to make: %w", filepath.Base(dir), err)
		}
		return &os.PathError{Op: "mkdir", Path: dir, Err: unix.EEXIST}
	}
	err := t.mkdir(dir)
	if errors.Is(err, unix.ENOSPC) {
		return api.Errorf(api.Exhausted, "linux.intelRdt: %w: the processor has no more classes, of %s: name one that exists as linux.intelRdt.closID", err, t.closids())
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return api.Errorf(api.Unavailable, "linux.intelRdt: %w", err)
	}
	return err
}

func (t *Tree) closids() string {
	for _, name := range [...]string{"L3", "L2", "MB"} {
		if b, err := os.ReadFile(t.dir + "/info/" + name + "/num_closids"); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	return "an unknown number"
}

// fill writes or compares the schemata, and makes the monitoring group.
func (t *Tree) fill(g *Group, r *specs.LinuxIntelRdt, id string, lines []string, made bool) error {
	switch {
	case len(lines) == 0:
	case made || r.ClosID == "": // the container's own, even when it was left by an earlier one
		if err := t.write(g, lines); err != nil {
			return err
		}
	default:
		have, err := os.ReadFile(g.Dir + "/schemata")
		if err != nil {
			return err
		}
		if line := differs(have, lines); line != "" {
			return api.Errorf(api.Conflict, "linux.intelRdt: class %s exists with another schema: %q is wanted, %q stands in %s/schemata: a class that is shared is not "+
				"changed: leave the schemas out, or take another closID", r.ClosID, line, strings.TrimSpace(string(have)), g.Dir)
		}
	}
	if !r.EnableMonitoring {
		return nil
	}
	monitor := g.Dir + "/mon_groups/" + id
	err := t.mkdir(monitor)
	switch {
	case errors.Is(err, unix.ENOENT):
		return api.Errorf(api.Unsupported, "linux.intelRdt.enableMonitoring: this processor does not monitor (no %s/mon_groups)", g.Dir)
	case errors.Is(err, unix.ENOSPC):
		return api.Errorf(api.Exhausted, "linux.intelRdt.enableMonitoring: %w: the processor has no more monitoring groups (info/L3_MON/num_rmids)", err)
	case err != nil:
		return api.Errorf(api.Unavailable, "linux.intelRdt.enableMonitoring: %w", err)
	}
	g.Monitor = monitor
	return nil
}

// wanted are the lines to write, in the spec's order.
func wanted(r *specs.LinuxIntelRdt) (lines []string) {
	for _, s := range append([]string{r.L3CacheSchema, r.MemBwSchema}, r.Schemata...) {
		if s != "" {
			lines = append(lines, strings.TrimSpace(s))
		}
	}
	return lines
}

// write writes the lines at once, and explains a refusal by the kernel's own words.
func (t *Tree) write(g *Group, lines []string) error {
	err := writeFile(g.Dir+"/schemata", strings.Join(lines, "\n")+"\n")
	if err == nil {
		return nil
	}
	status, _ := os.ReadFile(t.dir + "/info/last_cmd_status")
	return api.Errorf(api.InvalidArgument, "linux.intelRdt: the kernel refuses %q: %w: %s", strings.Join(lines, ", "), err, strings.TrimSpace(string(status)))
}

// Set writes new schemas into the class of a container that runs (runc update --l3-cache-schema, --mem-bw-schema).
func (t *Tree) Set(g *Group, r *specs.LinuxIntelRdt) error {
	if err := Validate(r); err != nil {
		return err
	}
	lines := wanted(r)
	if len(lines) == 0 {
		return nil
	}
	return t.write(g, lines)
}

// Join puts a process, and with it all that it will start, into the class and the monitoring group.
func (g *Group) Join(pid int) error {
	for _, dir := range [...]string{g.Dir, g.Monitor} { // the kernel wants a task in the class before it may go into a group below
		if dir == "" {
			continue
		}
		if err := writeFile(dir+"/tasks", strconv.Itoa(pid)); err != nil {
			return api.Errorf(api.Unavailable, "linux.intelRdt: %w", err)
		}
	}
	return nil
}

// Remove removes what was the container's own: its monitoring group, and the class where no closID named it. What is gone is no error.
func (g *Group) Remove() error {
	dirs := []string{g.Monitor}
	if g.Own {
		dirs = append(dirs, g.Dir)
	}
	var first error
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT && first == nil {
			first = api.Errorf(api.Unavailable, "linux.intelRdt: %w", &os.PathError{Op: "rmdir", Path: dir, Err: err})
		}
	}
	return first
}

// writeFile writes to a file of the kernel, which must be there, in one write(2).
func writeFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

// parseSchema reads "L3:0=7f0;1=1f"; the kernel pads the name with blanks.
func parseSchema(line string) (name string, domains map[string]string, ok bool) {
	name, list, ok := strings.Cut(strings.TrimSpace(line), ":")
	if !ok || name == "" {
		return "", nil, false
	}
	domains = map[string]string{}
	for part := range strings.SplitSeq(strings.TrimSuffix(list, ";"), ";") {
		domain, value, ok := strings.Cut(part, "=")
		domain, value = strings.TrimSpace(domain), strings.TrimSpace(value)
		if !ok || domain == "" || value == "" {
			return "", nil, false
		}
		domains[canonical(domain)] = canonical(strings.TrimPrefix(strings.ToLower(value), "0x"))
	}
	return name, domains, true
}

// canonical takes leading zeros away: the kernel prints masks with them.
func canonical(number string) string {
	if s := strings.TrimLeft(strings.ToLower(number), "0"); s != "" {
		return s
	}
	return "0"
}

// differs returns the first of lines that the schemata file does not say too, "" where it says all. A later line of the same name
// stands for an earlier one, as it would when written.
func differs(file []byte, lines []string) string {
	have := map[string]map[string]string{}
	for line := range bytes.Lines(file) {
		if name, domains, ok := parseSchema(string(line)); ok {
			have[name] = domains
		}
	}
	last := map[string]string{} // by name and domain
	for _, line := range lines {
		name, domains, _ := parseSchema(line)
		for domain, value := range domains {
			last[name+":"+domain] = value
		}
	}
	for _, line := range lines {
		name, domains, _ := parseSchema(line)
		for domain := range domains {
			if have[name] == nil || have[name][domain] != last[name+":"+domain] {
				return line
			}
		}
	}
	return ""
}
