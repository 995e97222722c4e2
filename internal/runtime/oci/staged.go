package oci

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/jsonscan"
	"brig/internal/kernel/cgroup"
)

// staging is what a stage was given by its maker.
type staging struct {
	control    int
	cgroup     string
	root       int         // detached mount of the root, -1: the stage makes it
	tasks      []int       // files to join cgroups by
	namespaces map[int]int // index in linux.namespaces -> descriptor
	sources    map[int]int // index in mounts -> detached mount
	locked     map[int]int // the same, of those whose flags are locked: what is attached
}

// Stage is the runtime inside a container's user namespace: argument is the control socket's descriptor. It builds the container, hands the process over, and
// ends.
func Stage(argument string) error {
	control, err := strconv.Atoi(argument)
	if err != nil || control < firstFD {
		return api.Errorf(api.InvalidArgument, "stage is for brig-oci itself: %q is no descriptor of it", argument)
	}
	unix.CloseOnExec(control)
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	p, err := buildStaged(control)
	if err == nil {
		if err = p.Ready(); err != nil {
			p.Abandon()
		}
	}
	if err != nil {
		return sendFDs(control, append(append([]byte{msgError}, api.KindOf(err)...), "\x00"+clip(err.Error())...), nil)
	}
	fds := []int{p.PidFD, p.talk}
	if p.Console != nil {
		fds = append(fds, int(p.Console.Fd()))
	}
	return sendFDs(control, withPid(msgReady, p.Pid), fds)
}

func clip(s string) string { return s[:min(len(s), 8<<10)] }

func withPid(kind byte, pid int) []byte {
	return binary.LittleEndian.AppendUint64([]byte{kind}, uint64(pid))
}

func buildStaged(control int) (*Process, error) {
	o, fds, err := receiveOrder(control)
	if err != nil {
		return nil, err
	}
	req := &Request{
		ID: o.ID, Spec: o.Spec, Bundle: o.Bundle, Root: o.Root, RootPath: o.RootPath, MountPoint: o.MountPoint, Preserve: o.Preserve, NoNewKeyring: o.NoNewKeyring, NoPivot: o.NoPivot, LookUp: o.LookUp,
		NetNS: -1, Gate: -1, Stdio: [3]int{0, 1, 2}, staged: &staging{control: control, cgroup: o.Cgroup, root: -1},
	}
	if err := req.staged.take(o, req, fds); err != nil {
		return nil, err
	}
	var group *cgroup.Group
	if o.Cgroup != "" {
		if group, err = cgroup.Load(o.Cgroup); err != nil {
			return nil, err
		}
		if Entrusted(o.Spec.Annotations) {
			group = group.Payload()
		}
	}
	var p *Process
	err = onThread(func() (err error) {
		p, err = build(req, func() (*cgroup.Group, error) { return group, nil }, nil)
		return err
	})
	return p, err
}

// receiveOrder returns the order and the descriptors that came with it, those on error too.
func receiveOrder(control int) (*order, []int, error) {
	var fds []int
	for {
		msg, got, err := receiveFDs(control)
		if err != nil {
			return nil, fds, err
		}
		fds = append(fds, got...)
		if len(msg) == 1 && msg[0] == msgMoreFDs {
			continue
		}
		if len(msg) != 1 || msg[0] != msgOrder || len(fds) == 0 {
			return nil, fds, fmt.Errorf("stage: no order came")
		}
		break
	}
	f := os.NewFile(uintptr(fds[0]), "order")
	defer f.Close()
	fds = fds[1:]
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fds, err
	}
	o := new(order)
	if err := jsonscan.Decode(data, o, readOrder); err != nil {
		return nil, fds, fmt.Errorf("stage: order: %w", err)
	}
	if o.Spec == nil {
		return nil, fds, fmt.Errorf("stage: the order has no configuration")
	}
	return o, fds, nil
}

// take sorts the descriptors by what the order says.
func (s *staging) take(o *order, req *Request, fds []int) error {
	want := o.Tasks + len(o.Namespaces) + len(o.Sources)
	for _, b := range []bool{o.Gate, o.RootFD, o.NetNS} {
		if b {
			want++
		}
	}
	if o.Tasks < 0 || len(fds) != want {
		return fmt.Errorf("stage: %d descriptors came, %d were announced", len(fds), want)
	}
	next := func() int {
		fd := fds[0]
		fds = fds[1:]
		return fd
	}
	if o.Gate {
		req.Gate = next()
	}
	if o.RootFD {
		s.root = next()
	}
	for range o.Tasks {
		s.tasks = append(s.tasks, next())
	}
	s.namespaces = map[int]int{}
	for _, i := range o.Namespaces {
		s.namespaces[i] = next()
	}
	if o.NetNS {
		req.NetNS = next()
	}
	s.locked = map[int]int{}
	for _, i := range o.Locked {
		s.locked[i] = -1
	}
	s.sources = map[int]int{}
	for _, i := range o.Sources {
		s.sources[i] = next()
	}
	return nil
}

// announce tells the outer process of the container's process and waits until it has done its part.
func (s *staging) announce(pid int) error {
	if err := sendFDs(s.control, withPid(msgHooks, pid), nil); err != nil {
		return err
	}
	msg, _, err := receiveFDs(s.control)
	if err == nil && (len(msg) != 1 || msg[0] != msgGoOn) {
		err = fmt.Errorf("stage: given up by its maker")
	}
	return err
}

// isHere reports whether this thread is in the namespace of fd already: it was joined on the way into the user namespace.
func isHere(fd int, t specs.LinuxNamespaceType) bool {
	name := string(t)
	switch t {
	case specs.NetworkNamespace:
		name = "net"
	case specs.MountNamespace:
		name = "mnt"
	case specs.PIDNamespace:
		name = "pid_for_children"
	case specs.TimeNamespace:
		name = "time_for_children"
	}
	var a, b unix.Stat_t
	return unix.Fstat(fd, &a) == nil && unix.Stat("/proc/thread-self/ns/"+name, &b) == nil && a.Ino == b.Ino && a.Dev == b.Dev
}
