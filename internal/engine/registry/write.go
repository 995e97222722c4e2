package registry

import (
	"context"
	"errors"

	"brig/api"
	"brig/internal/store/content"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PutManifest accepts a manifest under its digest and the tags, which may be none. want is its digest, or "": sha256. It returns the
// digest and, where the manifest has one, its subject's. A config or a layer that the repository has not got is api.NotFound; what an index
// names may come later.
func (r *Registry) PutManifest(ctx context.Context, repo, mediaType string, b []byte, want digest.Digest, tags []string) (got, subject digest.Digest, err error) {
	if err := r.writable(repo); err != nil {
		return "", "", err
	}
	algorithm := digest.SHA256
	if want != "" {
		if err := content.Check(want); err != nil {
			return "", "", err
		}
		algorithm = want.Algorithm()
	}
	if len(b) > MaxManifest {
		return "", "", api.Errorf(api.Exhausted, "the manifest has %d bytes, more than the %d that are allowed", len(b), MaxManifest)
	}
	if got = algorithm.FromBytes(b); want != "" && got != want {
		return "", "", api.Errorf(api.Corrupt, "the manifest has digest %s, not %s", got, want)
	}
	m, err := read(mediaType, b)
	if err != nil {
		return "", "", api.Errorf(api.KindOf(err), "manifest %s: %w", got, err)
	}
	rec := m.record(imagespec.Descriptor{Digest: got, Size: int64(len(b))})
	err = r.locked(ctx, func() error {
		for _, d := range m.blobs() {
			if err := r.hold(repo, d); err != nil {
				return api.Errorf(api.KindOf(err), "manifest %s: %w", got, err)
			}
		}
		return r.putManifest(ctx, repo, rec, b, tags...)
	})
	return got, rec.Subject, err
}

// hold makes sure that a blob which a manifest names is there and stays. The caller holds the lock.
func (r *Registry) hold(repo string, d imagespec.Descriptor) error {
	ok, err := r.has(repo, d.Digest)
	if err != nil {
		return err
	}
	if !ok {
		if elsewhere(d) {
			return nil
		}
		return noBlob(repo, d.Digest)
	}
	size, err := r.stores.Content.Size(d.Digest)
	if err != nil {
		return err
	}
	if size != d.Size {
		return api.Errorf(api.InvalidArgument, "blob %s has %d bytes, not the %d that the manifest says", d.Digest, size, d.Size)
	}
	if r.repos.HasBlob(repo, d.Digest) {
		return nil
	}
	_, err = r.repos.AddBlob(repo, d.Digest) // an image of Brig's has it, which may be removed
	return err
}

// DeleteTag forgets a tag. The manifest stays, under its digest.
func (r *Registry) DeleteTag(ctx context.Context, repo, tag string) error {
	err := r.repos.RemoveTag(repo, tag)
	if errors.Is(err, api.NotFound) {
		return r.refuseImage(repo, tag, "", err)
	}
	return err
}

// DeleteManifest forgets a manifest and the tags that point to it.
func (r *Registry) DeleteManifest(ctx context.Context, repo string, d digest.Digest) error {
	return r.locked(ctx, func() error {
		err := r.repos.RemoveManifest(repo, d)
		if errors.Is(err, api.NotFound) {
			return r.refuseImage(repo, "", d, err)
		}
		if err != nil {
			return err
		}
		_, err = r.stores.Remove(r.stores.OfBlob(d))
		return err
	})
}

// refuseImage says, in place of err, that an image of Brig's is not removed in this way.
func (r *Registry) refuseImage(repo, tag string, d digest.Digest, err error) error {
	if _, found, _ := r.imageManifest(repo, tag, d); found {
		return api.Errorf(api.Unsupported, "repository %s: the image was not pushed, Brig has it: remove it with \"brig rmi\"", repo)
	}
	return err
}

// DeleteBlob takes a blob from a repository.
func (r *Registry) DeleteBlob(ctx context.Context, repo string, d digest.Digest) error {
	return r.locked(ctx, func() error {
		if !r.repos.HasBlob(repo, d) || !r.stores.Content.Has(d) {
			if found, err := r.imageBlob(repo, d); err == nil && found {
				return api.Errorf(api.Unsupported, "repository %s: the blob is of an image that Brig has: remove that with \"brig rmi\"", repo)
			}
			return noBlob(repo, d)
		}
		if err := r.repos.RemoveBlob(repo, d); err != nil {
			return err
		}
		_, err := r.stores.Remove(r.stores.OfBlob(d))
		return err
	})
}

// Mount gives repo a blob that the repository from has; any, where from is empty. It reports whether there was one.
func (r *Registry) Mount(ctx context.Context, from, repo string, d digest.Digest) (mounted bool, err error) {
	if err := errors.Join(r.writable(repo), content.Check(d)); err != nil {
		return false, err
	}
	err = r.locked(ctx, func() error {
		mounted = r.stores.Content.Has(d)
		if mounted && from != "" {
			if mounted, err = r.has(r.place(from).repo, d); err == nil && !mounted {
				mounted, err = r.has(from, d)
			}
			if err != nil {
				return err
			}
		}
		if !mounted {
			return nil
		}
		_, err := r.repos.AddBlob(repo, d)
		return err
	})
	return mounted && err == nil, err
}
