// Package nsfd finds a namespace that other processes keep open. A namespace without a process in it lives as long as a descriptor of it does, and a normal user
// can pin one nowhere else.
//
// Who keeps one open holds a share in the POSIX lock on one byte of a file, the byte whose offset is the descriptor's number. So the kernel says who keeps it
// and under which number (F_GETLK), and takes that back at the holder's end: see fcntl_locking(2). To close any descriptor of the file is to give up what the
// process holds in it.
package nsfd

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/kernel/userns"
)

// Hold notes in the file that this process keeps the descriptor ns open. It must not close that before [Forget], or before the file.
func Hold(file, ns int) error { return mark(file, ns, unix.F_RDLCK) }

// Forget takes back what Hold noted.
func Forget(file, ns int) error { return mark(file, ns, unix.F_UNLCK) }

func mark(file, ns int, typ int16) error {
	return unix.FcntlFlock(uintptr(file), unix.F_SETLK, &unix.Flock_t{Type: typ, Start: int64(ns), Len: 1})
}

// FindNet opens the network namespace that some other process has noted in the file; ok is false where there is none, or none that this process can see. It belongs to
// the caller's user namespace.
func FindNet(file int) (ns int, ok bool) {
	for try := range 16 { // a holder may end while it is looked at
		if try > 0 {
			time.Sleep(100 * time.Microsecond)
		}
		pid, number := holder(file)
		if pid <= 0 {
			return -1, false
		}
		path := fmt.Sprintf("/proc/%d/fd/%d", pid, number)
		if to, err := os.Readlink(path); err != nil || !strings.HasPrefix(to, "net:[") { // others should not even be opened
			continue
		}
		ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		nowPID, nowNumber := holder(file)
		if nowPID != pid || nowNumber != number || !isNet(ns) || !ours(ns) { // the numbers may be somebody else's by now
			unix.Close(ns)
			continue
		}
		return ns, true
	}
	return -1, false
}

// holder is the PID of one who holds something, 0 for nobody, and the number of his descriptor.
func holder(file int) (pid int, number int64) {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(file), unix.F_GETLK, &l); err != nil || l.Type == unix.F_UNLCK {
		return 0, 0
	}
	return int(l.Pid), l.Start
}

// nsGetType is NS_GET_NSTYPE: ioctl_ns(2), since Linux 4.11.
const nsGetType = 0xb703

func isNet(ns int) bool {
	kind, err := unix.IoctlRetInt(ns, nsGetType)
	return err == nil && kind == unix.CLONE_NEWNET
}

// ours reports whether a namespace belongs to the user namespace that this process is in.
func ours(ns int) bool {
	owner, err := userns.OwnerOf(ns)
	if err != nil {
		return false
	}
	defer unix.Close(owner)
	var there, here unix.Stat_t
	return unix.Fstat(owner, &there) == nil && unix.Stat("/proc/self/ns/user", &here) == nil && there.Ino == here.Ino && there.Dev == here.Dev
}
