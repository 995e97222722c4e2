package shim

import (
	"os"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/nsfd"
	"brig/internal/runtime/shim/wire"
)

// holdBridges keeps the network namespace alive in which a normal user's bridges are, and lets others find it here: see internal/network/hub.go. The file stays
// open, behind the namespace in s.fds: to close it is to say that nothing is held.
func (s *server) holdBridges(ns int, path string) error {
	if s.bridges {
		return nil // it is the same one: a second is made only where nobody holds any
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := nsfd.Hold(fd, ns); err != nil {
		unix.Close(fd)
		return &os.PathError{Op: "lock", Path: path, Err: err}
	}
	s.fds = append(s.fds, fd)
	s.bridges = true
	return nil
}

// hold keeps what came with the request, for a container that has come to a network while it runs.
func (s *server) hold(c *conn, r *wire.Request) error {
	fds := c.given
	c.given = nil
	if len(fds) == 0 || r.Bridges == "" {
		closeAll(fds)
		return api.Errorf(api.InvalidArgument, "shim: hold: a namespace is wanted")
	}
	if s.bridges {
		unix.Close(fds[0])
		fds = fds[1:]
		s.fds = append(s.fds, fds...)
		return nil
	}
	held := len(s.fds)
	s.fds = append(s.fds, fds...)
	if err := s.holdBridges(fds[0], r.Bridges); err != nil {
		s.fds = s.fds[:held]
		closeAll(fds)
		return err
	}
	return nil
}
