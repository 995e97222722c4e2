package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/record"
	"brig/internal/base/rootless"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/proc"
	"brig/internal/runtime"
	boxed "brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/config"
	"brig/internal/runtime/oci"
	"brig/internal/runtime/shim/wire"
)

// container is one container of the sandbox.
type container struct {
	stream
	id         string
	bundle     string
	exitPath   string
	durable    bool
	cgroup     *cgroup.Group // see group
	cgroupPath string
	ownPIDs    bool   // it has a PID namespace of its own
	root       string // where its root is mounted among the host's mounts; "": in a mount namespace of its own
	waiters    []*conn
	kept       bool // it waits to be started, whether its owner is there or not
	started    bool
	failed     bool // its command could not be executed: who started it keeps that
	startedAt  time.Time
	exit       *api.Exit
	health     *health // nil: it is not asked
	unhealthy  string  // what was done to it for that: api.UnhealthyKill, …
	healthSpec runtime.HealthSpec
}

// add builds a container from its bundle, up to the point where its process waits.
func (s *server) add(r *wire.Request) (wire.Reply, error) {
	if s.containers[r.ID] != nil {
		return wire.Reply{}, api.Errorf(api.AlreadyExists, "container %s is in this sandbox already", r.ID)
	}
	data, err := os.ReadFile(filepath.Join(r.Bundle.Dir, "config.json"))
	if err != nil {
		return wire.Reply{}, err
	}
	spec, err := config.Decode(data)
	if err != nil {
		return wire.Reply{}, api.Errorf(api.InvalidArgument, "bundle %s: %w", r.Bundle.Dir, err)
	}
	if s.placeless != nil {
		if err := goWithout(spec, s.placeless); err != nil {
			return wire.Reply{}, err
		}
	}
	c := &container{id: r.ID, bundle: r.Bundle.Dir, exitPath: r.Bundle.ExitPath, durable: r.Bundle.Durable}
	c.s, c.once, c.ended, c.box = s, r.Bundle.StdinOnce, c.onExit, isBox(c.bundle)
	if spec.Linux != nil {
		c.cgroupPath = spec.Linux.CgroupsPath
		c.ownPIDs = ownPIDs(spec)
	}
	c.log, c.healthSpec = openLog(r.Bundle.Log), r.Bundle.Health
	req := &oci.Request{
		ID: r.ID, Spec: spec, Bundle: r.Bundle.Dir, Root: r.Bundle.Root, MountPoint: s.dir, NetNS: -1, Gate: -1,
		RootPath: rootPath(r.Bundle.Dir, spec), Rootless: rootless.Active(),
	}
	if spec.Linux != nil && !ownMounts(spec) {
		if c.root, err = makeRootPlace(s.dir); err != nil {
			return wire.Reply{}, err
		}
		req.MountPoint, req.NoCgroup = c.root, c.cgroupPath == ""
	}
	if r.NetNS && len(s.fds) > 0 {
		req.NetNS = s.fds[0]
	}
	if n := len(s.fds) - r.Files; n < 0 {
		return wire.Reply{}, api.Errorf(api.InvalidArgument, "%d descriptors came, with %d for the process among them", len(s.fds), r.Files)
	} else if r.Files > 0 {
		req.Given = s.fds[n:]
		defer closeAll(req.Given) // they are the process's, and nobody's who would keep their other ends waiting
		s.fds = s.fds[:n:n]
	}
	if n := len(s.fds); r.Bridges != "" && n > 0 {
		if err := s.holdBridges(s.fds[n-1], r.Bridges); err != nil {
			return wire.Reply{}, err
		}
	}
	terminal := spec.Process != nil && spec.Process.Terminal
	if terminal {
		c.in, c.out = -1, [2]int{-1, -1}
	} else if req.Stdio, err = c.pipesFor(r.Bundle.Stdin); err != nil {
		c.log.close()
		return wire.Reply{}, err
	}
	made, err := oci.Create(req)
	if !terminal {
		closeAll(req.Stdio[:])
	}
	if err != nil {
		c.closeFDs()
		c.log.close()
		return wire.Reply{}, err
	}
	c.proc, c.cgroup = made.Process, made.Cgroup
	if terminal {
		if err := c.terminal(made.Process, r.Bundle.Stdin); err != nil {
			made.Abandon()
			return wire.Reply{}, err
		}
	}
	s.containers[r.ID] = c
	s.reap = r.Bundle.Reap
	if r.Names != "" && len(s.fds) >= 3 { // the namespace, and two sockets in it
		s.resolve(s.fds[1], s.fds[2], r.Names)
	}
	return wire.Reply{Pid: made.Pid}, nil
}

// ownPIDs reports whether a container has a PID namespace of its own.
func ownPIDs(spec *specs.Spec) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace && n.Path == "" })
}

// goWithout has a normal user's container that asks for no limit do without a control group, where the user's systemd did not make one.
func goWithout(spec *specs.Spec, why error) error {
	if spec.Linux == nil {
		return nil
	}
	if field := cgroup.Asks(spec.Linux.Resources); field != "" {
		return api.Errorf(api.KindOf(why), "%s: %w", field, why)
	}
	if !ownPIDs(spec) {
		return api.Errorf(api.KindOf(why), "a PID namespace that is not the container's own: %w", why) // its processes could not be ended all
	}
	spec.Linux.CgroupsPath = ""
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	return nil
}

func rootPath(bundle string, spec *specs.Spec) string {
	if spec.Root == nil || filepath.IsAbs(spec.Root.Path) {
		if spec.Root == nil {
			return ""
		}
		return spec.Root.Path
	}
	return filepath.Join(bundle, spec.Root.Path)
}

// start records the process, then lets it execute.
func (s *server) start(conn *conn, r *wire.Request) (wire.Reply, error) {
	c, err := s.find(r.ID)
	if err != nil {
		return wire.Reply{}, err
	}
	if c.started {
		return wire.Reply{}, api.Errorf(api.Conflict, "container %s is running already", r.ID)
	}
	if conn == s.owner && conn.givenUp() { // while the container was being made
		return wire.Reply{}, api.Errorf(api.Conflict, "container %s is not started: its owner has gone", r.ID)
	}
	c.startedAt = time.Now().UTC()
	if err := c.writeState(); err != nil {
		return wire.Reply{}, err
	}
	c.started = true
	if r.Attach {
		c.attach(conn)
		if r.Stdin {
			conn.stdin = &c.stream
		}
	}
	c.waiters = append(c.waiters, conn)
	if !c.kept {
		c.run()
	}
	if err := c.proc.Start(); err != nil {
		c.failed = true
		os.Remove(filepath.Join(s.dir, StateName))
		return wire.Reply{}, c.notStarted(err)
	}
	if c.exitPath != "" { // of an earlier run, which was the last one until now
		_ = unix.Unlink(c.exitPath)
	}
	if c.box { // what runs inside has begun just now, and its time to get well begins
		c.startedAt = time.Now().UTC()
		_ = c.writeState() // else the record says when the box was
	}
	c.watchHealth(c.healthSpec)
	return wire.Reply{Pid: c.proc.Pid}, nil
}

// keep has a container that was added, and not started, outlive its owner: somebody else will start it.
func (s *server) keep(r *wire.Request) error {
	c, err := s.find(r.ID)
	if err != nil {
		return err
	}
	if c.started || c.kept {
		return api.Errorf(api.Conflict, "container %s is kept already", r.ID)
	}
	if err := c.writeState(); err != nil {
		return err
	}
	c.kept = true
	c.run() // it may be killed while it waits
	return nil
}

// writeState records the process.
func (c *container) writeState() error {
	ticks, err := proc.StartTicks(c.proc.Pid)
	if err != nil {
		return err
	}
	state, err := record.Marshal(State{Pid: c.proc.Pid, StartTicks: ticks, BootID: proc.BootID(), Cgroup: c.cgroupPath, StartedAt: c.startedAt, Waits: c.startedAt.IsZero()})
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(c.s.dir, StateName), state, 0o600, atomicfile.Volatile)
}

// notStarted says who killed a process that was killed while it started, where that is known.
func (c *container) notStarted(err error) error {
	if !errors.Is(err, oci.ErrKilled) {
		return err
	}
	if by := c.asked(); by != "" {
		return api.Errorf(api.Conflict, "it was ended while it started: %s", by)
	}
	if g, _ := c.group(); g != nil {
		if n, gerr := g.OOMKills(); gerr == nil && n > 0 {
			return fmt.Errorf("%w: its memory limit is too small to start", err)
		}
	}
	return err
}

func (s *server) attach(conn *conn, r *wire.Request) (wire.Reply, error) {
	c, err := s.find(r.ID)
	if err != nil {
		return wire.Reply{}, err
	}
	if r.Op == "attach" && c.exit == nil {
		c.attach(conn)
		if r.Stdin {
			conn.stdin = &c.stream
		}
	}
	if c.exit == nil {
		c.waiters = append(c.waiters, conn)
	}
	return wire.Reply{Pid: c.proc.Pid}, nil
}

// onExit keeps the exit status on the disk, then tells it.
func (c *container) onExit(e api.Exit) {
	crowded := false
	if g, err := c.group(); err == nil && g != nil {
		if n, err := g.OOMKills(); err == nil && n > 0 {
			e.OOMKilled = true
		}
		e.OOMKilled = e.OOMKilled || c.told == boxed.ToldOOM
		crowded = e.Code != 0 && (g.ForksRefused() > 0 || c.told == boxed.ToldCrowded)
		if !c.ownPIDs { // else all its processes ended with the first
			g.Kill(unix.SIGKILL)
		}
	} else if c.root != "" {
		_ = proc.KillRooted(c.root) // who cleans up tells
	}
	if c.box && e.Signal == 0 {
		e.Signal = boxed.SignalOf(c.told, e.Code)
	}
	if c.told == boxed.ToldLost && e.Signal == 0 {
		e.Error = "what it ran in has ended, and the container with it: the end of its log says why"
	}
	c.log.close()
	// A run that never was leaves how the last one ended as it is.
	if data, err := record.Marshal(ExitRecord{Exit: e, StartedAt: c.startedAt, Pid: c.proc.Pid, Unhealthy: c.unhealthy, Asked: c.asked(), Crowded: crowded}); err == nil && c.exitPath != "" && c.started && !c.failed {
		if err := atomicfile.Write(c.exitPath, data, 0o600, atomicfile.Sync(c.durable)); err != nil {
			// The disk is full, probably. The sandbox's folder lies elsewhere: who cleans up takes it from there, when there is room again.
			if atomicfile.Write(filepath.Join(c.s.dir, ExitName), data, 0o600, atomicfile.Volatile) != nil {
				e.Error = "the exit status could not be kept: " + err.Error()
			}
		}
	}
	c.exit = &e
	for _, w := range c.waiters {
		w.exit(e)
	}
	c.waiters, c.clients = nil, slices.Delete(c.clients, 0, len(c.clients))
}

// asked is who sent the process a signal, as far as he said so.
func (c *container) asked() string {
	f, err := os.Open(filepath.Join(c.s.dir, AskedName))
	if err != nil {
		return ""
	}
	defer f.Close()
	var b [200]byte
	n, _ := f.Read(b[:])
	return string(b[:n])
}

// isBox reports whether a bundle's container is one in which a level's monitor keeps another.
func isBox(bundle string) bool { return filepath.Base(bundle) == boxed.BundleName }

// abandon ends containers that were never started, since nobody is left who would. When the owner has undone them, what it started
// without waiting for the answer ends too.
func (s *server) abandon() {
	for _, c := range s.containers {
		if c.started && c.exit == nil && s.cleaned {
			c.kill()
		}
		if !c.started && c.exit == nil && (!c.kept || s.cleaned) {
			c.proc.Abandon()
			c.closeFDs()
			c.log.close()
			c.exit = &api.Exit{Code: 255, Error: "never started"}
		}
	}
}

// kill ends every process of a container that runs.
func (c *container) kill() {
	if c.cgroup != nil {
		c.cgroup.Kill(unix.SIGKILL)
		return
	}
	unix.PidfdSendSignal(c.proc.PidFD, unix.SIGKILL, nil, 0) // and with it its PID namespace, or with its end all that is in its root
}

// group takes up the container's cgroup; a shim that has renewed itself does so when it is needed. It is nil for a container without one.
func (c *container) group() (*cgroup.Group, error) {
	if c.cgroup != nil || c.cgroupPath == "" {
		return c.cgroup, nil
	}
	var err error
	c.cgroup, err = cgroup.Load(c.cgroupPath)
	return c.cgroup, err
}

// release frees what the kernel still holds of a container that has ended.
func (c *container) release() {
	if g, err := c.group(); err == nil && g != nil {
		g.Remove()
	}
}

// exec runs one more process in a container.
func (s *server) exec(conn *conn, r *wire.Request) (wire.Reply, error) {
	given := conn.given
	conn.given = nil
	defer closeAll(given)
	if r.Op == "execfiles" && (r.Files != len(given) || len(given) == 0) {
		return wire.Reply{}, api.Errorf(api.InvalidArgument, "exec: %d descriptors came for %d", len(given), r.Files)
	}
	c, err := s.find(r.ID)
	if err != nil {
		return wire.Reply{}, err
	}
	if !c.started || c.exit != nil {
		return wire.Reply{}, api.Errorf(api.Conflict, "container %s is not running", r.ID)
	}
	if r.Process == nil {
		return wire.Reply{}, api.Errorf(api.InvalidArgument, "exec: the process is missing")
	}
	t, err := c.spawn(r, given)
	if err != nil {
		return wire.Reply{}, err
	}
	p := t.proc
	s.execs[t] = true
	t.ended = func(e api.Exit) {
		delete(s.execs, t)
		if !r.Detach {
			conn.exit(e)
		}
	}
	if !r.Detach {
		t.attach(conn)
		if r.Stdin {
			conn.stdin = t
		}
	}
	t.run()
	if err := p.Start(); err != nil {
		t.ended = func(api.Exit) { delete(s.execs, t) } // the reply tells
		return wire.Reply{}, err
	}
	return wire.Reply{Pid: p.Pid}, nil
}

// spawn makes one more process in the container, up to the point where it would execute.
func (c *container) spawn(r *wire.Request, given []int) (*stream, error) {
	part, err := bundlePart(c.bundle)
	if err != nil {
		return nil, err
	}
	filter, err := oci.FilterOf(part.Annotations, part.Seccomp())
	if err != nil {
		return nil, err
	}
	t := &stream{s: c.s, in: -1, out: [2]int{-1, -1}, once: true}
	group, err := c.group()
	if err == nil && group != nil && oci.Entrusted(part.Annotations) {
		group, err = group.Nested(c.proc.Pid) // its own group hands controllers down, and holds no process
	}
	if err != nil {
		return nil, err
	}
	req := &oci.ExecRequest{Pid: c.proc.Pid, Process: r.Process, User: r.User, Seccomp: filter, Cgroup: group, Root: c.root, Given: given, ID: c.id, Bundle: c.bundle}
	if !r.Process.Terminal {
		if req.Stdio, err = t.pipesFor(r.Stdin); err != nil {
			return nil, err
		}
	}
	if r.Tools != "" {
		if req.Tools, err = mount.Clone(unix.AT_FDCWD, r.Tools, false); err != nil {
			return nil, err
		}
		defer unix.Close(req.Tools)
		if err := mount.SetAttr(req.Tools, false, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, 0, 0); err != nil {
			return nil, err
		}
	}
	p, err := oci.Exec(req)
	if !r.Process.Terminal {
		closeAll(req.Stdio[:])
	}
	if err != nil {
		t.closeFDs()
		return nil, err
	}
	t.proc = p
	if r.Process.Terminal {
		if err := t.terminal(p, r.Stdin); err != nil {
			p.Abandon()
			return nil, err
		}
	}
	return t, nil
}

// bundlePart reads only what an exec needs of a bundle's config.json: the shim keeps no configuration in memory.
func bundlePart(dir string) (*config.Part, error) {
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	part, err := config.DecodePart(data)
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "bundle %s: %w", dir, err)
	}
	return part, nil
}
