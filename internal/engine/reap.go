package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/base/record"
	"brig/internal/base/rootless"
	"brig/internal/runtime/ns"
	"brig/internal/runtime/shim"
	"brig/internal/store/snapshot/tree"
)

// tidy cleans up after a container that has ended: cgroup, network, sandbox folder, and with --rm the container itself. It may be called any
// number of times, by anybody, also when a former call was cut off. A container that runs, or is about to, is left alone.
func (e *Engine) tidy(ctx context.Context, id string) error {
	l, err := e.lockContainer(id)
	if err != nil {
		return err
	}
	defer l.Release()
	if e.isRunning(id) || e.waitedFor(id) {
		return nil
	}
	if err := e.reap(ctx, id); !errors.Is(err, errNotKept) {
		return err
	}
	return nil
}

// reapToTrash is tidy, but what has to be removed file by file is only moved out of sight, for the shim to remove: the user need not wait for it.
func (e *Engine) reapToTrash(ctx context.Context, c *api.Container) ([]string, error) {
	l, err := e.lockContainer(c.ID)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	if e.isRunning(c.ID) { // another process was quicker, and has started it again
		return nil, nil
	}
	t := new(trash)
	for _, dir := range []string{e.rootTrash(), e.stateTrash()} {
		if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
			return nil, err
		}
	}
	if err = e.reapKnown(ctx, c, c.ID, true, t); errors.Is(err, errNotKept) {
		err = nil
	}
	return t.paths, err
}

// trash collects folders that nothing knows any more.
type trash struct{ paths []string }

func (e *Engine) rootTrash() string  { return filepath.Join(e.root, "trash") }
func (e *Engine) stateTrash() string { return filepath.Join(e.state, "trash") }

// place names one more folder below dir for what of id is thrown away.
func (t *trash) place(dir, id, what string) string {
	p := filepath.Join(dir, id+"."+what)
	t.paths = append(t.paths, p)
	return p
}

// emptyTrash removes what shims that were killed have left.
func (e *Engine) emptyTrash() {
	for _, dir := range []string{e.rootTrash(), e.stateTrash()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			tree.Remove(filepath.Join(dir, entry.Name()))
		}
	}
}

// errNotKept says that all is cleaned up but the sandbox's folder, which tells the exit status as long as the disk has no room for it.
var errNotKept = errors.New("the exit status of the last run cannot be kept")

// lockContainer takes a container's own lock; a container that has no record any more needs none.
func (e *Engine) lockContainer(id string) (*lock.Lock, error) {
	l, err := lock.Take(filepath.Join(e.meta.Dir(id), "lock"))
	if errors.Is(err, os.ErrNotExist) {
		return lock.None(), nil
	}
	return l, err
}

// claimLimit is how long a command waits for another that starts or cleans up the same container: usually milliseconds, but the other may
// have been stopped, or may be waiting for who reads its output.
const claimLimit = 2 * time.Second

// claim takes a container's lock when nobody is just starting it or cleaning it up. instead: who waits to start
// it again is told not to. Who still is after claimLimit does not get on: what has
// ended may be cleaned up in its stead, what has not started only by force.
func (e *Engine) claim(ctx context.Context, c *api.Container, force, instead bool) (*lock.Lock, error) {
	for deadline := time.Now().Add(claimLimit); ; {
		l, err := e.lockContainer(c.ID)
		waits := e.waitedFor(c.ID)
		if err != nil || e.isRunning(c.ID) || !e.occupied(c.ID) && !waits {
			return l, err
		}
		if waits && instead {
			e.endWaiting(c.ID)
		}
		if time.Now().After(deadline) {
			if _, err := shim.ReadState(e.sandboxDir(c.ID)); err == nil || force {
				return l, nil
			}
			l.Release()
			return nil, api.Errorf(api.Conflict, "container %s is being started by another process: try again, or remove it with `brig rm -f %s`", c.Name, c.Name)
		}
		l.Release()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// freeLock is for who removes the container whatever it does: who starts it has its lock meanwhile, and may wait for ever for a process that hangs. Where the lock is held after
// claimLimit, the container's first process is killed, or, where there is none or that did not help, its keeper. Then the start fails, and undoes what it has done.
func (e *Engine) freeLock(ctx context.Context, c *api.Container) error {
	for deadline := time.Now().Add(claimLimit); lock.Held(filepath.Join(e.meta.Dir(c.ID), "lock")); {
		if time.Now().After(deadline) {
			deadline = time.Now().Add(claimLimit)
			if ct, err := e.existing(ctx, c); err == nil {
				if err := e.markStopped(c); err != nil { // or it comes back while it is being removed
					return err
				}
				_ = ct.Signal(ctx, unix.SIGKILL) // it may have ended
				e.thaw(c)
			} else {
				_ = shim.Kill(e.sandboxDir(c.ID)) // there may be none: then somebody cleans up
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// reap is tidy for who holds the container's lock.
func (e *Engine) reap(ctx context.Context, id string) error {
	c, err := e.meta.Container(id)
	return e.reapKnown(ctx, &c, id, err == nil && c.State.Status != api.StatusDead, nil)
}

// reapKnown is reap for who has the record, or knows that there is none.
func (e *Engine) reapKnown(ctx context.Context, c *api.Container, id string, known bool, t *trash) (err error) {
	dir := e.sandboxDir(id)
	if !exists(dir) && !(known && c.Spec.AutoRemove && e.wasStarted(id)) {
		return nil
	}
	group := e.cgroupPath(&api.Container{ID: id, Spec: c.Spec})
	if state, err := shim.ReadState(dir); err == nil && state.Cgroup != "" {
		group = state.Cgroup // also of one whose record is damaged
	}
	if err := ns.DeleteCgroup(group); err != nil {
		return err
	}
	if err := shim.RemoveRoot(dir); err != nil {
		return err
	}
	left := e.leavePod(id, &c.Spec) // told when the rest is done
	if c.Spec.Pod != "" {
		removeParent(group)
	}
	if err := e.network.Detach(ctx, id); err != nil {
		return err
	}
	var told []api.Event
	tell := func() {
		if state, serr := shim.ReadState(dir); known && serr == nil && state.Pid > 0 && !state.Waits {
			exit := &lostExit
			if last := e.lastExit(id); tellsOf(last, state) {
				exit = &last.Exit
			}
			told = ended(c, exit)
		}
	}
	if !known || c.Spec.AutoRemove && !e.restarting(id) {
		tell() // while there is a record
		if err = e.removeAll(c, id, true, t); err == nil && known {
			told = append(told, happened(c, "destroy"))
		}
	} else {
		err = e.keepExit(id, dir) // last: on a full disk all the rest is free already
		tell()                    // what is kept
	}
	if len(told) > 0 {
		e.note(told...)
	}
	if err = errors.Join(err, left); err != nil {
		return err
	}
	if t != nil {
		if err := os.Rename(dir, t.place(e.stateTrash(), id, "sandbox")); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	return lock.RemoveDir(dir)
}

// notStarted takes back that the container was started, unless it has ended before.
func (e *Engine) notStarted(id string) {
	if !exists(e.exitPath(id)) {
		_ = os.Remove(filepath.Join(e.meta.Dir(id), "config.json")) // it may be there or not
	}
}

// wasStarted reports whether the container ever got as far as its bundle, and was to execute its command.
func (e *Engine) wasStarted(id string) bool {
	return exists(filepath.Join(e.meta.Dir(id), "config.json")) && (!exists(e.initializedPath(id)) || exists(e.exitPath(id)))
}

// keepExit writes the exit status down where the shim could not, or that it is lost where the shim was killed.
func (e *Engine) keepExit(id, dir string) error {
	s, err := shim.ReadState(dir)
	if err != nil || s.Waits { // no command was executed
		e.notStarted(id)
		_ = os.Remove(e.initializedPath(id)) // it may be there or not
		return nil                           //nolint:nilerr // there was no run
	}
	if exists(e.exitPath(id)) { // of this run; or of the one before, where the shim was killed while the command was about to be executed
		return nil
	}
	// A shim that lives after all may write it down meanwhile, and knows better.
	exit := readExit(filepath.Join(dir, shim.ExitName))
	if exit == nil {
		exit = &shim.ExitRecord{Exit: lostExit, StartedAt: s.StartedAt}
		exit.Exit.At = time.Now().UTC()
	}
	data, err := record.Marshal(exit)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteNew(e.exitPath(id), data, 0o600, atomicfile.Durable); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", errNotKept, err)
	}
	return nil
}

// removeAll removes what a container keeps on the disk.
func (e *Engine) removeAll(c *api.Container, id string, volumes bool, t *trash) error {
	if t == nil || c.Spec.StorageSize > 0 { // a folder can be moved while it is written to
		_ = e.copiesEnd(context.Background(), id) // who writes nevertheless writes to nothing
	}
	if t != nil {
		if err := e.snapshot.Discard(id, t.place(e.rootTrash(), id, "snapshot")); err != nil {
			return err
		}
	} else if err := e.snapshot.Remove(id); err != nil {
		return err
	}
	if volumes && c.ID != "" {
		if err := e.removeAnonymous(c); err != nil {
			return err
		}
	}
	if err := e.releaseIDs(c); err != nil {
		return err
	}
	if t != nil && c.ID != "" {
		return e.meta.Discard(id, c.Name, t.place(e.rootTrash(), id, "container"))
	}
	return e.meta.RemoveContainer(id)
}

// sweptAlways is how many sandboxes a sweep looks at however short its time: some tenths of a millisecond.
const sweptAlways = 16

// sweep reaps what processes that died have left. It looks at the sandboxes only, of which there is one for each container that runs; the
// first time after a boot also at the records, for what --rm would have removed. When ctx has ended it looks at sweptAlways at most, and since it begins anywhere
// all get their turn.
func (e *Engine) sweep(ctx context.Context) {
	parent := filepath.Join(e.state, "sandbox")
	if swept := filepath.Join(parent, ".swept"); !exists(swept) && e.sweepRecords(context.WithoutCancel(ctx)) == nil {
		_ = writePlain(swept, nil, 0o600) // without it the next command looks again
	}
	d, err := os.Open(parent)
	if err != nil {
		return
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return
	}
	e.emptyTrash()
	e.sweepWaiting()
	e.sweepPods(context.WithoutCancel(ctx))
	e.sweepSecrets()
	begin := rand.IntN(len(names) + 1)
	for i, id := range slices.Concat(names[begin:], names[:begin]) {
		if i >= sweptAlways && ctx.Err() != nil {
			return
		}
		if strings.HasPrefix(id, ".") {
			continue
		}
		dir := filepath.Join(parent, id)
		if lock.Held(filepath.Join(dir, shim.LockName)) {
			continue
		}
		if s, err := shim.ReadState(dir); err == nil && running(s) {
			continue // its shim was killed, it runs on
		}
		e.sweepOne(context.WithoutCancel(ctx), id, dir)
	}
}

// isDraft reports whether a file is what package atomicfile has not renamed yet.
func isDraft(entry os.DirEntry) bool { return strings.Contains(entry.Name(), ".tmp") }

// removeDrafts removes what writers that were killed have left in a folder, for who holds the lock that they had.
func removeDrafts(dir string, draft func(os.DirEntry) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if draft(entry) {
			if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// sweepRecords removes the containers with --rm whose sandbox went with the last boot.
func (e *Engine) sweepRecords(ctx context.Context) error {
	ids, err := e.meta.ContainerIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c, err := e.meta.Container(id)
		if err == nil && c.State.Status == api.StatusDead && e.meta.Passing(id) { // a power cut has left half of it
			_ = e.Remove(ctx, id, true, true) // else it is listed as dead
			continue
		}
		if err != nil || !c.Spec.AutoRemove || exists(e.sandboxDir(id)) {
			continue
		}
		if err := e.tidy(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// sweepOne reaps one sandbox unless somebody is making it.
func (e *Engine) sweepOne(ctx context.Context, id, dir string) {
	making, err := lock.Try(filepath.Join(e.state, "sandbox", ".lock"))
	if err != nil {
		return // somebody makes a sandbox at this moment: the next sweep will find it
	}
	l, err := lock.Try(filepath.Join(dir, shim.LockName))
	making.Release()
	if err != nil {
		return
	}
	if c, err := e.meta.Container(id); err == nil && restartable(&c) {
		l.Release()
		e.reapBeside(id)
		return
	}
	defer l.Release()
	e.tidy(ctx, id)
}

// reapBeside has a process of its own clean up, and start the container again where its policy says so.
func (e *Engine) reapBeside(id string) {
	argv := e.reapCommand(id)
	if len(argv) == 0 {
		return
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return // the next command finds it
	}
	defer null.Close()
	attr := &syscall.ProcAttr{Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Sys: &syscall.SysProcAttr{Setsid: true}}
	attr.Files = []uintptr{null.Fd(), null.Fd(), null.Fd()}
	attr.Env = append(attr.Env, rootless.Environ(len(attr.Files))...)
	if rootless.User() { // it becomes a member of its own: see Reap
		attr.Files = append(attr.Files, uintptr(rootless.Membership()))
	}
	_, _ = syscall.ForkExec(argv[0], argv, attr)
}
