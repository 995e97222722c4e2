package snapshot

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"

	"brig/api"

	"github.com/opencontainers/go-digest"
)

const (
	aheadChunks    = 6
	aheadChunkSize = 256 << 10
)

// ahead reads a stream, and hashes it, while the consumer works on what was read before: decompression and hashing take one
// processor, the system calls of extraction another.
type ahead struct {
	ctx    context.Context
	cancel context.CancelFunc
	full   chan []byte
	empty  chan []byte
	done   chan struct{} // closed when the reader is at its end; then hash, size and err are the consumer's
	hash   hash.Hash
	size   int64
	err    error // why the reader ended; io.EOF at the end of the stream
	chunk  []byte
	rest   []byte // of chunk, not consumed yet
}

func newAhead(ctx context.Context, r io.Reader) *ahead {
	a := &ahead{
		full:  make(chan []byte, aheadChunks),
		empty: make(chan []byte, aheadChunks),
		done:  make(chan struct{}),
		hash:  sha256.New(),
	}
	a.ctx, a.cancel = context.WithCancel(ctx)
	for range aheadChunks {
		a.empty <- nil
	}
	go a.run(r)
	return a
}

// run is the reader.
func (a *ahead) run(r io.Reader) {
	defer close(a.done)
	defer close(a.full)
	for {
		var chunk []byte
		select {
		case chunk = <-a.empty:
		case <-a.ctx.Done():
			a.err = a.ctx.Err()
			return
		}
		if chunk == nil {
			chunk = make([]byte, aheadChunkSize)
		}
		n := 0
		var err error
		for n < len(chunk) && err == nil {
			var m int
			m, err = r.Read(chunk[n:])
			n += m
		}
		a.hash.Write(chunk[:n])
		a.size += int64(n)
		if n > 0 {
			a.full <- chunk[:n] // never blocks: there are no more chunks than places
		}
		if err != nil {
			a.err = err
			return
		}
	}
}

// Read gives what was read ahead.
func (a *ahead) Read(p []byte) (int, error) {
	if err := a.more(); err != nil {
		return 0, err
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Discard passes over n bytes, fewer at the end of the stream.
func (a *ahead) Discard(n int64) (int64, error) {
	for left := n; left > 0; {
		if err := a.more(); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n - left, err
		}
		m := min(left, int64(len(a.rest)))
		a.rest = a.rest[m:]
		left -= m
	}
	return n, nil
}

// more waits until something of what was read is left.
func (a *ahead) more() error {
	if len(a.rest) > 0 {
		return nil
	}
	if a.chunk != nil {
		a.empty <- a.chunk[:aheadChunkSize]
		a.chunk = nil
	}
	chunk, ok := <-a.full
	if !ok {
		<-a.done
		return a.err
	}
	a.chunk, a.rest = chunk, chunk
	return nil
}

// verify reads to the end, at most limit bytes (-1: any number), and holds the digest of the whole stream against want.
func (a *ahead) verify(want digest.Digest, limit int64) error {
	buf := make([]byte, aheadChunkSize)
	var n int64
	for {
		m, err := a.Read(buf)
		n += int64(m)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if limit >= 0 && n > limit {
			return api.Errorf(api.Corrupt, "more than %d bytes follow the end of the archive", limit)
		}
	}
	if got := digest.NewDigest(digest.SHA256, a.hash); got != want {
		return api.Errorf(api.Corrupt, "the archive's digest is %s", got)
	}
	return nil
}

// verifyBlob reads to the end and holds digest and length of the whole stream against a blob's.
func (a *ahead) verifyBlob(want digest.Digest, size int64) error {
	if _, err := io.Copy(io.Discard, a); err != nil {
		return err
	}
	if a.size != size {
		return api.Errorf(api.Corrupt, "blob %s: %d bytes arrived instead of %d", want, a.size, size)
	}
	if got := digest.NewDigest(digest.SHA256, a.hash); got != want {
		return api.Errorf(api.Corrupt, "blob %s: the bytes that arrived have digest %s", want, got)
	}
	return nil
}

// stop ends the reader and waits until it has left the stream alone.
func (a *ahead) stop() {
	a.cancel()
	<-a.done
}
