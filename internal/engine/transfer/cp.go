package transfer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/undo"
	"brig/internal/store/pack"
	"brig/internal/store/snapshot/extract"
)

// CopyFiles copies files between this machine and a container, or two containers, by docker's rules. Both ends are descriptors: what is read is packed from the
// one while it is unpacked into the other, and no name that a container can change is looked up outside of its root.
func (t *Transfer) CopyFiles(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	var none api.TransferReply
	if r.Source == nil || r.Target == nil {
		return none, api.Errorf(api.InvalidArgument, "cp: source or target is missing")
	}
	var u undo.Stack
	defer func() { u.Run() }()
	from, err := t.openEnd(r.Source)
	if err != nil {
		return none, err
	}
	u.Add(from.close)
	to, err := t.openEnd(r.Target)
	if err != nil {
		return none, err
	}
	u.Add(to.close)
	if err := to.actAsRoot(); err != nil {
		return none, err
	}
	c := &copying{from: from, to: to, archive: r.Archive}
	if err := c.look(r.FollowLink); err != nil {
		return none, err
	}
	u.Add(c.close)
	w := t.warnings()
	defer w.end()
	ctx, leave, err := to.whileRunning(ctx)
	if err != nil {
		return none, err
	}
	u.Add(leave)
	done := make(chan error, 1)
	go func() { done <- c.run(ctx, t, w) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(copyGrace): // it waits for who gives it the archive, or takes it
			u.Release() // what it has open it keeps, until this process ends
			return none, context.Cause(ctx)
		}
	}
	if err != nil && to.hasEnded() {
		err = to.ended()
	}
	return none, err
}

// copyGrace is how long a copy has that is to stop.
const copyGrace = 200 * time.Millisecond

// copying is one copy. Descriptors are -1 for a stream.
type copying struct {
	from, to *copyEnd
	archive  bool
	source   int    // what is copied
	as       string // the name that it gets; empty: what it holds goes into the target
	target   int    // the folder that it goes into
}

func (c *copying) close() {
	for _, fd := range []int{c.source, c.target} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// look opens both ends and finds what the copy is to be called there.
func (c *copying) look(follow bool) error {
	c.source, c.target = -1, -1
	err := c.lookAtSource(follow)
	if err == nil {
		err = c.lookAtTarget()
	}
	if err != nil {
		c.close()
	}
	return err
}

func (c *copying) lookAtSource(follow bool) error {
	if c.from.stream {
		return nil
	}
	p := c.from
	flags := unix.O_PATH
	if !follow && !p.slash {
		flags |= unix.O_NOFOLLOW
	}
	var err error
	if c.source, err = p.open(p.path, flags); err != nil {
		return p.missing(err)
	}
	isDir, err := isFolder(c.source)
	if err != nil {
		return err
	}
	if p.slash && !isDir {
		return api.Errorf(api.InvalidArgument, "%s is not a directory: leave the slash at its end out", p.name())
	}
	if err := p.plain(c.source); err != nil {
		return err
	}
	c.as = path.Base(p.path)
	if p.dot || c.as == "/" {
		c.as = ""
	}
	return nil
}

// lookAtTarget has docker's table of cases.
func (c *copying) lookAtTarget() error {
	p := c.to
	if p.stream {
		return nil
	}
	sourceIsDir := c.from.stream
	if !c.from.stream {
		var err error
		if sourceIsDir, err = isFolder(c.source); err != nil {
			return err
		}
	}
	where, err := p.follow()
	if err != nil {
		return p.missing(err)
	}
	fd, err := p.open(where, unix.O_PATH|unix.O_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		if c.from.stream || p.slash && !sourceIsDir {
			return api.Errorf(api.NotFound, "%s: no such directory", p.name())
		}
	case err != nil:
		return p.missing(err)
	default:
		isDir, err := isFolder(fd)
		if err != nil || isDir {
			c.target = fd
			return err
		}
		unix.Close(fd)
		if c.from.stream {
			return api.Errorf(api.InvalidArgument, "destination %q must be a directory", p.name())
		}
		if sourceIsDir {
			return api.Errorf(api.InvalidArgument, "cannot copy directory %s to file %s", c.from.name(), p.name())
		}
		if p.slash {
			return api.Errorf(api.InvalidArgument, "%s is not a directory: leave the slash at its end out", p.name())
		}
	}
	dir, base := split(where)
	c.as = base
	if c.target, err = p.open(dir, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return p.missing(err)
	}
	return nil
}

func isFolder(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// run moves the bytes.
func (c *copying) run(ctx context.Context, t *Transfer, w *warnings) error {
	if c.from.stream {
		return c.unpack(ctx, bufio.NewReaderSize(whileReader{ctx, t.Stdin}, 256<<10))
	}
	o := pack.Options{Warn: w.warn, Sparse: true, Skip: c.from.skip, Owner: c.from.inside()}
	if c.to.stream {
		if f, ok := t.Stdout.(*os.File); ok && isTerminal(f) {
			return api.Errorf(api.InvalidArgument, "refusing to write an archive to a terminal: redirect standard output")
		}
		return c.pack(ctx, t.Stdout, o)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := c.pack(ctx, pw, o)
		pw.CloseWithError(err)
		packed <- err
	}()
	err := c.unpack(ctx, bufio.NewReaderSize(whileReader{ctx, pr}, 256<<10))
	pr.CloseWithError(errors.New("the other end has failed")) // the packer does not wait for a reader
	if perr := <-packed; perr != nil && err == nil {
		return perr
	}
	return err
}

// whileReader reads as long as a context lasts.
type whileReader struct {
	ctx context.Context
	r   io.Reader
}

func (r whileReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

func (c *copying) pack(ctx context.Context, out io.Writer, o pack.Options) error {
	buffered := bufio.NewWriterSize(out, 256<<10)
	_, err := pack.Object(ctx, c.source, c.as, buffered, o)
	if err == nil {
		err = buffered.Flush()
	}
	return c.from.about(err)
}

// unpack also has what goes into a container that does not run be on the disk before it is reported done. In one that runs that is up to who reads it there, as
// with all that the container writes.
func (c *copying) unpack(ctx context.Context, in io.Reader) error {
	dir, err := unix.Openat(c.target, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return c.to.about(os.NewSyscallError("openat", err))
	}
	defer unix.Close(dir)
	mine := !c.to.container && !c.archive
	if _, err := extract.Into(ctx, dir, in, extract.Options{Mine: mine, Owner: c.to.outside()}); err != nil {
		return c.to.about(err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // what is behind the archive's end
		return err
	}
	if c.to.still {
		return c.to.about(os.NewSyscallError("syncfs", unix.Syncfs(dir)))
	}
	return nil
}

// splitPath makes a path absolute below base and clean. slash: it must be a folder; dot: what is in that folder is meant.
func splitPath(base, p string) (clean string, slash, dot bool) {
	slash = strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || p == "." || p == ".." || strings.HasSuffix(p, "/..")
	dot = p == "." || strings.HasSuffix(p, "/.")
	if !path.IsAbs(p) {
		p = base + "/" + p
	}
	return path.Clean(p), slash, dot
}
