package wire

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	sent := []Frame{
		{Hello, 0, Number(Version)}, {Started, First, []byte{}}, {Stdout, 7, bytes.Repeat([]byte("x"), MaxBody)}, {Exit, 1<<32 - 1, []byte{3, 0, 1}},
	}
	var b []byte
	for _, f := range sent {
		b = Append(b, f)
	}
	r := bytes.NewReader(b)
	buf := make([]byte, 16)
	for _, want := range sent {
		got, err := Read(r, MaxBody, buf)
		if err != nil || got.Kind != want.Kind || got.Stream != want.Stream || !bytes.Equal(got.Body, want.Body) {
			t.Fatalf("%c: %v %v", want.Kind, got.Kind, err)
		}
		if err := got.Check(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Read(r, MaxBody, buf); err != io.EOF {
		t.Error("at the end: ", err)
	}
}

func TestLimits(t *testing.T) {
	long := Append(nil, Frame{Stdout, 1, make([]byte, MaxBody+1)})
	if _, err := Read(bytes.NewReader(long), MaxBody, nil); err == nil || !strings.Contains(err.Error(), "the most is") {
		t.Error("a frame over the limit: ", err)
	}
	if _, err := Read(bytes.NewReader(long[:20]), MaxOrder, nil); err != io.ErrUnexpectedEOF {
		t.Error("a frame cut off: ", err)
	}
	if _, err := Read(bytes.NewReader(long[:HeaderLen]), MaxOrder, nil); err != io.ErrUnexpectedEOF {
		t.Error("a frame cut off after its header: ", err)
	}
	for _, f := range []Frame{
		{Kind: 0}, {Kind: 'B'}, {Kind: Hello}, {Kind: Started, Body: []byte{1}}, {Kind: Exit, Body: make([]byte, 4)}, {Kind: Stdout}, {Kind: Ask, Body: []byte{2, 0}}, {Kind: Ask},
		{Kind: Failed, Body: make([]byte, MaxText+1)}, {Kind: Pong}, {Kind: Took, Body: make([]byte, 3)},
	} {
		if f.Check() == nil {
			t.Errorf("kind %q with %d bytes passes", byte(f.Kind), len(f.Body))
		}
	}
}

func TestSmallBodies(t *testing.T) {
	if r, c, ok := ParseSize(Size(24, 80)); r != 24 || c != 80 || !ok {
		t.Error("size")
	}
	if _, _, ok := ParseSize(nil); ok {
		t.Error("no size")
	}
	if o, n, ok := ParseCredit(CreditOf(2, 77)); o != 2 || n != 77 || !ok {
		t.Error("credit")
	}
	if _, _, ok := ParseCredit([]byte{3, 0, 0, 0, 0}); ok {
		t.Error("credit for a third output")
	}
	if ParseNumber(nil) != 0 {
		t.Error("no number")
	}
}

// FuzzRead gives the monitor's decoder whatever a guest may send.
func FuzzRead(f *testing.F) {
	f.Add(Append(Append(nil, Frame{Hello, 0, Number(1)}), Frame{Exit, 1, []byte{0, 9, 0}}))
	f.Add([]byte{'o', 1, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var buf [64]byte
		for {
			fr, err := Read(r, MaxBody, buf[:])
			if err != nil {
				return
			}
			if len(fr.Body) > MaxBody {
				t.Fatalf("a body of %d bytes", len(fr.Body))
			}
			if fr.Check() == nil && fr.Kind == Exit && len(fr.Body) != 3 {
				t.Fatal("an exit of no form")
			}
		}
	})
}
