package engine

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/runtime"
	"brig/internal/runtime/shim"
	"brig/internal/store/snapshot"
)

// copyingName is a lock in a container's folder that is shared by who writes to files of it while it runs: see [Engine.copiesEnd].
const copyingName = "copying"

// CopyFiles copies files from one place to another; a place's container is a name here. Nobody starts or removes a container meanwhile that does not run. One that runs may
// be ended and removed: then what is copied into it ends with an error, and what is copied from it when it is removed.
func (e *Engine) CopyFiles(ctx context.Context, from, to api.CopyPlace, followLink, archive bool, s api.Streams) error {
	var locks []*lock.Lock
	release := func() {
		for _, l := range locks {
			l.Release()
		}
		locks = nil
	}
	defer release()
	in, err := e.aside(ctx, &from, &to, &s)
	if err != nil {
		return err
	}
	if in != nil {
		defer in.Close()
		s.Stdin = in
	}
	for i, p := range []*api.CopyPlace{&from, &to} {
		if p.Container == "" {
			continue
		}
		if i == 1 && p.Container != "" && from.Container != "" {
			if c, err := e.meta.Container(p.Container); err == nil && c.ID == from.Container {
				p.Container, p.Pid, p.Ticks, p.Root, p.Mounts = from.Container, from.Pid, from.Ticks, from.Root, from.Mounts
				if p.Pid == 0 {
					return api.Errorf(api.Unsupported, "cp within one container: start it first, or use `brig exec`")
				}
				continue
			}
		}
		l, err := e.openPlace(ctx, p, i == 1)
		if err != nil {
			return err
		}
		locks = append(locks, l)
	}
	if from.Container != "" || from.Path != "-" {
		s.Stdin = nil // it is not asked for
	}
	var files []*os.File // the worker holds the locks too: it may outlive this process
	for _, l := range locks {
		if f := l.File(); f != nil {
			files = append(files, f)
		}
	}
	_, err = e.transferHolding(ctx, api.TransferRequest{Op: "cp", Source: &from, Target: &to, FollowLink: followLink, Archive: archive}, s, nil, files)
	if from.Pid > 0 && !e.stillThere(from.Container) {
		return api.Errorf(api.Conflict, "container %.12s was removed while files were copied from it: what has been copied need not be all", from.Container)
	}
	if to.Pid > 0 {
		release()
		e.haveForget(ctx, to.Container)
	}
	return err
}

// haveForget has a container that runs look at its files anew, where it keeps what it has seen. One that does not answer sees what is new within a second in any case.
func (e *Engine) haveForget(ctx context.Context, id string) {
	c, err := e.meta.Container(id)
	if err != nil || e.notPaused(&c, "") != nil {
		return
	}
	ct, err := e.running(ctx, &c)
	if err != nil {
		return
	}
	if f, ok := ct.(runtime.Forgetter); ok {
		_ = f.Forget(ctx) // see above
	}
}

// stillThere reports whether a container has not been removed, nor is it being removed.
func (e *Engine) stillThere(id string) bool {
	l, err := e.lockContainer(id)
	if err != nil {
		return false
	}
	defer l.Release()
	return exists(e.meta.Dir(id))
}

// copiesEnd returns when nobody writes any more to files of a container that has just ended. They see its end, and stop; who still has not after claimLimit has been
// stopped himself: api.Conflict.
func (e *Engine) copiesEnd(ctx context.Context, id string) error {
	for deadline := time.Now().Add(claimLimit); lock.Held(filepath.Join(e.meta.Dir(id), copyingName)); {
		if time.Now().After(deadline) {
			return api.Errorf(api.Conflict, "container %.12s: another process that copies files into it does not get on: end that `brig cp` first", id)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// openPlace finds out how a container can be entered.
func (e *Engine) openPlace(ctx context.Context, p *api.CopyPlace, write bool) (*lock.Lock, error) {
	c, err := e.meta.Container(p.Container)
	if err != nil {
		return nil, err
	}
	l, err := e.claim(ctx, &c, false, false)
	if err != nil {
		return nil, err
	}
	if c, err = e.meta.Container(c.ID); err != nil { // while we waited it may have been removed
		l.Release()
		return nil, err
	}
	if c.State.Status == api.StatusDead {
		l.Release()
		return nil, api.Errorf(api.Conflict, "container %s is dead: remove it with `brig rm -f %s`", c.ID, c.ID)
	}
	p.Container = c.ID
	if state, err := shim.ReadState(e.sandboxDir(c.ID)); err == nil && running(state) {
		p.Pid, p.Ticks, p.Below = state.Pid, state.StartTicks, rootIn(c.Spec.Isolation)
		p.UIDMap, p.GIDMap = c.Spec.UserNS.UIDMap, c.Spec.UserNS.GIDMap
		defer l.Release()
		if !write { // it may end: what is open stays
			return lock.None(), nil
		}
		return lock.Shared(filepath.Join(e.meta.Dir(c.ID), copyingName))
	}
	layers := e.snapshot.Of(&c)
	if m, ok := snapshot.Owners(&c); ok {
		p.UIDMap, p.GIDMap = m.UIDs, m.GIDs
	}
	if p.Root, err = e.rootOf(&c, layers); err != nil {
		l.Release()
		return nil, err
	}
	for _, m := range c.Spec.Mounts {
		switch m.Type {
		case "volume":
			if rec, err := e.volume(m.Source); err == nil && !rec.Used && !m.NoCopy && !write {
				continue // it is empty until the first start, when the image's files come in
			}
			if v, err := e.MountVolume(ctx, m.Source); err != nil && !errors.Is(err, api.NotFound) {
				l.Release()
				return nil, err
			} else if err == nil && v.Size > 0 {
				m.Source = v.Mountpoint
				break
			}
			m.Source = e.volumeData(m.Source)
		case "bind":
		default: // a tmpfs is empty
			continue
		}
		p.Mounts = append(p.Mounts, m)
	}
	slices.SortStableFunc(p.Mounts, func(a, b api.MountSpec) int {
		return strings.Count(path.Clean(a.Target), "/") - strings.Count(path.Clean(b.Target), "/")
	})
	return l, nil
}
