package remote

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
)

// maxPages is how many answers a list of referrers may be spread over.
const maxPages = 50

var _ image.Referring = (*Repository)(nil)

// Tagged implements image.Referring.
func (r *Repository) Tagged(ctx context.Context, tag string) (imagespec.Descriptor, error) {
	doc, err := r.document(ctx, tag)
	return doc.Descriptor, err
}

// document reads what a tag points to.
func (r *Repository) document(ctx context.Context, tag string) (image.Document, error) {
	resp, err := r.get(ctx, http.MethodGet, "manifests/"+tag, accept, 0)
	if err != nil {
		return image.Document{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxDocument+1))
	if err != nil {
		return image.Document{}, explain(ctx, r.ref, err)
	}
	d := imagespec.Descriptor{MediaType: image.DetectMediaType(resp.Header.Get("Content-Type"), b), Digest: digest.FromBytes(b), Size: int64(len(b))}
	return image.Document{Descriptor: d, Bytes: b}, image.Verify(r.Where(), d, b)
}

// Referrers implements image.Referring: it asks the API of distribution specification 1.1, and reads the fallback tag of a registry that
// has none.
func (r *Repository) Referrers(ctx context.Context, d digest.Digest) ([]imagespec.Descriptor, error) {
	at := r.base
	at.Path += "/referrers/" + d.String()
	var all []imagespec.Descriptor
	for page, next := 0, &at; next != nil; page++ {
		if page == maxPages {
			return nil, api.Errorf(api.Exhausted, "%s: the list of what refers to %s has more than %d pages", r.Where(), d, maxPages)
		}
		resp, err := r.send(ctx, http.MethodGet, next, http.Header{"Accept": {imagespec.MediaTypeImageIndex}}, nil, 0, http.StatusOK)
		if err != nil {
			var answer *transport.Error
			if page == 0 && errors.As(err, &answer) && answer.StatusCode >= 400 && answer.StatusCode < 500 && answer.StatusCode != http.StatusUnauthorized &&
				answer.StatusCode != http.StatusForbidden && answer.StatusCode != http.StatusTooManyRequests {
				return r.fallback(ctx, d)
			}
			return nil, explain(ctx, r.ref, err)
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxDocument+1))
		resp.Body.Close()
		if err != nil {
			return nil, explain(ctx, r.ref, err)
		}
		if t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); page == 0 && t != imagespec.MediaTypeImageIndex {
			return r.fallback(ctx, d) // a page for people, from a server that knows no such address
		}
		found, err := r.entries(d, b)
		if err != nil {
			return nil, err
		}
		if all = append(all, found...); len(all) > image.MaxIndexEntries {
			return nil, api.Errorf(api.Exhausted, "%s: more than %d manifests refer to %s", r.Where(), image.MaxIndexEntries, d)
		}
		if next, err = following(next, resp.Header.Get("Link")); err != nil {
			return nil, api.Errorf(api.Corrupt, "%s: list of what refers to %s: %w", r.Where(), d, err)
		}
	}
	return all, nil
}

// fallback reads the index that clients keep under a tag where the registry has no API.
func (r *Repository) fallback(ctx context.Context, d digest.Digest) ([]imagespec.Descriptor, error) {
	doc, err := r.document(ctx, image.ReferrersTag(d))
	if errors.Is(err, api.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !image.IsIndex(doc.Descriptor.MediaType) {
		return nil, nil // somebody's image of that name
	}
	return r.entries(d, doc.Bytes)
}

func (r *Repository) entries(d digest.Digest, b []byte) ([]imagespec.Descriptor, error) {
	if len(b) > image.MaxDocument {
		return nil, api.Errorf(api.Exhausted, "%s: list of what refers to %s: longer than %d bytes", r.Where(), d, image.MaxDocument)
	}
	found, err := image.ParseIndex(b)
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "%s: list of what refers to %s: %w", r.Where(), d, err)
	}
	return found, nil
}

// following reads the header of RFC 8288 that leads to the next page, which is on the same host.
func following(last *url.URL, link string) (*url.URL, error) {
	if link == "" || !strings.Contains(link, `rel="next"`) && !strings.Contains(link, "rel=next") {
		return nil, nil
	}
	s, _, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
	next, err := last.Parse(s)
	if !ok || err != nil || next.Host != last.Host || next.Scheme != last.Scheme {
		return nil, errors.New("the address of its next page is none of this registry")
	}
	return next, nil
}

// AddReferrer lists n under the fallback tag of its subject: what a registry without the referrers API asks of its clients. Two that do so
// at a time may lose one entry: the specification knows no way around it.
func (r *Repository) AddReferrer(ctx context.Context, n *image.Node) error {
	entry := n.Descriptor
	entry.ArtifactType, entry.Annotations = n.ArtifactType, n.Annotations
	tag := image.ReferrersTag(n.Subject.Digest)
	all, err := r.fallback(ctx, n.Subject.Digest)
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.Digest == entry.Digest {
			return nil
		}
	}
	if len(all) == image.MaxIndexEntries {
		return api.Errorf(api.Exhausted, "%s: %d manifests refer to %s already: there is room for no more", r.Where(), len(all), n.Subject.Digest)
	}
	b, err := json.Marshal(imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex, Manifests: append(all, entry)})
	if err != nil {
		return err
	}
	_, err = r.PutManifest(ctx, image.Document{Descriptor: imagespec.Descriptor{MediaType: imagespec.MediaTypeImageIndex, Digest: digest.FromBytes(b), Size: int64(len(b))}, Bytes: b}, tag)
	return err
}
