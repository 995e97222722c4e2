package transfer

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"
)

func TestAhead(t *testing.T) {
	for _, n := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 20*chunkSize + 7} {
		want := noise(n)
		a := readAhead(iotest.HalfReader(bytes.NewReader(want)))
		got, err := io.ReadAll(iotest.OneByteReader(a))
		if n > chunkSize+1 {
			a.Close()
			a = readAhead(bytes.NewReader(want))
			got, err = io.ReadAll(a)
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d: %d bytes, %v", n, len(got), err)
		}
		a.Close()
		a.Close()
	}
}

// TestAheadError: the bytes before an error come first, then the error, each time.
func TestAheadError(t *testing.T) {
	boom := errors.New("boom")
	a := readAhead(io.MultiReader(bytes.NewReader(noise(chunkSize+5)), iotest.ErrReader(boom)))
	defer a.Close()
	if got, err := io.ReadAll(a); err != boom || len(got) != chunkSize+5 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := a.Read(make([]byte, 1)); err != boom {
		t.Error(err)
	}
}

// TestAheadClose: the source is not touched after Close, and no more than the chunks is read ahead.
func TestAheadClose(t *testing.T) {
	read := 0
	a := readAhead(readerFunc(func(p []byte) (int, error) { read += len(p); return len(p), nil }))
	time.Sleep(20 * time.Millisecond)
	a.Close()
	at := read
	time.Sleep(20 * time.Millisecond)
	if read != at || read > (chunkCount+1)*chunkSize {
		t.Errorf("%d bytes read, then %d", at, read)
	}
	if _, err := io.ReadAll(a); err == nil {
		t.Error("a closed one reads on to the end")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
