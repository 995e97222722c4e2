package remote

import (
	"context"
	"net/http"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/ref"
	"brig/internal/image/remote/hosts"
)

// Tagged reads the manifest or index of another tag of the repository: what is attached to an image has a tag made of its digest.
func (r *Repository) Tagged(ctx context.Context, tag string) (image.Document, error) {
	if !ref.ValidTag(tag) {
		return image.Document{}, api.Errorf(api.InvalidArgument, "%s: %q is not a tag", r.Where(), tag)
	}
	return r.document(ctx, "manifests/"+tag)
}

// Referrers reads the list of what refers to a manifest, an index: distribution specification 1.1, "Listing Referrers". A registry that
// does not have it answers api.NotFound. Of a list in several pages it is the first.
func (r *Repository) Referrers(ctx context.Context, d digest.Digest) (image.Document, error) {
	if err := d.Validate(); err != nil {
		return image.Document{}, api.Errorf(api.InvalidArgument, "%s: digest %q: %w", r.Where(), d, err)
	}
	return r.document(ctx, "referrers/"+d.String())
}

// document reads a small document whose digest nobody said before: from a mirror that has it, else from the registry.
func (r *Repository) document(ctx context.Context, path string) (doc image.Document, err error) {
	_, err = r.each(func(p *place) error {
		resp, err := p.get(ctx, http.MethodGet, path, accept, 0)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := whole(resp.Body, image.MaxDocument+1, p.guard.patience.header)
		if err != nil {
			return p.about.explain(ctx, err)
		}
		d := imagespec.Descriptor{MediaType: image.DetectMediaType(resp.Header.Get("Content-Type"), b), Size: int64(len(b)), Digest: digest.FromBytes(b)}
		doc = image.Document{Descriptor: d, Bytes: b}
		return image.Verify(p.at.Name(), d, b)
	}, func(e hosts.Endpoint) bool { return e.Pull })
	return doc, err
}
