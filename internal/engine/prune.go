package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/base/lock"
	"brig/internal/store/garbage"
	"brig/internal/store/sized"
	"brig/internal/store/snapshot/tree"
	"brig/internal/store/usage"
)

// PruneContainers removes the containers that do not run and are not just being started. What it cannot remove it leaves, and says so at the end.
func (e *Engine) PruneContainers(ctx context.Context, o api.PruneOptions) (api.PruneReport, error) {
	var report api.PruneReport
	if err := garbage.Open(e.root).CheckVersion(); err != nil {
		return report, err
	}
	e.sweep(ctx)
	ids, err := e.meta.ContainerIDs()
	if err != nil {
		return report, err
	}
	var errs []error
	for _, id := range ids {
		if ctx.Err() != nil {
			return report, ctx.Err()
		}
		n, gone, err := e.pruneContainer(ctx, id, o)
		if gone {
			report.Containers = append(report.Containers, id)
			report.Reclaimed += n
		}
		if err != nil && !errors.Is(err, api.NotFound) {
			errs = append(errs, err)
		}
	}
	return report, errors.Join(errs...)
}

// pruneContainer removes one container, unless somebody is at work on it.
func (e *Engine) pruneContainer(ctx context.Context, id string, o api.PruneOptions) (bytes int64, gone bool, err error) {
	c, err := e.meta.Container(id)
	if err != nil {
		return 0, false, err
	}
	if c.Spec.Infra {
		if _, err := e.pod(c.Spec.Pod); err == nil { // it goes with its pod
			return 0, false, nil
		}
	}
	if !selected(o, c.Created, c.Spec.Labels) {
		return 0, false, nil
	}
	l, err := lock.Try(filepath.Join(e.meta.Dir(id), "lock"))
	if errors.Is(err, lock.ErrHeld) || errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer l.Release()
	// A container that is being run has its sandbox before it has its record.
	if e.isRunning(id) || e.occupied(id) {
		return 0, false, nil
	}
	if c, err = e.meta.Container(id); err != nil {
		return 0, false, err
	}
	for _, dir := range []string{e.meta.Dir(id), filepath.Join(e.root, garbage.ActiveUnits, id)} {
		n, _ := usage.Of(dir) // a number for the user
		bytes += n
	}
	if err := e.removeEnded(ctx, &c, c.Spec.AutoRemove); err != nil {
		return 0, false, err
	}
	return bytes, true, nil
}

// PruneVolumes removes the anonymous volumes that no container knows, with All also those with names, and those that were never made to the end. All is
// done with no container being made: its record names its volumes before they are there.
func (e *Engine) PruneVolumes(ctx context.Context, o api.PruneOptions) (api.PruneReport, error) {
	var report api.PruneReport
	if err := garbage.Open(e.root).CheckVersion(); err != nil {
		return report, err
	}
	names, err := e.volumeNames()
	if err != nil || len(names) == 0 {
		return report, err
	}
	if err := os.Mkdir(e.rootTrash(), 0o700); err != nil && !os.IsExist(err) {
		return report, err
	}
	still, err := e.meta.Still()
	if err != nil {
		return report, err
	}
	moved, err := e.moveUnused(names, o, &report)
	still.Release()
	for _, dir := range moved { // what a kill leaves of them is trash
		if n, uerr := usage.Of(dir); uerr == nil {
			report.Reclaimed += n
		}
		err = errors.Join(err, tree.Remove(dir))
	}
	return report, errors.Join(err, ctx.Err())
}

// moveUnused moves the volumes that may go out of sight.
func (e *Engine) moveUnused(names []string, o api.PruneOptions, report *api.PruneReport) (moved []string, err error) {
	users, err := e.volumeUsers()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		rec, err := e.volume(name)
		halfMade := errors.Is(err, fs.ErrNotExist)
		if len(users[name]) > 0 || !halfMade && (err != nil || !rec.Anonymous && !o.All || !selected(o, rec.Created, rec.Labels)) {
			continue
		}
		to, err := e.moveVolume(name)
		if err != nil {
			return moved, err
		}
		moved = append(moved, to)
		report.Volumes = append(report.Volumes, name)
	}
	return moved, nil
}

// moveVolume moves a volume out of sight, and returns where it is.
func (e *Engine) moveVolume(name string) (string, error) {
	to := filepath.Join(e.rootTrash(), id.New()+".volume")
	if err := sized.Detach(e.volumeData(name)); err != nil {
		return to, err
	}
	return to, os.Rename(e.volumeDir(name), to)
}

// volumeUsers are the containers of each volume, for who keeps others from being made. A container whose record is damaged may have any.
func (e *Engine) volumeUsers() (map[string][]string, error) {
	users := map[string][]string{}
	ids, err := e.meta.ContainerIDs()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		c, _, err := e.meta.Record(id)
		if err != nil {
			return nil, api.Errorf(api.KindOf(err), "no volume can be removed while nobody knows which ones container %.12s needs; remove it with `brig rm -f %s`: %w", id, id, err)
		}
		for _, m := range c.Spec.Mounts {
			if m.Type == "volume" {
				users[m.Source] = append(users[m.Source], id)
			}
		}
	}
	return users, nil
}

// PruneImages removes the images that no container is made of, without All only those that have no name, and whatever else in the store
// nothing needs.
func (e *Engine) PruneImages(ctx context.Context, o api.PruneOptions) (api.PruneReport, error) {
	var report api.PruneReport
	stores := garbage.Open(e.root)
	if err := stores.CheckVersion(); err != nil {
		return report, err
	}
	if !exists(e.root) {
		return report, nil
	}
	e.snapshot.SweepServed()
	gone, bytes, err := stores.PruneImages(ctx, func(names []api.Image) bool {
		return (o.All || names[0].Name == "") && selected(o, names[0].Created, names[0].Config.Labels)
	})
	report.Reclaimed = bytes
	for _, g := range gone {
		for _, name := range g.Names {
			report.Images = append(report.Images, "untagged: "+familiar(name))
		}
		report.Images = append(report.Images, "deleted: "+g.ID)
		for _, l := range g.Layers {
			report.Images = append(report.Images, "deleted: "+l)
		}
	}
	if o.All && o.Until.IsZero() && len(o.Labels)+len(o.NotLabels) == 0 {
		err = errors.Join(err, e.vm().Forget(), e.forgetKernelDrafts())
	}
	return report, err
}

// selected reports whether a filter lets something go.
func selected(o api.PruneOptions, created time.Time, labels map[string]string) bool {
	if !o.Until.IsZero() && created.After(o.Until) {
		return false
	}
	has := func(label string) bool {
		key, val, exact := strings.Cut(label, "=")
		got, ok := labels[key]
		return ok && (!exact || got == val)
	}
	for _, l := range o.Labels {
		if !has(l) {
			return false
		}
	}
	return !slices.ContainsFunc(o.NotLabels, has)
}

// WithStoreLimit lets what this engine brings in end at so many bytes of the store, where that is less than what the store has been set to. 0 changes nothing.
func (e *Engine) WithStoreLimit(bytes int64) *Engine {
	e.storeLimit = bytes
	return e
}

// StoreLimit returns what the store may take, in bytes; 0: no limit.
func (e *Engine) StoreLimit(context.Context) (int64, error) {
	set, err := garbage.Open(e.root).Settings()
	return set.StoreLimit, err
}

// SetStoreLimit sets what the store may take, for every process from its next transfer on.
func (e *Engine) SetStoreLimit(_ context.Context, bytes int64) error {
	if bytes < 0 {
		return api.Errorf(api.InvalidArgument, "a limit of %d bytes: want 0 for none, or more", bytes)
	}
	stores := garbage.Open(e.root)
	if err := stores.EnsureVersion(); err != nil {
		return err
	}
	set, err := stores.Settings()
	if err != nil && !errors.Is(err, api.Corrupt) {
		return err
	}
	set.StoreLimit = bytes
	return stores.PutSettings(set)
}
