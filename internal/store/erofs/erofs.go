// Package erofs writes file systems of the EROFS format, for the kernel to mount: a layer's files in one file, written in one go.
//
// What the files hold is not laid out file by file. The archive that they came in is kept as one stream of clusters (packages redeflate and rezstd), and is the
// image's packed inode; a file is a fragment, a place in that stream. So nothing is written twice or moved, whatever the number of files, and the
// stream can be had back.
//
// A fragment is slow to read for the first time: the kernel copies it, page by page and without reading ahead, from what it has unpacked of the packed
// inode. So a large file that begins where a cluster does has an index of its own, which leads to the same clusters; where it ends within one, it refers
// to a part of it.
//
//	block 0           superblock
//	blocks 1…         clusters, each ending at the end of a block, with zeros before it
//	metadata          inodes, names, extended attributes, and the index of the clusters
//
// The format is the kernel's fs/erofs/erofs_fs.h; every kernel from 6.6 on reads what is written here, deflate where it is
// built with EROFS_FS_ZIP_DEFLATE.
package erofs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
)

// BlockSize is the size of a block, in bytes.
const BlockSize = 4096

// The format's numbers.
const (
	superOffset = 1024
	superSize   = 128
	magic       = 0xe0f5e1e2

	incompatZeroPadding = 1
	incompatComprCfgs   = 2
	incompatFragments   = 0x20
	compatMtime         = 2

	layoutPlain      = 0
	layoutCompressed = 1
	layoutInline     = 2

	inodeSize   = 64
	slotSize    = 32 // an inode's number is its offset in slots
	indexSize   = 8
	dirent      = 12
	nameMax     = 255
	adviseBig   = 2 // clusters of more than one block
	typePlain   = 0
	typeHead    = 1
	typeNonHead = 2
	partial     = 1 << 15 // the flag of an index entry whose cluster holds more than is said here
	blockCount  = 1 << 11 // the flag of an index entry that says how many blocks the cluster has
	fragment    = 1 << 63
)

// Algorithm is what clusters are compressed with, by the format's number.
type Algorithm uint8

// The algorithms.
const (
	LZ4     Algorithm = 0
	Deflate Algorithm = 2
)

// settings are what the superblock says of an algorithm, behind its length: of LZ4 how far a match may reach back, in bytes, and the largest cluster, in blocks; of
// deflate the window, in bits.
func (w *Writer) settings() []byte {
	if w.Algorithm == Deflate {
		return []byte{15, 0, 0, 0, 0, 0}
	}
	largest := uint32(1)
	for _, e := range w.extents {
		largest = max(largest, e.blocks)
	}
	b := make([]byte, 14)
	binary.LittleEndian.PutUint16(b, math.MaxUint16)
	binary.LittleEndian.PutUint16(b[2:], uint16(largest))
	return b
}

// Limits of what can be written.
const (
	maxAttributes = 60 << 10 // bytes of all extended attributes of a file
	maxSymlink    = BlockSize - 1
	minIndexed    = 64 << 10 // bytes of a file with an index of its own, which takes 8 for every block
)

// Kinds of files, as in the upper bits of a mode.
const (
	ModeDir     = 0o040000
	ModeFile    = 0o100000
	ModeSymlink = 0o120000
	ModeChar    = 0o020000
	ModeBlock   = 0o060000
	ModeFifo    = 0o010000
	modeType    = 0o170000
)

// Node is a file of any kind. One node in several folders is a file with several names.
type Node struct {
	Mode       uint16 // with its kind
	UID, GID   uint32
	Sec        int64 // time of modification
	Nsec       uint32
	Size       int64 // of a regular file, in bytes
	Offset     int64 // in the stream, where a regular file's content begins
	Rdev       uint32
	Target     string // of a symbolic link
	Attributes []Attribute
	Children   map[string]*Node

	links  uint32
	number uint32 // inode number for those that take 32 bits
	at     int64  // in the metadata area; -1: no place yet
	data   uint32 // first block of a folder's or link's data
	inline bool
	own    []extent // the clusters of a file with an index of its own, and one that follows
	flat   bool     // of a regular file: its content lies in blocks of its own
	names  []string // sorted, with . and ..
	parent *Node
}

// Attribute is an extended attribute with its whole name.
type Attribute struct {
	Name  string
	Value []byte
}

// Block is the first block of a regular file's content, in a file system that Flat wrote.
func (n *Node) Block() int64 { return int64(n.data) }

// Dir reports whether the node is a folder.
func (n *Node) Dir() bool { return n.Mode&modeType == ModeDir }

// prefixes are the name spaces of attributes that the format knows, with their numbers.
var prefixes = []struct {
	prefix string
	index  byte
}{
	{"user.", 1}, {"system.posix_acl_access", 2}, {"system.posix_acl_default", 3}, {"trusted.", 4}, {"security.", 6},
}

// Known reports whether an attribute of that name can be kept.
func Known(name string) bool {
	_, _, ok := split(name)
	return ok
}

func split(name string) (index byte, rest string, ok bool) {
	for _, p := range prefixes {
		if len(name) >= len(p.prefix) && name[:len(p.prefix)] == p.prefix {
			rest = name[len(p.prefix):]
			acl := p.index == 2 || p.index == 3
			return p.index, rest, len(rest) <= 255 && acl == (rest == "")
		}
	}
	return 0, "", false
}

// Extent is a cluster's place.
type extent struct {
	offset int64  // in the stream
	block  uint32 // first block
	blocks uint32
}

// Writer writes one image.
type Writer struct {
	Algorithm Algorithm // of the clusters

	w       io.WriterAt
	block   int64 // next free one
	extents []extent
	size    int64 // of the stream
	buf     []byte
}

// Errors of what the format cannot hold.
var (
	ErrTooBig = errors.New("more than an EROFS image can hold")
	ErrName   = errors.New("a name or an attribute that an EROFS image cannot hold")
)

// NewWriter begins an image in w, of deflate as long as nothing else is said.
func NewWriter(w io.WriterAt) *Writer { return &Writer{Algorithm: Deflate, w: w, block: 1} }

// Cluster adds the next size bytes of the stream, as a compressed stream of its own whose first byte is not zero. It returns where in w the data begins.
func (w *Writer) Cluster(data []byte, size int) (int64, error) {
	blocks := (len(data) + BlockSize - 1) / BlockSize
	if w.block+int64(blocks) > math.MaxInt32 {
		return 0, ErrTooBig
	}
	pad := blocks*BlockSize - len(data)
	w.buf = append(append(w.buf[:0], make([]byte, pad)...), data...)
	if _, err := w.w.WriteAt(w.buf, w.block*BlockSize); err != nil {
		return 0, err
	}
	at := w.block*BlockSize + int64(pad)
	if size > 0 {
		w.extents = append(w.extents, extent{w.size, uint32(w.block), uint32(blocks)})
	}
	w.block += int64(blocks)
	w.size += int64(size)
	return at, nil
}

// Place is where the data of a cluster of n bytes begins, whose blocks begin at offset at; next is where those of the cluster after it do.
func Place(at int64, n int) (data, next int64) {
	next = at + int64(n+BlockSize-1)/BlockSize*BlockSize
	return next - int64(n), next
}

// FirstCluster is the offset of the first cluster's blocks.
const FirstCluster = BlockSize

// Finish writes the metadata of the tree below root, and the superblock. It returns the offset and length of the metadata. id becomes the file system's
// UUID.
func (w *Writer) Finish(root *Node, id [16]byte) (offset, length int64, err error) {
	m := &metadata{w: w, base: w.block}
	if err := m.place(root); err != nil {
		return 0, 0, err
	}
	m.write()
	for len(m.buf)%BlockSize != 0 {
		m.buf = append(m.buf, 0)
	}
	offset = m.base * BlockSize
	if _, err := w.w.WriteAt(m.buf, offset); err != nil {
		return 0, 0, err
	}
	total := m.base + int64(len(m.buf))/BlockSize
	super := w.super(root, id, m, total)
	if _, err := w.w.WriteAt(super, 0); err != nil {
		return 0, 0, err
	}
	return offset, int64(len(m.buf)), nil
}

// Metadata reads where an image's metadata lies: from offset at up to end.
func Metadata(image io.ReaderAt) (at, end int64, err error) {
	b := make([]byte, superSize)
	if _, err := image.ReadAt(b, superOffset); err != nil {
		return 0, 0, err
	}
	le := binary.LittleEndian
	if le.Uint32(b) != magic {
		return 0, 0, errors.New("not an EROFS image")
	}
	return int64(le.Uint32(b[40:])) * BlockSize, int64(le.Uint32(b[36:])) * BlockSize, nil
}

// Flat writes the superblock and the metadata of a file system whose files lie behind it, each as it is, in blocks of its own that somebody else writes: see
// [Node.Block]. It returns the length of the metadata and that of the whole, in blocks. Offsets of nodes say nothing here.
func Flat(to io.WriterAt, root *Node, id [16]byte) (metaBlocks, total int64, err error) {
	w := &Writer{w: to, block: 1}
	m := &metadata{w: w, base: w.block, flat: true}
	if err := m.place(root); err != nil {
		return 0, 0, err
	}
	m.write()
	if _, err := to.WriteAt(m.buf, m.base*BlockSize); err != nil {
		return 0, 0, err
	}
	if _, err := to.WriteAt(w.super(root, id, m, m.total), 0); err != nil {
		return 0, 0, err
	}
	return m.base + blocks(m.end), m.total, nil
}

// super makes the first block.
func (w *Writer) super(root *Node, id [16]byte, m *metadata, total int64) []byte {
	b := make([]byte, BlockSize)
	s := b[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(s[0:], magic)
	le.PutUint32(s[8:], compatMtime)
	s[12] = 12 // block size, in bits
	le.PutUint16(s[14:], uint16(root.at/slotSize))
	le.PutUint64(s[16:], uint64(len(m.nodes)))
	le.PutUint32(s[36:], uint32(total))
	le.PutUint32(s[40:], uint32(m.base))
	copy(s[48:], id[:])
	copy(s[64:], "brig")
	features := uint32(0)
	if w.size > 0 {
		features = incompatZeroPadding | incompatComprCfgs | incompatFragments
		settings := w.settings()
		le.PutUint16(s[84:], 1<<w.Algorithm)
		le.PutUint64(s[96:], uint64(m.packed/slotSize))
		le.PutUint16(s[superSize:], uint16(len(settings)))
		copy(s[superSize+2:], settings)
	}
	le.PutUint32(s[80:], features)
	return b
}

// metadata is the area behind the clusters.
type metadata struct {
	w      *Writer
	base   int64 // its first block
	nodes  []*Node
	end    int64 // of what has a place
	packed int64
	buf    []byte
	folded []*Node // whose data lies in blocks of its own
	flat   bool    // see Flat
	files  []*Node // regular files with content, of a flat one
	total  int64   // blocks of a flat one
}

// place gives every node its place. The root comes first: its number has 16 bits.
func (m *metadata) place(root *Node) error {
	root.parent = root
	m.walk(root)
	m.end = 2 * slotSize // there are readers of folders that skip an inode number of 0
	for _, n := range m.nodes {
		size, err := n.head()
		if err != nil {
			return err
		}
		inline, data := 0, n.dataSize()
		switch {
		case n.Mode&modeType == ModeFile && n.Size > 0 && m.flat:
			n.flat = true
			m.files = append(m.files, n)
		case n.Mode&modeType == ModeFile && n.Size > 0:
			size = align(size, 8) + 8
			if n.own = m.w.clusters(n.Offset, n.Size); n.own != nil {
				size += 8 + indexLength(n.Size)
			}
		case data > 0 && size+data <= BlockSize:
			n.inline, inline = true, data
		case data > 0:
			m.folded = append(m.folded, n)
		}
		at := int(m.end % BlockSize)
		if rest := (at + size) % BlockSize; inline > 0 && (rest+inline > BlockSize || rest == 0) {
			m.end += int64(BlockSize - at)
		}
		n.at = m.end
		m.end = int64(align(int(m.end)+size+inline, slotSize))
	}
	if root.at > 0xffff*slotSize {
		return ErrTooBig
	}
	if m.w.size > 0 {
		m.packed = m.end
		m.end += inodeSize + 16 + int64(indexLength(m.w.size))
	}
	m.end = blocks(m.end) * BlockSize
	for _, n := range m.folded {
		n.data = uint32(m.base + m.end/BlockSize)
		m.end += blocks(int64(n.dataSize())) * BlockSize
	}
	m.total = m.base + m.end/BlockSize
	for _, n := range m.files {
		if n.Size > math.MaxInt32*BlockSize || m.total > math.MaxInt32 {
			return ErrTooBig
		}
		n.data = uint32(m.total)
		m.total += blocks(n.Size)
	}
	if m.total > math.MaxInt32 {
		return ErrTooBig
	}
	return nil
}

// walk lists the nodes below n, each once, and counts their links. It does not recurse: folders can be nested deeply.
func (m *metadata) walk(root *Node) {
	stack := []*Node{root}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		m.add(n)
		n.links = 2
		n.names = make([]string, 0, len(n.Children)+2)
		n.names = append(n.names, ".", "..")
		for name := range n.Children {
			n.names = append(n.names, name)
		}
		slices.Sort(n.names)
		for _, name := range n.names {
			c := n.Children[name]
			switch {
			case c == nil: // . and ..
			case c.Dir():
				n.links++
				c.parent = n
				stack = append(stack, c)
			case c.links == 0:
				m.add(c)
				c.links = 1
			default:
				c.links++
			}
		}
	}
}

func (m *metadata) add(n *Node) {
	slices.SortFunc(n.Attributes, func(a, b Attribute) int { return strings.Compare(a.Name, b.Name) })
	n.links, n.at = 0, -1
	m.nodes = append(m.nodes, n)
	n.number = uint32(len(m.nodes))
}

// head is the size of an inode and its attributes, in bytes.
func (n *Node) head() (int, error) {
	total := 0
	for _, a := range n.Attributes {
		_, rest, ok := split(a.Name)
		if !ok || len(a.Value) > math.MaxUint16 {
			return 0, ErrName
		}
		total += align(4+len(rest)+len(a.Value), 4)
	}
	if total > maxAttributes {
		return 0, ErrName
	}
	if total > 0 {
		total += 12
	}
	return inodeSize + total, nil
}

// dataSize is the size of what a folder or a link holds, in bytes.
func (n *Node) dataSize() int {
	switch n.Mode & modeType {
	case ModeSymlink:
		return len(n.Target)
	case ModeDir:
		size, used := 0, 0
		for _, name := range n.names {
			if used+dirent+len(name) > BlockSize {
				size, used = size+BlockSize, 0
			}
			used += dirent + len(name)
		}
		return size + used
	}
	return 0
}

// write fills the area.
func (m *metadata) write() {
	m.buf = make([]byte, m.end, m.end+BlockSize)
	for _, n := range m.nodes {
		m.node(n)
	}
	if m.w.size > 0 {
		m.pack()
	}
}

// inode writes the 64 bytes that all nodes have.
func (m *metadata) inode(at int64, n *Node, layout uint16, attributes int, size int64, data uint32) []byte {
	b := m.buf[at:]
	le := binary.LittleEndian
	le.PutUint16(b[0:], 1|layout<<1)
	if attributes > 0 {
		le.PutUint16(b[2:], uint16((attributes-12)/4+1))
	}
	le.PutUint16(b[4:], n.Mode)
	le.PutUint64(b[8:], uint64(size))
	le.PutUint32(b[16:], data)
	le.PutUint32(b[20:], n.number)
	le.PutUint32(b[24:], n.UID)
	le.PutUint32(b[28:], n.GID)
	le.PutUint64(b[32:], uint64(n.Sec))
	le.PutUint32(b[40:], n.Nsec)
	le.PutUint32(b[44:], n.links)
	return b
}

// node writes an inode and what belongs to it.
func (m *metadata) node(n *Node) {
	head, _ := n.head()
	data := n.dataSize()
	layout, field := uint16(layoutPlain), n.Rdev
	size := int64(data)
	switch {
	case n.flat:
		size, field = n.Size, n.data
	case n.Mode&modeType == ModeFile && n.Size > 0:
		layout, size = layoutCompressed, n.Size
		field = uint32(min(blocks(n.Size), math.MaxUint32)) // what du tells
	case n.inline:
		layout = layoutInline
	case data > 0:
		field = n.data
	}
	b := m.inode(n.at, n, layout, head-inodeSize, size, field)
	if head > inodeSize {
		p := inodeSize + 12
		for _, a := range n.Attributes {
			index, rest, _ := split(a.Name)
			b[p], b[p+1] = byte(len(rest)), index
			binary.LittleEndian.PutUint16(b[p+2:], uint16(len(a.Value)))
			copy(b[p+4:], rest)
			copy(b[p+4+len(rest):], a.Value)
			p += align(4+len(rest)+len(a.Value), 4)
		}
	}
	switch {
	case n.own != nil:
		m.w.index(b[align(head, 8):], n.own, n.Offset, n.Size)
	case layout == layoutCompressed:
		binary.LittleEndian.PutUint64(b[align(head, 8):], uint64(n.Offset)|fragment)
	case n.inline:
		m.content(b[head:], n)
	case data > 0 && !n.flat:
		m.content(m.buf[(int64(n.data)-m.base)*BlockSize:], n)
	}
}

// content writes what a folder or a link holds.
func (m *metadata) content(b []byte, n *Node) {
	if !n.Dir() {
		copy(b, n.Target)
		return
	}
	for rest := n.names; len(rest) > 0; {
		count, used := 0, 0
		for count < len(rest) && used+dirent+len(rest[count]) <= BlockSize {
			used += dirent + len(rest[count])
			count++
		}
		at := count * dirent
		for i, name := range rest[:count] {
			c := n.Children[name]
			switch {
			case name == ".":
				c = n
			case name == "..":
				c = n.parent
			}
			e := b[i*dirent:]
			binary.LittleEndian.PutUint64(e, uint64(c.at/slotSize))
			binary.LittleEndian.PutUint16(e[8:], uint16(at))
			e[10] = fileType(c.Mode)
			at += copy(b[at:], name)
		}
		if rest = rest[count:]; len(rest) > 0 {
			b = b[BlockSize:]
		}
	}
}

// fileType is a kind as folders have it.
func fileType(mode uint16) byte {
	switch mode & modeType {
	case ModeFile:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFifo:
		return 5
	case ModeSymlink:
		return 7
	}
	return 0
}

// pack writes the packed inode, which is the stream.
func (m *metadata) pack() {
	w := m.w
	var stored int64
	for _, e := range w.extents {
		stored += int64(e.blocks)
	}
	n := &Node{Mode: ModeFile | 0o600, links: 1, number: uint32(len(m.nodes)) + 1}
	b := m.inode(m.packed, n, layoutCompressed, 0, w.size, uint32(stored))
	w.index(b[inodeSize:], append(w.extents, extent{offset: w.size}), 0, w.size)
}

// clusters are those of a part of the stream, and the one after, if it can have an index of its own: it begins where a cluster does, and its last cluster
// has two entries at least, for the second tells the length.
func (w *Writer) clusters(offset, size int64) []extent {
	if size < minIndexed {
		return nil
	}
	from, ok := w.find(offset)
	to, _ := w.find(offset + size)
	if !ok || (w.extents[to-1].offset-offset)/BlockSize == (size-1)/BlockSize {
		return nil
	}
	if to == len(w.extents) {
		return append(slices.Clone(w.extents[from:]), extent{offset: w.size})
	}
	return w.extents[from : to+1]
}

// find is the first cluster that begins at an offset or later, and whether it does there.
func (w *Writer) find(offset int64) (int, bool) {
	return slices.BinarySearchFunc(w.extents, offset, func(e extent, at int64) int { return cmp.Compare(e.offset, at) })
}

// indexLength is the length of the index of so many bytes of a stream, in bytes. One entry more is for a reader that looks behind a last cluster of one
// block.
func indexLength(size int64) int { return (int(blocks(size)) + 1) * indexSize }

// index writes how a part of the stream lies in clusters, of which the last of the slice is the first that it has nothing of.
func (w *Writer) index(b []byte, clusters []extent, offset, size int64) {
	le := binary.LittleEndian
	le.PutUint16(b[4:], adviseBig)
	b[6] = byte(w.Algorithm)
	b = b[16:]
	total := blocks(size)
	last := len(clusters) - 1
	next := 0 // the first cluster that begins at or after the present block
	begin := func(i int) int64 { return clusters[i].offset - offset }
	for i := range total {
		e := b[i*indexSize:]
		if next < last && begin(next)/BlockSize == i {
			kind := uint16(typeHead)
			if next == last-1 && clusters[last].offset > offset+size {
				kind |= partial
			}
			le.PutUint16(e, kind)
			le.PutUint16(e[2:], uint16(begin(next)%BlockSize))
			le.PutUint32(e[4:], clusters[next].block)
			next++
			continue
		}
		back := uint16(i - begin(next-1)/BlockSize)
		if back == 1 {
			back = blockCount | uint16(clusters[next-1].blocks)
		}
		ahead := total
		if next < last {
			ahead = begin(next) / BlockSize
		}
		le.PutUint16(e, typeNonHead)
		le.PutUint16(e[4:], back)
		le.PutUint16(e[6:], uint16(ahead-i))
	}
	le.PutUint16(b[total*indexSize:], typePlain)
}

func align(n, to int) int      { return (n + to - 1) / to * to }
func blocks(bytes int64) int64 { return (bytes + BlockSize - 1) / BlockSize }
