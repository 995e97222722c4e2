package transfer

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/base/lock"
	"brig/internal/image"
	"brig/internal/image/remote"
	"brig/internal/store/erofs"
	"brig/internal/store/garbage"
	"brig/internal/store/lazy"
)

const (
	// minLazy is the length of a blob, in bytes, from which on a layer is worth its mount.
	minLazy = 4 << 20
	// quiet is how long nothing has to be read before the rest of the image is fetched: what a container starts with comes first.
	quiet = time.Second
)

// lazyImage is an image that a container reads while it comes in.
type lazyImage struct {
	t      *Transfer
	img    *image.Image
	name   string
	said   *verdict
	server *lazy.Server
	lease  *garbage.Lease
	budget *garbage.Budget
	grown  *garbage.Growth
	added  garbage.Set // what was not there before
	mu     sync.Mutex
	cache  []cached
	whole  atomic.Bool // the image is in the store
	about  string      // the folder of the container's sandbox, "": not known yet
}

// cached is a file that an image's parts are kept in, among those that are on their way in: swept and counted with them.
type cached struct {
	path string
	lock *lock.Lock
}

// lazily begins to read an image. It is not ok where that cannot be done, for which ingest is right. added is what of it was stored before; what is stored now is
// added to it, or taken back on error.
func (t *Transfer) lazily(ctx context.Context, repo *remote.Repository, img *image.Image, name string, show *display, added *garbage.Set, v *verdict) (rec api.Image, ok bool, err error) {
	wants := map[string]bool{} // diff IDs
	var rest []api.Layer
	for _, l := range img.Layers {
		d := digest.Digest(l.DiffID)
		if lazy.Carries(l.Blob) && l.Blob.Size >= minLazy && !t.stores.Snapshot.Has(d) {
			wants[l.DiffID] = true
		} else {
			rest = append(rest, l)
		}
	}
	if len(wants) == 0 || t.state == "" || !t.packs(erofs.Deflate) {
		return rec, false, nil
	}
	t.stores.Snapshot.SweepServed()
	r := &lazyImage{t: t, img: img, name: name, said: v}
	in := &ingest{t: t, img: img, show: show, added: *added, verdict: v}
	defer func() {
		if *added = in.added; !ok {
			r.close()
		}
		if err != nil {
			t.takeBack(in.added)
		}
	}()
	if r.lease, err = t.stores.Lease(context.WithoutCancel(ctx)); err != nil {
		return rec, false, err
	}
	if err = r.lease.Add(in.needs()); err != nil {
		return rec, false, err
	}
	if in.budget, err = t.stores.Budget(); err != nil {
		return rec, false, err
	}
	r.budget = in.budget
	images, oerr := r.open(ctx, repo, wants)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
		return rec, false, err
	}
	if oerr != nil {
		show.warn("%s: the image is pulled as a whole", oerr)
		return rec, false, nil
	}
	// What is not read lazily has to be there.
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	g.Go(func() error { return in.documents(gctx) })
	for _, l := range rest {
		bar := show.layer(l.Blob.Digest, l.Blob.Size)
		g.Go(func() error {
			existed, err := in.layer(gctx, l, bar)
			bar.end(existed, err)
			return err
		})
	}
	if err = g.Wait(); err != nil {
		return rec, false, err
	}
	server, paths, merr := lazy.Mount(t.stores.Snapshot, images)
	if merr != nil {
		show.warn("%s: the image is pulled as a whole", merr)
		return rec, false, nil
	}
	r.server = server
	rec = in.describe(name)
	for _, l := range img.Layers {
		l.Blob = bare(l.Blob)
		rec.Layers = append(rec.Layers, l)
	}
	t.lazyAt = map[string]string{}
	for i, m := range images {
		t.lazyAt[m.Name] = paths[i]
	}
	t.going, r.added = r, in.added
	return rec, true, nil
}

// open gets the tables of layers, and makes a file for each in the cache.
func (r *lazyImage) open(ctx context.Context, repo *remote.Repository, wants map[string]bool) ([]*lazy.Image, error) {
	r.grown = r.budget.Growth(context.WithoutCancel(ctx))
	images := make([]*lazy.Image, 0, len(wants))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	made := make(chan *lazy.Image, len(r.img.Layers))
	seen := map[string]bool{}
	for _, l := range r.img.Layers {
		if !wants[l.DiffID] || seen[l.DiffID] {
			continue
		}
		seen[l.DiffID] = true
		g.Go(func() error {
			src := func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
				if r.whole.Load() {
					return r.stored(l.Blob.Digest, offset)
				}
				return repo.OpenRange(ctx, l.Blob, offset, length)
			}
			table, err := lazy.Fetch(gctx, src, l.Blob)
			if err != nil {
				return err
			}
			f, err := r.newCache()
			if err != nil {
				return err
			}
			m, err := lazy.NewImage(l.DiffID, table, src, f, r.grown.Add, r.failed)
			if err != nil {
				return err
			}
			m.Distrust = repo.Distrust
			made <- m
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	close(made)
	for m := range made {
		images = append(images, m)
	}
	return images, nil
}

// newCache makes a file for an image's parts.
func (r *lazyImage) newCache() (*os.File, error) {
	path := filepath.Join(r.t.stores.Root, garbage.IngestUnits, id.New())
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	l, err := lock.Take(path)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cache = append(r.cache, cached{path, l})
	return l.File(), nil
}

// stored reads a blob that has come in, from an offset on.
func (r *lazyImage) stored(d digest.Digest, offset int64) (io.ReadCloser, error) {
	blob, err := r.t.stores.Content.Reader(d)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, blob, offset); err != nil {
		blob.Close()
		return nil, err
	}
	return blob, nil
}

// failed tells `brig inspect` why the container's files cannot be read.
func (r *lazyImage) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.about != "" { // without it, or when the container is gone, there is nobody to be told
		_ = os.WriteFile(filepath.Join(r.about, api.LazyErrorFile), []byte(err.Error()), 0o600)
	}
}

// close lets go of all that is held.
func (r *lazyImage) close() {
	if r.grown != nil {
		r.grown.Release()
	}
	for _, c := range r.cache {
		os.Remove(c.path)
		c.lock.Release()
	}
	if r.budget != nil {
		r.budget.Close()
	}
	if r.lease != nil {
		r.lease.Release()
	}
}

// Serve goes on with what Do began, if it is to go on: an image that is read while it comes in. hold gives the folder of the container's sandbox, and ends when
// the container has its mounts, or will not have them. Serve returns when nobody has them any more.
func (t *Transfer) Serve(ctx context.Context, hold io.Reader) {
	r := t.going
	if r == nil {
		return
	}
	defer func() {
		r.close()
		if !r.whole.Load() {
			t.takeBack(r.added)
		}
		_ = r.server.Close() // the last: `brig system reset` waits for it
	}()
	t.Stdout, t.Stderr, t.lease = io.Discard, io.Discard, nil
	about, _ := io.ReadAll(io.LimitReader(hold, 4096))
	r.mu.Lock()
	r.about = string(about)
	r.mu.Unlock()
	_ = r.server.Detach()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.bring(ctx)
	}()
	<-r.server.Ended()
	cancel()
	<-done
}

// bring brings the image in as a whole, while it is read.
func (r *lazyImage) bring(ctx context.Context) {
	for r.server.Idle() < quiet {
		select {
		case <-time.After(quiet / 4):
		case <-ctx.Done():
			return
		}
	}
	_, err := r.t.ingest(ctx, r.img, r.name, newDisplay(io.Discard, true, false), garbage.Set{}, r.said)
	r.whole.Store(err == nil)
	if err != nil && ctx.Err() == nil {
		r.failed(err)
	}
}
