package registry

import (
	"context"
	"errors"
	"io"
	"time"

	"brig/internal/image/remote"
	"brig/internal/store/content"
	"brig/internal/store/repository"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// patience is how long a request waits for another one that fetches the same blob. Then it reads the blob for itself: clients wait a
// minute or so for the first byte.
const patience = 20 * time.Second

// blobThrough finds a blob that has to come from a mirrored registry: it is given on while it is stored.
func (r *Registry) blobThrough(ctx context.Context, at place, d digest.Digest) (int64, func() (io.ReadCloser, error), error) {
	desc, err := r.repos.Announced(at.repo, d)
	if err != nil {
		return 0, nil, err
	}
	return desc.Size, func() (io.ReadCloser, error) { return r.through(ctx, at, desc) }, nil
}

// through fetches a blob. Of several requests for it at a time one fetches and stores it, the others wait for that.
func (r *Registry) through(ctx context.Context, at place, desc imagespec.Descriptor) (io.ReadCloser, error) {
	up, err := r.open(ctx, at)
	if err != nil {
		return nil, err
	}
	wait := time.NewTimer(patience)
	defer wait.Stop()
	for {
		if r.stores.Content.Has(desc.Digest) {
			if _, err := r.claim(ctx, at.repo, desc.Digest); err != nil {
				return nil, err
			}
			if body, err := r.stores.Content.Reader(desc.Digest); err == nil {
				return body, nil
			}
		}
		r.mu.Lock()
		other, busy := r.fetching[desc.Digest]
		if !busy {
			done := make(chan struct{})
			r.fetching[desc.Digest] = done
			r.mu.Unlock()
			f, err := r.fetch(ctx, at.repo, up, desc, done)
			if err != nil {
				r.fetched(desc.Digest, done)
				return nil, err
			}
			return f, nil
		}
		r.mu.Unlock()
		select {
		case <-other:
		case <-wait.C:
			return up.Open(ctx, desc) // whoever asked verifies it
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// fetched lets those go on that wait for a fetch.
func (r *Registry) fetched(d digest.Digest, done chan struct{}) {
	r.mu.Lock()
	delete(r.fetching, d)
	r.mu.Unlock()
	close(done)
}

// claim keeps a blob that is here for a repository.
func (r *Registry) claim(ctx context.Context, repo string, d digest.Digest) (mine repository.Claim, err error) {
	err = r.locked(ctx, func() error {
		mine, err = r.repos.AddBlob(repo, d)
		return err
	})
	return mine, err
}

// fetch is a blob on its way from a mirrored registry, to who asked for it and into the store.
type fetch struct {
	r    *Registry
	body io.ReadCloser
	w    *content.Writer
	desc imagespec.Descriptor
	done chan struct{}
	err  error // of the body or of the store; io.EOF when the blob is stored
}

// fetch begins one. It goes on when its client goes away, so it lives as long as the registry.
func (r *Registry) fetch(ctx context.Context, repo string, up *remote.Repository, desc imagespec.Descriptor, done chan struct{}) (*fetch, error) {
	if _, err := r.claim(ctx, repo, desc.Digest); err != nil {
		return nil, err
	}
	w, err := r.stores.Content.Writer(r.ctx, desc.Digest, desc.Size)
	if err != nil {
		return nil, err
	}
	body, err := up.Open(r.ctx, desc)
	if err != nil {
		w.Abort()
		return nil, err
	}
	return &fetch{r: r, body: body, w: w, desc: desc, done: done}, nil
}

// Read implements io.Reader. The end comes when the blob is verified and stored.
func (f *fetch) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.body.Read(p)
	if n > 0 {
		if _, werr := f.w.Write(p[:n]); werr != nil {
			err = werr
		}
	}
	if err == io.EOF {
		if _, _, werr := f.w.Commit(); werr != nil {
			err = werr
		}
	}
	f.err = err
	return n, err
}

// Close implements io.Closer. What has not been read yet is fetched all the same, in the background.
func (f *fetch) Close() error {
	f.r.work.Go(func() {
		defer f.r.fetched(f.desc.Digest, f.done)
		defer f.body.Close()
		defer f.w.Abort()
		if f.err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, f); err != nil && !errors.Is(err, context.Canceled) {
			f.r.log("fetching blob %s after its client went away: %v", f.desc.Digest, err)
		}
	})
	return nil
}
