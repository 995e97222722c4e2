package remote

import (
	"context"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
)

// At is the same repository, asked for another tag or, without one, another digest.
func (r *Repository) At(tag string, d digest.Digest) *Repository {
	at := *r
	at.ref.Tag, at.ref.Digest = tag, ""
	if tag == "" {
		at.ref.Digest = d.String()
	}
	return &at
}

// Document reads what the reference points to. The digest is of the bytes that came, checked against the reference's where it has one.
func (r *Repository) Document(ctx context.Context) (image.Document, error) {
	resp, err := r.get(ctx, http.MethodGet, "manifests/"+r.ref.Identifier(), accept, 0)
	if err != nil {
		return image.Document{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxDocument+1))
	if err != nil {
		return image.Document{}, explain(ctx, r.ref, err)
	}
	if len(b) > image.MaxDocument {
		return image.Document{}, api.Errorf(api.Exhausted, "%s: the manifest is longer than the %d bytes that one may have", r.Where(), image.MaxDocument)
	}
	d := imagespec.Descriptor{MediaType: image.DetectMediaType(resp.Header.Get("Content-Type"), b), Size: int64(len(b)), Digest: digest.Digest(r.ref.Digest)}
	if d.Digest == "" {
		d.Digest = digest.FromBytes(b)
	}
	return image.Document{Descriptor: d, Bytes: b}, image.Verify(r.Where(), d, b)
}
