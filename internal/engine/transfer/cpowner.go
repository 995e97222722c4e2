package transfer

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"brig/api"
)

// overflowID is who has what belongs to nobody in a user namespace: the default of /proc/sys/fs/overflowuid.
const overflowID = 65534

// inside turns the host's owners into those that a container with a user namespace sees; nil: it has none.
func (p *copyEnd) inside() func(uid, gid uint32) (uint32, uint32) {
	if p.uids == nil {
		return nil
	}
	find := func(list []api.IDRange, id uint32) uint32 {
		for _, r := range list {
			if id >= r.Outside && id-r.Outside < r.Size {
				return r.Inside + id - r.Outside
			}
		}
		return overflowID
	}
	return func(uid, gid uint32) (uint32, uint32) { return find(p.uids, uid), find(p.gids, gid) }
}

// outside is the other way round: what the container has no number for is an error.
func (p *copyEnd) outside() func(uid, gid int) (int, int, error) {
	if p.uids == nil {
		return nil
	}
	return func(uid, gid int) (int, int, error) {
		u, uok := outsideID(p.uids, uid)
		g, gok := outsideID(p.gids, gid)
		if !uok || !gok {
			return 0, 0, api.Errorf(api.InvalidArgument, "owner %d:%d is not mapped in the container's user namespace: copy without -a, or change the owner first", uid, gid)
		}
		return u, g, nil
	}
}

func outsideID(list []api.IDRange, id int) (int, bool) {
	for _, r := range list {
		if id >= int(r.Inside) && id-int(r.Inside) < int(r.Size) {
			return int(r.Outside) + id - int(r.Inside), true
		}
	}
	return 0, false
}

// actAsRoot has what this process makes in a container with a user namespace belong to the container's root, with all capabilities of the host's: where files of that container
// lie, the host's root has no number.
func (p *copyEnd) actAsRoot() error {
	if p.uids == nil {
		return nil
	}
	uid, _ := outsideID(p.uids, 0)
	gid, _ := outsideID(p.gids, 0)
	const noSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP of linux/securebits.h: capabilities(7)
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, noSetuidFixup, 0); e != 0 {
		return os.NewSyscallError("prctl", e)
	}
	for _, call := range []struct {
		nr uintptr
		id int
	}{{unix.SYS_SETFSGID, gid}, {unix.SYS_SETFSUID, uid}} {
		// They return who it was, and report no error.
		if _, _, e := syscall.AllThreadsSyscall(call.nr, uintptr(call.id), 0, 0); e != 0 {
			return fmt.Errorf("setfsuid: %w", e)
		}
	}
	return nil
}
