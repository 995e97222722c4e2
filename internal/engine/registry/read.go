package registry

import (
	"context"
	"errors"
	"io"

	"brig/api"
	"brig/internal/store/content"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Manifest returns what a tag, or a digest, names in a repository: its media type, digest and size, and its bytes, verified.
func (r *Registry) Manifest(ctx context.Context, repo, tag string, d digest.Digest) (imagespec.Descriptor, []byte, error) {
	if tag == "" {
		if err := content.Check(d); err != nil {
			return imagespec.Descriptor{}, nil, err
		}
	}
	at := r.place(repo)
	if at.mirror != nil {
		return r.document(r.mirrored(ctx, at, repo, tag, d))
	}
	desc, err := r.recorded(at.repo, tag, d)
	if errors.Is(err, api.NotFound) {
		desc, err = r.ofImages(repo, tag, d)
	}
	return r.document(desc, err)
}

// recorded finds a manifest among a repository's records.
func (r *Registry) recorded(repo, tag string, d digest.Digest) (imagespec.Descriptor, error) {
	if tag != "" {
		to, err := r.repos.Tag(repo, tag)
		if err != nil {
			return imagespec.Descriptor{}, err
		}
		d = to
	}
	m, err := r.repos.Manifest(repo, d)
	if err == nil && !r.stores.Content.Has(d) {
		err = noManifest(repo, tag, d) // its maker died before the bytes were there
	}
	return m.Descriptor, err
}

// ofImages finds a manifest among the images that Brig has.
func (r *Registry) ofImages(repo, tag string, d digest.Digest) (imagespec.Descriptor, error) {
	desc, ok, err := r.imageManifest(repo, tag, d)
	if err == nil && (!ok || !r.stores.Content.Has(desc.Digest)) {
		err = noManifest(repo, tag, d)
	}
	return desc, err
}

// document reads the bytes behind a descriptor, if there was no error.
func (r *Registry) document(desc imagespec.Descriptor, err error) (imagespec.Descriptor, []byte, error) {
	if err != nil {
		return imagespec.Descriptor{}, nil, err
	}
	b, err := r.stores.Content.Bytes(desc.Digest, MaxManifest)
	desc.Size = int64(len(b))
	return desc, b, err
}

// Blob finds a blob of a repository: its size in bytes, and how to read it from its beginning. What is read is verified: a blob that is not
// what its digest says ends with an error instead of io.EOF.
func (r *Registry) Blob(ctx context.Context, repo string, d digest.Digest) (int64, func() (io.ReadCloser, error), error) {
	if err := content.Check(d); err != nil {
		return 0, nil, err
	}
	at := r.place(repo)
	ok, err := r.has(at.repo, d)
	if !ok && err == nil && at.repo != repo {
		ok, err = r.has(repo, d)
	}
	switch {
	case err != nil:
		return 0, nil, err
	case ok:
		size, err := r.stores.Content.Size(d)
		return size, func() (io.ReadCloser, error) { return r.stores.Content.Reader(d) }, err
	case at.mirror != nil:
		return r.blobThrough(ctx, at, d)
	}
	return 0, nil, noBlob(repo, d)
}

// has reports whether a repository can give the blob from the store.
func (r *Registry) has(repo string, d digest.Digest) (bool, error) {
	if !r.stores.Content.Has(d) {
		return false, nil
	}
	if r.repos.HasBlob(repo, d) {
		return true, nil
	}
	if _, err := r.repos.Manifest(repo, d); err == nil {
		return true, nil // a manifest's bytes are a blob too
	}
	return r.imageBlob(repo, d)
}

func noBlob(repo string, d digest.Digest) error {
	return api.Errorf(api.NotFound, "repository %s: no blob %s", repo, d)
}

func noManifest(repo, tag string, d digest.Digest) error {
	if tag != "" {
		return api.Errorf(api.NotFound, "repository %s: no tag %s", repo, tag)
	}
	return api.Errorf(api.NotFound, "repository %s: no manifest %s", repo, d)
}
