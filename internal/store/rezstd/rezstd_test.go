package rezstd

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"brig/internal/store/cluster"
)

func cpu() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(0, &r)
	return time.Duration(r.Utime.Nano())
}
func TestBig(t *testing.T) {
	all, _ := filepath.Glob("/tmp/zstdw/zimg/blobs/sha256/*")
	for _, fn := range all {
		blob, _ := os.ReadFile(fn)
		if len(blob) < 1<<20 {
			continue
		}
		t0, c0 := time.Now(), cpu()
		data, recipe, n := 0, 0, 0
		z := NewReader(bytes.NewReader(blob), func(c cluster.Cluster) error {
			data += (len(c.Data) + 4095) &^ 4095
			recipe += len(c.Recipe)
			n++
			return nil
		})
		got, err := io.Copy(io.Discard, z)
		t.Log(len(blob), got, err, n, "data", data, "recipe", recipe, time.Since(t0), cpu()-c0)
	}
}
