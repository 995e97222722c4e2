package shim

import (
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/runtime/shim/wire"
)

// TestHold: what is given to be kept is kept once, and closed where it cannot be.
func TestHold(t *testing.T) {
	s, err := newServer(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s.ep)
	given := func(n int) []int {
		var fds []int
		for range n {
			fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
		return fds
	}
	open := func(fd int) bool {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		return err == nil
	}
	path := t.TempDir() + "/hub"
	if err := s.hold(&conn{}, &wire.Request{Bridges: path}); !errors.Is(err, api.InvalidArgument) {
		t.Error(err)
	}
	fds := given(2)
	if err := s.hold(&conn{given: fds}, &wire.Request{Bridges: path}); !errors.Is(err, os.ErrNotExist) || open(fds[0]) || open(fds[1]) || len(s.fds) != 0 {
		t.Error(err, s.fds)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fds = given(2)
	if err := s.hold(&conn{given: fds}, &wire.Request{Bridges: path}); err != nil || !s.bridges || len(s.fds) != 3 || !slices.Equal(s.fds[:2], fds) {
		t.Error(err, s.fds)
	}
	again := given(2)
	if err := s.hold(&conn{given: again}, &wire.Request{Bridges: path}); err != nil || open(again[0]) || !open(again[1]) || len(s.fds) != 4 {
		t.Error(err, s.fds)
	}
	closeAll(s.fds)
}
