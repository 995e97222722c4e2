// Package packed knows the two files that a packed layer is kept in, and gives back the blob that they were made of.
//
//	image    an EROFS file system, whose stream of clusters holds the layer's archive (packages erofs, redeflate and rezstd)
//	recipe   what turns the clusters into the blob again: a frame for each, then a footer
//
// A frame is a header of 16 bytes and the cluster's recipe. The header has, as little-endian numbers of 32 bits, the length of the cluster's data in the
// image, the length of the recipe, the bytes of the archive in it, and the CRC-32C of data and recipe. The highest byte of the first says whose recipe
// it is: 0 for redeflate, 1 for rezstd. The footer is 160 bytes, with a CRC of its own.
package packed

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"brig/api"
	"brig/internal/store/cluster"
	"brig/internal/store/erofs"
	"brig/internal/store/redeflate"
	"brig/internal/store/rezstd"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// The files of a packed layer, in its folder.
const (
	ImageFile  = "image"
	RecipeFile = "recipe"
)

const (
	headerSize = 16
	footerSize = 160
	magic      = "brig-layer-1\n\x00\x00\x00"
	// kindZstd is the highest byte of a header's first number.
	kindZstd = 1
	// writeBehind is how much is written before the kernel is asked to begin bringing it to the disk.
	writeBehind = 8 << 20
)

// castagnoli is made at its first use: 9 KiB are a tenth of a millisecond that every start would pay.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Info is what a layer's footer tells.
type Info struct {
	Blob       digest.Digest // of the stream
	BlobSize   int64         // bytes of it
	Size       int64         // bytes of file content
	Plain      int64         // bytes of the archive
	Archive    digest.Digest // of the archive, where Verify has seen it; else empty
	clusters   int64
	frames     int64 // bytes of all frames
	metaAt     int64
	metaLength int64
	metaSum    [sha256.Size]byte // of the metadata and of the superblock
}

// Writer makes the two files.
type Writer struct {
	image, recipe *os.File
	out           *bufio.Writer
	erofs         *erofs.Writer
	info          Info
	begun         int64 // bytes of image that the kernel has been asked to write
}

// Create makes the files in dir.
func Create(dir string) (*Writer, error) {
	image, err := os.OpenFile(filepath.Join(dir, ImageFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	recipe, err := os.OpenFile(filepath.Join(dir, RecipeFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		image.Close()
		return nil, err
	}
	return &Writer{image: image, recipe: recipe, out: bufio.NewWriterSize(recipe, 64<<10), erofs: erofs.NewWriter(image)}, nil
}

// Zstd says, before the first cluster, that they are rezstd's, of LZ4; else they are redeflate's.
func (w *Writer) Zstd() { w.erofs.Algorithm = erofs.LZ4 }

// Cluster adds a piece of the stream.
func (w *Writer) Cluster(c cluster.Cluster) error {
	at, err := w.erofs.Cluster(c.Data, c.Size)
	if err != nil {
		return err
	}
	var h [headerSize]byte
	le := binary.LittleEndian
	le.PutUint32(h[0:], uint32(len(c.Data)))
	if w.erofs.Algorithm == erofs.LZ4 {
		h[3] = kindZstd
	}
	le.PutUint32(h[4:], uint32(len(c.Recipe)))
	le.PutUint32(h[8:], uint32(c.Size))
	le.PutUint32(h[12:], crc32.Update(crc32.Checksum(c.Data, castagnoli()), castagnoli(), c.Recipe))
	if _, err := w.out.Write(h[:]); err != nil {
		return err
	}
	if _, err := w.out.Write(c.Recipe); err != nil {
		return err
	}
	if err := w.out.Flush(); err != nil { // who dies now leaves it to be gone on with
		return err
	}
	w.info.clusters++
	w.info.frames += headerSize + int64(len(c.Recipe))
	w.info.Plain += int64(c.Size)
	if end := at + int64(len(c.Data)); end-w.begun >= writeBehind {
		if err := unix.SyncFileRange(int(w.image.Fd()), w.begun, end-w.begun, unix.SYNC_FILE_RANGE_WRITE); err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ESPIPE) {
			return &fs.PathError{Op: "sync_file_range", Path: w.image.Name(), Err: err}
		}
		w.begun = end
	}
	return nil
}

// Finish writes the tree and the footer, and makes both files durable. size is the bytes of file content, blob and blobSize are the stream's.
func (w *Writer) Finish(root *erofs.Node, size int64, blob digest.Digest, blobSize int64, id [16]byte) error {
	i := &w.info
	i.Blob, i.BlobSize, i.Size = blob, blobSize, size
	var err error
	if i.metaAt, i.metaLength, err = w.erofs.Finish(root, id); err != nil {
		return err
	}
	sum, err := metaSum(w.image, i)
	if err != nil {
		return err
	}
	i.metaSum = sum
	footer, err := i.marshal()
	if err != nil {
		return err
	}
	if _, err := w.out.Write(footer); err != nil {
		return err
	}
	if err := w.out.Flush(); err != nil {
		return err
	}
	for _, f := range []*os.File{w.image, w.recipe} {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the files.
func (w *Writer) Close() error { return errors.Join(w.image.Close(), w.recipe.Close()) }

// metaSum hashes what of the image is not clusters.
func metaSum(f io.ReaderAt, i *Info) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, part := range []io.Reader{io.NewSectionReader(f, 0, erofs.BlockSize), io.NewSectionReader(f, i.metaAt, i.metaLength)} {
		if _, err := io.Copy(h, part); err != nil {
			return sum, err
		}
	}
	h.Sum(sum[:0])
	return sum, nil
}

func (i *Info) marshal() ([]byte, error) {
	b := make([]byte, footerSize)
	copy(b, magic)
	raw, err := hex.DecodeString(i.Blob.Encoded())
	if err != nil || i.Blob.Algorithm() != digest.SHA256 {
		return nil, api.Errorf(api.InvalidArgument, "blob %s: not a sha256", i.Blob)
	}
	copy(b[16:], raw)
	copy(b[48:], i.metaSum[:])
	for n, v := range []int64{i.BlobSize, i.Size, i.Plain, i.clusters, i.frames, i.metaAt, i.metaLength} {
		binary.LittleEndian.PutUint64(b[80+8*n:], uint64(v))
	}
	binary.LittleEndian.PutUint32(b[footerSize-4:], crc32.Checksum(b[:footerSize-4], castagnoli()))
	return b, nil
}

func unmarshal(b []byte) (i Info, ok bool) {
	if len(b) != footerSize || string(b[:16]) != magic || binary.LittleEndian.Uint32(b[footerSize-4:]) != crc32.Checksum(b[:footerSize-4], castagnoli()) {
		return i, false
	}
	i.Blob = digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(b[16:48]))
	copy(i.metaSum[:], b[48:80])
	for n, v := range []*int64{&i.BlobSize, &i.Size, &i.Plain, &i.clusters, &i.frames, &i.metaAt, &i.metaLength} {
		if *v = int64(binary.LittleEndian.Uint64(b[80+8*n:])); *v < 0 {
			return i, false
		}
	}
	return i, true
}

// Stat reads what a layer in the folder dir is. One that is not packed is fs.ErrNotExist; a damaged recipe is api.Corrupt.
func Stat(dir string) (Info, error) {
	f, err := os.Open(filepath.Join(dir, RecipeFile))
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	return stat(f)
}

func stat(f *os.File) (Info, error) {
	fi, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	b := make([]byte, footerSize)
	if _, err := f.ReadAt(b, fi.Size()-footerSize); err != nil && err != io.EOF && fi.Size() >= footerSize {
		return Info{}, err
	}
	i, ok := unmarshal(b)
	if !ok || i.frames != fi.Size()-footerSize {
		return Info{}, damaged(f.Name(), "its footer is not what was written")
	}
	return i, nil
}

func damaged(path, what string) error {
	return api.Errorf(api.Corrupt, "%s: %s; `brig system check --repair` fetches the layer again", path, what)
}

// Blob reads the stream that a layer was made of. The bytes are what the recipe gives: the caller verifies them.
type Blob struct {
	Info
	image, recipe *os.File
	in            *bufio.Reader
	at            int64
	left          int64
	data          []byte
	steps         []byte
	stream        io.Reader // nil: not begun
	kind          byte
	archive       hash.Hash // nil: nobody asks for it
	strict        bool      // what the blob does not tell is looked at too: the zeros before the clusters, and the lengths of their pieces
	plain         int64     // bytes of the archive, as the frames have them
}

// Open opens the blob of the layer in the folder dir.
func Open(dir string) (*Blob, error) {
	recipe, err := os.Open(filepath.Join(dir, RecipeFile))
	if err != nil {
		return nil, err
	}
	info, err := stat(recipe)
	if err != nil {
		recipe.Close()
		return nil, err
	}
	b, err := open(dir, recipe)
	if err != nil {
		recipe.Close()
		return nil, err
	}
	b.Info, b.left = info, info.clusters
	return b, nil
}

func open(dir string, recipe *os.File) (*Blob, error) {
	image, err := os.Open(filepath.Join(dir, ImageFile))
	if err != nil {
		return nil, err
	}
	return &Blob{image: image, recipe: recipe, in: bufio.NewReaderSize(recipe, 64<<10), at: erofs.FirstCluster, left: -1}, nil
}

// Partial opens what a writer that did not finish has left: the beginning of the blob, up to the last cluster that is whole.
func Partial(dir string) (*Blob, error) {
	recipe, err := os.Open(filepath.Join(dir, RecipeFile))
	if err != nil {
		return nil, err
	}
	b, err := open(dir, recipe)
	if err != nil {
		recipe.Close()
	}
	return b, err
}

// Read implements io.Reader.
func (b *Blob) Read(p []byte) (int, error) {
	if b.stream == nil {
		if h, err := b.in.Peek(headerSize); err == nil { // else the first frame is not whole, and next will say it
			b.kind = h[3]
		}
		if b.stream = redeflate.Rebuild(b.next); b.kind == kindZstd {
			b.stream = rezstd.Rebuild(b.next, b.unpacked)
		}
	}
	return b.stream.Read(p)
}

// unpacked is told the archive.
func (b *Blob) unpacked(p []byte) {
	if b.archive != nil {
		b.archive.Write(p)
	}
}

// Close closes the files.
func (b *Blob) Close() error { return errors.Join(b.image.Close(), b.recipe.Close()) }

// next gives a cluster and its recipe. Of a partial blob (left < 0) the first that is not whole is the end.
func (b *Blob) next() (data, steps []byte, err error) {
	if b.left == 0 {
		return nil, nil, io.EOF
	}
	fail := func(err error) ([]byte, []byte, error) {
		if b.left < 0 && (err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return nil, nil, io.EOF
		}
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = damaged(b.recipe.Name(), "it does not fit "+ImageFile)
		}
		return nil, nil, err
	}
	var h [headerSize]byte
	if _, err := io.ReadFull(b.in, h[:]); err != nil {
		return fail(err)
	}
	le := binary.LittleEndian
	n, m, sum := int(le.Uint32(h[0:])&0xffffff), int(le.Uint32(h[4:])), le.Uint32(h[12:])
	if h[3] != b.kind || b.kind > kindZstd || n <= 0 || n > cluster.MaxData || m > cluster.MaxRecipe {
		return fail(nil)
	}
	b.data, b.steps = grow(b.data, n), grow(b.steps, m)
	if _, err := io.ReadFull(b.in, b.steps); err != nil {
		return fail(err)
	}
	at, next := erofs.Place(b.at, n)
	b.plain += int64(le.Uint32(h[8:]))
	if b.strict {
		if zero, err := isZero(b.image, b.at, at-b.at); err != nil || !zero { // the kernel finds a cluster's beginning by them
			return fail(err)
		}
	}
	if _, err := b.image.ReadAt(b.data, at); err != nil {
		return fail(err)
	}
	if sum != crc32.Update(crc32.Checksum(b.data, castagnoli()), castagnoli(), b.steps) {
		return fail(nil)
	}
	b.at = next
	if b.left > 0 {
		b.left--
	}
	return b.data, b.steps, nil
}

// isZero reports whether n bytes from an offset on, less than a block, are all zero.
func isZero(f io.ReaderAt, at, n int64) (bool, error) {
	var block [erofs.BlockSize]byte
	if _, err := f.ReadAt(block[:n], at); err != nil {
		return false, err
	}
	return block == [erofs.BlockSize]byte{}, nil
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// Verify reads all of a layer and holds it against what its footer says, whose checksum it has: every bit of both files is looked at. It returns what
// the layer is. What is wrong is api.Corrupt; whether the archive is the layer's, where Info tells its digest, the caller knows.
func Verify(ctx context.Context, dir string) (Info, error) {
	b, err := Open(dir)
	if err != nil {
		return Info{}, err
	}
	defer b.Close()
	b.strict = true
	// What a recipe of rezstd takes of the clusters is the literals: the rest is held against the archive's digest.
	b.archive = sha256.New()
	h := sha256.New()
	n, err := io.Copy(h, untilDone{ctx, b})
	if err != nil {
		return b.Info, err
	}
	image := filepath.Join(dir, ImageFile)
	if n != b.BlobSize || digest.NewDigest(digest.SHA256, h) != b.Blob || b.plain != b.Plain || b.at != b.metaAt {
		return b.Info, damaged(image, "it does not give blob "+b.Blob.String())
	}
	fi, err := b.image.Stat()
	if err != nil {
		return b.Info, err
	}
	sum, err := metaSum(b.image, &b.Info)
	if err != nil {
		return b.Info, err
	}
	if sum != b.metaSum || fi.Size() != b.metaAt+b.metaLength {
		return b.Info, damaged(image, "its metadata is not what was written")
	}
	if b.kind == kindZstd {
		b.Archive = digest.NewDigest(digest.SHA256, b.archive)
	}
	return b.Info, nil
}

// untilDone is a reader that ends with its context.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}
