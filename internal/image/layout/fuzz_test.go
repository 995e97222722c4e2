package layout

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"brig/internal/image"
	"brig/internal/image/ref"
)

// memory is a layout of two files; it fails the test when any other path is asked for that leads out of blobs.
type memory struct {
	t     *testing.T
	files map[string][]byte
}

func (m memory) Open(path string) (io.ReadCloser, int64, error) {
	b, ok := m.files[path]
	if !ok {
		if !strings.HasPrefix(path, "blobs/sha") || strings.Contains(path, "..") {
			m.t.Fatalf("the path %q was made", path)
		}
		return nil, 0, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
}

func (m memory) Close() error { return nil }

// FuzzLayout: whatever marker and index say, the names are references, the digests are checked, and no other path is made of them.
func FuzzLayout(f *testing.F) {
	f.Add([]byte(`{"imageLayoutVersion":"1.0.0"}`), []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:`+strings.Repeat("a", 64)+
		`","size":2,"annotations":{"org.opencontainers.image.ref.name":"debian:12"}}]}`))
	f.Add([]byte(`{}`), []byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:../../../etc/passwd"}]}`))
	f.Fuzz(func(t *testing.T, marker, index []byte) {
		l, err := New("fuzz", memory{t, map[string][]byte{"oci-layout": marker, "index.json": index}})
		if err != nil {
			return
		}
		for _, e := range l.Entries() {
			if e.Target.Digest.Validate() != nil || e.Target.Size < 0 {
				t.Fatalf("%+v", e)
			}
			if e.Name != "" {
				if r, err := ref.Parse(e.Name); err != nil || r.String() != e.Name {
					t.Fatalf("name %q: %v", e.Name, err)
				}
			}
			if _, err := image.ReadDocument(t.Context(), l, e.Target); err == nil {
				t.Fatal("a blob came from nowhere")
			}
		}
	})
}
