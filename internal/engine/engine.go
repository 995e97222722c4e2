// Package engine is Brig's one API, and the only room where the others meet: it takes layers from the image store, a root from the snapshots, a
// link from the network, and has the runtime put a process behind a boundary. Every door calls it; it knows no door.
//
// # Who may do what when
//
// There is no daemon, so any number of engines work on one root and state at a time. A container has three locks, all flock(2):
//
//	ROOT/container/ID/lock     who changes the container: start, reap, remove
//	STATE/sandbox/ID/lock      who lives in the sandbox: the shim, and the clean-up that may take its place
//	ROOT/container/ID/copying  shared: who copies files into it while it runs, and ends when it does
//
// The first is taken before the others. What a dead process left is found by a sandbox folder whose lock nobody holds and whose process is dead:
// sweep reaps those. Making a sandbox folder and taking its lock happens under a shared lock of STATE/sandbox/.lock, which sweep takes for itself to
// tell a folder that is being made from one that was left.
//
// # What a container's state is
//
// It is derived, never stored: no sandbox folder: created, or exited when an exit.json tells of a run. A sandbox folder with a live process: running.
// Anything else: what died on the way, which the next reap turns into exited, or removes when --rm was asked.
package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"brig/api"
	"brig/internal/kernel/cgroup"
	"brig/internal/network"
	"brig/internal/runtime/ns"
	"brig/internal/store/content"
	"brig/internal/store/meta"
	"brig/internal/store/snapshot"
)

// Engine works on one root and one state folder. Making one does no input or output.
type Engine struct {
	root, state string
	version     string
	policy      string // file of the signature policy; empty: the user's, else the system's
	storeLimit  int64  // for what this engine brings in, bytes; 0: what the store has been set to

	meta     *meta.Store
	content  *content.Store
	snapshot *snapshot.Store
	network  *network.Manager
	driver   *ns.Driver
	cgroups  func() (*cgroup.Layout, error) // looked at once: for a list of containers
}

// New makes an engine. root holds what survives a reboot, state what does not; both are made when first needed.
func New(root, state, version string) *Engine {
	root, state = absolute(root), absolute(state)
	return &Engine{
		root: root, state: state, version: version,
		meta:     meta.Open(root),
		content:  content.Open(filepath.Join(root, "content")),
		snapshot: snapshot.Open(filepath.Join(root, "snapshot")).In(state),
		network:  network.Open(root, state),
		driver:   &ns.Driver{Program: sibling("brig-oci")},
		cgroups:  sync.OnceValues(cgroup.Detect),
	}
}

func absolute(p string) string {
	if a, err := filepath.Abs(p); err == nil {
		return a
	}
	return p
}

// sibling finds another of Brig's programs: beside this one, then in ../libexec/brig. Where it is missing, starting it says so.
func sibling(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	dir := filepath.Dir(self)
	beside := filepath.Join(dir, name)
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	if libexec := filepath.Join(filepath.Dir(dir), "libexec", "brig", name); exists(libexec) {
		return libexec
	}
	return beside
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// sandboxDir is the boot-lived folder of a container's sandbox.
func (e *Engine) sandboxDir(id string) string { return filepath.Join(e.state, "sandbox", id) }

// exitPath is where a container's last exit status is kept.
func (e *Engine) exitPath(id string) string { return filepath.Join(e.meta.Dir(id), "exit.json") }

// Container returns a container with its present state.
func (e *Engine) Inspect(_ context.Context, name string) (api.Container, error) {
	c, err := e.meta.Container(name)
	if err != nil {
		return c, err
	}
	e.fillState(&c)
	return c, nil
}

// List returns all containers, newest first, each with its present state.
func (e *Engine) List(ctx context.Context) ([]api.Container, error) {
	ids, err := e.meta.ContainerIDs()
	if err != nil {
		return nil, err
	}
	if len(ids) > listedAtOnce {
		defer debug.SetGCPercent(debug.SetGCPercent(400)) // all of it stays in use
	}
	list := make([]api.Container, len(ids))
	var next atomic.Int64
	var readers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 1+len(ids)/listedAtOnce) {
		readers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(ids)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				list[i] = e.listed(ids[i])
			}
		})
	}
	readers.Wait()
	list = slices.DeleteFunc(list, func(c api.Container) bool { return c.ID == "" })
	sortNewestFirst(list)
	return list, ctx.Err()
}

// listedAtOnce is how many containers make up for the start of a thread that reads them.
const listedAtOnce = 50

// listed is a container with its present state; one without an ID has been removed meanwhile.
func (e *Engine) listed(id string) api.Container {
	c, err := e.meta.ContainerByID(id)
	switch {
	case err == nil:
		e.fillState(&c)
	case errors.Is(err, api.NotFound):
		return api.Container{}
	default: // half made: rm -f of its ID still cleans it
		c = api.Container{ID: id, State: api.State{Status: api.StatusDead}}
	}
	return c
}
