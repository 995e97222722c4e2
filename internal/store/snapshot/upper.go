package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"brig/api"
)

// Upper returns the folder of a container's writable layer, which overlayfs has as its upper one. A container that was never started has none: api.NotFound.
func (s *Store) Upper(id string) (string, error) {
	if err := checkID(id); err != nil {
		return "", err
	}
	place, err := s.attached(id)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(place, "fs")
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", api.Errorf(api.NotFound, "snapshot of container %s: not in the store", id)
	} else if err != nil {
		return "", err
	}
	return dir, nil
}
