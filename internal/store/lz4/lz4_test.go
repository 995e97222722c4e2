package lz4

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestRoundTrip: blocks of any content and any matches are had back, and end as the format asks.
func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var b Block
	for i := range 3000 {
		src := make([]byte, 0, 300000)
		size := r.IntN(40 + i*i%250000)
		b.Reset(src[:cap(src)])
		for len(src) < size {
			n := 1 + r.IntN(1+[]int{3, 20, 300, 70000}[r.IntN(4)])
			if offset := 1 + r.IntN(len(src)+10); r.IntN(3) > 0 && offset <= len(src) {
				for range n {
					src = append(src, src[len(src)-offset])
				}
				b.Match(n, uint32(offset))
				continue
			}
			for range n {
				src = append(src, byte(r.Uint32()))
			}
			b.Literals(n)
		}
		if b.Size() != len(src) {
			t.Fatalf("%d bytes of %d", b.Size(), len(src))
		}
		block := b.Finish()
		got, err := Unpack(nil, block, len(src))
		if err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%d: %d bytes of %d: %v", i, len(got), len(src), err)
		}
		if len(src) > 0 && block[0] == 0 || len(block) > len(src)+len(src)/255+16 {
			t.Fatalf("%d: %d bytes became %d, the first is %d", i, len(src), len(block), block[0])
		}
		if n := min(len(src), lastLiteral); !bytes.HasSuffix(block, src[len(src)-n:]) {
			t.Fatalf("%d: it does not end with literals", i)
		}
		if _, err := Unpack(nil, block, len(src)-1); err == nil && len(src) > 0 {
			t.Fatalf("%d: more than was allowed", i)
		}
	}
}

// TestBefore: what lies before the block is not referred to.
func TestBefore(t *testing.T) {
	src := bytes.Repeat([]byte("0123456789"), 20)
	var b Block
	b.Reset(src)
	b.Literals(3)
	b.Match(100, 10)
	b.Match(97, 1<<20)
	if got, err := Unpack(nil, b.Finish(), len(src)); err != nil || !bytes.Equal(got, src) {
		t.Errorf("%q %v", got, err)
	}
}

func TestPack(t *testing.T) {
	content := make([]byte, 100000)
	for i := range content {
		content[i] = byte(i>>12 ^ i)
	}
	block := Pack(content)
	if got, err := Unpack([]byte("x"), block, len(content)+1); err != nil || !bytes.Equal(got[1:], content) || len(block) > len(content)/10 {
		t.Errorf("%d bytes: %v", len(block), err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{0})
	f.Add(Pack(make([]byte, 1000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := Unpack(nil, b, 1<<20); len(got) > 1<<20 || err == nil && len(b) == 0 {
			t.Error(len(got), err)
		}
	})
}
