package content

import (
	"context"
	"errors"
	"hash"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/base/lock"

	"github.com/opencontainers/go-digest"
)

// Writer takes in one blob. It ends with Commit or Abort; a process that dies before has left nothing but a file that is swept.
type Writer struct {
	ctx  context.Context
	s    *Store
	lock *lock.Lock // the file in ingest/, locked for as long as it is written
	path string
	want digest.Digest // "": any
	size int64         // -1: any
	n    int64
	hash hash.Hash
	err  error // first failure, or errDone
}

var errDone = errors.New("the writer has been committed or aborted")

// Writer begins a blob. want is its digest, or "" when that is to be found out (by sha256); size is its length in bytes, or -1.
// After ctx is cancelled, Write and Commit fail.
func (s *Store) Writer(ctx context.Context, want digest.Digest, size int64) (*Writer, error) {
	if want != "" {
		if err := Check(want); err != nil {
			return nil, err
		}
	}
	if err := s.prepare(); err != nil {
		return nil, s.full(err, want, size)
	}
	s.sweep.Do(s.sweepIngest)
	path := filepath.Join(s.dir, "ingest", id.New())
	l, err := lock.Take(path)
	if err != nil {
		return nil, s.full(err, want, size)
	}
	w := &Writer{ctx: ctx, s: s, lock: l, path: path, want: want, size: size}
	w.hash = newHash(w.algorithm())
	return w, nil
}

// Write appends to the blob. More bytes than announced are api.Corrupt, a full disk is api.Exhausted.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	if w.err == nil && w.size >= 0 && w.n+int64(len(p)) > w.size {
		w.err = api.Errorf(api.Corrupt, "blob %s: more than the announced %d bytes arrived", w.want, w.size)
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.lock.File().Write(p)
	w.n += int64(n)
	w.hash.Write(p[:n])
	if err != nil {
		w.err = w.s.full(err, w.want, max(w.size, w.n+int64(len(p)-n)))
	}
	return n, w.err
}

// Commit verifies length and digest and makes the blob visible and durable. It returns the digest and the length in bytes.
// Whatever it returns, the writer is at its end. A mismatch is api.Corrupt.
func (w *Writer) Commit() (digest.Digest, int64, error) {
	defer w.Abort()
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	if w.err != nil {
		return "", 0, w.err
	}
	got := digest.NewDigest(w.algorithm(), w.hash)
	switch {
	case w.size >= 0 && w.n != w.size:
		return "", 0, api.Errorf(api.Corrupt, "blob %s: %d bytes arrived instead of %d", got, w.n, w.size)
	case w.want != "" && got != w.want:
		return "", 0, api.Errorf(api.Corrupt, "blob %s: the bytes that arrived have digest %s", w.want, got)
	}
	if err := w.lock.File().Sync(); err != nil {
		return "", 0, w.s.full(err, got, w.n)
	}
	path, err := w.s.path(got)
	if err != nil {
		return "", 0, err
	}
	if err := os.Rename(w.path, path); err != nil {
		return "", 0, w.s.full(err, got, w.n)
	}
	w.err = errDone // the file has left ingest/
	w.lock.Release()
	return got, w.n, atomicfile.SyncDir(filepath.Dir(path))
}

// Abort drops what was written. After Commit it does nothing.
func (w *Writer) Abort() {
	if errors.Is(w.err, errDone) {
		return
	}
	w.err = errDone
	os.Remove(w.path)
	w.lock.Release()
}

func (w *Writer) algorithm() digest.Algorithm {
	if w.want == "" {
		return digest.SHA256
	}
	return w.want.Algorithm()
}

// claimPoll is how often a waiter looks whether another process has brought a blob in.
const claimPoll = 10 * time.Millisecond

// Claim is the right to bring a blob in.
type Claim struct {
	path string
	lock *lock.Lock
}

// Release lets go of the blob.
func (c *Claim) Release() {
	os.Remove(c.path)
	c.lock.Release()
}

// Claim waits until nobody else brings the blob in. After it the caller looks again whether the blob is there.
func (s *Store) Claim(ctx context.Context, d digest.Digest) (*Claim, error) {
	if err := Check(d); err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		return nil, s.full(err, d, -1)
	}
	path := filepath.Join(s.dir, "ingest", d.Encoded()+".lock")
	for {
		l, err := lock.Try(path)
		if err == nil {
			return &Claim{path, l}, nil
		}
		if !errors.Is(err, lock.ErrHeld) {
			return nil, s.full(err, d, -1)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(claimPoll):
		}
	}
}

// linkTime is how long a link may be on its way to its place: it is made, and goes there with the next system call.
const linkTime = time.Minute

// sweepIngest removes what dead writers left: a file whose lock is free, and links, which a lock would be taken through. It is housekeeping, so a failure is left
// to the next sweep.
func (s *Store) sweepIngest() {
	names, _ := readNames(filepath.Join(s.dir, "ingest"))
	for _, name := range names {
		path := filepath.Join(s.dir, "ingest", name)
		fi, err := os.Lstat(path)
		switch {
		case err != nil:
			continue
		case fi.Mode()&os.ModeSymlink != 0:
			if time.Since(fi.ModTime()) > linkTime {
				os.Remove(path)
			}
			continue
		}
		if l, err := lock.Try(path); err == nil {
			os.Remove(path)
			l.Release()
		}
	}
}

// full names the folder and the need when the disk is full.
func (s *Store) full(err error, d digest.Digest, size int64) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	if size < 0 {
		return api.Errorf(api.Exhausted, "blob %s: no space left in %s: %w", d, s.dir, err)
	}
	return api.Errorf(api.Exhausted, "blob %s: no space left in %s, where it needs %d bytes: %w", d, s.dir, size, err)
}
