package redeflate

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// bitWriter appends bits, lowest first, as deflate has them.
type bitWriter struct {
	buf []byte
	acc uint64
	n   uint // bits in acc, fewer than 8 between calls of flush
}

func (w *bitWriter) reset() { w.buf, w.acc, w.n = w.buf[:0], 0, 0 }

// len is how many bits were written.
func (w *bitWriter) len() int64 { return int64(len(w.buf))*8 + int64(w.n) }

// write appends the lowest n bits of v, at most 56; the others must be zero.
func (w *bitWriter) write(v uint64, n uint) {
	w.acc |= v << (w.n & 63)
	w.n += n
	if end := len(w.buf); cap(w.buf)-end >= 8 {
		binary.LittleEndian.PutUint64(w.buf[end:end+8], w.acc)
	} else {
		w.buf = binary.LittleEndian.AppendUint64(w.buf, w.acc)[:end]
	}
	w.buf = w.buf[:len(w.buf)+int(w.n>>3)]
	w.acc >>= w.n &^ 7 & 63
	w.n &= 7
}

// align fills the last byte with zeros.
func (w *bitWriter) align() {
	if w.n > 0 {
		w.buf = append(w.buf, byte(w.acc))
		w.acc, w.n = 0, 0
	}
}

// bytes appends whole bytes at a byte's boundary.
func (w *bitWriter) bytes(b []byte) { w.buf = append(w.buf, b...) }

// copy appends n bits of src from bit at on.
func (w *bitWriter) copy(src []byte, at, n int64) {
	if at&7 == 0 && w.n == 0 {
		w.bytes(src[at>>3 : at>>3+n>>3])
		at, n = at+n&^7, n&7
	}
	// Eight bytes at a time, as long as the source has nine.
	if words := int(min(n/64, (int64(len(src))-at>>3-1)/8)); words > 0 {
		w.buf = slices.Grow(w.buf, words*8)
		from, to := src[at>>3:], w.buf[len(w.buf):][:words*8]
		down, up := uint(at&7), w.n
		acc := w.acc
		for len(to) >= 8 && len(from) >= 9 {
			v := binary.LittleEndian.Uint64(from)>>(down&63) | uint64(from[8])<<1<<((63-down)&63)
			binary.LittleEndian.PutUint64(to, acc|v<<(up&63))
			acc = v >> 1 >> ((63 - up) & 63)
			from, to = from[8:], to[8:]
		}
		w.acc = acc
		w.buf = w.buf[:len(w.buf)+words*8]
		at, n = at+int64(words)*64, n-int64(words)*64
	}
	for n > 0 {
		take := min(n, 8-at&7)
		w.write(uint64(src[at>>3]>>(at&7))&(1<<take-1), uint(take))
		at, n = at+take, n-take
	}
}

// huffman gives each symbol that occurs a code of at most limit bits, by how often it occurs.
func huffman(freq []uint32, limit int, lens []uint8) {
	type node struct {
		weight uint64
		symbol int // -1: inner
		left   int
		right  int
	}
	clear(lens)
	const symbolBits = 9
	var room [1 << symbolBits]uint64
	order := room[:0] // weight and symbol in one number, which is quick to sort
	for s, f := range freq {
		if f > 0 {
			order = append(order, uint64(f)<<symbolBits|uint64(s))
		}
	}
	leaves := len(order)
	if leaves <= 1 {
		for _, o := range order {
			lens[o&(1<<symbolBits-1)] = 1
		}
		return
	}
	slices.Sort(order)
	nodes := make([]node, 0, 2*leaves-1)
	for _, o := range order {
		nodes = append(nodes, node{o >> symbolBits, int(o & (1<<symbolBits - 1)), -1, -1})
	}
	// The leaves in their order and the inner nodes in theirs are both sorted: the least is at the head of one of them.
	leaf, inner := 0, leaves
	least := func() int {
		if leaf < leaves && (inner == len(nodes) || nodes[leaf].weight <= nodes[inner].weight) {
			leaf++
			return leaf - 1
		}
		inner++
		return inner - 1
	}
	for len(nodes) < 2*leaves-1 {
		a := least()
		b := least()
		nodes = append(nodes, node{nodes[a].weight + nodes[b].weight, -1, a, b})
	}
	depth := make([]int, len(nodes))
	var count [64]int
	for i := len(nodes) - 1; i >= 0; i-- {
		if nodes[i].symbol >= 0 {
			count[min(depth[i], limit)]++
			continue
		}
		depth[nodes[i].left] = depth[i] + 1
		depth[nodes[i].right] = depth[i] + 1
	}
	// Codes that were cut to the limit need room: some shorter ones become longer, until all fit.
	total := 0
	for n := 1; n <= limit; n++ {
		total += count[n] << (limit - n)
	}
	for total > 1<<limit {
		n := limit - 1
		for count[n] == 0 {
			n--
		}
		count[n]--
		count[n+1] += 2
		count[limit]--
		total--
	}
	// The rarest symbols get the longest codes.
	n := limit
	for i := range leaves {
		for count[n] == 0 {
			n--
		}
		lens[nodes[i].symbol] = uint8(n)
		count[n]--
	}
}

// code is a symbol's Huffman code, ready to be written.
type code struct {
	bits uint16
	n    uint8
}

// canonical numbers the codes of the given lengths, as RFC 1951 does.
func canonical(lens []uint8, out []code) {
	var count, next [maxCode + 2]int
	for _, n := range lens {
		count[n]++
	}
	count[0] = 0
	for n, c := 1, 0; n <= maxCode; n++ {
		next[n] = c
		c = (c + count[n]) << 1
	}
	for s, n := range lens {
		out[s] = code{}
		if n > 0 {
			out[s] = code{bits.Reverse16(uint16(next[n])) >> (16 - n), n}
			next[n]++
		}
	}
}

// coder writes tokens by the codes of a block.
type coder struct {
	lit    [288]code
	dist   [32]code
	length [512 + 1]struct { // the code of a length with its extra bits
		bits uint32
		n    uint8
	}
}

func (k *coder) build(c *codes) {
	canonical(c.lit[:], k.lit[:])
	canonical(c.dist[:], k.dist[:])
	for n := 3; n <= maxMatch; n++ {
		k.length[n].n = 0
		sym := lengthSymbol(n)
		if l := k.lit[257+sym]; l.n > 0 {
			k.length[n].bits = uint32(l.bits) | uint32(n-int(lengthBase[sym]))<<l.n
			k.length[n].n = l.n + lengthExtra[sym]
		}
	}
}

// put writes a token. It reports false where the block has no code for it.
func (k *coder) put(w *bitWriter, t token) bool {
	if !t.isMatch() {
		c := k.lit[t&255]
		w.write(uint64(c.bits), uint(c.n))
		return c.n > 0
	}
	l := &k.length[t.length()]
	v, n, ok := uint64(l.bits), uint(l.n), l.n > 0
	if t&oddFlag != 0 { // 227 and 31 more
		c := k.lit[257+27]
		v, n, ok = uint64(c.bits)|31<<(c.n&63), uint(c.n)+5, c.n > 0
	}
	back := t.dist()
	ds := distSymbol(back)
	d := k.dist[ds]
	v |= uint64(d.bits) << (n & 63)
	n += uint(d.n)
	v |= uint64(back-int(distBase[ds])) << (n & 63)
	n += uint(distExtra[ds])
	w.write(v, n)
	return ok && d.n > 0
}

func lengthSymbol(length int) int {
	if length == maxMatch {
		return 28
	}
	x := uint(length - 3)
	if x < 8 {
		return int(x)
	}
	e := uint(bits.Len(x)-3) & 63 // extra bits
	return int(4*e + x>>e)
}

func distSymbol(dist int) int {
	x := uint(dist - 1)
	if x < 4 {
		return int(x)
	}
	e := uint(bits.Len(x)-2) & 63
	return int(2*e + x>>e)
}

// writeBlock writes tokens as a dynamic block that is not the last.
func writeBlock(w *bitWriter, tokens []token) {
	var lit [288]uint32
	var dist [32]uint32
	lit[endBlock] = 1
	for _, t := range tokens {
		if t.isMatch() {
			lit[257+lengthSymbol(t.length())]++
			dist[distSymbol(t.dist())]++
		} else {
			lit[t&255]++
		}
	}
	var c codes
	huffman(lit[:numLit], maxCode, c.lit[:])
	huffman(dist[:numDist], maxCode, c.dist[:])
	writeCodes(w, &c)
	var k coder
	k.build(&c)
	for _, t := range tokens {
		k.put(w, t)
	}
	end := k.lit[endBlock]
	w.write(uint64(end.bits), uint(end.n))
}

// writeLiterals writes bytes as a block with fixed codes that is not the last.
func writeLiterals(w *bitWriter, literals []byte) {
	c := fixedCodes()
	var k [288]code
	canonical(c.lit[:], k[:])
	w.write(1<<1, 3)
	for _, b := range literals {
		w.write(uint64(k[b].bits), uint(k[b].n))
	}
	w.write(uint64(k[endBlock].bits), uint(k[endBlock].n))
}

// writeCodes writes the head of a dynamic block.
func writeCodes(w *bitWriter, c *codes) {
	nlit, ndist := numLit, numDist
	for nlit > 257 && c.lit[nlit-1] == 0 {
		nlit--
	}
	for ndist > 1 && c.dist[ndist-1] == 0 {
		ndist--
	}
	all := append(slices.Clone(c.lit[:nlit]), c.dist[:ndist]...)
	type run struct{ sym, extra, bits uint8 }
	var runs []run
	var freq [19]uint32
	for i := 0; i < len(all); {
		same := 1
		for i+same < len(all) && all[i+same] == all[i] {
			same++
		}
		r, step := run{sym: all[i]}, 1
		if all[i] == 0 && same >= 11 {
			step = min(same, 138)
			r = run{18, uint8(step - 11), 7}
		} else if all[i] == 0 && same >= 3 {
			step = same
			r = run{17, uint8(step - 3), 3}
		}
		runs = append(runs, r)
		freq[r.sym]++
		i += step
		if step == 1 && all[i-1] != 0 {
			for same--; same >= 3; {
				step = min(same, 6)
				runs = append(runs, run{16, uint8(step - 3), 2})
				freq[16]++
				same -= step
				i += step
			}
		}
	}
	// A complete code has two symbols at least.
	used := 0
	for _, f := range freq {
		if f > 0 {
			used++
		}
	}
	for i := 0; used < 2; i++ {
		if freq[i] == 0 {
			freq[i]++
			used++
		}
	}
	var lens [19]uint8
	huffman(freq[:], 7, lens[:])
	var k [19]code
	canonical(lens[:], k[:])
	n := 19
	for n > 4 && lens[codeOrder[n-1]] == 0 {
		n--
	}
	w.write(2<<1, 3)
	w.write(uint64(nlit-257)|uint64(ndist-1)<<5|uint64(n-4)<<10, 14)
	for _, s := range codeOrder[:n] {
		w.write(uint64(lens[s]), 3)
	}
	for _, r := range runs {
		w.write(uint64(k[r.sym].bits)|uint64(r.extra)<<k[r.sym].n, uint(k[r.sym].n+r.bits))
	}
}
