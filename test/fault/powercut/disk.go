package powercut

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Write writes the tree into an empty folder of a file system that keeps devices and attributes.
func (t *Tree) Write(dir string) error {
	return t.write(rootIno, dir, map[uint64]string{})
}

func (t *Tree) write(ino uint64, path string, done map[uint64]string) error {
	n := t.nodes[ino]
	if first, again := done[ino]; again {
		if n.isDir() {
			return fmt.Errorf("%s: the folder is also %s", path, first)
		}
		return os.Link(first, path)
	}
	done[ino] = path
	if err := n.make(path, ino == rootIno); err != nil {
		return err
	}
	for name, kid := range n.kids {
		if err := t.write(kid, filepath.Join(path, name), done); err != nil {
			return err
		}
	}
	return n.attributes(path)
}

// make makes the inode, without attributes.
func (n *node) make(path string, exists bool) error {
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if exists {
			return nil
		}
		return os.Mkdir(path, 0o700)
	case unix.S_IFLNK:
		return os.Symlink(n.target, path)
	case unix.S_IFREG:
		return n.makeFile(path)
	}
	if err := unix.Mknod(path, n.Mode, int(n.Rdev)); err != nil {
		return &os.PathError{Op: "mknod", Path: path, Err: err}
	}
	return nil
}

func (n *node) makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for i, chunk := range n.data.chunks {
		if chunk == nil {
			continue
		}
		off := int64(i) * chunkSize
		if _, err := f.WriteAt(chunk[:min(chunkSize, n.data.size-off)], off); err != nil {
			return err
		}
	}
	return f.Truncate(n.data.size)
}

func (n *node) attributes(path string) error {
	if err := os.Lchown(path, int(n.UID), int(n.GID)); err != nil {
		return err
	}
	if n.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(path, n.Mode&0o7777); err != nil {
			return &os.PathError{Op: "chmod", Path: path, Err: err}
		}
	}
	for name, value := range n.xattrs {
		if err := unix.Lsetxattr(path, name, value, 0); err != nil {
			return &os.PathError{Op: "set " + name, Path: path, Err: err}
		}
	}
	var times [2]unix.Timespec
	for i, at := range []time.Time{n.Atime, n.Mtime} {
		times[i] = unix.NsecToTimespec(at.UnixNano())
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "set the times of", Path: path, Err: err}
	}
	return nil
}

// ReadTree reads a folder. What others remove meanwhile is left out.
func ReadTree(dir string) (*Tree, error) {
	t := &Tree{nodes: map[uint64]*node{}}
	r := reader{t, map[uint64]uint64{}, rootIno}
	_, err := r.read(dir)
	return t, err
}

type reader struct {
	t    *Tree
	seen map[uint64]uint64 // number there to number here
	next uint64
}

func (r *reader) read(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	if ino, again := r.seen[st.Ino]; again {
		return ino, nil
	}
	ino := r.next
	r.next++
	r.seen[st.Ino] = ino
	n := &node{Attr: Attr{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Rdev: uint32(st.Rdev), Atime: time.Unix(st.Atim.Unix()), Mtime: time.Unix(st.Mtim.Unix())}}
	r.t.nodes[ino] = n
	if err := n.readAttributes(path); err != nil {
		return 0, err
	}
	switch {
	case n.isFile():
		b, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		n.data.write(b, 0)
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return 0, err
		}
		n.target = target
	case n.isDir():
		n.kids = map[string]uint64{}
		entries, err := os.ReadDir(path)
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			kid, err := r.read(filepath.Join(path, e.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return 0, err
			}
			n.kids[e.Name()] = kid
		}
	}
	return ino, nil
}

func (n *node) readAttributes(path string) error {
	buf := make([]byte, 64<<10)
	size, err := unix.Llistxattr(path, buf)
	if err != nil {
		return &os.PathError{Op: "list the attributes of", Path: path, Err: err}
	}
	for name := range strings.SplitSeq(string(buf[:size]), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		size, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return &os.PathError{Op: "get " + name, Path: path, Err: err}
		}
		if n.xattrs == nil {
			n.xattrs = map[string][]byte{}
		}
		n.xattrs[name] = value[:size]
	}
	return nil
}
