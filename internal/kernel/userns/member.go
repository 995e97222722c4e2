package userns

import (
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"brig/internal/base/lock"
)

// A user namespace lives as long as a process is in it, and a normal user can pin one nowhere else. Members is a file that tells who is: each holds a
// share in its POSIX lock, which the kernel gives back when the holder ends, and of which it says who holds it. See fcntl_locking(2).
type Members struct {
	f *os.File
	l *lock.Lock // of another file: a child shares what flock(2) locked, and to close a file twice opened is to give its POSIX locks back
}

// OpenMembers opens the file, making it where it is missing: until Close nobody else looks for members, and nobody makes a namespace of his own.
func OpenMembers(path string) (*Members, error) {
	l, err := lock.Take(path + ".lock")
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		l.Release()
		return nil, err
	}
	return &Members{f, l}, nil
}

// Close lets others look.
func (m *Members) Close() error {
	m.l.Release()
	return m.f.Close()
}

// Namespace opens the user namespace of some member; ok is false where there is none, or none that this process can see.
func (m *Members) Namespace() (ns int, ok bool) {
	for range 16 { // a member may end while it is looked at
		pid := m.holder()
		if pid <= 0 {
			return -1, false
		}
		ns, err := Open(pid)
		if err != nil {
			continue
		}
		if m.holder() != pid || !ours(ns) { // its number may be another process's by now
			unix.Close(ns)
			continue
		}
		return ns, true
	}
	return -1, false
}

// holder is the PID of a member, 0 for none.
func (m *Members) holder() int {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(m.f.Fd(), unix.F_GETLK, &l); err != nil || l.Type == unix.F_UNLCK {
		return 0
	}
	return int(l.Pid)
}

// ours reports whether a user namespace belongs to this user, and is not the one that this process is in.
func ours(ns int) bool {
	var owner uint32
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(ns), nsGetOwnerUID, uintptr(unsafe.Pointer(&owner))); errno != 0 || int(owner) != os.Geteuid() {
		return false
	}
	var there, here unix.Stat_t
	return unix.Fstat(ns, &there) == nil && unix.Stat("/proc/self/ns/user", &here) == nil && there.Ino != here.Ino
}

// nsGetOwnerUID is NS_GET_OWNER_UID: ioctl_ns(2), since Linux 4.11.
const nsGetOwnerUID = 0xb704

// Join makes this process, which is in the namespace, a member through an open descriptor of the file.
func Join(fd int) error {
	return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_RDLCK})
}

// MembersPath is the file of the Brig with this state folder.
func MembersPath(state string) string { return filepath.Join(state, "userns") }
