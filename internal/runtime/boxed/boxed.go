// Package boxed drives the levels of isolation whose boundary is a program: the Sentry of gVisor, or the monitor of a virtual machine.
//
// That program, the level's monitor, is the first process of a container of package ns, the box. So the keeper and the control group, the network namespace and the
// limits, the log and the exit status are what they are at level container, and the monitor is itself locked in. The root of the box is empty but for what the
// monitor needs, and RootPath: the user's whole tree, which the host writes into and reads from as it does at level container. What the user's process sees of
// it is the level's work, and so are its streams, which the monitor hands on, its signals, and the processes that join it later.
//
// It stands on package ns, on purpose: a box is a container.
package boxed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/record"
	"brig/internal/kernel/proc"
	"brig/internal/runtime"
	"brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/config"
	"brig/internal/runtime/ns"
	"brig/internal/runtime/oci"
)

// What the monitor knows too.
const (
	ProgramPath = wire.ProgramPath
	ConfigPath  = wire.ConfigPath
	RootPath    = wire.RootPath
	RunDir      = wire.RunDir
	ArgRun      = wire.ArgRun
	ArgExec     = wire.ArgExec

	CheckpointName = wire.CheckpointName
)

// Exec is one more process for what is in a box.
type Exec = wire.Exec

// Level is what one level makes of a box.
type Level interface {
	Name() string
	// Program is the path, on the host, of the monitor.
	Program() string
	// Box completes the configuration of the box for the user's: capabilities, devices, further mounts.
	Box(user, box *specs.Spec) error
}

// Joined is a level whose monitor takes further processes at wire.JoinSocket.
type Joined interface {
	// Joins says so.
	Joins()
}

// Saver is a level whose monitor can save the state of what runs in the box: wire.AskCheckpoint.
type Saver interface {
	// Saves says so.
	Saves()
}

// Teller is a level whose monitor tells the processes inside: wire.AskProcesses.
type Teller interface {
	// Tells says so.
	Tells()
}

// Keeper is a level whose machine keeps for a while what it has seen of files: wire.AskForget.
type Keeper interface {
	// Keeps says so.
	Keeps()
}

// Sized is a level that gives what runs some of its limits itself, at its start.
type Sized interface {
	// OfBox is what of changed limits is the box's.
	OfBox(r *specs.LinuxResources) *specs.LinuxResources
}

// Driver makes sandboxes that are boxes.
type Driver struct {
	NS    ns.Driver
	Level Level
}

var (
	_ runtime.Driver   = (*Driver)(nil)
	_ runtime.Owned    = (*sandbox)(nil)
	_ runtime.Runner   = (*sandbox)(nil)
	_ runtime.Attacher = (*container)(nil)
	_ runtime.Pauser   = (*container)(nil)
	_ runtime.Lister   = (*container)(nil)
	_ runtime.Updater  = (*container)(nil)
	_ runtime.Statser  = (*container)(nil)

	_ runtime.Checkpointer = (*container)(nil)
	_ runtime.Inner        = (*container)(nil)
	_ runtime.Forgetter    = (*container)(nil)
)

// Name is the level's name.
func (d *Driver) Name() string { return d.Level.Name() }

// Needs is what the box needs.
func (d *Driver) Needs() runtime.Needs { return d.NS.Needs() }

// Open opens the box.
func (d *Driver) Open(ctx context.Context, spec api.SandboxSpec) (runtime.Sandbox, error) {
	return d.around(spec.Dir)(d.NS.Open(ctx, spec))
}

// Find takes up a box that another process opened.
func (d *Driver) Find(ctx context.Context, spec api.SandboxSpec) (runtime.Sandbox, error) {
	return d.around(spec.Dir)(d.NS.Find(ctx, spec))
}

func (d *Driver) around(dir string) func(runtime.Sandbox, error) (runtime.Sandbox, error) {
	return func(s runtime.Sandbox, err error) (runtime.Sandbox, error) {
		if err != nil {
			return nil, err
		}
		return &sandbox{opened: s.(opened), level: d.Level, dir: dir, runtime: d.NS.Program}, nil
	}
}

// opened is what a sandbox of package ns is.
type opened interface {
	runtime.Sandbox
	runtime.Owned
	runtime.Runner
	runtime.Keeper
}

type sandbox struct {
	opened
	level   Level
	dir     string
	runtime string // path of brig-oci
}

// join is what is executed in the box to run one more process inside.
func (s *sandbox) join() string {
	if _, ok := s.level.(Joined); ok {
		return wire.JoinPath
	}
	return ProgramPath
}

func (s *sandbox) Add(ctx context.Context, b runtime.Bundle) (runtime.Container, error) {
	b, err := s.box(b)
	if err != nil {
		return nil, err
	}
	c, err := s.opened.Add(ctx, b)
	if err != nil {
		return nil, err
	}
	return &container{c.(live), s.join(), s.level}, nil
}

func (s *sandbox) Run(ctx context.Context, b runtime.Bundle, want runtime.Streams) (runtime.Stream, error) {
	b, err := s.box(b)
	if err != nil {
		return nil, err
	}
	return s.opened.Run(ctx, b, want)
}

func (s *sandbox) Find(ctx context.Context, id string) (runtime.Container, error) {
	c, err := s.opened.Find(ctx, id)
	if err != nil {
		return nil, err
	}
	return &container{c.(live), s.join(), s.level}, nil
}

// box writes the bundle of the box that the user's is put into.
func (s *sandbox) box(b runtime.Bundle) (runtime.Bundle, error) {
	if len(b.Files) > 0 {
		return b, errFiles()
	}
	data, err := os.ReadFile(filepath.Join(b.Dir, "config.json"))
	if err != nil {
		return b, err
	}
	user, err := config.Decode(data)
	if err != nil {
		return b, api.Errorf(api.InvalidArgument, "bundle %s: %w", b.Dir, err)
	}
	dir := filepath.Join(s.dir, wire.BundleName)
	box, err := around(user, &b, s.level)
	if err != nil {
		return b, err
	}
	if s.join() == wire.JoinPath {
		box.Mounts = append(box.Mounts, specs.Mount{Type: "bind", Source: s.runtime, Destination: wire.JoinPath, Options: readOnly()})
	}
	if data, err = record.Marshal(box); err != nil {
		return b, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return b, err
	}
	if err := atomicfile.Write(filepath.Join(dir, "config.json"), data, 0o600, atomicfile.Volatile); err != nil {
		return b, err
	}
	b.Dir, b.Root = dir, []api.Mount{{Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755", "size=16m"}}}
	if b.Health.Process != nil {
		x, err := execIn(s.join(), runtime.Exec{Process: *b.Health.Process, User: b.Health.User})
		if err != nil {
			return b, err
		}
		b.Health.Process, b.Health.User = &x.Process, x.User
	}
	return b, nil
}

// around is the configuration of a box, with the user's tree in it.
func around(user *specs.Spec, b *runtime.Bundle, level Level) (*specs.Spec, error) {
	box := &specs.Spec{
		Version: user.Version, Hostname: user.Hostname, Domainname: user.Domainname,
		Root:        &specs.Root{Path: "rootfs"},
		Annotations: map[string]string{oci.AnnotationLookUp: oci.LookUpValue(RootPath, user.Process)}, // as at level container a command that is not there is no run
		Process: &specs.Process{
			Terminal: user.Process.Terminal, ConsoleSize: user.Process.ConsoleSize, OOMScoreAdj: user.Process.OOMScoreAdj,
			Args: []string{ProgramPath, ArgRun}, Env: environ(), Cwd: "/", NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=1m"}},
			{Type: "devpts", Source: "devpts", Destination: "/dev/pts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: RunDir, Options: []string{"nosuid", "nodev", "noexec", "mode=700", "size=16m"}},
			{Type: "bind", Source: level.Program(), Destination: ProgramPath, Options: readOnly()},
			{Type: "bind", Source: filepath.Join(b.Dir, "config.json"), Destination: ConfigPath, Options: readOnly()},
		},
		Linux: &specs.Linux{CgroupsPath: user.Linux.CgroupsPath, Resources: user.Linux.Resources, Namespaces: namespaces(user),
			// Processes in the box are root of the host's user namespace, to whom files of the kernel open without any capability.
			ReadonlyPaths: []string{
				"/proc/sys/kernel", "/proc/sys/vm", "/proc/sys/fs", "/proc/sys/dev", "/proc/sys/user", "/proc/sys/abi", "/proc/sys/debug", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs",
			},
			MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/proc/scsi", "/proc/latency_stats", "/proc/sched_debug"},
		},
	}
	if b.Restore != "" {
		box.Mounts = append(box.Mounts, specs.Mount{Type: "bind", Source: b.Restore, Destination: wire.RestoreDir + "/" + wire.CheckpointName, Options: append(readOnly(), "noexec")})
	}
	if who, _, _ := strings.Cut(user.Annotations[oci.AnnotationUser], ","); who != "" {
		box.Annotations[oci.AnnotationOwner] = who
	}
	for i := range b.Root {
		m := &b.Root[i]
		options := slices.Clip(m.Options)
		if user.Root.Readonly { // for who copies in, and for a monitor that was taken over
			options = append(options, "ro")
		}
		box.Mounts = append(box.Mounts, specs.Mount{Type: m.Type, Source: m.Source, Destination: RootPath, Options: options})
	}
	for _, m := range user.Mounts {
		if !wire.Bound(&m) {
			if inOther(&m, user.Mounts) {
				continue
			}
			m = specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: m.Destination, Options: []string{oci.OptionPlace}} // the level cannot make it where the tree is read-only, and what is copied in would be beneath it
		}
		m.Options = append(slices.Clip(m.Options), oci.OptionBeneath+RootPath)
		box.Mounts = append(box.Mounts, m)
	}
	if err := inPod(user, box); err != nil {
		return nil, err
	}
	return box, level.Box(user, box)
}

// inOther reports whether a mount's place is in what the level mounts, too.
func inOther(m *specs.Mount, all []specs.Mount) bool {
	return slices.ContainsFunc(all, func(o specs.Mount) bool {
		return !wire.Bound(&o) && strings.HasPrefix(m.Destination, strings.TrimRight(o.Destination, "/")+"/")
	})
}

// readOnly are the options of what the host shows the monitor.
func readOnly() []string { return []string{"bind", "ro", "nosuid", "nodev", "rprivate"} }

// namespaces are a box's own, but for the network's, which is where the user's container is to be.
func namespaces(user *specs.Spec) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}}
	for _, n := range user.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			list = append(list, n)
		}
	}
	return list
}

// environ is a monitor's environment: nothing of the user's.
func environ() []string { return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"} }

// live is what a container of package ns can do.
type live interface {
	runtime.Container
	runtime.Attacher
	runtime.Pauser
	runtime.Lister
	runtime.Updater
	runtime.Statser
	runtime.Starter
}

type container struct {
	live
	join  string
	level Level
}

// Checkpoint writes the state of what runs in the box to w.
func (c *container) Checkpoint(ctx context.Context, w io.Writer, saved func() error) error {
	if _, ok := c.level.(Saver); !ok {
		return api.Errorf(api.Unsupported, "isolation level %s cannot save what runs: level gvisor can", c.level.Name())
	}
	st, err := c.ask(ctx, wire.AskCheckpoint)
	if err != nil {
		return err
	}
	defer st.Close()
	chunks := &wire.Chunks{To: w, Whole: saved, Most: mostState(), Over: func() { _ = st.CloseInput() }} // it may have been killed
	said := bounded{most: mostSaid}
	exit, err := st.Wait(ctx, chunks, &said)
	cut := chunks.Close()
	switch {
	case !errors.Is(cut, wire.ErrCut):
		return cut
	case err != nil:
		return err
	case len(said.b) > 0:
		return api.Errorf(api.Unavailable, "%s", strings.TrimPrefix(said.words(), "brig: "))
	}
	return api.Errorf(api.Unavailable, "%w (exit status %d)", cut, exit.Code)
}

// mostState is more than the state of what runs in this machine's memory can be, in bytes.
func mostState() int64 {
	var s syscall.Sysinfo_t
	_ = syscall.Sysinfo(&s) // a valid pointer: it cannot fail
	return int64(s.Totalram)*int64(s.Unit) + 1<<30
}

// What a monitor tells of the processes inside, and says of what went wrong, is no more than this: who is inside may have made it up.
const (
	mostProcesses = 32768
	mostTold      = 8 << 20 // bytes
	mostSaid      = 4 << 10 // bytes
)

// listLimit is how long telling them may take: who is inside may not answer.
const listLimit = 20 * time.Second

// Processes are those inside, as the monitor tells them, which may be under who is inside.
func (c *container) Processes(ctx context.Context) (list []proc.Process, err error) {
	if _, ok := c.level.(Teller); !ok {
		return nil, api.Errorf(api.Unsupported, "isolation level %s does not tell the processes inside", c.level.Name())
	}
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	st, err := c.ask(ctx, wire.AskProcesses)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	told, said := bounded{most: mostTold}, bounded{most: mostSaid}
	exit, err := st.Wait(ctx, &told, &said)
	if err != nil {
		return nil, err
	}
	if exit.Code == 0 {
		if list, err = readProcesses(told.b); err == nil {
			return list, nil
		}
	}
	return nil, api.Errorf(api.Unavailable, "the processes inside cannot be told: %s (exit status %d)", said.words(), exit.Code)
}

// forgetLimit is how long those inside may take to look at their files anew: who has changed them waits for it.
const forgetLimit = 5 * time.Second

// Forget has those inside look at their files anew.
func (c *container) Forget(ctx context.Context) error {
	if _, ok := c.level.(Keeper); !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, forgetLimit)
	defer cancel()
	st, err := c.ask(ctx, wire.AskForget)
	if err != nil {
		return err
	}
	defer st.Close()
	said := bounded{most: mostSaid}
	exit, err := st.Wait(ctx, io.Discard, &said)
	if err == nil && exit.Code != 0 {
		err = api.Errorf(api.Unavailable, "the machine does not look at its files anew: %s (exit status %d)", said.words(), exit.Code)
	}
	return err
}

// readProcesses reads a list as far as it may be long.
func readProcesses(b []byte) (list []proc.Process, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, errors.Join(errors.New("it is no list"), err)
	}
	for d.More() {
		if len(list) == mostProcesses {
			return nil, fmt.Errorf("there are more than %d", mostProcesses)
		}
		var p proc.Process
		if err := d.Decode(&p); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	_, err = d.Token()
	return list, err
}

// bounded keeps what is written to it, up to so many bytes, and drops the rest.
type bounded struct {
	b    []byte
	most int
}

func (w *bounded) Write(b []byte) (int, error) {
	w.b = append(w.b, b[:min(len(b), w.most-len(w.b))]...)
	return len(b), nil
}

// words is what was written without what a terminal would obey.
func (w *bounded) words() string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, string(w.b)))
}

// ask asks the monitor for something else than a process.
func (c *container) ask(ctx context.Context, what string) (runtime.Stream, error) {
	data, err := record.Marshal(Exec{Ask: what})
	if err != nil {
		return nil, err
	}
	return c.live.ExecAttached(ctx, within(c.join, data), &runtime.Streams{Stdin: true, Stdout: true, Stderr: true})
}

// countLimit is how long counting the processes inside may take: statistics wait for it.
const countLimit = 2 * time.Second

// Stats are those of the box, with the number of processes inside where the level tells it.
func (c *container) Stats() (api.Usage, error) {
	u, err := c.live.Stats()
	if _, ok := c.level.(Teller); !ok || err != nil {
		return u, err
	}
	if paused, err := c.Paused(); err != nil || paused {
		return u, nil //nolint:nilerr // then it is the number of the box
	}
	ctx, cancel := context.WithTimeout(context.Background(), countLimit)
	defer cancel()
	if list, err := c.Processes(ctx); err == nil {
		u.Pids = uint64(len(list))
		for i := range list {
			u.Pids += uint64(max(list[i].Threads-1, 0)) // docker counts threads
		}
	}
	return u, nil
}

// Update changes the limits of the box.
func (c *container) Update(ctx context.Context, r *specs.LinuxResources) error {
	if l, ok := c.level.(Sized); ok {
		r = l.OfBox(r)
	}
	return c.live.Update(ctx, r)
}

// Signal refuses the one that no monitor can hand on.
func (c *container) Signal(ctx context.Context, sig syscall.Signal) error {
	if sig == syscall.SIGSTOP {
		return api.Errorf(api.Unsupported, "SIGSTOP would stop what keeps the container, and not the container, at this level of isolation: use `brig pause`")
	}
	return c.live.Signal(ctx, sig)
}

func errFiles() error {
	return api.Errorf(api.Unsupported, "--preserve-fds: open files of the host's cannot be handed to a container of this level of isolation, which has a kernel of its own")
}

// execIn is the process in the box that runs x inside: program's.
func execIn(program string, x runtime.Exec) (runtime.Exec, error) {
	if len(x.Files) > 0 {
		return x, errFiles()
	}
	if x.Tools != "" {
		return x, api.Errorf(api.Unsupported, "tools of the host's cannot be brought into a container of this level of isolation")
	}
	data, err := record.Marshal(Exec{Process: &x.Process, User: x.User})
	if err != nil {
		return x, err
	}
	if len(data) > wire.MaxExec {
		return x, &api.Error{Kind: api.CommandNotRunnable, Msg: "exec " + x.Process.Args[0], Err: syscall.E2BIG}
	}
	in := within(program, data)
	in.Process.Terminal, in.Process.ConsoleSize = x.Process.Terminal, x.Process.ConsoleSize
	return in, nil
}

// within is the process in the box that asks the monitor for what data, an Exec as JSON, says.
func within(program string, data []byte) runtime.Exec {
	return runtime.Exec{Process: api.Process{
		NoNewPrivileges: true, Args: []string{program, ArgExec}, Env: append(environ(), wire.ExecEnviron(data)...), Cwd: "/",
	}}
}

func (c *container) ExecAttached(ctx context.Context, x runtime.Exec, s *runtime.Streams) (runtime.Stream, error) {
	x, err := execIn(c.join, x)
	if err != nil {
		return nil, err
	}
	return c.live.ExecAttached(ctx, x, s)
}

func (c *container) Exec(ctx context.Context, p api.Process, io api.Stdio) (api.Exit, error) {
	x, err := execIn(c.join, runtime.Exec{Process: p})
	if err != nil {
		return api.Exit{}, err
	}
	return c.live.Exec(ctx, x.Process, io)
}
