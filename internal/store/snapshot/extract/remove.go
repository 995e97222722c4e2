package extract

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxHeld is how many folders a removal holds open at a time.
const maxHeld = 64

// RemoveAt removes the folder or file base of the folder dir with all that is in it. Nobody else may change it meanwhile. Other than
// os.RemoveAll it copes with any depth: what lies deeper than it holds folders open is moved up first.
func RemoveAt(dir int, base string) error {
	err := unix.Unlinkat(dir, base, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR {
		return err
	}
	if err := unix.Unlinkat(dir, base, unix.AT_REMOVEDIR); err == nil {
		return nil
	}
	top, err := openToRemove(dir, base)
	if err != nil {
		return err
	}
	defer top.Close()
	r := remover{top: int(top.Fd())}
	if err := r.empty(top, 0); err != nil {
		return err
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}

// Remove is RemoveAt for a path of the store's own.
func Remove(path string) error {
	if err := RemoveAt(unix.AT_FDCWD, path); err != nil {
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}

// remover empties one folder.
type remover struct {
	top   int // the folder
	moved int // folders moved up into it
}

// empty removes what is in an open folder, depth folders below the top.
func (r *remover) empty(f *os.File, depth int) error {
	for {
		// The folder is listed until nothing is there: what was moved up into the top comes in a later turn.
		names, err := f.Readdirnames(-1)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			if err := r.remove(f, name, depth); err != nil {
				return err
			}
		}
		if _, err := f.Seek(0, 0); err != nil {
			return err
		}
	}
}

func (r *remover) remove(parent *os.File, name string, depth int) error {
	dir := int(parent.Fd())
	err := unix.Unlinkat(dir, name, 0)
	if err != unix.EISDIR {
		return err
	}
	if unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) == nil {
		return nil
	}
	if depth+1 >= maxHeld {
		for {
			r.moved++
			err := unix.Renameat2(dir, name, r.top, ".moved"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
			if err != unix.EEXIST {
				return err
			}
		}
	}
	f, err := openToRemove(dir, name)
	if err != nil {
		return err
	}
	err = r.empty(f, depth+1)
	f.Close()
	if err != nil {
		return err
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

func openToRemove(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
