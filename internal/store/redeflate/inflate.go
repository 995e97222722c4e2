package redeflate

import (
	"encoding/binary"
	"errors"
	"io"
	"math/bits"

	"brig/api"
)

// Sizes of RFC 1951.
const (
	window   = 32 << 10
	maxMatch = 258
	numLit   = 286
	numDist  = 30
	endBlock = 256
	maxCode  = 15
)

const (
	litBits  = 11 // of the first table; longer codes go by a second
	distBits = 9
	slack    = 16            // bytes that the decoder may look at beyond what it needs
	inChunk  = 128 << 10     // bytes asked of the source at a time
	outSize  = 256 << 10     // bytes of output that are decoded at a time
	outSlack = maxMatch + 64 // bytes that one step may write beyond the limit
	maxStep  = maxMatch + 2  // bytes that one step of decode may give: two literals and a match
)

// An entry of a decoding table. Bits 0-7: bits to drop; then by kind:
//
//	literal  kindLiteral | value<<16
//	match    base<<16 | extra bits<<8 (kind 0)
//	table    kindTable | offset<<16 | index bits<<8
//	end      kindEnd
//	bad      kindBad
const (
	kindLiteral = 1 << 15
	kindTable   = 1 << 14
	kindEnd     = 1 << 13
	kindBad     = 1 << 12
	kindMask    = kindLiteral | kindTable | kindEnd | kindBad
)

var (
	lengthBase  = [29]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthExtra = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distBase    = [30]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
	distExtra   = [30]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}
	codeOrder   = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
)

// errCorrupt is what the stream is when it does not follow RFC 1951.
var errCorrupt = errors.New("malformed deflate data")

// codes are the code lengths of a block, 0 where a symbol has none.
type codes struct {
	lit  [288]uint8
	dist [32]uint8
}

// fixedCodes are those of a block of type 1.
func fixedCodes() (c codes) {
	for i := range c.lit {
		switch {
		case i < 144:
			c.lit[i] = 8
		case i < 256:
			c.lit[i] = 9
		case i < 280:
			c.lit[i] = 7
		default:
			c.lit[i] = 8
		}
	}
	for i := range c.dist {
		c.dist[i] = 5
	}
	return c
}

// tables decode the symbols of one block.
type tables struct {
	lit  [1<<litBits + 1334]uint32 // zlib's "enough" for 288 symbols with 11 bits is 2342
	dist [1<<distBits + 402]uint32
}

// build makes both tables.
func (t *tables) build(c *codes) error {
	if err := buildTable(t.lit[:], litBits, c.lit[:], true); err != nil {
		return err
	}
	return buildTable(t.dist[:], distBits, c.dist[:], false)
}

// buildTable makes a two-level table from code lengths. An over-full set of codes is refused, and one with gaps, but for a lone code or none of
// distances, which RFC 1951 allows: as zlib does it.
func buildTable(table []uint32, rootBits uint, lens []uint8, literals bool) error {
	var count [maxCode + 1]int
	for _, n := range lens {
		count[n]++
	}
	count[0] = 0
	left, longest, used := 1, 0, 0
	for n := 1; n <= maxCode; n++ {
		left = left<<1 - count[n]
		if left < 0 {
			return errCorrupt
		}
		if count[n] > 0 {
			longest = n
		}
		used += count[n]
	}
	if left > 0 && (literals || used > 1 || longest > 1) {
		if used != 1 || longest != 1 {
			if used != 0 || literals {
				return errCorrupt
			}
		}
	}
	var next [maxCode + 2]int
	for n, code := 1, 0; n <= maxCode; n++ {
		next[n] = code
		code = (code + count[n]) << 1
	}
	root := table[:1<<rootBits]
	for i := range root {
		root[i] = kindBad | 1
	}
	// The longest code below each root entry that leads on says how large its second table is.
	var below [1 << litBits]uint8
	if uint(longest) > rootBits {
		codes := next
		for _, n := range lens {
			if n == 0 {
				continue
			}
			code := codes[n]
			codes[n]++
			if uint(n) > rootBits {
				at := bits.Reverse16(uint16(code)) >> (16 - n) & (1<<rootBits - 1)
				below[at] = max(below[at], n)
			}
		}
	}
	free := 1 << rootBits
	for sym, n := range lens {
		if n == 0 {
			continue
		}
		code := next[n]
		next[n]++
		reversed := int(bits.Reverse16(uint16(code)) >> (16 - n))
		if uint(n) <= rootBits {
			e := entry(sym, literals) | uint32(n)
			for i := reversed; i < 1<<rootBits; i += 1 << n {
				root[i] = e
			}
			continue
		}
		at := reversed & (1<<rootBits - 1)
		width := uint(below[at]) - rootBits
		if root[at]&kindTable == 0 {
			if free+1<<width > len(table) {
				return errCorrupt
			}
			root[at] = kindTable | uint32(free)<<16 | uint32(width)<<8 | uint32(rootBits)
			for i := free; i < free+1<<width; i++ {
				table[i] = kindBad | 1
			}
			free += 1 << width
		}
		sub := table[root[at]>>16:][:1<<width]
		e := entry(sym, literals) | uint32(uint(n)-rootBits)
		for i := reversed >> rootBits; i < 1<<width; i += 1 << (uint(n) - rootBits) {
			sub[i] = e
		}
	}
	return nil
}

// entry is a symbol's table entry, without the bits to drop.
func entry(sym int, literals bool) uint32 {
	switch {
	case !literals && sym < numDist:
		return uint32(distBase[sym])<<16 | uint32(distExtra[sym])<<8
	case !literals:
		return kindBad
	case sym < endBlock:
		return kindLiteral | uint32(sym)<<16
	case sym == endBlock:
		return kindEnd
	case sym < numLit:
		return uint32(lengthBase[sym-257])<<16 | uint32(lengthExtra[sym-257])<<8
	}
	return kindBad
}

// input is the compressed stream: what was read and may still be needed.
type input struct {
	r    io.Reader
	buf  []byte // followed by slack zeros at the end of the stream
	pos  int    // next byte of buf for acc
	acc  uint64 // bits that were taken from buf, lowest first; above n they may be of the byte at pos
	n    uint   // how many
	base int64  // offset in the stream of buf[0]
	keep int64  // what lies before this offset in the stream may go
	real int    // bytes of buf that are the stream's
	err  error  // of r; io.EOF at the end
}

// at is the offset in the stream of the next bit.
func (in *input) at() int64 { return (in.base+int64(in.pos))*8 - int64(in.n) }

// seek goes to a bit that buf holds.
func (in *input) seek(bit int64) {
	in.pos = int(bit>>3 - in.base)
	in.acc, in.n = 0, 0
	if odd := uint(bit & 7); odd != 0 {
		in.acc, in.n = uint64(in.buf[in.pos])>>odd, 8-odd
		in.pos++
	}
}

// fill reads more of the stream, so that at least slack bytes follow pos; at its end they are zeros.
func (in *input) fill() error {
	if in.err == nil {
		// A whole number of bytes goes, so that bits stay where they are within them.
		if drop := int(min(in.keep, in.base+int64(in.pos)-8) - in.base); drop > 0 && drop >= len(in.buf)/2 {
			n := copy(in.buf, in.buf[drop:])
			in.buf = in.buf[:n]
			in.base += int64(drop)
			in.pos -= drop
			in.real -= drop
		}
	}
	for in.err == nil && len(in.buf)-in.pos < 2*slack {
		if cap(in.buf)-len(in.buf) < inChunk+slack {
			grown := make([]byte, len(in.buf), 2*cap(in.buf)+inChunk+slack)
			copy(grown, in.buf)
			in.buf = grown
		}
		n, err := in.r.Read(in.buf[len(in.buf) : len(in.buf)+inChunk])
		in.buf = in.buf[:len(in.buf)+n]
		in.real += n
		if err != nil {
			in.err = err
			in.buf = append(in.buf, make([]byte, 2*slack)...)
		}
	}
	if in.err != nil && in.err != io.EOF {
		return in.err
	}
	if in.at() > (in.base+int64(in.real))*8 {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// ended reports whether the stream has no more bytes. It is asked at a byte's boundary.
func (in *input) ended() (bool, error) {
	if err := in.fill(); err != nil {
		return false, err
	}
	return in.err == io.EOF && in.at()>>3 >= in.base+int64(in.real), nil
}

// need takes n bits, at most 32, without dropping them.
func (in *input) need(n uint) (uint32, error) {
	if in.n < n {
		if len(in.buf)-in.pos < slack {
			if err := in.fill(); err != nil {
				return 0, err
			}
		}
		in.acc |= binary.LittleEndian.Uint64(in.buf[in.pos:]) << (in.n & 63)
		in.pos += int((63 - in.n) >> 3)
		in.n |= 56
	}
	return uint32(in.acc & (1<<n - 1)), nil
}

// take takes n bits, at most 32.
func (in *input) take(n uint) (uint32, error) {
	v, err := in.need(n)
	if err == nil {
		in.acc >>= n
		in.n -= n
	}
	return v, err
}

// readCodes reads the code lengths at the head of a dynamic block, after its three bits of type.
func (in *input) readCodes(c *codes) error {
	v, err := in.take(14)
	if err != nil {
		return err
	}
	nlit, ndist, nclen := int(v&31)+257, int(v>>5&31)+1, int(v>>10)+4
	if nlit > numLit || ndist > numDist {
		return errCorrupt
	}
	var lens [19]uint8
	for i := range nclen {
		b, err := in.take(3)
		if err != nil {
			return err
		}
		lens[codeOrder[i]] = uint8(b)
	}
	var table [128]uint8 // symbol<<3 | length
	if err := smallTable(&table, &lens); err != nil {
		return err
	}
	var all [numLit + numDist]uint8
	for i := 0; i < nlit+ndist; {
		b, err := in.need(14)
		if err != nil {
			return err
		}
		e := table[b&127]
		n := uint(e & 7)
		if n == 0 {
			return errCorrupt
		}
		in.acc >>= n
		in.n -= n
		b >>= n
		sym := e >> 3
		if sym < 16 {
			all[i] = sym
			i++
			continue
		}
		var again, extra int
		var value uint8
		switch sym {
		case 16:
			if i == 0 {
				return errCorrupt
			}
			value, again, extra = all[i-1], 3+int(b&3), 2
		case 17:
			again, extra = 3+int(b&7), 3
		default:
			again, extra = 11+int(b&127), 7
		}
		in.acc >>= extra
		in.n -= uint(extra)
		if i+again > nlit+ndist {
			return errCorrupt
		}
		for range again {
			all[i] = value
			i++
		}
	}
	if all[endBlock] == 0 {
		return errCorrupt
	}
	clear(c.lit[copy(c.lit[:], all[:nlit]):])
	clear(c.dist[copy(c.dist[:], all[nlit:nlit+ndist]):])
	return nil
}

// smallTable decodes the codes of code lengths, which have at most seven bits.
func smallTable(table *[128]uint8, lens *[19]uint8) error {
	var count [8]int
	for _, n := range lens {
		count[n]++
	}
	left := 1
	var next [8]int
	for n, code := 1, 0; n < 8; n++ {
		next[n] = code
		code = (code + count[n]) << 1
		if left = left<<1 - count[n]; left < 0 {
			return errCorrupt
		}
	}
	if left > 0 {
		return errCorrupt
	}
	for sym, n := range lens {
		if n == 0 {
			continue
		}
		reversed := int(bits.Reverse8(uint8(next[n])) >> (8 - n))
		next[n]++
		for i := reversed; i < 128; i += 1 << n {
			table[i] = uint8(sym)<<3 | n
		}
	}
	return nil
}

// token is a literal (its value) or a match: distance<<16 | length<<1 | 1 at bit 31... see match.
type token uint32

// A match has bit 31; below it the distance less one (15 bits) and the length (9 bits). odd: of length 258, but not by its own code.
const (
	matchFlag = 1 << 31
	oddFlag   = 1 << 30
)

func match(length, dist int) token { return token(matchFlag | (dist-1)<<9 | length) }
func (t token) isMatch() bool      { return t&matchFlag != 0 }
func (t token) length() int        { return int(t & 511) }
func (t token) dist() int          { return int(t>>9&0x7fff) + 1 }

// stop says why a run of decode ended.
type stop int

const (
	stopLimit stop = iota // the output has reached the limit, or the input is low
	stopBlock             // the block is at its end
)

// decode decodes symbols of a block into out from o on, until o is at or beyond limit, the input is low, or the block ends. low is the least
// position that a match may reach back to. out must have outSlack bytes more than limit.
func decode(in *input, t *tables, out []byte, o, low, limit int) (int, stop, error) {
	buf, pos, acc, n := in.buf, in.pos, in.acc, in.n
	last := len(buf) - slack
	lit, dist := &t.lit, &t.dist
	why := stopLimit
	var err error
	for o < limit && pos <= last {
		acc |= binary.LittleEndian.Uint64(buf[pos:]) << (n & 63)
		pos += int((63 - n) >> 3)
		n |= 56
		e := lit[acc&(1<<litBits-1)]
		if e&kindLiteral != 0 {
			acc >>= e & 63
			n -= uint(e & 63)
			out[o] = byte(e >> 16)
			o++
			e = lit[acc&(1<<litBits-1)]
			if e&kindLiteral != 0 {
				acc >>= e & 63
				n -= uint(e & 63)
				out[o] = byte(e >> 16)
				o++
				e = lit[acc&(1<<litBits-1)]
				if e&kindLiteral != 0 {
					acc >>= e & 63
					n -= uint(e & 63)
					out[o] = byte(e >> 16)
					o++
					continue
				}
			}
			if pos > last {
				break
			}
			acc |= binary.LittleEndian.Uint64(buf[pos:]) << (n & 63)
			pos += int((63 - n) >> 3)
			n |= 56
		}
		if e&kindMask != 0 {
			if e&kindTable != 0 {
				acc >>= litBits
				n -= litBits
				e = lit[uint(e>>16)+uint(acc&(1<<(e>>8&15)-1))]
			}
			if e&kindLiteral != 0 {
				acc >>= e & 63
				n -= uint(e & 63)
				out[o] = byte(e >> 16)
				o++
				continue
			}
			if e&kindEnd != 0 {
				acc >>= e & 63
				n -= uint(e & 63)
				why = stopBlock
				break
			}
			if e&kindBad != 0 {
				err = errCorrupt
				break
			}
		}
		acc >>= e & 63
		n -= uint(e & 63)
		extra := e >> 8 & 15
		length := int(e>>16) + int(acc&(1<<extra-1))
		acc >>= extra
		n -= uint(extra)

		d := dist[acc&(1<<distBits-1)]
		if d&(kindTable|kindBad) != 0 {
			if d&kindTable != 0 {
				acc >>= distBits
				n -= distBits
				d = dist[uint(d>>16)+uint(acc&(1<<(d>>8&15)-1))]
			}
			if d&kindBad != 0 {
				err = errCorrupt
				break
			}
		}
		acc >>= d & 63
		n -= uint(d & 63)
		extra = d >> 8 & 15
		back := int(d>>16) + int(acc&(1<<extra-1))
		acc >>= extra
		n -= uint(extra)
		from := o - back
		if from < low {
			err = errCorrupt
			break
		}
		if back >= 16 {
			*(*[16]byte)(out[o:]) = *(*[16]byte)(out[from:])
			end := o + length
			for o += 16; o < end; o += 16 {
				from += 16
				*(*[16]byte)(out[o:]) = *(*[16]byte)(out[from:])
			}
			o = end
			continue
		}
		o = copyMatch(out, o, from, length)
	}
	in.pos, in.acc, in.n = pos, acc, n
	if err == nil && in.err != nil && in.at() > (in.base+int64(in.real))*8 {
		err = io.ErrUnexpectedEOF
	}
	return o, why, err
}

// copyMatch repeats length bytes from an earlier place. It may write up to 15 bytes more than that.
func copyMatch(out []byte, o, from, length int) int {
	end := o + length
	switch dist := o - from; {
	case dist >= 8:
		for o < end {
			binary.LittleEndian.PutUint64(out[o:], binary.LittleEndian.Uint64(out[from:]))
			o += 8
			from += 8
		}
	case dist == 1:
		word := uint64(out[from]) * 0x0101010101010101
		for o < end {
			binary.LittleEndian.PutUint64(out[o:], word)
			o += 8
		}
	default:
		for o < end {
			out[o] = out[from]
			o++
			from++
		}
	}
	return end
}

// record is decode that also tells the symbols. It is slower, and used for the beginning of each cluster only.
func record(in *input, t *tables, out []byte, o, low, limit int, tokens []token) (int, []token, stop, error) {
	for o < limit {
		if len(in.buf)-in.pos < slack {
			if err := in.fill(); err != nil {
				return o, tokens, stopLimit, err
			}
		}
		in.acc |= binary.LittleEndian.Uint64(in.buf[in.pos:]) << (in.n & 63)
		in.pos += int((63 - in.n) >> 3)
		in.n |= 56
		e := t.lit[in.acc&(1<<litBits-1)]
		if e&kindTable != 0 {
			in.acc >>= litBits
			in.n -= litBits
			e = t.lit[uint(e>>16)+uint(in.acc&(1<<(e>>8&15)-1))]
		}
		if e&kindBad != 0 {
			return o, tokens, stopLimit, errCorrupt
		}
		in.acc >>= e & 63
		in.n -= uint(e & 63)
		switch {
		case e&kindLiteral != 0:
			out[o] = byte(e >> 16)
			o++
			tokens = append(tokens, token(e>>16&255))
			continue
		case e&kindEnd != 0:
			if in.err != nil && in.at() > (in.base+int64(in.real))*8 {
				return o, tokens, stopBlock, io.ErrUnexpectedEOF
			}
			return o, tokens, stopBlock, nil
		}
		extra := e >> 8 & 15
		length := int(e>>16) + int(in.acc&(1<<extra-1))
		odd := length == maxMatch && extra != 0
		in.acc >>= extra
		in.n -= uint(extra)
		d := t.dist[in.acc&(1<<distBits-1)]
		if d&kindTable != 0 {
			in.acc >>= distBits
			in.n -= distBits
			d = t.dist[uint(d>>16)+uint(in.acc&(1<<(d>>8&15)-1))]
		}
		if d&kindBad != 0 {
			return o, tokens, stopLimit, errCorrupt
		}
		in.acc >>= d & 63
		in.n -= uint(d & 63)
		extra = d >> 8 & 15
		back := int(d>>16) + int(in.acc&(1<<extra-1))
		in.acc >>= extra
		in.n -= uint(extra)
		if o-back < low {
			return o, tokens, stopLimit, errCorrupt
		}
		tok := match(length, back)
		if odd {
			tok |= oddFlag
		}
		tokens = append(tokens, tok)
		o = copyMatch(out, o, o-back, length)
	}
	if in.err != nil && in.at() > (in.base+int64(in.real))*8 {
		return o, tokens, stopLimit, io.ErrUnexpectedEOF
	}
	return o, tokens, stopLimit, nil
}

// corrupt gives what is wrong with a stream its kind; errors of its source pass as they are.
func corrupt(err error) error {
	if errors.Is(err, errCorrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
		return api.Errorf(api.Corrupt, "gzip: %w", err)
	}
	return err
}
