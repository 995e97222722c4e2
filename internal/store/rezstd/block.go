package rezstd

import (
	"encoding/binary"
	"errors"
	"math"
)

const (
	frameMagic = 0xfd2fb528
	skipMagic  = 0x184d2a50 // and the 15 numbers after it
	maxBlock   = 128 << 10  // bytes of a block, packed or not: RFC 8878, 3.1.1.2.3

	blockRaw    = 0
	blockRun    = 1
	blockPacked = 2
)

var (
	errCorrupt = errors.New("malformed zstd data")
	// errStrange is a block that is not understood, though another decoder may take it.
	errStrange = errors.New("zstd data that is not understood")
)

// frame is what the header of a frame says, RFC 8878, 3.1.1.1.
type frame struct {
	length     int // of the header, in bytes
	window     uint64
	size       int64 // of the content; -1: it is not told
	checksum   bool
	dictionary bool
}

// headerLength is how many bytes a frame's header has, by the one after the magic number.
func headerLength(descriptor byte) int {
	single := descriptor >> 5 & 1
	n := 5 + [...]int{0, 1, 2, 4}[descriptor&3] + [...]int{0, 2, 4, 8}[descriptor>>6]
	if single == 0 {
		return n + 1 // the window
	}
	if descriptor>>6 == 0 {
		return n + 1 // a size of one byte
	}
	return n
}

// readFrame reads a whole header.
func readFrame(b []byte) frame {
	d := b[4]
	f := frame{length: len(b), size: -1, checksum: d>>2&1 != 0}
	single, rest := d>>5&1 != 0, b[5:]
	if !single {
		exponent, mantissa := rest[0]>>3, rest[0]&7
		base := uint64(1) << (10 + exponent)
		f.window = base + base/8*uint64(mantissa)
		rest = rest[1:]
	}
	n := [...]int{0, 1, 2, 4}[d&3]
	for _, c := range rest[:n] {
		f.dictionary = f.dictionary || c != 0
	}
	if rest = rest[n:]; len(rest) > 0 {
		var v [8]byte
		copy(v[:], rest)
		size := binary.LittleEndian.Uint64(v[:])
		if len(rest) == 2 {
			size += 256
		}
		f.size = int64(min(size, math.MaxInt64))
	}
	if single {
		f.window = uint64(f.size)
	}
	return f
}

// sequence is a run of literals and then a match.
type sequence struct {
	literals, match uint32 // bytes of each
	offset          uint32 // in a block: the value that stands for it, 1 to 3 for one of the last
}

// tables are what one block of a frame takes over from those before.
type tables struct {
	codes codes
	coded bool // codes are known
	seq   [3]decodingTable
	in    backward
}

// The kinds of codes in a sequence, in the order of their tables.
const (
	kindLiterals = iota
	kindOffset
	kindMatch
)

// kinds has what differs: how large tables and symbols can be, and the distributions that need no description (RFC 8878, 3.1.1.3.2.2).
var kinds = [3]struct {
	log, last  uint8
	defaultLog uint8
	norm       []int16
	what       meaning
}{
	{9, 35, 6, []int16{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1}, literalsOf},
	{8, 31, 5, []int16{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1}, offsetOf},
	{9, 52, 6, []int16{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
		-1, -1, -1, -1, -1, -1, -1}, matchOf},
}

// What a code of literals and of a match stands for: a length, to which so many bits are added (RFC 8878, 3.1.1.3.2.1.1).
var (
	literalsBase = [36]uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 28, 32, 40, 48, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536}
	literalsBits = [36]uint8{16: 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	matchBase    = [53]uint32{3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34,
		35, 37, 39, 41, 43, 47, 51, 59, 67, 83, 99, 131, 259, 515, 1027, 2051, 4099, 8195, 16387, 32771, 65539}
	matchBits = [53]uint8{32: 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
)

func literalsOf(symbol uint8) (value uint32, extra uint8) {
	return literalsBase[symbol], literalsBits[symbol]
}
func offsetOf(symbol uint8) (value uint32, extra uint8) { return 1 << symbol, symbol }
func matchOf(symbol uint8) (value uint32, extra uint8)  { return matchBase[symbol], matchBits[symbol] }

// The ways in which a table is told.
const (
	modeDefault = iota
	modeSingle
	modeTable
	modeRepeat
)

// sequences reads a sequences section, to its end, and appends what is in it to dst.
func (t *tables) sequences(b []byte, dst []sequence) ([]sequence, error) {
	if len(b) == 0 {
		return dst, errStrange
	}
	count, head := int(b[0]), 1
	switch {
	case count == 0:
		if len(b) > 1 {
			return dst, errStrange
		}
		return dst, nil
	case count == 255 && len(b) > 2:
		count, head = int(b[1])+int(b[2])<<8+0x7f00, 3
	case count >= 128 && len(b) > 1:
		count, head = (count-128)<<8+int(b[1]), 2
	}
	if len(b) <= head || b[head]&3 != 0 || count > maxBlock/3 {
		return dst, errStrange
	}
	modes := b[head]
	b = b[head+1:]
	for k := range t.seq {
		n, ok := t.seq[k].read(b, modes>>(6-2*k)&3, k)
		if !ok {
			return dst, errStrange
		}
		b = b[n:]
	}
	return t.decode(b, count, dst)
}

// read takes over the table of a kind, told in a mode, and returns how many bytes that took.
func (t *decodingTable) read(b []byte, mode byte, kind int) (n int, ok bool) {
	k := &kinds[kind]
	switch mode {
	case modeDefault:
		t.build(k.norm, k.defaultLog, k.what)
	case modeSingle:
		if len(b) == 0 || b[0] > k.last {
			return 0, false
		}
		t.single(b[0], k.what)
		n = 1
	case modeTable:
		var norm [53]int16
		log, n, ok := readDistribution(b, norm[:k.last+1], k.log)
		if ok {
			t.build(norm[:k.last+1], log, k.what)
		}
		return n, ok
	}
	return n, t.known
}

// decode reads count sequences.
func (t *tables) decode(b []byte, count int, dst []sequence) ([]sequence, error) {
	in := &t.in
	if !in.init(b) {
		return dst, errStrange
	}
	lits, offs, matches := &t.seq[kindLiterals], &t.seq[kindOffset], &t.seq[kindMatch]
	ll := in.take(lits.log)
	of := in.take(offs.log)
	ml := in.take(matches.log)
	total, left := uint32(0), in.left
	for ; count > 0; count-- {
		l, o, m := &lits.states[ll&(1<<maxLog-1)], &offs.states[of&(1<<maxLog-1)], &matches.states[ml&(1<<maxLog-1)]
		next := l.bits + m.bits + o.bits // bits that lead to the next states
		if count == 1 {
			next = 0
		}
		n, whole := o.extra+m.extra+l.extra, true
		if n+next > 56 { // more than can be had at once
			in.left = left
			v := in.take(o.extra)
			w := in.take(m.extra + l.extra)
			dst = append(dst, sequence{l.value + uint32(w&(1<<(l.extra&63)-1)), m.value + uint32(w>>(l.extra&63)), o.value + uint32(v)})
			left, n, whole = in.left, 0, false
		}
		if left -= int(n + next); left < 0 {
			return dst, errStrange
		}
		v := binary.LittleEndian.Uint64(in.in[left>>3:]) >> (left & 7)
		if count > 1 {
			of = uint64(o.base) + v&(1<<(o.bits&63)-1)
			v >>= o.bits & 63
			ml = uint64(m.base) + v&(1<<(m.bits&63)-1)
			v >>= m.bits & 63
			ll = uint64(l.base) + v&(1<<(l.bits&63)-1)
			v >>= l.bits & 63
		}
		if whole {
			s := sequence{literals: l.value + uint32(v&(1<<(l.extra&63)-1))}
			v >>= l.extra & 63
			s.match = m.value + uint32(v&(1<<(m.extra&63)-1))
			v >>= m.extra & 63
			s.offset = o.value + uint32(v&(1<<(o.extra&63)-1))
			dst = append(dst, s)
		}
		s := &dst[len(dst)-1]
		if total += s.match + s.literals; total > maxBlock {
			return dst, errStrange
		}
	}
	if left != 0 {
		return dst, errStrange
	}
	return dst, nil
}

// history is the last offsets, RFC 8878, 3.1.1.5.
type history [3]uint32

func newHistory() history { return history{1, 4, 8} }

// resolve gives the offset that the value of a sequence stands for; 0: there is none.
func (h *history) resolve(value uint32, literals bool) uint32 {
	if value > 3 {
		*h = history{value - 3, h[0], h[1]}
		return h[0]
	}
	if !literals {
		value++
	}
	var o uint32
	switch value {
	case 1:
		return h[0]
	case 2:
		*h = history{h[1], h[0], h[2]}
		return h[0]
	case 3:
		o = h[2]
	default:
		o = h[0] - 1
	}
	*h = history{o, h[0], h[1]}
	return o
}

func readBlockHead(b []byte) (last bool, kind, size int) {
	v := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	return v&1 != 0, v >> 1 & 3, v >> 3
}

func putBlockHead(b []byte, kind, size int, last bool) {
	v := uint32(size)<<3 | uint32(kind)<<1
	if last {
		v |= 1
	}
	b[0], b[1], b[2] = byte(v), byte(v>>8), byte(v>>16)
}
