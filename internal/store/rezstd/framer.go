package rezstd

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// framer writes a cluster: one frame, with the matches that somebody else has found.
//
// The kernel's decoder of EROFS asks for one frame a cluster, whose window is not larger than the file system says (fs/erofs/decompressor_zstd.c): here it is the
// content, in a single segment.
type framer struct {
	src  []byte // the content, from the frame's beginning on
	out  []byte
	last int // where in out the header of the last block is
	done int // bytes of src in whole blocks

	// The block in the making.
	n         int // bytes
	literals  []byte
	sequences []sequence
	run       uint32 // literals since the last match
	history   history

	symbols [][3]uint8 // of the sequences, by kind
	tables  [3]encodingTable
}

const (
	frameHead   = 9 // bytes of a frame's header: magic number, descriptor, a content size of four
	shortest    = 3 // bytes of a match
	fewSymbols  = 32
	singleFrame = 2<<6 | 1<<5 // the descriptor that says so
)

// reset begins a frame of what will be in src.
func (f *framer) reset(src []byte) {
	f.src, f.out = src, append(f.out[:0], make([]byte, frameHead)...)
	f.last, f.done = -1, 0
	f.history = newHistory()
	f.clear()
}

func (f *framer) clear() {
	f.n, f.run, f.sequences = 0, 0, f.sequences[:0]
	f.literals = slices.Grow(f.literals[:0], maxBlock+16)
}

// size is how much the frame has of src.
func (f *framer) size() int { return f.done + f.n }

// raw adds the next n bytes as literals.
func (f *framer) raw(n int) {
	at, l := f.done+f.n, len(f.literals)
	if n <= 16 && n < maxBlock-f.n && len(f.src)-at >= 16 && cap(f.literals)-l >= 16 { // the usual case, without a call
		copy16(f.literals[l:l+16], f.src[at:at+16])
		f.literals = f.literals[:l+n]
		f.run += uint32(n)
		f.n += n
		return
	}
	for n > 0 {
		some := min(n, maxBlock-f.n)
		at := f.size()
		f.literals = append(f.literals, f.src[at:at+some]...)
		f.run += uint32(some)
		f.added(some)
		n -= some
	}
}

// match adds the next n bytes, which are those that are found offset bytes before. What lies before the frame is not found.
func (f *framer) match(n int, offset uint32) {
	if missing := int64(offset) - int64(f.size()); missing > 0 {
		some := int(min(missing, int64(n)))
		f.raw(some)
		n -= some
	}
	for n > 0 {
		some := min(n, maxBlock-f.n)
		if some < shortest {
			f.raw(some)
		} else {
			f.sequences = append(f.sequences, sequence{f.run, uint32(some), offset})
			f.run = 0
			f.added(some)
		}
		n -= some
	}
}

func (f *framer) added(n int) {
	if f.n += n; f.n == maxBlock {
		f.flush()
	}
}

// flush writes the block.
func (f *framer) flush() {
	if f.n == 0 {
		return
	}
	f.last = len(f.out)
	f.out = append(f.out, 0, 0, 0)
	before, kind, size := f.history, blockPacked, f.n
	f.out = appendLiterals(f.out, f.literals)
	if len(f.out)-f.last < f.n { // else there is nothing to gain
		f.encode()
		size = len(f.out) - f.last - 3
	}
	if size >= f.n {
		kind, size = blockRaw, f.n
		f.out = append(f.out[:f.last+3], f.src[f.done:f.done+f.n]...)
		f.history = before
	}
	putBlockHead(f.out[f.last:], kind, size, false)
	f.done += f.n
	f.clear()
}

func putBlockHead(b []byte, kind, size int, last bool) {
	v := uint32(size)<<3 | uint32(kind)<<1
	if last {
		v |= 1
	}
	b[0], b[1], b[2] = byte(v), byte(v>>8), byte(v>>16)
}

func readBlockHead(b []byte) (last bool, kind, size int) {
	v := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	return v&1 != 0, v >> 1 & 3, v >> 3
}

// finish ends the frame and returns it. It is the framer's until reset.
func (f *framer) finish() []byte {
	f.flush()
	if f.last < 0 {
		f.last = len(f.out)
		f.out = append(f.out, 0, 0, 0)
	}
	f.out[f.last] |= 1
	binary.LittleEndian.PutUint32(f.out, frameMagic)
	f.out[4] = singleFrame
	binary.LittleEndian.PutUint32(f.out[5:], uint32(f.done))
	return f.out
}

// encode appends the block's sequences.
func (f *framer) encode() {
	n := len(f.sequences)
	switch {
	case n < 128:
		f.out = append(f.out, byte(n))
	case n < 0x7f00:
		f.out = append(f.out, byte(n>>8+128), byte(n))
	default:
		f.out = append(f.out, 255, byte(n-0x7f00), byte((n-0x7f00)>>8))
	}
	if n == 0 {
		return
	}
	f.symbols = slices.Grow(f.symbols[:0], n)[:n]
	var counts [3][64]uint32
	for i := range f.sequences {
		s := &f.sequences[i]
		s.offset = f.history.value(s.offset, s.literals > 0)
		l, o, m := literalsCode(s.literals), uint8(bits.Len32(s.offset)-1), matchCode(s.match)
		f.symbols[i] = [3]uint8{kindLiterals: l, kindOffset: o, kindMatch: m}
		counts[kindLiterals][l&63]++
		counts[kindOffset][o&63]++
		counts[kindMatch][m&63]++
	}
	at := len(f.out)
	f.out = append(f.out, 0)
	for k := range f.tables {
		f.out[at] |= f.table(k, &counts[k]) << (6 - 2*k)
	}
	f.encodeBits()
}

// table makes the table of one kind of symbols, appends what a decoder must know of it, and returns the mode.
func (f *framer) table(kind int, counts *[64]uint32) byte {
	k, t, total := &kinds[kind], &f.tables[kind], len(f.sequences)
	last, used := 0, 0
	for s, c := range counts {
		if c > 0 {
			last = s
			used++
		}
	}
	switch {
	case used == 1:
		t.single(uint8(last))
		f.out = append(f.out, uint8(last))
		return modeSingle
	case total < fewSymbols:
		t.build(k.norm, k.defaultLog)
		return modeDefault
	}
	log := logFor(total, last, k.log)
	var norm [64]int16
	normalize(counts[:last+1], uint32(total), log, norm[:last+1])
	f.out = writeDistribution(f.out, norm[:last+1], log)
	t.build(norm[:last+1], log)
	return modeTable
}

// encodeBits appends the codes of all sequences, last first, with what is added to them.
func (f *framer) encodeBits() {
	lits, offs, matches := &f.tables[kindLiterals], &f.tables[kindOffset], &f.tables[kindMatch]
	all := f.symbols
	var w bitWriter
	w.begin(f.out, 6*len(all)+64)
	var ll, of, ml uint32
	for i := len(all) - 1; i >= 0; i-- {
		s := &f.sequences[i]
		l, o, m := all[i][kindLiterals], all[i][kindOffset], all[i][kindMatch]
		if i == len(all)-1 {
			ll, of, ml = lits.first(l), offs.first(o), matches.first(m)
		} else {
			of = offs.put(&w, of, o)
			ml = matches.put(&w, ml, m)
			ll = lits.put(&w, ll, l)
			w.flush()
		}
		w.add(uint64(s.literals-literalsBase[l]), uint(literalsBits[l]))
		w.add(uint64(s.match-matchBase[m]), uint(matchBits[m]))
		w.flush()
		w.add(uint64(s.offset-1<<o), uint(o))
		w.flush()
	}
	matches.end(&w, ml)
	offs.end(&w, of)
	lits.end(&w, ll)
	f.out = w.stop()
}

// literalsCode is the code of a number of literals.
func literalsCode(n uint32) uint8 {
	switch {
	case n < 16:
		return uint8(n)
	case n < 24:
		return uint8(16 + (n-16)/2)
	case n < 32:
		return uint8(20 + (n-24)/4)
	case n < 48:
		return uint8(22 + (n-32)/8)
	case n < 64:
		return 24
	}
	return uint8(bits.Len32(n) + 18)
}

// matchCode is the code of a match's length.
func matchCode(n uint32) uint8 {
	switch n -= 3; {
	case n < 32:
		return uint8(n)
	case n < 40:
		return uint8(32 + (n-32)/2)
	case n < 48:
		return uint8(36 + (n-40)/4)
	case n < 64:
		return uint8(38 + (n-48)/8)
	case n < 96:
		return uint8(40 + (n-64)/16)
	case n < 128:
		return 42
	}
	return uint8(bits.Len32(n) + 35)
}

// Pack makes a stream of at most cluster.Most bytes that has all that clusters have, codes of literals and matches: where something comes again after 256 bytes. It is
// for who asks whether the kernel reads such clusters.
func Pack(b []byte) []byte {
	const back, worth = 256, 8
	var f framer
	f.reset(b)
	for at := 0; at < len(b); {
		n := 0
		for at >= back && at+n < len(b) && b[at+n] == b[at+n-back] {
			n++
		}
		if n < worth {
			f.raw(1)
			at++
			continue
		}
		f.match(n, back)
		at += n
	}
	return f.finish()
}
