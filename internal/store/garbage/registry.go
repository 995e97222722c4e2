package garbage

import (
	"github.com/opencontainers/go-digest"

	"brig/internal/store/repository"
)

// RegistryBlobs lists the blobs that repositories of the registry have: manifests, and all that was pushed or mirrored. No file is opened.
func (s Stores) RegistryBlobs() (map[digest.Digest]bool, error) {
	return repository.Open(s.Root).Blobs()
}
