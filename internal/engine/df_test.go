package engine

import (
	"bytes"
	"testing"

	"brig/internal/store/content"
	"brig/internal/store/repository"
)

// TestServedIsInUse: what a repository of the registry has cannot be reclaimed, as prune leaves it.
func TestServedIsInUse(t *testing.T) {
	root := t.TempDir()
	blobs := content.Open(root + "/content")
	put := func(b byte) {
		w, err := blobs.Writer(t.Context(), "", -1)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(bytes.Repeat([]byte{b}, 100_000))
		d, _, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		if b == 's' {
			if _, err := repository.Open(root).AddBlob("team/app", d); err != nil {
				t.Fatal(err)
			}
		}
	}
	put('s')
	put('u')
	u, err := New(root, t.TempDir(), "test").DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i := u.Types[0]; i.Type != "Images" || i.Size < 200_000 || i.Reclaimable < 100_000 || i.Reclaimable > i.Size*6/10 {
		t.Errorf("%+v", i)
	}
}
