package remote

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
)

// maxReferrerPages is how many answers a list of referrers may be spread over.
const maxReferrerPages = 50

var _ image.Referring = (*Repository)(nil)

// Tagged implements image.Referring.
func (r *Repository) Tagged(ctx context.Context, tag string) (imagespec.Descriptor, error) {
	doc, err := r.document(ctx, tag)
	return doc.Descriptor, err
}

// document reads what a tag points to.
func (r *Repository) document(ctx context.Context, tag string) (doc image.Document, err error) {
	_, err = r.each(ctx, func(p *place) error {
		doc, err = p.document(ctx, tag)
		return err
	}, r.resolves)
	return doc, err
}

func (p *place) document(ctx context.Context, tag string) (image.Document, error) {
	resp, err := p.get(ctx, http.MethodGet, "manifests/"+tag, accept, 0, -1)
	if err != nil {
		return image.Document{}, err
	}
	defer resp.Body.Close()
	b, err := whole(resp.Body, image.MaxDocument+1, p.guard.patience.header)
	if err != nil {
		return image.Document{}, p.about.explain(ctx, err)
	}
	d := imagespec.Descriptor{MediaType: image.DetectMediaType(resp.Header.Get("Content-Type"), b), Digest: digest.FromBytes(b), Size: int64(len(b))}
	return image.Document{Descriptor: d, Bytes: b}, image.Verify(p.at.Name(), d, b)
}

// Referrers implements image.Referring: it asks the API of distribution specification 1.1, and reads the fallback tag of a registry that
// has none.
func (r *Repository) Referrers(ctx context.Context, d digest.Digest) (all []imagespec.Descriptor, err error) {
	_, err = r.each(ctx, func(p *place) error {
		all, err = p.referrers(ctx, d)
		return err
	}, r.resolves)
	return all, err
}

func (p *place) referrers(ctx context.Context, d digest.Digest) ([]imagespec.Descriptor, error) {
	var all []imagespec.Descriptor
	next := "referrers/" + d.String()
	for page := 0; next != ""; page++ {
		if page == maxReferrerPages {
			return nil, api.Errorf(api.Exhausted, "%s: the list of what refers to %s has more than %d pages", p.at.Name(), d, maxReferrerPages)
		}
		resp, err := p.try(ctx, request{method: http.MethodGet, path: next, header: http.Header{"Accept": {imagespec.MediaTypeImageIndex}}})
		if err != nil {
			var answer *statusError
			if page == 0 && errors.As(err, &answer) && answer.code >= 400 && answer.code < 500 && answer.code != http.StatusUnauthorized &&
				answer.code != http.StatusForbidden && answer.code != http.StatusTooManyRequests {
				return p.fallback(ctx, d)
			}
			return nil, p.about.explain(ctx, err)
		}
		b, err := whole(resp.Body, image.MaxDocument+1, p.guard.patience.header)
		resp.Body.Close()
		if err != nil {
			return nil, p.about.explain(ctx, err)
		}
		if t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); page == 0 && t != imagespec.MediaTypeImageIndex {
			return p.fallback(ctx, d) // a page for people, from a server that knows no such address
		}
		found, err := p.entries(d, b)
		if err != nil {
			return nil, err
		}
		if all = append(all, found...); len(all) > image.MaxIndexEntries {
			return nil, api.Errorf(api.Exhausted, "%s: more than %d manifests refer to %s", p.at.Name(), image.MaxIndexEntries, d)
		}
		if next, err = following(resp.Request.URL, resp.Header.Get("Link")); err != nil {
			return nil, api.Errorf(api.Corrupt, "%s: list of what refers to %s: %w", p.at.Name(), d, err)
		}
	}
	return all, nil
}

// fallback reads the index that clients keep under a tag where the registry has no API.
func (p *place) fallback(ctx context.Context, d digest.Digest) ([]imagespec.Descriptor, error) {
	doc, err := p.document(ctx, image.ReferrersTag(d))
	if errors.Is(err, api.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !image.IsIndex(doc.Descriptor.MediaType) {
		return nil, nil // somebody's image of that name
	}
	return p.entries(d, doc.Bytes)
}

func (p *place) entries(d digest.Digest, b []byte) ([]imagespec.Descriptor, error) {
	if len(b) > image.MaxDocument {
		return nil, api.Errorf(api.Exhausted, "%s: list of what refers to %s: longer than %d bytes", p.at.Name(), d, image.MaxDocument)
	}
	found, err := image.ParseIndex(b)
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "%s: list of what refers to %s: %w", p.at.Name(), d, err)
	}
	return found, nil
}

// following reads the header of RFC 8288 that leads to the next page, which is on the same host.
func following(last *url.URL, link string) (string, error) {
	if link == "" || !strings.Contains(link, `rel="next"`) && !strings.Contains(link, "rel=next") {
		return "", nil
	}
	s, _, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
	next, err := last.Parse(s)
	if !ok || err != nil || next.Host != last.Host || next.Scheme != last.Scheme {
		return "", errors.New("the address of its next page is none of this registry")
	}
	return next.String(), nil
}

// AddReferrer lists n under the fallback tag of its subject: what a registry without the referrers API asks of its clients. Two that do so
// at a time may lose one entry: the specification knows no way around it.
func (r *Repository) AddReferrer(ctx context.Context, n *image.Node) error {
	entry := n.Descriptor
	entry.ArtifactType, entry.Annotations = n.ArtifactType, n.Annotations
	tag := image.ReferrersTag(n.Subject.Digest)
	all, err := r.registry().fallback(ctx, n.Subject.Digest)
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.Digest == entry.Digest {
			return nil
		}
	}
	if len(all) == image.MaxIndexEntries {
		return api.Errorf(api.Exhausted, "%s: %d manifests refer to %s already: there is room for no more", r.registry().at.Name(), len(all), n.Subject.Digest)
	}
	b, err := json.Marshal(imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex, Manifests: append(all, entry)})
	if err != nil {
		return err
	}
	_, err = r.PutManifest(ctx, image.Document{Descriptor: imagespec.Descriptor{MediaType: imagespec.MediaTypeImageIndex, Digest: digest.FromBytes(b), Size: int64(len(b))}, Bytes: b}, tag)
	return err
}
