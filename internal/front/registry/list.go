package registry

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxPage is how many names an answer has when the client does not ask for fewer.
	maxPage = 10000
	// maxReferrers is how many bytes of descriptors an answer has: clients read 4 MiB.
	maxReferrers = 3 << 20
)

// catalog lists the repositories.
func (h *Handler) catalog(w http.ResponseWriter, req *http.Request, t target) error {
	all, err := h.backend.Repositories(req.Context())
	if err != nil {
		return err
	}
	page, err := t.page(w, "/v2/_catalog", all)
	if err != nil {
		return err
	}
	return answer(w, "application/json", map[string]any{"repositories": page})
}

// tags lists the tags of a repository.
func (h *Handler) tags(w http.ResponseWriter, req *http.Request, t target) error {
	all, err := h.backend.Tags(req.Context(), t.repo)
	if err != nil {
		return as(err, codeNameUnknown, codeNameInvalid)
	}
	page, err := t.page(w, "/v2/"+t.repo+"/tags/list", all)
	if err != nil {
		return err
	}
	return answer(w, "application/json", map[string]any{"name": t.repo, "tags": page})
}

// page cuts out of sorted names what the parameters n and last ask for, and links the next page.
func (t target) page(w http.ResponseWriter, path string, all []string) ([]string, error) {
	n := maxPage
	if s := t.query.Get("n"); s != "" {
		u, err := strconv.ParseUint(s, 10, 31)
		if err != nil {
			return nil, &failure{http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n: not a number: " + quote(s)}
		}
		n = min(int(u), maxPage)
	}
	if last := t.query.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if n < len(all) {
		all = all[:n]
		if n > 0 {
			link(w, path, url.Values{"n": {strconv.Itoa(n)}, "last": {all[n-1]}})
		}
	}
	return append([]string{}, all...), nil // an empty list, not null
}

func link(w http.ResponseWriter, path string, query url.Values) {
	w.Header().Set("Link", "<"+path+"?"+query.Encode()+`>; rel="next"`)
}

// referrers lists what has a digest as its subject, of one artifact type if that is asked for.
func (h *Handler) referrers(w http.ResponseWriter, req *http.Request, t target) error {
	artifact := t.query.Get("artifactType")
	index := imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex, Manifests: []imagespec.Descriptor{}}
	size := 0
	err := h.backend.Referrers(req.Context(), t.repo, t.digest, digest.Digest(t.query.Get("last")), func(d imagespec.Descriptor) bool {
		if artifact != "" && d.ArtifactType != artifact {
			return true
		}
		b, err := json.Marshal(d)
		if size += len(b); err == nil && size > maxReferrers && len(index.Manifests) > 0 {
			query := url.Values{"last": {index.Manifests[len(index.Manifests)-1].Digest.String()}}
			if artifact != "" {
				query.Set("artifactType", artifact)
			}
			link(w, "/v2/"+t.repo+"/referrers/"+t.digest.String(), query)
			return false
		}
		index.Manifests = append(index.Manifests, d)
		return true
	})
	if err != nil {
		return as(err, codeNameUnknown, codeDigestInvalid)
	}
	if artifact != "" {
		w.Header().Set("Oci-Filters-Applied", "artifactType")
	}
	return answer(w, imagespec.MediaTypeImageIndex, index)
}

// answer sends a JSON document.
func answer(w http.ResponseWriter, mediaType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, err = w.Write(b)
	return gone(err)
}
