// Package pack writes the files below a folder as a tar: package extract the other way round, for files that a hostile process may be
// changing at that moment.
//
// Nothing is done by path. A folder is read, and what is in it opened, by its descriptor and one name, O_PATH and O_NOFOLLOW; what a
// thing is, is asked of that descriptor, and only a regular file or a folder is then opened for reading, through it. So no link is
// followed, no device or FIFO is opened, and a name that is exchanged for another between two calls changes what is written, never
// where it is read. What has gone when its turn comes is left out; a file has the size that it had when it was opened, and what it
// lost since is zeros.
//
// The order is that of the names' bytes, owners are numbers, times have nanoseconds, and extended attributes are PAX records of the
// kind SCHILY.xattr. The first name of a file with several comes with its content, the others as hard links to it. Sockets cannot be
// archived and are left out.
//
// [Root] writes a root file system, [Layer] the writable layer of an overlay as the layer of an image: overlayfs's marks of what is
// removed become OCI's, .wh.NAME and .wh..wh..opq.
package pack

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"brig/api"

	"golang.org/x/sys/unix"
)

// The limits of a tree: those that package extract has for archives, for what is beyond them could not be read back.
const (
	MaxEntries = 4 << 20
	MaxPath    = 4095
	MaxDepth   = 512
	// MaxLinkNames bounds the memory for the names of files with several, in bytes.
	MaxLinkNames = 128 << 20
)

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	bufferSize     = 256 << 10
)

// Options are what the caller wants otherwise.
type Options struct {
	// Warn is told what is left out or was changed while it was read. Names in it are quoted.
	Warn func(format string, args ...any)
	// Skip leaves an entry out, and all below it.
	Skip func(path string, st *unix.Stat_t) bool
	// MaxBytes of file content are written; more is api.Exhausted. 0: any number.
	MaxBytes int64
	// Sparse writes the holes of large files as holes, in the form of GNU tar's version 1.0, instead of as zeros.
	Sparse bool
	// Owner says whose a file is to be in the archive; nil: whose it is.
	Owner func(uid, gid uint32) (uint32, uint32)
}

// Result is what an archive came to hold.
type Result struct {
	Entries int
	Bytes   int64 // of file content
}

// Root writes what is below the folder root, and the folder itself as "./". A mark of overlayfs in it is left out.
func Root(ctx context.Context, root int, w io.Writer, o Options) (Result, error) {
	return write(ctx, root, w, o, false)
}

// Layer writes the upper folder of an overlay. What a layer cannot say is api.Unsupported: names that begin with .wh., and folders or
// files that overlayfs keeps a part of elsewhere (redirect_dir, metacopy). An upper folder in which nothing was changed has no entries.
func Layer(ctx context.Context, upper int, w io.Writer, o Options) (Result, error) {
	return write(ctx, upper, w, o, true)
}

func write(ctx context.Context, root int, w io.Writer, o Options, layer bool) (Result, error) {
	p := newPacker(ctx, w, o)
	p.layer = layer
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return p.result, &fs.PathError{Op: "fstat", Path: ".", Err: err}
	}
	if err := p.folder(root, ".", &st, 0); err != nil {
		return p.result, err
	}
	return p.result, p.tar.Close()
}

// packer is one archive in the making.
type packer struct {
	ctx    context.Context
	tar    *tar.Writer
	out    io.Writer
	o      Options
	layer  bool
	result Result
	links  map[inode]*linked
	names  int // bytes of names in links
	buf    []byte
	zeros  []byte
	root   func() error // writes the root's own entry; nil once it is written, or before it is known
}

type inode struct{ dev, ino uint64 }

// linked is the first name of a file with several.
type linked struct {
	name string
	left uint64 // names that are still to come, if nobody makes or removes any
}

// folder writes a folder and what is in it. fd is any descriptor of it.
func (p *packer) folder(fd int, path string, st *unix.Stat_t, depth int) error {
	if depth > MaxDepth {
		return api.Errorf(api.Unsupported, "%s: folders nested deeper than %d cannot be archived", quote(path), MaxDepth)
	}
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if gone(err) {
		return p.vanished(path)
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(dir), path)
	defer f.Close()
	a, err := p.attributes(dir, path)
	if err != nil {
		return err
	}
	h := p.header(tar.TypeDir, path+"/", st)
	put := func() error { return p.put(h, a.records, nil) }
	switch {
	case path != ".":
		err = put()
	case p.layer: // an upper folder in which nothing was changed is an empty layer
		p.root = put
	default:
		err = put()
	}
	if err == nil && a.opaque {
		err = p.mark(path, opaqueMarker, st)
	}
	if err != nil {
		return err
	}
	names, err := p.list(f, path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := context.Cause(p.ctx); err != nil {
			return err
		}
		if err := p.entry(dir, name, join(path, name), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// list reads the names in a folder, in order.
func (p *packer) list(f *os.File, path string) ([]string, error) {
	var names []string
	for {
		some, err := f.Readdirnames(4096)
		names = append(names, some...)
		if err == io.EOF || gone(err) {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(names) > MaxEntries {
			return nil, api.Errorf(api.Unsupported, "%s: more than %d entries cannot be archived", quote(path), MaxEntries)
		}
		if err := context.Cause(p.ctx); err != nil {
			return nil, err
		}
	}
	slices.Sort(names)
	return names, nil
}

// entry writes what a folder has under a name.
func (p *packer) entry(dir int, name, path string, depth int) error {
	if len(path) > MaxPath {
		return api.Errorf(api.Unsupported, "%s: a path of more than %d bytes cannot be archived", quote(path), MaxPath)
	}
	if p.result.Entries >= MaxEntries {
		return api.Errorf(api.Unsupported, "more than %d entries cannot be archived", MaxEntries)
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if gone(err) {
		return p.vanished(path)
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "fstat", Path: path, Err: err}
	}
	if p.o.Skip != nil && p.o.Skip(path, &st) {
		return nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		if !p.layer {
			return nil
		}
		return p.mark(strings.TrimSuffix(strings.TrimSuffix(path, name), "/"), whiteoutPrefix+name, &st)
	}
	if p.layer && strings.HasPrefix(name, whiteoutPrefix) {
		return api.Errorf(api.Unsupported, "%s: a name that begins with %s means in a layer that something is removed: rename it first", quote(path), whiteoutPrefix)
	}
	return p.object(fd, path, &st, depth)
}

// object writes what fd, of the kind O_PATH, stands for.
func (p *packer) object(fd int, path string, st *unix.Stat_t, depth int) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.folder(fd, path, st, depth)
	case unix.S_IFSOCK:
		p.o.Warn("%s: a socket cannot be archived: left out", quote(path))
		return nil
	}
	if st.Nlink > 1 {
		if done, err := p.link(path, st); done || err != nil {
			return err
		}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return p.file(fd, path)
	}
	return p.special(fd, path, st)
}

// special writes what has no content: symbolic links, devices, FIFOs.
func (p *packer) special(fd int, path string, st *unix.Stat_t) error {
	h := p.header(0, path, st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		n, err := unix.Readlinkat(fd, "", p.buf[:MaxPath+1])
		if gone(err) {
			return p.vanished(path)
		}
		if err != nil {
			return &fs.PathError{Op: "readlink", Path: path, Err: err}
		}
		h.Linkname = string(p.buf[:n])
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return api.Errorf(api.Unsupported, "%s: a file of type %#o cannot be archived", quote(path), st.Mode&unix.S_IFMT)
	}
	a, err := p.attributes(fd, path)
	if err != nil {
		return err
	}
	return p.put(h, a.records, nil)
}

// link writes a further name of a file as a hard link; it is not done where this is the first name.
func (p *packer) link(path string, st *unix.Stat_t) (done bool, err error) {
	key := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // not of this type on every architecture
	first := p.links[key]
	if first == nil {
		if p.names += len(path); p.names > MaxLinkNames {
			return false, api.Errorf(api.Unsupported, "%s: the names of files with hard links have more than %d bytes", quote(path), MaxLinkNames)
		}
		p.links[key] = &linked{path, uint64(st.Nlink) - 1} //nolint:unconvert // not of this type on every architecture
		return false, nil
	}
	h := p.header(tar.TypeLink, path, st)
	h.Linkname = first.name
	if first.left--; first.left == 0 {
		p.names -= len(first.name)
		delete(p.links, key)
	}
	return true, p.put(h, nil, nil)
}

// mark writes one of OCI's marks: an empty file.
func (p *packer) mark(dir, name string, st *unix.Stat_t) error {
	h := p.header(tar.TypeReg, join(dir, name), st)
	h.Mode, h.Uid, h.Gid = 0o600, 0, 0
	h.ModTime = time.Unix(0, 0) // when something was removed is nobody's concern, and is no part of what the layer is
	return p.put(h, nil, nil)
}

// put writes a header, and what it announces with content.
func (p *packer) put(h *tar.Header, attributes map[string]string, content func() error) error {
	if root := p.root; root != nil {
		p.root = nil
		if err := root(); err != nil {
			return err
		}
	}
	p.result.Entries++
	h.PAXRecords = attributes
	if err := p.tar.WriteHeader(h); err != nil {
		return api.Errorf(api.KindOf(err), "%s: %w", quote(h.Name), err)
	}
	if content == nil {
		return nil
	}
	return content()
}

func (p *packer) vanished(path string) error {
	p.o.Warn("%s: removed while the archive was written: left out", quote(path))
	return nil
}

// header is an entry's, but for what its type asks for.
func (p *packer) header(kind byte, name string, st *unix.Stat_t) *tar.Header {
	uid, gid := st.Uid, st.Gid
	if p.o.Owner != nil {
		uid, gid = p.o.Owner(uid, gid)
	}
	return &tar.Header{
		Format: tar.FormatPAX, Typeflag: kind, Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(uid), Gid: int(gid),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
}

// gone says that what had a name has it no more, or that the folder was removed.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOTDIR)
}

func join(dir, name string) string {
	if dir == "." || dir == "" {
		return name
	}
	return dir + "/" + name
}

// quote shows a name, which may have been chosen to confuse who reads it on a terminal, and shortens it.
func quote(path string) string {
	if len(path) > 200 {
		path = path[:100] + "…" + path[len(path)-97:]
	}
	return strconv.Quote(path)
}
