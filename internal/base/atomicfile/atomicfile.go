// Package atomicfile replaces small files whole: a reader sees the old bytes or the new, also after a power cut.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"brig/internal/base/weak"
)

var serial atomic.Uint64

// Sync says whether Write must survive a power cut.
type Sync bool

const (
	// Durable syncs the file before the rename and its folder after it.
	Durable Sync = true
	// Volatile is for records that are removed with the process that they describe.
	Volatile Sync = false
)

// Write replaces path by data with mode perm, whatever the umask. On error the old file stands and no temporary one is left.
func Write(path string, data []byte, perm os.FileMode, sync Sync) error {
	return write(path, data, perm, sync, os.Rename)
}

// WriteNew is Write where there is no file yet. Where there is one, or somebody else is quicker, the error is fs.ErrExist.
func WriteNew(path string, data []byte, perm os.FileMode, sync Sync) error {
	return write(path, data, perm, sync, func(from, to string) error {
		if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
		return nil
	})
}

func write(path string, data []byte, perm os.FileMode, sync Sync, rename func(from, to string) error) (err error) {
	tmp := path + ".tmp" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(serial.Add(1), 10)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Chmod(perm)
	}
	if err == nil && sync == Durable && !weak.Sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = rename(tmp, path); err != nil {
		return err
	}
	if sync == Durable {
		return SyncDir(filepath.Dir(path))
	}
	return nil
}

// MakeDir makes a folder that is ours alone, mode 0700, with the parents that it lacks, and makes the names of those it makes durable: what is synced in a folder is
// lost if the folder's own name is. A folder that is there already costs one call.
func MakeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err = MakeDir(filepath.Dir(dir)); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(dir))
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
