package tree

import (
	"os"

	"golang.org/x/sys/unix"
)

// maxCounted is how deep Usage looks: each folder on the way down is an open file.
const maxCounted = 512

// Usage returns the bytes that a folder's content takes on the disk, a file with several names once. Folders nested deeper than 512
// are not looked into. The folder may change meanwhile; then the sum is of some moment or other.
func Usage(path string) (int64, error) {
	f, err := open(unix.AT_FDCWD, path)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	c := counter{seen: map[uint64]bool{}}
	err = c.folder(f, 0)
	return c.total, err
}

type counter struct {
	total int64
	seen  map[uint64]bool // inodes with several names that were counted
}

// folder adds up an open folder, which it closes.
func (c *counter) folder(f *os.File, depth int) error {
	defer f.Close()
	for {
		names, err := f.Readdirnames(batch)
		for _, name := range names {
			if err := c.entry(int(f.Fd()), name, depth); err != nil {
				return err
			}
		}
		if err != nil {
			return eof(err)
		}
	}
}

func (c *counter) entry(dir int, name string, depth int) error {
	var st unix.Stat_t
	if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return nil //nolint:nilerr // removed meanwhile
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !isDir && st.Nlink > 1 {
		if c.seen[st.Ino] {
			return nil
		}
		c.seen[st.Ino] = true
	}
	const block = 512 // bytes in a unit of st_blocks, stat(2)
	c.total += st.Blocks * block
	if !isDir || depth == maxCounted {
		return nil
	}
	f, err := open(dir, name)
	switch err {
	case nil:
		return c.folder(f, depth+1)
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return nil // replaced meanwhile
	}
	return &os.PathError{Op: "open", Path: name, Err: err}
}
