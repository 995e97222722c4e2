package garbage

import (
	"github.com/opencontainers/go-digest"

	"brig/internal/store/repository"
)

// RegistryBlobs lists the blobs that repositories of the registry have: manifests, and all that was pushed or mirrored. No file is opened.
func (s Stores) RegistryBlobs() (map[digest.Digest]bool, error) {
	return repository.Open(s.Root).Blobs()
}

// OfBlob lists what a blob consists of: itself, and the layer that gives it where it is no file of its own.
func (s Stores) OfBlob(d digest.Digest) Set {
	set := Set{Blobs: []digest.Digest{d}}
	if layer, ok := s.giver(d); ok {
		set.Layers = []digest.Digest{layer}
	}
	return set
}

// giver is the diff ID of the layer without which there would be no such blob.
func (s Stores) giver(d digest.Digest) (digest.Digest, bool) {
	if s.Content.HasFile(d) {
		return "", false
	}
	hex, ok := s.Content.Layer(d)
	return digest.NewDigestFromEncoded(digest.SHA256, hex), ok
}
