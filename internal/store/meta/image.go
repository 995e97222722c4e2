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
	"time"

	"golang.org/x/sys/unix"

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

// Images returns all records, in the order of their names. One that another process removes meanwhile is left out, and so is one that cannot be
// read: see [Store.ImageFiles].
func (s *Store) Images() ([]api.Image, error) {
	files, err := s.ImageFiles()
	if err != nil {
		return nil, err
	}
	all := make([]api.Image, 0, len(files))
	for _, f := range files {
		if f.Err == nil {
			all = append(all, f.Image)
		}
	}
	slices.SortFunc(all, func(a, b api.Image) int { return strings.Compare(imageKey(a), imageKey(b)) })
	return all, nil
}

// ImageFile is the file of one image's record.
type ImageFile struct {
	Path  string
	Image api.Image // as far as Err is nil
	Err   error     // why it cannot be used: of kind api.Corrupt, or the system's
}

// Of reports whether the file is the place for the record of an image's key.
func (f ImageFile) Of(key string) bool { return filepath.Base(f.Path) == escape(key)+imageSuffix }

// ImageFiles returns all records, also those that cannot be read, in no order.
func (s *Store) ImageFiles() ([]ImageFile, error) {
	names, err := readNames(filepath.Join(s.root, imageDir))
	if err != nil {
		return nil, err
	}
	var all []ImageFile
	for _, name := range names {
		if !strings.HasSuffix(name, imageSuffix) {
			continue // being written
		}
		f := ImageFile{Path: filepath.Join(s.root, imageDir, name)}
		f.Err = read(f.Path, &f.Image, readImage)
		if errors.Is(f.Err, fs.ErrNotExist) {
			continue
		}
		if f.Err == nil && !f.Of(imageKey(f.Image)) {
			f.Err = corrupt(f.Path, imageKey(f.Image), strings.TrimSuffix(name, imageSuffix))
		}
		all = append(all, f)
	}
	return all, nil
}

// UseImage notes that the image is used now, for [Store.ImageUsed]: one system call, and nothing is waited for.
func (s *Store) UseImage(img *api.Image) {
	now := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, s.imagePath(imageKey(*img)), now, unix.AT_SYMLINK_NOFOLLOW) // a hint; without it the image goes sooner
}

// ImageUsed returns when a container was last made of the image, or when it was brought in.
func (s *Store) ImageUsed(img *api.Image) time.Time {
	fi, err := os.Lstat(s.imagePath(imageKey(*img)))
	if err != nil {
		return img.Pulled
	}
	return fi.ModTime()
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
