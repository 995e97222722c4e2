// Package redeflate turns a gzip stream into clusters that can be decompressed one by one, and back into the same stream, bit for bit.
//
// A deflate stream can be read from its beginning only: a match may reach 32 KiB back, whatever lies in between. A file system that reads any part of
// a layer needs pieces that stand alone; a registry that gets the layer back needs the very bytes that it gave. Both are had from one copy, because
// nearly all of the stream can be kept as it is:
//
//   - A cluster is a whole deflate stream of its own, of [cluster.Size] bytes unpacked. But for its first 32 KiB, what it holds are the stream's own bits,
//     shifted: its blocks, its codes, its matches.
//   - Where a file of [cluster.LargeFile] bytes or more begins in the archive, a cluster begins, so that the file can be read by itself.
//   - In the first 32 KiB of a cluster, matches that reach back before it are written out as literals, in a block with codes of its own. The recipe
//     remembers those matches, three or four bytes each, and what else is not in the cluster: heads of members, the block headers there.
//
// Compressing anew would take the processor ten times as long and would not give the same bytes back. What is kept of a layer is 3 to 4 % more than
// its stream.
//
// [Reader] unpacks a stream and makes clusters and recipe on the way; [Rebuild] makes the stream of them. A Reader holds every cluster against the
// stream before it hands it on, so that a stream that cannot be had back is known while it is still there.
package redeflate

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"

	"brig/api"
	"brig/internal/store/cluster"
)

// fullCluster is how many bytes of Data end a cluster before it has its size.
const fullCluster = 640 << 10

// The steps of a recipe. Numbers are unsigned varints; BITS is a number of bits and then the bytes that hold them.
const (
	opRaw     = 1 + iota // BITS: write them
	opHeader             // BITS: write them; they are a block's header, with the codes of what follows
	opTable              // BITS: a block's header, written before
	opTokens             // bit of the cluster: here lies a block of tokens
	opHead               // n, count of matches, matches: write n tokens of the block
	opEnd                // write the end of the block
	opCopy               // bit, n: write n bits of the cluster
	opBytes              // byte, n: write n bytes of the cluster
	opCluster            // end of what this cluster is needed for
	opSplit              // n: the cluster before ends within a match, which is the next that is remembered; its last n bytes are in this one
)

// state is what comes next in the stream.
type state int

const (
	atMember state = iota
	atBlock
	inStored
	inCodes
	atTrailer
	atEnd
)

// Reader unpacks a gzip stream, of one or more members. Read gives the unpacked bytes; each cluster is handed to emit, in order, before the bytes
// after it are given. What Cluster points to is emit's until it returns.
type Reader struct {
	in   input
	emit func(cluster.Cluster) error
	err  error

	t     tables
	c     codes
	fixed bool
	hdr   bitWriter // the present block's header, whole
	final bool      // the present block is the last of its member
	left  int       // bytes of a stored block
	state state

	out     []byte
	o, r    int   // out[r:o] is to be read
	slid    int64 // offset in the unpacked stream of out[0]
	member  int64 // where the present member began
	members int

	// The cluster in the making.
	files    cluster.Files
	start    int64 // in the unpacked stream
	headEnd  int64 // up to here tokens are recorded
	w        bitWriter
	tokens   []token // recorded
	block    []token // of the block of the cluster that is being made
	blockAt  bool    // block has been announced
	open     bool    // w ends within the stream's present block, whose header it has
	fixes    []byte
	fixCount int
	gap      int // tokens since the last match that was remembered
	count    int // tokens since the last opHead
	ops      []byte
	copyAt   int64 // an opCopy that may grow
	copyN    int64
	check    rebuilder
	checked  int64 // bytes of the stream that were held against the clusters
}

// NewReader makes a Reader of r.
func NewReader(r io.Reader, emit func(cluster.Cluster) error) *Reader {
	return &Reader{in: input{r: r}, emit: emit, out: make([]byte, window+outSize+outSlack)}
}

// Read implements io.Reader. What is wrong with the stream is api.Corrupt.
func (z *Reader) Read(p []byte) (int, error) {
	for z.r == z.o {
		if z.err != nil {
			return 0, z.err
		}
		if z.err = corrupt(z.step()); z.err == nil && z.state == atEnd {
			z.err = io.EOF
		}
	}
	n := copy(p, z.out[z.r:z.o])
	z.r += n
	return n, nil
}

// total is how much was unpacked.
func (z *Reader) total() int64 { return z.slid + int64(z.o) }

// step does the next piece of work, which may give bytes.
func (z *Reader) step() error {
	if z.o > window+outSize/2 { // all of it has been read
		n := copy(z.out, z.out[z.o-window:z.o])
		z.slid += int64(z.o - n)
		z.o, z.r = n, n
	}
	switch z.state {
	case atMember:
		return z.memberHead()
	case atBlock:
		return z.blockHead()
	case inStored:
		return z.stored()
	case inCodes:
		return z.symbols()
	case atTrailer:
		return z.trailer()
	}
	return nil
}

// memberHead reads the head of a member, RFC 1952, or the end of the stream.
func (z *Reader) memberHead() error {
	ended, err := z.in.ended()
	if err != nil {
		return err
	}
	if ended && z.members > 0 {
		z.state = atEnd
		return z.cut()
	}
	var raw []byte
	take := func(n int) error {
		for range n {
			b, err := z.in.take(8)
			if err != nil {
				return err
			}
			raw = append(raw, byte(b))
		}
		return nil
	}
	if err := take(10); err != nil {
		return err
	}
	if raw[0] != 0x1f || raw[1] != 0x8b || raw[2] != 8 {
		return errCorrupt
	}
	flags := raw[3]
	if flags&4 != 0 { // FEXTRA
		if err := take(2); err != nil {
			return err
		}
		if err := take(int(raw[10]) | int(raw[11])<<8); err != nil {
			return err
		}
	}
	for _, flag := range []byte{8, 16} { // FNAME, FCOMMENT
		for flags&flag != 0 {
			if len(raw) > 1<<20 {
				return errCorrupt
			}
			if err := take(1); err != nil {
				return err
			}
			if raw[len(raw)-1] == 0 {
				break
			}
		}
	}
	if flags&2 != 0 { // FHCRC
		if err := take(2); err != nil {
			return err
		}
	}
	z.raw(opRaw, raw, int64(len(raw))*8)
	z.members++
	z.member = z.total()
	z.state = atBlock
	return nil
}

// trailer reads the checksum and length at the end of a member. What they say is not looked at: the digest of what was unpacked says more.
func (z *Reader) trailer() error {
	pad := uint(-z.in.at() & 7)
	v, err := z.in.take(pad)
	if err != nil {
		return err
	}
	var w bitWriter
	w.write(uint64(v), pad)
	for range 2 {
		if v, err = z.in.take(32); err != nil {
			return err
		}
		w.write(uint64(v), 32)
	}
	if err := z.in.fill(); err != nil {
		return err
	}
	n := w.len()
	w.align()
	z.raw(opRaw, w.buf, n)
	z.state = atMember
	return nil
}

// blockHead reads the header of a block.
func (z *Reader) blockHead() error {
	if err := z.cutIfFull(); err != nil {
		return err
	}
	from := z.in.at()
	v, err := z.in.take(3)
	if err != nil {
		return err
	}
	z.final = v&1 != 0
	z.hdr.reset()
	z.hdr.write(uint64(v), 3)
	switch v >> 1 {
	case 0:
		pad := uint(-z.in.at() & 7)
		p, err := z.in.take(pad)
		if err != nil {
			return err
		}
		z.hdr.write(uint64(p), pad)
		n, err := z.in.take(32)
		if err != nil {
			return err
		}
		z.hdr.write(uint64(n), 32)
		if uint16(n) != ^uint16(n>>16) {
			return errCorrupt
		}
		z.left = int(n & 0xffff)
		z.endTokens()
		z.raw(opRaw, z.hdr.aligned(), z.hdr.len())
		z.state = inStored
		return z.in.fill()
	case 1:
		if !z.fixed {
			z.c = fixedCodes()
			if err := z.t.build(&z.c); err != nil {
				return err
			}
			z.fixed = true
		}
	case 2:
		z.fixed = false
		if err := z.in.readCodes(&z.c); err != nil {
			return err
		}
		if err := z.t.build(&z.c); err != nil {
			return err
		}
		to := z.in.at()
		z.hdr.copy(z.in.buf, from+3-z.in.base*8, to-from-3)
	default:
		return errCorrupt
	}
	z.state, z.open = inCodes, z.total() >= z.headEnd
	switch {
	case !z.open:
		z.raw(opHeader, z.hdr.aligned(), z.hdr.len())
	case z.final: // in the cluster it is not the last
		z.raw(opRaw, []byte{1}, 1)
		z.w.write(0, 1)
		z.verbatim(from+1, z.in.at())
	default:
		z.verbatim(from, z.in.at())
	}
	return nil
}

// symbols unpacks a piece of a block with codes.
func (z *Reader) symbols() error {
	if err := z.in.fill(); err != nil {
		return err
	}
	end := int(z.files.End(z.start) - z.slid)
	limit := min(len(z.out)-outSlack, z.files.Known(z.slid))
	low := max(0, int(z.member-z.slid))
	begin := z.o
	var why stop
	var err error
	z.tokens = z.tokens[:0]
	switch from := z.in.at(); {
	case !z.open:
		limit = min(limit, end, int(z.headEnd-z.slid))
		if z.o, z.tokens, why, err = record(&z.in, &z.t, z.out, z.o, low, limit, z.tokens); err != nil {
			return err
		}
		if z.o > end {
			z.note(begin, z.tokens[:len(z.tokens)-1])
			return z.cutWithin(z.tokens[len(z.tokens)-1], z.o-end)
		}
		z.note(begin, z.tokens)
		if why == stopBlock {
			z.head()
			z.ops = append(z.ops, opEnd)
		}
		if z.total() >= z.headEnd {
			z.endTokens()
			if why != stopBlock { // the rest of the block needs its codes
				z.w.write(0, 1)
				z.w.copy(z.hdr.aligned(), 1, z.hdr.len()-1)
				z.open = true
			}
		}
	case z.o < end-maxStep:
		if z.o, why, err = decode(&z.in, &z.t, z.out, z.o, low, min(limit, end-maxStep)); err != nil {
			return err
		}
		z.verbatim(from, z.in.at())
	default: // symbol by symbol, for the cluster ends at a byte, not at a symbol
		if z.o, z.tokens, why, err = record(&z.in, &z.t, z.out, z.o, low, z.o+1, z.tokens); err != nil {
			return err
		}
		if z.o > end {
			return z.cutWithin(z.tokens[0], z.o-end)
		}
		z.verbatim(from, z.in.at())
	}
	z.follow()
	if why == stopBlock {
		z.blockDone()
		return nil
	}
	return z.cutIfFull()
}

// follow shows files what was unpacked, when it waits for it.
func (z *Reader) follow() {
	if at := z.files.Known(z.slid); z.o >= at {
		z.files.Header(z.out[at-cluster.HeaderKnown:])
	}
}

func (z *Reader) blockDone() {
	z.state, z.open = atBlock, false
	if z.final {
		z.state = atTrailer
	}
}

// stored passes a piece of a stored block.
func (z *Reader) stored() error {
	if z.left == 0 {
		z.blockDone()
		return nil
	}
	if err := z.cutIfFull(); err != nil {
		return err
	}
	z.in.seek(z.in.at())
	if z.in.pos >= z.in.real {
		if err := z.in.fill(); err != nil {
			return err
		}
		if z.in.pos >= z.in.real {
			return io.ErrUnexpectedEOF
		}
	}
	n := min(z.left, z.in.real-z.in.pos, min(len(z.out)-outSlack, z.files.Known(z.slid), int(z.files.End(z.start)-z.slid))-z.o)
	b := z.in.buf[z.in.pos : z.in.pos+n]
	if len(z.w.buf) == 0 && z.w.n == 0 {
		z.w.write(2, 10) // an empty block: the first byte of a cluster is not zero
	}
	z.w.write(0, 3)
	z.w.align()
	z.w.bytes([]byte{byte(n), byte(n >> 8), ^byte(n), ^byte(n >> 8)})
	z.op(opBytes, uint64(len(z.w.buf)), uint64(n))
	z.w.bytes(b)
	z.o += copy(z.out[z.o:], b)
	z.in.pos += n
	z.left -= n
	z.follow()
	return nil
}

// note looks at tokens that were recorded, which gave the bytes from begin on, and makes the cluster's own of them.
func (z *Reader) note(begin int, tokens []token) {
	if len(tokens) == 0 {
		return
	}
	z.announce()
	at := begin
	first := int(z.start - z.slid) // where the cluster begins in out
	for _, t := range tokens {
		z.count++
		if !t.isMatch() {
			z.block = append(z.block, t)
			z.gap++
			at++
			continue
		}
		n := t.length()
		if at-t.dist() >= first && t&oddFlag == 0 {
			z.block = append(z.block, t)
			z.gap++
		} else {
			z.remember(t, z.out[at:at+n])
		}
		at += n
	}
}

// announce begins a block of tokens.
func (z *Reader) announce() {
	if !z.blockAt {
		z.op(opTokens, uint64(z.w.len()))
		z.blockAt = true
	}
}

// remember puts a match into the recipe, and literals into the cluster.
func (z *Reader) remember(t token, literals []byte) {
	odd := uint64(0)
	if t&oddFlag != 0 {
		odd = 1
	}
	z.fixes = binary.AppendUvarint(z.fixes, uint64(z.gap)<<1|odd)
	z.fixes = append(z.fixes, byte(t.length()-3))
	z.fixes = binary.LittleEndian.AppendUint16(z.fixes, uint16(t.dist()-1))
	z.fixCount++
	z.gap = 0
	for _, b := range literals {
		z.block = append(z.block, token(b))
	}
}

// head closes the run of tokens of the present block.
func (z *Reader) head() {
	if z.count == 0 {
		return
	}
	z.op(opHead, uint64(z.count), uint64(z.fixCount))
	z.ops = append(z.ops, z.fixes...)
	z.fixes, z.fixCount, z.gap, z.count = z.fixes[:0], 0, 0, 0
}

// endTokens writes the tokens that are the cluster's own.
func (z *Reader) endTokens() {
	z.head()
	if z.blockAt {
		writeBlock(&z.w, z.block)
	}
	z.block, z.blockAt = z.block[:0], false
}

// verbatim copies bits of the stream, which the input still holds, to the cluster.
func (z *Reader) verbatim(from, to int64) {
	if from == to {
		return
	}
	if z.copyN == 0 || z.copyAt+z.copyN != z.w.len() {
		z.endCopy()
		z.copyAt = z.w.len()
	}
	z.copyN += to - from
	z.w.copy(z.in.buf, from-z.in.base*8, to-from)
}

// endCopy writes down what was copied.
func (z *Reader) endCopy() {
	if n := z.copyN; n > 0 {
		z.copyN = 0
		z.op(opCopy, uint64(z.copyAt), uint64(n))
	}
}

// op writes a step of the recipe.
func (z *Reader) op(op byte, args ...uint64) {
	z.endCopy()
	z.ops = append(z.ops, op)
	for _, v := range args {
		z.ops = binary.AppendUvarint(z.ops, v)
	}
}

// raw writes a step with n bits.
func (z *Reader) raw(op byte, b []byte, n int64) {
	z.op(op, uint64(n))
	z.ops = append(z.ops, b[:(n+7)/8]...)
}

// aligned gives what was written, filled up to a whole byte, without ending it.
func (w *bitWriter) aligned() []byte {
	if w.n == 0 {
		return w.buf
	}
	return append(w.buf, byte(w.acc))
}

// cutIfFull ends the cluster when it holds enough.
func (z *Reader) cutIfFull() error {
	n := z.total() - z.start
	if z.total() == z.files.End(z.start) || n >= cluster.Min && (len(z.w.buf) > fullCluster || len(z.ops) > cluster.FullRecipe) {
		return z.cut()
	}
	if len(z.w.buf) > cluster.MaxData-fullCluster/4 || len(z.ops) > 2*cluster.FullRecipe {
		return cluster.ErrUnfit
	}
	return nil
}

// cut ends the cluster and begins the next.
func (z *Reader) cut() error {
	if err := z.endCluster(nil, z.total()); err != nil || z.state == atEnd {
		return err
	}
	z.beginCluster()
	return nil
}

// cutWithin ends the cluster within the match t, which was unpacked last, before its last n bytes.
func (z *Reader) cutWithin(t token, n int) error {
	if err := z.endCluster(z.out[z.o-t.length():z.o-n], z.total()-int64(n)); err != nil {
		return err
	}
	z.beginCluster()
	z.op(opSplit, uint64(n))
	z.announce()
	z.count++
	z.remember(t, z.out[z.o-n:z.o])
	z.follow()
	return nil
}

// endCluster ends the cluster before the offset end of the unpacked stream. Of its bytes, rest is not in it yet.
func (z *Reader) endCluster(rest []byte, end int64) error {
	z.endTokens()
	z.endCopy()
	if z.open {
		var k [288]code
		canonical(z.c.lit[:], k[:])
		z.w.write(uint64(k[endBlock].bits), uint(k[endBlock].n))
	}
	if len(rest) > 0 {
		writeLiterals(&z.w, rest)
	}
	z.ops = append(z.ops, opCluster)
	z.w.write(3, 10) // the last block, empty, with fixed codes
	z.w.align()
	if len(z.w.buf) > cluster.MaxData {
		return cluster.ErrUnfit
	}
	c := cluster.Cluster{Offset: z.start, Size: int(end - z.start), Data: z.w.buf, Recipe: z.ops}
	if !z.same(c) {
		return cluster.ErrUnfit
	}
	if err := z.emit(c); err != nil {
		return err
	}
	z.w.reset()
	z.ops = z.ops[:0]
	z.start = end
	return nil
}

// beginCluster begins one where the last has ended.
func (z *Reader) beginCluster() {
	z.headEnd = 0
	if z.start > z.member {
		z.headEnd = z.start + window
	}
	if z.state == inCodes {
		z.raw(opTable, z.hdr.aligned(), z.hdr.len())
		if z.open = z.headEnd == 0; z.open {
			z.w.write(0, 1)
			z.w.copy(z.hdr.aligned(), 1, z.hdr.len()-1)
		}
	}
}

// same holds a cluster against the part of the stream that it was made of.
func (z *Reader) same(c cluster.Cluster) bool {
	b := &z.check
	b.w.buf = b.w.buf[:0]
	if b.cluster(c.Data, c.Recipe) != nil {
		return false
	}
	from := z.checked - z.in.base
	if !bytes.Equal(b.w.buf, z.in.buf[from:from+int64(len(b.w.buf))]) {
		return false
	}
	z.checked += int64(len(b.w.buf))
	z.in.keep = z.checked
	return true
}

// rebuilder carries out a recipe.
type rebuilder struct {
	w      bitWriter
	k      coder
	in     input // over the present cluster
	tokens []token
	tt     tables // of the cluster's own block
	inside bool   // in.pos is within such a block
	split  int    // of the next match that is remembered so many bytes are in this cluster; 0: all
	out    []byte // room for the bytes of tokens, which nobody needs
}

// errRecipe is a recipe that does not fit its cluster.
var errRecipe = api.Errorf(api.Corrupt, "a recipe that does not fit its layer")

// Rebuild gives the stream that a Reader made clusters and a recipe of. next gives the next cluster's data and recipe, until io.EOF.
func Rebuild(next func() (data, recipe []byte, err error)) io.Reader {
	return &rebuilt{next: next}
}

type rebuilt struct {
	next func() (data, recipe []byte, err error)
	b    rebuilder
	r    int
	err  error
}

// Read implements io.Reader.
func (z *rebuilt) Read(p []byte) (int, error) {
	for z.r == len(z.b.w.buf) {
		if z.err != nil {
			return 0, z.err
		}
		z.b.w.buf, z.r = z.b.w.buf[:0], 0
		data, recipe, err := z.next()
		if err == io.EOF && z.b.w.n > 0 {
			err = errRecipe
		}
		if err == nil {
			err = z.b.cluster(data, recipe)
		}
		z.err = err
	}
	n := copy(p, z.b.w.buf[z.r:])
	z.r += n
	return n, nil
}

// cluster appends the part of the stream that one cluster holds.
func (b *rebuilder) cluster(data, recipe []byte) error {
	ops := recipe
	number := func(limit int64) int64 {
		v, n := binary.Uvarint(ops)
		if n <= 0 || v > uint64(limit) {
			return -1
		}
		ops = ops[n:]
		return int64(v)
	}
	size := int64(len(data)) * 8
	b.split = 0
	b.seek(nil, 0) // no tokens before a step says where they are
	for len(ops) > 0 {
		op := ops[0]
		ops = ops[1:]
		switch op {
		case opRaw, opHeader, opTable:
			n := number(16 << 20)
			if n < 0 || (n+7)/8 > int64(len(ops)) {
				return errRecipe
			}
			raw := ops[:(n+7)/8]
			ops = ops[len(raw):]
			if op != opTable {
				b.w.copy(raw, 0, n)
			}
			if op != opRaw {
				if err := b.codes(raw); err != nil {
					return err
				}
			}
		case opTokens:
			at := number(size)
			if at < 0 {
				return errRecipe
			}
			b.seek(data, at)
		case opHead:
			n, fixes := number(1<<20), number(1<<20)
			if n < 0 || fixes < 0 {
				return errRecipe
			}
			var err error
			if ops, err = b.head(int(n), int(fixes), ops); err != nil {
				return err
			}
		case opEnd:
			end := b.k.lit[endBlock]
			b.w.write(uint64(end.bits), uint(end.n))
		case opCopy:
			at, n := number(size), number(size)
			if at < 0 || n < 0 || at+n > size {
				return errRecipe
			}
			b.w.copy(data, at, n)
		case opBytes:
			at, n := number(size/8), number(size/8)
			if at < 0 || n < 0 || at+n > size/8 || b.w.n != 0 {
				return errRecipe
			}
			b.w.bytes(data[at : at+n])
		case opSplit:
			if b.split = int(number(maxMatch)); b.split < 0 {
				return errRecipe
			}
		case opCluster:
			if len(ops) > 0 || b.split > 0 {
				return errRecipe
			}
			return nil
		default:
			return errRecipe
		}
	}
	return errRecipe
}

// seek has tokens taken from a bit of a cluster on.
func (b *rebuilder) seek(data []byte, bit int64) {
	b.in = input{err: io.EOF, buf: append(append(b.in.buf[:0], data...), make([]byte, 2*slack)...), real: len(data)}
	b.in.seek(bit)
	b.tokens, b.inside = b.tokens[:0], false
}

// codes reads a block's header.
func (b *rebuilder) codes(raw []byte) error {
	in := input{err: io.EOF, buf: append(slices.Clone(raw), make([]byte, 2*slack)...), real: len(raw)}
	v, err := in.take(3)
	if err != nil {
		return err
	}
	var c codes
	switch v >> 1 {
	case 1:
		c = fixedCodes()
	case 2:
		if err := in.readCodes(&c); err != nil {
			return errRecipe
		}
	default:
		return errRecipe
	}
	b.k.build(&c)
	return nil
}

// head writes n tokens, of which some are remembered in the recipe and lie in the cluster as literals. It returns the rest of the recipe.
func (b *rebuilder) head(n, fixes int, ops []byte) ([]byte, error) {
	for ; n > 0 || fixes > 0; fixes-- {
		gap := n
		var fixed token
		length := 0
		if fixes > 0 {
			v, k := binary.Uvarint(ops)
			if k <= 0 || len(ops) < k+3 || v>>1 >= uint64(n) {
				return nil, errRecipe
			}
			gap, length = int(v>>1), int(ops[k])+3
			fixed = match(length, int(binary.LittleEndian.Uint16(ops[k+1:])&0x7fff)+1)
			if v&1 != 0 {
				fixed |= oddFlag
			}
			ops = ops[k+3:]
			if b.split > 0 && (gap > 0 || b.split >= length) {
				return nil, errRecipe
			}
			if b.split > 0 {
				length, b.split = b.split, 0
			}
		}
		for range gap {
			t, err := b.token()
			if err != nil {
				return nil, err
			}
			if !b.k.put(&b.w, t) {
				return nil, errRecipe
			}
		}
		n -= gap
		if fixes > 0 {
			for range length {
				if t, err := b.token(); err != nil || t.isMatch() {
					return nil, errRecipe
				}
			}
			if !b.k.put(&b.w, fixed) {
				return nil, errRecipe
			}
			n--
		}
		if fixes == 0 {
			break
		}
	}
	return ops, nil
}

// token takes the next token of the cluster's own block.
func (b *rebuilder) token() (token, error) {
	for len(b.tokens) == 0 {
		if !b.inside {
			v, err := b.in.take(3)
			if err != nil || v != 2<<1 {
				return 0, errRecipe
			}
			var c codes
			if err := b.in.readCodes(&c); err != nil {
				return 0, errRecipe
			}
			if err := b.tt.build(&c); err != nil {
				return 0, errRecipe
			}
			b.inside = true
		}
		if b.out == nil {
			b.out = make([]byte, 2*window+outSlack)
		}
		if cap(b.tokens) < window {
			b.tokens = make([]token, 0, 2*window)
		}
		// The bytes do not matter here, only the symbols: any place that a match comes from will do.
		var err error
		if _, b.tokens, _, err = record(&b.in, &b.tt, b.out, window, 0, window+window, b.tokens[:0]); err != nil || len(b.tokens) == 0 {
			return 0, errRecipe
		}
	}
	t := b.tokens[0]
	b.tokens = b.tokens[1:]
	return t, nil
}
