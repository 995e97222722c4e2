package snapshot

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/store/snapshot/extract"
	"brig/internal/store/snapshot/tree"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	lockSuffix = ".lock"
	// lockPoll is how often a waiter looks whether another process has unpacked the layer.
	lockPoll = 20 * time.Millisecond
	// maxPadding is how many bytes may follow the archive's end marker; tar itself pads to 10 KiB.
	maxPadding = 64 << 20
)

// Claim takes the lock of a layer that may be missing, as soon as nobody else has it, so that a layer that several want is fetched once. After it the
// caller looks again whether the layer is there.
func (s *Store) Claim(ctx context.Context, diffID digest.Digest) (*Claim, error) {
	hex, err := checkDiffID(string(diffID))
	if err != nil {
		return nil, err
	}
	if err := s.makeFolders(); err != nil {
		return nil, s.name(err, diffID)
	}
	s.sweep()
	l, err := s.waitUnpack(ctx, hex)
	if err != nil {
		return nil, s.name(err, diffID)
	}
	return &Claim{s: s, diffID: diffID, hex: hex, lock: l}, nil
}

// Claim is the right to bring a layer in.
type Claim struct {
	s      *Store
	diffID digest.Digest
	hex    string
	lock   *lock.Lock
}

// Release lets go of the layer.
func (c *Claim) Release() { c.s.unlockUnpack(c.hex, c.lock) }

// Unpack is Claim, Unpack and Release in one, for a layer that may be there already: then the archive is read and verified, and that is all.
func (s *Store) Unpack(ctx context.Context, diffID digest.Digest, archive io.Reader) (size int64, err error) {
	c, err := s.Claim(ctx, diffID)
	if err != nil {
		return 0, err
	}
	defer c.Release()
	return c.Unpack(ctx, archive)
}

// Unpack extracts a layer's uncompressed archive and returns the bytes of file content in it. The archive's digest is held against the diff ID; then the
// layer appears at once, complete and durable. Where it is there already Unpack reads the archive to its end only, so a caller may send one stream here and
// elsewhere.
//
// A wrong digest or a malformed archive is api.Corrupt, a full disk api.Exhausted. On error nothing is left but what a dead process leaves too, and what it
// left is swept by the next Claim. Unpack does not touch archive after it has returned, so archive's Read must end when ctx is cancelled.
func (c *Claim) Unpack(ctx context.Context, archive io.Reader) (size int64, err error) {
	s, hex, diffID := c.s, c.hex, c.diffID
	in := newAhead(ctx, archive)
	defer in.stop()
	defer func() { err = s.name(err, diffID) }()
	if s.Has(diffID) {
		if err := in.verify(diffID, -1); err != nil {
			return 0, err
		}
		return s.LayerSize(string(diffID))
	}

	tmp := s.unpacking(hex)
	if err := tree.Remove(tmp); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			tree.Remove(tmp)
		}
	}()
	size, err = s.extract(ctx, tmp, in)
	if err != nil {
		return 0, err
	}
	if err := in.verify(diffID, maxPadding); err != nil {
		return 0, err
	}
	if err := s.publish(tmp, hex, size); err != nil {
		return 0, err
	}
	return size, nil
}

// extract fills the folder fs of tmp, which it makes.
func (s *Store) extract(ctx context.Context, tmp string, in io.Reader) (int64, error) {
	root := filepath.Join(tmp, "fs")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return 0, err
	}
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, 0o755); err != nil { // where the archive does not mention its root
		return 0, &fs.PathError{Op: "chmod", Path: root, Err: err}
	}
	done, err := extract.Tree(ctx, fd, in)
	return done.Bytes, err
}

// publish makes an extracted layer durable and visible, in this order. One syncfs(2) costs less than an fsync(2) a file.
func (s *Store) publish(tmp, hex string, size int64) error {
	if err := os.WriteFile(filepath.Join(tmp, "size"), strconv.AppendInt(nil, size, 10), 0o600); err != nil {
		return err
	}
	d, err := os.Open(tmp)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return &fs.PathError{Op: "syncfs", Path: tmp, Err: err}
	}
	if err := os.Rename(tmp, s.layer(hex)); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Join(s.dir, "layer"))
}

// makeFolders makes the folders of layers where they are missing.
func (s *Store) makeFolders() error {
	for _, sub := range [...]string{"layer", "unpack"} {
		dir := filepath.Join(s.dir, sub)
		if _, err := os.Lstat(dir); err == nil {
			continue
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := atomicfile.SyncDir(s.dir); err != nil {
			return err
		}
	}
	return nil
}

// waitUnpack takes the lock of a layer that is to come, as soon as nobody else has it.
func (s *Store) waitUnpack(ctx context.Context, hex string) (*lock.Lock, error) {
	for {
		l, err := lock.Try(s.unpacking(hex) + lockSuffix)
		if !errors.Is(err, lock.ErrHeld) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// lockUnpack waits for the lock of a layer, however long.
func (s *Store) lockUnpack(hex string) (*lock.Lock, error) {
	if err := s.makeFolders(); err != nil {
		return nil, err
	}
	return lock.Take(s.unpacking(hex) + lockSuffix)
}

func (s *Store) unlockUnpack(hex string, l *lock.Lock) {
	os.Remove(s.unpacking(hex) + lockSuffix)
	l.Release()
}

// sweep removes what dead processes left. A failure is left to the next sweep.
func (s *Store) sweep() {
	names, _ := readNames(filepath.Join(s.dir, "unpack"))
	for _, name := range names {
		hex := strings.TrimSuffix(strings.TrimSuffix(name, lockSuffix), oldSuffix)
		l, err := lock.Try(s.unpacking(hex) + lockSuffix)
		if err != nil {
			continue
		}
		if !s.resumable(hex) {
			_ = tree.Remove(s.unpacking(hex))
		}
		_ = tree.Remove(s.unpacking(hex) + oldSuffix)
		s.unlockUnpack(hex, l)
	}
}

// name says which layer an error is about, and where the disk is full.
func (s *Store) name(err error, d digest.Digest) error {
	if err == nil {
		return nil
	}
	kind := api.KindOf(err)
	if kind == "" && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
		kind = api.Exhausted
	}
	if kind == api.Exhausted {
		return api.Errorf(kind, "layer %s: unpacking to %s: %w; free some space there or choose another --root", d, s.dir, err)
	}
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EROFS) { // the disk's fault, and not the archive's
		return api.Errorf("", "layer %s: unpacking to %s: %w", d, s.dir, err)
	}
	return &api.Error{Kind: kind, Msg: "layer " + string(d), Err: err}
}
