package oci

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/mount"
)

// OptionSecret is a bind mount's option, brig.secret=UID:GID:MODE: what is mounted is not the source, a file, but a copy in memory with that owner and mode, which ends with the
// container. It can be where the engine keeps it for root alone.
const OptionSecret = "brig.secret"

// maxSecret bounds a copy, in bytes.
const maxSecret = 1 << 20

// secretOption is a mount's brig.secret.
type secretOption struct {
	uid, gid int
	mode     uint32
}

// parseSecret reads the option; nil: it is another one.
func parseSecret(o string) *secretOption {
	rest, ok := strings.CutPrefix(o, OptionSecret+"=")
	if !ok {
		return nil
	}
	parts := strings.Split(rest, ":")
	if len(parts) != 3 {
		return nil
	}
	uid, err1 := strconv.ParseUint(parts[0], 10, 32)
	gid, err2 := strconv.ParseUint(parts[1], 10, 32)
	mode, err3 := strconv.ParseUint(parts[2], 8, 32)
	if err1 != nil || err2 != nil || err3 != nil || mode > 0o777 {
		return nil
	}
	return &secretOption{int(uid), int(gid), uint32(mode)}
}

// secret turns the detached mount of a file, which it closes, into one of a copy in memory. The copy's file system is mounted over the root for a moment, in a mount namespace that
// nobody else is in, for only what is mounted can be copied from.
func (b *builder) secret(fd int, s *secretOption) (copied int, err error) {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, api.Errorf(api.InvalidArgument, "option %s: the source is no file", OptionSecret)
	}
	in, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return -1, err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxSecret))
	if err != nil {
		return -1, err
	}
	if err := unix.Mount("tmpfs", b.place, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=2m,nr_inodes=4,mode=700"); err != nil {
		return -1, fmt.Errorf("tmpfs for a secret: %w", err)
	}
	defer unix.Unmount(b.place, unix.MNT_DETACH)
	path := b.place + "/secret"
	out, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(out)
	for rest := data; len(rest) > 0; {
		n, err := unix.Write(out, rest)
		if err != nil {
			return -1, os.NewSyscallError("write", err)
		}
		rest = rest[n:]
	}
	if err := unix.Fchown(out, s.uid, s.gid); err != nil {
		return -1, api.Errorf(api.InvalidArgument, "owner %d:%d: %w: is it mapped in the container's user namespace?", s.uid, s.gid, err)
	}
	if err := unix.Fchmod(out, s.mode); err != nil {
		return -1, os.NewSyscallError("fchmod", err)
	}
	copied, err = mount.Clone(unix.AT_FDCWD, path, false)
	if err == nil {
		err = mount.SetAttr(copied, false, 0, 0, unix.MS_PRIVATE)
	}
	return copied, err
}
