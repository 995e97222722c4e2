package registry

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

// getBlob answers GET and HEAD, whole or in part.
func (h *Handler) getBlob(w http.ResponseWriter, req *http.Request, t target) error {
	size, open, err := h.backend.Blob(req.Context(), t.repo, t.digest)
	if err != nil {
		return as(err, codeBlobUnknown, codeDigestInvalid)
	}
	head := w.Header()
	head.Set("Docker-Content-Digest", t.digest.String())
	head.Set("Etag", `"`+t.digest.String()+`"`)
	head.Set("Content-Type", "application/octet-stream")
	// Parts in any order would be a reading of the blob from its beginning for each. Who asks for several gets the whole.
	if strings.Contains(req.Header.Get("Range"), ",") {
		req.Header.Del("Range")
	}
	b := &blob{open: open, size: size}
	defer b.close()
	if req.Method != http.MethodHead {
		if err := b.begin(); err != nil { // before the answer begins
			return as(err, codeBlobUnknown, codeDigestInvalid)
		}
	}
	http.ServeContent(w, req, "", time.Time{}, b)
	return gone(b.err)
}

// deleteBlob takes a blob from a repository.
func (h *Handler) deleteBlob(w http.ResponseWriter, req *http.Request, t target) error {
	return accepted(w, as(h.backend.DeleteBlob(req.Context(), t.repo, t.digest), codeBlobUnknown, codeDigestInvalid))
}

// blob lets http.ServeContent seek in what can only be read from its beginning: it reads up to the place. The last byte is given only when
// the blob is seen to end after it as its digest wants: a damaged blob never arrives whole.
type blob struct {
	open   func() (io.ReadCloser, error)
	size   int64
	at     int64 // where ServeContent is
	read   int64 // where the reader is
	reader io.ReadCloser
	err    error
}

var errSize = errors.New("the blob's length is not the announced one")

func (b *blob) begin() error {
	r, err := b.open()
	if err != nil {
		return err
	}
	b.reader, b.read = r, 0
	return nil
}

func (b *blob) close() {
	if b.reader != nil {
		b.reader.Close()
		b.reader = nil
	}
}

// Seek implements io.Seeker.
func (b *blob) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.at
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return 0, errors.New("before the beginning")
	}
	b.at = offset
	return offset, nil
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.at >= b.size {
		return 0, io.EOF
	}
	n, err := b.next(p)
	b.at += int64(n)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

func (b *blob) next(p []byte) (int, error) {
	if b.reader == nil || b.read > b.at {
		b.close()
		if err := b.begin(); err != nil {
			return 0, err
		}
	}
	if b.read < b.at {
		n, err := io.CopyN(io.Discard, b.reader, b.at-b.read)
		b.read += n
		if err == io.EOF {
			err = errSize
		}
		if err != nil {
			return 0, err
		}
	}
	if int64(len(p)) > b.size-b.at {
		p = p[:b.size-b.at]
	}
	n, err := b.reader.Read(p)
	b.read += int64(n)
	if err == io.EOF && b.read < b.size {
		return 0, errSize
	}
	if b.read == b.size && (err == nil || err == io.EOF) {
		if err := b.end(); err != nil {
			return 0, err
		}
		return n, nil
	}
	return n, err
}

// end reads on after the last byte: there the digest is checked.
func (b *blob) end() error {
	var one [1]byte
	for range 100 {
		switch n, err := b.reader.Read(one[:]); {
		case n > 0:
			return errSize
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}
