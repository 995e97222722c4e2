package shim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/base/rootless"
	"brig/internal/runtime/shim/wire"
)

// Client is one connection to a shim. Requests and Wait are for one goroutine at a time; input, resizes and Done may come from others.
type Client struct {
	f    *os.File
	wmu  sync.Mutex // guards writes of frames
	buf  []byte
	exit *api.Exit
	pid  int // of the shim, when this process started it
}

// ErrGone means that the shim ended, or was killed, without an answer.
var ErrGone = errors.New("the container's shim is gone")

// Dial connects to the shim of the sandbox in dir; api.NotFound when there is none.
func Dial(dir string) (*Client, error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, api.Errorf(api.NotFound, "no sandbox at %s", dir)
	}
	defer unix.Close(d)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(d) + "/" + SocketName}); err != nil {
		unix.Close(fd)
		return nil, api.Errorf(api.NotFound, "%s: no shim answers: %w", dir, err)
	}
	return newClient(fd), nil
}

func newClient(fd int) *Client {
	unix.SetNonblock(fd, true) // so that deadlines work
	return &Client{f: os.NewFile(uintptr(fd), SocketName)}
}

// Kill kills the shim of the sandbox in dir, which may hang; api.NotFound when there is none, or it cleans up already. What it kept ends with it, or is for the next one to clean up.
func Kill(dir string) error {
	c, err := Dial(dir)
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.f.SyscallConn()
	if err != nil {
		return err
	}
	var listens *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { listens, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil || err != nil {
		return os.NewSyscallError("getsockopt", errors.Join(cerr, err))
	}
	p, err := unix.PidfdOpen(int(listens.Pid), 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(p)
	if !lock.Held(filepath.Join(dir, LockName)) { // it has ended, and that is another one with its number
		return api.Errorf(api.NotFound, "no sandbox at %s", dir)
	}
	return os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(p, unix.SIGKILL, nil, 0))
}

// Spawn starts a shim for the sandbox in dir and returns the owner's connection. program is brig-oci; subtree is as in [api.SandboxSpec].
func Spawn(program, dir, subtree string) (*Client, error) {
	// Not Try: who asks whether it is held, holds it for a moment. Nobody else takes the lock of a sandbox that is being made.
	l, err := lock.Take(filepath.Join(dir, LockName))
	if err != nil {
		return nil, err
	}
	defer l.Release() // the shim holds its own copy
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	fds := []int{pair[1], int(l.File().Fd())}
	if member := rootless.Membership(); member >= 0 {
		fds = append(fds, member)
	}
	argv := []string{"brig-oci", "shim", dir}
	if subtree != "" {
		argv = append(argv, subtree)
	}
	pid, err := forkExec(program, argv, fds)
	if err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	c := newClient(pair[0])
	c.pid = pid
	return c, nil
}

// SendFDs hands descriptors to the shim, which keeps them until it ends.
func (c *Client) SendFDs(fds []int) error {
	const most = 200 // the kernel takes 253 in one message: SCM_MAX_FD, unix(7)
	for len(fds) > 0 {
		n := min(len(fds), most)
		var h [wire.HeaderLen]byte
		wire.Header(h[:], wire.FrameFDs, 0)
		rc, err := c.f.SyscallConn()
		if err != nil {
			return err
		}
		werr := rc.Write(func(fd uintptr) bool {
			err = unix.Sendmsg(int(fd), h[:], unix.UnixRights(fds[:n]...), nil, unix.MSG_NOSIGNAL)
			return err != unix.EAGAIN
		})
		if err = errors.Join(werr, err); err != nil {
			return fmt.Errorf("handing descriptors to the shim: %w", err)
		}
		fds = fds[n:]
	}
	return nil
}

// Resolve has the shim of the sandbox in dir answer look-ups of names, from a folder of networks, on two sockets. api.InvalidArgument from one that does not know how.
func Resolve(ctx context.Context, dir, names string, sockets []*os.File) error {
	return give(ctx, dir, &wire.Request{Op: "resolve", Names: names}, sockets)
}

// Hold has the shim of the sandbox in dir keep descriptors open as long as it lives; the first is the network namespace of the user's bridges, which others find by
// the file. api.InvalidArgument from one that does not know how.
func Hold(ctx context.Context, dir, bridges string, files []*os.File) error {
	return give(ctx, dir, &wire.Request{Op: "hold", Bridges: bridges}, files)
}

// give sends descriptors and the request that they are for.
func give(ctx context.Context, dir string, r *wire.Request, files []*os.File) error {
	c, err := Dial(dir)
	if err != nil {
		return err
	}
	defer c.Close()
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if err := c.SendFDs(fds); err != nil {
		return err
	}
	_, err = c.Call(ctx, r)
	return err
}

// Call sends requests, all at once, and waits for their replies. It returns the first that is an error, else the last.
func (c *Client) Call(ctx context.Context, requests ...*wire.Request) (rep wire.Reply, err error) {
	if ctx.Err() != nil {
		return rep, ctx.Err()
	}
	for _, r := range requests {
		data, err := r.Encode()
		if err != nil {
			return rep, err
		}
		if err := c.write(wire.FrameRequest, data); err != nil {
			return rep, ErrGone
		}
	}
	defer c.deadline(ctx)()
	for range requests {
		next, rerr := c.reply(ctx)
		if rerr != nil && next.Error == "" && err == nil {
			return rep, rerr
		}
		if err == nil {
			rep, err = next, rerr
		}
	}
	return rep, err
}

// reply reads one reply. An error of the reply's own is in it too.
func (c *Client) reply(ctx context.Context) (wire.Reply, error) {
	kind, payload, err := wire.ReadFrame(c.f, c.buf)
	if err != nil {
		if ctx.Err() != nil {
			return wire.Reply{}, ctx.Err()
		}
		return wire.Reply{}, ErrGone
	}
	if kind != wire.FrameReply {
		return wire.Reply{}, fmt.Errorf("shim: frame %q where a reply is due", kind)
	}
	rep := wire.DecodeReply(payload)
	return rep, rep.Err()
}

// deadline breaks reads off when ctx ends; the returned function stops that.
func (c *Client) deadline(ctx context.Context) func() {
	if ctx.Done() == nil {
		return func() {}
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.f.SetReadDeadline(time.Unix(1, 0))
		close(done)
	})
	return func() {
		if !stop() {
			<-done // or it would set the deadline after this
			c.f.SetReadDeadline(time.Time{})
		}
	}
}

// Wait copies output to stdout and stderr, where they are not nil, until the process has ended.
// It returns ErrGone when the shim ended without a word.
func (c *Client) Wait(ctx context.Context, stdout, stderr io.Writer) (api.Exit, error) {
	defer c.deadline(ctx)()
	for c.exit == nil {
		kind, payload, err := wire.ReadFrame(c.f, c.buf)
		if err != nil {
			if ctx.Err() != nil {
				return api.Exit{}, ctx.Err()
			}
			return api.Exit{}, ErrGone
		}
		c.buf = payload[:0]
		switch kind {
		case wire.FrameStdout, wire.FrameStderr:
			w := stdout
			if kind == wire.FrameStderr {
				w = stderr
			}
			if w != nil {
				_, _ = w.Write(payload) // a closed pipe on our side is not the container's end
			}
		case wire.FrameExit:
			e := wire.DecodeExit(payload)
			c.exit = &e
		}
	}
	return *c.exit, nil
}

// Input sends bytes for standard input.
func (c *Client) Input(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), 32<<10)
		if err := c.write(wire.FrameStdin, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// CloseInput ends standard input.
func (c *Client) CloseInput() error { return c.write(wire.FrameStdin, nil) }

// Resize tells the terminal's size.
func (c *Client) Resize(w api.WindowSize) error {
	var b [4]byte
	binary.LittleEndian.PutUint16(b[:], w.Rows)
	binary.LittleEndian.PutUint16(b[2:], w.Cols)
	return c.write(wire.FrameResize, b[:])
}

// Done tells the shim that its owner has cleaned up. The shim removes the folders in trash, which nothing knows any more, before it ends.
func (c *Client) Done(trash ...string) error {
	return c.write(wire.FrameDone, []byte(strings.Join(trash, "\x00")))
}

// Drain returns when the shim, and the clean-up that may follow in its place, has ended.
func (c *Client) Drain(ctx context.Context) error {
	defer c.deadline(ctx)()
	var buf [4096]byte
	for {
		_, err := c.f.Read(buf[:])
		if err != nil {
			if c.pid > 0 { // it may be a moment from its end: then init takes it, or the next call
				unix.Wait4(c.pid, nil, unix.WNOHANG, nil)
			}
			return ctx.Err()
		}
	}
}

// Close leaves the connection.
func (c *Client) Close() error { return c.f.Close() }

func (c *Client) write(kind byte, payload []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return wire.WriteFrame(c.f, kind, payload)
}
