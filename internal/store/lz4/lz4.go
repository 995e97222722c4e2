// Package lz4 writes and reads LZ4 blocks (doc/lz4_Block_format.md of LZ4), with matches that somebody else has found.
package lz4

import (
	"encoding/binary"
	"errors"
	"slices"
)

const (
	shortest    = 4 // bytes of a match
	maxOffset   = 1<<16 - 1
	lastLiteral = 5  // bytes at the end of a block that are literals
	lastMatch   = 12 // bytes before the end of a block in which no match begins
	long        = 15 // a length in a token that goes on after it
)

// Block is a block in the making. Reset begins it; then Literals and Match say how its content comes about.
type Block struct {
	src     []byte
	n       int // bytes of src
	run     int // literals since the last match
	matches []match
	out     []byte
}

// match is a match, and the literals before it.
type match struct{ literals, length, offset uint32 }

// Reset begins a block of what will be in src.
func (b *Block) Reset(src []byte) { b.src, b.n, b.run, b.matches = src, 0, 0, b.matches[:0] }

// Moved says that what Reset was given lies elsewhere now.
func (b *Block) Moved(src []byte) { b.src = src }

// Size is how many bytes the block has of its content.
func (b *Block) Size() int { return b.n }

// Literals adds the next n bytes as they are.
func (b *Block) Literals(n int) {
	b.n += n
	b.run += n
}

// Match adds the next n bytes, which are those that begin offset bytes before. Those that a block cannot refer to become literals.
func (b *Block) Match(n int, offset uint32) {
	if before := int64(offset) - int64(b.n); before > 0 { // they lie before the block
		some := int(min(before, int64(n)))
		b.Literals(some)
		n -= some
	}
	if n < shortest || offset > maxOffset || offset == 0 {
		b.Literals(n)
		return
	}
	if last := len(b.matches) - 1; last >= 0 && b.run == 0 && b.matches[last].offset == offset {
		b.matches[last].length += uint32(n)
	} else {
		b.matches = append(b.matches, match{uint32(b.run), uint32(n), offset})
	}
	b.run = 0
	b.n += n
}

// Finish returns the block, which is b's until the next. Its first byte is not zero, unless it is empty.
func (b *Block) Finish() []byte {
	out := slices.Grow(b.out[:0], b.n+b.n/255+32)
	at, from := 0, 0 // in the content, and where the literals begin that are not written
	for _, m := range b.matches {
		at += int(m.literals)
		n := min(int(m.length), b.n-lastLiteral-at)
		if b.n-at < lastMatch || n < shortest {
			break
		}
		out = b.literals(out, from, at, n-shortest)
		out = binary.LittleEndian.AppendUint16(out, uint16(m.offset))
		if n -= shortest; n >= long {
			out = appendLength(out, n-long)
		}
		at += int(m.length)
		from = at - (int(m.length) - shortest - n)
	}
	b.out = b.literals(out, from, b.n, 0)
	return b.out
}

// literals appends a token and the content between two offsets. length is what of the match's length belongs into the token.
func (b *Block) literals(out []byte, from, to, length int) []byte {
	n := to - from
	token := byte(min(n, long)<<4 | min(length, long))
	if l := len(out) + 1; n <= 14 && len(b.src)-from >= 16 && cap(out)-l >= 16 { // the usual case, without a call
		out = append(out, token)
		copy16(out[l:l+16], b.src[from:from+16])
		return out[:l+n]
	}
	out = append(out, token)
	if n >= long {
		out = appendLength(out, n-long)
	}
	return append(out, b.src[from:to]...)
}

// appendLength appends what does not fit into a token.
func appendLength(out []byte, n int) []byte {
	for ; n >= 255; n -= 255 {
		out = append(out, 255)
	}
	return append(out, byte(n))
}

// ErrCorrupt is what no block is.
var ErrCorrupt = errors.New("malformed LZ4 block")

// Unpack appends the content of a block to dst, which is most bytes at most.
func Unpack(dst, b []byte, most int) ([]byte, error) {
	begin, at := len(dst), len(dst)
	dst = slices.Grow(dst, most)[:begin+most]
	length := func(n int) (int, bool) {
		if n < long {
			return n, true
		}
		for i, c := range b {
			if n += int(c); c < 255 {
				b = b[i+1:]
				return n, n <= most
			}
		}
		return 0, false
	}
	for len(b) > 0 {
		token := b[0]
		b = b[1:]
		n, ok := length(int(token >> 4))
		if !ok || n > len(b) || n > len(dst)-at {
			return dst[:at], ErrCorrupt
		}
		if n <= 16 && len(b) >= 16 && len(dst)-at >= 16 { // the usual case, without a call
			copy16(dst[at:at+16], b[:16])
		} else {
			copy(dst[at:], b[:n])
		}
		at += n
		if b = b[n:]; len(b) == 0 {
			return dst[:at], nil
		}
		if len(b) < 2 {
			return dst[:at], ErrCorrupt
		}
		offset := int(binary.LittleEndian.Uint16(b))
		b = b[2:]
		n, ok = length(int(token & 15))
		if n += shortest; !ok || offset == 0 || offset > at-begin || n > len(dst)-at {
			return dst[:at], ErrCorrupt
		}
		switch from := at - offset; {
		case n <= 16 && offset >= 16 && len(dst)-at >= 16:
			copy16(dst[at:at+16], dst[from:from+16])
		case n <= offset:
			copy(dst[at:at+n], dst[from:])
		default: // what is copied comes to be copied
			to := dst[at : at+n]
			for done := copy(to, dst[from:at]); done < n; {
				done += copy(to[done:], to[:done])
			}
		}
		at += n
	}
	return dst[:at], ErrCorrupt
}

func copy16(dst, src []byte) {
	a, b := binary.LittleEndian.Uint64(src), binary.LittleEndian.Uint64(src[8:16])
	binary.LittleEndian.PutUint64(dst, a)
	binary.LittleEndian.PutUint64(dst[8:16], b)
}

// Pack makes a block of content that comes again after 256 bytes, for who asks whether a kernel reads such blocks.
func Pack(content []byte) []byte {
	const back = 256
	var b Block
	b.Reset(content)
	for at := 0; at < len(content); {
		n := 0
		for at >= back && at+n < len(content) && content[at+n] == content[at+n-back] {
			n++
		}
		if n < shortest {
			n = 1
			b.Literals(n)
		} else {
			b.Match(n, back)
		}
		at += n
	}
	return b.Finish()
}
