package pack

import (
	"archive/tar"
	"context"
	"io"
	"io/fs"
	"strconv"

	"brig/api"

	"golang.org/x/sys/unix"
)

// file writes a regular file, as long as it is when it is opened.
func (p *packer) file(at int, path string) error {
	fd, err := unix.Open(procPath(at), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
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
	a, err := p.attributes(fd, path)
	if err != nil {
		return err
	}
	h := p.header(tar.TypeReg, path, &st)
	h.Size = st.Size
	if p.o.MaxBytes > 0 && st.Size > p.o.MaxBytes-p.result.Bytes {
		return api.Errorf(api.Exhausted, "%s: with its %d bytes there are more than the %d that there is room for", quote(path), st.Size, p.o.MaxBytes)
	}
	c := &copier{p: p, fd: fd, path: path, size: st.Size, holes: st.Blocks*512 < st.Size}
	if p.o.Sparse && c.holes && st.Size-st.Blocks*512 >= sparseFrom {
		if parts := c.parts(); parts != nil {
			return p.putSparse(h, a.records, c, parts)
		}
	}
	p.result.Bytes += st.Size
	return p.put(h, a.records, func() error { return c.copy(p.tar, 0, st.Size) })
}

// copier reads one file.
type copier struct {
	p     *packer
	fd    int
	path  string
	size  int64
	holes bool // it has some perhaps
	short bool // it was warned of
}

// copy writes length bytes from offset on. What is missing by now is zeros, and a hole is not read.
func (c *copier) copy(w io.Writer, offset, length int64) error {
	for end := offset + length; offset < end; {
		if err := context.Cause(c.p.ctx); err != nil {
			return err
		}
		if c.holes {
			data, err := unix.Seek(c.fd, offset, unix.SEEK_DATA)
			if err == unix.ENXIO { // no data from here on, or the file ends before
				data, err = end, nil
			}
			if err != nil {
				c.holes = false // the file system does not say
			} else if data > offset {
				n := min(data, end) - offset
				if err := c.zeros(w, n); err != nil {
					return err
				}
				offset += n
				continue
			}
		}
		n, err := unix.Pread(c.fd, c.p.buf[:min(int64(len(c.p.buf)), end-offset)], offset)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return &fs.PathError{Op: "read", Path: c.path, Err: err}
		case n == 0:
			if !c.short {
				c.p.o.Warn("%s: became shorter while it was read: filled up with zeros", quote(c.path))
				c.short = true
			}
			return c.zeros(w, end-offset)
		}
		if _, err := w.Write(c.p.buf[:n]); err != nil {
			return err
		}
		offset += int64(n)
	}
	return nil
}

func (c *copier) zeros(w io.Writer, n int64) error {
	if c.p.zeros == nil {
		c.p.zeros = make([]byte, bufferSize)
	}
	for n > 0 {
		if err := context.Cause(c.p.ctx); err != nil {
			return err
		}
		m := min(n, bufferSize)
		if _, err := w.Write(c.p.zeros[:m]); err != nil {
			return err
		}
		n -= m
	}
	return nil
}

// procPath names an open file, for the calls that take no descriptor of the O_PATH kind.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
