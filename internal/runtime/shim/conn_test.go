package shim

import (
	"testing"

	"golang.org/x/sys/unix"

	"brig/internal/runtime/shim/wire"
)

// TestGivenUp: an owner that has gone, or has sent word that it is done, is seen behind the request that is being handled.
func TestGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		does func(owner int)
		read []byte // with the request
		want bool
	}{
		"waits":             {does: func(int) {}},
		"says more":         {does: func(owner int) { unix.Write(owner, []byte{wire.FrameStdin}) }},
		"is done":           {does: func(owner int) { unix.Write(owner, []byte{wire.FrameDone}) }, want: true},
		"was done at once":  {does: func(int) {}, read: []byte{wire.FrameDone, 0}, want: true},
		"has gone":          {does: func(owner int) { unix.Shutdown(owner, unix.SHUT_RDWR) }, want: true},
		"more came at once": {does: func(int) {}, read: []byte{wire.FrameRequest}},
	} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		c.does(pair[1])
		if got := (&conn{fd: pair[0], in: c.read}).givenUp(); got != c.want {
			t.Errorf("an owner that %s: %t", name, got)
		}
		unix.Close(pair[0])
		unix.Close(pair[1])
	}
}
