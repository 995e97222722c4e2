package redeflate

import (
	"encoding/binary"
	"errors"
	"io"

	"brig/internal/store/cluster"
)

// Stored does for a stream that is not compressed what Reader does for gzip: its clusters hold the bytes as they are, in deflate's stored blocks.
type Stored struct {
	r     io.Reader
	emit  func(cluster.Cluster) error
	files cluster.Files
	buf   []byte // read; those before rest are a cluster's
	rest  []byte // of that cluster, not all read yet by the caller
	n     int    // bytes of the cluster
	at    int64  // offset in the stream of the byte after it
	w     bitWriter
	ops   []byte
	err   error // of r
}

// maxStored is how many bytes a stored block can hold.
const maxStored = 1<<16 - 1

// NewStored makes a Stored of r. emit is that of NewReader.
func NewStored(r io.Reader, emit func(cluster.Cluster) error) *Stored {
	return &Stored{r: r, emit: emit, buf: make([]byte, 0, cluster.Most)}
}

// Read implements io.Reader.
func (z *Stored) Read(p []byte) (int, error) {
	if len(z.rest) == 0 {
		if err := z.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, z.rest)
	z.rest = z.rest[n:]
	return n, nil
}

// next makes the next cluster.
func (z *Stored) next() error {
	z.buf = z.buf[:copy(z.buf, z.buf[z.n:])]
	z.n = 0
	if z.err == nil {
		var n int
		n, z.err = io.ReadFull(z.r, z.buf[len(z.buf):cap(z.buf)])
		z.buf = z.buf[:len(z.buf)+n]
	}
	if errors.Is(z.err, io.ErrUnexpectedEOF) {
		z.err = io.EOF
	}
	if z.err != nil && (z.err != io.EOF || len(z.buf) == 0) {
		return z.err
	}
	f := &z.files
	for known := f.Known(z.at); known <= len(z.buf) && f.Next < f.End(z.at); known = f.Known(z.at) {
		f.Header(z.buf[known-cluster.HeaderKnown:])
	}
	n := min(int(f.End(z.at)-z.at), len(z.buf))
	if err := z.cluster(z.buf[:n]); err != nil {
		z.err = err
		return err
	}
	z.rest, z.n = z.buf[:n], n
	return nil
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
	c := cluster.Cluster{Offset: z.at, Size: size, Data: z.w.buf, Recipe: z.ops}
	z.at += int64(size)
	return z.emit(c)
}
