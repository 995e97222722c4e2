package rezstd

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// bitWriter appends bits, lowest first. A stream of them is read backwards, from the bit that stop sets (RFC 8878, 4.1 and 4.2.2).
type bitWriter struct {
	buf []byte
	acc uint64
	n   uint // bits in acc, fewer than 8 after flush
}

// add appends the lowest n bits of v, whose others are zero. Between two flushes there is room for 56 bits.
func (w *bitWriter) add(v uint64, n uint) {
	w.acc |= v << (w.n & 63)
	w.n += n
}

// flush moves whole bytes out of acc.
func (w *bitWriter) flush() {
	if end := len(w.buf); cap(w.buf)-end >= 8 {
		binary.LittleEndian.PutUint64(w.buf[end:end+8], w.acc)
	} else {
		w.buf = binary.LittleEndian.AppendUint64(w.buf, w.acc)[:end]
	}
	w.buf = w.buf[:len(w.buf)+int(w.n>>3)]
	w.acc >>= w.n &^ 7 & 63
	w.n &= 7
}

// stop ends the stream: a bit that is set, and zeros up to the byte's end.
func (w *bitWriter) stop() []byte {
	w.add(1, 1)
	return w.pad()
}

// pad fills the last byte with zeros and returns all.
func (w *bitWriter) pad() []byte {
	w.flush()
	if w.n > 0 {
		w.buf = append(w.buf, byte(w.acc))
		w.acc, w.n = 0, 0
	}
	return w.buf
}

// begin makes dst what bits are appended to, with room for n bytes more.
func (w *bitWriter) begin(dst []byte, n int) {
	w.buf, w.acc, w.n = slices.Grow(dst, n+8), 0, 0
}

// backward reads a stream from its end.
type backward struct {
	in   []byte // and eight bytes more
	left int    // bits; negative: there were not so many
}

// init begins at the last bit that is set, which is not part of what is read. It reports false where there is none.
func (b *backward) init(in []byte) bool {
	if len(in) == 0 || in[len(in)-1] == 0 {
		return false
	}
	b.in = append(append(b.in[:0], in...), 0, 0, 0, 0, 0, 0, 0, 0)
	b.left = len(in)*8 - 9 + bits.Len8(in[len(in)-1])
	return true
}

// take reads n bits, at most 56; the first that are read are the highest. Past the end they are of no meaning.
func (b *backward) take(n uint8) uint64 {
	if b.left -= int(n); b.left < 0 {
		return 0
	}
	return binary.LittleEndian.Uint64(b.in[b.left>>3:]) >> (b.left & 7) & (1<<(n&63) - 1)
}
