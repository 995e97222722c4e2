package garbage

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/base/lock"
	"brig/internal/store/content"
)

const leaseDir = "lease"

// Lease keeps blobs and layers from being removed while its holder works with them. It is safe for use by several goroutines.
type Lease struct {
	s    Stores
	ctx  context.Context
	path string

	mu     sync.Mutex // guards what follows
	held   *lock.Lock // nil: released
	joined *os.File   // a parent's, in place of held
	on     map[string]bool
}

// Lease takes a lease, of nothing yet. It ends with Release or with this process. After ctx is cancelled Add fails.
func (s Stores) Lease(ctx context.Context) (*Lease, error) {
	dir := filepath.Join(s.Root, leaseDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l := &Lease{s: s, ctx: ctx, path: filepath.Join(dir, id.New()), on: map[string]bool{}}
	var err error
	l.held, err = lock.Take(l.path)
	return l, err
}

// File is the lease's file, for a child process that shall work under the same lease: see Join.
func (l *Lease) File() *os.File { return l.held.File() }

// Join is the lease that a parent process has handed over as an open file. It ends with the parent's.
func (s Stores) Join(ctx context.Context, f *os.File) *Lease {
	return &Lease{s: s, ctx: ctx, joined: f, on: map[string]bool{}}
}

// Add puts what is in the set, there or not, under the lease. What is there when Add returns stays. It waits for a removal that is under way, so
// the caller must not hold [Stores.Lock].
func (l *Lease) Add(set Set) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	file := l.joined
	if l.held != nil {
		file = l.held.File()
	}
	if file == nil {
		return api.Errorf(api.Conflict, "lease %s: it was released", filepath.Base(l.path))
	}
	var lines strings.Builder
	add := func(kind string, all []digest.Digest) {
		for _, d := range all {
			line := kind + string(d) + "\n"
			if content.Check(d) == nil && !l.on[line] {
				l.on[line] = true
				lines.WriteString(line)
			}
		}
	}
	add("blob ", set.Blobs)
	add("layer ", set.Layers)
	if lines.Len() == 0 {
		return nil
	}
	path, err := l.s.lockPath()
	if err != nil {
		return err
	}
	shared, err := within(l.ctx, func() (*lock.Lock, error) { return lock.Shared(path) })
	if err != nil {
		return err
	}
	defer shared.Release()
	if _, err := file.WriteString(lines.String()); err != nil {
		return api.Errorf(api.KindOf(err), "lease: %w", err)
	}
	return nil
}

// Release gives all up. It may be called again.
func (l *Lease) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.joined = nil
	if l.held == nil {
		return
	}
	os.Remove(l.path)
	l.held.Release()
	l.held = nil
}

// Leased are the layers that processes at work count on.
func (s Stores) Leased() (map[digest.Digest]bool, error) {
	n := newNeeds()
	err := s.neededByLeases(n)
	return n.layers, err
}

// neededByLeases adds what processes at work count on, and removes the leases of dead ones.
func (s Stores) neededByLeases(n *needs) error {
	entries, err := os.ReadDir(filepath.Join(s.Root, leaseDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.Root, leaseDir, e.Name())
		if l, err := lock.Try(path); err == nil {
			os.Remove(path)
			l.Release()
			continue
		} else if !errors.Is(err, lock.ErrHeld) {
			return err
		}
		set, err := readLease(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // released
		}
		if err != nil {
			err = api.Errorf(api.Corrupt, "nothing can be removed while a transfer is under way whose lease cannot be read; try again when it has ended: %w", err)
			n.blobDoubt, n.layerDoubt = err, err
		}
		n.add(set)
	}
	return nil
}

// readLease reads what a lease is on. A line that makes no sense is an error: it may have stood for anything.
func readLease(path string) (set Set, err error) {
	f, err := os.Open(path)
	if err != nil {
		return set, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		kind, d, _ := strings.Cut(lines.Text(), " ")
		err := content.Check(digest.Digest(d))
		switch {
		case err == nil && kind == "blob":
			set.Blobs = append(set.Blobs, digest.Digest(d))
		case err == nil && kind == "layer":
			set.Layers = append(set.Layers, digest.Digest(d))
		default:
			return set, api.Errorf(api.Corrupt, "%s: %q is not a line of a lease", path, lines.Text())
		}
	}
	return set, lines.Err()
}
