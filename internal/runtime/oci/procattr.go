package oci

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/caps"
	"brig/internal/kernel/lsm"
	"brig/internal/kernel/proc"
	"brig/internal/kernel/sched"
)

// Permissions of a container's session keyring (keyctl_setperm(3)): what the kernel gives a new one (all to its possessors, view, read and link
// to its user) and search, without which exec could not find it by its name. In a user namespace of its own the searcher is "other".
const (
	keyPermDefault = 0x3f130000
	keyUserSearch  = 0x00080000
	keyOtherSearch = 0x00000008
)

// containerAttributes prepares the attributes of a container's first process. Call it while /proc is the host's; close the result.
func containerAttributes(req *Request) (attributes, error) {
	s := req.Spec
	a, err := newAttributes(s.Process, s.Linux)
	if err != nil {
		return a, err
	}
	a.state = agentState(req)
	if req.staged != nil {
		a.oom = nil // set from outside, where it can be lowered
	}
	if !req.NoNewKeyring && req.ID != "" {
		a.keyPerm = keyPermDefault | keyUserSearch
		for _, n := range s.Linux.Namespaces {
			if n.Type == specs.UserNamespace {
				a.keyPerm = keyPermDefault | keyOtherSearch
			}
		}
		err = a.sessionKeyring(req.ID, s.Process.SelinuxLabel)
	}
	for i, n := range s.Linux.Namespaces {
		if err != nil || n.Type != specs.TimeNamespace || n.Path == "" {
			continue
		}
		if req.staged == nil {
			if a.timeNS, err = unix.Open(n.Path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil { // whatever it is, a pipe too
				a.timeNS = 0
				err = api.Errorf(api.InvalidArgument, "linux.namespaces: time: %w", &os.PathError{Op: "open", Path: n.Path, Err: err})
			}
		} else if fd := req.staged.namespaces[i]; !isHere(fd, n.Type) {
			a.timeNS, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstFD)
		}
	}
	if err != nil {
		a.close()
	}
	return a, err
}

// agentState is the container as its agent of notified calls sees it: like runc's, it is told of one that is being created.
func agentState(req *Request) specs.State {
	return specs.State{Version: specs.Version, ID: req.ID, Status: specs.StateCreating, Bundle: req.Bundle, Annotations: req.Spec.Annotations}
}

// give hands attributes to the child that is prepared; the caller closes them there.
func (c *child) give(a attributes) {
	c.attr = a
	if c.listener != nil {
		c.listener.state = a.state
	}
}

// execAttributes prepares those of one more process, and puts this thread on the processors where it is to begin. Call it before the thread
// joins the container; close the result.
func execAttributes(req *ExecRequest) (attributes, error) {
	p := req.Process
	l := new(specs.Linux)
	state := specs.State{Version: specs.Version, ID: req.ID, Status: specs.StateRunning, Pid: req.Pid, Bundle: req.Bundle}
	if req.Container != nil {
		p = inherit(p, req.Container.Process)
		state.Annotations = req.Container.Annotations
		if req.Container.Linux != nil {
			l = req.Container.Linux
		}
		if err := validateProcess(p); err != nil {
			return attributes{}, err
		}
	}
	a, err := newAttributes(p, l)
	if err != nil {
		return a, err
	}
	a.state = state
	if !req.NoNewKeyring && req.ID != "" {
		err = a.sessionKeyring(req.ID, p.SelinuxLabel)
	}
	if err == nil {
		// A thread of many cannot change its time namespace: the child does (setns(2), EUSERS).
		fd, oerr := unix.Open("/proc/"+strconv.Itoa(req.Pid)+"/ns/time", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		switch {
		case oerr == nil && isHere(fd, specs.TimeNamespace): // it may be another user's, who alone may join it
			unix.Close(fd)
		case oerr == nil:
			a.timeNS = fd
		case oerr != unix.ENOENT: // a kernel without them
			err = &os.PathError{Op: "open", Path: "ns/time", Err: oerr}
		}
	}
	if err == nil {
		err = a.affinity(p.ExecCPUAffinity)
	}
	if err != nil {
		a.close()
	}
	return a, err
}

// inherit gives a process those attributes of the container's first one that it does not name itself, as runc's exec does.
func inherit(p, first *specs.Process) *specs.Process {
	if first == nil {
		return p
	}
	q := *p
	if q.ApparmorProfile == "" {
		q.ApparmorProfile = first.ApparmorProfile
	}
	if q.SelinuxLabel == "" {
		q.SelinuxLabel = first.SelinuxLabel
	}
	if q.Scheduler == nil {
		q.Scheduler = first.Scheduler
	}
	if q.IOPriority == nil {
		q.IOPriority = first.IOPriority
	}
	if q.ExecCPUAffinity == nil {
		q.ExecCPUAffinity = first.ExecCPUAffinity
	}
	if q.OOMScoreAdj == nil {
		q.OOMScoreAdj = first.OOMScoreAdj
	}
	return &q
}

// newAttributes prepares what is the same for every process. Values have been validated; an error is of the machine.
func newAttributes(p *specs.Process, l *specs.Linux) (a attributes, err error) {
	if p.Scheduler != nil {
		if a.sched, err = sched.Attr(p.Scheduler); err != nil {
			return a, field("process.scheduler", err)
		}
	}
	if p.IOPriority != nil {
		if a.io, err = sched.IOPriority(p.IOPriority); err != nil {
			return a, field("process.ioPriority", err)
		}
	}
	if l.MemoryPolicy != nil {
		if a.memory, err = sched.Memory(l.MemoryPolicy); err != nil {
			return a, field("linux.memoryPolicy", err)
		}
	}
	if l.Personality != nil {
		if a.persona.domain, err = sched.Personality(l.Personality); err != nil {
			return a, field("linux.personality", err)
		}
		a.persona.set = true
	}
	if p.OOMScoreAdj != nil {
		a.oom = strconv.AppendInt(nil, int64(*p.OOMScoreAdj), 10)
	}
	if p.ApparmorProfile != "" {
		a.profile = []byte("exec " + p.ApparmorProfile)
	}
	a.execLabel = []byte(p.SelinuxLabel)
	if len(a.oom)+len(a.profile)+len(a.execLabel) > 0 {
		a.proc, err = proc.Open()
	}
	return a, err
}

// sessionKeyring has the child join or make the keyring of a container; its keys get the SELinux label of the process.
func (a *attributes) sessionKeyring(id, label string) (err error) {
	a.keyLabel = []byte(label)
	a.keyring, err = syscall.BytePtrFromString("_ses." + id)
	return err
}

// affinity moves this thread, whose child inherits that, to the initial processors, and has the child move to the final ones in its cgroup.
func (a *attributes) affinity(f *specs.CPUAffinity) error {
	if f == nil {
		return nil
	}
	if f.Initial != "" {
		m, err := sched.ParseCPUs(f.Initial)
		if err != nil {
			return err
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(*m), uintptr(unsafe.Pointer(m))); e != 0 {
			return api.Errorf(api.InvalidArgument, "process.execCPUAffinity.initial %s: %w: none of these processors may be used", f.Initial, e)
		}
	}
	if f.Final != "" {
		m, err := sched.ParseCPUs(f.Final)
		if err != nil {
			return err
		}
		a.cpus = m
	}
	return nil
}

// close closes the parent's descriptors.
func (a *attributes) close() {
	for _, fd := range []*int{&a.proc, &a.timeNS} {
		if *fd > 0 {
			unix.Close(*fd)
		}
		*fd = 0
	}
}

// timeOffsets writes the clocks of the time namespace that this thread has just made for its children: time_namespaces(7).
func timeOffsets(offsets map[string]specs.LinuxTimeOffset) error {
	if len(offsets) == 0 {
		return nil
	}
	procfs, err := proc.Open()
	if err != nil {
		return err
	}
	defer unix.Close(procfs)
	tid, err := proc.ThreadID(procfs) // "self" is the process, of which this thread alone has the new namespace
	if err != nil {
		return err
	}
	for clock, o := range offsets {
		line := fmt.Sprintf("%s %d %d\n", clock, o.Secs, o.Nanosecs)
		if err := proc.Write(procfs, tid+"/timens_offsets", line); err != nil {
			return api.Errorf(api.InvalidArgument, "config.json: linux.timeOffsets: %s %ds %dns: %w", clock, o.Secs, o.Nanosecs, err)
		}
	}
	return nil
}

// Warnings tells of what is passed over: capabilities that this version or the kernel does not know, a label of files that no security module
// would read, and options of a file system for a bind mount, which has none. So does runc.
func Warnings(s *specs.Spec) []string {
	var list []string
	for i := range s.Mounts {
		if opts := parseOptions(&s.Mounts[i]); opts.bind && opts.forBind() != "" {
			list = append(list, fmt.Sprintf("mounts[%d].options: %q is passed over: it is an option of a file system, and a bind mount has only those of a mount", i, opts.forBind()))
		}
	}
	p, linux := s.Process, s.Linux
	if linux != nil && linux.MountLabel != "" {
		if err := (lsm.Host{}).SELinux(); err != nil {
			list = append(list, fmt.Sprintf("linux.mountLabel is passed over: %v", err))
		}
	}
	if p == nil || p.Capabilities == nil {
		return list
	}
	seen := map[string]bool{}
	l := p.Capabilities
	for _, names := range [][]string{l.Bounding, l.Effective, l.Inheritable, l.Permitted, l.Ambient} {
		for _, name := range names {
			if n, ok := caps.Number(name); (!ok || n > caps.Last()) && !seen[name] {
				seen[name] = true
				list = append(list, fmt.Sprintf("process.capabilities: %q is passed over: this kernel or this version does not know it", name))
			}
		}
	}
	return list
}

// attrStageName has the words for the stages of the attributes.
func attrStageName(stage int32) string {
	switch stage {
	case stageKeyring:
		return "session keyring"
	case stageKeyPerm:
		return "permissions of the session keyring"
	case stageKeyLabel:
		return "SELinux label of the session keyring"
	case stageTimeNS:
		return "joining the time namespace"
	case stageOOM:
		return "process.oomScoreAdj"
	case stageScheduler:
		return "process.scheduler"
	case stageIOPriority:
		return "process.ioPriority"
	case stageAffinity:
		return "process.execCPUAffinity.final"
	case stageMemory:
		return "linux.memoryPolicy"
	case stagePersonality:
		return "linux.personality"
	case stageAppArmor:
		return "process.apparmorProfile"
	case stageSELinux:
		return "process.selinuxLabel"
	}
	return "unknown stage"
}

// attrFailure says what to do about the failures of attributes that have a usual cause; nil for others.
func attrFailure(stage int32, errno syscall.Errno) error {
	var kind api.Kind
	hint := ""
	switch {
	case stage == stageOOM && (errno == unix.EACCES || errno == unix.EPERM):
		kind, hint = api.Unsupported, "lowering it needs CAP_SYS_RESOURCE, which Brig was not given"
	case stage == stageScheduler && errno == unix.EPERM:
		kind, hint = api.Unsupported, "it needs CAP_SYS_NICE, for SCHED_DEADLINE also every processor of the machine, and in a version 1 cpu cgroup for real time a share (linux.resources.cpu.realtimeRuntime)"
	case stage == stageScheduler && (errno == unix.EBUSY || errno == unix.EOPNOTSUPP):
		kind, hint = api.Unsupported, "the kernel has no such bandwidth left, or was built without what a flag asks for"
	case stage == stageIOPriority && errno == unix.EPERM:
		kind, hint = api.Unsupported, "IOPRIO_CLASS_RT needs CAP_SYS_ADMIN or CAP_SYS_NICE"
	case stage == stageMemory && errno == unix.EINVAL:
		kind, hint = api.InvalidArgument, "a node does not exist or is outside the cgroup's cpuset.mems, or this kernel does not have the mode or flag"
	case stage == stageAffinity && errno == unix.EINVAL:
		kind, hint = api.InvalidArgument, "none of these processors exists within the cgroup's cpuset.cpus"
	case stage == stageKeyring && errno == unix.EDQUOT:
		kind, hint = api.Exhausted, "the user has as many keys as /proc/sys/kernel/keys/maxkeys allows: --no-new-keyring goes without"
	case stage == stageKeyring:
		kind, hint = api.Unsupported, "--no-new-keyring goes without"
	case stage == stageAppArmor && errno == unix.ENOENT:
		kind, hint = api.InvalidArgument, "no such profile is loaded: aa-status lists them"
	case stage == stageSELinux && errno == unix.EINVAL:
		kind, hint = api.InvalidArgument, "the policy does not know this label"
	default:
		return nil
	}
	return api.Errorf(kind, "%s: %w: %s", attrStageName(stage), errno, hint)
}
