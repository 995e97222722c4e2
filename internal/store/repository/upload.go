package repository

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/base/lock"
)

const (
	dataFile = "data"
	lockFile = "lock"
	// maxUploads bounds the unfinished uploads of a repository. A client has a handful at a time; what clients gave up expires.
	maxUploads = 1000
)

// Upload is a blob on its way in, in several requests. It is locked: one writes at a time, whatever the process.
type Upload struct {
	lock *lock.Lock
	file *os.File
	dir  string
	size int64
}

// StartUpload makes an upload and returns its ID, which nobody can guess. It survives its process; the digest at its end says whether it
// also survived a power cut.
func (s *Store) StartUpload(name string) (string, error) {
	if err := check(name); err != nil {
		return "", err
	}
	if all, err := readNames(s.path(name, uploads)); err != nil || len(all) >= maxUploads {
		return "", errors.Join(err, api.Errorf(api.Exhausted, "repository %s: %d uploads are under way; end some, or wait until they expire", name, len(all)))
	}
	id := id.New()
	dir := s.path(name, uploads, id)
	err := s.within(filepath.Dir(dir), func() error { return os.Mkdir(dir, 0o700) })
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(filepath.Join(dir, dataFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		os.RemoveAll(dir)
		return "", err
	}
	return id, f.Close()
}

// UploadSize returns how many bytes have come.
func (s *Store) UploadSize(name, upload string) (int64, error) {
	dir, err := s.uploadDir(name, upload)
	if err != nil {
		return 0, err
	}
	fi, err := os.Lstat(filepath.Join(dir, dataFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, noUpload(name, upload)
	}
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// OpenUpload locks an upload to go on with it. One that another request writes is api.Unavailable.
func (s *Store) OpenUpload(name, upload string) (*Upload, error) {
	dir, err := s.uploadDir(name, upload)
	if err != nil {
		return nil, err
	}
	l, err := lock.Try(filepath.Join(dir, lockFile))
	switch {
	case errors.Is(err, lock.ErrHeld):
		return nil, api.Errorf(api.Unavailable, "repository %s: another request writes upload %s", name, upload)
	case errors.Is(err, fs.ErrNotExist):
		return nil, noUpload(name, upload)
	case err != nil:
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, dataFile), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		l.Release()
		if errors.Is(err, fs.ErrNotExist) {
			err = noUpload(name, upload)
		}
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		l.Release()
		return nil, err
	}
	return &Upload{lock: l, file: f, dir: dir, size: fi.Size()}, nil
}

// Size is how many bytes have come.
func (u *Upload) Size() int64 { return u.size }

// Write appends. A full disk is api.Exhausted.
func (u *Upload) Write(p []byte) (int, error) {
	n, err := u.file.Write(p)
	u.size += int64(n)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = api.Errorf(api.Exhausted, "no space left for an upload after %d bytes: %w", u.size, err)
	}
	return n, err
}

// Truncate takes back what came after the first n bytes.
func (u *Upload) Truncate(n int64) error {
	err := u.file.Truncate(n)
	if err == nil {
		u.size = n
	}
	return err
}

// Reader reads all that came, from the beginning.
func (u *Upload) Reader() io.Reader { return io.NewSectionReader(u.file, 0, u.size) }

// Close unlocks the upload, to be gone on with by another request.
func (u *Upload) Close() error { return errors.Join(u.file.Close(), u.lock.Release()) }

// Remove ends the upload and forgets what came.
func (u *Upload) Remove() error {
	return errors.Join(u.file.Close(), lock.RemoveHeld(u.dir, lockFile), u.lock.Release())
}

// uploadDir is the folder of an upload. An ID that cannot be one is that of no upload.
func (s *Store) uploadDir(name, upload string) (string, error) {
	if err := check(name); err != nil {
		return "", err
	}
	if !id.Valid(upload) {
		return "", noUpload(name, upload)
	}
	return s.path(name, uploads, upload), nil
}

// expired reports whether a file was last written before a moment. One that is gone is not.
func expired(path string, before time.Time) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.ModTime().Before(before)
}

func noUpload(name, upload string) error {
	return api.Errorf(api.NotFound, "repository %s: no upload %.80q", name, upload)
}
