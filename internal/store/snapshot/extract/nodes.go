package extract

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"path"
	"strings"

	"brig/internal/store/erofs"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links a path may lead through: the kernel's number.
const maxLinks = 40

// ErrSparse is the error of an archive with a sparse file whose content does not lie in one piece, which nodes cannot say.
var ErrSparse = errors.New("a sparse file")

// Nodes reads the uncompressed archive r, up to its end marker, as Tree does, but makes nodes of the entries instead of files: a regular file's content
// stays in the archive, at the node's offset in r. The same archives are refused as by Tree.
func Nodes(ctx context.Context, r io.Reader) (*erofs.Node, Result, error) {
	in := &counter{r: r}
	tr := tar.NewReader(in)
	return Planted(ctx, func() (*tar.Header, int64, error) {
		hdr, err := tr.Next()
		if err != nil && err != io.EOF && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, 0, archiveError(err)
		}
		if err == io.EOF {
			return nil, 0, err
		}
		return hdr, in.n, nil
	})
}

// Planted is Nodes for an archive of which only the headers are known: next gives them, in order, with the offset that the node of a regular file gets, and io.EOF
// at the end.
func Planted(ctx context.Context, next func() (*tar.Header, int64, error)) (*erofs.Node, Result, error) {
	root := &erofs.Node{Mode: erofs.ModeDir | 0o755, Children: map[string]*erofs.Node{}}
	x := &planter{root: root}
	x.forget()
	for {
		if err := ctx.Err(); err != nil {
			return nil, x.result, err
		}
		hdr, at, err := next()
		if err == io.EOF {
			return root, x.result, nil
		}
		if err != nil {
			return nil, x.result, err
		}
		x.at = at
		if err := x.entry(hdr); err != nil {
			return nil, x.result, err
		}
	}
}

// counter knows where in a stream its reader is.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// discarder is a stream that can be passed over without being copied.
type discarder interface {
	Discard(n int64) (int64, error)
}

// Seek goes forward, for archive/tar, which uses it to pass over what files hold.
func (c *counter) Seek(offset int64, whence int) (int64, error) {
	d, ok := c.r.(discarder)
	if !ok || whence != io.SeekCurrent || offset < 0 {
		return -1, errors.ErrUnsupported
	}
	n, err := d.Discard(offset)
	c.n += n
	return c.n, err
}

// planter makes a tree of nodes.
type planter struct {
	root   *erofs.Node
	result Result
	names  int   // bytes of the names in the tree
	at     int64 // where the content of the present entry begins

	// The folder that was asked for last: entries come folder by folder.
	last  string
	chain []step
}

// step is a folder on the way from the root, and its name.
type step struct {
	node *erofs.Node
	name string
}

// forget is called when a folder or link is replaced: paths may lead elsewhere.
func (x *planter) forget() { x.last, x.chain = "", []step{{x.root, ""}} }

// entry takes in one entry.
func (x *planter) entry(hdr *tar.Header) error {
	if x.result.Entries++; x.result.Entries > MaxEntries {
		return corrupt(hdr.Name, "more than %d entries", MaxEntries)
	}
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	dir, base := path.Split(name)
	if skip, err := checkMarkers(name, base); skip || err != nil {
		return err
	}
	if len(base) > unix.NAME_MAX {
		return entryError(hdr.Name, unix.ENAMETOOLONG)
	}
	if err := x.enter(strings.TrimSuffix(dir, "/")); err != nil {
		return entryError(hdr.Name, err)
	}
	at := x.chain[len(x.chain)-1].node
	switch {
	case strings.HasPrefix(base, whiteoutPrefix):
		x.whiteout(at, base)
	case name == ".":
		if hdr.Typeflag != tar.TypeDir {
			return corrupt(hdr.Name, "the root must be a folder")
		}
		err = describe(x.root, hdr, erofs.ModeDir)
	default:
		err = x.make(at, base, hdr)
	}
	return entryError(hdr.Name, err)
}

// enter makes chain the way to a folder of the archive's, which it makes with its parents where it is missing.
func (x *planter) enter(dir string) error {
	if dir == x.last {
		return nil
	}
	x.forget()
	if dir == "" {
		return nil
	}
	for name := range strings.SplitSeq(dir, "/") {
		at := x.chain[len(x.chain)-1].node
		c := at.Children[name]
		if c == nil {
			if len(name) > unix.NAME_MAX {
				return unix.ENAMETOOLONG
			}
			c = &erofs.Node{Mode: erofs.ModeDir | 0o755, Children: map[string]*erofs.Node{}}
			x.add(at, name, c)
		}
		links := 0
		if err := x.follow(name, c, &links); err == unix.ENOENT {
			return unix.EEXIST // a link that leads nowhere is where a folder should be
		} else if err != nil {
			return err
		}
	}
	x.last = dir
	return nil
}

// follow goes one step on, from the end of the chain to its child c; where that is a link, along it, within the root.
func (x *planter) follow(name string, c *erofs.Node, links *int) error {
	if c.Dir() {
		if x.chain = append(x.chain, step{c, name}); len(x.chain) > MaxDepth {
			return unix.ENAMETOOLONG
		}
		return x.checkLength()
	}
	if c.Mode&unix.S_IFMT != erofs.ModeSymlink {
		return unix.ENOTDIR
	}
	if *links++; *links > maxLinks {
		return unix.ELOOP
	}
	if strings.HasPrefix(c.Target, "/") {
		x.chain = x.chain[:1]
	}
	for part := range strings.SplitSeq(c.Target, "/") {
		switch part {
		case "", ".":
			continue
		case "..":
			x.chain = x.chain[:max(1, len(x.chain)-1)]
			continue
		}
		next := x.chain[len(x.chain)-1].node.Children[part]
		if next == nil {
			return unix.ENOENT
		}
		if err := x.follow(part, next, links); err != nil {
			return err
		}
	}
	return nil
}

// checkLength bounds the path that the chain stands for.
func (x *planter) checkLength() error {
	n := 0
	for _, s := range x.chain {
		n += len(s.name) + 1
	}
	if n > MaxPath {
		return unix.ENAMETOOLONG
	}
	return nil
}

// add puts a node in a folder.
func (x *planter) add(at *erofs.Node, name string, c *erofs.Node) {
	at.Children[name] = c
	x.names += len(name)
}

// make takes in one entry that is neither the root nor a whiteout.
func (x *planter) make(at *erofs.Node, base string, hdr *tar.Header) error {
	if x.names += len(hdr.Linkname); x.names > MaxFolderNames*4 {
		return corrupt(hdr.Name, "the names in it have more than %d bytes", MaxFolderNames*4)
	}
	old := at.Children[base]
	n := &erofs.Node{}
	kind := uint16(0)
	switch hdr.Typeflag {
	case tar.TypeDir:
		if old != nil && old.Dir() {
			return describe(old, hdr, erofs.ModeDir)
		}
		n.Children = map[string]*erofs.Node{}
		kind = erofs.ModeDir
		if old != nil && isHole(old) {
			setOpaqueNode(n)
		}
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if isSparse(hdr) {
			return ErrSparse
		}
		kind = erofs.ModeFile
		n.Size, n.Offset = hdr.Size, x.at
		x.result.Bytes += hdr.Size
	case tar.TypeSymlink:
		if hdr.Linkname == "" {
			return corrupt(hdr.Name, "a symbolic link to nowhere")
		}
		if len(hdr.Linkname) > MaxPath || strings.IndexByte(hdr.Linkname, 0) >= 0 {
			return unix.ENAMETOOLONG
		}
		kind = erofs.ModeSymlink
		n.Target = hdr.Linkname
	case tar.TypeLink:
		return x.hardLink(at, base, hdr)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		dev, err := device(hdr)
		if err != nil {
			return err
		}
		n.Rdev = dev
		kind = map[byte]uint16{tar.TypeChar: erofs.ModeChar, tar.TypeBlock: erofs.ModeBlock, tar.TypeFifo: erofs.ModeFifo}[hdr.Typeflag]
	default:
		return corrupt(hdr.Name, "unknown type %q of entry", hdr.Typeflag)
	}
	if err := describe(n, hdr, kind); err != nil {
		return err
	}
	if old != nil {
		x.forget()
	}
	x.add(at, base, n)
	return nil
}

// hardLink gives one more name to a file of this archive.
func (x *planter) hardLink(at *erofs.Node, base string, hdr *tar.Header) error {
	target, err := cleanName(hdr.Linkname)
	if err != nil {
		return err
	}
	dir, name := path.Split(target)
	if target == "." {
		return corrupt(hdr.Name, "a hard link to the root")
	}
	from := x.find(strings.TrimSuffix(dir, "/"))
	var n *erofs.Node
	if from != nil {
		n = from.Children[name]
	}
	switch {
	case n == nil:
		return corrupt(hdr.Name, "a hard link to %q, which is not in the layer", hdr.Linkname)
	case n.Dir():
		return corrupt(hdr.Name, "a hard link to %q, which is a folder", hdr.Linkname)
	}
	if at.Children[base] != nil && at.Children[base] != n {
		x.forget()
	}
	x.add(at, base, n)
	return nil
}

// find returns a folder that must be there, or nil.
func (x *planter) find(dir string) *erofs.Node {
	last, chain := x.last, x.chain
	defer func() { x.last, x.chain = last, chain }()
	x.chain = []step{{x.root, ""}}
	if dir == "" {
		return x.root
	}
	links := 0
	for name := range strings.SplitSeq(dir, "/") {
		c := x.chain[len(x.chain)-1].node.Children[name]
		if c == nil || x.follow(name, c, &links) != nil {
			return nil
		}
	}
	return x.chain[len(x.chain)-1].node
}

// whiteout hides what lower layers have.
func (x *planter) whiteout(at *erofs.Node, base string) {
	if base == opaqueMarker {
		setOpaqueNode(at)
		return
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	switch old := at.Children[name]; {
	case old == nil:
		x.add(at, name, &erofs.Node{Mode: erofs.ModeChar | 0o600})
	case old.Dir():
		setOpaqueNode(old)
	}
}

// describe sets owner, mode, time and attributes.
func describe(n *erofs.Node, hdr *tar.Header, kind uint16) error {
	if err := checkOwner(hdr); err != nil {
		return err
	}
	n.Mode = kind | uint16(hdr.Mode&0o7777)
	if kind == erofs.ModeSymlink {
		n.Mode = kind | 0o777
	}
	n.UID, n.GID = uint32(hdr.Uid), uint32(hdr.Gid)
	n.Sec, n.Nsec = hdr.ModTime.Unix(), uint32(hdr.ModTime.Nanosecond())
	total := 0
	return eachAttribute(hdr, func(name string, value []byte) error {
		if kind != erofs.ModeFile && kind != erofs.ModeDir && strings.HasPrefix(name, "user.") {
			return unix.EPERM
		}
		if !erofs.Known(name) {
			return unix.ENOTSUP
		}
		if strings.HasPrefix(name, "system.") && !isACL(value) {
			return unix.EINVAL
		}
		if total += len(name) + len(value) + 8; total > 48<<10 {
			return unix.E2BIG
		}
		setAttribute(n, name, value)
		return nil
	})
}

// isACL looks at the form of an access control list: a version and entries of eight bytes.
func isACL(v []byte) bool {
	return len(v) >= 4 && (len(v)-4)%8 == 0 && binary.LittleEndian.Uint32(v) == 2
}

func setAttribute(n *erofs.Node, name string, value []byte) {
	for i := range n.Attributes {
		if n.Attributes[i].Name == name {
			n.Attributes[i].Value = value
			return
		}
	}
	n.Attributes = append(n.Attributes, erofs.Attribute{Name: name, Value: value})
}

func setOpaqueNode(n *erofs.Node) { setAttribute(n, opaqueAttr, []byte("y")) }

// isHole reports whether a node is a whiteout.
func isHole(n *erofs.Node) bool { return n.Mode&unix.S_IFMT == erofs.ModeChar && n.Rdev == 0 }
