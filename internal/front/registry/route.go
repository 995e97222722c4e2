package registry

import (
	"net/http"
	"net/url"
	"strings"

	"brig/internal/image/ref"

	"github.com/opencontainers/go-digest"
)

// kind is what a path names.
type kind int

const (
	pingKind kind = iota
	catalogKind
	tagsKind
	manifestKind
	blobKind
	uploadsKind // where uploads begin
	uploadKind
	referrersKind
)

// target is a path, read and checked.
type target struct {
	kind   kind
	repo   string
	tag    string        // of a manifest
	digest digest.Digest // of a manifest without a tag, a blob, a subject
	upload string        // an upload's ID, as it came
	query  url.Values
}

// verb is what a method does with a target.
type verb func(h *Handler, w http.ResponseWriter, req *http.Request, t target) error

// verbs lists what can be done with a target.
func (t target) verbs() map[string]verb {
	switch t.kind {
	case catalogKind:
		return map[string]verb{"GET": (*Handler).catalog}
	case tagsKind:
		return map[string]verb{"GET": (*Handler).tags}
	case manifestKind:
		return map[string]verb{"GET": (*Handler).getManifest, "HEAD": (*Handler).getManifest, "PUT": (*Handler).putManifest, "DELETE": (*Handler).deleteManifest}
	case blobKind:
		return map[string]verb{"GET": (*Handler).getBlob, "HEAD": (*Handler).getBlob, "DELETE": (*Handler).deleteBlob}
	case uploadsKind:
		return map[string]verb{"POST": (*Handler).startUpload}
	case uploadKind:
		return map[string]verb{"GET": (*Handler).uploadStatus, "PATCH": (*Handler).appendUpload, "PUT": (*Handler).finishUpload, "DELETE": (*Handler).cancelUpload}
	case referrersKind:
		return map[string]verb{"GET": (*Handler).referrers}
	}
	return map[string]verb{"GET": (*Handler).ping, "HEAD": (*Handler).ping}
}

// parse reads a request's path and query. A name has slashes in it, so a path is read from its end.
func parse(req *http.Request) (target, error) {
	query, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return target{}, &failure{http.StatusBadRequest, codeUnsupported, "the query cannot be read"}
	}
	t := target{query: query}
	rest, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	switch {
	case req.URL.Path == "/v2" || ok && rest == "":
		return t, nil
	case !ok:
		return t, &failure{http.StatusNotFound, codeUnsupported, "nothing is here: the registry's addresses begin with /v2/"}
	case rest == "_catalog":
		t.kind = catalogKind
		return t, nil
	}
	if err := t.names(rest); err != nil {
		return t, err
	}
	if !ref.ValidPath(t.repo) {
		return t, &failure{http.StatusBadRequest, codeNameInvalid, "not a repository's name: " + quote(t.repo)}
	}
	// containerd asks a mirror in this way which registry it means.
	if ns := query.Get("ns"); ns != "" && (req.Method == http.MethodGet || req.Method == http.MethodHead) {
		name, err := ref.Parse(ns + "/" + t.repo)
		if err != nil || name.Domain != ns {
			return t, &failure{http.StatusBadRequest, codeNameInvalid, "ns: not a registry's name: " + quote(ns)}
		}
		t.repo = name.Name()
	}
	return t, nil
}

// names splits what follows /v2/ into a repository and what is asked of it.
func (t *target) names(path string) error {
	path, last := cutLast(path)
	path, what := cutLast(path)
	switch {
	case what == "tags" && last == "list":
		t.kind, t.repo = tagsKind, path
	case what == "manifests":
		t.kind, t.repo = manifestKind, path
		if !strings.Contains(last, ":") {
			t.tag = last
			if !ref.ValidTag(last) {
				return &failure{http.StatusBadRequest, codeManifestInvalid, "not a tag: " + quote(last)}
			}
			return nil
		}
		return t.setDigest(last)
	case what == "blobs" && last == "uploads":
		t.kind, t.repo = uploadsKind, path
	case what == "blobs":
		t.kind, t.repo = blobKind, path
		return t.setDigest(last)
	case what == "uploads":
		rest, blobs := cutLast(path)
		if blobs != "blobs" {
			return unknownPath()
		}
		t.kind, t.repo, t.upload = uploadKind, rest, last
		if last == "" {
			t.kind = uploadsKind
		}
	case what == "referrers":
		t.kind, t.repo = referrersKind, path
		return t.setDigest(last)
	default:
		return unknownPath()
	}
	return nil
}

func (t *target) setDigest(s string) error {
	d, err := parseDigest(s)
	t.digest = d
	return err
}

// parseDigest refuses what is not a digest of an algorithm that is known. The backend knows fewer, and says so.
func parseDigest(s string) (digest.Digest, error) {
	if !ref.ValidDigest(s) {
		return "", &failure{http.StatusBadRequest, codeDigestInvalid, "not a digest: " + quote(s)}
	}
	return digest.Digest(s), nil
}

func unknownPath() error {
	return &failure{http.StatusNotFound, codeUnsupported, "no such address in the distribution protocol"}
}

// cutLast splits a path at its last slash.
func cutLast(path string) (rest, last string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}
