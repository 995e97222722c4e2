package engine

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/base/record"
	"brig/internal/base/rootless"
	"brig/internal/base/undo"
	"brig/internal/network"
	"brig/internal/runtime"
	"brig/internal/runtime/ns"
	"brig/internal/runtime/oci"
	"brig/internal/runtime/shim"
	"brig/internal/store/garbage"
	"brig/internal/store/snapshot"
)

// Logs rotate by default, or they fill the disk.
const (
	logMaxSize  = 10 << 20 // bytes
	logMaxFiles = 3
)

// Run is create and start in one: the hot path. With a == nil the container runs detached. Where it was made and could not be started it stays, unless it is one
// with AutoRemove, in the state created: then the error comes with the container in that state.
func (e *Engine) Run(ctx context.Context, spec api.ContainerSpec, a *api.Attach, out api.Streams) (api.Container, *api.Session, error) {
	var c api.Container
	var l *launched
	err := e.untilThere(&c, func(b *bringing) (err error) {
		if c, err = e.newContainer(ctx, spec, out, b); err == nil {
			l, err = e.launch(ctx, &c, a, true, e.snapshot.With(b.lowers), way{})
		}
		if err == nil && b.hold != nil {
			_, _ = b.hold.WriteString(e.sandboxDir(c.ID)) // without it nobody is told why a read fails
		}
		return err
	})
	if err != nil {
		return c, nil, err
	}
	if a == nil {
		l.leave()
		short, end := context.WithCancel(ctx)
		end()
		e.sweep(short)
		return c, nil, nil
	}
	swept := make(chan struct{})
	running, ended := context.WithCancel(context.WithoutCancel(ctx))
	go func() { // in the shadow of the container's own time
		defer close(swept)
		e.sweep(running)
	}()
	s := e.session(l, *a)
	wait := s.Wait
	s.Wait = func(ctx context.Context) (api.Exit, error) {
		exit, err := wait(ctx)
		ended()
		select { // what it has begun it finishes; with nothing to sweep it has long been done
		case <-swept:
		case <-time.After(claimLimit):
		}
		return exit, err
	}
	return c, s, nil
}

// Start runs a container that was created or has ended.
func (e *Engine) Start(ctx context.Context, name string, a *api.Attach) (*api.Session, error) {
	return e.start(ctx, name, a, "")
}

// start is Start, from the file of a checkpoint unless that is empty.
func (e *Engine) start(ctx context.Context, name string, a *api.Attach, from string) (*api.Session, error) {
	if err := garbage.Open(e.root).CheckVersion(); err != nil {
		return nil, err
	}
	c, err := e.meta.Container(name)
	if err != nil {
		return nil, err
	}
	cl, err := e.claim(ctx, &c, false, true)
	if err != nil {
		return nil, err
	}
	defer cl.Release()
	if e.isInitialized(c.ID) {
		if from != "" {
			return nil, api.Errorf(api.Conflict, "container %s is initialized, and would begin anew: `brig stop %s` takes that back", c.Name, c.Name)
		}
		if e.outdated(&c) {
			if err := cl.Release(); err != nil {
				return nil, err
			}
			if err := e.unmake(ctx, &c); err != nil {
				return nil, err
			}
			return e.start(ctx, c.ID, a, "")
		}
		return e.startInitialized(ctx, &c, cl, a)
	}
	if e.isRunning(c.ID) {
		if err := e.notPaused(&c, "start it"); err != nil {
			return nil, err
		}
		if from != "" {
			return nil, api.Errorf(api.Conflict, "container %s is running: what was saved of it can go on when it has ended", c.Name)
		}
		if a == nil {
			return nil, nil // docker start of a running container is no error
		}
		return e.Attach(ctx, c.ID, *a)
	}
	if err := e.cleared(ctx, &c); err != nil {
		return nil, err
	}
	if err := e.begun(&c); err != nil {
		return nil, err
	}
	last := e.lastExit(c.ID)
	l, err := e.launch(ctx, &c, a, false, e.snapshot, way{from: from})
	if err != nil {
		if ctx.Err() == nil {
			_ = e.noteNotAgain(c.ID, last, err) // for why and inspect; the caller is told anyhow
		}
		return nil, err
	}
	if a == nil {
		l.leave()
		return nil, nil
	}
	return e.session(l, *a), nil
}

// cleared takes away what an earlier run of a container has left, reads its record again, and looks whether its image may still be run.
func (e *Engine) cleared(ctx context.Context, c *api.Container) (err error) {
	if err := e.reap(ctx, c.ID); err != nil {
		return err
	}
	_ = os.Remove(e.initializedPath(c.ID))            // it is seldom there
	if *c, err = e.meta.Container(c.ID); err != nil { // that was all of it
		return err
	}
	return e.stillTrusted(ctx, c)
}

// launched is a container that this process started, and owns until it leaves.
type launched struct {
	c      *api.Container
	owner  runtime.Owned
	stream runtime.Stream
	wants  runtime.Streams
}

// leave lets the container run on by itself.
func (l *launched) leave() { l.owner.Leave() }

// way is how a launched container begins; the zero value: its command is executed.
type way struct {
	from  string // the file of a checkpoint that it goes on from
	waits bool   // its process waits to be executed, and nobody attaches
}

// launch takes a container from its record to a running process. fresh: the record is not written yet either; else the caller holds the
// container's lock. layers is the store, perhaps with more than is in it: see [snapshot.Store.With] and [snapshot.Store.Over].
func (e *Engine) launch(ctx context.Context, c *api.Container, a *api.Attach, fresh bool, layers *snapshot.Store, w way) (l *launched, err error) {
	cl := lock.None()
	defer func() { cl.Release() }() // after what is undone
	var made, u undo.Stack          // the container, and what its run takes
	defer made.Run()
	recorded := false
	defer func() {
		if recorded && err != nil && stays(ctx, c, err) && e.noteFailure(c.ID, nil, err) == nil {
			made.Release()
			c.State = api.State{Status: api.StatusCreated}
			e.note(happened(c, "create"))
		}
	}()
	defer u.Run()

	join, err := e.withOthers(ctx, c)
	if err != nil {
		if fresh && stays(ctx, c, err) {
			recorded = e.down(ctx, c, &made) == nil
		}
		return nil, err
	}
	defer join.close()
	done := func() {}
	if fresh {
		if done, err = e.claimIDs(c, &made); err != nil {
			return nil, err
		}
		defer done()
	}
	dir, sb, link, err := e.openSandbox(ctx, c, join, &u)
	if err != nil {
		return nil, err
	}
	if fresh {
		if err := e.record(ctx, c, &made); err != nil {
			return nil, err
		}
		recorded = true
		done()
		cl, err = lock.Take(filepath.Join(e.meta.Dir(c.ID), "lock"))
		if errors.Is(err, os.ErrNotExist) {
			cl, recorded = lock.None(), false
			return nil, api.Errorf(api.Conflict, "container %s was removed by another process before it was started", c.Name)
		}
		if err != nil {
			cl = lock.None()
			return nil, err
		}
	}

	if !fresh {
		if err := e.copiesEnd(ctx, c.ID); err != nil { // else two have its root mounted
			return nil, err
		}
	}
	if fresh {
		made.Add(func() { e.snapshot.Remove(c.ID) })
	}
	bundle, err := e.bundle(c, a, join, layers.Of(c))
	if err != nil {
		return nil, err
	}
	bundle.Restore = w.from
	u.Add(func() { e.closeSandbox(ctx, c, sb) }) // first of all: a shim that still writes would be in the way of who removes
	lk, err := link()
	if err != nil {
		return nil, err
	}
	if err := e.writeFiles(c, dir, lk); err != nil {
		return nil, err
	}
	l = &launched{c: c, owner: sb.(runtime.Owned), wants: wanted(a)}
	began := "start"
	if w.waits {
		began = "init"
		if _, err = sb.Add(ctx, bundle); err == nil {
			err = sb.(runtime.Keeper).Keep(ctx, c.ID)
		}
	} else {
		l.stream, err = sb.(runtime.Runner).Run(ctx, bundle, l.wants)
	}
	if err != nil {
		return nil, err
	}
	if c.Spec.PidFile != "" {
		if err := e.notePID(c); err != nil {
			return nil, err
		}
	}
	u.Release()
	made.Release()
	// It runs. Where a volume's record cannot be written, the next container looks whether the volume is empty, and finds the files.
	_ = e.markVolumesUsed(c)
	if fresh {
		e.note(happened(c, "create"), happened(c, began))
	} else {
		e.note(happened(c, began))
	}
	return l, nil
}

// stays reports whether a new container that could not be started is kept, as docker keeps it. Not when the caller has given up, nor when its image was removed
// meanwhile: then it is made anew; and not when the disk is full or broken: then the same command succeeds as soon as it is well.
func stays(ctx context.Context, c *api.Container, err error) bool {
	if c.Spec.AutoRemove || ctx.Err() != nil || errors.Is(err, api.Corrupt) {
		return false
	}
	said := err.Error() // a keeper tells in words
	for _, e := range [...]unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS} {
		if strings.Contains(said, e.Error()) {
			return false
		}
	}
	return true
}

// down writes a new container down, for who does not start it now.
func (e *Engine) down(ctx context.Context, c *api.Container, u *undo.Stack) error {
	done, err := e.claimIDs(c, u)
	if err != nil {
		return err
	}
	defer done()
	return e.record(ctx, c, u)
}

// withOthers starts the containers that must run before this one, and opens the namespaces that it shares with others.
func (e *Engine) withOthers(ctx context.Context, c *api.Container) (*joined, error) {
	for _, id := range c.Spec.Requires {
		if e.isRunning(id) && !e.isInitialized(id) {
			continue
		}
		if _, err := e.Start(ctx, id, nil); err != nil {
			return nil, api.Errorf(api.KindOf(err), "container %s requires %.12s: %w", cmp.Or(c.Name, c.ID[:min(12, len(c.ID))]), id, err)
		}
	}
	return e.joinOthers(c)
}

// openSandbox makes the sandbox's folder, starts its shim and, meanwhile, attaches it to the network.
func (e *Engine) openSandbox(ctx context.Context, c *api.Container, join *joined, u *undo.Stack) (string, runtime.Sandbox, func() (*api.Link, error), error) {
	if err := e.makeState(); err != nil {
		return "", nil, nil, err
	}
	dir := e.sandboxDir(c.ID)
	making, err := lock.Shared(filepath.Join(e.state, "sandbox", ".lock"))
	if err != nil {
		return "", nil, nil, err
	}
	defer making.Release()
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return "", nil, nil, api.Errorf(api.Conflict, "container %s is being started or cleaned up by another process", c.Name)
		}
		return "", nil, nil, err
	}
	u.Add(func() {
		if !c.Spec.AutoRemove { // else it goes as if it had ended
			e.notStarted(c.ID)
		}
		lock.RemoveDir(dir)
	})

	attaching := false
	link := sync.OnceValues(func() (*api.Link, error) {
		attaching = true
		return e.attach(ctx, c, join)
	})
	if len(c.Spec.Network.Networks) == 0 {
		attached := make(chan struct{})
		attach := link
		go func() {
			attach() //nolint:errcheck // who asks for the link is told
			close(attached)
		}()
		link = func() (*api.Link, error) {
			<-attached
			return attach()
		}
	} // else when it is first asked for: others find the container by its name, which it may not have yet
	u.Add(func() {
		if len(c.Spec.Network.Networks) > 0 && !attaching {
			return
		}
		if l, err := link(); err == nil {
			closeLink(l)
			e.network.Detach(context.WithoutCancel(ctx), c.ID)
		}
	})
	spec := api.SandboxSpec{ID: c.ID, Dir: dir, Link: link}
	if rootless.Active() {
		if spec.Subtree, err = e.chooseGroup(c); err != nil {
			return "", nil, nil, err
		}
	}
	sb, err := e.driverOf(c).Open(ctx, spec)
	if err != nil {
		return "", nil, nil, err
	}
	u.Add(func() { e.closeSandbox(ctx, c, sb) })
	return dir, sb, link, nil
}

// closeSandbox ends a sandbox that came to nothing, with its shim. It may be called again.
func (e *Engine) closeSandbox(ctx context.Context, c *api.Container, sb runtime.Sandbox) {
	sb.Close(context.WithoutCancel(ctx))
	ns.DeleteCgroup(e.cgroupPath(c))
	_ = errors.Join(shim.RemoveRoot(e.sandboxDir(c.ID)), e.leavePod(c.ID, &c.Spec)) // who cleans up tries again, and tells
}

func closeLink(l *api.Link) {
	if l.NetNS != nil {
		l.NetNS.Close()
	}
	for _, f := range append(slices.Clone(l.Resolver), l.Held...) {
		f.Close()
	}
	if l.Bridges != nil {
		l.Bridges.Close()
	}
}

func wanted(a *api.Attach) runtime.Streams {
	if a == nil {
		return runtime.Streams{}
	}
	return runtime.Streams{Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr}
}

// bundle prepares the root and writes config.json.
func (e *Engine) bundle(c *api.Container, a *api.Attach, join *joined, layers *snapshot.Store) (runtime.Bundle, error) {
	dir := e.meta.Dir(c.ID)
	b := runtime.Bundle{
		ID: c.ID, Dir: dir,
		Stdin:     c.Spec.Interactive,
		StdinOnce: c.Spec.Interactive && a != nil && a.Stdin,
		ExitPath:  e.exitPath(c.ID),
		Durable:   !c.Spec.AutoRemove,
		Reap:      e.reapCommand(c.ID),
		Files:     c.Spec.Files,
	}
	var err error
	if b.Log, err = logSpec(dir, c.ID, c.Name, c.Spec.Log); err != nil {
		return b, err
	}
	if b.Root, err = e.rootOf(c, layers); err != nil {
		return b, err
	}
	if c.Spec.UserNS.Mode != "" && !rootless.Active() {
		b.Root[0].Options = append(b.Root[0].Options, oci.OptionIDMapRoot)
	}
	spec, err := e.ociSpec(c, join)
	if err != nil {
		return b, err
	}
	if a != nil && c.Spec.TTY && a.Size.Rows > 0 {
		spec.Process.ConsoleSize = boxOf(a.Size)
	}
	data, err := record.Marshal(spec)
	if err != nil {
		return b, err
	}
	if err := os.Mkdir(filepath.Join(dir, "log"), 0o700); err != nil && !os.IsExist(err) {
		return b, err
	}
	if err := atomicfile.Write(filepath.Join(dir, "config.json"), data, 0o600, atomicfile.Volatile); err != nil {
		return b, err
	}
	b.Health, err = e.healthSpec(c)
	return b, err
}

// writeFiles writes what the container sees of its network, and the record of its link.
func (e *Engine) writeFiles(c *api.Container, sandbox string, l *api.Link) error {
	dir := e.meta.Dir(c.ID)
	link, err := record.Marshal(l)
	if err != nil {
		return err
	}
	if strings.HasPrefix(l.Network, api.NamespaceContainer) { // it sees the other's files
		return writePlain(filepath.Join(sandbox, linkName), link, 0o600)
	}
	hosts, err := network.Hosts(l, hostname(c), c.Spec.Network.AddHosts)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		data []byte
		perm os.FileMode
	}{
		{filepath.Join(dir, "hosts"), hosts, 0o644},
		{filepath.Join(dir, "resolv.conf"), network.ResolvConf(l), 0o644},
		{filepath.Join(dir, "hostname"), []byte(hostname(c) + "\n"), 0o644},
		{filepath.Join(sandbox, linkName), link, 0o600},
	} {
		// Not by rename: a container that runs has these very files mounted. Mode whatever the umask: they are the container's.
		if err := writePlain(f.path, f.data, f.perm); err != nil {
			return err
		}
	}
	return giveFiles(c, filepath.Join(dir, "hosts"), filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hostname"))
}

func writePlain(path string, data []byte, perm os.FileMode) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, uint32(perm))
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	_, err = unix.Write(fd, data)
	if err == nil {
		err = unix.Fchmod(fd, uint32(perm))
	}
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// reapCommand is what the shim executes when the container has ended and nobody is there to clean up.
func (e *Engine) reapCommand(id string) []string {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	return []string{self, "--root", e.root, "--state", e.state, "reap", id}
}
