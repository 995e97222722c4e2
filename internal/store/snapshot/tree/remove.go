// Package tree removes and measures folders that a container or an archive has filled.
//
// Such a folder may hold anything: millions of names, nesting far deeper than a path can say or than files can be open. Everything is
// done by folder descriptors, and no link is followed.
package tree

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// maxHeld is how many folders a removal holds open at a time.
	maxHeld = 64
	// batch is how many names are read at a time.
	batch = 1024
)

// Remove removes a folder or file with all that is in it. That it is not there is no error. Nobody else may change it meanwhile.
func Remove(path string) error {
	if err := RemoveAt(unix.AT_FDCWD, path); err != nil {
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}

// RemoveAt is Remove for the name base in the folder dir.
func RemoveAt(dir int, base string) error {
	err := removeOne(dir, base)
	if err != unix.ENOTEMPTY {
		return err
	}
	top, err := open(dir, base)
	if err != nil {
		return err
	}
	defer top.Close()
	r := remover{top: int(top.Fd())}
	if err := r.empty(top, 1); err != nil {
		return err
	}
	return removeOne(dir, base)
}

// removeOne removes a file or an empty folder. ENOTEMPTY is the only error that leaves hope.
func removeOne(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == unix.EISDIR {
		if err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err == unix.EEXIST {
			err = unix.ENOTEMPTY // POSIX lets a file system choose
		}
	}
	if err == unix.ENOENT {
		return nil
	}
	return err
}

// remover empties one folder.
type remover struct {
	top   int // the folder
	moved int // how many folders from the depth were moved up into it
}

// empty removes what is in an open folder, the held-th that is open. It lists the folder again and again until nothing is there,
// which is also how what was moved up into the top gets its turn.
func (r *remover) empty(f *os.File, held int) error {
	for removed := 0; ; {
		names, err := f.Readdirnames(batch)
		for _, name := range names {
			if err := r.remove(int(f.Fd()), name, held); err != nil {
				return err
			}
		}
		removed += len(names)
		if err == nil {
			continue
		}
		if err != io.EOF || removed == 0 {
			return eof(err)
		}
		removed = 0
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// remove removes one name of an open folder, or moves it up where it lies too deep.
func (r *remover) remove(dir int, name string, held int) error {
	err := removeOne(dir, name)
	if err != unix.ENOTEMPTY {
		return err
	}
	if held == maxHeld {
		for {
			r.moved++
			err := unix.Renameat2(dir, name, r.top, ".moved"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
			if err != unix.EEXIST {
				return err
			}
		}
	}
	f, err := open(dir, name)
	if err != nil {
		return err
	}
	err = r.empty(f, held+1)
	f.Close()
	if err != nil {
		return err
	}
	return removeOne(dir, name)
}

func open(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// eof makes nothing of the end of a list.
func eof(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
