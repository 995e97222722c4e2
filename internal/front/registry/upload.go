package registry

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"brig/api"
	"brig/internal/image/ref"
)

// startUpload begins an upload; mounts a blob of another repository instead, or takes in one that comes at once.
func (h *Handler) startUpload(w http.ResponseWriter, req *http.Request, t target) error {
	if s := t.query.Get("mount"); s != "" {
		d, err := parseDigest(s)
		if err != nil {
			return err
		}
		from := t.query.Get("from")
		if from != "" && !ref.ValidPath(from) {
			return &failure{http.StatusBadRequest, codeNameInvalid, "from: not a repository's name: " + quote(from)}
		}
		mounted, err := h.backend.Mount(req.Context(), from, t.repo, d)
		if err != nil {
			return as(err, codeBlobUnknown, codeDigestInvalid)
		}
		if mounted {
			created(w, "/v2/"+t.repo+"/blobs/"+s, s)
			return nil
		}
	} else if s := t.query.Get("digest"); s != "" {
		d, err := parseDigest(s)
		if err != nil {
			return err
		}
		if err := h.backend.PutBlob(req.Context(), t.repo, d, req.ContentLength, req.Body); err != nil {
			return sent(err, codeNameUnknown, codeBlobUploadInvalid)
		}
		created(w, "/v2/"+t.repo+"/blobs/"+s, s)
		return nil
	}
	// A digest's algorithm is said at the end, so a client's wish for one (digest-algorithm) needs no answer.
	id, err := h.backend.StartUpload(req.Context(), t.repo)
	if errors.Is(err, api.Exhausted) {
		return &failure{http.StatusTooManyRequests, codeTooManyRequests, err.Error()}
	}
	if err != nil {
		return as(err, codeNameUnknown, codeNameInvalid)
	}
	t.upload = id
	progress(w, t, 0)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// uploadStatus says how much has come.
func (h *Handler) uploadStatus(w http.ResponseWriter, req *http.Request, t target) error {
	size, err := h.backend.UploadSize(req.Context(), t.repo, t.upload)
	if err != nil {
		return as(err, codeBlobUploadUnknown, codeBlobUploadInvalid)
	}
	progress(w, t, size)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// appendUpload takes in a part.
func (h *Handler) appendUpload(w http.ResponseWriter, req *http.Request, t target) error {
	offset, length, err := part(req)
	if err != nil {
		return h.outOfOrder(w, req, t, err)
	}
	size, err := h.backend.AppendUpload(req.Context(), t.repo, t.upload, offset, length, req.Body)
	if err != nil {
		return h.outOfOrder(w, req, t, err)
	}
	progress(w, t, size)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// finishUpload takes in the last part, or none, and makes it a blob.
func (h *Handler) finishUpload(w http.ResponseWriter, req *http.Request, t target) error {
	s := t.query.Get("digest")
	d, err := parseDigest(s)
	if err != nil {
		return err
	}
	offset, length, err := part(req)
	if err != nil {
		return h.outOfOrder(w, req, t, err)
	}
	if _, err := h.backend.FinishUpload(req.Context(), t.repo, t.upload, d, offset, length, req.Body); err != nil {
		return h.outOfOrder(w, req, t, err)
	}
	created(w, "/v2/"+t.repo+"/blobs/"+s, s)
	return nil
}

// cancelUpload forgets what came.
func (h *Handler) cancelUpload(w http.ResponseWriter, req *http.Request, t target) error {
	if err := h.backend.CancelUpload(req.Context(), t.repo, t.upload); err != nil {
		return as(err, codeBlobUploadUnknown, codeBlobUploadInvalid)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// errPart is a part that contradicts itself: it is refused like one that is out of order.
var errPart = api.Errorf(api.Conflict, "Content-Range must be FIRST-LAST in bytes, and as long as Content-Length says")

// outOfOrder adds to the refusal of a part where the upload stands.
func (h *Handler) outOfOrder(w http.ResponseWriter, req *http.Request, t target, err error) error {
	if !errors.Is(err, api.Conflict) {
		return sent(err, codeBlobUploadUnknown, codeBlobUploadInvalid)
	}
	size, serr := h.backend.UploadSize(req.Context(), t.repo, t.upload)
	if serr != nil {
		return as(serr, codeBlobUploadUnknown, codeBlobUploadInvalid)
	}
	progress(w, t, size)
	return &failure{http.StatusRequestedRangeNotSatisfiable, codeBlobUploadInvalid, err.Error()}
}

// part reads where a part begins and how long it is, each -1 where the request does not say.
func part(req *http.Request) (offset, length int64, err error) {
	length = req.ContentLength
	header := req.Header.Get("Content-Range")
	if header == "" {
		return -1, length, nil
	}
	first, last, ok := strings.Cut(header, "-")
	from, err1 := strconv.ParseUint(first, 10, 62)
	to, err2 := strconv.ParseUint(last, 10, 62)
	if !ok || err1 != nil || err2 != nil || to+1 < from {
		return 0, 0, errPart
	}
	n := int64(to) - int64(from) + 1
	if length >= 0 && length != n {
		return 0, 0, errPart
	}
	return int64(from), n, nil
}

// progress says where an upload goes on, and what has come. The protocol has no way to say that nothing has.
func progress(w http.ResponseWriter, t target, size int64) {
	w.Header().Set("Location", "/v2/"+t.repo+"/blobs/uploads/"+t.upload)
	w.Header().Set("Range", "0-"+strconv.FormatInt(max(size-1, 0), 10))
	w.Header().Set("Docker-Upload-Uuid", t.upload)
}
