package rezstd

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"brig/internal/store/cluster"
)

func TestBig(t *testing.T) {
	for _, fn := range []string{"/tmp/zstdw/l2s.3.zst"} {
		blob, _ := os.ReadFile(fn)
		t0 := time.Now()
		data, recipe, n := 0, 0, 0
		z := NewReader(bytes.NewReader(blob), func(c cluster.Cluster) error {
			data += (len(c.Data) + 4095) &^ 4095
			recipe += len(c.Recipe)
			n++
			return nil
		})
		got, err := io.Copy(io.Discard, z)
		t.Log(fn, len(blob), got, err, n, "data", data, "recipe", recipe, time.Since(t0))
	}
}
