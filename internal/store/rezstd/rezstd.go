// Package rezstd turns a zstd stream into clusters that can be decompressed one by one, and back into the same stream, bit for bit.
//
// What package redeflate does for gzip, keeping the stream's own bits in the clusters, is not to be had here: zstd refers not to the last 32 KiB but to the last
// megabytes, so that most blocks would have to be changed. So the stream is kept in two parts:
//
//   - A cluster is an LZ4 block, of [cluster.Size] bytes unpacked, written anew, but without a search: the matches are the stream's own. Only those that reach back
//     before the cluster, or further than LZ4 can say, become literals.
//   - The recipe is the stream without its literals. What a block says of lengths and offsets is kept as it is, and so are the descriptions of its codes. It tells
//     which bytes of the content are literals, and they are encoded once more: a code follows from its description, so they become the same bits.
//
// Frames to be skipped and checksums are in the recipe, too. What is kept of a layer is three quarters of its files.
//
// [Reader] unpacks a stream and makes clusters and recipe on the way; [Rebuild] makes the stream of them. A Reader carries out each recipe, and unpacks each
// cluster, before it hands them on: what they give is what arrived, or the stream is [cluster.ErrUnfit].
package rezstd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"brig/api"
	"brig/internal/store/cluster"
	"brig/internal/store/lz4"

	"golang.org/x/sys/unix"
)

const (
	// MaxWindow is how far a stream may reach back, in bytes. zstd's levels up to 19 and all of klauspost's need no more; a Reader's memory is a little more than this.
	MaxWindow = 8 << 20

	skipPiece = 64 << 10 // bytes of a frame to be skipped that are taken at a time
	margin    = 512      // bytes before a cluster that are still there, in which a header may begin
)

// phase is what comes next in the stream.
type phase int

const (
	atFrame phase = iota
	atBlock
	atSkipped
	atEnd
)

// Reader unpacks a zstd stream, of one or more frames. Read gives the unpacked bytes; each cluster is handed to emit, in order. What Cluster points to is emit's
// until it returns.
type Reader struct {
	in   *bufio.Reader
	emit func(cluster.Cluster) error
	err  error

	phase   phase
	frame   frame
	frames  int
	skip    uint32 // bytes of a frame to be skipped
	decoder decoder

	stream []byte // what came since the last cluster
	done   int    // of it, up to here the recipe tells it

	buf    []byte // unpacked: what the stream may refer to, and the present cluster
	opened int    // where the present frame begins in buf; what is before buf is forgotten
	base   int    // where the present cluster does
	o, r   int    // buf[r:o] is to be read
	files  cluster.Files
	start  int64 // of the present cluster, in the unpacked stream
	again  int   // bytes of it that a cluster had before
	block  lz4.Block
	ops    []byte
	known  known // of the blocks in ops
	check  rebuilder
}

// NewReader makes a Reader of r.
func NewReader(r io.Reader, emit func(cluster.Cluster) error) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, 64<<10), emit: emit, base: margin, o: margin, r: margin}
}

// Read implements io.Reader. What is wrong with the stream is api.Corrupt.
func (z *Reader) Read(p []byte) (int, error) {
	for z.r == z.o {
		if z.err != nil {
			return 0, z.err
		}
		if z.err = corrupt(z.step()); z.err == nil && z.phase == atEnd {
			z.err = io.EOF
		}
	}
	n := copy(p, z.buf[z.r:z.o])
	z.r += n
	return n, nil
}

// corrupt gives what is wrong with a stream its kind; errors of its source pass as they are.
func corrupt(err error) error {
	switch {
	case errors.Is(err, errStrange):
		return cluster.ErrUnfit
	case errors.Is(err, errCorrupt), errors.Is(err, io.ErrUnexpectedEOF):
		return api.Errorf(api.Corrupt, "zstd: %w", err)
	}
	return err
}

// step does the next piece of work, which may give bytes. All that were given have been read.
func (z *Reader) step() error {
	if z.buf != nil && z.o+maxBlock > len(z.buf) {
		z.slide()
	}
	switch z.phase {
	case atFrame:
		return z.frameHead()
	case atBlock:
		return z.nextBlock()
	case atSkipped:
		return z.skipped()
	}
	return nil
}

// reach is how much of what was unpacked must stay for a window, in bytes.
func reach(window int) int { return max(window, margin+cluster.Most+maxBlock) }

// room makes buf large enough for a window. It is not the garbage collector's, which would have it lie about twice.
func (z *Reader) room(window int) error {
	n := reach(window) + maxBlock + max(window/4, 1<<20)
	if n <= len(z.buf) {
		return nil
	}
	buf, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("%d bytes of memory: %w", n, err)
	}
	copy(buf, z.buf)
	err = z.Close()
	z.buf = buf
	z.block.Moved(z.buf[z.base:])
	return err
}

// Close gives the memory back. No Read may be under way, or follow.
func (z *Reader) Close() error {
	if z.buf == nil {
		return nil
	}
	buf := z.buf
	z.buf = nil
	return unix.Munmap(buf)
}

// slide forgets the beginning of buf.
func (z *Reader) slide() {
	from := max(0, min(z.base-margin, z.o-reach(int(z.frame.window))))
	copy(z.buf, z.buf[from:z.o])
	z.opened = max(0, z.opened-from)
	z.base, z.o, z.r = z.base-from, z.o-from, z.r-from
	z.block.Moved(z.buf[z.base:])
}

// take reads n bytes of the stream.
func (z *Reader) take(n int) ([]byte, error) {
	from := len(z.stream)
	if free := cap(z.stream) - from; free < n {
		z.stream = append(z.stream, make([]byte, n)...)[:from]
	}
	z.stream = z.stream[:from+n]
	if _, err := io.ReadFull(z.in, z.stream[from:]); err != nil {
		z.stream = z.stream[:from]
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return z.stream[from:], nil
}

// verbatim puts what was taken since into the recipe.
func (z *Reader) verbatim() error {
	b := z.stream[z.done:]
	z.op(opBytes, uint64(len(b)))
	z.ops = append(z.ops, b...)
	z.done = len(z.stream)
	return z.cutIfFull()
}

// op appends a step of the recipe.
func (z *Reader) op(op byte, n uint64) { z.ops = binary.AppendUvarint(append(z.ops, op), n) }

// frameHead reads the head of a frame, RFC 8878, 3.1, or the end of the stream.
func (z *Reader) frameHead() error {
	if _, err := z.in.Peek(1); err == io.EOF && z.frames > 0 {
		z.phase = atEnd
		return z.cut(z.o)
	} else if err != nil && err != io.EOF {
		return err
	}
	b, err := z.take(5)
	if err != nil {
		return err
	}
	z.frames++
	magic := binary.LittleEndian.Uint32(b)
	if magic&^0xf == skipMagic {
		if err := z.room(0); err != nil {
			return err
		}
		if _, err := z.take(3); err != nil {
			return err
		}
		z.skip = binary.LittleEndian.Uint32(z.stream[len(z.stream)-4:])
		z.phase = atSkipped
		return z.verbatim()
	}
	if magic != frameMagic {
		return fmt.Errorf("%w: magic number %#x", errCorrupt, magic)
	}
	n := headerLength(b[4])
	if _, err := z.take(n - 5); err != nil {
		return err
	}
	b = z.stream[len(z.stream)-n:]
	if z.frame = readFrame(b); z.frame.dictionary || z.frame.window > MaxWindow {
		return cluster.ErrUnfit
	}
	if err := z.room(int(z.frame.window)); err != nil {
		return err
	}
	z.decoder.begin()
	z.opened, z.phase = z.o, atBlock
	return z.verbatim()
}

// skipped passes a piece of a frame to be skipped, 3.1.2.
func (z *Reader) skipped() error {
	n := min(z.skip, skipPiece)
	if z.skip -= n; z.skip == 0 {
		z.phase = atFrame
	}
	if n == 0 {
		return nil
	}
	if _, err := z.take(int(n)); err != nil {
		return err
	}
	return z.verbatim()
}

// nextBlock reads a block, 3.1.1.2, and what of the frame follows the last.
func (z *Reader) nextBlock() error {
	from := len(z.stream)
	b, err := z.take(3)
	if err != nil {
		return err
	}
	last, kind, size := readBlockHead(b)
	if size > maxBlock || kind > blockPacked {
		return errCorrupt
	}
	length := size
	if kind == blockRun {
		length = 1
	}
	if b, err = z.take(length); err != nil {
		return err
	}
	var s section
	switch kind {
	case blockRaw:
		copy(z.buf[z.o:], b)
	case blockRun:
		for i := range size {
			z.buf[z.o+i] = b[0]
		}
	default:
		if s, size, err = z.decoder.packed(b, z.buf, z.o, z.opened); err != nil {
			return err
		}
	}
	z.o += size
	z.follow()
	end := len(z.stream)
	if z.frame.size >= 0 {
		if z.frame.size -= int64(size); z.frame.size < 0 || last && z.frame.size > 0 {
			return errCorrupt
		}
	}
	if last {
		z.phase = atFrame
		if z.frame.checksum {
			if _, err = z.take(4); err != nil {
				return err
			}
		}
	}
	if err := z.place(kind, size); err != nil {
		return err
	}
	// By now a cluster may have ended, and the stream have been moved.
	b = z.stream[z.done : z.done+end-from]
	switch kind {
	case blockRaw:
		z.op(opRaw, uint64(size)<<1|uint64(b[0]&1))
	case blockRun:
		z.op(opRun, uint64(size)<<1|uint64(b[0]&1))
	default:
		l := 3 + s.head
		z.op(opPacked, uint64(l))
		z.known.add(z.decoder.sequences)
		z.ops = append(z.ops, b[:l]...)
		b = b[l+s.payload:]
		z.ops = append(binary.AppendUvarint(z.ops, uint64(len(b))), b...)
	}
	if z.done += end - from; z.done < len(z.stream) {
		return z.verbatim() // the checksum
	}
	return z.cutIfFull()
}

// follow shows files the headers of the present cluster.
func (z *Reader) follow() {
	f := &z.files
	for known := f.Known(z.start); known <= z.o-z.base && f.Next < f.End(z.start); known = f.Known(z.start) {
		f.Header(z.buf[z.base+known-cluster.HeaderKnown:])
	}
}

// place puts the last n bytes of content, those of a block, into clusters.
func (z *Reader) place(kind, n int) error {
	var all []sequence
	switch kind {
	case blockRun:
		if n > 1 {
			all = []sequence{{1, uint32(n) - 1, 1}}
		}
	case blockPacked:
		all = z.decoder.sequences
	}
	if z.block.Size()+n <= int(z.files.End(z.start)-z.start) {
		for _, s := range all {
			z.block.Literals(int(s.literals))
			z.block.Match(int(s.match), s.offset)
			n -= int(s.literals + s.match)
		}
		z.block.Literals(n)
		return nil
	}
	for _, s := range all {
		if err := z.put(int(s.literals), 0); err != nil {
			return err
		}
		if err := z.put(int(s.match), s.offset); err != nil {
			return err
		}
		n -= int(s.literals + s.match)
	}
	return z.put(n, 0)
}

// put puts n bytes into the present cluster, and what it has no place for into the next. An offset of 0 says that they are literals.
func (z *Reader) put(n int, offset uint32) error {
	for n > 0 {
		room := int(z.files.End(z.start)-z.start) - z.block.Size()
		if room <= 0 {
			if err := z.cut(z.base + z.block.Size()); err != nil {
				return err
			}
			continue
		}
		some := min(n, room)
		if offset == 0 {
			z.block.Literals(some)
		} else {
			z.block.Match(some, offset)
		}
		n -= some
	}
	return nil
}

// cutIfFull ends the cluster when its recipe is long enough, or hands on what of the recipe there is.
func (z *Reader) cutIfFull() error {
	if len(z.ops) < cluster.FullRecipe {
		return nil
	}
	n := z.block.Size()
	if n == 0 || n >= cluster.Min {
		return z.cut(z.base + n)
	}
	// Too little for a cluster of the file system. What there is of it goes with the recipe, and comes once more.
	var b lz4.Block
	b.Reset(z.buf[z.base:])
	b.Literals(n)
	if err := z.hand(cluster.Cluster{Offset: z.start, Data: b.Finish(), Recipe: z.ops}, n); err != nil {
		return err
	}
	z.again = n
	z.op(opAgain, uint64(n))
	return nil
}

// cut ends the cluster before the byte at end in buf, and begins the next.
func (z *Reader) cut(end int) error {
	n := end - z.base
	if err := z.hand(cluster.Cluster{Offset: z.start, Size: n, Data: z.block.Finish(), Recipe: z.ops}, n); err != nil {
		return err
	}
	z.start += int64(n)
	z.base, z.again = end, 0
	z.block.Reset(z.buf[end:])
	z.follow()
	return nil
}

// hand verifies a cluster, of whose first n bytes of content some may have been handed on before, and hands it on.
func (z *Reader) hand(c cluster.Cluster, n int) error {
	if len(c.Data) > cluster.MaxData || len(c.Recipe) > cluster.MaxRecipe || !z.check.same(c, z.known, z.stream[:z.done], z.buf[z.base+z.again:z.base+n]) {
		return cluster.ErrUnfit
	}
	if err := z.emit(c); err != nil {
		return err
	}
	z.stream = z.stream[:copy(z.stream, z.stream[z.done:])]
	z.done, z.ops = 0, z.ops[:0]
	z.known = known{z.known.sequences[:0], z.known.counts[:0]}
	return nil
}
