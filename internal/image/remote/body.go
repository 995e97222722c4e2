package remote

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image/remote/hosts"
)

const (
	// maxBreaks is how often in a row a body may break off without a byte of progress.
	maxBreaks = 3
	// stallTime is how long a body may be silent before its connection is given up.
	stallTime = 60 * time.Second
)

var errStalled = errors.New("no data, or hardly any, for too long")

// body reads a blob and resumes it by a range request where it breaks off, at the place where it came from or, once that has failed for
// good, at the next.
type body struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	repo   *Repository
	path   string
	accept string
	desc   imagespec.Descriptor

	place   *place          // that is read from
	request context.Context // of the present request; cancelled with errStalled as its cause
	stop    context.CancelFunc
	resp    io.ReadCloser
	stall   *time.Timer
	left    time.Duration // of the time in which enough has to come
	enough  int64         // bytes that have to come yet, for the time to begin anew
	offset  int64
	end     int64 // where what is asked for ends; the blob goes on behind it only for a range
	breaks  int   // in a row without a byte
	cuts    int   // of a mirror, also with progress
}

// open asks the places for the rest of the blob, until one has it.
func (b *body) open() error {
	p, err := b.repo.each(b.ctx, b.openAt, func(e hosts.Endpoint) bool { return e.Pull })
	if err == nil {
		b.repo.came(p)
	}
	return err
}

func (b *body) openAt(p *place) error {
	ctx, cancel := context.WithCancelCause(b.ctx)
	resp, err := p.get(ctx, http.MethodGet, b.path, b.accept, b.offset, b.last()) //nolint:bodyclose // shut closes it
	if err != nil {
		cancel(nil)
		return err
	}
	if p != b.place {
		b.breaks, b.cuts = 0, 0
	}
	b.place, b.request, b.stop, b.resp = p, ctx, func() { cancel(nil) }, resp.Body
	b.stall = time.AfterFunc(time.Hour, func() { cancel(errStalled) })
	b.stall.Stop()
	b.left, b.enough = p.guard.patience.stall, p.guard.patience.least
	skip, end := b.offset, b.end
	if resp.StatusCode == http.StatusPartialContent {
		skip = 0
		if !rangeBegins(resp.Header.Get("Content-Range"), b.offset) {
			b.shut()
			return api.Errorf(api.Corrupt, "%s: %s: asked for the bytes from %d on, it sends others (%.100q)", p.at.Name(), b.desc.Digest, b.offset, resp.Header.Get("Content-Range"))
		}
	}
	if resp.StatusCode != http.StatusPartialContent {
		end = b.desc.Size
	}
	if end != b.end {
		b.shut()
		return api.Errorf(api.Unsupported, "%s: %s: it knows no ranges", p.at.Name(), b.desc.Digest)
	}
	if n := resp.ContentLength; n >= 0 && n != end-b.offset+skip {
		b.shut()
		return api.Errorf(api.Corrupt, "%s: %s is announced with %d bytes, the manifest says %d", p.at.Name(), b.desc.Digest, n+b.offset-skip, b.desc.Size)
	}
	for buf := make([]byte, 32<<10); skip > 0; { // it knows no ranges
		n, err := b.piece(buf[:min(skip, int64(len(buf)))])
		skip -= int64(n)
		if err != nil && skip > 0 {
			b.shut()
			return b.broken(p, err)
		}
	}
	return nil
}

// last is the last byte that is asked for, or -1 for all there is.
func (b *body) last() int64 {
	if b.end == b.desc.Size {
		return -1
	}
	return b.end - 1
}

// rangeBegins reads Content-Range: bytes FIRST-LAST/SIZE. Some servers leave it out.
func rangeBegins(s string, offset int64) bool {
	if s == "" {
		return true
	}
	rest, ok := strings.CutPrefix(s, "bytes ")
	first, _, dash := strings.Cut(rest, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	return ok && dash && err == nil && n == offset
}

// piece reads once from the present answer. The time for it runs only while we wait: the reader of a layer may itself wait for long.
func (b *body) piece(p []byte) (int, error) {
	begin := time.Now()
	b.stall.Reset(b.left)
	n, err := b.resp.Read(p)
	b.stall.Stop()
	b.left -= time.Since(begin)
	if b.enough -= int64(n); b.enough <= 0 {
		b.left, b.enough = b.place.guard.patience.stall, b.place.guard.patience.least
	}
	b.left = max(b.left, time.Millisecond)
	return n, err
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if b.resp != nil {
			n, err := b.piece(p)
			b.offset += int64(n)
			if b.offset > b.end {
				return 0, api.Errorf(api.Corrupt, "%s: %s is longer than the %d bytes of its manifest", b.place.at.Name(), b.desc.Digest, b.end)
			}
			if n > 0 {
				b.breaks = 0
				return n, nil
			}
			if err == nil {
				continue
			}
			if err == io.EOF && b.offset >= b.end {
				return 0, io.EOF
			}
			if b.request.Err() != nil {
				err = context.Cause(b.request)
			}
			b.shut()
			if err := b.again(b.place, err); err != nil {
				return 0, err
			}
		}
		if err := b.open(); err != nil {
			if api.KindOf(err) == api.NotFound || api.KindOf(err) == api.Unauthorized || api.KindOf(err) == api.Corrupt || api.KindOf(err) == api.Unsupported {
				return 0, err
			}
			if err := b.again(b.repo.registry(), err); err != nil { // the last that was asked
				return 0, err
			}
		}
	}
}

// again waits before the next try, or says why there is none. A mirror that keeps breaking off, or has stalled, is left.
func (b *body) again(p *place, cause error) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	b.breaks++
	if p != b.repo.registry() {
		if b.cuts++; b.breaks > 1 || b.cuts > maxBreaks || errors.Is(cause, errStalled) {
			b.repo.passOver(p, b.broken(p, cause))
			b.breaks = 0
			return nil
		}
	}
	if b.breaks > maxBreaks {
		return b.broken(p, cause)
	}
	return pause(b.ctx, backoff(b.breaks))
}

func (b *body) broken(p *place, cause error) error {
	if cause == io.EOF || errors.Is(cause, io.ErrUnexpectedEOF) {
		return api.Errorf(api.Corrupt, "%s: %s is cut short: %d of %d bytes came, also when asked again", p.at.Name(), b.desc.Digest, b.offset, b.desc.Size)
	}
	return p.about.explain(b.ctx, cause)
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
