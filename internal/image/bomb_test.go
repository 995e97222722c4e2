package image_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"brig/api"
	"brig/internal/image"
)

// zeros packs n bytes of zeros.
func zeros(t *testing.T, kind image.Compression, n int64) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if kind == image.Zstd {
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	chunk := make([]byte, 1<<20)
	for ; n > 0; n -= int64(len(chunk)) {
		if _, err := w.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestBombs: what a few packed bytes may become has limits, and a user who knows better can set others.
func TestBombs(t *testing.T) {
	read := func(b []byte) (int64, error) {
		r, _, err := image.Decompress(bytes.NewReader(b))
		if err != nil {
			return 0, err
		}
		defer r.Close()
		return io.Copy(io.Discard, r)
	}
	for _, kind := range []image.Compression{image.Gzip, image.Zstd} {
		bomb := zeros(t, kind, 3<<29)
		n, err := read(bomb)
		if !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), "BRIG_MAX_RATIO") || n > 1<<30+16<<20 {
			t.Errorf("%s: %d bytes of %d, %v", kind, n, len(bomb), err)
		}
		t.Setenv("BRIG_MAX_RATIO", "0")
		if kind == image.Zstd {
			// once is enough
		} else if n, err := read(bomb); err != nil || n != 3<<29 {
			t.Errorf("%s without a limit: %d, %v", kind, n, err)
		}
		t.Setenv("BRIG_MAX_UNPACKED", "10m")
		if n, err := read(bomb); !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), "BRIG_MAX_UNPACKED") || n > 16<<20 {
			t.Errorf("%s: %d, %v", kind, n, err)
		}
		t.Setenv("BRIG_MAX_UNPACKED", "")
		t.Setenv("BRIG_MAX_RATIO", "")
		if n, err := read(zeros(t, kind, 1<<28)); err != nil || n != 1<<28 {
			t.Errorf("%s, a quarter of a gigabyte of zeros: %d, %v", kind, n, err)
		}
	}
	for _, bad := range []string{"x", "-1", "1X", "9999999T", "G"} {
		t.Setenv("BRIG_MAX_UNPACKED", bad)
		if _, err := read(zeros(t, image.Gzip, 1<<20)); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("BRIG_MAX_UNPACKED=%s: %v", bad, err)
		}
	}
}

// TestBound: what is unpacked elsewhere is held to the same limits.
func TestBound(t *testing.T) {
	t.Setenv("BRIG_MAX_UNPACKED", "1K")
	bound, err := image.Bound()
	if err != nil {
		t.Fatal(err)
	}
	packed := func() int64 { return 10 }
	if b, err := io.ReadAll(bound(strings.NewReader(strings.Repeat("x", 1024)), packed)); err != nil || len(b) != 1024 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := io.ReadAll(bound(strings.NewReader(strings.Repeat("x", 1025)), packed)); !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), "BRIG_MAX_UNPACKED") {
		t.Error(err)
	}
	t.Setenv("BRIG_MAX_UNPACKED", "many")
	if _, err := image.Bound(); !errors.Is(err, api.InvalidArgument) {
		t.Error(err)
	}
}
