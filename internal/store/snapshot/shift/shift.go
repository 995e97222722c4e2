// Package shift makes one tree of the layers of an image, whose files have other owners: for containers with a user namespace within the one that a normal user's Brig is in, since
// the kernel maps the owners of files on a mount for root of the machine only.
//
// A file has its content again, or, with [Layer.Refer], refers to the layer's own file: it has the length and no content, and the attributes of overlayfs that say
// where that is, below a layer of data only (Documentation/filesystems/overlayfs.rst, "Data-only lower layers"). In a user namespace the kernel follows them from the lowest
// layer alone, so the layers become one. They stay as they are, whoever reads by way of the tree reads their pages, and of each file there is an inode more.
//
// Everything is done by folder descriptors and single names. The trees are the store's own, in which nobody else writes meanwhile.
package shift

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/store/overlay"
	"brig/internal/store/owners"
)

// maxDepth bounds how deep folders may lie in one another, as package extract does.
const maxDepth = 512

// Layer is a layer, with overlayfs's marks of what it removes from those below it.
type Layer struct {
	FD int // its folder
	// Refer is where it lies below the layer of data, an absolute path; empty: content is copied.
	Refer string
}

// Tree fills the empty folder to, and sets its own attributes, with what overlayfs would show of the layers, top first. owner says whose a file is to be.
func Tree(ctx context.Context, layers []Layer, to int, owner func(uid, gid uint32) (uint32, uint32)) error {
	s := &shifter{ctx: ctx, layers: layers, owner: owner, root: to, links: map[inode]string{}}
	var from []source
	for i, l := range layers {
		from = append(from, source{l.FD, i})
		if isOpaque(l.FD) {
			break
		}
	}
	return s.folder(from, to, ".", 0)
}

type shifter struct {
	ctx    context.Context
	layers []Layer
	owner  func(uid, gid uint32) (uint32, uint32)
	root   int
	links  map[inode]string // the first name of a file with several
}

// source is a folder as one of the layers has it.
type source struct{ fd, layer int }

type inode struct {
	layer int
	ino   uint64
}

// folder fills one folder, which several layers may have, top first.
func (s *shifter) folder(from []source, to int, path string, depth int) error {
	if depth > maxDepth {
		return api.Errorf(api.Unsupported, "%q: folders lie more than %d deep", path, maxDepth)
	}
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	var st unix.Stat_t
	if err := unix.Fstat(from[0].fd, &st); err != nil {
		return &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	seen := map[string]bool{}
	for i, src := range from {
		names, err := list(src.fd, path)
		if err != nil {
			return err
		}
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			if err := s.entry(from[i:], to, name, join(path, name), depth); err != nil {
				return err
			}
		}
	}
	if err := s.attributes(from[0].fd, to, &st); err != nil {
		return &os.PathError{Op: "attributes of", Path: path, Err: err}
	}
	return nil
}

func list(dir int, path string) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	return f.Readdirnames(-1)
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// entry makes what the first of some folders, one above the other, has under a name.
func (s *shifter) entry(from []source, to int, name, path string, depth int) error {
	src := from[0]
	var st unix.Stat_t
	err := unix.Fstatat(src.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch kind := st.Mode & unix.S_IFMT; {
	case err != nil:
	case kind == unix.S_IFCHR && st.Rdev == 0: // it is removed
		return nil
	case kind == unix.S_IFDIR:
		return s.subfolder(from, to, name, path, depth)
	case st.Nlink > 1:
		at := inode{src.layer, st.Ino}
		if first, ok := s.links[at]; ok {
			if err := unix.Linkat(s.root, first, to, name, 0); err != nil {
				return &os.LinkError{Op: "link", Old: first, New: path, Err: err}
			}
			return nil
		}
		s.links[at] = path
	}
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		err = s.file(src, to, name, path, &st)
	} else if err == nil {
		err = s.special(src.fd, to, name, &st)
	}
	if err != nil && api.KindOf(err) == "" {
		return &os.PathError{Op: "copy", Path: path, Err: err}
	}
	return err
}

func (s *shifter) subfolder(from []source, to int, name, path string, depth int) error {
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	out, err := unix.Openat(to, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(out)
	in, err := below(from, name)
	defer func() {
		for _, src := range in {
			unix.Close(src.fd)
		}
	}()
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	return s.folder(in, out, path, depth+1)
}

// below opens the folders of a name that lie one above the other in folders that do.
func below(from []source, name string) (in []source, err error) {
	for _, src := range from {
		fd, err := unix.Openat(src.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
			in = append(in, source{fd, src.layer})
			if isOpaque(fd) {
				return in, nil
			}
		case unix.ENOENT:
		case unix.ENOTDIR, unix.ELOOP: // what is no folder hides those below
			return in, nil
		default:
			return in, err
		}
	}
	return in, nil
}

// isOpaque reports whether a folder hides those below it.
func isOpaque(fd int) bool {
	var b [2]byte
	n, err := unix.Fgetxattr(fd, overlay.Opaque(), b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

func (s *shifter) file(from source, to int, name, path string, st *unix.Stat_t) error {
	in, err := unix.Openat(from.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	out, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	switch refer := s.layers[from.layer].Refer; {
	case st.Size == 0:
	case refer != "":
		if err = unix.Ftruncate(out, st.Size); err == nil {
			err = unix.Fsetxattr(out, overlay.Redirect(), []byte(refer+"/"+path), 0)
		}
		if err == nil {
			err = unix.Fsetxattr(out, overlay.Metacopy(), nil, 0)
		}
	default:
		err = copyContent(in, out, st.Size)
	}
	if err != nil {
		return err
	}
	return s.attributes(in, out, st)
}

// copyContent has the file system share the content where it can, and leaves holes out.
func copyContent(in, out int, size int64) error {
	if unix.IoctlFileClone(out, in) == nil {
		return nil
	}
	for at := int64(0); at < size; {
		data, err := unix.Seek(in, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(in, data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = data; at < hole; {
			read, write := at, at
			n, err := unix.CopyFileRange(in, &read, out, &write, int(min(hole-at, 1<<30)), 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			if n == 0 {
				return unix.EIO // it has become shorter
			}
			at += int64(n)
		}
	}
	return unix.Ftruncate(out, size)
}

// attributes sets owner, mode, attributes and times of an open file or folder as those of another are: the mode after the owner, for chown(2) clears the set-user-ID bit, and
// the attributes then, for it clears capabilities too.
func (s *shifter) attributes(from, to int, st *unix.Stat_t) error {
	uid, gid := s.owner(st.Uid, st.Gid)
	if err := unix.Fchown(to, int(uid), int(gid)); err != nil {
		return noOwner(err, st)
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	names, err := attributeNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !taken(name) {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(from, name, value)
		if err == nil {
			err = unix.Fsetxattr(to, name, owners.Attribute(name, value[:n], s.owner), 0)
		}
		if err != nil {
			return &os.PathError{Op: "attribute", Path: name, Err: err}
		}
	}
	return setTimes(to, "", st)
}

// taken reports whether an attribute goes with a file: overlayfs's own do not, and labels of security modules are the place's.
func taken(name string) bool {
	return !strings.HasPrefix(name, overlay.Prefix()) && (strings.HasPrefix(name, "user.") || name == "security.capability" || strings.HasPrefix(name, "system.posix_acl_"))
}

func attributeNames(fd int) ([]string, error) {
	var small [256]byte
	n, err := unix.Flistxattr(fd, small[:])
	b := small[:max(n, 0)]
	if err == unix.ERANGE {
		b = make([]byte, 64<<10) // XATTR_LIST_MAX
		if n, err = unix.Flistxattr(fd, b); err == nil {
			b = b[:n]
		}
	}
	if err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil || len(b) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"), nil
}

// special makes a link or a FIFO.
func (s *shifter) special(from, to int, name string, st *unix.Stat_t) error {
	uid, gid := s.owner(st.Uid, st.Gid)
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(from, name, buf)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(buf[:n]), to, name); err != nil {
			return err
		}
		if err := unix.Fchownat(to, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return noOwner(err, st)
		}
		return setTimes(to, name, st)
	}
	if err := unix.Mknodat(to, name, st.Mode&unix.S_IFMT|0o600, int(st.Rdev)); err != nil {
		return err
	}
	if err := unix.Fchownat(to, name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return noOwner(err, st)
	}
	if err := unix.Fchmodat(to, name, st.Mode&0o7777, 0); err != nil {
		return err
	}
	return setTimes(to, name, st)
}

func noOwner(err error, st *unix.Stat_t) error {
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	return api.Errorf(api.Unsupported, "it belongs to %s:%s in the image, for which the container's user namespace has no place, and yours no id to spare: map fewer ids",
		strconv.FormatUint(uint64(st.Uid), 10), strconv.FormatUint(uint64(st.Gid), 10))
}

func setTimes(fd int, name string, st *unix.Stat_t) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	return unix.UtimesNanoAt(fd, name, []unix.Timespec{st.Atim, st.Mtim}, flags)
}
