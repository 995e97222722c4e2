package snapshot

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/store/cluster"
	"brig/internal/store/erofs"
	"brig/internal/store/packed"
	"brig/internal/store/redeflate"
	"brig/internal/store/rezstd"
	"brig/internal/store/snapshot/extract"
	"brig/internal/store/snapshot/tree"

	"github.com/opencontainers/go-digest"
)

// ErrUnfit is the error of a layer that Pack cannot keep, though it may be a sound one: Unpack takes it.
var ErrUnfit = errors.New("the layer cannot be packed")

// keepPartial is how long the beginning of a layer is kept for whoever goes on with it.
const keepPartial = 24 * time.Hour

// Source is where Pack gets a layer's blob.
type Source struct {
	Blob digest.Digest // a sha256
	Size int64         // bytes
	// Open gives the blob, a gzip or zstd stream or what is not compressed, from an offset on. Its reader ends when ctx is cancelled.
	Open func(ctx context.Context, offset int64) (io.ReadCloser, error)
	// Resumes says that Open takes other offsets than 0.
	Resumes bool
	// Known is told of bytes that were there from an earlier try.
	Known func(n int)
	// Zstd tells whether the kernel reads what becomes of a zstd stream ([Store.Packs]). It is asked when there is one; nil: it does not.
	Zstd func() bool
	// Bound stops what is unpacked where that becomes too much; nil: nothing is. packed tells how many bytes have come of the blob.
	Bound func(unpacked io.Reader, packed func() int64) io.Reader
	// Grow is asked before n bytes are written; nil: nobody is.
	Grow func(n int64) error
}

// Pack brings a layer in as an EROFS image, from its blob, a gzip or zstd stream or a plain archive. Blob and image are kept as one. announce is called when all is verified, before
// the layer can be seen, with its folder, and must make it durable that the blob is there. Pack returns the bytes of file content.
//
// What arrived before a process was killed or its source broke off is kept, and the next Pack goes on from there. The caller has found the layer missing.
// Errors are those of Unpack, and ErrUnfit.
func (c *Claim) Pack(ctx context.Context, src Source, announce func(dir string) error) (size int64, err error) {
	s := c.s
	defer func() { err = s.name(err, c.diffID) }()
	tmp, old := s.unpacking(c.hex), s.unpacking(c.hex)+oldSuffix
	stream := &resumed{ctx: ctx, src: src}
	defer stream.Close()
	if src.Resumes && s.resumable(c.hex) {
		if err := tree.Remove(old); err != nil {
			return 0, err
		}
		if err := os.Rename(tmp, old); err == nil {
			stream.had, _ = packed.Partial(old)
		}
	}
	defer tree.Remove(old) //nolint:errcheck // swept
	if err := tree.Remove(tmp); err != nil {
		return 0, err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil && (!src.Resumes || !stream.broke && ctx.Err() == nil) { // what arrived is kept for the next, unless something is wrong with it
			tree.Remove(tmp)
		}
	}()
	w, err := packed.Create(tmp)
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := w.Close(); err == nil {
			err = cerr
		}
	}()

	compressed := newAhead(ctx, stream)
	defer compressed.stop()
	if size, err = s.pack(ctx, w, c.diffID, src, compressed); err != nil {
		return 0, err
	}
	if err := atomicfile.SyncDir(tmp); err != nil {
		return 0, err
	}
	if err := announce(s.layer(c.hex)); err != nil {
		return 0, err
	}
	if err := os.Rename(tmp, s.layer(c.hex)); err != nil {
		return 0, err
	}
	return size, atomicfile.SyncDir(filepath.Join(s.dir, "layer"))
}

// oldSuffix marks the beginning of a layer that is read while it is written anew. It is not a name that sweep takes for a layer's.
const oldSuffix = ".old"

// resumable reports whether the beginning of a layer is there that a Pack can go on with.
func (s *Store) resumable(hex string) bool {
	fi, err := os.Lstat(filepath.Join(s.unpacking(hex), packed.RecipeFile))
	return err == nil && time.Since(fi.ModTime()) < keepPartial
}

// resumed is a blob: first what is there of it, then the rest from its source.
type resumed struct {
	ctx   context.Context
	src   Source
	had   *packed.Blob // nil: nothing
	n     int64
	rest  io.ReadCloser
	broke bool // the source could not go on
}

func (r *resumed) Read(p []byte) (int, error) {
	if r.had != nil {
		n, err := r.had.Read(p)
		r.n += int64(n)
		if n > 0 && r.src.Known != nil {
			r.src.Known(n)
		}
		if err == nil || n > 0 {
			return n, nil
		}
		r.had.Close() // whatever ended it: what it gave is verified with the rest
		r.had = nil
	}
	if r.rest == nil {
		rest, err := r.src.Open(r.ctx, r.n)
		if err != nil {
			r.broke = true
			return 0, err
		}
		r.rest = rest
	}
	n, err := r.rest.Read(p)
	if err != nil && err != io.EOF {
		r.broke = true
	}
	return n, err
}

func (r *resumed) Close() {
	if r.had != nil {
		r.had.Close()
	}
	if r.rest != nil {
		r.rest.Close()
	}
}

// counted counts what was read.
type counted struct {
	r io.Reader
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// onDisk is how much a cluster takes there, in bytes.
func onDisk(c cluster.Cluster) int64 {
	_, blocks := erofs.Place(0, len(c.Data))
	return blocks + int64(len(c.Recipe))
}

// How a zstd stream begins, RFC 8878: with a frame, or with one to be skipped.
const zstdMagic, zstdSkip = 0xfd2fb528, 0x184d2a50

// pack fills the files and verifies both digests.
func (s *Store) pack(ctx context.Context, w *packed.Writer, diffID digest.Digest, src Source, compressed *ahead) (int64, error) {
	in := &counted{r: compressed}
	head := bufio.NewReaderSize(in, 4096)
	magic, err := head.Peek(4)
	if err != nil && err != io.EOF {
		return 0, err
	}
	emit := func(c cluster.Cluster) error {
		if src.Grow != nil {
			if err := src.Grow(onDisk(c)); err != nil {
				return err
			}
		}
		return w.Cluster(c)
	}
	var unpacked io.Reader
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		unpacked = redeflate.NewReader(head, emit)
	case len(magic) == 4 && (binary.LittleEndian.Uint32(magic) == zstdMagic || binary.LittleEndian.Uint32(magic)&^0xf == zstdSkip):
		if src.Zstd == nil || !src.Zstd() {
			return 0, ErrUnfit
		}
		w.Zstd()
		z := rezstd.NewReader(head, emit)
		defer z.Close() // by then nobody reads any more
		unpacked = z
	default:
		unpacked = redeflate.NewStored(head, emit)
	}
	if src.Bound != nil {
		unpacked = src.Bound(unpacked, in.n.Load)
	}
	plain := newAhead(ctx, unpacked)
	root, done, err := extract.Nodes(ctx, plain)
	if err == nil {
		err = plain.verify(diffID, maxPadding)
	}
	plain.stop()
	if err != nil && !errors.Is(err, api.Corrupt) {
		if errors.Is(err, cluster.ErrUnfit) || errors.Is(err, extract.ErrSparse) {
			return 0, ErrUnfit
		}
		return 0, err
	}
	// What is wrong with the blob itself explains why it cannot be unpacked.
	if berr := compressed.verifyBlob(src.Blob, src.Size); berr != nil {
		return 0, berr
	}
	if err != nil {
		return 0, err
	}
	var id [16]byte
	if _, err := hex.Decode(id[:], []byte(diffID.Encoded()[:32])); err != nil {
		return 0, err
	}
	return done.Bytes, w.Finish(root, done.Bytes, src.Blob, src.Size, id)
}
