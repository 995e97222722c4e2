package garbage

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/store/snapshot"
)

// needs are all blobs and layers that must stay. Two sets: the blob of a layer that is not compressed has its diff ID for a digest.
type needs struct {
	blobs, layers map[digest.Digest]bool
	shifted       map[string]bool // names of layers with other owners: [snapshot.Shifted]
	// doubt is why something may be needed that nobody can name; then no blob (blobDoubt), or no layer, may go.
	blobDoubt, layerDoubt error
}

func newNeeds() *needs {
	return &needs{blobs: map[digest.Digest]bool{}, layers: map[digest.Digest]bool{}, shifted: map[string]bool{}}
}

func (n *needs) add(set Set) {
	for _, d := range set.Blobs {
		n.blobs[d] = true
	}
	for _, d := range set.Layers {
		n.layers[d] = true
	}
}

// needed collects what must stay, from every root that there is. Whatever else comes to need blobs or layers is added here, and only
// here. The caller holds [Stores.Lock]; of containers that is what is needed at this moment, see [Stores.removeLayers].
func (s Stores) needed() (*needs, error) {
	n := newNeeds()
	for _, root := range []func(*needs) error{
		s.neededByImages,
		s.neededByContainers,
		s.neededByLeases,
		s.neededByRegistry,
	} {
		if err := root(n); err != nil {
			return nil, err // without knowing all that is needed, nothing may go
		}
	}
	s.neededByBlobs(n)
	return n, nil
}

// neededByBlobs adds the packed layers that give the blobs that are needed: the blob goes with its layer.
func (s Stores) neededByBlobs(n *needs) {
	for d := range n.blobs {
		if layer, ok := s.giver(d); ok {
			n.layers[layer] = true
		}
	}
}

// neededByRegistry adds what repositories of the registry have.
func (s Stores) neededByRegistry(n *needs) error {
	blobs, err := s.RegistryBlobs()
	for d := range blobs {
		n.blobs[d] = true
	}
	return err
}

// neededByImages: of an image whose record cannot be read, or is of pieces that are not there, all that its name in index.json leads to.
func (s Stores) neededByImages(n *needs) error {
	files, err := s.Meta.ImageFiles()
	if err != nil {
		return err
	}
	refs, refsErr := s.Content.Refs()
	for _, f := range files {
		whole := f.Err == nil
		if whole {
			set := s.Of(f.Image)
			n.add(set)
			whole = s.hasAll(set)
		}
		if whole {
			continue
		}
		found := false
		for _, r := range refs {
			if f.Of(r.Annotations[imagespec.AnnotationRefName]) {
				found = s.neededBy(n, node{r.Digest, 0}, map[node]bool{}) || found
			}
		}
		if f.Err != nil && !found { // whose parts nobody knows
			n.blobDoubt = fmt.Errorf("nothing can be removed while nobody knows what it needs, see `brig system check --repair`: %w", errors.Join(f.Err, refsErr))
			n.layerDoubt = n.blobDoubt
		}
	}
	return nil
}

func (s Stores) hasAll(set Set) bool {
	for _, d := range set.Blobs {
		if !s.Content.Has(d) {
			return false
		}
	}
	for _, d := range set.Layers {
		if !s.Snapshot.Has(d) {
			return false
		}
	}
	return true
}

// node is a document, as many levels below the one that has a name.
type node struct {
	digest.Digest
	depth int
}

// neededBy adds all that a document leads to and that is in the store. It reports whether it could tell, and keeps that in told: an index may name a document
// thousands of times, and so may that.
func (s Stores) neededBy(n *needs, d node, told map[node]bool) (known bool) {
	const maxDepth = 4 // an index in an index in an index; then manifest
	if known, ok := told[d]; ok {
		return known
	}
	defer func() { told[d] = known }()
	n.blobs[d.Digest] = true
	b, err := s.Content.Bytes(d.Digest, maxDocument)
	if err != nil || d.depth == maxDepth {
		return false
	}
	var doc struct {
		Manifests []imagespec.Descriptor `json:"manifests"`
		Config    *imagespec.Descriptor  `json:"config"`
		Layers    []imagespec.Descriptor `json:"layers"`
	}
	if json.Unmarshal(b, &doc) != nil {
		return false
	}
	for _, m := range doc.Manifests {
		if s.Content.Has(m.Digest) {
			known = s.neededBy(n, node{m.Digest, d.depth + 1}, told) || known
		}
	}
	for _, l := range doc.Layers {
		n.blobs[l.Digest] = true
	}
	if doc.Config == nil {
		return known
	}
	n.blobs[doc.Config.Digest] = true
	var config struct {
		RootFS imagespec.RootFS `json:"rootfs"`
	}
	b, err = s.Content.Bytes(doc.Config.Digest, maxDocument)
	if err != nil || json.Unmarshal(b, &config) != nil {
		return false
	}
	for _, l := range config.RootFS.DiffIDs {
		n.layers[l] = true
	}
	return true
}

func (s Stores) neededByContainers(n *needs) error {
	_, err := s.containers(n, map[string]bool{})
	return err
}

// containers adds the layers of the containers that are not in seen, and returns the records of those. One whose record cannot be read may need
// any layer.
func (s Stores) containers(n *needs, seen map[string]bool) ([]api.Container, error) {
	ids, err := s.Meta.ContainerIDs()
	if err != nil {
		return nil, err
	}
	var all []api.Container
	for _, id := range ids {
		if seen[id] {
			continue
		}
		c, ok, err := s.Meta.Record(id)
		if err != nil {
			if !errors.Is(err, api.Corrupt) {
				return nil, err
			}
			n.layerDoubt = api.Errorf(api.Corrupt, "no layer can be removed while nobody knows which ones container %.12s needs; remove it with `brig rm -f %s`: %w", id, id, err)
		}
		if !ok {
			continue // in the making, or dead
		}
		seen[id] = true
		all = append(all, c)
		layers := c.Layers
		for i := range c.Spec.Mounts {
			layers = append(layers[:len(layers):len(layers)], c.Spec.Mounts[i].Layers...)
		}
		for _, l := range layers {
			n.layers[digest.Digest(l)] = true
		}
		n.shifted[snapshot.Shifted(&c)] = true
	}
	return all, nil
}
