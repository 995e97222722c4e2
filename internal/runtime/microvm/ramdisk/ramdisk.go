// Package ramdisk writes what a kernel takes for its initial ramdisk: an archive in cpio's "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst). Several of them
// may stand one behind the other.
package ramdisk

import (
	"fmt"
	"io"
	"strings"
)

// Writer writes one archive. The first error stays, and Close tells it.
type Writer struct {
	w     io.Writer
	inode int
	err   error
}

// NewWriter begins an archive.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Dir enters a folder that all may look into.
func (w *Writer) Dir(name string) { w.entry(name, 0o40755, 0, nil, 0, 0) }

// Device enters a character device of root's.
func (w *Writer) Device(name string, major, minor int) { w.entry(name, 0o20600, 0, nil, major, minor) }

// File enters a file of size bytes, with those permissions.
func (w *Writer) File(name string, mode int, size int64, content io.Reader) {
	w.entry(name, 0o100000|mode, size, content, 0, 0)
}

// Close ends the archive.
func (w *Writer) Close() error {
	w.entry("TRAILER!!!", 0, 0, nil, 0, 0)
	return w.err
}

func (w *Writer) entry(name string, mode int, size int64, content io.Reader, major, minor int) {
	if w.err != nil {
		return
	}
	w.inode++
	var h strings.Builder
	h.WriteString("070701")
	for _, n := range []int64{int64(w.inode), int64(mode), 0, 0, 1, 0, size, 0, 0, int64(major), int64(minor), int64(len(name) + 1), 0} {
		fmt.Fprintf(&h, "%08x", n)
	}
	h.WriteString(name + "\x00")
	if _, w.err = io.WriteString(w.w, h.String()+pad(int64(h.Len()))); w.err != nil || content == nil {
		return
	}
	n, err := io.Copy(w.w, content)
	if err == nil && n != size {
		err = fmt.Errorf("%s: it changed while it was read", name)
	}
	if w.err = err; err == nil {
		_, w.err = io.WriteString(w.w, pad(size))
	}
}

// pad is what fills up to a multiple of four.
func pad(n int64) string { return "\x00\x00\x00"[:-n&3] }
