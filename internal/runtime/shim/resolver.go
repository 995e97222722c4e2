package shim

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/namedir"
	"brig/internal/runtime/shim/dns"
	"brig/internal/runtime/shim/wire"
)

// resolver answers what the container asks on 127.0.0.11, on two sockets that were made in its network namespace: see internal/network/resolver.go. What is a container's of
// its networks it answers from the links of these, at once and always as they are; the rest it sends on, each query from a socket and with a number of its own,
// and never waits for: everything is a callback of epoll.
type resolver struct {
	s        *server
	udp, tcp int
	dir      string // the container's folder of networks
	host     string // the host's resolv.conf
	buf      []byte // for one message in, and one out
	out      []byte
	from     unix.RawSockaddrInet4 // of the message in
	server   dns.Server
	finder   *namedir.Finder
	asks     map[int]*ask // by the socket that was asked on
	clients  map[int]*dnsClient
	better   int // which server to ask first: those before it did not answer
}

const (
	mostAsks    = 256 // at a time, each with a descriptor
	mostClients = 32  // over TCP, and as many queries of theirs that others are to answer
	maxQuery    = 4096
	clientLimit = 10 * time.Second
	// askLimit is how long other servers have, all together: less than the five seconds after which a C library asks again (resolv.conf(5)).
	askLimit = 4 * time.Second
	// burst is how many queries are taken at a time, so that they do not hold up the container's output.
	burst = 32
)

// resolve begins to answer.
func (s *server) resolve(udp, tcp int, dir string) {
	r := &resolver{s: s, udp: udp, tcp: tcp, dir: dir, host: "/etc/resolv.conf", asks: map[int]*ask{}, clients: map[int]*dnsClient{}}
	r.server.Names = r
	s.resolver = r
	debug.SetGCPercent(10) // of 4 MiB, which it waits for else: a look-up that others answer leaves two kilobytes behind
	s.watch(udp, unix.EPOLLIN, func(uint32) { r.datagrams() })
	s.watch(tcp, unix.EPOLLIN, func(uint32) { r.accept() })
}

// resolveOn begins to answer for a container that has come to a network with names while it runs: the sockets came with the request.
func (s *server) resolveOn(c *conn, r *wire.Request) error {
	fds := c.given
	c.given = nil
	if s.resolver != nil || len(fds) != 2 || r.Names == "" {
		closeAll(fds)
		return api.Errorf(api.InvalidArgument, "shim: resolve: two sockets are wanted, once")
	}
	s.fds = append(s.fds, fds...)
	s.resolve(fds[0], fds[1], r.Names)
	return nil
}

// Find and Whose make it a [dns.Names].
func (r *resolver) Find(name []byte) ([]netip.Addr, bool)        { return r.finder.Find(r.dir, name) }
func (r *resolver) Whose(addr netip.Addr) (name string, ok bool) { return namedir.Whose(r.dir, addr) }

// used notes that memory is taken.
func (r *resolver) used() {
	r.s.busy()
	r.ready()
}

// ready makes the buffers. They stay, as long as the process does: those of one who looks up once he needs again.
func (r *resolver) ready() {
	if r.buf == nil {
		r.s.light, r.s.idle = false, false // the parts of the program that make them are used once
		r.buf, r.out, r.finder = make([]byte, maxQuery), make([]byte, 0, maxQuery), new(namedir.Finder)
	}
}

// datagrams takes the queries that have come in.
func (r *resolver) datagrams() {
	r.s.light = true
	r.ready()
	for range burst {
		n, ok := r.receive()
		if !ok {
			return
		}
		if n > len(r.buf) { // longer than any query
			continue
		}
		r.query(r.buf[:n], asker{from: r.from})
	}
}

// receive takes one datagram, as recvfrom(2) does, of which package unix makes an address on the heap.
func (r *resolver) receive() (n int, ok bool) {
	size := uint32(unix.SizeofSockaddrInet4)
	got, _, e := unix.Syscall6(unix.SYS_RECVFROM, uintptr(r.udp), uintptr(unsafe.Pointer(&r.buf[0])), uintptr(len(r.buf)), unix.MSG_DONTWAIT|unix.MSG_TRUNC,
		uintptr(unsafe.Pointer(&r.from)), uintptr(unsafe.Pointer(&size)))
	return int(got), e == 0
}

// send answers over UDP. An answer that is lost is asked for again.
func (r *resolver) send(msg []byte, to *unix.RawSockaddrInet4) {
	_, _, _ = unix.Syscall6(unix.SYS_SENDTO, uintptr(r.udp), uintptr(unsafe.Pointer(&msg[0])), uintptr(len(msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL,
		uintptr(unsafe.Pointer(to)), unix.SizeofSockaddrInet4)
}

// asker is where an answer goes to.
type asker struct {
	from   unix.RawSockaddrInet4 // over UDP: the sockets are those of 127.0.0.11
	client *dnsClient            // over TCP
}

// query answers one query or sends it on.
func (r *resolver) query(msg []byte, who asker) {
	fate, out := r.server.Answer(msg, r.out, who.client != nil)
	switch fate {
	case dns.Reply:
		r.reply(out, who)
	case dns.Forward:
		r.forward(msg, who)
	}
}

func (r *resolver) reply(msg []byte, who asker) {
	switch {
	case who.client != nil:
		who.client.send(msg)
	case msg != nil:
		r.send(msg, &who.from)
	}
}

func (r *resolver) refuse(query []byte, who asker) {
	r.reply(dns.Refuse(query, r.out, dns.ServerFailure), who)
}

// ask is a query that others are to answer.
type ask struct {
	r       *resolver
	who     asker
	query   []byte // as it came
	servers []string
	inside  bool // they are asked from the container's network
	first   int  // of servers, that is asked first
	try     int
	fd      int
	id      uint16
	until   time.Time // for this server
	in, out []byte    // over TCP: what has come, what is to go
}

// forward sends a query to the first server.
func (r *resolver) forward(msg []byte, who asker) {
	r.s.busy()
	r.s.light = false
	f := namedir.ReadForward(r.dir)
	if f.None || len(r.asks) >= mostAsks || who.client != nil && len(r.asks) >= mostClients {
		r.refuse(msg, who)
		return
	}
	a := &ask{r: r, who: who, query: append([]byte(nil), msg...), servers: f.Servers, inside: len(f.Servers) > 0, first: r.better, fd: -1}
	if !a.inside {
		text, _ := os.ReadFile(r.host) // each time, since hosts change networks
		a.servers = dns.Servers(string(text))
	}
	if len(a.servers) == 1 {
		a.servers = append(a.servers, a.servers[0]) // a datagram may get lost
	}
	a.next()
}

// next asks the server whose turn it is; after the last one there is none.
func (a *ask) next() {
	a.end()
	for ; a.try < len(a.servers); a.try++ {
		server := a.servers[(a.first+a.try)%len(a.servers)]
		if a.send(server) == nil {
			a.until = time.Now().Add(askLimit / time.Duration(len(a.servers)))
			a.r.asks[a.fd] = a
			a.try++
			return
		}
	}
	a.r.refuse(a.query, a.who)
}

// end closes the socket.
func (a *ask) end() {
	if a.fd >= 0 {
		delete(a.r.asks, a.fd)
		a.r.s.unwatch(a.fd)
		a.fd = -1
	}
}

// send asks one server, from a port that the kernel chooses and with a number that nobody can guess.
func (a *ask) send(server string) error {
	addr, err := netip.ParseAddr(server)
	if err != nil {
		return err
	}
	typ := unix.SOCK_DGRAM
	if a.who.client != nil {
		typ = unix.SOCK_STREAM
	}
	fd, err := a.socket(addr, typ)
	if err != nil {
		return err
	}
	a.id = uint16(rand.Uint32())
	msg := append([]byte(nil), a.query...)
	binary.BigEndian.PutUint16(msg, a.id)
	if typ == unix.SOCK_DGRAM {
		if err := unix.Send(fd, msg, unix.MSG_NOSIGNAL); err != nil {
			unix.Close(fd)
			return err
		}
		a.fd = fd
		a.r.s.watch(fd, unix.EPOLLIN, func(uint32) { a.datagram() })
		return nil
	}
	a.fd, a.in, a.out = fd, nil, append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)
	a.r.s.watch(fd, unix.EPOLLIN|unix.EPOLLOUT, a.stream)
	return nil
}

// socket makes a socket that is connected, or about to be.
func (a *ask) socket(addr netip.Addr, typ int) (fd int, err error) {
	connect := func() {
		family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: 53})
		if addr = addr.Unmap(); addr.Is4() {
			sa.(*unix.SockaddrInet4).Addr = addr.As4()
		} else {
			family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: 53, Addr: addr.As16()}
		}
		if fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return
		}
		if zone := addr.Zone(); zone != "" {
			sa.(*unix.SockaddrInet6).ZoneId, err = interfaceIndex(fd, zone)
		}
		if err == nil {
			err = unix.Connect(fd, sa)
		}
		if err == unix.EINPROGRESS {
			err = nil
		}
		if err != nil {
			unix.Close(fd)
		}
	}
	if !a.inside || len(a.r.s.fds) == 0 {
		connect()
		return fd, err
	}
	done := make(chan struct{})
	go func() { // on a thread that ends with it, should it not find back
		defer close(done)
		runtime.LockOSThread()
		home, herr := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err = herr; err != nil {
			return
		}
		defer unix.Close(home)
		if err = unix.Setns(a.r.s.fds[0], unix.CLONE_NEWNET); err != nil {
			return
		}
		connect()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return fd, err
}

func interfaceIndex(fd int, name string) (uint32, error) {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r)
	return r.Uint32(), err
}

// datagram takes a server's answer, or that it has no server there.
func (a *ask) datagram() {
	a.r.used()
	n, _, err := unix.Recvfrom(a.fd, a.r.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
	case err != nil:
		a.next()
	case n > len(a.r.buf): // asked for, and too long for us: over TCP it is not
		a.finish(dns.Truncated(a.query, a.r.out))
	default:
		a.answer(a.r.buf[:n])
	}
}

// stream goes on with a question over TCP, where a message has its length before it.
func (a *ask) stream(events uint32) {
	a.r.used()
	for len(a.out) > 0 {
		n, err := unix.SendmsgN(a.fd, a.out, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EAGAIN || err == unix.EINTR {
			break
		}
		if err != nil {
			a.next()
			return
		}
		if a.out = a.out[n:]; len(a.out) == 0 {
			a.r.s.rewatch(a.fd, unix.EPOLLIN)
		}
	}
	if events&^unix.EPOLLOUT == 0 {
		return
	}
	n, err := unix.Read(a.fd, a.r.buf)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if err != nil || n == 0 {
		a.next()
		return
	}
	a.in = append(a.in, a.r.buf[:n]...)
	if len(a.in) >= 2 && len(a.in)-2 >= int(binary.BigEndian.Uint16(a.in)) {
		a.answer(a.in[2 : 2+int(binary.BigEndian.Uint16(a.in))])
	}
}

// answer hands a server's answer on, unless it is none to this query, or says that another server should be asked and there is one.
func (a *ask) answer(msg []byte) {
	if len(msg) < 12 || binary.BigEndian.Uint16(msg) != a.id || !dns.Same(a.query, msg) {
		if a.who.client != nil {
			a.next()
		}
		return // a datagram that somebody else has sent: the server's may still come
	}
	switch code := dns.CodeOf(msg); {
	case a.try >= len(a.servers):
	case code == dns.ServerFailure || code == dns.Refused || code == dns.NotImplemented:
		a.next()
		return
	}
	a.r.better = (a.first + a.try - 1) % len(a.servers)
	a.finish(msg)
}

func (a *ask) finish(msg []byte) {
	copy(msg, a.query[:2])
	a.end()
	a.r.reply(msg, a.who)
}

// next is when something is to be done about a question that is not answered, or a client that says nothing; the zero time: never.
func (r *resolver) next() (at time.Time) {
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, a := range r.asks {
		sooner(a.until)
	}
	for _, c := range r.clients {
		sooner(c.until)
	}
	return at
}

// tick does it.
func (r *resolver) tick(now time.Time) {
	for _, a := range r.asks {
		if !now.Before(a.until) {
			a.next()
		}
	}
	for _, c := range r.clients {
		if !now.Before(c.until) {
			c.close()
		}
	}
}

// dnsClient is a connection of the container's.
type dnsClient struct {
	r       *resolver
	fd      int // -1: it is closed
	in, out []byte
	until   time.Time
}

func (r *resolver) accept() {
	r.used()
	fd, _, err := unix.Accept4(r.tcp, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return
	}
	if len(r.clients) >= mostClients {
		unix.Close(fd)
		return
	}
	c := &dnsClient{r: r, fd: fd, until: time.Now().Add(clientLimit)}
	r.clients[fd] = c
	r.s.watch(fd, unix.EPOLLIN, c.event)
}

func (c *dnsClient) event(events uint32) {
	c.r.used()
	if events&unix.EPOLLOUT != 0 {
		c.flush()
	}
	if c.fd < 0 || events&^unix.EPOLLOUT == 0 {
		return
	}
	n, err := unix.Read(c.fd, c.r.buf)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if err != nil || n == 0 {
		c.close()
		return
	}
	c.until = time.Now().Add(clientLimit)
	c.in = append(c.in, c.r.buf[:n]...)
	for c.fd >= 0 && len(c.in) >= 2 {
		size := int(binary.BigEndian.Uint16(c.in))
		if size > maxQuery {
			c.close()
			return
		}
		if len(c.in) < 2+size {
			return
		}
		msg := c.in[2 : 2+size]
		c.in = c.in[2+size:]
		c.r.query(msg, asker{client: c})
	}
}

// send answers over the connection, if it is still there. Who asks and does not read is cut off.
func (c *dnsClient) send(msg []byte) {
	if c.fd < 0 || msg == nil {
		return
	}
	if len(c.out) > dns.MaxTCP {
		c.close()
		return
	}
	c.out = append(binary.BigEndian.AppendUint16(c.out, uint16(len(msg))), msg...)
	c.flush()
}

func (c *dnsClient) flush() {
	for len(c.out) > 0 {
		n, err := unix.SendmsgN(c.fd, c.out, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EAGAIN || err == unix.EINTR {
			c.r.s.rewatch(c.fd, unix.EPOLLIN|unix.EPOLLOUT)
			return
		}
		if err != nil {
			c.close()
			return
		}
		c.out = c.out[n:]
	}
	c.out = nil
	c.r.s.rewatch(c.fd, unix.EPOLLIN)
}

func (c *dnsClient) close() {
	if c.fd >= 0 {
		delete(c.r.clients, c.fd)
		c.r.s.unwatch(c.fd)
		c.fd = -1
	}
}
