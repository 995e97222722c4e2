package oci

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/kernel/proc"
	"brig/internal/runtime/config"
	"brig/internal/runtime/oci"
)

// createFlags are runc's for create and, with more, for run and restore.
func createFlags() []flag {
	return []flag{
		{"bundle", "b", isString, "folder of config.json (default: the working directory)"},
		{"console-socket", "", isString, "unix socket that receives the terminal's master end"},
		{"pidfd-socket", "", isString, "unix socket that receives a pidfd of the container's first process"},
		{"pid-file", "", isString, "file to write the process's number to"},
		{"no-pivot", "", isBool, "change the root with chroot(2): for a root file system on a ramdisk, and a weaker wall"},
		{"no-new-keyring", "", isBool, "leave the caller's session keyring to the container"},
		{"preserve-fds", "", isInt, "how many descriptors, from 3 on, the process inherits besides those of $LISTEN_FDS"},
	}
}

// making is a container on its way.
type making struct {
	e    *entry
	lock *lock.Lock
	spec *specs.Spec
	made *oci.Container
}

// make does what create and run have in common, up to a process that waits and a state that says so. held: it will wait at its gate.
func (c *call) make(held bool) (*making, error) {
	id := c.args[0]
	bundle, err := filepath.Abs(c.str("bundle"))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(bundle, configName)
	data, err := readConfig(path)
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "bundle: %w", err)
	}
	s, err := config.Decode(data)
	if err != nil {
		return nil, err
	}
	if err := oci.Validate(s); err != nil {
		return nil, err
	}
	if err := c.checkConsole(s.Process.Terminal, held || c.on("detach")); err != nil {
		return nil, err
	}
	if err := oci.GuardCreate(s, held); err != nil {
		return nil, err
	}
	root := s.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(bundle, root)
	}
	s.Process.Env = inheritListen(s.Process.Env)
	l, err := c.claim(id)
	if err != nil {
		return nil, err
	}
	m := &making{lock: l, spec: s, e: &entry{
		Version: s.Version, ID: id, Bundle: bundle, Rootfs: root, Created: time.Now().UTC(), Annotations: s.Annotations, Owner: "", dir: c.dir(id),
	}}
	req := &oci.Request{
		ID: id, Spec: s, Bundle: bundle, RootPath: root, MountPoint: root, NetNS: -1, Gate: -1, Stdio: [3]int{0, 1, 2}, Preserve: c.preserve,
		Rootless: c.goWithoutCgroup(), Systemd: c.systemd, Here: !c.unprivileged(), LookUp: true, NoNewKeyring: c.on("no-new-keyring"), NoPivot: c.on("no-pivot"),
	}
	m.e.NoNewKeyring = req.NoNewKeyring
	for _, w := range oci.Warnings(s) {
		c.logLine("warning", w)
	}
	if err := c.build(m, req, data, held); err != nil {
		c.undo(m)
		return nil, err
	}
	return m, nil
}

// build makes the process and records it.
func (c *call) build(m *making, req *oci.Request, config []byte, held bool) error {
	e := m.e
	e.Cgroup = req.CgroupPath()
	if err := e.begin(config); err != nil {
		return err
	}
	if held {
		gate, err := oci.OpenGate(e.dir)
		if err != nil {
			return err
		}
		defer unix.Close(gate)
		req.Gate = gate
	}
	made, err := oci.Create(req)
	if err != nil {
		return err
	}
	m.made = made
	if e.Cgroup = ""; made.Cgroup != nil {
		if e.Cgroup = made.Cgroup.Path(); !filepath.IsAbs(e.Cgroup) {
			e.CgroupPaths = made.Cgroup.Paths()
		}
	}
	e.Unit, e.RDT, e.Mount = made.Unit, made.RDT, made.Mount
	if err := c.sendConsole(made.Process, held || c.on("detach")); err != nil {
		return err
	}
	if err := c.sendPidfd(made.PidFD); err != nil {
		return err
	}
	e.Pid, e.BootID = made.Pid, proc.BootID()
	if e.StartTicks, err = proc.StartTicks(made.Pid); err != nil {
		return err
	}
	if err := c.writePidFile(made.Pid); err != nil {
		return err
	}
	c.debugf("pid %d waits, cgroup %q, bundle %s", e.Pid, e.Cgroup, e.Bundle)
	return e.save()
}

// undo takes back a container that could not be made.
//
// A hook that has run, whoever failed then, is answered by those of poststop: runtime.md, "Lifecycle", steps 4 to 9.
func (c *call) undo(m *making) {
	if m.made != nil {
		m.made.Abandon()
	}
	c.poststop(m.e, m.spec)
	lock.RemoveHeld(m.e.dir, lockName)
	m.lock.Release()
}

// goWithoutCgroup reports whether a container may do without a cgroup, as runc decides: rootless containers may, unless the flag says otherwise. In a user
// namespace root has root's number and not its rights.
func (c *call) goWithoutCgroup() bool {
	switch c.rootless {
	case "true":
		return true
	case "false":
		return false
	}
	return c.unprivileged()
}

// unprivileged reports whether this process has no root's rights over the namespaces that it was started in: its user is another, or it is in a user
// namespace that does not map all ids to themselves.
func (c *call) unprivileged() bool {
	if c.rights == 0 {
		c.rights = 'y'
		if os.Geteuid() != 0 {
			c.rights = 'n'
		} else if data, err := os.ReadFile("/proc/self/uid_map"); err == nil && strings.Join(strings.Fields(string(data)), " ") != "0 0 4294967295" {
			c.rights = 'n'
		}
	}
	return c.rights == 'n'
}

// firstFD is the first descriptor after the standard streams.
const firstFD = 3

// preserved counts the descriptors that the process inherits: those of socket activation (sd_listen_fds(3)) and of --preserve-fds.
func (c *call) preserved() (int, error) {
	n := int(c.num("preserve-fds"))
	if listen := os.Getenv("LISTEN_FDS"); listen != "" {
		k, err := strconv.Atoi(listen)
		if err != nil || k < 0 || k > 1<<16 {
			return 0, api.Errorf(api.InvalidArgument, "environment LISTEN_FDS: %q is not a number of descriptors", listen)
		}
		n += k
	}
	if n < 0 || n > 1<<16 {
		return 0, api.Errorf(api.InvalidArgument, "flag --preserve-fds: %d is not a number of descriptors", n)
	}
	for fd := firstFD; fd < firstFD+n; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return 0, api.Errorf(api.InvalidArgument, "flag --preserve-fds: descriptor %d is not open", fd)
		}
	}
	return n, nil
}

// inheritListen tells a process of the descriptors of socket activation.
func inheritListen(env []string) []string {
	if listen := os.Getenv("LISTEN_FDS"); listen != "" {
		env = append(env, "LISTEN_FDS="+listen, "LISTEN_PID=1")
	}
	return env
}

// create is `brig-oci create`: everything but the execution of the command.
func create(c *call) (int, error) {
	m, err := c.make(true)
	if err != nil {
		return 0, err
	}
	if err := m.made.Hold(); err != nil {
		c.undo(m)
		return 0, err
	}
	return 0, m.lock.Release()
}

// start is `brig-oci start`.
func start(c *call) (int, error) {
	e, l, err := c.hold(c.args[0])
	if err != nil {
		return 0, err
	}
	defer l.Release()
	switch status := e.status(); status {
	case specs.StateCreated:
	case specs.StateStopped:
		return 0, api.Errorf(api.Conflict, "cannot start a container that has stopped")
	case specs.StateRunning:
		return 0, api.Errorf(api.Conflict, "cannot start an already running container")
	default:
		return 0, api.Errorf(api.Conflict, "cannot start a container that is %s: resume it first", status)
	}
	s, err := e.config()
	if err != nil {
		return 0, err
	}
	state, err := e.stateJSON(specs.StateCreated, e.Pid)
	if err != nil {
		return 0, err
	}
	c.debugf("process %d executes %q", e.Pid, s.Process.Args)
	if err := oci.StartAt(e.dir, s, specs.State{ID: e.ID, Bundle: e.Bundle, Pid: e.Pid}, state); err != nil {
		return 0, err
	}
	return 0, c.poststart(e, s)
}

// poststart runs the hooks of hooks.poststart. Their failure is told, and the container runs on, as with crun: so runtime-spec had it until 1.1, and so the
// validation programs want it. runtime.md of 1.3, "Lifecycle", step 9, stops the container.
func (c *call) poststart(e *entry, s *specs.Spec) error {
	if s.Hooks == nil || len(s.Hooks.Poststart) == 0 {
		return nil
	}
	state, err := e.stateJSON(specs.StateRunning, e.Pid)
	if err != nil {
		return err
	}
	for _, err := range oci.RunEveryHook("poststart", s.Hooks.Poststart, state) {
		c.warn(err)
	}
	return nil
}
