// Package lock is mutual exclusion between processes by flock(2) on a file: the kernel frees it when its holder dies.
package lock

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrHeld means that another process holds the lock.
var ErrHeld = errors.New("lock is held")

// Lock is a held lock.
type Lock struct{ f *os.File }

// Take waits for the lock at path, making the file (mode 0600) where it is missing.
func Take(path string) (*Lock, error) { return take(path, unix.LOCK_EX) }

// Try takes the lock at path, or returns ErrHeld at once.
func Try(path string) (*Lock, error) { return take(path, unix.LOCK_EX|unix.LOCK_NB) }

// Shared waits for a share in the lock: any number may hold one, while nobody holds the lock itself.
func Shared(path string) (*Lock, error) { return take(path, unix.LOCK_SH) }

// None is a lock of nothing, for a caller that turned out to need none.
func None() *Lock { return &Lock{} }

func take(path string, how int) (*Lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		for {
			err = unix.Flock(int(f.Fd()), how)
			if err != unix.EINTR {
				break
			}
		}
		if err != nil {
			f.Close()
			if err == unix.EWOULDBLOCK {
				return nil, ErrHeld
			}
			return nil, &os.PathError{Op: "flock", Path: path, Err: err}
		}
		// The file may have been removed, and made anew, while we waited: then we hold the lock of a file that nobody else sees.
		var here, there unix.Stat_t
		if unix.Fstat(int(f.Fd()), &here) == nil && unix.Stat(path, &there) == nil && here.Ino == there.Ino && here.Dev == there.Dev {
			return &Lock{f}, nil
		}
		f.Close()
	}
}

// Held reports whether some process holds the lock at path. A missing file is not held.
func Held(path string) bool {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK
}

// RemoveDir removes a folder with a lock file in it, which somebody who came too late may make anew while it is being emptied. It is for a folder whose name
// nobody takes again; else see [RemoveHeld].
func RemoveDir(dir string) error {
	err := os.RemoveAll(dir)
	for try := 0; errors.Is(err, unix.ENOTEMPTY) && try < 100; try++ {
		err = os.RemoveAll(dir)
	}
	return err
}

// RemoveHeld removes a folder whose lock, the file of that name in it, the caller holds: the lock goes last. Who makes the file anew as soon as it is gone
// has the folder, which then stays.
func RemoveHeld(dir, name string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, e := range entries {
		if e.Name() == name {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, name)
	if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "unlink", Path: path, Err: err}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOTEMPTY && err != unix.ENOENT {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// File is the open lock file, to be handed to a child that shall hold the lock too.
func (l *Lock) File() *os.File { return l.f }

// Release frees the lock.
func (l *Lock) Release() error {
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}
