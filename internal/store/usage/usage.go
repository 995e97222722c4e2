// Package usage measures what a folder takes on the disk, and what of it takes how much.
//
// It counts as du(1) does: the blocks that the file system gave to each object, folders included, a file with several names once, and
// nothing on another file system. The caller divides the tree into units, such as one layer or one container; every object under the
// folder belongs to exactly one, so the units add up to the whole. Units are measured side by side. All is done by folder descriptors, no link is
// followed, and folders may be nested as deep as they like: a container may have made them.
//
// The tree may change meanwhile: what is gone when it is looked at counts nothing.
package usage

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// BlockSize is the bytes in a unit of st_blocks, stat(2).
	BlockSize = 512
	// maxHeld is how many folders one walk holds open at a time; deeper down it comes back by "..".
	maxHeld = 64
	// batch is how many names are read at a time.
	batch = 1024
)

// Usage is what a folder takes, in bytes.
type Usage struct {
	Total int64
	Units map[string]int64
}

// Unit says which unit the object at path, relative to the folder and "." for itself, belongs to, and whether all that is below it belongs there
// too. It is called for the folder and for what lies below folders that are not whole.
type Unit func(path string) (unit string, whole bool)

// Measure adds up the folder root. One that is not there takes nothing.
func Measure(ctx context.Context, root string, unit Unit) (Usage, error) {
	f, err := open(unix.AT_FDCWD, root)
	if errors.Is(err, unix.ENOENT) {
		return Usage{Units: map[string]int64{}}, nil
	}
	if err != nil {
		return Usage{}, &os.PathError{Op: "open", Path: root, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return Usage{}, &os.PathError{Op: "stat", Path: root, Err: err}
	}
	m := &measure{
		ctx: ctx, unit: unit, dev: st.Dev, seen: map[uint64]bool{}, units: map[string]int64{},
		slots: make(chan struct{}, min(2*runtime.NumCPU(), 8)),
	}
	name, whole := unit(".")
	m.add(name, st.Blocks*BlockSize)
	if whole {
		var sum int64
		f, err = m.tree(f, 1, &sum)
		m.add(name, sum)
	} else {
		f, err = m.divide(f, ".")
	}
	if f != nil {
		f.Close()
	}
	m.work.Wait()
	if err = errors.Join(err, m.err); err != nil {
		return Usage{}, &os.PathError{Op: "measure", Path: root, Err: err}
	}
	u := Usage{Units: m.units}
	for _, n := range m.units {
		u.Total += n
	}
	return u, nil
}

// Of returns the bytes that one file, or folder with all that is in it, takes. What is not there takes nothing.
func Of(path string) (int64, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if err == unix.ENOENT {
		return 0, nil
	}
	if err != nil {
		return 0, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return st.Blocks * BlockSize, nil
	}
	u, err := Measure(context.Background(), path, func(string) (string, bool) { return "", true })
	return u.Total, err
}

type measure struct {
	ctx   context.Context
	unit  Unit
	dev   uint64
	slots chan struct{} // a walk of a unit holds one
	work  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	seen  map[uint64]bool
	units map[string]int64
	err   error // the first of a walk
}

func (m *measure) add(unit string, n int64) {
	m.mu.Lock()
	m.units[unit] += n
	m.mu.Unlock()
}

func (m *measure) fail(err error) {
	m.mu.Lock()
	if m.err == nil {
		m.err = err
	}
	m.mu.Unlock()
}

// divide goes through a folder that is not of one unit. It returns the folder as tree does.
func (m *measure) divide(f *os.File, path string) (*os.File, error) {
	return m.each(f, 1, func(dir int, name string, st *unix.Stat_t) (bool, error) {
		at := name
		if path != "." {
			at = path + "/" + name
		}
		unit, whole := m.unit(at)
		m.add(unit, st.Blocks*BlockSize)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return false, nil
		}
		child, err := open(dir, name)
		if err != nil {
			return false, changed(err)
		}
		if !whole {
			child, err = m.divide(child, at)
			if child != nil {
				child.Close()
			}
			return false, err
		}
		m.slots <- struct{}{}
		m.work.Go(func() {
			defer func() { <-m.slots }()
			var sum int64
			child, err := m.tree(child, 1, &sum)
			if child != nil {
				child.Close()
			}
			if err != nil {
				m.fail(err)
			}
			m.add(unit, sum)
		})
		return false, nil
	}, nil)
}

// tree adds up what is in an open folder, the held-th that this walk holds open. It returns the folder, which may have been opened anew, or nil.
func (m *measure) tree(f *os.File, held int, sum *int64) (*os.File, error) {
	return m.each(f, held, func(_ int, _ string, st *unix.Stat_t) (bool, error) {
		*sum += st.Blocks * BlockSize
		return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
	}, sum)
}

// each calls do for every object of a folder that is to be counted, and then adds up the folders for which it said so.
func (m *measure) each(f *os.File, held int, do func(dir int, name string, st *unix.Stat_t) (bool, error), sum *int64) (*os.File, error) {
	var below []string
	for {
		names, err := f.Readdirnames(batch)
		if m.ctx.Err() != nil {
			return f, context.Cause(m.ctx)
		}
		for _, name := range names {
			var st unix.Stat_t
			if unix.Fstatat(int(f.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Dev != m.dev || m.again(&st) {
				continue // removed meanwhile, of another file system, or counted
			}
			down, err := do(int(f.Fd()), name, &st)
			if err != nil {
				return f, err
			}
			if down {
				below = append(below, name)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return f, changed(err)
		}
	}
	for _, name := range below {
		child, err := open(int(f.Fd()), name)
		if err != nil {
			if err = changed(err); err != nil {
				return f, err
			}
			continue
		}
		if held < maxHeld {
			child, err = m.tree(child, held+1, sum)
			if child != nil {
				child.Close()
			}
			if err != nil {
				return f, err
			}
			continue
		}
		var here, back unix.Stat_t
		err = unix.Fstat(int(f.Fd()), &here)
		f.Close()
		if err != nil {
			child.Close()
			return nil, err
		}
		child, err = m.tree(child, held, sum)
		if err != nil || child == nil {
			if child != nil {
				child.Close()
			}
			return nil, err
		}
		f, err = open(int(child.Fd()), "..")
		child.Close()
		if err != nil {
			return nil, changed(err)
		}
		if unix.Fstat(int(f.Fd()), &back) != nil || back.Ino != here.Ino || back.Dev != here.Dev {
			f.Close()
			return nil, nil //nolint:nilerr // moved meanwhile: the rest is not where it was
		}
	}
	return f, nil
}

// again reports whether the object has several names and was counted by another.
func (m *measure) again(st *unix.Stat_t) bool {
	if st.Nlink < 2 || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen[st.Ino] {
		return true
	}
	m.seen[st.Ino] = true
	return false
}

func open(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// changed makes nothing of the error of what was removed or replaced meanwhile.
func changed(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	return err
}
