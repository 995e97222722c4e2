package rezstd

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"brig/internal/store/cluster"

	"github.com/klauspost/compress/zstd"
)

func TestBig(t *testing.T) {
	for _, fn := range []string{"/tmp/zstdw/l2s.tar"} {
		plain, _ := os.ReadFile(fn)
		for _, args := range [][]string{{"-3"}, {"-19", "-T2"}, {"k"}} {
			var blob []byte
			if args[0] == "k" {
				z, _ := zstd.NewWriter(nil)
				blob = z.EncodeAll(plain, nil)
			} else {
				c := exec.Command("zstd", append(args, "-c")...)
				c.Stdin = bytes.NewReader(plain)
				blob, _ = c.Output()
			}
			t0 := time.Now()
			data, recipe, n := 0, 0, 0
			z := NewReader(bytes.NewReader(blob), func(c cluster.Cluster) error {
				data += (len(c.Data) + 4095) &^ 4095
				recipe += len(c.Recipe)
				n++
				return nil
			})
			got, err := io.Copy(io.Discard, z)
			t.Log(fn, args, len(blob), got, len(plain), err, n, "data", data, "recipe", recipe, time.Since(t0))
		}
	}
}
