package machine

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BlobPath is where an OCI layout keeps a blob.
func BlobPath(dir string, d digest.Digest) string {
	return filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// ReadImage reads the manifest that an OCI layout has under a tag.
func ReadImage(dir, tag string) (m imagespec.Manifest, err error) {
	var index imagespec.Index
	if err := readJSON(filepath.Join(dir, "index.json"), &index); err != nil {
		return m, err
	}
	i := slices.IndexFunc(index.Manifests, func(d imagespec.Descriptor) bool { return d.Annotations[imagespec.AnnotationRefName] == tag })
	if i < 0 {
		return m, fmt.Errorf("%s: no image is tagged %s", dir, tag)
	}
	err = readJSON(BlobPath(dir, index.Manifests[i].Digest), &m)
	return m, err
}

// ReadConfig reads the configuration of an image of an OCI layout.
func ReadConfig(dir string, m imagespec.Manifest) (c imagespec.Image, err error) {
	err = readJSON(BlobPath(dir, m.Config.Digest), &c)
	return c, err
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// TopLayer writes to out the n-th small layer over a big one: regular files of the gzipped layer from, size bytes of them or a little more,
// in a folder of its own. Each n has other files, so that no two have a digest in common.
func TopLayer(out, from string, n int, size int64) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	w := tar.NewWriter(f)
	var seen, taken int64
	for r := tar.NewReader(z); taken < size; {
		h, err := r.Next()
		if err == io.EOF {
			return fmt.Errorf("%s has too few files for a layer %d of %d bytes", from, n, size)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		if h.Typeflag != tar.TypeReg || h.Size > size/4 {
			continue
		}
		if seen += h.Size; seen <= int64(n)*size {
			continue
		}
		h.Name = path.Join("srv", fmt.Sprint("app-", n), h.Name)
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
		taken += h.Size
	}
	return w.Close()
}
