package registry

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"brig/internal/image/ref"
)

// maxTags bounds how many tags one push may set by the parameter tag: the specification asks for ten at least.
const maxTags = 100

// getManifest answers GET and HEAD.
func (h *Handler) getManifest(w http.ResponseWriter, req *http.Request, t target) error {
	desc, b, err := h.backend.Manifest(req.Context(), t.repo, t.tag, t.digest)
	if err != nil {
		return as(err, codeManifestUnknown, codeDigestInvalid)
	}
	head := w.Header()
	head.Set("Docker-Content-Digest", desc.Digest.String())
	head.Set("Etag", `"`+desc.Digest.String()+`"`)
	if matches(req.Header.Get("If-None-Match"), desc.Digest.String()) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	head.Set("Content-Type", desc.MediaType)
	head.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	if req.Method == http.MethodHead {
		return nil
	}
	_, err = w.Write(b)
	return gone(err)
}

// matches reports whether a header If-None-Match names the digest.
func matches(header, d string) bool {
	for tag := range strings.SplitSeq(header, ",") {
		if strings.Trim(strings.TrimPrefix(strings.TrimSpace(tag), "W/"), `"`) == d {
			return true
		}
	}
	return false
}

// putManifest takes in a manifest, under a tag, or under its digest and the tags of the parameter tag.
func (h *Handler) putManifest(w http.ResponseWriter, req *http.Request, t target) error {
	var tags []string
	if t.tag != "" {
		tags = []string{t.tag}
	} else if tags = t.query["tag"]; len(tags) > maxTags {
		return &failure{http.StatusRequestURITooLong, codeManifestInvalid, "more than " + strconv.Itoa(maxTags) + " tags"}
	}
	for _, tag := range tags {
		if !ref.ValidTag(tag) {
			return &failure{http.StatusBadRequest, codeManifestInvalid, "not a tag: " + quote(tag)}
		}
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxManifest))
	if err != nil {
		return err
	}
	got, subject, err := h.backend.PutManifest(req.Context(), t.repo, req.Header.Get("Content-Type"), b, t.digest, tags)
	if err != nil {
		return sent(err, codeManifestBlobUnknown, codeManifestInvalid)
	}
	if subject != "" {
		w.Header().Set("Oci-Subject", subject.String())
	}
	if t.tag == "" {
		for _, tag := range tags {
			w.Header().Add("Oci-Tag", tag)
		}
	}
	created(w, "/v2/"+t.repo+"/manifests/"+got.String(), got.String())
	return nil
}

// deleteManifest forgets a tag, or a manifest with all its tags.
func (h *Handler) deleteManifest(w http.ResponseWriter, req *http.Request, t target) error {
	var err error
	if t.tag != "" {
		err = h.backend.DeleteTag(req.Context(), t.repo, t.tag)
	} else {
		err = h.backend.DeleteManifest(req.Context(), t.repo, t.digest)
	}
	return accepted(w, as(err, codeManifestUnknown, codeDigestInvalid))
}

// created says where what was sent can be had.
func created(w http.ResponseWriter, location, d string) {
	w.Header().Set("Location", location)
	w.Header().Set("Docker-Content-Digest", d)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}

// accepted says that something was removed, if there was no error.
func accepted(w http.ResponseWriter, err error) error {
	if err == nil {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusAccepted)
	}
	return err
}
