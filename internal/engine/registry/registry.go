// Package registry gives Brig's store the shape of a registry: repositories with manifests, tags and blobs. The door that speaks the
// distribution protocol is internal/front/registry; only brigd links either.
//
// # What a repository holds
//
//   - What was pushed to it, or fetched for it from a mirrored registry: records of package repository, bytes in the content store.
//   - The images that Brig has, read-only, at their path without the registry's host (docker.io/library/debian:12 is tag 12 of
//     library/debian), and at their full name.
//
// A tag that was pushed comes first, then a mirrored registry's, then an image's. The content store is the same: what is pushed is not
// stored again when it is pulled, nor the other way round.
//
// # Who may do what when
//
// Any number of registries, transfers and engines work on one root. A repository claims a blob under the lock of package garbage, before
// the blob comes in or while it is seen to be there; from then on nobody's clean-up removes it. A manifest is accepted under the lock, if
// all that it names is claimed and there. What is withdrawn is removed under the lock, unless another needs it.
package registry

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/image"
	"brig/internal/image/ref"
	"brig/internal/store/garbage"
	"brig/internal/store/repository"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// MaxManifest bounds a manifest, in bytes: what the distribution specification asks a registry to accept, and what Brig pulls.
	MaxManifest = image.MaxDocument
	// maxBlob bounds a blob, in bytes. It keeps sums of sizes from overflowing; the disk is smaller.
	maxBlob = 1 << 50
	// Uploads that nobody goes on with, and blobs that no manifest came to name, are kept this long.
	expiry = 7 * 24 * time.Hour
	// sweepEvery is how often what expired is removed.
	sweepEvery = time.Hour
)

// Registry serves one root. Close ends what it does in the background.
type Registry struct {
	stores  garbage.Stores
	repos   *repository.Store
	mirrors []Mirror
	log     func(format string, args ...any)

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // what goes on in the background

	locking chan struct{} // one of this process waits for the store's lock at a time: a wait costs a thread

	mu        sync.Mutex // guards what follows
	fetching  map[digest.Digest]chan struct{}
	upstreams map[string]upstream
}

// Open serves the root, --root, and mirrors other registries. log is told what nobody else would be: failures of the clean-up and of fetches
// that go on after their client.
func Open(root string, mirrors []Mirror, log func(format string, args ...any)) *Registry {
	r := &Registry{
		stores: garbage.Open(root), repos: repository.Open(root), mirrors: mirrors, log: log,
		locking: make(chan struct{}, 1), fetching: map[digest.Digest]chan struct{}{}, upstreams: map[string]upstream{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.work.Go(r.sweep)
	return r
}

// Close ends what goes on in the background and waits for it. No method may be called afterwards.
func (r *Registry) Close() {
	r.cancel()
	r.work.Wait()
}

// sweep removes what expired, now and then.
func (r *Registry) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := r.Expire(r.ctx, time.Now().Add(-expiry)); err != nil && r.ctx.Err() == nil {
			r.log("removing what expired: %v", err)
		}
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
	}
}

// Expire removes unfinished uploads, and blobs that no manifest names, of before a moment.
func (r *Registry) Expire(ctx context.Context, before time.Time) error {
	return r.locked(ctx, func() error {
		given, err := r.repos.Expire(before)
		var set garbage.Set
		for _, d := range given {
			of := r.stores.OfBlob(d)
			set.Blobs, set.Layers = append(set.Blobs, of.Blobs...), append(set.Layers, of.Layers...)
		}
		_, rerr := r.stores.Remove(set)
		return errors.Join(err, rerr)
	})
}

// locked calls f under the lock of package garbage.
func (r *Registry) locked(ctx context.Context, f func() error) error {
	select {
	case r.locking <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-r.locking }()
	var l *lock.Lock
	l, err := r.stores.Lock()
	if err != nil {
		return err
	}
	defer l.Release()
	return f()
}

// Repositories lists what can be pulled from, in alphabetical order.
func (r *Registry) Repositories(context.Context) ([]string, error) {
	all, err := r.repos.Names()
	if err != nil {
		return nil, err
	}
	images, err := r.stores.Meta.Images()
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		if name, err := ref.Parse(img.Name); err == nil && img.Name != "" {
			all = append(all, name.Path)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Tags lists the tags of a repository, in alphabetical order; of a mirrored one those that came through here. One that is not there is
// api.NotFound.
func (r *Registry) Tags(_ context.Context, repo string) ([]string, error) {
	at := r.place(repo)
	all, err := r.repos.Tags(at.repo)
	if err != nil {
		return nil, err
	}
	images, err := r.images(repo)
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		if img.name.Tag != "" {
			all = append(all, img.name.Tag)
		}
	}
	if len(all) == 0 && len(images) == 0 && !r.repos.Exists(at.repo) {
		return nil, noRepository(repo)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Referrers gives the manifests whose subject has the digest, in the order of their digests, those after a digest that may be empty, until yield has enough. A
// subject, or a repository, that is not there has none.
func (r *Registry) Referrers(_ context.Context, repo string, subject, after digest.Digest, yield func(imagespec.Descriptor) bool) error {
	return r.repos.Referrers(r.place(repo).repo, subject, after, yield)
}

func noRepository(repo string) error {
	return api.Errorf(api.NotFound, "no repository %s", repo)
}
