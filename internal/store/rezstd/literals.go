package rezstd

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// The kinds of a literals section, RFC 8878, 3.1.1.3.1.1.
const (
	litRaw = iota
	litRun
	litCoded
	litTreeless
)

const (
	maxWeights = 256
	maxBits    = 11 // of a literal's code
	noCode     = 1 << 31
)

// codes are those of a block's literals.
type codes struct {
	of   [256]uint32 // in the lowest 16 bits the code, above them its length; noCode: there is none
	most uint8       // length of the longest
}

// section is how a block's literals lie in it.
type section struct {
	kind    int
	size    int // of the literals, in bytes
	head    int // bytes of the section before payload: its header, and the codes
	payload int // bytes of what the literals make, and that are not in a recipe
	streams int // of codes, 1 or 4; 0: the literals themselves
}

// readSection reads the beginning of a literals section, of at most most bytes. Codes that it describes become t's. The payload need not be in b.
func (t *tables) readSection(b []byte, most int) (l section, ok bool) {
	if len(b) == 0 {
		return l, false
	}
	var v [8]byte
	copy(v[:], b)
	le := binary.LittleEndian.Uint64(v[:])
	l.kind = int(le & 3)
	form := le >> 2 & 3
	if l.kind == litRaw || l.kind == litRun {
		l.head, l.size = 1, int(le>>3&0x1f)
		if form&1 != 0 {
			l.head, l.size = 2, int(le>>4&0xfff)
		}
		if form == 3 {
			l.head, l.size = 3, int(le>>4&0xfffff)
		}
		l.payload = l.size
		if l.kind == litRun {
			l.head, l.payload = l.head+1, 0
		}
		return l, l.size <= maxBlock && l.head <= len(b) && l.head+l.payload <= most
	}
	width := [...]uint{10, 10, 14, 18}[form]
	l.head = [...]int{3, 3, 4, 5}[form]
	l.size = int(le >> 4 & (1<<width - 1))
	l.payload = int(le >> (4 + width) & (1<<width - 1))
	if l.streams = 4; form == 0 {
		l.streams = 1
	}
	if l.size > maxBlock || l.size == 0 || l.head > len(b) || l.head+l.payload > most || l.streams == 4 && l.size < 6 {
		return l, false
	}
	if l.kind == litTreeless {
		return l, t.coded
	}
	n, ok := t.readCodes(b[l.head:min(l.head+l.payload, len(b))])
	l.head += n
	l.payload -= n
	return l, ok
}

// readCodes reads the description of codes, 4.2.1, and returns its length in bytes.
func (t *tables) readCodes(b []byte) (n int, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	var weights [maxWeights]uint8
	count := 0
	if head := int(b[0]); head >= 128 {
		count = head - 127
		n = 1 + (count+1)/2
		if n > len(b) {
			return 0, false
		}
		for i := range count {
			weights[i] = b[1+i/2] >> (4 * (1 - i&1)) & 15
		}
	} else {
		n = 1 + head
		if n > len(b) {
			return 0, false
		}
		if count, ok = readWeights(b[1:n], weights[:maxWeights-1]); !ok {
			return 0, false
		}
	}
	t.coded = t.codes.build(weights[:], count)
	return n, t.coded
}

// readWeights reads weights that are compressed, 4.2.1.2.
func readWeights(b []byte, weights []uint8) (count int, ok bool) {
	var norm [16]int16
	log, n, ok := readDistribution(b, norm[:], weightLog)
	if !ok {
		return 0, false
	}
	var t decodingTable
	t.build(norm[:], log, itself)
	var in backward
	if !in.init(b[n:]) {
		return 0, false
	}
	one, two := in.take(log), in.take(log)
	if in.left < 0 {
		return 0, false
	}
	for { // the states are read in turns, until there are no bits left for the next
		if count > len(weights)-2 {
			return 0, false
		}
		e := &t.states[one&(1<<weightLog-1)]
		weights[count] = uint8(e.value)
		count++
		one, two = two, uint64(e.base)+in.take(e.bits)
		if in.left < 0 {
			weights[count] = uint8(t.states[one&(1<<weightLog-1)].value)
			return count + 1, true
		}
	}
}

// build makes the codes of so many weights, and of the symbol after them, whose weight follows from them.
func (c *codes) build(weights []uint8, count int) bool {
	sum := uint32(0)
	for _, w := range weights[:count] {
		if w > maxBits {
			return false
		}
		sum += 1 << w >> 1
	}
	if sum == 0 || count >= maxWeights {
		return false
	}
	most := bits.Len32(sum)
	left := uint32(1)<<most - sum
	if most > maxBits || left&(left-1) != 0 {
		return false
	}
	weights[count] = uint8(bits.Len32(left))
	c.number(weights[:count+1], most)
	return true
}

// number gives symbols their codes, 4.2.1.3: those of a length are in a row, the longest begin with zero. The longest have most bits.
func (c *codes) number(weights []uint8, most int) {
	var count, next [maxBits + 2]uint32
	for _, w := range weights {
		count[w]++
	}
	for w, code := 1, uint32(0); w <= most; w++ {
		next[w] = code
		code = (code + count[w]) >> 1
	}
	c.most = uint8(most)
	for s := range c.of {
		c.of[s] = noCode
		if s < len(weights) && weights[s] > 0 {
			w := weights[s]
			c.of[s] = uint32(most+1-int(w))<<16 | next[w]
			next[w]++
		}
	}
}

// stream appends literals as one stream. It reports false where one of them has no code.
func (c *codes) stream(dst, literals []byte) ([]byte, bool) {
	dst = slices.Grow(dst, len(literals)*maxBits/8+16)
	to := dst[len(dst):cap(dst)]
	var acc uint64
	var n, seen uint32
	at := 0
	for len(literals) >= 4 {
		l := literals[len(literals)-4:]
		literals = literals[:len(literals)-4]
		a, b, x, y := c.of[l[3]], c.of[l[2]], c.of[l[1]], c.of[l[0]]
		seen |= a | b | x | y
		acc |= uint64(a&0xffff) << (n & 63)
		n += a >> 16 & 15
		acc |= uint64(b&0xffff) << (n & 63)
		n += b >> 16 & 15
		acc |= uint64(x&0xffff) << (n & 63)
		n += x >> 16 & 15
		acc |= uint64(y&0xffff) << (n & 63)
		n += y >> 16 & 15
		binary.LittleEndian.PutUint64(to[at:], acc)
		at += int(n >> 3)
		acc >>= n &^ 7 & 63
		n &= 7
	}
	for i := len(literals) - 1; i >= 0; i-- {
		a := c.of[literals[i]]
		seen |= a
		acc |= uint64(a&0xffff) << (n & 63)
		n += a >> 16 & 15
	}
	acc |= 1 << (n & 63)
	binary.LittleEndian.PutUint64(to[at:], acc)
	at += int(n>>3) + 1
	return dst[:len(dst)+at], seen&noCode == 0
}

// streams appends literals as one stream or as four, with the table that says where they begin, 3.1.1.3.1.6.
func (c *codes) streams(dst, literals []byte, n int) ([]byte, bool) {
	if n == 1 {
		return c.stream(dst, literals)
	}
	table := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0)
	part := (len(literals) + 3) / 4
	for i := range 4 {
		from := len(dst)
		some := literals
		if i < 3 {
			if len(literals) < part {
				return dst, false
			}
			some, literals = literals[:part], literals[part:]
		}
		var ok bool
		if dst, ok = c.stream(dst, some); !ok {
			return dst, false
		}
		if i < 3 {
			binary.LittleEndian.PutUint16(dst[table+2*i:], uint16(len(dst)-from))
		}
	}
	return dst, true
}
