package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"brig/api"
)

// The error codes of the distribution specification.
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeBlobUploadInvalid   = "BLOB_UPLOAD_INVALID"
	codeBlobUploadUnknown   = "BLOB_UPLOAD_UNKNOWN"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codeUnauthorized        = "UNAUTHORIZED"
	codeUnsupported         = "UNSUPPORTED"
	codeTooManyRequests     = "TOOMANYREQUESTS"
	codeUnknown             = "UNKNOWN"     // docker's, for what is not the client's fault
	codeUnavailable         = "UNAVAILABLE" // docker's
)

// failure is an answer that is an error.
type failure struct {
	status  int
	code    string
	message string
}

func (f *failure) Error() string { return f.message }

// gone is a failure to write an answer: the client went away, or the blob broke off, which the client sees by the answer's length.
type goneError struct{ error }

func gone(err error) error {
	if err == nil {
		return nil
	}
	return goneError{err}
}

// as gives an error of the backend the answer for where it happened: what is missing is missing, what is invalid invalid.
func as(err error, missing, invalid string) error {
	if err == nil {
		return nil
	}
	switch api.KindOf(err) {
	case api.NotFound:
		return &failure{http.StatusNotFound, missing, err.Error()}
	case api.InvalidArgument:
		return &failure{http.StatusBadRequest, invalid, err.Error()}
	case api.Unsupported:
		return &failure{http.StatusMethodNotAllowed, codeUnsupported, err.Error()}
	}
	return err
}

// sent is as for what a client sent, whose bytes may be others than their digest says.
func sent(err error, missing, invalid string) error {
	if errors.Is(err, api.Corrupt) {
		return &failure{http.StatusBadRequest, codeDigestInvalid, err.Error()}
	}
	return as(err, missing, invalid)
}

// fail answers with an error. What is not the client's fault is told to the log, and to the client only that there is something.
func (h *Handler) fail(w http.ResponseWriter, req *http.Request, err error) {
	var g goneError
	if errors.As(err, &g) {
		if !errors.Is(err, context.Canceled) && req.Context().Err() == nil {
			h.options.Log("%s %s: %v", req.Method, quote(req.URL.Path), g.error)
		}
		panic(http.ErrAbortHandler) // the answer has begun: a broken connection is all that can be said
	}
	var f *failure
	if !errors.As(err, &f) {
		f = h.unexpected(req, err)
	}
	if f.status == http.StatusServiceUnavailable || f.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "5")
	}
	b, err := json.Marshal(map[string]any{"errors": []map[string]string{{"code": f.code, "message": f.message}}})
	if err != nil {
		b = []byte(`{"errors":[]}`)
	}
	for _, name := range []string{"Content-Range", "Etag", "Docker-Content-Digest", "Accept-Ranges"} {
		w.Header().Del(name)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(f.status)
	if req.Method != http.MethodHead {
		_, _ = w.Write(b)
	}
}

// unexpected is the answer to what no handler foresaw.
func (h *Handler) unexpected(req *http.Request, err error) *failure {
	if req.Context().Err() != nil { // nobody reads it
		return &failure{http.StatusServiceUnavailable, codeUnavailable, "the request was given up"}
	}
	var broken brokenError
	var tooLong *http.MaxBytesError
	switch kind := api.KindOf(err); {
	case errors.As(err, &tooLong):
		return &failure{http.StatusRequestEntityTooLarge, codeManifestInvalid, fmt.Sprintf("longer than the %d bytes that are allowed", tooLong.Limit)}
	case errors.As(err, &broken):
		return &failure{http.StatusBadRequest, codeBlobUploadInvalid, "the request broke off: " + broken.Error()}
	case kind == api.Unavailable:
		h.options.Log("%s %s: %v", req.Method, quote(req.URL.Path), err)
		return &failure{http.StatusServiceUnavailable, codeUnavailable, err.Error()}
	case kind == api.Exhausted:
		h.options.Log("%s %s: %v", req.Method, quote(req.URL.Path), err)
		return &failure{http.StatusInsufficientStorage, codeUnavailable, "a limit or the disk of the registry is used up"}
	}
	h.options.Log("%s %s: %v", req.Method, quote(req.URL.Path), err)
	return &failure{http.StatusInternalServerError, codeUnknown, "the registry failed; its log says why"}
}

// quote makes what a client sent safe to show.
func quote(s string) string {
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return strconv.QuoteToASCII(s)
}
