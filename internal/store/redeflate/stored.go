package redeflate

import (
	"encoding/binary"
	"errors"
	"io"
)

// Stored does for a stream that is not compressed what Reader does for gzip: its clusters hold the bytes as they are, in deflate's stored blocks.
type Stored struct {
	r    io.Reader
	emit func(Cluster) error
	buf  []byte // of one cluster's bytes, not all read yet by the caller
	rest []byte
	at   int64
	w    bitWriter
	ops  []byte
	err  error
}

// maxStored is how many bytes a stored block can hold.
const maxStored = 1<<16 - 1

// NewStored makes a Stored of r. emit is that of NewReader.
func NewStored(r io.Reader, emit func(Cluster) error) *Stored {
	return &Stored{r: r, emit: emit, buf: make([]byte, ClusterSize)}
}

// Read implements io.Reader.
func (z *Stored) Read(p []byte) (int, error) {
	if len(z.rest) == 0 {
		if z.err != nil {
			return 0, z.err
		}
		n, err := io.ReadFull(z.r, z.buf)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		z.err = err
		if n > 0 && (err == nil || err == io.EOF) {
			if cerr := z.cluster(z.buf[:n]); cerr != nil {
				z.err = cerr
				return 0, cerr
			}
		}
		z.rest = z.buf[:n]
	}
	n := copy(p, z.rest)
	z.rest = z.rest[n:]
	if n == 0 {
		return 0, z.err
	}
	return n, nil
}

// cluster makes a cluster of b.
func (z *Stored) cluster(b []byte) error {
	size := len(b)
	z.w.reset()
	z.ops = z.ops[:0]
	z.w.write(2, 10) // an empty block: the first byte of a cluster is not zero
	for len(b) > 0 {
		part := b[:min(len(b), maxStored)]
		b = b[len(part):]
		last := uint64(0)
		if len(b) == 0 {
			last = 1
		}
		z.w.write(last, 3)
		z.w.align()
		n := len(part)
		z.w.bytes([]byte{byte(n), byte(n >> 8), ^byte(n), ^byte(n >> 8)})
		z.ops = append(z.ops, opBytes)
		z.ops = binary.AppendUvarint(z.ops, uint64(len(z.w.buf)))
		z.ops = binary.AppendUvarint(z.ops, uint64(n))
		z.w.bytes(part)
	}
	z.ops = append(z.ops, opCluster)
	c := Cluster{Offset: z.at, Size: size, Data: z.w.buf, Recipe: z.ops}
	z.at += int64(size)
	return z.emit(c)
}
