package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// TestChunks: what was written in chunks is whole however it is cut, once, and only with its end; an error ends it.
func TestChunks(t *testing.T) {
	var told bytes.Buffer
	for _, s := range []string{"a", "bc", "", "more"} {
		if err := WriteChunk(&told, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	end := told.Len() - len("more") - 4
	for step := 1; step <= told.Len(); step++ {
		var got bytes.Buffer
		whole, over := 0, 0
		c := &Chunks{To: &got, Most: 1 << 20, Whole: func() error { whole++; return nil }, Over: func() { over++ }}
		for at := 0; at < told.Len(); at += step {
			if at < end && !errors.Is(c.Close(), ErrCut) {
				t.Fatal("half of it is taken for all")
			}
			_, _ = c.Write(told.Bytes()[at:min(at+step, told.Len())])
		}
		if got.String() != "abc" || whole != 1 || over != 1 || c.Close() != nil {
			t.Errorf("in steps of %d: %q, told whole %d times and over %d times, %v", step, got.String(), whole, over, c.Close())
		}
	}
	full := errors.New("full")
	over := 0
	for _, c := range []*Chunks{
		{To: &bytes.Buffer{}, Most: 1 << 20, Whole: func() error { return full }, Over: func() { over++ }},
		{To: failing{full}, Most: 1 << 20, Whole: func() error { t.Error("it is not whole"); return nil }, Over: func() { over++ }},
	} {
		_, _ = c.Write(told.Bytes())
		if !errors.Is(c.Close(), full) {
			t.Errorf("the error is lost: %v", c.Close())
		}
	}
	long := &Chunks{To: io.Discard, Most: 2, Whole: func() error { t.Error("it is too long"); return nil }, Over: func() { over++ }}
	if _, _ = long.Write(told.Bytes()); !errors.Is(long.Close(), ErrLong) {
		t.Errorf("of more than is taken: %v", long.Close())
	}
	if over != 3 {
		t.Errorf("the end was told %d times", over)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
