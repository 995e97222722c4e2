package transfer

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"brig/api"
	"brig/internal/image/imagetest"
	"brig/internal/store/erofs"
)

// TestPullGoesOn: a packed layer whose pull broke off is gone on with by the next pull, in another process for all that it knows; what arrived is not
// asked for again.
func TestPullGoesOn(t *testing.T) {
	t.Run("gzip", func(t *testing.T) { goesOn(t, imagetest.Gzip, erofs.Deflate) })
	t.Run("zstd", func(t *testing.T) { goesOn(t, imagetest.Zstd, erofs.LZ4) })
}

func goesOn(t *testing.T, compress func([]byte) []byte, a erofs.Algorithm) {
	t.Setenv(layersEnv, layersAsImages)
	w := newWorld(t)
	if !w.tr.packs(a) {
		t.Skip("this kernel mounts no such EROFS image from a file, or does not read it right")
	}
	p := w.reg.OCI(compress, imagetest.Layer("file", string(noise(3<<20))))
	w.reg.PutImage(p, "1")
	layer := p.Manifest.Layers[0]
	var mu sync.Mutex
	var asked []string // the ranges
	limit := 2 << 20
	w.reg.Hook = func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, layer.Digest.String()) {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Header.Get("Range"))
		if limit == 0 {
			return false
		}
		if len(asked) == 1 {
			w.reg.Serve(&cutting{rw, limit}, r)
		} else {
			imagetest.Fail(rw, http.StatusNotFound, "BLOB_UNKNOWN", "gone")
		}
		return true
	}
	if _, err := w.pull("x:1"); err == nil {
		t.Fatal("the pull did not break off")
	}
	asked, limit = nil, 0
	w.tr = New(w.root)
	w.tr.Stdout, w.tr.Stderr = &w.out, &w.err
	reply, err := w.pull("x:1")
	if err != nil {
		t.Fatal(err)
	}
	if len(asked) != 1 || !strings.HasPrefix(asked[0], "bytes=") || asked[0] == "bytes=0-" {
		t.Errorf("asked for %q", asked)
	}
	if _, err := w.tr.stores.Content.Bytes(layer.Digest, 8<<20); err != nil || reply.Images[0].Layers[0].Size != 3<<20 {
		t.Error(err)
	}
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{w.host + "/x:1"}, File: t.TempDir() + "/a.tar"}); err != nil {
		t.Error(err)
	}
}

// TestPackedBomb: a layer that becomes an image is held to the limits as one that becomes a folder, and nothing of it is left.
func TestPackedBomb(t *testing.T) {
	t.Setenv(layersEnv, layersAsImages)
	t.Setenv("BRIG_MAX_UNPACKED", "1M")
	for name, compress := range map[string]func([]byte) []byte{"gzip": imagetest.Gzip, "zstd": imagetest.Zstd} {
		w := newWorld(t)
		p := w.reg.OCI(compress, imagetest.Layer("file", string(make([]byte, 3<<20))))
		w.reg.PutImage(p, "1")
		if _, err := w.pull("x:1"); !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), "BRIG_MAX_UNPACKED") {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(filepath.Join(w.root, "snapshot/unpack")); len(left) > 0 {
			t.Errorf("%s: left: %v", name, left)
		}
	}
}

// cutting breaks an answer off after left bytes.
type cutting struct {
	http.ResponseWriter
	left int
}

func (s *cutting) Write(p []byte) (int, error) {
	if len(p) > s.left {
		s.ResponseWriter.Write(p[:s.left])
		panic(http.ErrAbortHandler)
	}
	s.left -= len(p)
	return s.ResponseWriter.Write(p)
}
