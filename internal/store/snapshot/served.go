package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/base/lock"
	"brig/internal/kernel/mount"

	"golang.org/x/sys/unix"
)

// Layers that are read from their registry as they are needed (package lazy) are mounted once for each container, and only until it has them: the kernel keeps what
// its overlay uses.
//
//	lazy/ID/lock    held by who serves them, to the end
//	lazy/ID/images  a FUSE file system with one EROFS image a layer
//	lazy/ID/N       where image N is mounted

// Served is a folder of layers that a process serves.
type Served struct {
	dir  string
	lock *lock.Lock
}

// Serve makes a folder below the state folder. It ends with Close; what a process leaves that dies before, SweepServed takes away.
func (s *Store) Serve() (*Served, error) {
	if s.state == "" {
		return nil, api.Errorf(api.Unsupported, "there is no state folder to mount layers in")
	}
	v := &Served{dir: filepath.Join(s.state, "lazy", id.New())}
	if err := os.MkdirAll(v.Images(), 0o700); err != nil {
		return nil, err
	}
	var err error
	v.lock, err = lock.Take(filepath.Join(v.dir, "lock"))
	return v, err
}

// Images is where the FUSE file system belongs.
func (v *Served) Images() string { return filepath.Join(v.dir, "images") }

// Attach mounts one of the images, and returns where.
func (v *Served) Attach(name string) (string, error) {
	at := filepath.Join(v.dir, name)
	if err := os.Mkdir(at, 0o700); err != nil {
		return "", err
	}
	fd, err := mount.New("erofs", filepath.Join(v.Images(), name), nil, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	place, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: at, Err: err}
	}
	defer unix.Close(place)
	return at, mount.Attach(fd, place)
}

// Detach takes the mounts out of sight. It may be called again.
func (v *Served) Detach() error { return detachServed(v.dir) }

// Close takes the mounts out of sight, where that has not been done, and the folder away.
func (v *Served) Close() error {
	err := removeServed(v.dir)
	v.lock.Release()
	return err
}

func detachServed(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, holder := range [...]bool{false, true} { // the images before the file system that they are in
		for _, e := range entries {
			at := filepath.Join(dir, e.Name())
			if e.Name() == "lock" || (e.Name() == "images") != holder {
				continue
			}
			if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
				errs = append(errs, &fs.PathError{Op: "umount", Path: at, Err: err})
			} else if err := unix.Rmdir(at); err != nil {
				errs = append(errs, &fs.PathError{Op: "rmdir", Path: at, Err: err})
			}
		}
	}
	return errors.Join(errs...)
}

func removeServed(dir string) error {
	if err := detachServed(dir); err != nil {
		return err
	}
	os.Remove(filepath.Join(dir, "lock"))
	return os.Remove(dir)
}

// WaitServed waits until no process serves layers any more, as long as limit. Their containers have ended.
func (s *Store) WaitServed(limit time.Duration) {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		names, _ := readNames(filepath.Join(s.state, "lazy"))
		if !slices.ContainsFunc(names, func(name string) bool { return lock.Held(filepath.Join(s.state, "lazy", name, "lock")) }) {
			return
		}
	}
}

// SweepServed takes away what processes left that died while they had layers mounted. It is housekeeping, so a failure is left to the next.
func (s *Store) SweepServed() {
	names, _ := readNames(filepath.Join(s.state, "lazy"))
	for _, name := range names {
		dir := filepath.Join(s.state, "lazy", name)
		fi, err := os.Lstat(dir)
		if err != nil || time.Since(fi.ModTime()) < time.Minute && unix.Access(filepath.Join(dir, "lock"), unix.F_OK) != nil {
			continue // it is being made
		}
		l, err := lock.Try(filepath.Join(dir, "lock"))
		if err != nil {
			continue
		}
		_ = removeServed(dir)
		l.Release()
	}
}
