package meta

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
)

const (
	imageDir    = "image"
	imageSuffix = ".json"
	algorithm   = "sha256:"
	// maxFileName keeps an escaped reference, its suffix and atomicfile's within NAME_MAX, 255 bytes.
	maxFileName = 200
)

// PutImage stores the record durably, in place of an earlier one of the same name, or of the same ID where it has no name.
func (s *Store) PutImage(img api.Image) error {
	if hexa, ok := strings.CutPrefix(img.ID, algorithm); !ok || !id.Valid(hexa) {
		return api.Errorf(api.InvalidArgument, "image %s: %q is not an image ID", img.Name, img.ID)
	}
	path := s.imagePath(imageKey(img))
	err := write(path, img, atomicfile.Durable)
	if errors.Is(err, fs.ErrNotExist) {
		if err = atomicfile.MakeDir(filepath.Dir(path)); err == nil {
			err = write(path, img, atomicfile.Durable)
		}
	}
	return err
}

// Image returns the image of a full reference, or the untagged one of an ID sha256:….
func (s *Store) Image(fullName string) (api.Image, error) {
	path := s.imagePath(fullName)
	var img api.Image
	err := read(path, &img, readImage)
	if errors.Is(err, fs.ErrNotExist) {
		return api.Image{}, noImage(fullName)
	}
	if err != nil {
		return api.Image{}, err
	}
	if imageKey(img) != fullName {
		return api.Image{}, corrupt(path, imageKey(img), fullName)
	}
	return img, nil
}

// ImageByID returns the image of an ID, sha256: and 64 digits, or of a prefix of its digits, with sha256: or without it. Of several
// names of one image it is the first in alphabetical order. A prefix of several images is api.InvalidArgument.
func (s *Store) ImageByID(idOrPrefix string) (api.Image, error) {
	prefix := strings.TrimPrefix(idOrPrefix, algorithm)
	if !id.Prefix(prefix) {
		return api.Image{}, noImage(idOrPrefix)
	}
	all, err := s.Images()
	if err != nil {
		return api.Image{}, err
	}
	var found api.Image
	for _, img := range all {
		switch {
		case !strings.HasPrefix(img.ID, algorithm+prefix):
		case found.ID == "":
			found = img
		case found.ID != img.ID:
			return api.Image{}, ambiguous("image ID", idOrPrefix, found.ID, img.ID)
		}
	}
	if found.ID == "" {
		return api.Image{}, noImage(idOrPrefix)
	}
	return found, nil
}

// Images returns all records, in the order of their names. One that another process removes meanwhile is left out.
func (s *Store) Images() ([]api.Image, error) {
	names, err := readNames(filepath.Join(s.root, imageDir))
	if err != nil {
		return nil, err
	}
	all := make([]api.Image, 0, len(names))
	for _, name := range names {
		if !strings.HasSuffix(name, imageSuffix) {
			continue // being written
		}
		var img api.Image
		err := read(filepath.Join(s.root, imageDir, name), &img, readImage)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	slices.SortFunc(all, func(a, b api.Image) int { return strings.Compare(imageKey(a), imageKey(b)) })
	return all, nil
}

// RemoveImage forgets the name, or the untagged image of an ID sha256:…. What is behind it stays. No such image is api.NotFound.
func (s *Store) RemoveImage(fullName string) error {
	err := os.Remove(s.imagePath(fullName))
	if errors.Is(err, fs.ErrNotExist) {
		return noImage(fullName)
	}
	if err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Join(s.root, imageDir))
}

// imageKey is what an image is kept under.
func imageKey(img api.Image) string {
	if img.Name == "" {
		return img.ID
	}
	return img.Name
}

// imagePath is the file of an image's key.
func (s *Store) imagePath(key string) string {
	return filepath.Join(s.root, imageDir, escape(key)+imageSuffix)
}

// escape makes a file name of a reference: what is neither letter, digit nor one of "-_.:@" becomes %XX, and a leading dot too. The
// few that would be too long end in a hash of the whole; the record says its name itself, so nothing need be turned back.
func escape(key string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(key); i++ {
		c := key[i]
		plain := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '-' || c == '_' || c == ':' || c == '@' || c == '.' && i > 0
		if plain {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	if b.Len() <= maxFileName {
		return b.String()
	}
	sum := sha256.Sum256([]byte(key))
	return b.String()[:maxFileName-1-hex.EncodedLen(len(sum))] + "~" + hex.EncodeToString(sum[:])
}

func noImage(name string) error { return api.Errorf(api.NotFound, "no such image: %s", name) }
