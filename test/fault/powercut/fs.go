package powercut

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// forever is how long the kernel may keep what it was told: nobody else changes the files.
const forever = 24 * time.Hour

// FS is a mounted file system in memory. Its methods may be called at any time.
type FS struct {
	fuse.RawFileSystem // answers ENOSYS to what is not here
	server             *fuse.Server
	dir                string

	mu      sync.Mutex
	tree    *Tree
	next    uint64           // the next inode's number
	links   map[uint64]int   // names of each inode
	places  map[uint64]place // where each inode is, or was last, for traces
	listing map[uint64][]fuse.DirEntry
	handles uint64
	trace   *Trace
	count   int // operations since the trace began, marks not counted
	fail    func(n int, o *Op) syscall.Errno
	sealed  syscall.Errno // what opening for writing gives
}

// Mount mounts a file system with the content of tree, which it takes over, on the folder dir.
func Mount(dir string, tree *Tree) (*FS, error) {
	f := &FS{RawFileSystem: fuse.NewDefaultRawFileSystem(), dir: dir, tree: tree, links: map[uint64]int{}, places: map[uint64]place{}, listing: map[uint64][]fuse.DirEntry{}}
	f.next = rootIno + 1
	for ino, n := range tree.nodes {
		f.next = max(f.next, ino+1)
		for name, kid := range n.kids {
			f.links[kid]++
			f.places[kid] = place{ino, name}
		}
	}
	f.trace = &Trace{Base: tree.Clone()}
	server, err := fuse.NewServer(f, dir, &fuse.MountOptions{
		AllowOther: true, DirectMountStrict: true, DirectMountFlags: unix.MS_MGC_VAL, Options: []string{"default_permissions"},
		FsName: "powercut", Name: "powercut", DisableReadDirPlus: true, MaxWrite: 128 << 10,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH, // with it the file system counts as a stacked one, of whose files the kernel mounts none
	})
	if err != nil {
		return nil, fmt.Errorf("mount a FUSE file system on %s: %w", dir, err)
	}
	f.server = server
	go server.Serve()
	return f, server.WaitMount()
}

// place is a name in a folder.
type place struct {
	dir  uint64
	name string
}

func (f *FS) path(ino uint64) string {
	if p, ok := f.places[ino]; ok {
		return f.path(p.dir) + "/" + p.name
	}
	return ""
}

// Unmount ends the file system, also under who still uses it.
func (f *FS) Unmount() error {
	if err := unix.Unmount(f.dir, unix.MNT_DETACH); err != nil {
		return &os.PathError{Op: "unmount", Path: f.dir, Err: err}
	}
	return nil
}

// Begin begins a new trace: what is there now is taken to be durable.
func (f *FS) Begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trace, f.count = &Trace{Base: f.tree.Clone()}, 0
}

// Trace is what happened since Begin.
func (f *FS) Trace() *Trace {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &Trace{f.trace.Base, f.trace.Ops[:len(f.trace.Ops):len(f.trace.Ops)]}
}

// Tree is a copy of what is there.
func (f *FS) Tree() *Tree {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tree.Clone()
}

// Mark puts a mark into the trace.
func (f *FS) Mark(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trace.Ops = append(f.trace.Ops, Op{Kind: Done, Name: name})
}

// Count is how many operations there were since Begin, failed ones included.
func (f *FS) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// Fail lets fail decide about each operation from now on, the first having the number n = 1: what it returns is its error, zero lets it happen. With nil all goes
// well again. sealed, if not zero, is what an open for writing gives, which is no operation: EROFS of a disk that can only be read.
func (f *FS) Fail(fail func(n int, o *Op) syscall.Errno, sealed syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.sealed, f.count = fail, sealed, 0
}

// do carries out an operation and writes it down. f.mu is held.
func (f *FS) do(o Op) fuse.Status {
	f.count++
	if o.Path == "" {
		o.Path = f.path(o.Ino)
	}
	if f.fail != nil {
		if errno := f.fail(f.count, &o); errno != 0 {
			return fuse.Status(errno)
		}
	}
	switch o.Kind {
	case Create:
		if o.Name != "" {
			f.links[o.Ino]++
			f.places[o.Ino] = place{o.Dir, o.Name}
		}
	case Link:
		f.links[o.Ino]++
	case Unlink:
		f.links[o.Ino]--
	case Rename:
		if o.Ino2 != 0 {
			f.links[o.Ino2]--
		}
		f.places[o.Ino] = place{o.Dir2, o.Name2}
		if o.Whiteout != 0 {
			f.links[o.Whiteout]++
		}
	}
	f.tree.apply(&o)
	f.trace.Ops = append(f.trace.Ops, o)
	return fuse.OK
}

// Syncfs is told of a syncfs(2) or sync(2) that is about to happen; the error is the call's.
func (f *FS) Syncfs() syscall.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	return syscall.Errno(f.do(Op{Kind: Syncfs, Path: "/"}))
}

func (f *FS) fresh() uint64 {
	f.next++
	return f.next - 1
}

func (f *FS) String() string { return "powercut" }

// fill tells the kernel what an inode is.
func (f *FS) fill(ino uint64, out *fuse.Attr) {
	n := f.tree.nodes[ino]
	*out = fuse.Attr{Ino: ino, Mode: n.Mode, Nlink: uint32(f.links[ino]), Rdev: n.Rdev, Blksize: 4096, Owner: fuse.Owner{Uid: n.UID, Gid: n.GID}}
	out.SetTimes(&n.Atime, &n.Mtime, &n.Mtime)
	switch {
	case n.isDir():
		out.Nlink = 2
		for _, kid := range n.kids {
			if f.tree.nodes[kid].isDir() {
				out.Nlink++
			}
		}
	case n.isFile():
		out.Size = uint64(n.data.size)
		out.Blocks = (out.Size + 511) / 512
	default:
		out.Size = uint64(len(n.target))
	}
}

func (f *FS) entry(ino uint64, out *fuse.EntryOut) {
	out.NodeId, out.Generation = ino, 1
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	f.fill(ino, &out.Attr)
}

// Lookup implements fuse.RawFileSystem, as do all that follow.
func (f *FS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.tree.nodes[h.NodeId]
	if d == nil || !d.isDir() {
		return fuse.ENOTDIR
	}
	ino := d.kids[name]
	if ino == 0 {
		return fuse.ENOENT
	}
	f.entry(ino, out)
	return fuse.OK
}

// Forget has nothing to do: inodes stay in memory as long as the mount.
func (f *FS) Forget(_, _ uint64) {}

func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	out.SetTimeout(forever)
	f.fill(in.NodeId, &out.Attr)
	return fuse.OK
}

func (f *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if size, ok := in.GetSize(); ok {
		if st := f.do(Op{Kind: Resize, Ino: in.NodeId, Size: int64(size)}); !st.Ok() {
			return st
		}
	}
	o := Op{Kind: Setattr, Ino: in.NodeId}
	if mode, ok := in.GetMode(); ok {
		o.Set, o.Attr.Mode = o.Set|SetMode, mode
	}
	if uid, ok := in.GetUID(); ok {
		o.Set, o.Attr.UID = o.Set|SetUID, uid
	}
	if gid, ok := in.GetGID(); ok {
		o.Set, o.Attr.GID = o.Set|SetGID, gid
	}
	if t, ok := in.GetATime(); ok {
		o.Set, o.Attr.Atime = o.Set|SetAtime, t
	}
	if t, ok := in.GetMTime(); ok {
		o.Set, o.Attr.Mtime = o.Set|SetMtime, t
	}
	if o.Set != 0 {
		if st := f.do(o); !st.Ok() {
			return st
		}
	}
	out.SetTimeout(forever)
	f.fill(in.NodeId, &out.Attr)
	return fuse.OK
}

func (f *FS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Blocks: 1 << 22, Bfree: 1 << 22, Bavail: 1 << 22, Files: 1 << 20, Ffree: 1 << 20, Bsize: 4096, Frsize: 4096, NameLen: 255}
	return fuse.OK
}

func (f *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sealed != 0 && in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return fuse.Status(f.sealed)
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if in.Flags&syscall.O_TRUNC != 0 {
		return f.do(Op{Kind: Resize, Ino: in.NodeId})
	}
	return fuse.OK
}

func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.tree.nodes[in.NodeId].data.read(buf[:in.Size], int64(in.Offset))
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (f *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.do(Op{Kind: Write, Ino: in.NodeId, Off: int64(in.Offset), Data: append([]byte(nil), data...)})
	if !st.Ok() {
		return 0, st
	}
	f.tree.nodes[in.NodeId].Mtime = time.Now() // as the kernel's own file systems do; not worth an operation
	return uint32(len(data)), fuse.OK
}

func (f *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	size, end := f.tree.nodes[in.NodeId].data.size, int64(in.Offset+in.Length)
	if in.Mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
		if st := f.do(Op{Kind: Punch, Ino: in.NodeId, Off: int64(in.Offset), Size: int64(in.Length)}); !st.Ok() {
			return st
		}
	} else if in.Mode&^unix.FALLOC_FL_KEEP_SIZE != 0 {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	if in.Mode&unix.FALLOC_FL_KEEP_SIZE == 0 && end > size {
		return f.do(Op{Kind: Resize, Ino: in.NodeId, Size: end})
	}
	return fuse.OK
}

func (f *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (f *FS) Release(<-chan struct{}, *fuse.ReleaseIn) {}

func (f *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	kind := Fsync
	if in.FsyncFlags&1 != 0 { // FUSE_FSYNC_FDATASYNC
		kind = Datasync
	}
	return f.do(Op{Kind: kind, Ino: in.NodeId})
}

func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do(Op{Kind: Fsync, Ino: in.NodeId})
}
