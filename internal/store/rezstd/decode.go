package rezstd

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// decoder unpacks the blocks of a frame, one after the other.
type decoder struct {
	tables
	symbols   [1 << maxBits]uint16 // by the next bits: a symbol, and in the upper half how many bits it takes
	numbered  bool                 // symbols fits codes
	literals  []byte
	sequences []sequence // of the last block, with offsets
	history   history
}

// begin is a new frame.
func (d *decoder) begin() { d.history = newHistory() }

// packed unpacks a compressed block into out[at:]. What it refers to begins at low. It returns how many bytes there are.
func (d *decoder) packed(b []byte, out []byte, at, low int) (s section, n int, err error) {
	had := d.coded
	s, ok := d.readSection(b, len(b))
	if !ok {
		return s, 0, errStrange
	}
	if s.kind == litCoded || !had {
		d.numbered = false
	}
	payload := b[s.head : s.head+s.payload]
	var lits []byte
	switch s.kind {
	case litRaw:
		lits = payload
	case litRun:
		d.literals = append(d.literals[:0], make([]byte, s.size)...)
		for i := range d.literals {
			d.literals[i] = b[s.head-1]
		}
		lits = d.literals
	default:
		if !d.readLiterals(payload, s) {
			return s, 0, errCorrupt
		}
		lits = d.literals[:s.size]
	}
	if d.sequences, err = d.tables.sequences(b[s.head+s.payload:], d.sequences[:0]); err != nil {
		return s, 0, err
	}
	n, err = d.execute(lits, out, at, low)
	return s, n, err
}

// execute writes what sequences and literals say.
func (d *decoder) execute(lits, out []byte, at, low int) (int, error) {
	from := at
	end := min(at+maxBlock, len(out))
	for i := range d.sequences {
		q := &d.sequences[i]
		q.offset = d.history.resolve(q.offset, q.literals > 0)
		l, m, back := int(q.literals), int(q.match), int(q.offset)
		if l > len(lits) || l+m > end-at || back > at+l-low || back == 0 {
			return 0, errCorrupt
		}
		if l <= 16 && len(lits) >= 16 && len(out)-at >= 16 { // the usual case, without a call
			copy16(out[at:at+16], lits[:16])
		} else {
			copy(out[at:], lits[:l])
		}
		lits = lits[l:]
		at += l
		switch {
		case back >= 16 && m <= 16 && len(out)-at >= 16:
			copy16(out[at:at+16], out[at-back:at-back+16])
		case back >= m:
			copy(out[at:at+m], out[at-back:])
		default: // what is copied comes to be copied
			src, dst := out[at-back:at], out[at:at+m]
			for n := copy(dst, src); n < m; {
				n += copy(dst[n:], dst[:n])
			}
		}
		at += m
	}
	if len(lits) > end-at {
		return 0, errCorrupt
	}
	at += copy(out[at:], lits)
	return at - from, nil
}

func copy16(dst, src []byte) {
	a, b := binary.LittleEndian.Uint64(src), binary.LittleEndian.Uint64(src[8:16])
	binary.LittleEndian.PutUint64(dst, a)
	binary.LittleEndian.PutUint64(dst[8:16], b)
}

// readLiterals decodes the streams of a literals section.
func (d *decoder) readLiterals(b []byte, s section) bool {
	if !d.numbered {
		d.number()
	}
	d.literals = slices.Grow(d.literals[:0], s.size+8)[:s.size]
	if s.streams == 1 {
		var one stream
		return one.init(b, d.literals) && d.finish(&one)
	}
	if len(b) < 6 {
		return false
	}
	table, rest, out := b[:6], b[6:], d.literals
	part := (s.size + 3) / 4
	var streams [4]stream
	for i := range streams {
		n := len(rest)
		if i < 3 {
			n = int(binary.LittleEndian.Uint16(table[2*i:]))
		}
		size := min(part, len(out))
		if n > len(rest) || i < 3 && size < part || !streams[i].init(rest[:n], out[:size]) {
			return false
		}
		rest, out = rest[n:], out[size:]
	}
	// The four are independent of one another, so that a processor can look up their symbols at the same time.
	p, q, r, t := &streams[0], &streams[1], &streams[2], &streams[3]
	shift, mask := d.codes.most&15, uint64(1)<<d.codes.most-1
	for len(t.out) >= 5 && min(p.left, q.left, r.left, t.left) >= 64 {
		a, at := p.peek()
		b, bt := q.peek()
		c, ct := r.peek()
		e, et := t.peek()
		an, bn, cn, en := uint8(ahead), uint8(ahead), uint8(ahead), uint8(ahead)
		o, u, v, w := p.out[:5], q.out[:5], r.out[:5], t.out[:5]
		for i := range 5 {
			x := d.symbols[a>>((an-shift)&63)&mask&(1<<maxBits-1)]
			y := d.symbols[b>>((bn-shift)&63)&mask&(1<<maxBits-1)]
			z := d.symbols[c>>((cn-shift)&63)&mask&(1<<maxBits-1)]
			k := d.symbols[e>>((en-shift)&63)&mask&(1<<maxBits-1)]
			o[i], u[i], v[i], w[i] = uint8(x), uint8(y), uint8(z), uint8(k)
			an -= uint8(x >> 8)
			bn -= uint8(y >> 8)
			cn -= uint8(z >> 8)
			en -= uint8(k >> 8)
		}
		p.left, q.left, r.left, t.left = at+int(an), bt+int(bn), ct+int(cn), et+int(en)
		p.out, q.out, r.out, t.out = p.out[5:], q.out[5:], r.out[5:], t.out[5:]
	}
	for i := range streams {
		if !d.finish(&streams[i]) {
			return false
		}
	}
	return true
}

// number fills symbols.
func (d *decoder) number() {
	d.numbered = true
	for s, c := range d.codes.of {
		if c&noCode != 0 {
			continue
		}
		n := c >> 16
		from := int(c&0xffff) << (d.codes.most - uint8(n))
		entry := uint16(n)<<8 | uint16(s)
		for i := range 1 << (d.codes.most - uint8(n)) {
			d.symbols[from+i] = entry
		}
	}
}

// ahead is how many bits are looked at, of which a symbol takes 11 at most.
const ahead = 56

// stream is one stream of codes, which is read from its end.
type stream struct {
	in   []byte
	out  []byte // still to be filled
	left int    // bits of in
}

// init begins before the last bit that is set.
func (s *stream) init(in, out []byte) bool {
	if len(in) == 0 || in[len(in)-1] == 0 {
		return false
	}
	s.in, s.out, s.left = in, out, len(in)*8-9+bits.Len8(in[len(in)-1])
	return true
}

// peek gives the next bits, of which there must be 64, and how many there are after them.
func (s *stream) peek() (v uint64, left int) {
	left = s.left - ahead
	return binary.LittleEndian.Uint64(s.in[left>>3:]) >> (left & 7), left
}

// finish decodes what is left of a stream, which has as many symbols as there is room for, and no more.
func (d *decoder) finish(s *stream) bool {
	shift, mask := d.codes.most&15, uint64(1)<<d.codes.most-1
	for len(s.out) >= 5 && s.left >= 64 {
		w, left := s.peek()
		n := uint8(ahead)
		for i := range 5 {
			e := d.symbols[w>>((n-shift)&63)&mask&(1<<maxBits-1)]
			s.out[i] = uint8(e)
			n -= uint8(e >> 8)
		}
		s.left, s.out = left+int(n), s.out[5:]
	}
	// The first bytes of the stream, after zeros.
	var first [24]byte
	n := min(len(s.in), 16)
	copy(first[8:], s.in[:n])
	for i := range s.out {
		if s.left <= 0 {
			return false
		}
		if s.left > 64 { // few codes in many bits
			return false
		}
		at := s.left + 64 - ahead
		w := binary.LittleEndian.Uint64(first[at>>3:]) >> (at & 7)
		e := d.symbols[w>>((ahead-shift)&63)&mask&(1<<maxBits-1)]
		s.out[i] = uint8(e)
		s.left -= int(e >> 8)
	}
	return s.left == 0
}
