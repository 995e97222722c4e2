// Package ns is the driver of isolation level "container": Linux namespaces, cgroups, seccomp and capabilities, kept by a shim a sandbox.
package ns

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/proc"
	"brig/internal/runtime"
	"brig/internal/runtime/shim"
	"brig/internal/runtime/shim/wire"
)

// Driver makes sandboxes of namespaces.
type Driver struct {
	Program string // path of brig-oci
}

var (
	_ runtime.Driver   = (*Driver)(nil)
	_ runtime.Sandbox  = (*sandbox)(nil)
	_ runtime.Owned    = (*sandbox)(nil)
	_ runtime.Runner   = (*sandbox)(nil)
	_ runtime.Keeper   = (*sandbox)(nil)
	_ runtime.Starter  = (*container)(nil)
	_ runtime.Attacher = (*container)(nil)
	_ runtime.Pauser   = (*container)(nil)
	_ runtime.Lister   = (*container)(nil)
	_ runtime.Updater  = (*container)(nil)
	_ runtime.Statser  = (*container)(nil)
)

// Name is the level's name.
func (*Driver) Name() string { return string(api.IsolationContainer) }

// Needs says that the root is a folder and the network a namespace.
func (*Driver) Needs() runtime.Needs { return runtime.Needs{} }

// Open starts a shim and returns while it starts.
func (d *Driver) Open(_ context.Context, spec api.SandboxSpec) (runtime.Sandbox, error) {
	c, err := shim.Spawn(d.Program, spec.Dir, spec.Subtree)
	if err != nil {
		return nil, err
	}
	return &sandbox{spec: spec, owner: c}, nil
}

// Find takes up the sandbox of spec.Dir, whose shim may have been killed while its container runs on.
func (d *Driver) Find(_ context.Context, spec api.SandboxSpec) (runtime.Sandbox, error) {
	if _, err := os.Stat(spec.Dir); err != nil {
		return nil, api.Errorf(api.NotFound, "no sandbox %s", spec.ID)
	}
	return &sandbox{spec: spec}, nil
}

type sandbox struct {
	spec  api.SandboxSpec
	owner *shim.Client // of the process that opened it
}

func (s *sandbox) Add(ctx context.Context, b runtime.Bundle) (runtime.Container, error) {
	add, err := s.handOver(b)
	if err != nil {
		return nil, err
	}
	rep, err := s.owner.Call(ctx, add)
	if err != nil {
		return nil, err
	}
	return &container{s: s, id: b.ID, state: shim.State{Pid: rep.Pid}}, nil
}

func (s *sandbox) Run(ctx context.Context, b runtime.Bundle, want runtime.Streams) (runtime.Stream, error) {
	add, err := s.handOver(b)
	if err != nil {
		return nil, err
	}
	start := &wire.Request{Op: "start", ID: b.ID, Attach: want.Stdout || want.Stderr, Stdin: want.Stdin}
	if _, err := s.owner.Call(ctx, add, start); err != nil {
		return nil, err
	}
	return filtered{s.owner, want}, nil
}

func (s *sandbox) Keep(ctx context.Context, id string) error {
	_, err := s.owner.Call(ctx, &wire.Request{Op: "keep", ID: id})
	return err
}

// handOver gives the shim the descriptors of the sandbox's link and returns the request to add a container to it.
func (s *sandbox) handOver(b runtime.Bundle) (*wire.Request, error) {
	link, err := s.spec.Link()
	if err != nil {
		return nil, err
	}
	var fds []int
	if link.NetNS != nil {
		fds = append(fds, int(link.NetNS.Fd()))
	}
	for _, f := range append(slices.Clone(link.Resolver), link.Held...) {
		fds = append(fds, int(f.Fd()))
	}
	if link.Bridges != nil {
		fds = append(fds, int(link.Bridges.Fd()))
	}
	fds = append(fds, b.Files...)
	if err := s.owner.SendFDs(fds); err != nil {
		return nil, err
	}
	if link.NetNS != nil { // from now on the shim alone keeps the namespace alive
		link.NetNS.Close()
	}
	for _, f := range append(slices.Clone(link.Resolver), link.Held...) {
		f.Close()
	}
	if link.Bridges != nil {
		link.Bridges.Close()
	}
	return &wire.Request{Op: "add", ID: b.ID, Bundle: b, NetNS: link.NetNS != nil, Names: link.Names, Bridges: link.BridgesFile, Files: len(b.Files)}, nil
}

// Find reads the container's record. That of a container whose process has ended is still found, until the sandbox is closed.
func (s *sandbox) Find(_ context.Context, id string) (runtime.Container, error) {
	state, err := shim.ReadState(s.spec.Dir)
	if errors.Is(err, api.NotFound) {
		return nil, api.Errorf(api.NotFound, "container %s is not running", id)
	}
	if err != nil {
		return nil, err
	}
	return &container{s: s, id: id, state: state}, nil
}

// Close ends a sandbox in which nothing runs any more, or yet, and returns when its shim has ended.
func (s *sandbox) Close(ctx context.Context) error {
	if s.owner == nil {
		return nil
	}
	s.owner.Done()
	err := s.owner.Drain(ctx)
	s.owner.Close()
	return err
}

func (s *sandbox) Done(trash ...string) error      { return s.owner.Done(trash...) }
func (s *sandbox) Drain(ctx context.Context) error { return s.owner.Drain(ctx) }
func (s *sandbox) Leave() error                    { return s.owner.Close() }

// Alive reports whether the shim of the sandbox in dir, or the clean-up in its place, lives.
func Alive(dir string) bool { return lock.Held(filepath.Join(dir, shim.LockName)) }

type container struct {
	s     *sandbox
	id    string
	state shim.State
}

// Running reports whether the container's first process is alive, by its number, start time and boot.
func (c *container) Running() bool {
	return c.state.BootID == proc.BootID() && proc.Alive(c.state.Pid, c.state.StartTicks)
}

// State is what the shim recorded.
func (c *container) State() shim.State { return c.state }

func (c *container) Start(ctx context.Context) error {
	_, err := c.s.owner.Call(ctx, &wire.Request{Op: "start", ID: c.id})
	return err
}

func (c *container) StartKept(ctx context.Context, s runtime.Streams) (runtime.Stream, error) {
	return c.dial(ctx, &wire.Request{Op: "start", ID: c.id, Attach: s.Stdout || s.Stderr, Stdin: s.Stdin}, s)
}

func (c *container) Attach(ctx context.Context, s runtime.Streams) (runtime.Stream, error) {
	op := "wait"
	if s.Stdout || s.Stderr || s.Stdin {
		op = "attach"
	}
	return c.dial(ctx, &wire.Request{Op: op, ID: c.id, Stdin: s.Stdin}, s)
}

func (c *container) ExecAttached(ctx context.Context, x runtime.Exec, s *runtime.Streams) (runtime.Stream, error) {
	r := &wire.Request{Op: "exec", ID: c.id, Process: &x.Process, User: x.User, Tools: x.Tools, Detach: s == nil}
	if s == nil {
		s = &runtime.Streams{}
	}
	r.Stdin = s.Stdin
	if len(x.Files) == 0 {
		return c.dial(ctx, r, *s)
	}
	r.Op, r.Files = "execfiles", len(x.Files)
	st, err := c.dial(ctx, r, *s, x.Files...)
	if errors.Is(err, api.InvalidArgument) && strings.Contains(err.Error(), "unknown request") {
		err = api.Errorf(api.Unsupported, "the container's keeper is one of an older Brig, which cannot hand descriptors over: start the container anew first")
	}
	return st, err
}

// dial makes a request on a connection of its own, which then carries the stream.
func (c *container) dial(ctx context.Context, r *wire.Request, s runtime.Streams, files ...int) (runtime.Stream, error) {
	client, err := shim.Dial(c.s.spec.Dir)
	if err != nil {
		return nil, err
	}
	if err := client.SendFDs(files); err != nil {
		client.Close()
		return nil, err
	}
	if _, err := client.Call(ctx, r); err != nil {
		client.Close()
		return nil, err
	}
	return filtered{client, s}, nil
}

func (c *container) Exec(ctx context.Context, p api.Process, io api.Stdio) (api.Exit, error) {
	st, err := c.ExecAttached(ctx, runtime.Exec{Process: p}, &runtime.Streams{Stdin: io.Stdin != nil, Stdout: io.Stdout != nil, Stderr: io.Stderr != nil})
	if err != nil {
		return api.Exit{}, err
	}
	defer st.Close()
	if io.Stdin != nil {
		go copyInput(st, io.Stdin)
	}
	return st.Wait(ctx, writer(io.Stdout), writer(io.Stderr))
}

func (c *container) Signal(_ context.Context, sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(c.state.Pid, 0)
	if err != nil || !c.Running() { // checked after the descriptor is open: it cannot become another process any more
		if err == nil {
			unix.Close(fd)
		}
		return api.Errorf(api.Conflict, "container %s is not running", c.id)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return api.Errorf(api.Conflict, "container %s: signal %d: %w", c.id, sig, err)
	}
	return nil
}

func (c *container) Wait(ctx context.Context) (api.Exit, error) {
	st, err := c.Attach(ctx, runtime.Streams{})
	if err != nil {
		return api.Exit{}, err
	}
	defer st.Close()
	return st.Wait(ctx, nil, nil)
}

// Delete kills what is left of the container and removes its cgroup.
func (c *container) Delete(context.Context) error { return DeleteCgroup(c.state.Cgroup) }

// DeleteCgroup kills everything in a container's cgroup and removes it; nothing is there to do when it does not exist.
func DeleteCgroup(path string) error {
	if path == "" { // a rootless container, which has none
		return nil
	}
	g, err := cgroup.Load(path)
	if err != nil {
		if api.KindOf(err) == api.NotFound {
			return nil
		}
		return err
	}
	if g.RemoveEmpty() { // nothing runs in it, as after every container that ended by itself
		return nil
	}
	if err := g.Kill(unix.SIGKILL); err != nil {
		return err
	}
	return g.Remove()
}
