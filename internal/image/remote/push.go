package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
)

const (
	// uploadTries is how often in a row an upload may break off without the registry having more of it than before.
	uploadTries = 4
	// maxMounts is how many repositories a blob is looked for in before it is uploaded: each costs a request.
	maxMounts = 3
)

// Opener reads a blob from byte offset on. The caller closes what it gives.
type Opener func(ctx context.Context, offset int64) (io.ReadCloser, error)

// Outcome is how a blob came to be in a repository.
type Outcome struct {
	Existed bool
	Mounted string // the repository's path in the same registry; empty: it was not mounted
}

// HasBlob asks whether the repository holds a blob.
func (r *Repository) HasBlob(ctx context.Context, d digest.Digest) (bool, error) {
	return r.has(ctx, "blobs/"+d.String(), "")
}

// HasManifest asks whether the repository holds a manifest or an index under just this digest.
func (r *Repository) HasManifest(ctx context.Context, d digest.Digest) (bool, error) {
	return r.has(ctx, "manifests/"+d.String(), accept)
}

func (r *Repository) has(ctx context.Context, path, want string) (bool, error) {
	resp, err := r.registry().get(ctx, http.MethodHead, path, want, 0, -1)
	switch {
	case err == nil:
		resp.Body.Close()
		return true, nil
	case errors.Is(err, api.NotFound):
		return false, nil
	default:
		return false, err
	}
}

// PutBlob sees to it that the repository holds a blob, in the cheapest way: it has it; it mounts it from one of the repositories in from,
// paths in the same registry; it is uploaded, and goes on where it stopped when the connection breaks. count is told of bytes as they go
// out for the first time.
func (r *Repository) PutBlob(ctx context.Context, d imagespec.Descriptor, from []string, open Opener, count func(int)) (Outcome, error) {
	if ok, err := r.HasBlob(ctx, d.Digest); ok || err != nil {
		return Outcome{Existed: ok}, err
	}
	u := &upload{repo: r, desc: d, open: open, count: count}
	for i, path := range from {
		if i == maxMounts {
			break
		}
		u.cancel(ctx) // begun in vain by the last try
		mounted, err := u.begin(ctx, path)
		if mounted {
			return Outcome{Mounted: path}, nil
		}
		if err != nil && ctx.Err() != nil {
			return Outcome{}, context.Cause(ctx)
		} // what else is wrong shows without a mount
	}
	return Outcome{}, u.run(ctx)
}

// upload is one blob on its way out.
type upload struct {
	repo  *Repository
	desc  imagespec.Descriptor
	open  Opener
	count func(int)

	at     *url.URL // where the registry wants the next request; nil: none is begun
	offset int64    // bytes that the registry has
	sent   int64    // the most that was ever sent, for count
}

// run uploads until the registry has the whole, or a try gets nowhere too often.
func (u *upload) run(ctx context.Context) error {
	best := int64(-1)
	for try := 1; ; {
		err := u.once(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			u.abandon()
			return context.Cause(ctx)
		}
		if !again(err) {
			u.abandon()
			return u.explain(ctx, err)
		}
		if serr := pause(ctx, backoff(try)); serr != nil {
			u.abandon()
			return serr
		}
		// The answer to the last request may have been lost alone.
		if ok, herr := u.repo.HasBlob(ctx, u.desc.Digest); herr == nil && ok {
			return nil
		}
		u.status(ctx)
		if u.offset > best {
			best, try = u.offset, 1
		} else if try++; try > uploadTries {
			u.abandon()
			return u.explain(ctx, err)
		}
	}
}

// once sends what the registry lacks and closes the upload.
func (u *upload) once(ctx context.Context) error {
	if u.at == nil {
		if _, err := u.begin(ctx, ""); err != nil {
			return err
		}
	}
	if u.offset < u.desc.Size {
		if err := u.patch(ctx); err != nil {
			return err
		}
	}
	resp, err := u.repo.registry().try(ctx, request{method: http.MethodPut, path: u.at.String(), query: url.Values{"digest": {u.desc.Digest.String()}},
		header: octets(), body: func() (io.ReadCloser, error) { return http.NoBody, nil }, ok: []int{http.StatusCreated, http.StatusNoContent}})
	if err != nil {
		return err
	}
	resp.Body.Close()
	return nil
}

func octets() http.Header { return http.Header{"Content-Type": {"application/octet-stream"}} }

// begin asks for an upload; with from, that the blob be mounted from there, which makes the upload needless.
func (u *upload) begin(ctx context.Context, from string) (mounted bool, err error) {
	q := request{method: http.MethodPost, path: "blobs/uploads/", ok: []int{http.StatusAccepted, http.StatusCreated}}
	if from != "" {
		q.query = url.Values{"mount": {u.desc.Digest.String()}, "from": {from}}
	}
	resp, err := u.repo.registry().try(ctx, q)
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusCreated {
		return from != "", nil
	}
	u.at, err = u.next(resp)
	u.offset = 0
	return false, err
}

// patch streams the rest of the blob in one request.
func (u *upload) patch(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var b *outgoing // of the last try: a token that ran out makes two
	h := octets()
	if u.offset > 0 {
		h.Set("Content-Range", fmt.Sprintf("%d-%d", u.offset, u.desc.Size-1))
	}
	resp, err := u.repo.registry().try(ctx, request{method: http.MethodPatch, path: u.at.String(), header: h, size: u.desc.Size - u.offset,
		ok: []int{http.StatusAccepted, http.StatusCreated, http.StatusNoContent}, body: func() (io.ReadCloser, error) {
			r, err := u.open(ctx, u.offset)
			if err != nil {
				return nil, &sourceError{err}
			}
			b = &outgoing{u: u, r: r, at: u.offset}
			b.stall = time.AfterFunc(stallTime, func() { cancel(errStalled) })
			return b, nil
		}})
	if b != nil {
		defer b.Close()
	}
	if err != nil {
		var fault *error
		if b != nil {
			fault = b.fault.Load()
		}
		stalled := errors.Is(context.Cause(ctx), errStalled)
		cancel(nil) // ends a read of the source that is under way
		switch {
		case fault != nil: // what is wrong with our own bytes says more than the request that it broke
			return &sourceError{*fault}
		case stalled:
			return errStalled
		}
		return err
	}
	resp.Body.Close()
	at, err := u.next(resp)
	if err != nil {
		return err
	}
	u.at, u.offset = at, u.desc.Size
	return nil
}

// status asks how much of the upload the registry has. When it does not say, the upload begins anew.
func (u *upload) status(ctx context.Context) {
	was := u.at
	u.at, u.offset = nil, 0
	if was == nil {
		return
	}
	resp, err := u.repo.registry().try(ctx, request{method: http.MethodGet, path: was.String(), ok: []int{http.StatusNoContent, http.StatusOK, http.StatusAccepted}})
	if err != nil {
		return
	}
	resp.Body.Close()
	n, ok := received(resp.Header.Get("Range"))
	if !ok || n > u.desc.Size {
		return
	}
	if at, err := u.next(resp); err == nil {
		u.at, u.offset = at, n
	}
}

// received reads the header of an upload's status: 0-N, the last byte that has arrived; "0-0" stands for one byte and for none, so it is
// taken for none.
func received(s string) (int64, bool) {
	first, last, ok := strings.Cut(strings.TrimPrefix(s, "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || first != "0" || err != nil || n < 0 || n == 1<<63-1 {
		return 0, false
	}
	if n == 0 {
		return 0, true
	}
	return n + 1, true
}

// abandon tells the registry that nothing more comes, for as long as that takes no time worth a word.
func (u *upload) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	u.cancel(ctx)
}

func (u *upload) cancel(ctx context.Context) {
	if u.at == nil {
		return
	}
	q := request{method: http.MethodDelete, path: u.at.String(), ok: []int{http.StatusNoContent, http.StatusOK, http.StatusAccepted}}
	if resp, err := u.repo.registry().try(ctx, q); err == nil {
		resp.Body.Close()
	}
	u.at, u.offset = nil, 0
}

// next is where an answer sends the next request: relative to the last, and to HTTP or HTTPS only.
func (u *upload) next(resp *http.Response) (*url.URL, error) {
	last := resp.Request.URL
	s := resp.Header.Get("Location")
	if s == "" {
		return last, nil
	}
	at, err := last.Parse(s)
	if err != nil || at.Scheme != "https" && at.Scheme != "http" || at.Host == "" {
		return nil, api.Errorf(api.Corrupt, "%s: it sends the upload of %s to %q, which is no address", u.repo.registry().at.Name(), u.desc.Digest, printable(s))
	}
	if last.Scheme == "https" && at.Scheme == "http" {
		return nil, errDowngrade
	}
	at.User = nil
	return at, nil
}

func (u *upload) explain(ctx context.Context, err error) error {
	var own *sourceError
	if errors.As(err, &own) {
		return own.err
	}
	return u.repo.explainPush(ctx, err)
}

// sourceError is an error of what is uploaded, not of the upload.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// again reports whether another try may help: the connection, a token or the registry failed, not the request.
func again(err error) bool {
	var own *sourceError
	var answer *statusError
	var refused *tokenError
	switch {
	case errors.As(err, &refused):
		return refused.kind() != api.Unauthorized
	case errors.As(err, &own), errors.Is(err, errPlainHTTP), errors.Is(err, errDowngrade), api.KindOf(err) != "":
		return false
	case errors.As(err, &answer):
		s := answer.code
		// An upload that the registry has lost, or counts otherwise, begins anew.
		return s >= 500 || s == http.StatusRequestTimeout || s == http.StatusTooManyRequests || s == http.StatusRequestedRangeNotSatisfiable ||
			answer.word == "BLOB_UPLOAD_UNKNOWN" || answer.word == "BLOB_UPLOAD_INVALID"
	}
	return true
}

// outgoing is the body of a request: counted, and given up when the registry takes nothing for long.
type outgoing struct {
	u     *upload
	stall *time.Timer

	mu   sync.Mutex // held while r is read: the connection may read on for a moment after the request has its answer
	r    io.ReadCloser
	at   int64
	shut bool

	fault atomic.Pointer[error] // of r
}

// Read implements io.Reader. The timer runs only while the connection has the word.
func (b *outgoing) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shut {
		return 0, http.ErrBodyReadAfterClose
	}
	b.stall.Stop()
	n, err := b.r.Read(p)
	b.at += int64(n)
	switch size := b.u.desc.Size; {
	case b.at > size:
		err = api.Errorf(api.Corrupt, "blob %s: more than the %d bytes of its descriptor", b.u.desc.Digest, size)
	case err == io.EOF && b.at < size:
		err = api.Errorf(api.Corrupt, "blob %s: %d bytes instead of %d", b.u.desc.Digest, b.at, size)
	}
	if err != nil && err != io.EOF {
		b.fault.CompareAndSwap(nil, &err)
		return 0, err
	}
	if b.at > b.u.sent {
		b.u.count(int(b.at - b.u.sent))
		b.u.sent = b.at
	}
	if err == nil {
		b.stall.Reset(stallTime)
	}
	return n, err
}

// Close implements io.Closer.
func (b *outgoing) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shut {
		return nil
	}
	b.shut = true
	b.stall.Stop()
	return b.r.Close()
}

// PutManifest stores a manifest or an index: under its digest, and under tag where that is not empty. Its subject is known to the registry
// as such when referrers is true; else who wants it found writes the fallback tag. Sent are just the bytes of doc.
func (r *Repository) PutManifest(ctx context.Context, doc image.Document, tag string) (referrers bool, err error) {
	id := doc.Descriptor.Digest.String()
	if tag != "" {
		id = tag
	}
	for try := 1; ; try++ {
		resp, err := r.registry().try(ctx, request{method: http.MethodPut, path: "manifests/" + id, header: http.Header{"Content-Type": {doc.Descriptor.MediaType}},
			size: int64(len(doc.Bytes)), body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(doc.Bytes)), nil },
			ok: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted}})
		if err != nil {
			if ctx.Err() == nil && again(err) && try < tries {
				if err := pause(ctx, backoff(try)); err != nil {
					return false, err
				}
				continue
			}
			return false, r.explainPush(ctx, err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != doc.Descriptor.Digest.String() && doc.Descriptor.Digest.Algorithm() == digest.SHA256 {
			return false, api.Errorf(api.Corrupt, "%s: it stored the manifest %s as %s", r.registry().at.Name(), doc.Descriptor.Digest, printable(got))
		}
		return resp.Header.Get("OCI-Subject") != "", nil
	}
}

// explainPush adds to what is said of every failed request what only writing brings.
func (r *Repository) explainPush(ctx context.Context, err error) error {
	about := r.registry().about
	var answer *statusError
	if ctx.Err() != nil || api.KindOf(err) != "" || !errors.As(err, &answer) {
		return about.explain(ctx, err)
	}
	name, text := r.ref.FamiliarName(), answer.text
	switch {
	case answer.code == http.StatusMethodNotAllowed, answer.word == "UNSUPPORTED":
		return api.Errorf(api.Unsupported, "repository %s: %s cannot be written to (%s)", name, about.place, text)
	case answer.code == http.StatusRequestEntityTooLarge:
		return api.Errorf(api.Exhausted, "repository %s: %s, or a proxy before it, takes no body of this size (%s)", name, about.place, text)
	case answer.word == "MANIFEST_BLOB_UNKNOWN", answer.word == "BLOB_UNKNOWN":
		return api.Errorf(api.Conflict, "repository %s: %s lost a blob that it had a moment ago (%s): push again", name, about.place, text)
	}
	return about.explain(ctx, err)
}
