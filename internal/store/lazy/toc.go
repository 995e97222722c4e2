// Package lazy reads layers from their registry as their files are read: those that carry a table of contents, eStargz and zstd:chunked.
//
// Such a layer is an ordinary one, a gzip or zstd stream of an archive, but each file, or each chunk of a large one, begins a stream of its own, and a table at the
// end says where, with the digest of each chunk. The digest of the table is in the manifest, so what is read is what the manifest vouches for.
//
//	toc.go:   the table becomes nodes, by the rules for every archive (package extract), and those the metadata of an EROFS file system (erofs.Flat)
//	image.go: a sparse file: the metadata, and the chunks that were read
//	serve.go: a FUSE file system with one file a layer, that image; what is missing of it is fetched, verified and kept when the kernel asks
//
// The kernel mounts the files, so that names, modes and what has been read are its own, and the server only sees what is read for the first time. The mounts are
// taken out of sight as soon as a container has them; from then on the kernel counts who uses them, and ends the server with the last.
//
// Everything in a table is an attacker's input.
package lazy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/store/erofs"
	"brig/internal/store/snapshot/extract"
)

// Limits of a table. A layer beyond them is api.Unsupported here: it is pulled as a whole.
const (
	maxPacked  = 32 << 20  // bytes of a table as it is transferred
	maxTable   = 64 << 20  // bytes of a table; it is in memory for a moment, several times as large
	maxEntries = 1 << 18   // files and chunks: a Debian with a desktop has as many
	maxChunk   = 32 << 20  // bytes of a chunk: it is in memory until it is verified
	maxContent = 256 << 30 // bytes of all files
)

// Annotations that say where a layer's table is. The second pair has two spellings: containers/storage's and the stargz snapshotter's.
const (
	stargzDigest    = "containerd.io/snapshot/stargz/toc.digest"
	chunkedChecksum = "containers.zstd-chunked.manifest-checksum"
	chunkedPosition = "containers.zstd-chunked.manifest-position"
)

// Source gives a part of a layer's blob.
type Source func(ctx context.Context, offset, length int64) (io.ReadCloser, error)

// entry is a line of a table. eStargz has it from CRFS, and zstd:chunked from eStargz.
type entry struct {
	Name        string            `json:"name"`
	Type        string            `json:"type"`
	Size        int64             `json:"size"`
	ModTime     time.Time         `json:"modtime"`
	LinkName    string            `json:"linkName"`
	Mode        int64             `json:"mode"`
	UID         int               `json:"uid"`
	GID         int               `json:"gid"`
	DevMajor    int64             `json:"devMajor"`
	DevMinor    int64             `json:"devMinor"`
	Xattrs      map[string][]byte `json:"xattrs"`
	Digest      string            `json:"digest"`
	Offset      int64             `json:"offset"`
	EndOffset   int64             `json:"endOffset"`
	InnerOffset int64             `json:"innerOffset"`
	ChunkOffset int64             `json:"chunkOffset"`
	ChunkSize   int64             `json:"chunkSize"`
	ChunkDigest string            `json:"chunkDigest"`
	ChunkType   string            `json:"chunkType"`
}

// chunk is a part of a file.
type chunk struct {
	offset, end int64 // in the blob, where its stream begins, and where it has ended for sure; equal: it is zeros, and nowhere
	at, size    int64 // of the content, in the file; later, in the image
	digest      digest.Digest
	state       state
	done        chan struct{} // while it is being fetched
}

// Table is a layer's table of contents.
type Table struct {
	zstd  bool
	root  *erofs.Node
	files [][]chunk // of each regular file with content, by the offset of its node
	Bytes int64     // of all files
}

// Carries reports whether a layer's descriptor names a table of contents.
func Carries(d imagespec.Descriptor) bool {
	if strings.HasSuffix(d.MediaType, "zstd") {
		return annotation(d, chunkedChecksum) != "" && annotation(d, chunkedPosition) != ""
	}
	return strings.HasSuffix(d.MediaType, "gzip") && d.Annotations[stargzDigest] != ""
}

func annotation(d imagespec.Descriptor, name string) string {
	if v := d.Annotations["io.github."+name]; v != "" {
		return v
	}
	return d.Annotations["io."+name]
}

// Fetch gets a layer's table, verified by its digest, and checks it. A table that is malformed is api.Corrupt, one with what cannot be read here, or beyond the
// limits, api.Unsupported.
func Fetch(ctx context.Context, src Source, d imagespec.Descriptor) (*Table, error) {
	t := &Table{zstd: strings.HasSuffix(d.MediaType, "zstd")}
	get, err := fetchStargz, error(nil)
	if t.zstd {
		get = fetchChunked
	}
	plain, end, err := get(ctx, src, d)
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "layer %s: table of contents: %w", d.Digest, err)
	}
	if err := t.parse(ctx, plain, end); err != nil {
		return nil, api.Errorf(api.KindOf(err), "layer %s: table of contents: %w", d.Digest, err)
	}
	return t, nil
}

func bad(format string, args ...any) error { return api.Errorf(api.Corrupt, format, args...) }

// part reads a part of a blob into memory.
func part(ctx context.Context, src Source, offset, length int64) ([]byte, error) {
	r, err := src(ctx, offset, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, length)
	_, err = io.ReadFull(r, b)
	return b, err
}

// fetchStargz gets the table of an eStargz layer, and where in the blob it begins.
func fetchStargz(ctx context.Context, src Source, d imagespec.Descriptor) ([]byte, int64, error) {
	const footer = 51 // bytes: an empty gzip stream, in whose header the place of the table is
	guess := min(d.Size, 1<<20)
	if guess < footer {
		return nil, 0, bad("the blob has only %d bytes", d.Size)
	}
	tail, err := part(ctx, src, d.Size-guess, guess) // most tables are in it
	if err != nil {
		return nil, 0, err
	}
	z, err := gzip.NewReader(bytes.NewReader(tail[guess-footer:]))
	if err != nil || len(z.Extra) != 26 || string(z.Extra[:4]) != "SG\x16\x00" || string(z.Extra[20:]) != "STARGZ" {
		return nil, 0, api.Errorf(api.Unsupported, "the blob has no footer of eStargz")
	}
	at, err := strconv.ParseInt(string(z.Extra[4:20]), 16, 64)
	if err != nil || at < 0 || at >= d.Size-footer {
		return nil, 0, bad("it begins at %q", z.Extra[4:20])
	}
	if d.Size-at > maxPacked {
		return nil, 0, api.Errorf(api.Unsupported, "it has %d bytes", d.Size-at)
	}
	packed := tail[:guess-footer]
	if skip := at - (d.Size - guess); skip >= 0 {
		packed = packed[skip:]
	} else {
		head, err := part(ctx, src, at, -skip)
		if err != nil {
			return nil, 0, err
		}
		packed = append(head, packed...)
	}
	if z, err = gzip.NewReader(bytes.NewReader(packed)); err != nil {
		return nil, 0, bad("%w", err)
	}
	archive := tar.NewReader(z)
	hdr, err := archive.Next()
	if err != nil || hdr.Name != "stargz.index.json" || hdr.Size > maxTable {
		return nil, 0, bad("it is no archive with the table")
	}
	plain, err := io.ReadAll(io.LimitReader(archive, maxTable))
	if err != nil {
		return nil, 0, bad("%w", err)
	}
	if want := digest.Digest(d.Annotations[stargzDigest]); want.Validate() != nil || want.Algorithm().FromBytes(plain) != want {
		return nil, 0, bad("it has another digest than the %.100q of the manifest", string(want))
	}
	return plain, at, nil
}

// fetchChunked gets the table of a zstd:chunked layer, and where in the blob the frame begins that it is in.
func fetchChunked(ctx context.Context, src Source, d imagespec.Descriptor) ([]byte, int64, error) {
	position := annotation(d, chunkedPosition) // OFFSET:LENGTH:UNPACKED:TYPE
	var n [4]int64
	fields := strings.Split(position, ":")
	for i := range fields {
		v, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil || len(fields) != len(n) {
			return nil, 0, bad("the position %.100q", position)
		}
		n[i] = v
	}
	if n[0] < 8 || n[1] < 0 || n[0] > d.Size || n[1] > d.Size-n[0] {
		return nil, 0, bad("the position %.100q lies outside of the blob", position)
	}
	if n[1] > maxPacked || n[2] < 0 || n[2] > maxTable || n[3] != 1 {
		return nil, 0, api.Errorf(api.Unsupported, "the position %.100q", position)
	}
	packed, err := part(ctx, src, n[0], n[1])
	if err != nil {
		return nil, 0, err
	}
	if want := digest.Digest(annotation(d, chunkedChecksum)); want.Validate() != nil || want.Algorithm().FromBytes(packed) != want {
		return nil, 0, bad("it has another digest than the %.100q of the manifest", string(want))
	}
	z, err := newZstd(bytes.NewReader(packed))
	if err != nil {
		return nil, 0, err
	}
	defer z.Close()
	plain, err := io.ReadAll(io.LimitReader(z, n[2]+1))
	if err != nil || int64(len(plain)) != n[2] {
		return nil, 0, bad("%d bytes instead of %d, %v", len(plain), n[2], err)
	}
	return plain, n[0] - 8, nil
}

func newZstd(r io.Reader) (*zstd.Decoder, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(128<<20), zstd.WithDecoderMaxWindow(64<<20))
}

var types = map[string]byte{"dir": tar.TypeDir, "reg": tar.TypeReg, "symlink": tar.TypeSymlink, "hardlink": tar.TypeLink, "char": tar.TypeChar, "block": tar.TypeBlock, "fifo": tar.TypeFifo}

// parse makes nodes and chunks of a table. end is where in the blob the chunks end.
func (t *Table) parse(ctx context.Context, plain []byte, end int64) error {
	var table struct {
		Version int     `json:"version"`
		Entries []entry `json:"entries"`
	}
	if err := json.Unmarshal(plain, &table); err != nil {
		return bad("%w", err)
	}
	entries := table.Entries
	if table.Version != 1 || len(entries) > maxEntries {
		return api.Errorf(api.Unsupported, "version %d, with %d entries", table.Version, len(entries))
	}
	ends := make([]int64, 0, len(entries)+1) // where streams begin is where others have ended
	for i := range entries {
		if e := &entries[i]; e.Type == "reg" && e.Size > 0 || e.Type == "chunk" {
			ends = append(ends, e.Offset)
		}
	}
	ends = append(ends, end)
	slices.Sort(ends)
	i := 0
	root, _, err := extract.Planted(ctx, func() (*tar.Header, int64, error) {
		if i == len(entries) {
			return nil, 0, io.EOF
		}
		e := &entries[i]
		hdr, err := e.header()
		if err != nil {
			return nil, 0, err
		}
		i++
		if e.Type != "reg" || e.Size == 0 {
			return hdr, 0, nil
		}
		if e.Size < 0 || e.Size > maxContent-t.Bytes {
			return nil, 0, api.Errorf(api.Unsupported, "%.100q: %d bytes", e.Name, e.Size)
		}
		t.Bytes += e.Size
		n := 1
		for i < len(entries) && entries[i].Type == "chunk" {
			i, n = i+1, n+1
		}
		chunks, err := chunksOf(entries[i-n:i], ends)
		if err != nil {
			return nil, 0, err
		}
		t.files = append(t.files, chunks)
		return hdr, int64(len(t.files) - 1), nil
	})
	if errors.Is(err, extract.ErrSparse) {
		err = api.Errorf(api.Unsupported, "%w", err)
	}
	t.root = root
	return err
}

// header is an entry as an archive has it.
func (e *entry) header() (*tar.Header, error) {
	kind, ok := types[e.Type]
	if !ok {
		return nil, bad("%.100q: an entry of the type %.20q", e.Name, e.Type)
	}
	hdr := &tar.Header{Typeflag: kind, Name: e.Name, Linkname: e.LinkName, Mode: e.Mode, Uid: e.UID, Gid: e.GID, ModTime: e.ModTime, Devmajor: e.DevMajor, Devminor: e.DevMinor}
	if kind == tar.TypeReg {
		hdr.Size = e.Size
	}
	for name, value := range e.Xattrs {
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = make(map[string]string, len(e.Xattrs))
		}
		hdr.PAXRecords["SCHILY.xattr."+name] = string(value)
	}
	return hdr, nil
}

// chunksOf checks the chunks of one file, which must follow on one another and make all of it.
func chunksOf(entries []entry, ends []int64) ([]chunk, error) {
	file := &entries[0]
	chunks := make([]chunk, 0, len(entries))
	at := int64(0)
	for i := range entries {
		e := &entries[i]
		size := e.ChunkSize
		if size == 0 {
			size = file.Size - at
		}
		if e.ChunkOffset != at || size <= 0 || size > file.Size-at || e.Name != file.Name {
			return nil, bad("%.100q: a chunk of %d bytes at %d where one at %d should be", e.Name, size, e.ChunkOffset, at)
		}
		c := chunk{at: at, size: size, digest: digest.Digest(e.ChunkDigest)}
		at += size
		if e.ChunkType == "zeros" {
			c.state = kept
			chunks = append(chunks, c)
			continue
		}
		if c.digest == "" && len(entries) == 1 {
			c.digest = digest.Digest(file.Digest)
		}
		switch {
		case size > maxChunk, e.InnerOffset != 0, e.ChunkType != "", c.digest == "":
			return nil, api.Errorf(api.Unsupported, "%.100q: a chunk of %d bytes at %d within its stream, type %.20q, digest %.100q", e.Name, size, e.InnerOffset, e.ChunkType, c.digest)
		case c.digest.Validate() != nil:
			return nil, bad("%.100q: the digest %.100q of a chunk", e.Name, c.digest)
		}
		c.offset = e.Offset
		last := ends[len(ends)-1]
		if e.Offset < 0 || e.Offset >= last {
			return nil, bad("%.100q: a chunk that begins at %d of the blob", e.Name, e.Offset)
		}
		next, _ := slices.BinarySearch(ends, e.Offset+1)
		c.end = ends[next]
		if e.EndOffset != 0 { // of the file, where that has several chunks
			c.end = min(c.end, e.EndOffset)
		}
		// What does not compress grows by little.
		if c.end <= c.offset || e.EndOffset > last || c.end-c.offset > size+size/8+1<<20 {
			return nil, bad("%.100q: %d bytes in the bytes %d to %d of the blob", e.Name, size, c.offset, c.end)
		}
		chunks = append(chunks, c)
	}
	if at != file.Size || file.Size > math.MaxInt64/2 {
		return nil, bad("%.100q: its chunks have %d bytes of %d", file.Name, at, file.Size)
	}
	return chunks, nil
}
