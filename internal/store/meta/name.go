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
		if holder != "" && !s.formerly(name, holder) {
			return inUse(name, holder)
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
	if !s.holds(name, cid) {
		return nil // free, or another's
	}
	return s.release(name, cid, trash)
}

// holds reports whether the link of a name leads to cid.
func (s *Store) holds(name, cid string) bool {
	target, err := os.Readlink(s.namePath(name))
	return err == nil && filepath.Base(target) == cid
}

// stale reports, to who holds the names' lock, whether cid, to which the name's link leads, has another name by its record: a process was killed while it
// renamed it.
func (s *Store) stale(name, cid string) bool {
	c, err := s.record(cid)
	return err == nil && c.Name != name
}

// formerly is stale for who does not hold the lock. Who renames a container holds it meanwhile.
func (s *Store) formerly(name, cid string) bool {
	l, err := lock.Shared(s.namesLock())
	if err != nil {
		return false
	}
	defer l.Release()
	return s.stale(name, cid)
}

func (s *Store) namesLock() string { return filepath.Join(s.root, nameDir, ".lock") }

// Rename gives a container, whose record the caller has read under its lock, another name. The record is what counts: a link that does not agree with it
// is nobody's, and the next who wants its name takes it over. The name being in use is api.Conflict.
func (s *Store) Rename(c api.Container, to string, sync atomicfile.Sync) error {
	if err := CheckName(to); err != nil {
		return err
	}
	from := c.Name
	l, err := lock.Take(s.namesLock())
	if err != nil {
		return err
	}
	defer l.Release()
	holder, there, err := s.holder(to)
	if err != nil {
		return err
	}
	switch {
	case !there:
	case holder != "" && holder != c.ID && !s.stale(to, holder):
		return inUse(to, holder)
	default:
		if err := os.Remove(s.namePath(to)); err != nil {
			return err
		}
	}
	err = os.Symlink(filepath.Join("..", containerDir, c.ID), s.namePath(to))
	if errors.Is(err, fs.ErrExist) { // names are taken without the lock
		holder, _, _ := s.holder(to)
		return inUse(to, holder)
	}
	if err != nil {
		return err
	}
	if sync == atomicfile.Durable { // before the record: it must not name what is not there after a power cut
		if err := atomicfile.SyncDir(filepath.Join(s.root, nameDir)); err != nil {
			return errors.Join(err, os.Remove(s.namePath(to)))
		}
	}
	c.Name = to
	if c.Spec.Name != "" {
		c.Spec.Name = to
	}
	if err := s.PutContainer(c, sync); err != nil {
		return errors.Join(err, os.Remove(s.namePath(to)))
	}
	if CheckName(from) == nil && s.holds(from, c.ID) {
		return os.Remove(s.namePath(from))
	}
	return nil
}

func inUse(name, holder string) error {
	return api.Errorf(api.Conflict, "container name %q is already in use by container %s; remove or rename that container to reuse the name", name, holder)
}

// release unlinks the name if it still belongs to cid, or to nobody, once the lock is ours.
func (s *Store) release(name, cid, trash string) error {
	l, err := lock.Take(s.namesLock())
	if err != nil {
		return err
	}
	defer l.Release()
	// A link that is there stays until the lock's holder unlinks it. One that is not there may come at any moment: hands off.
	holder, there, err := s.holder(name)
	if err != nil || !there || holder != "" && holder != cid && !s.stale(name, holder) {
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
