package machine

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// TestArchiveIsAnImage reads the archive back with a library that others use, and checks the layer's bytes.
func TestArchiveIsAnImage(t *testing.T) {
	dir := t.TempDir()
	layer, archive := filepath.Join(dir, "layer"), filepath.Join(dir, "image.tar")
	if err := os.WriteFile(layer, make([]byte, 10240), 0o600); err != nil { // an empty tar archive
		t.Fatal(err)
	}
	if err := WriteArchive(archive, "localhost/x:1", layer); err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if data, err := io.ReadAll(r); err != nil || len(data) != 10240 {
		t.Errorf("layer of %d bytes, %v", len(data), err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if id, err := layers[0].DiffID(); err != nil || config.RootFS.DiffIDs[0] != id {
		t.Errorf("config names layer %v, the archive holds %v (%v)", config.RootFS.DiffIDs, id, err)
	}
	if err := WriteArchive(archive, "x", filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing layer was taken")
	}
}
