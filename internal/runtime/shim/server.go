package shim

import (
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/delegated"
	"brig/internal/kernel/userns"
	"brig/internal/runtime/shim/wire"
)

// server is the shim's one thread: everything happens in callbacks of epoll.
type server struct {
	ep       int
	dir      string // the sandbox's folder, absolute
	lock     int    // held for as long as the shim, or the clean-up in its place, lives
	listener int
	handlers map[int]func(events uint32)

	owner      *conn
	conns      map[*conn]bool
	containers map[string]*container
	execs      map[*stream]bool
	fds        []int // received: network namespace, held ports; kept until the end
	bridges    bool  // among them is the network namespace of the user's bridges: see holdBridges
	reap       []string
	idle       bool          // memory has been given back since the last event that used it
	quiet      time.Time     // since when there have been but look-ups that were answered at once
	garbage    bool          // there may be some, since the collector has run
	program    []memoryRange // what is mapped of the program's file, narrowed
	light      bool          // the event that is handled was such a look-up
	cleaned    bool          // the owner has said so
	renewed    bool          // has executed itself anew
	trash      []string      // folders to remove at the end, after the owner has gone on

	placeless error // why containers have no control group here though they were to; see container.go:goWithout

	resolver *resolver // nil: the container asks others for names
}

// Main runs a shim in the current process: args are the sandbox's folder; descriptor 3 is the owner's connection, 4 the lock.
// It returns when the sandbox has ended.
func Main(args []string) error {
	setName("brig-shim")
	if len(args) == 3 && args[1] == resumeArg {
		return resume(args[0], args[2])
	}
	var subtree *delegated.Subtree
	if len(args) == 2 {
		if t, ok := delegated.Parse(args[1]); ok {
			subtree, args = t, args[:1]
		}
	}
	if len(args) != 1 {
		return fmt.Errorf("usage: brig-oci shim DIR (started by brig, with descriptors 3 and 4)")
	}
	first := uint(5)
	if rootless.User() {
		unix.CloseOnExec(memberFD)
		if err := userns.Join(memberFD); err != nil {
			return fmt.Errorf("shim: members of the user namespace: %w", err)
		}
		first = memberFD + 1
	}
	unix.CloseRange(first, math.MaxUint32, 0) // whatever the caller left open is not ours to keep
	debug.SetGCPercent(50)
	s, err := newServer(args[0])
	if err != nil {
		return err
	}
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	if err := unix.SetNonblock(3, true); err != nil {
		return fmt.Errorf("shim: descriptor 3 is not the owner's connection: %w", err)
	}
	s.owner = s.addConn(3)
	if err := s.listen(); err != nil {
		return err
	}
	if subtree != nil {
		s.placeless = subtree.Join()
	}
	return s.loop()
}

func newServer(dir string) (*server, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &server{
		ep: ep, dir: dir, lock: 4, quiet: time.Now(),
		handlers:   make(map[int]func(uint32)),
		conns:      make(map[*conn]bool),
		containers: make(map[string]*container),
		execs:      make(map[*stream]bool),
	}, nil
}

// setName is the process's name in ps: it was executed through a descriptor, whose number would stand there.
func setName(name string) {
	if b, err := unix.BytePtrFromString(name); err == nil {
		unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(b)), 0, 0, 0)
	}
}

// listen makes shim.sock. The path goes through a descriptor, since a socket's name holds 107 bytes only: unix(7).
func (s *server) listen() error {
	dir, err := unix.Open(s.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: s.dir, Err: err}
	}
	defer unix.Close(dir)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	old := unix.Umask(0o177)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dir) + "/" + SocketName})
	unix.Umask(old)
	if err == nil {
		err = unix.Listen(fd, 64)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("%s/%s: %w", s.dir, SocketName, err)
	}
	s.listener = fd
	s.accept()
	return nil
}

func (s *server) accept() {
	s.watch(s.listener, unix.EPOLLIN, func(uint32) {
		c, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err == nil {
			s.addConn(c)
		}
	})
}

func (s *server) watch(fd int, events uint32, f func(uint32)) error {
	s.handlers[fd] = f
	return unix.EpollCtl(s.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (s *server) rewatch(fd int, events uint32) {
	unix.EpollCtl(s.ep, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// unwatch forgets fd and closes it.
func (s *server) unwatch(fd int) {
	unix.EpollCtl(s.ep, unix.EPOLL_CTL_DEL, fd, nil)
	delete(s.handlers, fd)
	unix.Close(fd)
}

// idleAfter is how long the shim waits before it gives back the memory that setting up took.
const idleAfter = 200 * time.Millisecond

// busy notes that memory has been used, which is given back when all is quiet again. An answer to a look-up uses none.
func (s *server) busy() { s.idle, s.garbage, s.quiet = false, true, time.Now() }

func (s *server) loop() error {
	events := make([]unix.EpollEvent, 16)
	for !s.finished() {
		timeout := -1
		if !s.idle {
			timeout = max(0, int((idleAfter-time.Since(s.quiet)+time.Millisecond-1)/time.Millisecond))
		}
		if wait := s.nextProbe(); wait >= 0 && (timeout < 0 || wait < timeout) {
			timeout = wait
		}
		n, err := unix.EpollWait(s.ep, events, timeout)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, e := range events[:n] {
			if f := s.handlers[int(e.Fd)]; f != nil { // an earlier callback of this round may have closed it
				s.light = false
				if f(e.Events); !s.light {
					s.quiet = time.Now()
				}
			}
		}
		s.tick()
		if !s.idle && time.Since(s.quiet) >= idleAfter {
			s.idle = true
			s.renew()
			s.giveBack()
		}
	}
	return s.end()
}

// nextProbe is in how many milliseconds something is to be done about a container's health, or about a look-up of a name, -1: never.
func (s *server) nextProbe() int {
	wait := -1
	sooner := func(at time.Time) {
		if at.IsZero() {
			return
		}
		ms := max(0, int((time.Until(at)+time.Millisecond-1)/time.Millisecond))
		if wait < 0 || ms < wait {
			wait = ms
		}
	}
	for _, c := range s.containers {
		if c.health != nil {
			sooner(c.health.next())
		}
	}
	if s.resolver != nil {
		sooner(s.resolver.next())
	}
	return wait
}

// tick does what is due for the containers' health, and for look-ups of names. The memory that it takes is given back when all is quiet again.
func (s *server) tick() {
	if s.resolver != nil {
		s.resolver.tick(time.Now())
	}
	for _, c := range s.containers {
		if c.health != nil && c.health.tick(time.Now()) {
			s.busy()
		}
	}
}

// finished reports whether there is nothing left to keep.
func (s *server) finished() bool {
	for _, c := range s.containers {
		if c.exit == nil {
			return false
		}
	}
	if len(s.execs) > 0 {
		return false
	}
	// Without a container the owner died, or gave up, before it had added one.
	return s.owner == nil || s.cleaned
}

// end is the shim's last act: tell everybody, then clean up where no owner did.
func (s *server) end() error {
	for c := range s.conns {
		c.flushBlocking()
	}
	if !s.cleaned {
		for _, c := range s.containers {
			c.release()
		}
	}
	for _, fd := range slices.Backward(s.fds) { // the file that says what is held before what is held
		unix.Close(fd)
	}
	if s.cleaned || len(s.reap) == 0 {
		for c := range s.conns { // nobody needs to wait for the rest
			unix.Close(c.fd)
		}
		for _, dir := range s.trash {
			os.RemoveAll(dir)
		}
		return nil
	}
	// Those who wait see the end of their connection when the clean-up has ended.
	unix.FcntlInt(uintptr(s.lock), unix.F_SETFD, 0)
	for c := range s.conns {
		unix.FcntlInt(uintptr(c.fd), unix.F_SETFD, 0)
	}
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if rootless.User() {
		unix.FcntlInt(memberFD, unix.F_SETFD, 0)
	}
	return unix.Exec(s.reap[0], s.reap, append(env, rootless.Environ(memberFD)...))
}

// handle answers one request.
func (s *server) handle(c *conn, payload []byte) {
	s.busy()
	r, err := wire.DecodeRequest(payload)
	if err != nil {
		c.reply(wire.Reply{Error: err.Error(), Kind: api.InvalidArgument})
		return
	}
	var rep wire.Reply
	switch r.Op {
	case "add":
		rep, err = s.add(r)
	case "start":
		rep, err = s.start(c, r)
	case "keep":
		err = s.keep(r)
	case "attach", "wait":
		rep, err = s.attach(c, r)
	case "exec", "execfiles":
		rep, err = s.exec(c, r)
	case "resolve":
		err = s.resolveOn(c, r)
	case "hold":
		err = s.hold(c, r)
	default:
		err = api.Errorf(api.InvalidArgument, "shim: unknown request %q", r.Op)
	}
	if err != nil {
		rep = wire.Reply{Error: err.Error(), Kind: api.KindOf(err)}
	}
	c.reply(rep)
	if err == nil {
		if ct := s.containers[r.ID]; ct != nil && (r.Op == "attach" || r.Op == "wait") && ct.exit != nil {
			c.exit(*ct.exit) // it ended before the question came
		}
	}
}

func (s *server) find(id string) (*container, error) {
	c := s.containers[id]
	if c == nil {
		return nil, api.Errorf(api.NotFound, "container %s is not in this sandbox", id)
	}
	return c, nil
}
