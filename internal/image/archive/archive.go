// Package archive reads images from a tar file: what docker save writes, and an OCI layout in a tar. Either may be packed as a whole with
// gzip or zstd, and may come through a pipe.
//
// The archive is read in place: one walk over its headers notes where each file lies, nothing is extracted, so no name in it ever
// becomes a path on this machine. A packed archive, or one from a pipe, is first copied unpacked to an unnamed file.
package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/layout"
)

const (
	maxEntries = 100_000  // files in an archive
	maxLinks   = 8        // symbolic and hard links in a row
	maxNames   = 16 << 20 // bytes of the names of all files
)

// Open reads the table of contents of the archive in f, from f's present position. where names it in messages, spool is a folder with
// room for the unpacked archive where that is needed. Close closes f too, and so does an error.
func Open(f *os.File, where, spool string) (image.Lister, error) {
	l, err := open(f, where, spool)
	if err != nil {
		f.Close()
	}
	return l, err
}

func open(f *os.File, where, spool string) (image.Lister, error) {
	plain, err := seekable(f, spool)
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "%s: %w", where, err)
	}
	files := &contents{f: plain, close: []io.Closer{f}}
	if plain != f {
		files.close = append(files.close, plain)
	}
	l, err := list(files, where)
	if err != nil && plain != f {
		plain.Close()
	}
	return l, err
}

// New reads the table of contents of an unpacked archive in memory, or wherever r has it.
func New(r File, where string) (image.Lister, error) { return list(&contents{f: r}, where) }

// list finds out which of the two formats it is. An archive that is both, as docker and brig save it, is read as OCI layout: that knows
// the digests.
func list(files *contents, where string) (image.Lister, error) {
	if err := files.index(); err != nil {
		return nil, api.Errorf(api.KindOf(err), "%s: %w", where, err)
	}
	_, oci := files.entries["oci-layout"]
	if _, docker := files.entries["manifest.json"]; docker && !oci {
		return newDocker(where, files)
	}
	return layout.New(where, files)
}

// seekable returns f itself, or an unnamed copy of what f holds unpacked.
func seekable(f *os.File, spool string) (*os.File, error) {
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		start, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		head := make([]byte, 4)
		n, err := f.ReadAt(head, start)
		if err != nil && err != io.EOF {
			return nil, err
		}
		if start == 0 && image.Detect(head[:n]) == image.Uncompressed {
			return f, nil
		}
	}
	in, _, err := image.Decompress(f)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, err := Unnamed(spool)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return nil, api.Errorf(api.Exhausted, "no space in %s for the unpacked archive: %w", spool, err)
		}
		return nil, err
	}
	_, err = out.Seek(0, io.SeekStart)
	return out, err
}

// Unnamed makes a file that no one else sees and that goes when it is closed, also when we die.
func Unnamed(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir), nil
	}
	f, err := os.CreateTemp(dir, ".archive-") // a file system without O_TMPFILE
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// entry is where a file of the archive lies, or what it is a link to.
type entry struct {
	offset, size int64
	link         string
}

// File is what an archive can be read from in place.
type File interface {
	io.ReadSeeker
	io.ReaderAt
}

// contents are the files of a tar.
type contents struct {
	f       File
	close   []io.Closer
	entries map[string]entry
}

var _ layout.Files = (*contents)(nil)

// index walks the headers. Of two files of one name the last counts, as when the archive is extracted.
func (c *contents) index() error {
	c.entries = map[string]entry{}
	size, err := c.f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = c.f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	names := 0
	r := tar.NewReader(c.f)
	for n := 0; ; n++ {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return api.Errorf(api.Corrupt, "not a sound tar archive: %w", err)
		}
		if n == maxEntries {
			return api.Errorf(api.Exhausted, "more than the %d files that an image archive may have", maxEntries)
		}
		if names += len(h.Name) + len(h.Linkname); names > maxNames {
			return api.Errorf(api.Exhausted, "the names of its files have more than %d bytes", maxNames)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := c.f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			if sparse(h) {
				return api.Errorf(api.Unsupported, "%s: a sparse file in an image archive is not supported", name)
			}
			if at+h.Size > size {
				return api.Errorf(api.Corrupt, "cut short: %s ends at byte %d, the archive at %d", name, at+h.Size, size)
			}
			c.entries[name] = entry{offset: at, size: h.Size}
		case tar.TypeSymlink:
			c.entries[name] = entry{link: path.Clean("/" + path.Join(path.Dir(name), h.Linkname))[1:]}
		case tar.TypeLink:
			c.entries[name] = entry{link: path.Clean("/" + h.Linkname)[1:]}
		}
	}
	return nil
}

func sparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// Open implements layout.Files.
func (c *contents) Open(name string) (io.ReadCloser, int64, error) {
	s, err := c.section(name)
	if err != nil {
		return nil, 0, err
	}
	return io.NopCloser(s), s.Size(), nil
}

func (c *contents) section(name string) (*io.SectionReader, error) {
	at := path.Clean("/" + name)[1:]
	for range maxLinks {
		e, ok := c.entries[at]
		if !ok {
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		if e.link == "" {
			return io.NewSectionReader(c.f, e.offset, e.size), nil
		}
		at = e.link
	}
	return nil, api.Errorf(api.Corrupt, "%s: more than %d links in a row", name, maxLinks)
}

// Close implements layout.Files.
func (c *contents) Close() error {
	var errs []error
	for _, f := range c.close {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
