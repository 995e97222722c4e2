package rezstd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"brig/api"
	"brig/internal/store/cluster"
	"brig/internal/store/lz4"
)

// The steps of a recipe. Numbers are unsigned varints; BYTES is a number of bytes and then those. What is taken of the content is taken in order, and a block that
// ends in a later cluster than it begins in is a step of that.
const (
	opBytes  = 1 + iota // BYTES: write them
	opRaw               // n<<1|last: a raw block of the next n bytes of the content
	opRun               // n<<1|last: a block of one byte n times, which is the next of the content
	opPacked            // BYTES, BYTES: a compressed block, up to its literals and from their end on
	opAgain             // n: the first n bytes of this cluster were in the one before, too
)

// errRecipe is a recipe that does not fit its cluster.
var errRecipe = api.Errorf(api.Corrupt, "a recipe that does not fit its layer")

// rebuilder carries out recipes.
type rebuilder struct {
	out     []byte // what of the stream was rebuilt
	content []byte // what was unpacked, and is in no block yet
	plain   []byte // of the present cluster

	tables    tables
	sequences []sequence
	literals  []byte
	known     *known // nil: what blocks say is read from their tails
}

// known is what a Reader has read from the tails of blocks: it is not read once more to see whether the recipe fits.
type known struct {
	sequences []sequence
	counts    []int // by block
}

// add notes the sequences of a block.
func (k *known) add(s []sequence) {
	k.sequences, k.counts = append(k.sequences, s...), append(k.counts, len(s))
}

// take gives those of the next block.
func (k *known) take() (s []sequence) {
	n := k.counts[0]
	s, k.sequences, k.counts = k.sequences[:n:n], k.sequences[n:], k.counts[1:]
	return s
}

// cluster appends the part of the stream that one cluster holds to out.
func (b *rebuilder) cluster(data, recipe []byte) error {
	var err error
	if b.plain, err = lz4.Unpack(b.plain[:0], data, cluster.Most); err != nil {
		return api.Errorf(api.Corrupt, "a cluster: %w", err)
	}
	s := steps{recipe}
	if len(recipe) > 0 && recipe[0] == opAgain {
		s.rest = recipe[1:]
		n, ok := s.number(len(b.plain))
		if !ok {
			return errRecipe
		}
		b.plain = b.plain[:copy(b.plain, b.plain[n:])]
	}
	b.content = append(b.content, b.plain...)
	rest := b.content
	for len(s.rest) > 0 {
		op := s.rest[0]
		s.rest = s.rest[1:]
		switch op {
		case opBytes:
			raw, ok := s.bytes()
			if !ok {
				return errRecipe
			}
			b.out = append(b.out, raw...)
		case opRaw, opRun:
			v, ok := s.number(maxBlock<<1 | 1)
			n := v >> 1
			if !ok || n > len(rest) || op == opRun && n == 0 {
				return errRecipe
			}
			from := len(b.out)
			b.out = append(b.out, 0, 0, 0)
			if op == opRaw {
				b.out = append(b.out, rest[:n]...)
				putBlockHead(b.out[from:], blockRaw, n, v&1 != 0)
			} else {
				b.out = append(b.out, rest[0])
				putBlockHead(b.out[from:], blockRun, n, v&1 != 0)
			}
			rest = rest[n:]
		case opPacked:
			head, ok := s.bytes()
			tail, ok2 := s.bytes()
			if !ok || !ok2 {
				return errRecipe
			}
			n, err := b.packed(head, tail, rest)
			if err != nil {
				return err
			}
			rest = rest[n:]
		default:
			return errRecipe
		}
	}
	if len(rest) > maxBlock {
		return errRecipe
	}
	b.content = b.content[:copy(b.content, rest)]
	return nil
}

// packed appends a compressed block, and returns how much of the content is in it.
func (b *rebuilder) packed(head, tail, content []byte) (int, error) {
	if len(head) < 3 {
		return 0, errRecipe
	}
	l, ok := b.tables.readSection(head[3:], maxBlock)
	if !ok || l.head != len(head)-3 {
		return 0, errRecipe
	}
	if b.known != nil {
		b.sequences = b.known.take()
	} else {
		var err error
		if b.sequences, err = b.tables.sequences(tail, b.sequences[:0]); err != nil {
			return 0, errRecipe
		}
	}
	lits := slices.Grow(b.literals[:0], maxBlock+16)
	at := 0
	for _, s := range b.sequences {
		n, m := int(s.literals), int(s.match)
		if at+n+m > len(content) {
			return 0, errRecipe
		}
		if l := len(lits); n <= 16 && len(content)-at >= 16 { // the usual case, without a call; there is room, for all sequences are within a block
			copy16(lits[l:l+16], content[at:at+16])
			lits = lits[:l+n]
		} else {
			lits = append(lits, content[at:at+n]...)
		}
		at += n + m
	}
	b.literals = lits
	left := l.size - len(lits)
	if left < 0 || at+left > len(content) || at+left > maxBlock {
		return 0, errRecipe
	}
	lits = append(lits, content[at:at+left]...)
	b.literals = lits
	b.out = append(b.out, head...)
	from := len(b.out)
	switch l.kind {
	case litRaw:
		b.out = append(b.out, lits...)
	case litCoded, litTreeless:
		if b.out, ok = b.tables.codes.streams(b.out, lits, l.streams); !ok {
			return 0, errRecipe
		}
	}
	if len(b.out)-from != l.payload {
		return 0, errRecipe
	}
	b.out = append(b.out, tail...)
	return at + left, nil
}

// steps reads a recipe.
type steps struct{ rest []byte }

func (s *steps) number(most int) (int, bool) {
	v, n := binary.Uvarint(s.rest)
	if n <= 0 || v > uint64(most) {
		return 0, false
	}
	s.rest = s.rest[n:]
	return int(v), true
}

func (s *steps) bytes() ([]byte, bool) {
	n, ok := s.number(len(s.rest))
	if !ok || n > len(s.rest) {
		return nil, false
	}
	b := s.rest[:n]
	s.rest = s.rest[n:]
	return b, true
}

// Rebuild gives the stream that a Reader made clusters and a recipe of. next gives the next cluster's data and recipe, until io.EOF. archive, which may be nil, is
// told what the stream holds unpacked.
func Rebuild(next func() (data, recipe []byte, err error), archive func([]byte)) io.Reader {
	return &rebuilt{next: next, archive: archive}
}

type rebuilt struct {
	next    func() (data, recipe []byte, err error)
	archive func([]byte)
	b       rebuilder
	r       int
	err     error
}

// Read implements io.Reader.
func (z *rebuilt) Read(p []byte) (int, error) {
	for z.r == len(z.b.out) {
		if z.err != nil {
			return 0, z.err
		}
		z.b.out, z.r = z.b.out[:0], 0
		data, recipe, err := z.next()
		if errors.Is(err, io.EOF) && len(z.b.content) > 0 {
			err = errRecipe
		}
		if err == nil {
			if err = z.b.cluster(data, recipe); err == nil && z.archive != nil {
				z.archive(z.b.plain)
			}
		}
		z.err = err
	}
	n := copy(p, z.b.out[z.r:])
	z.r += n
	return n, nil
}

// same holds what a cluster gives against what it was made of.
func (b *rebuilder) same(c cluster.Cluster, k known, stream, plain []byte) bool {
	b.out, b.known = b.out[:0], &k
	return b.cluster(c.Data, c.Recipe) == nil && bytes.Equal(b.out, stream) && bytes.Equal(b.plain, plain)
}
