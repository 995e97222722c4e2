package extract

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"brig/internal/base/weak"

	"golang.org/x/sys/unix"
)

// maxOpen is how many folders are kept open. Archives come depth first, so the ancestors of an entry are nearly always among them.
const maxOpen = 64

// dirs opens folders of the layer by path and keeps them open. A descriptor that it returns is valid until the second next call.
type dirs struct {
	root   int
	fds    map[string]int
	used   []string // of fds, the one used last at the end
	top    int      // length of the root's own path, in bytes
	stale  bool
	mounts bool // what is mounted below the root is entered
}

func newDirs(root int) *dirs {
	return &dirs{root: root, fds: make(map[string]int, maxOpen)}
}

// open returns the folder of a cleaned path ("" is the root), made with its parents where it is missing.
func (d *dirs) open(name string) (int, error) {
	fd, err := d.find(name)
	if err != unix.ENOENT {
		return fd, err
	}
	parent, base := path.Split(name)
	at, err := d.open(strings.TrimSuffix(parent, "/"))
	if err != nil {
		return -1, err
	}
	if err := makeFolder(at, base); err != nil {
		return -1, err
	}
	return d.find(name)
}

// find is open for a folder that must exist; otherwise the error is ENOENT.
func (d *dirs) find(name string) (int, error) {
	if d.stale {
		d.forget()
	}
	if name == "" {
		return d.root, nil
	}
	if fd, ok := d.fds[name]; ok {
		if i := len(d.used) - 1; d.used[i] != name {
			i = slices.Index(d.used, name)
			d.used = append(slices.Delete(d.used, i, i+1), name)
		}
		return fd, nil
	}
	fd, err := d.resolve(name)
	if err != nil {
		return -1, err
	}
	if len(d.used) == maxOpen {
		unix.Close(d.fds[d.used[0]])
		delete(d.fds, d.used[0])
		d.used = slices.Delete(d.used, 0, 1)
	}
	d.fds[name] = fd
	d.used = append(d.used, name)
	return fd, nil
}

// resolve opens a folder below the root, where of a layer nothing is mounted. Only a path with links needs the look at where they lead.
func (d *dirs) resolve(name string) (int, error) {
	if weak.Unpack {
		return byName(d.root, name)
	}
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	if d.mounts {
		how.Resolve &^= unix.RESOLVE_NO_XDEV
	}
	fd, err := openat2(d.root, name, &how)
	if err != unix.ELOOP {
		return fd, err
	}
	how.Resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
	if d.mounts {
		how.Resolve &^= unix.RESOLVE_NO_XDEV
	}
	if fd, err = openat2(d.root, name, &how); err != nil {
		return -1, err
	}
	// By links to links a short path can lead to any depth, where no path leads to and no one can clean up.
	if err := d.checkDepth(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// byName is what resolve must not be.
func byName(root int, name string) (int, error) {
	return unix.Openat(root, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// checkDepth holds the limits against where a folder really is.
func (d *dirs) checkDepth(fd int) error {
	if d.top == 0 {
		n, err := unix.Readlink(procPath(d.root), make([]byte, MaxPath))
		if err != nil {
			return err
		}
		d.top = n
	}
	buf := make([]byte, d.top+MaxPath+1)
	n, err := unix.Readlink(procPath(fd), buf)
	if err != nil {
		return err
	}
	if n > d.top+MaxPath || n > d.top && strings.Count(string(buf[d.top:n]), "/") > MaxDepth {
		return unix.ENAMETOOLONG
	}
	return nil
}

// outdated says that a folder, or a link on the way to one, is being removed: from the next call on paths lead elsewhere. The
// descriptors in use stay valid until then.
func (d *dirs) outdated() { d.stale = true }

// forget closes all folders.
func (d *dirs) forget() {
	for _, fd := range d.fds {
		unix.Close(fd)
	}
	clear(d.fds)
	d.used, d.stale = d.used[:0], false
}

// openat2 is openat2(2), again where it was interrupted. With RESOLVE_IN_ROOT or BENEATH the kernel gives EAGAIN when any folder of the machine
// is renamed meanwhile, and asks to try again.
func openat2(dir int, name string, how *unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(dir, name, how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// procPath names an open file, for the calls that take no descriptor of the O_PATH kind.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
