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

// writeDistribution appends a description of what normalize made.
func writeDistribution(dst []byte, norm []int16, log uint8) []byte {
	var w bitWriter
	w.begin(dst, 2*len(norm)+4)
	w.add(uint64(log-5), 4)
	left, threshold, width := int32(1)<<log+1, int32(1)<<log, uint(log)+1
	for s := 0; left > 1; s++ {
		count := int32(norm[s])
		short := 2*threshold - 1 - left
		left -= max(count, -count)
		count++
		if count >= threshold {
			count += short
		}
		if count < short {
			w.add(uint64(count), width-1)
		} else {
			w.add(uint64(count), width)
		}
		w.flush()
		for left < threshold {
			width--
			threshold >>= 1
		}
		if norm[s] != 0 {
			continue
		}
		zeros := 0
		for norm[s+1+zeros] == 0 {
			zeros++
		}
		s += zeros
		for ; zeros >= 3; zeros -= 3 {
			w.add(3, 2)
			w.flush()
		}
		w.add(uint64(zeros), 2)
	}
	return w.pad()
}

// normalize makes a distribution of counts, of which two at least are not zero. total is their sum.
func normalize(counts []uint32, total uint32, log uint8, norm []int16) {
	size := int32(1) << log
	left, largest := size, 0
	for s, c := range counts {
		norm[s] = 0
		if c == 0 {
			continue
		}
		n := max(int16(uint64(c)<<log/uint64(total)), 1)
		norm[s] = n
		left -= int32(n)
		if counts[largest] < c {
			largest = s
		}
	}
	if int32(norm[largest])+left >= 2 {
		norm[largest] += int16(left)
		return
	}
	for left < 0 { // of many rare symbols each got a whole state: others give some back
		for s := range norm {
			if norm[s] > 1 && left < 0 {
				norm[s]--
				left++
			}
		}
	}
}

// logFor is how precise a table should be, for so many symbols to encode, the last of them being last.
func logFor(total, last int, most uint8) uint8 {
	log := min(int(most), bits.Len(uint(total-1))-3)
	log = max(log, min(bits.Len(uint(total)), bits.Len(uint(last))+1), 5)
	return uint8(min(log, int(most)))
}

// encodingTable encodes one kind of symbol. Its states are numbered from 1<<log on.
type encodingTable struct {
	log    uint8
	next   [1 << maxLog]uint16
	symbol [64]struct {
		bits uint32 // added to a state, its upper half is how many bits of the state are written
		find int32  // the next state is next[state>>bits + find]
	}
}

// build makes the table of a distribution.
func (t *encodingTable) build(norm []int16, log uint8) {
	t.log = log
	size := 1 << log
	var from [65]int
	for s, n := range norm {
		from[s+1] = from[s] + int(max(n, -n))
	}
	var symbols [1 << maxLog]uint8
	spread(norm, log, func(at int, symbol uint8) { symbols[at] = symbol })
	at := from
	for i := range size {
		s := symbols[i]
		t.next[at[s]] = uint16(size + i)
		at[s]++
	}
	for s, n := range norm {
		e := &t.symbol[s]
		switch n {
		case 0:
		case 1, -1:
			e.bits = uint32(log)<<16 - uint32(size)
			e.find = int32(from[s]) - 1
		default:
			width := uint32(log) - uint32(bits.Len16(uint16(n-1))) + 1
			e.bits = width<<16 - uint32(n)<<width
			e.find = int32(from[s]) - int32(n)
		}
	}
}

// single makes the table of one symbol, which takes no bits.
func (t *encodingTable) single(symbol uint8) {
	t.log, t.next[0] = 0, 0
	t.symbol[symbol].bits, t.symbol[symbol].find = 0, 0
}

// first is the state in which the last symbol is read.
func (t *encodingTable) first(symbol uint8) uint32 {
	e := &t.symbol[symbol&63]
	n := (e.bits + 1<<15) >> 16
	return uint32(t.next[(int32((n<<16-e.bits)>>n)+e.find)&(1<<maxLog-1)])
}

// put writes a symbol, before which the reader is in the given state after it, and returns the state that it is in before.
func (t *encodingTable) put(w *bitWriter, s uint32, symbol uint8) uint32 {
	e := &t.symbol[symbol&63]
	n := (s + e.bits) >> 16
	w.add(uint64(s&(1<<n-1)), uint(n))
	return uint32(t.next[(int32(s>>n)+e.find)&(1<<maxLog-1)])
}

// end writes the state that the reader begins in.
func (t *encodingTable) end(w *bitWriter, s uint32) { w.add(uint64(s&(1<<t.log-1)), uint(t.log)) }
