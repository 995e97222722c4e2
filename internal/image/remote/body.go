package remote

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

const (
	// maxBreaks is how often in a row a body may break off without a byte of progress.
	maxBreaks = 3
	// stallTime is how long a body may be silent before its connection is given up.
	stallTime = 60 * time.Second
)

var errStalled = errors.New("no data for 60 seconds")

// body reads a blob and resumes it by a range request where it breaks off.
type body struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	repo   *Repository
	path   string
	accept string
	desc   imagespec.Descriptor

	request context.Context // of the present request; cancelled with errStalled as its cause
	stop    context.CancelFunc
	resp    io.ReadCloser
	stall   *time.Timer
	offset  int64
	breaks  int
}

// open asks for the rest of the blob.
func (b *body) open() error {
	ctx, cancel := context.WithCancelCause(b.ctx)
	stall := time.AfterFunc(stallTime, func() { cancel(errStalled) })
	resp, err := b.repo.get(ctx, http.MethodGet, b.path, b.accept, b.offset) //nolint:bodyclose // shut closes it
	if err != nil {
		stall.Stop()
		cancel(nil)
		return err
	}
	stall.Stop()
	b.request, b.stop, b.resp, b.stall = ctx, func() { cancel(nil) }, resp.Body, stall
	skip := b.offset
	if resp.StatusCode == http.StatusPartialContent {
		skip = 0
	}
	if n := resp.ContentLength; n >= 0 && n != b.desc.Size-b.offset+skip {
		b.shut()
		return api.Errorf(api.Corrupt, "%s: %s is announced with %d bytes, the manifest says %d", b.repo.Where(), b.desc.Digest, n+b.offset-skip, b.desc.Size)
	}
	if _, err := io.CopyN(io.Discard, b.resp, skip); err != nil { // the registry knows no ranges
		b.shut()
		return b.broken(err)
	}
	return nil
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	for {
		if b.resp != nil {
			b.stall.Reset(stallTime) // runs only while we wait: the reader of a layer may itself wait for long
			n, err := b.resp.Read(p)
			b.stall.Stop()
			b.offset += int64(n)
			if n > 0 {
				b.breaks = 0
				if b.offset > b.desc.Size {
					return 0, api.Errorf(api.Corrupt, "%s: %s is longer than the %d bytes of its manifest", b.repo.Where(), b.desc.Digest, b.desc.Size)
				}
				return n, nil
			}
			if err == nil {
				continue
			}
			if err == io.EOF && b.offset >= b.desc.Size {
				return 0, io.EOF
			}
			if b.request.Err() != nil {
				err = context.Cause(b.request)
			}
			b.shut()
			if err := b.again(err); err != nil {
				return 0, err
			}
		}
		if err := b.open(); err != nil {
			if api.KindOf(err) == api.NotFound || api.KindOf(err) == api.Unauthorized || api.KindOf(err) == api.Corrupt {
				return 0, err
			}
			if err := b.again(err); err != nil {
				return 0, err
			}
		}
	}
}

// again waits before the next try, or says why there is none.
func (b *body) again(cause error) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if b.breaks++; b.breaks > maxBreaks {
		return b.broken(cause)
	}
	return pause(b.ctx, backoff(b.breaks))
}

func (b *body) broken(cause error) error {
	if cause == io.EOF || errors.Is(cause, io.ErrUnexpectedEOF) {
		return api.Errorf(api.Corrupt, "%s: %s is cut short: %d of %d bytes came, also when asked again", b.repo.Where(), b.desc.Digest, b.offset, b.desc.Size)
	}
	return explain(b.ctx, b.repo.ref, cause)
}

func (b *body) shut() {
	if b.resp != nil {
		b.stall.Stop()
		b.stop()
		b.resp.Close()
		b.resp = nil
	}
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.shut()
	b.cancel(nil)
	return nil
}
