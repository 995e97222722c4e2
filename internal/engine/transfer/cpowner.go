package transfer

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/store/owners"
)

// inside turns the host's owners into those that a container with a user namespace sees; nil: it has none.
func (p *copyEnd) inside() func(uid, gid uint32) (uint32, uint32) {
	if p.uids == nil {
		return nil
	}
	return owners.Map{UIDs: p.uids, GIDs: p.gids}.Inside
}

// outside is the other way round: what the container has no number for is an error.
func (p *copyEnd) outside() func(uid, gid int) (int, int, error) {
	if p.uids == nil {
		return nil
	}
	return func(uid, gid int) (int, int, error) {
		u, uok := owners.Outside(p.uids, uint32(uid))
		g, gok := owners.Outside(p.gids, uint32(gid))
		if !uok || !gok {
			return 0, 0, api.Errorf(api.InvalidArgument, "owner %d:%d is not mapped in the container's user namespace: copy without -a, or change the owner first", uid, gid)
		}
		return int(u), int(g), nil
	}
}

// actAsRoot has what this process makes in a container with a user namespace belong to the container's root, with all capabilities of the host's: where files of that container
// lie, the host's root has no number.
func (p *copyEnd) actAsRoot() error {
	if p.uids == nil {
		return nil
	}
	uid, _ := owners.Outside(p.uids, 0)
	gid, _ := owners.Outside(p.gids, 0)
	const noSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP of linux/securebits.h: capabilities(7)
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, noSetuidFixup, 0); e != 0 {
		return os.NewSyscallError("prctl", e)
	}
	for _, call := range []struct {
		nr uintptr
		id uint32
	}{{unix.SYS_SETFSGID, gid}, {unix.SYS_SETFSUID, uid}} {
		// They return who it was, and report no error.
		if _, _, e := syscall.AllThreadsSyscall(call.nr, uintptr(call.id), 0, 0); e != 0 {
			return fmt.Errorf("setfsuid: %w", e)
		}
	}
	return nil
}
