package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/weak"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/proc"
)

// copyEnd is one end of a copy.
type copyEnd struct {
	stream    bool
	container bool
	still     bool          // one that does not run
	id        string        // of the container
	process   int           // its first one, a pidfd; -1: it does not run
	typed     string        // for messages
	path      string        // absolute and clean
	slash     bool          // it must be a folder
	dot       bool          // what is in that folder
	root      int           // of the container
	uids      []api.IDRange // of its user namespace, none: it has none
	gids      []api.IDRange
	special   map[uint64]bool // devices of file systems that hold no files: proc and its like
	end       func()
}

// openEnd opens an end. A container that runs is entered by its first process's root, with all that is mounted there; for one that does not run its root
// file system is mounted, with its volumes, where nobody else sees it.
func (t *Transfer) openEnd(c *api.CopyPlace) (*copyEnd, error) {
	p := &copyEnd{typed: c.Path, root: -1, process: -1, container: c.Container != "", id: c.Container, end: func() {}}
	if !p.container {
		if c.Path == "-" {
			p.stream = true
			return p, nil
		}
		here, err := os.Getwd()
		if err != nil {
			return nil, err
		}
		if c.Path == "" {
			return nil, api.Errorf(api.InvalidArgument, "cp: the path on this machine is empty")
		}
		p.path, p.slash, p.dot = splitPath(here, c.Path)
		return p, nil
	}
	p.path, p.slash, p.dot = splitPath("/", c.Path)
	p.uids, p.gids = c.UIDMap, c.GIDMap
	var err error
	if c.Pid > 0 {
		err = p.enter(c)
	} else {
		p.still = true
		p.root, p.end, err = t.assemble(c)
	}
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "container %.12s: its root file system: %w", c.Container, err)
	}
	return p, nil
}

// enter opens the root of a process.
func (p *copyEnd) enter(c *api.CopyPlace) error {
	dir := "/proc/" + strconv.Itoa(c.Pid)
	process, err := unix.PidfdOpen(c.Pid, 0)
	if err != nil {
		return errEnded()
	}
	fd, err := unix.Open(dir+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil || !proc.Alive(c.Pid, c.Ticks) { // checked after both are open: they cannot become another's any more
		if err == nil {
			unix.Close(fd)
		}
		unix.Close(process)
		return errEnded()
	}
	if c.Below != "" {
		root, err := unix.Openat2(fd, c.Below, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		unix.Close(fd)
		if fd = root; err != nil {
			unix.Close(process)
			return &os.PathError{Op: "open", Path: c.Below, Err: err}
		}
	}
	p.root, p.process = fd, process
	p.special = specialDevices(dir + "/mountinfo")
	return nil
}

func errEnded() error { return api.Errorf(api.Conflict, "it has just ended: try again") }

// whileRunning returns a context that ends with the container's first process, for who writes to it.
func (p *copyEnd) whileRunning(ctx context.Context) (context.Context, func(), error) {
	if p.process < 0 {
		return ctx, func() {}, nil
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("eventfd", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	left := make(chan struct{})
	go func() {
		defer close(left)
		fds := []unix.PollFd{{Fd: int32(p.process), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(fds, -1); err != unix.EINTR {
				break
			}
		}
		if fds[0].Revents != 0 {
			cancel(p.ended())
		}
	}()
	return ctx, func() {
		_, _ = unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		<-left
		unix.Close(stop)
		cancel(nil)
	}, nil
}

// ended is the error of a copy whose container goes away under it.
func (p *copyEnd) ended() error {
	return api.Errorf(api.Conflict, "container %.12s ended while files were copied into it: start it and copy again", p.id)
}

// hasEnded reports whether the container that was entered does not run any more.
func (p *copyEnd) hasEnded() bool {
	if p.process < 0 {
		return false
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.process), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// specialDevices are those of file systems whose files are made up by the kernel: they tell no size, and reading some of them waits, or does something.
func specialDevices(mountinfo string) map[uint64]bool {
	f, err := os.Open(mountinfo)
	if err != nil {
		return nil
	}
	defer f.Close()
	all := map[uint64]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		front, back := strings.Fields(before), strings.Fields(after)
		if len(front) < 3 || len(back) < 1 {
			continue
		}
		switch back[0] {
		case "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue":
			major, minor, _ := strings.Cut(front[2], ":")
			a, _ := strconv.ParseUint(major, 10, 32)
			b, _ := strconv.ParseUint(minor, 10, 32)
			all[unix.Mkdev(uint32(a), uint32(b))] = true
		}
	}
	return all
}

func (p *copyEnd) skip(_ string, st *unix.Stat_t) bool {
	return p.special[uint64(st.Dev)] //nolint:unconvert // not of this type on every architecture
}

// plain refuses to copy from a file system without files.
func (p *copyEnd) plain(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if p.skip("", &st) {
		return api.Errorf(api.Unsupported, "%s: what is there the kernel makes up when it is read: use `brig exec` and cat", p.name())
	}
	return nil
}

// open opens a path of this place. In a container nothing leads out of its root.
func (p *copyEnd) open(name string, flags int) (int, error) {
	if !p.container {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return fd, nil
	}
	if weak.Copy {
		return unix.Open("/proc/self/fd/"+strconv.Itoa(p.root)+"/"+name, flags|unix.O_CLOEXEC, 0)
	}
	return mount.OpenInRoot(p.root, strings.TrimPrefix(name, "/"), flags, 0)
}

const maxLinks = 40 // symbolic links in a row, as the kernel has it: path_resolution(7)

// follow returns where the place's own name leads, when that is a symbolic link to a name that may not exist. What it returns is looked up anew, in the root.
// It is not cleaned: what .. stands for behind a link only the kernel knows.
func (p *copyEnd) follow() (string, error) {
	where := p.path
	for range maxLinks {
		dir, base := split(where)
		if base == "." || base == ".." || base == "/" {
			return where, nil
		}
		fd, err := p.open(dir, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return "", err
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, base, buf)
		unix.Close(fd)
		if err == unix.EINVAL || err == unix.ENOENT {
			return where, nil
		}
		if err != nil {
			return "", &os.PathError{Op: "readlink", Path: where, Err: err}
		}
		if where = string(buf[:n]); !path.IsAbs(where) {
			where = dir + "/" + where
		}
	}
	return "", unix.ELOOP
}

// split cuts the last name off an absolute path; that of the root is "/".
func split(where string) (dir, base string) {
	where = strings.TrimRight(where, "/")
	if where == "" {
		return "/", "/"
	}
	i := strings.LastIndexByte(where, '/')
	return where[:i+1], where[i+1:]
}

func (p *copyEnd) name() string {
	if p.container {
		return p.path
	}
	return p.typed
}

// missing is the error of a path that cannot be opened.
func (p *copyEnd) missing(err error) error {
	if errors.Is(err, unix.ENOENT) {
		if p.container {
			return api.Errorf(api.NotFound, "could not find the file %s in the container", p.name())
		}
		return api.Errorf(api.NotFound, "%s: no such file or directory", p.name())
	}
	return p.about(err)
}

// about says which end an error is of.
func (p *copyEnd) about(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return api.Errorf(api.Conflict, "%s: it is mounted read-only: %w", p.name(), err)
	}
	return api.Errorf(api.KindOf(err), "%s: %w", p.name(), err)
}

func (p *copyEnd) close() {
	for _, fd := range []int{p.root, p.process} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	p.end()
}

// assemble mounts the root of a container that does not run, writable, and its volumes and binds in it, in a mount namespace that ends with the thread that it
// is made for, and opens it. The caller holds the container's lock, so that nobody starts it meanwhile.
func (t *Transfer) assemble(c *api.CopyPlace) (root int, end func(), err error) {
	type result struct {
		fd  int
		err error
	}
	done, over := make(chan result, 1), make(chan struct{})
	left := make(chan struct{})
	go func() {
		defer close(left)
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		fd, err := assembleHere(c, t.stores.Root)
		done <- result{fd, err}
		<-over
		if err == nil { // not left to the end of the thread: who starts the container next may be quicker
			_ = unix.Unmount(t.stores.Root, unix.MNT_DETACH)
		}
	}()
	r := <-done
	end = func() {
		close(over)
		<-left
	}
	if r.err != nil {
		end()
		return -1, nil, r.err
	}
	return r.fd, end, nil
}

// assembleHere is assemble in this thread's own mount namespace, which it makes. at is a folder to mount on.
func assembleHere(c *api.CopyPlace, at string) (int, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, os.NewSyscallError("mount", err)
	}
	// What they are made of lies below the place that the root is mounted on.
	sources := make([]int, len(c.Mounts))
	for i := range c.Mounts {
		fd, err := cloneMount(&c.Mounts[i])
		if err != nil {
			return -1, fmt.Errorf("%s for %s: %w", c.Mounts[i].Type, c.Mounts[i].Target, err)
		}
		defer unix.Close(fd)
		sources[i] = fd
	}
	root, err := mountRoot(c.Root, at)
	if err != nil {
		return -1, err
	}
	for i := range c.Mounts {
		if err := attachIn(root, sources[i], &c.Mounts[i]); err != nil {
			unix.Close(root)
			return -1, fmt.Errorf("%s for %s: %w", c.Mounts[i].Type, c.Mounts[i].Target, err)
		}
	}
	return root, nil
}

// cloneMount opens what is mounted in a container, in a volume looked up with the volume as the root: what is in there is the container's.
func cloneMount(m *api.MountSpec) (int, error) {
	if m.Subpath == "" {
		return mount.Clone(unix.AT_FDCWD, m.Source, true)
	}
	top, err := unix.Open(m.Source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: m.Source, Err: err}
	}
	defer unix.Close(top)
	at, err := mount.OpenInRoot(top, m.Subpath, unix.O_PATH, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	return mount.Clone(at, "", true)
}

// mountRoot mounts what the snapshot says at a folder, and opens it.
func mountRoot(mounts []api.Mount, at string) (int, error) {
	if len(mounts) != 1 {
		return -1, api.Errorf(api.Unsupported, "its root is of %d mounts", len(mounts))
	}
	m := mounts[0]
	const attr = unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
	var fd int
	var err error
	switch {
	case m.Type == "bind":
		if fd, err = mount.Clone(unix.AT_FDCWD, m.Source, false); err == nil {
			err = mount.SetAttr(fd, false, attr, 0, unix.MS_PRIVATE)
		}
	case len(m.Options) > 0 && strings.HasPrefix(m.Options[0], "lowerdir="): // one option, too long for fsconfig(2)
		err = unix.Mount(m.Source, at, m.Type, unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, strings.Join(m.Options, ","))
		if err != nil {
			return -1, &os.PathError{Op: "mount overlay", Path: at, Err: err}
		}
		return unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	default:
		fd, err = mount.New(m.Type, m.Source, m.Options, attr)
	}
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	place, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(place)
	if err := mount.Attach(fd, place); err != nil {
		return -1, err
	}
	return unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// attachIn attaches a volume or bind in the root, at a place that is made where it is missing, as at a start.
func attachIn(root, source int, m *api.MountSpec) error {
	if m.ReadOnly {
		if err := mount.SetAttr(source, true, unix.MOUNT_ATTR_RDONLY, 0, unix.MS_PRIVATE); err != nil {
			return err
		}
	}
	isDir, err := isFolder(source)
	if err != nil {
		return err
	}
	makePlace := mount.MkfileInRoot
	if isDir {
		makePlace = mount.MkdirAllInRoot
	}
	at, err := makePlace(root, strings.TrimPrefix(path.Clean(m.Target), "/"), 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return mount.Attach(source, at)
}
