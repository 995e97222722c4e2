package content

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"

	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxIndex bounds index.json, in bytes: a hundred thousand named images.
const maxIndex = 32 << 20

// Refs lists the named images: descriptors whose annotation org.opencontainers.image.ref.name is the full reference.
func (s *Store) Refs() ([]imagespec.Descriptor, error) {
	index, err := s.readIndex()
	return index.Manifests, err
}

// SetRef lets name stand for d, whatever it stood for before. The change is durable when it returns.
func (s *Store) SetRef(name string, d imagespec.Descriptor) error {
	if name == "" {
		return api.Errorf(api.InvalidArgument, "a reference needs a name")
	}
	if err := Check(d.Digest); err != nil {
		return err
	}
	d.Annotations = maps.Clone(d.Annotations)
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[imagespec.AnnotationRefName] = name
	return s.changeIndex(name, &d)
}

// RemoveRef takes the name from its image. That there is no such name is no error.
func (s *Store) RemoveRef(name string) error { return s.changeIndex(name, nil) }

// changeIndex replaces the entry of name by d, or by nothing, under the lock.
func (s *Store) changeIndex(name string, d *imagespec.Descriptor) error {
	if err := s.prepare(); err != nil {
		return err
	}
	l, err := lock.Take(filepath.Join(s.dir, "index.json.lock"))
	if err != nil {
		return err
	}
	defer l.Release()
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	before := len(index.Manifests)
	index.Manifests = slices.DeleteFunc(index.Manifests, func(m imagespec.Descriptor) bool {
		return m.Annotations[imagespec.AnnotationRefName] == name
	})
	if d == nil && len(index.Manifests) == before {
		return nil
	}
	if d != nil {
		index.Manifests = append(index.Manifests, *d)
	}
	index.Versioned = specs.Versioned{SchemaVersion: 2}
	index.MediaType = imagespec.MediaTypeImageIndex
	if index.Manifests == nil {
		index.Manifests = []imagespec.Descriptor{}
	}
	b, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.dir, "index.json"), b, 0o600, atomicfile.Durable)
}

// readIndex decodes index.json; one that is not there is empty.
func (s *Store) readIndex() (imagespec.Index, error) {
	path := filepath.Join(s.dir, "index.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return imagespec.Index{}, nil
	}
	if err != nil {
		return imagespec.Index{}, err
	}
	index, err := decodeIndex(b)
	if err != nil {
		return imagespec.Index{}, api.Errorf(api.Corrupt, "%s: %w; move it away and name the images again", path, err)
	}
	return index, nil
}

// decodeIndex parses an index and refuses entries that no path could be made of.
func decodeIndex(b []byte) (imagespec.Index, error) {
	var index imagespec.Index
	if len(b) > maxIndex {
		return index, errors.New("longer than an index may be")
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return index, err
	}
	for _, m := range index.Manifests {
		if err := Check(m.Digest); err != nil {
			return index, err
		}
	}
	return index, nil
}
