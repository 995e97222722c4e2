package network

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"brig/internal/base/lock"
	"brig/internal/kernel/netlink"
	"brig/internal/kernel/nsfd"
)

// hub is the network namespace in which a normal user's bridges are, with the rules between them: what for root is the host's own. Nothing leads out of it. Each keeper of a
// container on a bridge holds it open, and so does a command from the moment it has come to it; the file STATE/network/hub says who does (package nsfd). It ends with the last of
// them, and who then finds none makes another. doc/adr/0009-rootless-networks.md says why.
type hub struct {
	mu   sync.Mutex
	file *os.File // never closed while it says that ns is held
	ns   *os.File
}

const hubFile = "hub"

// where runs f on a thread that is where the bridges are: here, or in a normal user's hub, which is made if there is none. What f makes of sockets, namespaces and settings is there.
func (m *Manager) where(f func() error) error {
	if !m.user {
		return f()
	}
	ns, err := m.enterable(true)
	if err != nil {
		return err
	}
	return goThere(ns, f)
}

// whereIfAny is where without a hub being made: if there is none, nothing is in it, and f runs here.
func (m *Manager) whereIfAny(f func() error) error {
	if !m.user {
		return f()
	}
	ns, err := m.enterable(false)
	if err != nil {
		return err
	}
	if ns == nil {
		return f()
	}
	return goThere(ns, f)
}

// goThere runs f on a thread in the network namespace.
func goThere(ns *os.File, f func() error) (err error) {
	aside(func() {
		if err = os.NewSyscallError("setns", unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)); err == nil {
			err = f()
		}
	})
	return err
}

// aside runs f on a thread that ends with it: without root's rights a thread can leave the host's network, but not return.
func aside(f func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()              // and never unlocked
		if unix.Gettid() == unix.Getpid() { // the main thread is not ended, but parked: while it is locked here another one is used
			aside(f)
			runtime.UnlockOSThread()
		} else {
			f()
		}
		close(done)
	}()
	<-done
}

// atHome runs f on a thread that is in the host's network, for who may be in the hub.
func atHome(f func()) {
	done := make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	<-done
}

// enterable returns the hub, which this process from now on holds open until it ends; nil if there is none and none is to be made.
func (m *Manager) enterable(create bool) (*os.File, error) {
	h := &m.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	path := m.path(hubFile)
	if h.ns != nil && sameFile(h.file, path) {
		return h.ns, nil
	}
	if h.file != nil { // its folder was removed, with all that there was
		h.file.Close()
		if h.ns != nil {
			h.ns.Close()
		}
		h.file, h.ns = nil, nil
	}
	if _, err := os.Lstat(path); !create && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, err
	}
	l, err := lock.Take(m.path("hub.lock"))
	if err != nil {
		return nil, err
	}
	defer l.Release()
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	ns := (*os.File)(nil)
	if fd, ok := nsfd.FindNet(int(file.Fd())); ok {
		ns = os.NewFile(uintptr(fd), hubFile)
	} else if create {
		ns, err = m.newHub()
	}
	if err == nil && ns != nil {
		err = nsfd.Hold(int(file.Fd()), int(ns.Fd()))
	}
	if err != nil || ns == nil {
		file.Close()
		if ns != nil {
			ns.Close()
		}
		return nil, err
	}
	h.file, h.ns = file, ns
	return ns, nil
}

// newHub makes a hub. What is on record of bridges was in one that is no more, and the kernel may give its number to the new one.
func (m *Manager) newHub() (ns *os.File, err error) {
	own, err := m.ownSegments()
	if err != nil {
		return nil, err
	}
	for _, s := range append(own, m.ground()) {
		if err := os.Remove(s.path("bridge")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	ns, conn, err := awayNamespace(nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := loopback(conn); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// share lets the container's keeper hold the hub too.
func (h *hub) share() (*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fd, err := unix.FcntlInt(h.ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), hubFile), nil
}

func sameFile(f *os.File, path string) bool {
	here, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(here, there)
}

// hostRoutes are the host's, for who may be in the hub.
func hostRoutes() (routes []netlink.Route, err error) {
	atHome(func() {
		var rt *netlink.Conn
		if rt, err = netlink.Dial(unix.NETLINK_ROUTE); err == nil {
			routes, err = rt.Routes()
			rt.Close()
		}
	})
	return routes, err
}

// machineLock is the lock of all Brigs of the machine; a normal user's have subnets in a namespace of their own.
func machineLock(state string, user bool) string {
	if user {
		return filepath.Join(state, "network", "subnet.lock")
	}
	return "/run/brig-subnet.lock"
}
