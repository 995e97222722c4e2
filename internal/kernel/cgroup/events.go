package cgroup

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"brig/api"
)

// OOMKills counts the processes that the kernel killed in the group, or below it, for want of memory.
func (g *Group) OOMKills() (int, error) {
	if dir := g.v1("memory"); dir != "" {
		b, err := readFile(dir + "/memory.oom_control") // oom_kill: Linux 4.13
		return int(field(b, "oom_kill")), err
	}
	dir := g.v2()
	if dir == "" {
		return 0, nil
	}
	b, err := readFile(dir + "/memory.events")
	if errors.Is(err, unix.ENOENT) && exists(dir) {
		return 0, nil // no memory controller, no such kill
	}
	return int(field(b, "oom_kill")), err
}

// ForksRefused counts the processes and threads that the group's limit of processes, or one above it, has kept from being made: "max" of pids.events
// (cgroup-v1/pids.rst, cgroup-v2.rst). Without the controller, or before Linux 4.3, there are none.
func (g *Group) ForksRefused() int {
	dir := g.v1("pids")
	if dir == "" {
		dir = g.v2()
	}
	if dir == "" {
		return 0
	}
	b, err := readFile(dir + "/pids.events")
	if err != nil {
		return 0
	}
	return int(field(b, "max"))
}

// Notice tells of something that happens to a group. It is not safe for use by two goroutines.
type Notice struct {
	g       *Group
	fd      int // eventfd on version 1, inotify on version 2
	control int // version 1: the file that is watched
	v1      bool
	pressed bool // NotifyPressure
	count   uint64
}

// NotifyOOM watches for the group running out of memory: on version 1 through cgroup.event_control and memory.oom_control
// (cgroup-v1/memory.rst, 10), which tells of every time that it does, on version 2 through inotify on memory.events
// (cgroup-v2.rst, memory.events), of every process that is killed for it. api.Unsupported without the memory controller.
func (g *Group) NotifyOOM() (*Notice, error) {
	if g.v1("memory") != "" {
		return g.notify1("memory.oom_control", "")
	}
	return g.notify2(false)
}

// NotifyPressure watches for memory growing short in the group. level is version 1's "low", "medium" or "critical" of
// memory.pressure_level (cgroup-v1/memory.rst, 11); version 2 knows no levels: there it is the group going over memory.high or reaching
// memory.max.
func (g *Group) NotifyPressure(level string) (*Notice, error) {
	switch level {
	case "low", "medium", "critical":
	default:
		return nil, api.Errorf(api.InvalidArgument, "memory pressure level %q: it is low, medium or critical", level)
	}
	if g.v1("memory") != "" {
		return g.notify1("memory.pressure_level", level)
	}
	return g.notify2(true)
}

func (g *Group) notify1(file, argument string) (*Notice, error) {
	dir := g.v1("memory")
	control, err := open(dir+"/"+file, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(control)
		return nil, os.NewSyscallError("eventfd", err)
	}
	n := &Notice{g: g, fd: fd, control: control, v1: true}
	line := strconv.Itoa(fd) + " " + strconv.Itoa(control)
	if argument != "" {
		line += " " + argument
	}
	if err := writeFile(dir+"/cgroup.event_control", line); err != nil {
		n.Close()
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
			return nil, api.Errorf(api.Unsupported, "cgroup %s: this kernel does not tell of %s (PREEMPT_RT has it off): %w", g.path, file, err)
		}
		return nil, err
	}
	return n, nil
}

func (g *Group) notify2(pressed bool) (*Notice, error) {
	path := g.v2() + "/memory.events"
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	n := &Notice{g: g, fd: fd, control: -1, pressed: pressed}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		n.Close()
		if err == unix.ENOENT && g.exists() {
			return nil, api.Errorf(api.Unsupported, "cgroup %s: memory events need the controller memory, which is not enabled for it", g.path)
		}
		return nil, &os.PathError{Op: "inotify_add_watch", Path: path, Err: err}
	}
	// Kernels before 7.0 do not tell of a removed file: that the group has emptied is what its end looks like.
	if _, err := unix.InotifyAddWatch(fd, g.v2()+"/cgroup.events", unix.IN_MODIFY); err != nil {
		n.Close()
		return nil, &os.PathError{Op: "inotify_add_watch", Path: g.v2() + "/cgroup.events", Err: err}
	}
	if n.count, err = n.read2(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Fd is for poll(2): it is readable when Read has something to say.
func (n *Notice) Fd() int { return n.fd }

// Read takes what has come in, without waiting, and reports how often the thing has happened since the last Read. gone is true when the
// group is, or, on version 2, when its last process is: no more will come.
func (n *Notice) Read() (times uint64, gone bool, err error) {
	var buf [4096]byte // one inotify event without a name is 16 bytes; what does not fit is read the next time
	size, err := unix.Read(n.fd, buf[:])
	if err == unix.EAGAIN || err == unix.EINTR {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, os.NewSyscallError("read", err)
	}
	if n.v1 {
		// Removing the group signals the eventfd too.
		if !exists(n.g.v1("memory") + "/cgroup.event_control") {
			return 0, true, nil
		}
		if size != 8 {
			return 0, false, nil
		}
		return binary.NativeEndian.Uint64(buf[:]), false, nil
	}
	count, err := n.read2()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	times, n.count = count-n.count, count
	events, err := readFile(n.g.v2() + "/cgroup.events")
	gone = errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || err == nil && field(events, "populated") == 0
	return times, gone, nil
}

// read2 gives the counter of memory.events that is watched.
func (n *Notice) read2() (uint64, error) {
	b, err := readFile(n.g.v2() + "/memory.events")
	if n.pressed {
		return field(b, "high") + field(b, "max"), err
	}
	return field(b, "oom_kill"), err
}

// Close ends the watching.
func (n *Notice) Close() error {
	if n.control >= 0 {
		unix.Close(n.control)
	}
	return unix.Close(n.fd)
}
