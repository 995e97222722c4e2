package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/lock"
)

// pollTime is how long a look for more input takes at the most.
const pollTime = 50 * time.Millisecond

// aside makes a copy from standard input wait for nobody who may wait for it: what writes the tar may be a copy out of the same container, which lets nobody else have it
// until all has been read. So it asks for the container when the first byte is there, and where another has the container then, the tar is put aside first, into a file without a
// name, which is returned; nil: it need not be.
func (e *Engine) aside(ctx context.Context, from, to *api.CopyPlace, s *api.Streams) (*os.File, error) {
	in, ok := s.Stdin.(*os.File)
	if from.Container != "" || from.Path != "-" || !ok {
		return nil, nil
	}
	if err := readable(ctx, in); err != nil {
		return nil, err
	}
	c, err := e.meta.Container(to.Container)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(e.meta.Dir(c.ID), "lock")
	for begun := time.Now(); time.Since(begun) < pollTime; time.Sleep(time.Millisecond) { // most have it for a moment
		if !lock.Held(path) {
			return nil, nil
		}
	}
	fd, err := unix.Open(e.root, unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open a temporary file in", Path: e.root, Err: err}
	}
	f := os.NewFile(uintptr(fd), "standard input, put aside")
	if err := putAside(ctx, in, f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readable returns when there is something to read, the end among that.
func readable(ctx context.Context, in *os.File) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}}, int(pollTime/time.Millisecond))
		switch {
		case n > 0, err != nil && err != unix.EINTR: // whoever reads is told
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// putAside copies all of in to f, and goes to its beginning.
func putAside(ctx context.Context, in, f *os.File) error {
	buf := make([]byte, 1<<20)
	for {
		if err := readable(ctx, in); err != nil {
			return err
		}
		n, err := in.Read(buf)
		if _, werr := f.Write(buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			_, err = f.Seek(0, io.SeekStart)
			return err
		}
		if err != nil {
			return err
		}
	}
}
