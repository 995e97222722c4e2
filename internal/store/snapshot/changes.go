package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"

	"brig/api"
	"brig/internal/store/overlay"

	"golang.org/x/sys/unix"
)

// maxDepth bounds how deep folders may lie in one another: each level holds a descriptor for every layer that has it.
const maxDepth = 1000

// Changes tells what container id has changed of the layers diffIDs, bottom first, sorted as a walk of the tree meets it. skip says which entries are not
// the container's doing: it is given the path from the root without a leading slash. One that was never started has changed nothing.
//
// The upper folder of the overlay is walked by descriptors, and what is below it looked up in the layers: nothing is mounted but packed layers, which stay so.
func (s *Store) Changes(ctx context.Context, id string, diffIDs []string, skip func(path string, st *unix.Stat_t) bool) ([]api.Change, error) {
	upper, err := s.Upper(id)
	if errors.Is(err, api.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	lowers, err := s.Lowers(diffIDs)
	if err != nil {
		return nil, err
	}
	if s.below != "" {
		lowers = append(lowers, s.below)
	}
	w := &differ{ctx: ctx, skip: skip}
	var below []int
	defer func() { closeAll(below) }()
	for _, dir := range slices.Backward(lowers) {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
		}
		below = append(below, fd)
	}
	fd, err := unix.Open(upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: upper, Err: err}
	}
	err = w.folder(fd, "", below, 0)
	return w.changes, err
}

// differ collects changes.
type differ struct {
	ctx     context.Context
	skip    func(string, *unix.Stat_t) bool
	changes []api.Change
}

// folder looks at one folder of the upper layer, which it closes; below are the same folder's in the layers, top first, as far as they are seen.
func (w *differ) folder(fd int, path string, below []int, depth int) error {
	d := os.NewFile(uintptr(fd), "/"+path)
	defer d.Close()
	if depth > maxDepth {
		return api.Errorf(api.Unsupported, "/%s: folders lie more than %d deep", path, maxDepth)
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	var gone []string
	if isOpaque(fd) { // what the layers have here is hidden, and was the container's to see
		if gone, err = unseen(below, names); err != nil {
			return err
		}
	}
	all := append(slices.Clone(names), gone...)
	slices.Sort(all)
	for _, name := range all {
		if w.ctx.Err() != nil {
			return w.ctx.Err()
		}
		p := name
		if path != "" {
			p = path + "/" + name
		}
		if slices.Contains(gone, name) {
			w.add(api.Deleted, p)
			continue
		}
		if err := w.entry(fd, name, p, below, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *differ) add(kind api.ChangeKind, path string) {
	w.changes = append(w.changes, api.Change{Kind: kind, Path: "/" + path})
}

// entry looks at one name of an upper folder.
func (w *differ) entry(dir int, name, path string, below []int, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			return nil // the container runs
		}
		return &fs.PathError{Op: "stat", Path: "/" + path, Err: err}
	}
	if w.skip != nil && w.skip(path, &st) {
		return nil
	}
	old, had := lookBelow(below, name)
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	kind := api.Added
	switch {
	case isWhiteout(&st):
		if had {
			w.add(api.Deleted, path)
		}
		return nil
	case had:
		kind = api.Changed
	}
	at := len(w.changes)
	w.add(kind, path)
	if !isDir {
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: "/" + path, Err: err}
	}
	next := openBelow(below, name)
	defer closeAll(next)
	if err := w.folder(fd, path, next, depth+1); err != nil {
		return err
	}
	if kind == api.Changed && len(w.changes) == at+1 && sameFolder(&st, &old) {
		w.changes = w.changes[:at] // it was only copied up, as for a mount in it
	}
	return nil
}

// sameFolder reports whether two folders differ in nothing that a user sees.
func sameFolder(a, b *unix.Stat_t) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && a.Mtim == b.Mtim
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// isOpaque reports whether a folder hides those below it: Documentation/filesystems/overlayfs.rst.
func isOpaque(fd int) bool {
	var b [2]byte
	n, err := unix.Fgetxattr(fd, overlay.Opaque(), b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

// lookBelow finds a name in the layers, top first.
func lookBelow(below []int, name string) (st unix.Stat_t, found bool) {
	for _, fd := range below {
		if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			return st, !isWhiteout(&st)
		}
	}
	return st, false
}

// openBelow opens the folders of a name that the layers merge, top first.
func openBelow(below []int, name string) (list []int) {
	for _, fd := range below {
		var st unix.Stat_t
		if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			break // it hides what is below it, be it a whiteout or a file
		}
		sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		list = append(list, sub)
		if isOpaque(sub) {
			break
		}
	}
	return list
}

// unseen lists what the layers have in a folder and the upper one, whose names are given, has not.
func unseen(below []int, names []string) (list []string, err error) {
	seen := map[string]bool{}
	for _, n := range names {
		seen[n] = true
	}
	for _, fd := range below {
		copied, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("openat", err)
		}
		d := os.NewFile(uintptr(copied), "layer")
		layer, err := d.Readdirnames(-1)
		d.Close()
		if err != nil {
			return nil, err
		}
		for _, n := range layer {
			if seen[n] {
				continue
			}
			seen[n] = true
			if _, there := lookBelow(below, n); there {
				list = append(list, n)
			}
		}
	}
	return list, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
