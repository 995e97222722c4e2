package rezstd

import (
	"encoding/binary"
	"math/bits"
)

// Finite state entropy, RFC 8878, 4.1. A distribution says how many states of 1<<log each symbol has; -1 is less than one.

const (
	maxLog    = 9 // of the tables of sequences, in bits
	weightLog = 6 // of those of Huffman weights
)

// state is an entry of a decoding table.
type state struct {
	value uint32 // what the symbol stands for
	base  uint16 // of the next state
	bits  uint8  // to read and add to base
	extra uint8  // bits to read and add to value
}

// meaning tells what a symbol stands for, and how many bits are to be added.
type meaning func(symbol uint8) (value uint32, extra uint8)

func itself(symbol uint8) (value uint32, extra uint8) { return uint32(symbol), 0 }

// decodingTable decodes one kind of symbol. A table of log 0 has one symbol, which takes no bits.
type decodingTable struct {
	log    uint8
	known  bool
	states [1 << maxLog]state
}

// spread gives each state its symbol.
func spread(norm []int16, log uint8, put func(at int, symbol uint8)) {
	size := 1 << log
	high := size - 1
	for s, n := range norm {
		if n == -1 {
			put(high, uint8(s))
			high--
		}
	}
	step, at := size>>1+size>>3+3, 0
	for s, n := range norm {
		for range n {
			put(at, uint8(s))
			for {
				if at = (at + step) & (size - 1); at <= high {
					break
				}
			}
		}
	}
}

// build makes the table of a distribution, whose states are 1<<log in all.
func (t *decodingTable) build(norm []int16, log uint8, what meaning) {
	t.log, t.known = log, true
	var symbols [1 << maxLog]uint8
	spread(norm, log, func(at int, symbol uint8) { symbols[at] = symbol })
	var next [64]uint16
	var of [64]state
	for s, n := range norm {
		next[s] = uint16(max(n, -n))
		if n != 0 {
			of[s].value, of[s].extra = what(uint8(s))
		}
	}
	for i, s := range symbols[:1<<log] {
		e := of[s&63]
		n := next[s&63]
		next[s&63]++
		e.bits = log + 1 - uint8(bits.Len16(n))
		e.base = n<<e.bits - 1<<log
		t.states[i] = e
	}
}

// single makes the table of one symbol.
func (t *decodingTable) single(symbol uint8, what meaning) {
	t.log, t.known = 0, true
	e := &t.states[0]
	*e = state{}
	e.value, e.extra = what(symbol)
}

// readDistribution reads a description, 4.1.1, and returns how many bytes it has. There are len(norm) symbols at most.
func readDistribution(b []byte, norm []int16, most uint8) (log uint8, n int, ok bool) {
	at := uint(0)
	peek := func() uint32 { // 24 bits at least
		var v [8]byte
		if int(at/8) < len(b) {
			copy(v[:], b[at/8:])
		}
		return uint32(binary.LittleEndian.Uint64(v[:]) >> (at & 7))
	}
	log = uint8(peek()&15) + 5
	if at = 4; log > most {
		return 0, 0, false
	}
	clear(norm)
	left, threshold, width := int32(1)<<log+1, int32(1)<<log, uint(log)+1
	for s := 0; left > 1; s++ {
		if s >= len(norm) {
			return 0, 0, false
		}
		v := int32(peek())
		short := 2*threshold - 1 - left // numbers below take a bit less
		count := v & (threshold - 1)
		if count < short {
			at += width - 1
		} else {
			if count = v & (2*threshold - 1); count >= threshold {
				count -= short
			}
			at += width
		}
		count--
		norm[s] = int16(count)
		left -= max(count, -count)
		for left < threshold {
			width--
			threshold >>= 1
			if threshold == 0 {
				break
			}
		}
		if count != 0 {
			continue
		}
		for { // how many more are zero
			v := peek() & 3
			at += 2
			s += int(v)
			if v < 3 {
				break
			}
			if s >= len(norm) {
				return 0, 0, false
			}
		}
	}
	n = int(at+7) / 8
	return log, n, left == 1 && n <= len(b)
}
