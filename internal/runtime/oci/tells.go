package oci

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/runtime/boxed/wire"
)

// AnnotationTells, with any value, says that the process is one that starts another: it has begun when it says so itself, with a wire.Begun on descriptor wire.TellFD. Until then
// Process.Start waits. It is executed with all signals blocked, so that none ends it before it can hand them on.
const AnnotationTells = "org.brig.tells"

// begun waits until a process that tells says that it has begun, or cannot.
func (p *Process) begun() error {
	defer p.hangUp()
	b := make([]byte, wire.MaxBegun)
	n, err := unix.Read(p.talk, b)
	for err == unix.EINTR {
		n, err = unix.Read(p.talk, b)
	}
	runtime.KeepAlive(p.child)
	if err != nil || n < 8 {
		return fmt.Errorf("%w before it had begun", ErrKilled)
	}
	told, ok := wire.DecodeBegun(b[:n])
	if !ok {
		return p.failure(int32(leUint32(b)), unix.Errno(leUint32(b[4:])))
	}
	switch {
	case told.Why == "":
		return nil
	case told.Code == 126:
		return api.Errorf(api.CommandNotRunnable, "%s", told.Why)
	case told.Code == 127:
		return api.Errorf(api.CommandNotFound, "%s", told.Why)
	}
	return errors.New(told.Why)
}
