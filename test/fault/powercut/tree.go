package powercut

import (
	"encoding/binary"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// rootIno is the root's number, FUSE's own for it.
const rootIno = 1

// Tree is a file system in memory. Copies share file content, which is never changed in place.
type Tree struct {
	nodes map[uint64]*node
}

// node is an inode.
type node struct {
	Attr
	kids   map[string]uint64 // of a folder
	data   blob              // of a file
	target string            // of a symbolic link
	xattrs map[string][]byte
}

func (n *node) isDir() bool  { return n.Mode&unix.S_IFMT == unix.S_IFDIR }
func (n *node) isFile() bool { return n.Mode&unix.S_IFMT == unix.S_IFREG }

// NewTree is an empty file system.
func NewTree() *Tree {
	now := time.Now()
	return &Tree{nodes: map[uint64]*node{rootIno: {Attr: Attr{Mode: unix.S_IFDIR | 0o755, Atime: now, Mtime: now}, kids: map[string]uint64{}}}}
}

// Clone is a copy.
func (t *Tree) Clone() *Tree {
	c := &Tree{nodes: make(map[uint64]*node, len(t.nodes))}
	for ino, n := range t.nodes {
		m := *n
		m.kids, m.xattrs, m.data.chunks = maps.Clone(n.kids), maps.Clone(n.xattrs), slices.Clone(n.data.chunks)
		c.nodes[ino] = &m
	}
	return c
}

// make is an inode as Create makes it, without a name yet.
func (t *Tree) make(o *Op) {
	n := &node{Attr: o.Attr, target: o.Target}
	if n.isDir() {
		n.kids = map[string]uint64{}
	}
	t.nodes[o.Ino] = n
}

// apply does an operation, or as much of it as makes sense where earlier ones were lost.
func (t *Tree) apply(o *Op) {
	switch o.Kind {
	case Create:
		if t.nodes[o.Ino] == nil {
			t.make(o)
		}
		if o.Name != "" {
			t.name(o.Dir, o.Name, o.Ino)
		}
	case Link:
		t.name(o.Dir, o.Name, o.Ino)
	case Unlink:
		t.unname(o.Dir, o.Name, o.Ino)
	case Rename:
		t.unname(o.Dir, o.Name, o.Ino)
		t.name(o.Dir2, o.Name2, o.Ino)
		if o.Whiteout != 0 {
			t.nodes[o.Whiteout] = &node{Attr: Attr{Mode: unix.S_IFCHR, Atime: o.Attr.Atime, Mtime: o.Attr.Mtime}}
			t.name(o.Dir, o.Name, o.Whiteout)
		}
	case Swap:
		t.name(o.Dir, o.Name, o.Ino2)
		t.name(o.Dir2, o.Name2, o.Ino)
	case Fsync, Datasync, Syncfs, Done:
	default:
		if n := t.nodes[o.Ino]; n != nil {
			n.change(o)
		}
	}
}

// change does what concerns the inode alone.
func (n *node) change(o *Op) {
	switch o.Kind {
	case Write:
		n.data.write(o.Data, o.Off)
	case Punch:
		n.data.zero(o.Off, o.Size)
	case Resize:
		n.data.resize(o.Size)
	case Setattr:
		if o.Set&SetMode != 0 {
			n.Mode = n.Mode&unix.S_IFMT | o.Attr.Mode&0o7777
		}
		if o.Set&SetUID != 0 {
			n.UID = o.Attr.UID
		}
		if o.Set&SetGID != 0 {
			n.GID = o.Attr.GID
		}
		if o.Set&SetAtime != 0 {
			n.Atime = o.Attr.Atime
		}
		if o.Set&SetMtime != 0 {
			n.Mtime = o.Attr.Mtime
		}
	case Setxattr:
		if n.xattrs == nil {
			n.xattrs = map[string][]byte{}
		}
		n.xattrs[o.Name] = o.Data
	case Delxattr:
		delete(n.xattrs, o.Name)
	}
}

func (t *Tree) name(dir uint64, name string, ino uint64) {
	if d := t.nodes[dir]; d != nil {
		d.kids[name] = ino
	}
}

// unname takes the name away if it is still that inode's.
func (t *Tree) unname(dir uint64, name string, ino uint64) {
	if d := t.nodes[dir]; d != nil && d.kids[name] == ino {
		delete(d.kids, name)
	}
}

// Lookup finds what a path leads to, symbolic links not followed; 0: nothing.
func (t *Tree) Lookup(path string) uint64 {
	ino := uint64(rootIno)
	for part := range strings.SplitSeq(path, "/") {
		if part == "" {
			continue
		}
		n := t.nodes[ino]
		if n == nil || !n.isDir() {
			return 0
		}
		if ino = n.kids[part]; ino == 0 {
			return 0
		}
	}
	return ino
}

// File is the content of a file; false: there is none at that path.
func (t *Tree) File(path string) ([]byte, bool) {
	n := t.nodes[t.Lookup(path)]
	if n == nil || !n.isFile() {
		return nil, false
	}
	return n.data.bytes(), true
}

// Names lists a folder in order.
func (t *Tree) Names(path string) []string {
	n := t.nodes[t.Lookup(path)]
	if n == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(n.kids))
}

var seed = maphash.MakeSeed()

// Sum is a fingerprint of what is at a path and below it: names, types, owners, modes, attributes, bytes, and times of change of whole seconds, which somebody has
// set: one with a fraction is that of the moment. It is comparable within one process.
func (t *Tree) Sum(path string) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	t.sum(&h, t.Lookup(path), map[uint64]int{})
	return h.Sum64()
}

func (t *Tree) sum(h *maphash.Hash, ino uint64, seen map[uint64]int) {
	n := t.nodes[ino]
	if n == nil {
		return
	}
	number := func(v uint64) { h.Write(binary.LittleEndian.AppendUint64(nil, v)) }
	if first, again := seen[ino]; again { // a hard link is one, and not two equal files
		number(uint64(first))
		return
	}
	seen[ino] = len(seen)
	number(uint64(n.Mode))
	number(uint64(n.UID)<<32 | uint64(n.GID))
	number(uint64(n.Rdev))
	if n.Mtime.Nanosecond() == 0 {
		number(uint64(n.Mtime.Unix()))
	}
	for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
		h.WriteString(k)
		h.WriteByte(0)
		number(uint64(len(n.xattrs[k])))
		h.Write(n.xattrs[k])
	}
	h.WriteString(n.target)
	h.WriteByte(0)
	number(uint64(n.data.size))
	n.data.each(func(_ int64, b []byte) { h.Write(b) })
	number(uint64(len(n.kids)))
	for _, k := range slices.Sorted(maps.Keys(n.kids)) {
		h.WriteString(k)
		h.WriteByte(0)
		t.sum(h, n.kids[k], seen)
	}
}

// blob is the content of a file in pieces, so that a copy costs little and a hole nothing.
type blob struct {
	size   int64
	chunks [][]byte // of chunkSize bytes each, nil: zeros; what lies behind size is zero
}

const chunkSize = 16 << 10

func (b *blob) write(p []byte, off int64) {
	if end := off + int64(len(p)); end > b.size {
		b.resize(end)
	}
	for len(p) > 0 {
		i, at := off/chunkSize, off%chunkSize
		chunk := make([]byte, chunkSize)
		if at > 0 || len(p) < chunkSize {
			copy(chunk, b.chunks[i])
		}
		n := copy(chunk[at:], p)
		b.chunks[i] = chunk
		p, off = p[n:], off+int64(n)
	}
}

func (b *blob) resize(size int64) {
	count := int((size + chunkSize - 1) / chunkSize)
	if count <= len(b.chunks) {
		b.chunks = b.chunks[:count]
		if at := size % chunkSize; size < b.size && at > 0 && b.chunks[count-1] != nil {
			chunk := make([]byte, chunkSize)
			copy(chunk, b.chunks[count-1][:at])
			b.chunks[count-1] = chunk
		}
	}
	for len(b.chunks) < count {
		b.chunks = append(b.chunks, nil)
	}
	b.size = size
}

// zero makes a hole.
func (b *blob) zero(off, n int64) {
	for end := min(off+n, b.size); off < end; {
		i, at := off/chunkSize, off%chunkSize
		m := min(chunkSize-at, end-off)
		if b.chunks[i] != nil {
			chunk := make([]byte, chunkSize)
			copy(chunk, b.chunks[i])
			clear(chunk[at : at+m])
			b.chunks[i] = chunk
		}
		off += m
	}
}

func (b *blob) read(p []byte, off int64) int {
	if off >= b.size {
		return 0
	}
	p = p[:min(int64(len(p)), b.size-off)]
	for done := 0; done < len(p); {
		i, at := off/chunkSize, off%chunkSize
		m := min(chunkSize-int(at), len(p)-done)
		if b.chunks[i] == nil {
			clear(p[done : done+m])
		} else {
			copy(p[done:done+m], b.chunks[i][at:])
		}
		done, off = done+m, off+int64(m)
	}
	return len(p)
}

func (b *blob) bytes() []byte {
	p := make([]byte, b.size)
	b.read(p, 0)
	return p
}

var zeros [chunkSize]byte

// each calls do with the content in order, zeros as well.
func (b *blob) each(do func(off int64, p []byte)) {
	for i, chunk := range b.chunks {
		off := int64(i) * chunkSize
		n := min(chunkSize, b.size-off)
		if chunk == nil {
			do(off, zeros[:n])
		} else {
			do(off, chunk[:n])
		}
	}
}
