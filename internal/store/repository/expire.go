package repository

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"brig/internal/store/content"

	"github.com/opencontainers/go-digest"
)

// Expire forgets what was given up: uploads without a byte since before, blobs that no manifest of their repository names and that came
// before then, files of writers that died, and folders without records. It returns the blobs, which others may need. The caller holds the
// lock of package garbage. A repository that cannot be read is left as it is.
func (s *Store) Expire(before time.Time) ([]digest.Digest, error) {
	var given []digest.Digest
	var names []string
	var errs []error
	err := s.walk(func(name string) error {
		names = append(names, name)
		found, err := s.expireBlobs(name, before)
		given = append(given, found...)
		errs = append(errs, err, s.expireUploads(name, before), s.expireFiles(name, before))
		return nil
	})
	// From the innermost to the outermost; what is not empty stays.
	for i := len(names) - 1; i >= 0; i-- {
		for _, sub := range []string{manifests, tags, blobs, referrers, known, uploads} {
			os.Remove(s.path(names[i], sub))
		}
		os.Remove(s.path(names[i]))
	}
	return given, errors.Join(append(errs, err)...)
}

// expireBlobs gives up the claims that no manifest justifies.
func (s *Store) expireBlobs(name string, before time.Time) ([]digest.Digest, error) {
	claimed, err := s.digests(name, blobs)
	if err != nil {
		return nil, err
	}
	var old []digest.Digest
	for _, d := range claimed {
		if expired(s.path(name, blobs, d.String()), before) {
			old = append(old, d)
		}
	}
	if len(old) == 0 {
		return nil, nil
	}
	all, err := s.digests(name, manifests)
	if err != nil {
		return nil, err
	}
	needed := map[digest.Digest]bool{}
	for _, d := range all {
		m, err := s.Manifest(name, d)
		if err != nil {
			return nil, err // without knowing all that is needed, nothing may go
		}
		for _, n := range m.Needs {
			needed[n] = true
		}
	}
	var given []digest.Digest
	for _, d := range old {
		if needed[d] {
			continue
		}
		if err := s.RemoveBlob(name, d); err != nil {
			return given, err
		}
		given = append(given, d)
	}
	return given, nil
}

func (s *Store) expireUploads(name string, before time.Time) error {
	all, err := readNames(s.path(name, uploads))
	if err != nil {
		return err
	}
	for _, id := range all {
		dir := s.path(name, uploads, id)
		if !expired(filepath.Join(dir, dataFile), before) {
			if expired(dir, before) { // its maker died before there was a file, or its remover between the two
				if _, err := os.Lstat(filepath.Join(dir, dataFile)); errors.Is(err, fs.ErrNotExist) {
					os.RemoveAll(dir)
				}
			}
			continue
		}
		u, err := s.OpenUpload(name, id)
		if err != nil {
			continue // somebody goes on with it
		}
		if err := u.Remove(); err != nil {
			return err
		}
	}
	return nil
}

// expireFiles removes what writers left that died, and links of referrers that have gone.
func (s *Store) expireFiles(name string, before time.Time) error {
	for _, sub := range []string{manifests, tags, blobs, known} {
		all, err := readNames(s.path(name, sub))
		if err != nil {
			return err
		}
		for _, e := range all {
			whole := strings.HasSuffix(e, suffix) || sub == blobs && content.Check(digest.Digest(e)) == nil
			if path := s.path(name, sub, e); !whole && expired(path, before) {
				os.Remove(path)
			}
		}
	}
	subjects, err := readNames(s.path(name, referrers))
	if err != nil {
		return err
	}
	for _, subject := range subjects {
		links, err := readNames(s.path(name, referrers, subject))
		if err != nil {
			return err
		}
		for _, e := range links {
			path := s.path(name, referrers, subject, e)
			if _, err := os.Lstat(s.path(name, manifests, e+suffix)); errors.Is(err, fs.ErrNotExist) && expired(path, before) {
				os.Remove(path)
			}
		}
		os.Remove(s.path(name, referrers, subject))
	}
	return nil
}
