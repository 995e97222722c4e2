package lazy

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"brig/internal/store/snapshot"
)

// forever is how long the kernel may keep what it was told of the files: they do not change.
const forever = 24 * time.Hour

// Server serves images to the kernel, which mounts them below a folder.
//
// The folder is [snapshot.Served].
type Server struct {
	fuse.RawFileSystem
	server *fuse.Server
	images []*Image
	place  *snapshot.Served
	last   atomic.Int64 // when an image was read last, in Unix nanoseconds
	ended  chan struct{}
}

// Mount mounts images below the store's state folder, and returns where each is. They are read by the server until the kernel has no use for them; see Detach.
func Mount(store *snapshot.Store, images []*Image) (s *Server, paths []string, err error) {
	s = &Server{RawFileSystem: fuse.NewDefaultRawFileSystem(), images: images, ended: make(chan struct{})}
	if s.place, err = store.Serve(); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	s.server, err = fuse.NewServer(s, s.place.Images(), &fuse.MountOptions{
		DirectMountStrict: true, DirectMountFlags: unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_RDONLY, FsName: "brig", Name: "brig", DisableReadDirPlus: true,
		AllowOther: true, MaxWrite: 1 << 20, MaxReadAhead: 1 << 20, Options: []string{"default_permissions"},
		DisabledCapabilities: fuse.CAP_PASSTHROUGH, // with it the file system counts as a stacked one, of whose files the kernel mounts none
	})
	if err != nil {
		return nil, nil, fmt.Errorf("mount a FUSE file system: %w", err)
	}
	go func() {
		s.server.Serve()
		close(s.ended)
	}()
	if err := s.server.WaitMount(); err != nil {
		return nil, nil, err
	}
	for i := range images {
		path, err := s.place.Attach(strconv.Itoa(i))
		if err != nil {
			return nil, nil, fmt.Errorf("layer %s: %w", images[i].Name, err)
		}
		paths = append(paths, path)
	}
	return s, paths, nil
}

// Detach takes the mounts out of sight. Who has them keeps them.
func (s *Server) Detach() error { return s.place.Detach() }

// Close is the end of a server.
func (s *Server) Close() error { return s.place.Close() }

// Ended is closed when the kernel has no more use for the images.
func (s *Server) Ended() <-chan struct{} { return s.ended }

// Idle is how long nothing has been read.
func (s *Server) Idle() time.Duration { return time.Since(time.Unix(0, s.last.Load())) }

// Lookup implements fuse.RawFileSystem, as do all that follow.
func (s *Server) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	n, err := strconv.ParseUint(name, 10, 31)
	if h.NodeId != fuse.FUSE_ROOT_ID || err != nil || n >= uint64(len(s.images)) {
		return fuse.ENOENT
	}
	out.NodeId, out.Generation = n+2, 1
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	s.fill(n+2, &out.Attr)
	return fuse.OK
}

func (s *Server) fill(ino uint64, out *fuse.Attr) {
	*out = fuse.Attr{Ino: ino, Mode: unix.S_IFDIR | 0o500, Nlink: 2, Blksize: 4096}
	if ino != fuse.FUSE_ROOT_ID {
		size := uint64(s.images[ino-2].size)
		out.Mode, out.Nlink, out.Size, out.Blocks = unix.S_IFREG|0o400, 1, size, size/512
	}
}

func (s *Server) Forget(_, _ uint64) {}

func (s *Server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(forever)
	s.fill(in.NodeId, &out.Attr)
	return fuse.OK
}

func (s *Server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return fuse.EROFS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (s *Server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	m := s.images[in.NodeId-2]
	s.last.Store(time.Now().UnixNano())
	if err := m.Ensure(context.Background(), int64(in.Offset), int64(in.Size)); err != nil {
		return nil, fuse.EIO
	}
	s.last.Store(time.Now().UnixNano())
	return fuse.ReadResultFd(m.file.Fd(), int64(in.Offset), min(int(in.Size), len(buf))), fuse.OK
}

func (s *Server) Release(<-chan struct{}, *fuse.ReleaseIn) {}
func (s *Server) String() string                           { return "brig" }
