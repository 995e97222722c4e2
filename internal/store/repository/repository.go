// Package repository keeps the records of the registry that Brig serves: which manifests, tags and blobs each repository has. The bytes
// are in the content store; here lies, below --root/registry, who may be given them and what keeps them from the garbage.
//
//	NAME/…/_manifest/DIGEST.json    Manifest: a manifest or an index that was pushed, or fetched from a mirrored registry
//	NAME/…/_tag/TAG.json            what a tag points to
//	NAME/…/_blob/DIGEST             empty: the repository has this blob, as soon as the content store has it too
//	NAME/…/_referrer/SUBJECT/DIGEST empty: the manifest DIGEST names SUBJECT as its subject, as soon as there is such a manifest
//	NAME/…/_known/DIGEST.json       descriptor of a blob that a mirrored manifest names, and that is fetched when it is asked for
//	NAME/…/_upload/ID/              a blob on its way in: data, and lock, held by who writes
//
// A folder a component of the name: no component starts with an underscore, so the records of a/b and a repository a/b/c do not meet.
//
// The folders are the table, as in package meta: any number of processes change them at a time. A record changes by rename and is durable
// before the call returns. What several records say together is written so that a process may die between any two: the link of a
// referrer before its manifest, the manifest before its tags, a blob's mark before the blob. What leads nowhere is not there.
//
// A blob's mark is made, and whatever names a blob is removed, under the lock of package garbage, whose sweep asks [Store.Blobs] what the
// registry needs.
package repository

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/store/content"

	"github.com/opencontainers/go-digest"
)

const (
	manifests = "_manifest"
	tags      = "_tag"
	blobs     = "_blob"
	referrers = "_referrer"
	known     = "_known"
	uploads   = "_upload"

	suffix = ".json"
	// maxRecord bounds a record, in bytes: a manifest's annotations, of 4 MiB at most, are in it.
	maxRecord = 16 << 20
	// maxName bounds a repository's name, in bytes: docker's 255, and the mirrored registry's host before it.
	maxName = 512
	maxPart = 255 // bytes of a file's name
)

// Store is the folder of the records. It has no state of its own.
type Store struct{ dir string }

// Open names the store below root, the folder of --root. It does no I/O; folders are made, 0700, by the first write.
func Open(root string) *Store { return &Store{filepath.Join(root, "registry")} }

// Names lists the repositories that have a manifest, in alphabetical order.
func (s *Store) Names() ([]string, error) {
	var all []string
	err := s.walk(func(name string) error {
		found, err := s.digests(name, manifests)
		if len(found) > 0 {
			all = append(all, name)
		}
		return err
	})
	slices.Sort(all)
	return all, err
}

// Exists reports whether the repository has a manifest or a blob.
func (s *Store) Exists(name string) bool {
	if check(name) != nil {
		return false
	}
	for _, sub := range []string{manifests, blobs} {
		if found, _ := s.digests(name, sub); len(found) > 0 {
			return true
		}
	}
	return false
}

// Blobs lists what the registry needs of the content store: the manifests and blobs of all repositories. It reads folders only. What is
// listed need not be there.
func (s *Store) Blobs() (map[digest.Digest]bool, error) {
	need := map[digest.Digest]bool{}
	err := s.walk(func(name string) error {
		for _, sub := range []string{manifests, blobs} {
			all, err := s.digests(name, sub)
			if err != nil {
				return err
			}
			for _, d := range all {
				need[d] = true
			}
		}
		return nil
	})
	return need, err
}

// walk calls f with the name of every folder that has records.
func (s *Store) walk(f func(name string) error) error {
	return filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile, or nothing was ever pushed
		}
		if err != nil {
			return err
		}
		if !e.IsDir() || path == s.dir {
			return nil
		}
		if !strings.HasPrefix(e.Name(), "_") {
			name, err := filepath.Rel(s.dir, path)
			if err != nil {
				return err
			}
			return f(name)
		}
		return fs.SkipDir
	})
}

// digests lists the digests that the files of a folder are named by.
func (s *Store) digests(name string, sub ...string) ([]digest.Digest, error) {
	entries, err := readNames(s.path(name, sub...))
	if err != nil {
		return nil, err
	}
	var all []digest.Digest
	for _, e := range entries {
		if d := digest.Digest(strings.TrimSuffix(e, suffix)); content.Check(d) == nil {
			all = append(all, d)
		}
	}
	return all, nil
}

// path is below a repository's folder. The name has been checked.
func (s *Store) path(name string, sub ...string) string {
	return filepath.Join(append([]string{s.dir, filepath.FromSlash(name)}, sub...)...)
}

// check refuses a name that no folder may be made of. The grammar of names is the door's: here it matters that no component leads
// elsewhere or meets the records.
func check(name string) error {
	ok := name != "" && len(name) <= maxName
	for part := range strings.SplitSeq(name, "/") {
		ok = ok && part != "" && len(part) <= maxPart && alphanumeric(part[0])
		for i := 0; ok && i < len(part); i++ {
			ok = alphanumeric(part[i]) || strings.IndexByte("._-:[]", part[i]) >= 0
		}
	}
	if !ok {
		return api.Errorf(api.InvalidArgument, "repository %q: not a name that can be kept", name)
	}
	return nil
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// put writes a record durably, making its folder where that is missing.
func (s *Store) put(v any, name string, sub ...string) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxRecord {
		return api.Errorf(api.InvalidArgument, "repository %s: a record of %d bytes, more than the %d that are allowed", name, len(b), maxRecord)
	}
	path := s.path(name, sub...)
	return s.within(filepath.Dir(path), func() error { return atomicfile.Write(path, b, 0o600, atomicfile.Durable) })
}

// get reads a record. A missing one is fs.ErrNotExist, a damaged one api.Corrupt.
func (s *Store) get(v any, name string, sub ...string) error {
	path := s.path(name, sub...)
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Size() > maxRecord {
		return api.Errorf(api.Corrupt, "%s: longer than the %d bytes that a record may have", path, maxRecord)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return &api.Error{Kind: api.Corrupt, Msg: path + ": not a record; remove the file and push again", Err: err}
	}
	return nil
}

// mark makes an empty file durably; one that is there gets a new time.
func (s *Store) mark(name string, sub ...string) error {
	path := s.path(name, sub...)
	return s.within(filepath.Dir(path), func() error { return atomicfile.Write(path, nil, 0o600, atomicfile.Durable) })
}

// within does what needs the folder dir, making it, and its parents, durably where it is missing. Another process may be removing empty
// folders, so it is tried again.
func (s *Store) within(dir string, f func() error) error {
	err := f()
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < 5; try++ {
		if err = makeDirs(dir); err == nil {
			err = f()
		}
	}
	return err
}

// makeDirs makes a folder and its parents, 0700, and their names durable.
func makeDirs(dir string) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := makeDirs(filepath.Dir(dir)); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case err != nil:
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// remove deletes a file durably; fs.ErrNotExist says that it was not there.
func (s *Store) remove(name string, sub ...string) error {
	path := s.path(name, sub...)
	if err := os.Remove(path); err != nil {
		return err
	}
	err := atomicfile.SyncDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its folder has been removed too
	}
	return err
}

// readNames lists a folder; one that is not there is empty. A file on its way in has another ending than a record's, and is no digest.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
