package meta

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/base/jsonscan"
	"brig/internal/base/lock"
	"brig/internal/base/undo"

	"golang.org/x/sys/unix"
)

const (
	containerDir = "container"
	recordFile   = "record.json"
	// makingFile is a lock in containerDir that is shared by all who are making or removing a container: while nobody has it, a folder without a record is what
	// one has left who was killed.
	makingFile = ".making"
	// passing is set on the folder of a container whose record is not synced. A folder has its mode as soon as it has its name, so after a power cut that left half
	// a record the mode still tells that there is nothing to mourn.
	passing = os.ModeSticky
)

// CreateContainer makes the container's folder, takes its name and writes its record. The name being in use is api.Conflict. On
// error nothing is left; a process that is killed on the way leaves a container that is dead, for [Store.RemoveContainer].
func (s *Store) CreateContainer(c api.Container, sync atomicfile.Sync) error {
	if !id.Valid(c.ID) {
		return api.Errorf(api.InvalidArgument, "container: %q is not an ID", c.ID)
	}
	if err := CheckName(c.Name); err != nil {
		return err
	}
	dir := s.Dir(c.ID)
	making, err := lock.Shared(s.makingPath())
	if errors.Is(err, fs.ErrNotExist) {
		if err = atomicfile.MakeDir(filepath.Dir(dir)); err == nil { // also for one that need not last: the next may have to
			making, err = lock.Shared(s.makingPath())
		}
	}
	if err != nil {
		return err
	}
	defer making.Release()
	var u undo.Stack
	defer u.Run()
	mode := os.FileMode(0o700)
	if sync == atomicfile.Volatile {
		mode |= passing
	}
	err = os.Mkdir(dir, mode)
	if errors.Is(err, fs.ErrExist) {
		return api.Errorf(api.AlreadyExists, "container %s: already exists", c.ID)
	}
	if err != nil {
		return err
	}
	u.Add(func() { os.RemoveAll(dir) })
	if err := s.ReserveName(c.Name, c.ID); err != nil {
		return err
	}
	u.Add(func() { _ = s.ReleaseName(c.Name, c.ID) })
	if err := s.PutContainer(c, sync); err != nil {
		return err
	}
	if sync == atomicfile.Durable {
		for _, d := range []string{filepath.Dir(dir), filepath.Join(s.root, nameDir)} {
			if err := atomicfile.SyncDir(d); err != nil {
				return err
			}
		}
	}
	u.Release()
	return nil
}

// PutContainer writes the record, without state and link, in place of an earlier one. The container must exist: its name is taken by
// [Store.CreateContainer] and [Store.ReserveName] only.
func (s *Store) PutContainer(c api.Container, sync atomicfile.Sync) error {
	if !id.Valid(c.ID) {
		return api.Errorf(api.InvalidArgument, "container: %q is not an ID", c.ID)
	}
	c.State, c.Link = api.State{}, nil
	err := write(filepath.Join(s.Dir(c.ID), recordFile), c, sync)
	if errors.Is(err, fs.ErrNotExist) {
		return noContainer(c.ID)
	}
	return err
}

// Container returns the record of a container, by its name, else its ID, else a prefix of its ID that no other has. Its state is empty, but
// api.StatusDead for one without a record, of which only the ID is known. A prefix of several is api.InvalidArgument.
func (s *Store) Container(idOrNameOrPrefix string) (api.Container, error) {
	key := idOrNameOrPrefix
	if CheckName(key) == nil {
		if cid, err := os.Readlink(s.namePath(key)); err == nil {
			c, err := s.ContainerByID(filepath.Base(cid))
			// A link to a container of another name is one that it is getting, or had, or a kill has left: see Rename.
			if !errors.Is(err, api.NotFound) && (err != nil || c.Name == key || c.State.Status == api.StatusDead) {
				return c, err
			}
		}
	}
	if !id.Prefix(key) {
		return api.Container{}, noContainer(key)
	}
	if !id.Valid(key) {
		ids, err := s.ContainerIDs()
		if err != nil {
			return api.Container{}, err
		}
		found := ""
		for _, cid := range ids {
			if strings.HasPrefix(cid, key) {
				if found != "" {
					return api.Container{}, ambiguous("container ID", key, found, cid)
				}
				found = cid
			}
		}
		if found == "" {
			return api.Container{}, noContainer(key)
		}
		key = found
	}
	c, err := s.ContainerByID(key)
	if errors.Is(err, api.NotFound) {
		err = noContainer(idOrNameOrPrefix)
	}
	return c, err
}

// ContainerByID is Container of a whole ID.
func (s *Store) ContainerByID(cid string) (api.Container, error) {
	if !id.Valid(cid) {
		return api.Container{}, noContainer(cid)
	}
	c, err := s.record(cid)
	if !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	fi, err := os.Lstat(s.Dir(cid))
	if err != nil {
		return api.Container{}, noContainer(cid)
	}
	making, err := lock.Try(s.makingPath())
	if err != nil { // it may be just in the making
		return api.Container{}, noContainer(cid)
	}
	defer making.Release()
	if c, err := s.record(cid); !errors.Is(err, fs.ErrNotExist) { // and is made now
		return c, err
	}
	if !exists(s.Dir(cid)) {
		return api.Container{}, noContainer(cid)
	}
	return api.Container{ID: cid, Created: fi.ModTime(), State: api.State{Status: api.StatusDead}}, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (s *Store) makingPath() string { return filepath.Join(s.root, containerDir, makingFile) }

// record reads the record of a container; fs.ErrNotExist: it has none, or one that need not survive a power cut, and has not.
func (s *Store) record(cid string) (c api.Container, err error) {
	path := filepath.Join(s.Dir(cid), recordFile)
	if err := read(path, &c, readContainer); err != nil {
		if errors.Is(err, api.Corrupt) && s.Passing(cid) {
			err = fs.ErrNotExist
		}
		return api.Container{}, err
	}
	if c.ID != cid {
		return c, corrupt(path, c.ID, cid)
	}
	return c, nil
}

// Passing reports whether the container was made to go with its process: what a power cut leaves of it is to be removed.
func (s *Store) Passing(cid string) bool {
	fi, err := os.Lstat(s.Dir(cid))
	return err == nil && fi.Mode()&passing != 0
}

// ContainerIDs lists the containers, in the order of their IDs, dead ones and those in the making among them.
func (s *Store) ContainerIDs() ([]string, error) {
	names, err := readNames(filepath.Join(s.root, containerDir))
	if err != nil {
		return nil, err
	}
	ids := slices.DeleteFunc(names, func(n string) bool { return !id.Valid(n) })
	slices.Sort(ids)
	return ids, nil
}

// Still waits until no container is being made or removed, and keeps others from beginning that until it is released: for who must know
// all there are. Records are there then or belong to what a dead process left.
func (s *Store) Still() (*lock.Lock, error) {
	l, err := lock.Take(s.makingPath())
	if errors.Is(err, fs.ErrNotExist) {
		if err = atomicfile.MakeDir(filepath.Join(s.root, containerDir)); err == nil {
			l, err = lock.Take(s.makingPath())
		}
	}
	return l, err
}

// Record returns the record of the container of a whole ID. One that has none is not ok, and is no error.
func (s *Store) Record(cid string) (c api.Container, ok bool, err error) {
	if !id.Valid(cid) {
		return c, false, noContainer(cid)
	}
	c, err = s.record(cid)
	if errors.Is(err, fs.ErrNotExist) {
		return c, false, nil
	}
	return c, err == nil, err
}

var onlyName = [...]string{"name"}

func readNameOnly(s *jsonscan.Scanner, v *string) {
	for more := s.Object(); more; more = s.More() {
		if s.Field(onlyName[:]) == 0 {
			jsonscan.String(s, v)
		} else {
			s.Skip()
		}
	}
}

// RemoveContainer frees the name of the container and removes its record and folder. It may be called again, and for a container
// that is dead or not there: then it removes what is left.
func (s *Store) RemoveContainer(cid string) error {
	if !id.Valid(cid) {
		return api.Errorf(api.InvalidArgument, "container: %q is not an ID", cid)
	}
	dir := s.Dir(cid)
	if making, err := lock.Shared(s.makingPath()); err == nil { // else there is no folder, or the disk is full: it is removed all the same
		defer making.Release()
	}
	record := filepath.Join(dir, recordFile)
	var name string // all that is needed: a record that is wrong elsewhere can be removed like any other
	if err := read(record, &name, readNameOnly); err == nil && CheckName(name) == nil {
		if err := s.ReleaseName(name, cid); err != nil {
			return err
		}
	} else if err := s.releaseAll(cid); err != nil {
		return err
	}
	// The record goes first: what a kill leaves from here on is dead, not a container without its files.
	if err := unix.Unlink(record); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "unlink", Path: record, Err: err}
	}
	if unix.Rmdir(dir) == nil {
		return nil
	}
	return lock.RemoveDir(dir)
}

// Discard makes a container gone by moving its folder, and the link that is its name, to trash, a path on the same file system: to unlink may mean to wait
// for a disk that discards blocks. What is left is to remove trash.
func (s *Store) Discard(cid, name, trash string) error {
	if !id.Valid(cid) {
		return api.Errorf(api.InvalidArgument, "container: %q is not an ID", cid)
	}
	if err := os.Rename(s.Dir(cid), trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if CheckName(name) != nil || !s.holds(name, cid) { // damaged, or it was renamed since the caller read its record
		return s.releaseAll(cid)
	}
	return s.releaseName(name, cid, filepath.Join(trash, nameDir))
}

// Dir is the folder of a container: for its configuration, its log and its lock.
func (s *Store) Dir(cid string) string { return filepath.Join(s.root, containerDir, cid) }

func noContainer(name string) error { return api.Errorf(api.NotFound, "no such container: %s", name) }
