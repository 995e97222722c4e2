// Package garbage removes what no image and no container needs any more, while other processes bring images in and remove them.
//
// An image in the making has no record yet, so nothing on the disk says that it counts on a layer that it found there. The rule that
// keeps such a layer, without a lock on the way of a pull: who publishes a record, and who removes blobs or layers, holds [Lock] for
// that moment. The publisher looks under the lock whether all that the image needs is still there, and fetches what is not; the
// remover looks under the lock which records there are. No record of an image is ever without its layers.
package garbage

import (
	"encoding/json"
	"errors"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/store/content"
	"brig/internal/store/meta"
	"brig/internal/store/snapshot"
)

const maxDocument = 4 << 20 // bytes of an index

// Stores are the three stores below --root.
type Stores struct {
	Root     string
	Content  *content.Store
	Snapshot *snapshot.Store
	Meta     *meta.Store
}

// Open names the stores of root. It does no I/O.
func Open(root string) Stores {
	return Stores{root, content.Open(filepath.Join(root, "content")), snapshot.Open(filepath.Join(root, "snapshot")), meta.Open(root)}
}

// Lock is held while a record of an image is published or withdrawn, and while blobs and layers are removed.
func (s Stores) Lock() (*lock.Lock, error) {
	dir := filepath.Join(s.Root, "image")
	if err := atomicfile.MakeDir(dir); err != nil { // a record that is durable in it needs its name
		return nil, err
	}
	return lock.Take(filepath.Join(dir, ".lock"))
}

// Set is what may be removed: blobs, and unpacked layers by diff ID.
type Set struct {
	Blobs  []digest.Digest
	Layers []digest.Digest
}

// Of lists all that an image consists of.
func (s Stores) Of(img api.Image) Set {
	set := Set{Blobs: []digest.Digest{img.Target.Digest, img.Manifest.Digest, digest.Digest(img.ID)}}
	set.Blobs = append(set.Blobs, s.inner(img.Target)...)
	for _, l := range img.Layers {
		set.Blobs = append(set.Blobs, l.Blob.Digest)
		set.Layers = append(set.Layers, digest.Digest(l.DiffID))
	}
	return set
}

// inner lists the indexes in an index: the record of an image knows its target and its manifest, not what lies between.
func (s Stores) inner(target imagespec.Descriptor) []digest.Digest {
	if target.MediaType != imagespec.MediaTypeImageIndex {
		return nil
	}
	b, err := s.Content.Bytes(target.Digest, maxDocument)
	if err != nil {
		return nil
	}
	var index imagespec.Index
	if json.Unmarshal(b, &index) != nil {
		return nil
	}
	var found []digest.Digest
	for _, m := range index.Manifests {
		if m.MediaType == imagespec.MediaTypeImageIndex && s.Content.Has(m.Digest) {
			found = append(found, m.Digest)
		}
	}
	return found
}

// All lists everything in the store. To remove it sweeps what transfers left that were killed, and what those that are under way have brought
// in so far: they fetch it again.
func (s Stores) All() (set Set, err error) {
	if set.Blobs, err = s.Content.Blobs(); err == nil {
		set.Layers, err = s.Snapshot.Layers()
	}
	return set, err
}

// Remove removes what is in the set and needed by no image's record and no container, and returns what it removed. The caller holds
// [Stores.Lock].
func (s Stores) Remove(set Set) (removed Set, err error) {
	// Two sets: the blob of a layer that is not compressed has its diff ID for a digest.
	blobs, layers := map[digest.Digest]bool{}, map[digest.Digest]bool{}
	images, err := s.Meta.Images()
	if err != nil {
		return removed, err // without knowing all that is needed, nothing may go
	}
	for _, img := range images {
		of := s.Of(img)
		for _, d := range of.Blobs {
			blobs[d] = true
		}
		for _, d := range of.Layers {
			layers[d] = true
		}
	}
	ids, err := s.Meta.ContainerIDs()
	if err != nil {
		return removed, err
	}
	for _, id := range ids {
		c, err := s.Meta.Container(id)
		if errors.Is(err, api.NotFound) {
			continue
		}
		if err != nil {
			return removed, err
		}
		for _, l := range c.Layers {
			layers[digest.Digest(l)] = true
		}
	}
	there := map[digest.Digest]bool{} // now: a blob that a layer gives goes with it, but for its link
	for _, d := range set.Blobs {
		there[d] = s.Content.Has(d)
	}
	var errs []error
	for _, d := range set.Layers {
		if !layers[d] && s.Snapshot.Has(d) {
			if err := s.Snapshot.RemoveLayer(d.String()); err != nil {
				errs = append(errs, err)
			} else {
				removed.Layers = append(removed.Layers, d)
			}
		}
	}
	for _, d := range set.Blobs {
		if blobs[d] {
			continue
		}
		if err := s.Content.Remove(d); err != nil {
			errs = append(errs, err)
		} else if there[d] {
			removed.Blobs = append(removed.Blobs, d)
		}
	}
	return removed, errors.Join(errs...)
}
