package oci

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/weak"
	"brig/internal/kernel/caps"
	"brig/internal/kernel/seccomp"
	"brig/internal/kernel/seccomp/profile"
	"brig/internal/runtime/users"
)

// Process is a forked child that waits to execute, or has.
type Process struct {
	Pid     int
	PidFD   int
	Console *os.File // master end of its terminal, nil without one

	talk  int    // socket: words to it, its stages and failures; the end when it has executed. -1: closed
	name  string // of the command, for errors
	mount string // as Container.Mount
	state []byte // of the container, for startContainer hooks of a process that waits at no gate

	child    *child    // what it may share with this process until it executes
	listener *listener // who is to have the seccomp listener, nil: nobody
}

// prepare turns an OCI process into the arguments of the forked child. root is a descriptor of the container's root, for users' names.
func prepare(p *specs.Process, who string, f Filter, root int, io [3]int) (*child, error) {
	c := &child{shut: [2]int{-1, -1}, setsid: true, console: -1, gate: -1, root: -1, stdio: io, noNewPrivs: p.NoNewPrivileges, umask: 0o022}
	if err := c.user(p, who, root); err != nil {
		return nil, err
	}
	env := p.Env
	if !hasEnv(env, "HOME") {
		env = append(env[:len(env):len(env)], "HOME="+c.home)
	}
	if p.User.Umask != nil {
		c.umask = uintptr(*p.User.Umask)
	}
	var err error
	if c.cwd, err = syscall.BytePtrFromString(p.Cwd); err != nil {
		return nil, err
	}
	if c.argv, err = syscall.SlicePtrFromStrings(p.Args); err != nil {
		return nil, err
	}
	if c.envp, err = syscall.SlicePtrFromStrings(env); err != nil {
		return nil, err
	}
	if err := c.candidates(p.Args[0], env); err != nil {
		return nil, err
	}
	if err := validateRlimits(p.Rlimits); err != nil {
		return nil, err
	}
	for _, r := range p.Rlimits {
		n, _ := rlimitNumber(r.Type)
		c.rlimits = append(c.rlimits, rlimit{n, unix.Rlimit{Cur: r.Soft, Max: r.Hard}})
	}
	c.capabilities(p.Capabilities)
	return c, c.filter(f, p.Capabilities)
}

// user takes the numbers of process.user, or looks who up in the container; either way it finds the home folder.
func (c *child) user(p *specs.Process, who string, root int) error {
	c.uid, c.gid, c.groups, c.home = uintptr(p.User.UID), uintptr(p.User.GID), p.User.AdditionalGids, "/"
	if who == "" {
		if !hasEnv(p.Env, "HOME") {
			uid := strconv.FormatUint(uint64(p.User.UID), 10)
			if u, err := users.Find(root, uid); err == nil {
				c.home = u.Home
			}
		}
		return nil
	}
	u, err := users.Resolve(root, who)
	if err != nil {
		return err
	}
	c.uid, c.gid, c.home, c.keepGroups = uintptr(u.UID), uintptr(u.GID), u.Home, u.KeepGroups
	c.groups = append(c.groups[:0:0], c.groups...)
	for _, g := range u.Groups {
		c.groups = append(c.groups, uint32(g))
	}
	return nil
}

// AnnotationSeccomp with the value SeccompDefault asks for docker's default profile, for the process's capabilities, in place of linux.seccomp. Four
// hundred names need not be written, read and compiled then: the program is part of the runtime. SeccompNesting is the profile of a container that runs
// containers: profile.Nesting.
const (
	AnnotationSeccomp = "org.brig.seccomp"
	SeccompDefault    = "default"
	SeccompNesting    = "nesting"
)

// Filter says which system calls a process may make.
type Filter struct {
	Default bool // docker's default profile
	Spec    *specs.LinuxSeccomp
}

// FilterOf takes the filter from a bundle's configuration.
func FilterOf(annotations map[string]string, s *specs.LinuxSeccomp) (Filter, error) {
	switch annotations[AnnotationSeccomp] {
	case "":
		return Filter{Spec: s}, nil
	case SeccompDefault:
		return Filter{Default: true}, nil
	case SeccompNesting:
		return Filter{Spec: profile.Nesting()}, nil
	}
	return Filter{}, api.Errorf(api.InvalidArgument, "config.json: annotation %s: the values are %q and %q", AnnotationSeccomp, SeccompDefault, SeccompNesting)
}

func (c *child) filter(f Filter, l *specs.LinuxCapabilities) error {
	var program *seccomp.Filter
	var err error
	switch {
	case f.Default:
		var bounding []string
		if l != nil {
			bounding = l.Bounding
		}
		program, err = profile.DefaultFilter(bounding)
	case f.Spec != nil:
		program, err = seccomp.Compile(f.Spec)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	if program.Notify {
		c.listener = newListener(f.Spec, specs.State{})
	}
	if len(program.Prog) > 0 {
		c.seccomp = &unix.SockFprog{Len: uint16(len(program.Prog)), Filter: &program.Prog[0]}
		c.seccompFlags = uintptr(program.Flags)
	}
	return nil
}

func (c *child) capabilities(l *specs.LinuxCapabilities) {
	var m [5]caps.Set
	if l == nil {
		l = &specs.LinuxCapabilities{}
	}
	known := caps.Set(2)<<max(caps.Last(), 0) - 1
	for i, names := range [][]string{l.Bounding, l.Effective, l.Inheritable, l.Permitted, l.Ambient} {
		m[i] = caps.Known(names) & known // Warnings tells of the others
	}
	bounding, effective, inheritable, permitted, ambient := m[0], m[1], m[2], m[3], m[4]
	last := caps.Last()
	for n := 0; n <= last; n++ {
		if !bounding.Has(n) {
			c.dropBounding = append(c.dropBounding, uintptr(n))
		}
		if ambient.Has(n) && permitted.Has(n) && inheritable.Has(n) { // the kernel's rule; runc passes over the others too
			c.ambient = append(c.ambient, uintptr(n))
		}
	}
	if weak.Inheritable {
		inheritable = permitted
	}
	c.caps.set = true
	c.caps.data = caps.NewData(effective, permitted, inheritable)
}

// candidates prepares the files to try for a command.
func (c *child) candidates(cmd string, env []string) error {
	if cmd == "" {
		return api.Errorf(api.InvalidArgument, "process.args[0] is empty: there is no command to run")
	}
	for _, name := range commandPaths(cmd, env) {
		ptr, err := syscall.BytePtrFromString(name)
		if err != nil {
			return err
		}
		c.paths = append(c.paths, ptr)
	}
	return nil
}

func hasEnv(env []string, name string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, name) && len(e) > len(name) && e[len(name)] == '=' {
			return true
		}
	}
	return false
}

// rlimitNumber knows the names of getrlimit(2).
func rlimitNumber(name string) (uintptr, bool) {
	switch name {
	case "RLIMIT_CPU":
		return 0, true
	case "RLIMIT_FSIZE":
		return 1, true
	case "RLIMIT_DATA":
		return 2, true
	case "RLIMIT_STACK":
		return 3, true
	case "RLIMIT_CORE":
		return 4, true
	case "RLIMIT_RSS":
		return 5, true
	case "RLIMIT_NPROC":
		return 6, true
	case "RLIMIT_NOFILE":
		return 7, true
	case "RLIMIT_MEMLOCK":
		return 8, true
	case "RLIMIT_AS":
		return 9, true
	case "RLIMIT_LOCKS":
		return 10, true
	case "RLIMIT_SIGPENDING":
		return 11, true
	case "RLIMIT_MSGQUEUE":
		return 12, true
	case "RLIMIT_NICE":
		return 13, true
	case "RLIMIT_RTPRIO":
		return 14, true
	case "RLIMIT_RTTIME":
		return 15, true
	}
	return 0, false
}

// launch forks the prepared child; files are the parent's ends. On the builder's thread only.
func launch(c *child, cgroup int, name string) (*Process, error) {
	talk, theirs, err := newTalk()
	if err != nil {
		return nil, err
	}
	c.talk, c.other = theirs, talk
	c.message.aim()
	if c.state == nil {
		c.state = make([]byte, 1)
	}
	closeUp() // the child is born as its parent is
	pid, pidfd, err := fork(c, cgroup)
	unix.Close(theirs)
	if err != nil {
		unix.Close(talk)
		if err == unix.EAGAIN {
			return nil, api.Errorf(api.Exhausted, "starting %s: the limit of processes is reached", name)
		}
		return nil, fmt.Errorf("starting %s: clone: %w", name, err)
	}
	return &Process{Pid: pid, PidFD: pidfd, name: name, talk: talk, child: c, listener: c.listener}, nil
}

// procs takes the file systems that the child makes, count of them, as detached mounts.
func (p *Process) procs(count int) (fds []int, err error) {
	for range count {
		msg, got, err := receive(p.talk, make([]byte, 8), make([]byte, unix.CmsgSpace(4)))
		fds = append(fds, got...)
		switch {
		case err != nil:
			return fds, err
		case len(msg) != 8:
			return fds, errKilled(p.name)
		}
		if stage := int32(leUint32(msg[:4])); stage != stageProcMade || len(got) != 1 {
			return fds, p.failure(stage, syscall.Errno(leUint32(msg[4:])))
		}
	}
	return fds, nil
}

// mounted tells a child that was born before them that the mounts are there, and gives it its terminal; nil: it has none.
func (p *Process) mounted(slave *os.File) error {
	var fds []int
	if slave != nil {
		fds = []int{int(slave.Fd())}
	}
	return sendFDs(p.talk, []byte{wordMounted}, fds)
}

// Ready waits until the child is in its cgroups and limits and waits for Start.
func (p *Process) Ready() error { return p.expect(stageReady) }

// expect waits for one report of the child and is content with stage alone; 0 is the end, when it has let go of all that is this process's.
func (p *Process) expect(want int32) error {
	stage, errno, err := p.read()
	if err != nil {
		return err
	}
	if stage == 0 && want != 0 {
		return errKilled(p.name)
	}
	if stage != want {
		return p.failure(stage, errno)
	}
	return nil
}

// ErrKilled is of a process that was killed before it executed, or, of one that tells, before it had begun.
var ErrKilled = errors.New("it was killed")

func errKilled(name string) error {
	return fmt.Errorf("starting %s: %w: is the memory limit too small to execute anything?", name, ErrKilled)
}

// Start lets the child execute and returns when it has. Call Ready first.
func (p *Process) Start() error {
	if err := p.release(append([]byte{wordGo}, p.state...)); err != nil {
		return err
	}
	if p.child != nil && p.child.tells {
		return p.begun()
	}
	stage, errno, err := p.read()
	if err == nil && stage == stageListener && p.listener != nil {
		if err = p.listener.handOver(p.Pid, p.PidFD, int(errno), p.talk); err == nil {
			stage, errno, err = p.read()
		}
	}
	p.hangUp()
	runtime.KeepAlive(p.child)
	if err != nil || stage == 0 {
		return err
	}
	return p.failure(stage, errno)
}

// waiting keeps what children at their gates share with this process.
var waiting []*child

// Hold leaves the child waiting at its gate, for StartAt from any process. Call Ready first; the parent may end then.
func (p *Process) Hold() error {
	err := p.release([]byte{wordHold})
	if err == nil {
		err = p.expect(0)
	}
	waiting = append(waiting, p.child)
	p.hangUp()
	return err
}

// keepState has Start hand the container's state to its startContainer hooks, if it has any.
func (p *Process) keepState(s *specs.Spec, id, bundle string) (err error) {
	if s.Hooks == nil || len(s.Hooks.StartContainer) == 0 {
		return nil
	}
	p.state, err = StateJSON(s, id, bundle, specs.StateCreated, p.Pid)
	if err == nil && len(p.state) > maxState {
		err = errLongState()
	}
	return err
}

// release says a word to the child that waits.
func (p *Process) release(word []byte) error {
	if err := sendFDs(p.talk, word, nil); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	return nil
}

// hangUp closes the parent's end of the talk.
func (p *Process) hangUp() {
	if p.talk >= 0 {
		unix.Close(p.talk)
		p.talk = -1
	}
}

// Abandon ends a child that has not been started and frees what the parent holds of it.
func (p *Process) Abandon() {
	unix.PidfdSendSignal(p.PidFD, unix.SIGKILL, nil, 0)
	p.hangUp()
	p.Reap()
	runtime.KeepAlive(p.child)
	p.Close()
}

// Close closes the parent's descriptors of the process.
func (p *Process) Close() {
	unix.Close(p.PidFD)
	if p.Console != nil {
		p.Console.Close()
	}
}

// Reap waits for the process, which must be a child of the caller's, and returns how it ended.
func (p *Process) Reap() (api.Exit, error) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(p.Pid, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return api.Exit{}, os.NewSyscallError("wait4", err)
		}
		return exitOf(ws), nil
	}
}

func exitOf(ws unix.WaitStatus) api.Exit {
	e := api.Exit{Code: ws.ExitStatus(), At: time.Now().UTC()}
	if ws.Signaled() {
		e.Signal = int(ws.Signal())
		e.Code = 128 + e.Signal
	}
	return e
}

// read takes one report of the child; stage 0 is the end of file.
func (p *Process) read() (stage int32, errno syscall.Errno, err error) {
	return readReport(p.talk, p.name)
}

func readReport(fd int, name string) (stage int32, errno syscall.Errno, err error) {
	var msg [8]byte
	for {
		n, err := unix.Read(fd, msg[:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, 0, fmt.Errorf("starting %s: report of the child: %w", name, err)
		case n == 0:
			return 0, 0, nil
		case n != len(msg):
			return 0, 0, fmt.Errorf("starting %s: short report from the child", name)
		}
		return int32(leUint32(msg[:4])), syscall.Errno(leUint32(msg[4:])), nil
	}
}

func leUint32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// failure turns a stage and errno into docker's kinds of error.
func (p *Process) failure(stage int32, errno syscall.Errno) error {
	return childError(p.name, stage, errno)
}

// noInterpreter is what a child reports where execve(2) says ENOENT of a file that is there: the interpreter of its "#!", or of its ELF header, is missing.
const noInterpreter = unix.ELIBACC

func childError(name string, stage int32, errno syscall.Errno) error {
	if stage == stageExec {
		switch errno {
		case noInterpreter:
			return api.Errorf(api.CommandNotFound, "exec %s: the file is there, but the interpreter that it names, in its first line or as a program that needs libraries, is not in the container", name)
		case unix.ENOENT, unix.ENOTDIR:
			if strings.Contains(name, "/") {
				return api.Errorf(api.CommandNotFound, "exec %s: no such file or directory in the container", name)
			}
			return api.Errorf(api.CommandNotFound, "exec %s: executable file not found in the container's $PATH", name)
		case unix.EACCES:
			return api.Errorf(api.CommandNotRunnable, "exec %s: permission denied: is it an executable file?", name)
		case unix.ENOEXEC:
			return api.Errorf(api.CommandNotRunnable, "exec %s: exec format error: not a program for this machine, or a script without #!", name)
		}
		return api.Errorf(api.CommandNotRunnable, "exec %s: %w", name, errno)
	}
	if err := attrFailure(stage, errno); err != nil {
		return err
	}
	what := attrStageName(stage)
	if stage > 0 && int(stage) < len(stageNames) {
		what = stageNames[stage]
	}
	switch {
	case stage == stageCwd:
		return api.Errorf(api.CommandNotRunnable, "working directory: %w", errno)
	case stage == stageStartHook && errno == unix.ECHILD:
		return fmt.Errorf("starting %s: a startContainer hook failed: its words are on the container's standard error", name)
	case stage == stageStartHook && errno == unix.ETIMEDOUT:
		return fmt.Errorf("starting %s: a startContainer hook took longer than its timeout and was killed", name)
	case stage == stageCwdOutside:
		return api.Errorf(api.InvalidArgument, "%s", what)
	case stage == stageRlimit && errno == unix.EPERM:
		return api.Errorf(api.Unsupported, "%s: %w: raising a limit needs CAP_SYS_RESOURCE, which Brig was not given", what, errno)
	}
	return fmt.Errorf("starting %s: %s: %w", name, what, errno)
}
