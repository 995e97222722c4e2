// Package registry is the door for the OCI distribution protocol, version 1.1, with referrers: what docker, podman, skopeo and brig itself
// push to and pull from. It translates requests to calls of a [Backend] and holds no state but the passwords that it verified lately.
//
// It is written on net/http because no library does it whole: doc/adr/0003-registry-door.md.
//
// Everything in a request is an attacker's: names, tags and digests are checked by their grammar before anything is looked up by them, a
// manifest is read up to its limit, blobs pass in small pieces, a connection that stands still is closed.
package registry

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Backend is what the door serves. Errors have the kinds of package api: api.NotFound for what is not there, api.InvalidArgument and
// api.Corrupt for what a client sent, api.Unsupported for what is not done, api.Exhausted for a limit or a full disk.
type Backend interface {
	Reader
	Writer
	Uploader
}

// Reader is the part that every client needs.
type Reader interface {
	// Repositories and Tags are in alphabetical order.
	Repositories(ctx context.Context) ([]string, error)
	Tags(ctx context.Context, repo string) ([]string, error)
	// Manifest finds a tag or, where that is empty, a digest.
	Manifest(ctx context.Context, repo, tag string, d digest.Digest) (imagespec.Descriptor, []byte, error)
	// Blob returns a blob's size and how to read it from its beginning; instead of io.EOF comes an error if it is not what the digest says.
	Blob(ctx context.Context, repo string, d digest.Digest) (size int64, open func() (io.ReadCloser, error), err error)
	// Referrers come in the order of their digests, those after one that may be empty, until yield has enough.
	Referrers(ctx context.Context, repo string, subject, after digest.Digest, yield func(imagespec.Descriptor) bool) error
}

// Writer changes repositories.
type Writer interface {
	// PutManifest stores a manifest of digest want, "" for any, under tags; a blob that it names and that is missing is api.NotFound.
	PutManifest(ctx context.Context, repo, mediaType string, b []byte, want digest.Digest, tags []string) (got, subject digest.Digest, err error)
	// PutBlob stores a blob; length is its size in bytes, or -1.
	PutBlob(ctx context.Context, repo string, d digest.Digest, length int64, body io.Reader) error
	// Mount gives repo a blob of the repository from, "" for any, and reports whether there was one.
	Mount(ctx context.Context, from, repo string, d digest.Digest) (bool, error)
	DeleteTag(ctx context.Context, repo, tag string) error
	DeleteManifest(ctx context.Context, repo string, d digest.Digest) error
	DeleteBlob(ctx context.Context, repo string, d digest.Digest) error
}

// Uploader takes in blobs in several requests. Sizes are what has come so far, in bytes, also when there is an error. A part must begin at
// offset, unless that is negative, else it is api.Conflict; its length may be -1. An upload that another request writes is api.Unavailable.
type Uploader interface {
	StartUpload(ctx context.Context, repo string) (id string, err error)
	UploadSize(ctx context.Context, repo, id string) (int64, error)
	AppendUpload(ctx context.Context, repo, id string, offset, length int64, body io.Reader) (int64, error)
	FinishUpload(ctx context.Context, repo, id string, d digest.Digest, offset, length int64, body io.Reader) (int64, error)
	CancelUpload(ctx context.Context, repo, id string) error
}

const (
	maxManifest = 4 << 20 // bytes; docker's and the specification's
	// idle is how long a client may neither send nor take a byte.
	idle = 2 * time.Minute
)

// Options are the user's choices. The zero value lets everybody do everything.
type Options struct {
	ReadOnly bool
	Users    *Users // nil: no password is asked for
	// Log is told of failures that are not the client's; nil: nobody is.
	Log func(format string, args ...any)
}

// Handler serves a backend.
type Handler struct {
	backend Backend
	options Options
}

// New makes a handler.
func New(b Backend, o Options) *Handler {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	return &Handler{b, o}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w, req = patient(w, req)
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if h.options.Users != nil && !h.options.Users.allow(req) {
		w.Header().Set("Www-Authenticate", `Basic realm="Brig registry", charset="UTF-8"`)
		h.fail(w, req, &failure{http.StatusUnauthorized, codeUnauthorized, "authentication required"})
		return
	}
	if err := h.serve(w, req); err != nil {
		h.fail(w, req, err)
	}
}

// serve finds the route and takes it.
func (h *Handler) serve(w http.ResponseWriter, req *http.Request) error {
	t, err := parse(req)
	if err != nil {
		return err
	}
	verb := t.verbs()[req.Method]
	if verb == nil {
		return &failure{http.StatusMethodNotAllowed, codeUnsupported, req.Method + " is not possible here"}
	}
	if h.options.ReadOnly && req.Method != http.MethodGet && req.Method != http.MethodHead {
		return &failure{http.StatusMethodNotAllowed, codeUnsupported, "the registry is read-only"}
	}
	return verb(h, w, req, t)
}

// ping says that the protocol is spoken here.
func (h *Handler) ping(w http.ResponseWriter, _ *http.Request, _ target) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := io.WriteString(w, "{}")
	return gone(err)
}
