package pack

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// sparseFrom is how many bytes of holes a file must have to be written with holes: some readers (busybox) do not know the form.
	sparseFrom = 64 << 20
	// maxParts bounds the table of a sparse file, which readers bound too: Go's at 1 MiB, some 25 000 parts.
	maxParts  = 16 << 10
	blockSize = 512
)

// part is a stretch of a file that has data.
type part struct{ offset, length int64 }

// parts asks where a file has data. It is nil where that cannot be told, or in fewer than maxParts parts.
func (c *copier) parts() []part {
	all := []part{}
	for at := int64(0); at < c.size; {
		data, err := unix.Seek(c.fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && data >= c.size {
			break
		}
		if err != nil {
			return nil // then it is written as it reads
		}
		hole, err := unix.Seek(c.fd, data, unix.SEEK_HOLE)
		if err != nil || hole <= data {
			return nil // it is being cut off: written as it reads
		}
		hole = min(hole, c.size)
		if all = append(all, part{data, hole - data}); len(all) > maxParts {
			return nil
		}
		at = hole
	}
	return append(all, part{c.size, 0}) // the end, as GNU tar has it
}

// putSparse writes a file as GNU tar's version 1.0 of sparse files: an entry whose content is a table of the parts and then these alone.
// Package tar reads the form and does not write it, so header and PAX records are put together here.
func (p *packer) putSparse(h *tar.Header, attributes map[string]string, c *copier, parts []part) error {
	table := strconv.Itoa(len(parts)) + "\n"
	var b strings.Builder
	length := int64(0)
	for _, x := range parts {
		fmt.Fprintf(&b, "%d\n%d\n", x.offset, x.length)
		length += x.length
	}
	table += b.String()
	table += strings.Repeat("\x00", (blockSize-len(table)%blockSize)%blockSize)
	records := map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": h.Name, "GNU.sparse.realsize": strconv.FormatInt(h.Size, 10),
		"mtime": fmt.Sprintf("%d.%09d", h.ModTime.Unix(), h.ModTime.Nanosecond()),
		"uid":   strconv.Itoa(h.Uid), "gid": strconv.Itoa(h.Gid), "size": strconv.FormatInt(int64(len(table))+length, 10),
	}
	dir, base := path.Split(h.Name)
	records["path"] = dir + "GNUSparseFile.0/" + base
	if h.ModTime.Unix() < 0 {
		delete(records, "mtime") // a negative fraction is written another way; the whole seconds do not fit the header either
	}
	for k, v := range attributes {
		records[k] = v
	}
	if err := p.tar.Flush(); err != nil {
		return err
	}
	pax := paxRecords(records)
	if err := p.block('x', h, int64(len(pax))); err != nil {
		return err
	}
	if err := p.padded(pax); err != nil {
		return err
	}
	if err := p.block('0', h, int64(len(table))+length); err != nil {
		return err
	}
	if _, err := io.WriteString(p.out, table); err != nil {
		return err
	}
	p.result.Entries++
	p.result.Bytes += length
	for _, x := range parts {
		c.holes = false // what has become a hole since reads as zeros
		if err := c.copy(p.out, x.offset, x.length); err != nil {
			return err
		}
	}
	_, err := p.out.Write(make([]byte, (blockSize-length%blockSize)%blockSize))
	return err
}

// padded writes s up to a whole block.
func (p *packer) padded(s string) error {
	_, err := io.WriteString(p.out, s+strings.Repeat("\x00", (blockSize-len(s)%blockSize)%blockSize))
	return err
}

// block writes a ustar header (POSIX.1-1988) whose true values are in the records before it.
func (p *packer) block(kind byte, h *tar.Header, size int64) error {
	var b [blockSize]byte
	copy(b[:100], "GNUSparseFile.0/file")
	octal := func(at, width int, v int64) {
		if most := int64(1)<<(3*(width-1)) - 1; v > most || v < 0 {
			v = 0 // the record says it
		}
		copy(b[at:at+width], fmt.Sprintf("%0*o", width-1, v))
	}
	octal(100, 8, h.Mode)
	octal(108, 8, int64(h.Uid))
	octal(116, 8, int64(h.Gid))
	octal(124, 12, size)
	octal(136, 12, h.ModTime.Unix())
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	copy(b[148:156], "        ")
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	_, err := p.out.Write(b[:])
	return err
}

// paxRecords writes records in the order of their keys: "LENGTH KEY=VALUE\n", the length counting itself.
func paxRecords(records map[string]string) string {
	var b strings.Builder
	for _, k := range sorted(records) {
		n := len(k) + len(records[k]) + 3
		n += len(strconv.Itoa(n))
		record := fmt.Sprintf("%d %s=%s\n", n, k, records[k])
		if len(record) != n { // the length itself has made it a digit longer
			record = fmt.Sprintf("%d %s=%s\n", len(record), k, records[k])
		}
		b.WriteString(record)
	}
	return b.String()
}
