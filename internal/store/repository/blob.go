package repository

import (
	"errors"
	"io/fs"
	"os"

	"brig/api"
	"brig/internal/store/content"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// HasBlob reports whether the repository claims the blob. Whether it is there, the content store knows.
func (s *Store) HasBlob(name string, d digest.Digest) bool {
	if check(name) != nil || content.Check(d) != nil {
		return false
	}
	_, err := os.Lstat(s.path(name, blobs, d.String()))
	return err == nil
}

// Claim is one call of AddBlob. A later one of the same blob takes its place.
type Claim uint64

// AddBlob claims a blob for the repository, or claims it anew. The caller holds the lock of package garbage; from then on the blob is
// kept, also one that comes in later.
func (s *Store) AddBlob(name string, d digest.Digest) (Claim, error) {
	if err := errors.Join(check(name), content.Check(d)); err != nil {
		return 0, err
	}
	if err := s.mark(name, blobs, d.String()); err != nil {
		return 0, err
	}
	return s.BlobClaim(name, d), nil
}

// BlobClaim returns the claim of a blob that stands now, 0 where there is none. The caller holds the lock of package garbage.
func (s *Store) BlobClaim(name string, d digest.Digest) Claim {
	if check(name) != nil || content.Check(d) != nil {
		return 0
	}
	var st unix.Stat_t
	if unix.Lstat(s.path(name, blobs, d.String()), &st) != nil {
		return 0
	}
	return Claim(st.Ino) // each claim is a new file
}

// RemoveBlob gives up the claim.
func (s *Store) RemoveBlob(name string, d digest.Digest) error {
	if err := errors.Join(check(name), content.Check(d)); err != nil {
		return err
	}
	err := s.remove(name, blobs, d.String())
	if errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.NotFound, "repository %s: no blob %s", name, d)
	}
	return err
}

// Announce remembers a blob that a mirrored manifest names, so that its length is known before it is fetched.
func (s *Store) Announce(name string, d imagespec.Descriptor) error {
	if err := errors.Join(check(name), content.Check(d.Digest)); err != nil {
		return err
	}
	if _, err := os.Lstat(s.path(name, known, d.Digest.String()+suffix)); err == nil {
		return nil
	}
	return s.put(imagespec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, name, known, d.Digest.String()+suffix)
}

// Announced returns the descriptor of a blob that a mirrored manifest names.
func (s *Store) Announced(name string, d digest.Digest) (imagespec.Descriptor, error) {
	var desc imagespec.Descriptor
	if err := errors.Join(check(name), content.Check(d)); err != nil {
		return desc, err
	}
	err := s.get(&desc, name, known, d.String()+suffix)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (desc.Digest != d || desc.Size < 0) {
		return desc, api.Errorf(api.NotFound, "repository %s: no manifest that came through here names blob %s", name, d)
	}
	return desc, err
}
