package meta

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/base/lock"
)

const (
	nameDir = "name"
	// maxName is NAME_MAX: a name is a file's name, in bytes.
	maxName = 255
)

// CheckName refuses with api.InvalidArgument what docker would not take as a container's name either.
func CheckName(name string) error {
	ok := len(name) >= 2 && len(name) <= maxName
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || i > 0 && (c == '_' || c == '.' || c == '-')
	}
	if !ok {
		return api.Errorf(api.InvalidArgument, "invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-]+ are allowed, at most %d characters", name, maxName)
	}
	return nil
}

// ReserveName takes the name for the container cid, whose folder must exist: a name whose container has no folder is free for all.
// That another container holds it is api.Conflict; that cid holds it already is no error.
func (s *Store) ReserveName(name, cid string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if !id.Valid(cid) {
		return api.Errorf(api.InvalidArgument, "name %s: %q is not a container ID", name, cid)
	}
	path := s.namePath(name)
	for {
		err := os.Symlink(filepath.Join("..", containerDir, cid), path)
		if errors.Is(err, fs.ErrNotExist) {
			if err = atomicfile.MakeDir(filepath.Dir(path)); err == nil {
				continue
			}
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		holder, _, err := s.holder(name)
		if err != nil {
			return err
		}
		if holder == cid {
			return nil
		}
		if holder != "" {
			return api.Errorf(api.Conflict, "container name %q is already in use by container %s; remove or rename that container to reuse the name", name, holder)
		}
		if err := s.release(name, "", ""); err != nil {
			return err
		}
	}
}

// ReleaseName frees the name if cid holds it. It may be called again.
func (s *Store) ReleaseName(name, cid string) error { return s.releaseName(name, cid, "") }

// releaseName is ReleaseName; the link is moved to trash where that can be.
func (s *Store) releaseName(name, cid, trash string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if target, err := os.Readlink(s.namePath(name)); err != nil || filepath.Base(target) != cid {
		return nil //nolint:nilerr // free, or another's
	}
	return s.release(name, cid, trash)
}

// release unlinks the name if it still belongs to cid, or to nobody, once the lock is ours.
func (s *Store) release(name, cid, trash string) error {
	l, err := lock.Take(filepath.Join(s.root, nameDir, ".lock"))
	if err != nil {
		return err
	}
	defer l.Release()
	// A link that is there stays until the lock's holder unlinks it. One that is not there may come at any moment: hands off.
	holder, there, err := s.holder(name)
	if err != nil || !there || holder != "" && holder != cid {
		return err
	}
	if trash != "" && os.Rename(s.namePath(name), trash) == nil {
		return nil
	}
	return os.Remove(s.namePath(name))
}

// holder is the ID of the container that has the name, or "" when none has: there is no link, or it leads to no folder.
func (s *Store) holder(name string) (cid string, there bool, err error) {
	target, err := os.Readlink(s.namePath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	cid = filepath.Base(target)
	if !id.Valid(cid) {
		return "", true, nil
	}
	_, err = os.Lstat(s.Dir(cid))
	if errors.Is(err, fs.ErrNotExist) {
		return "", true, nil
	}
	return cid, true, err
}

// releaseAll frees every name of a container whose record does not tell it any more.
func (s *Store) releaseAll(cid string) error {
	names, err := readNames(filepath.Join(s.root, nameDir))
	if err != nil {
		return err
	}
	for _, name := range names {
		if CheckName(name) == nil {
			if err := s.ReleaseName(name, cid); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) namePath(name string) string { return filepath.Join(s.root, nameDir, name) }
