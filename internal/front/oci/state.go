package oci

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/record"
)

// stateView is what state and list print: runc's fields, in its order.
type stateView struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"` // 0 when it has stopped
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

func (e *entry) view() stateView {
	v := stateView{e.Version, e.ID, e.Pid, e.status(), e.Bundle, e.Rootfs, e.Created, e.Annotations, e.Owner}
	if v.Status == specs.StateStopped {
		v.Pid = 0
	}
	return v
}

// printJSON writes v as indented JSON and a newline.
func printJSON(out *os.File, v any) error {
	data, err := record.Marshal(v)
	if err != nil {
		return err
	}
	_, err = out.Write(append(indent(data), '\n'))
	return err
}

// indent lays JSON out with two blanks a level, as runc prints it.
func indent(data []byte) []byte {
	var out []byte
	depth, quoted := 0, false
	newline := func() {
		out = append(out, '\n')
		for range depth {
			out = append(out, ' ', ' ')
		}
	}
	for i := 0; i < len(data); i++ {
		b := data[i]
		switch {
		case quoted:
			out = append(out, b)
			if b == '\\' {
				i++
				out = append(out, data[i])
			}
			quoted = b != '"'
		case b == '"':
			out = append(out, b)
			quoted = true
		case (b == '{' || b == '[') && i+1 < len(data) && (data[i+1] == '}' || data[i+1] == ']'):
			out = append(out, b, data[i+1])
			i++
		case b == '{' || b == '[':
			out = append(out, b)
			depth++
			newline()
		case b == '}' || b == ']':
			depth--
			newline()
			out = append(out, b)
		case b == ',':
			out = append(out, b)
			newline()
		case b == ':':
			out = append(out, b, ' ')
		default:
			out = append(out, b)
		}
	}
	return out
}

// state is `brig-oci state`.
func state(c *call) (int, error) {
	e, err := c.load(c.args[0])
	if err != nil {
		return 0, err
	}
	return 0, printJSON(c.stdout, e.view())
}

func listFlags() []flag {
	return []flag{{"format", "f", isString, "table (default) or json"}, {"quiet", "q", isBool, "print IDs only"}}
}

// list is `brig-oci list`.
func list(c *call) (int, error) {
	entries, err := os.ReadDir(c.root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	var views []stateView
	for _, d := range entries {
		if checkID(d.Name()) != nil {
			continue
		}
		e, err := c.load(d.Name())
		if err != nil {
			if api.KindOf(err) != api.NotFound { // else on its way, or going
				fmt.Fprintln(c.stderr, "brig-oci:", err)
			}
			continue
		}
		v := e.view()
		v.Owner = ownerName(e.dir)
		views = append(views, v)
	}
	switch format := c.str("format"); {
	case c.on("quiet"):
		for _, v := range views {
			fmt.Fprintln(c.stdout, v.ID)
		}
		return 0, nil
	case format == "json":
		data, err := record.Marshal(views)
		if err == nil {
			_, err = c.stdout.Write(append(data, '\n'))
		}
		return 0, err
	case format == "" || format == "table":
		w := tabwriter.NewWriter(c.stdout, 12, 1, 3, ' ', 0)
		fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
		for _, v := range views {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", v.ID, v.Pid, v.Status, v.Bundle, v.Created.Format(time.RFC3339Nano), v.Owner)
		}
		return 0, w.Flush()
	}
	return 0, api.Errorf(api.InvalidArgument, "list: flag --format: %q is neither table nor json", c.str("format"))
}

// ownerName is who owns a container's folder, or the number where it has no name.
func ownerName(dir string) string {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return ""
	}
	id := strconv.FormatUint(uint64(st.Uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "#" + id
}

// remove is `brig-oci delete`.
func remove(c *call) (int, error) {
	id, force := c.args[0], c.on("force")
	e, l, err := c.hold(id)
	if err != nil {
		if api.KindOf(err) == api.NotFound {
			return 0, c.removeDebris(id, force, err)
		}
		if force && api.KindOf(err) == api.Corrupt { // its processes are found by its cgroup
			return 0, c.removeCorrupt(id)
		}
		return 0, err
	}
	defer l.Release()
	switch status := e.status(); {
	case status == specs.StateStopped:
	case status == specs.StateCreated || force:
		if err := e.killInit(); err != nil {
			return 0, err
		}
	default:
		return 0, api.Errorf(api.Conflict, "cannot delete container %s that is not stopped: %s: give --force to kill it", id, status)
	}
	return 0, c.destroy(e, nil)
}

// removeDebris takes away what a creator that was killed has left.
func (c *call) removeDebris(id string, force bool, notFound error) error {
	path := c.dir(id) + "/" + lockName
	if st, err := os.Lstat(c.dir(id)); err != nil || !st.IsDir() {
		if force {
			return nil
		}
		return notFound
	}
	l, err := tryLock(path)
	if err != nil {
		if force && errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return api.Errorf(api.Conflict, "container %s is being created: try again", id)
	}
	defer l.Release()
	if exists(c.dir(id) + "/" + stateName) { // it was being made, and is made
		return api.Errorf(api.Conflict, "container %s has just been created: try again", id)
	}
	return c.sweep(id)
}

// removeCorrupt removes a container whose state cannot be read.
func (c *call) removeCorrupt(id string) error {
	l, err := tryLock(c.dir(id) + "/" + lockName)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return api.Errorf(api.Conflict, "container %s is in the hands of another process: try again", id)
	}
	defer l.Release()
	if _, err := c.load(id); err == nil {
		return api.Errorf(api.Conflict, "container %s has just been created: try again", id)
	}
	return c.sweep(id)
}

// killLimit is how long the first process may take to end after it was killed. It may hang in the kernel longer than that.
const killLimit = 10 * time.Second

// killInit kills the first process and waits for its end.
func (e *entry) killInit() error {
	fd, err := e.pidfd()
	if err != nil {
		return nil //nolint:nilerr // it has ended
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("container %s: kill: %w", e.ID, err)
	}
	if g, err := e.group(); err == nil { // a frozen process ends only when it is thawed, on version 1
		if frozen, err := g.Frozen(); err == nil && frozen {
			if err := g.Thaw(); err != nil {
				return err
			}
		}
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(killLimit); ; {
		left := time.Until(deadline)
		if left <= 0 {
			return api.Errorf(api.Conflict, "container %s: its first process has not ended %s after it was killed: it hangs in the kernel; try again", e.ID, killLimit)
		}
		n, err := unix.Poll(poll, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return nil
		}
	}
}

// kill is `brig-oci kill`.
func kill(c *call) (int, error) {
	name := "SIGTERM"
	if len(c.args) > 1 {
		name = c.args[1]
	}
	sig, err := parseSignal(name)
	if err != nil {
		return 0, err
	}
	e, err := c.load(c.args[0])
	if err != nil {
		return 0, err
	}
	if c.on("all") {
		return 0, e.killAll(sig)
	}
	fd, err := e.pidfd()
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return 0, api.Errorf(api.Conflict, "container %s: signal %s: %w", e.ID, name, err)
	}
	c.debugf("signal %s to pid %d", name, e.Pid)
	if sig == unix.SIGKILL && !e.ownPIDs() { // nobody takes the others with it
		return 0, e.killAll(sig)
	}
	return 0, nil
}

// killAll signals every process of the container, those that its first process left behind too.
func (e *entry) killAll(sig unix.Signal) error {
	g, err := e.group()
	if err != nil {
		if api.KindOf(err) == api.NotFound {
			return nil
		}
		return err
	}
	return g.Kill(sig)
}

// ownPIDs reports whether the container has a PID namespace of its own.
func (e *entry) ownPIDs() bool {
	s, err := e.config()
	if err != nil || s.Linux == nil {
		return false
	}
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.PIDNamespace {
			return n.Path == ""
		}
	}
	return false
}

// parseSignal takes a number or a name with or without SIG: kill(1).
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, api.Errorf(api.InvalidArgument, "kill: %d is not a signal: 1 to 64 are, and 0 asks whether it runs", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	for _, rt := range [...]struct {
		name string
		base int
		sign int
	}{{"SIGRTMIN+", 34, 1}, {"SIGRTMAX-", 64, -1}} {
		if rest, ok := strings.CutPrefix(name, rt.name); ok {
			if n, err := strconv.Atoi(rest); err == nil && n >= 0 && n <= 30 {
				return unix.Signal(rt.base + rt.sign*n), nil
			}
		}
	}
	switch name {
	case "SIGRTMIN":
		return 34, nil
	case "SIGRTMAX":
		return 64, nil
	}
	return 0, api.Errorf(api.InvalidArgument, "kill: unknown signal %q", s)
}
