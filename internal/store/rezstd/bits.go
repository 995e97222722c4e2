package rezstd

import (
	"encoding/binary"
	"math/bits"
)

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
