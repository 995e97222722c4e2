package powercut

import (
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// create makes a new inode with a name; an empty name makes a temporary one.
func (f *FS) create(h *fuse.InHeader, name string, mode, rdev uint32, target string) (uint64, fuse.Status) {
	d := f.tree.nodes[h.NodeId]
	if name != "" && d.kids[name] != 0 {
		return 0, fuse.Status(syscall.EEXIST)
	}
	now := time.Now()
	o := Op{Kind: Create, Ino: f.fresh(), Name: name, Dir: h.NodeId, Target: target, Path: f.path(h.NodeId) + "/" + name,
		Attr: Attr{Mode: mode, UID: h.Uid, GID: h.Gid, Rdev: rdev, Atime: now, Mtime: now}}
	if d.Mode&unix.S_ISGID != 0 { // inode_init_owner of the kernel
		o.Attr.GID = d.GID
		if mode&unix.S_IFMT == unix.S_IFDIR {
			o.Attr.Mode |= unix.S_ISGID
		}
	}
	return o.Ino, f.do(o)
}

func (f *FS) makeEntry(h *fuse.InHeader, name string, mode, rdev uint32, target string, out *fuse.EntryOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	ino, st := f.create(h, name, mode, rdev, target)
	if st.Ok() {
		f.touch(h.NodeId)
		f.entry(ino, out)
	}
	return st
}

// touch is the time of change of a folder; it is not worth an operation.
func (f *FS) touch(dirs ...uint64) {
	for _, d := range dirs {
		f.tree.nodes[d].Mtime = time.Now()
	}
}

func (f *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.makeEntry(&in.InHeader, name, in.Mode, in.Rdev, "", out)
}

func (f *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.makeEntry(&in.InHeader, name, in.Mode&0o7777|unix.S_IFDIR, 0, "", out)
}

func (f *FS) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return f.makeEntry(h, name, unix.S_IFLNK|0o777, 0, target, out)
}

func (f *FS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []byte(f.tree.nodes[h.NodeId].target), fuse.OK
}

func (f *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	ino := f.tree.nodes[in.NodeId].kids[name]
	if ino != 0 && in.Flags&syscall.O_EXCL != 0 {
		return fuse.Status(syscall.EEXIST)
	}
	if ino != 0 && in.Flags&syscall.O_TRUNC != 0 {
		if st := f.do(Op{Kind: Resize, Ino: ino}); !st.Ok() {
			return st
		}
	}
	if ino == 0 {
		var st fuse.Status
		if ino, st = f.create(&in.InHeader, name, in.Mode&0o7777|unix.S_IFREG, 0, ""); !st.Ok() {
			return st
		}
		f.touch(in.NodeId)
	}
	f.entry(ino, &out.EntryOut)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (f *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	ino, st := f.create(&in.InHeader, "", in.Mode&0o7777|unix.S_IFREG, 0, "")
	if st.Ok() {
		f.entry(ino, &out.EntryOut)
	}
	return st
}

func (f *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tree.nodes[in.NodeId].kids[name] != 0 {
		return fuse.Status(syscall.EEXIST)
	}
	st := f.do(Op{Kind: Link, Ino: in.Oldnodeid, Dir: in.NodeId, Name: name, Path: f.path(in.NodeId) + "/" + name})
	if st.Ok() {
		f.touch(in.NodeId)
		f.entry(in.Oldnodeid, out)
	}
	return st
}

func (f *FS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.remove(h, name)
}

func (f *FS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.remove(h, name)
}

func (f *FS) remove(h *fuse.InHeader, name string) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	ino := f.tree.nodes[h.NodeId].kids[name]
	if ino == 0 {
		return fuse.ENOENT
	}
	if len(f.tree.nodes[ino].kids) > 0 {
		return fuse.Status(syscall.ENOTEMPTY)
	}
	st := f.do(Op{Kind: Unlink, Ino: ino, Dir: h.NodeId, Name: name, Path: f.path(h.NodeId) + "/" + name})
	if st.Ok() {
		f.touch(h.NodeId)
	}
	return st
}

func (f *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := Op{Kind: Rename, Dir: in.NodeId, Name: from, Dir2: in.Newdir, Name2: to, Path: f.path(in.NodeId) + "/" + from}
	o.Ino, o.Ino2 = f.tree.nodes[in.NodeId].kids[from], f.tree.nodes[in.Newdir].kids[to]
	switch {
	case o.Ino == 0 || in.Flags&unix.RENAME_EXCHANGE != 0 && o.Ino2 == 0:
		return fuse.ENOENT
	case in.Flags&unix.RENAME_EXCHANGE != 0:
		o.Kind = Swap
	case o.Ino2 != 0 && in.Flags&unix.RENAME_NOREPLACE != 0:
		return fuse.Status(syscall.EEXIST)
	case o.Ino2 != 0 && len(f.tree.nodes[o.Ino2].kids) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	case o.Ino == o.Ino2:
		return fuse.OK
	}
	if in.Flags&unix.RENAME_WHITEOUT != 0 {
		o.Whiteout, o.Attr.Mtime = f.fresh(), time.Now()
	}
	st := f.do(o)
	if st.Ok() {
		f.touch(o.Dir, o.Dir2)
	}
	return st
}

// OpenDir lists the folder once, so that who removes what it reads misses nothing.
func (f *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handles++
	f.listing[f.handles] = nil
	out.Fh = f.handles
	return fuse.OK
}

func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in.Offset == 0 { // opened, or rewound
		kids := f.tree.nodes[in.NodeId].kids
		list := []fuse.DirEntry{{Name: ".", Mode: unix.S_IFDIR, Ino: in.NodeId}, {Name: "..", Mode: unix.S_IFDIR, Ino: in.NodeId}}
		for _, name := range slices.Sorted(maps.Keys(kids)) {
			list = append(list, fuse.DirEntry{Name: name, Ino: kids[name], Mode: f.tree.nodes[kids[name]].Mode})
		}
		f.listing[in.Fh] = list
	}
	list := f.listing[in.Fh]
	for i := int(in.Offset); i < len(list); i++ {
		e := list[i]
		e.Off = uint64(i + 1)
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

func (f *FS) ReleaseDir(in *fuse.ReleaseIn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.listing, in.Fh)
}

func (f *FS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	value, ok := f.tree.nodes[h.NodeId].xattrs[name]
	if !ok {
		return 0, fuse.ENOATTR
	}
	return give(dest, value)
}

// give is how attributes are read: with no room, their length.
func give(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

func (f *FS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []byte
	for _, name := range slices.Sorted(maps.Keys(f.tree.nodes[h.NodeId].xattrs)) {
		list = append(append(list, name...), 0)
	}
	return give(dest, list)
}

func (f *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, there := f.tree.nodes[in.NodeId].xattrs[name]
	switch {
	case name == "system.posix_acl_access" || name == "system.posix_acl_default":
		return fuse.Status(syscall.EOPNOTSUPP)
	case there && in.Flags&unix.XATTR_CREATE != 0:
		return fuse.Status(syscall.EEXIST)
	case !there && in.Flags&unix.XATTR_REPLACE != 0:
		return fuse.ENOATTR
	}
	return f.do(Op{Kind: Setxattr, Ino: in.NodeId, Name: name, Data: append([]byte{}, data...)})
}

func (f *FS) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.tree.nodes[h.NodeId].xattrs[name]; !ok {
		return fuse.ENOATTR
	}
	return f.do(Op{Kind: Delxattr, Ino: h.NodeId, Name: name})
}
