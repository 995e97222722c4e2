package shim

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"brig/internal/base/namedir"
)

// place is a resolver that runs in a network namespace of the test's own.
type place struct {
	t        *testing.T
	ns       int
	member   string // the container's folder
	dir      string // its network's
	udp, tcp string // where it is asked
}

// in runs f on a thread that is in the namespace.
func (p *place) in(f func()) {
	p.t.Helper()
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	defer unix.Close(home)
	if err := unix.Setns(p.ns, unix.CLONE_NEWNET); err != nil {
		p.t.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
			p.t.Fatal(err)
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// resolving starts a resolver, with "web" on its network.
func resolving(t *testing.T, forward namedir.Forward) *place {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	p := &place{t: t, member: t.TempDir(), dir: t.TempDir()}
	made := make(chan error)
	go func() { // its thread ends with it
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			p.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Skip("no network namespace: ", err)
	}
	for _, d := range []string{"name", "lease", "holder"} {
		if err := os.Mkdir(filepath.Join(p.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(p.dir, filepath.Join(p.member, "blue")); err != nil {
		t.Fatal(err)
	}
	if err := namedir.Add(p.dir, "web", "id", []netip.Addr{netip.MustParseAddr("10.0.0.2")}); err != nil {
		t.Fatal(err)
	}
	if err := forward.Write(p.member); err != nil {
		t.Fatal(err)
	}
	s, err := newServer(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p.in(func() {
		up()
		var fds [2]int
		for i, typ := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
			if fds[i], err = unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
				t.Fatal(err)
			}
			if err := unix.Bind(fds[i], &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 11}}); err != nil {
				t.Fatal(err)
			}
			sa, err := unix.Getsockname(fds[i])
			if err != nil {
				t.Fatal(err)
			}
			at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.11"), uint16(sa.(*unix.SockaddrInet4).Port)).String()
			if typ == unix.SOCK_DGRAM {
				p.udp = at
			} else if p.tcp = at; unix.Listen(fds[i], 8) != nil {
				t.Fatal("listen")
			}
		}
		s.fds = []int{p.ns, fds[0], fds[1]}
		s.resolve(fds[0], fds[1], p.member)
	})
	// As in the loop, but that it ends.
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		events := make([]unix.EpollEvent, 16)
		for {
			select {
			case <-stop:
				return
			default:
			}
			timeout := 20
			if wait := s.nextProbe(); wait >= 0 {
				timeout = min(timeout, wait)
			}
			n, err := unix.EpollWait(s.ep, events, timeout)
			if err != nil && err != unix.EINTR {
				return
			}
			for _, e := range events[:max(n, 0)] {
				if f := s.handlers[int(e.Fd)]; f != nil {
					f(e.Events)
				}
			}
			s.tick()
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-ended
		if n := len(s.resolver.asks); n > 0 {
			t.Errorf("%d questions are still open", n)
		}
		for fd := range s.handlers {
			unix.Close(fd)
		}
		unix.Close(s.ep)
		unix.Close(p.ns)
	})
	return p
}

// up takes lo into service.
func up() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if r, err := unix.NewIfreq("lo"); err == nil {
		r.SetUint16(unix.IFF_UP)
		_ = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
	}
}

// upstream is a server at an address of the namespace, which answers each query as f says; nil: not at all.
func (p *place) upstream(addr string, f func(query []byte, tcp bool) []byte) *atomic.Int32 {
	p.t.Helper()
	asked := new(atomic.Int32)
	p.in(func() {
		c, err := net.ListenPacket("udp", addr+":53")
		if err != nil {
			p.t.Fatal(err)
		}
		l, err := net.Listen("tcp", addr+":53")
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() { c.Close(); l.Close() })
		go func() {
			buf := make([]byte, 4096)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				asked.Add(1)
				if msg := f(buf[:n], false); msg != nil {
					c.WriteTo(msg, from)
				}
			}
		}()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				var size [2]byte
				if _, err := io.ReadFull(c, size[:]); err == nil {
					buf := make([]byte, binary.BigEndian.Uint16(size[:]))
					if _, err := io.ReadFull(c, buf); err == nil {
						asked.Add(1)
						msg := f(buf, true)
						c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
					}
				}
				c.Close()
			}
		}()
	})
	return asked
}

// says answers every query with an address, or a code.
func says(t *testing.T, query []byte, addr string, code dnsmessage.RCode, cut bool) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		t.Error(err)
		return nil
	}
	m.Response, m.RCode, m.Truncated, m.Additionals = true, code, cut, nil
	if addr != "" {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()},
		}}
	}
	msg, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return msg
}

// ask asks for the IPv4 addresses of a name.
func (p *place) ask(network, name string) (code string, addrs []string, took time.Duration) {
	p.t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	query, err := m.Pack()
	if err != nil {
		p.t.Fatal(err)
	}
	var c net.Conn
	at := p.udp
	if network == "tcp" {
		at = p.tcp
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	p.in(func() { c, err = net.Dial(network, at) })
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	begun := time.Now()
	c.SetDeadline(begun.Add(8 * time.Second))
	if _, err := c.Write(query); err != nil {
		p.t.Fatal(err)
	}
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	if network == "tcp" && err == nil && n < 2+int(binary.BigEndian.Uint16(buf)) {
		_, err = io.ReadFull(c, buf[n:2+int(binary.BigEndian.Uint16(buf))])
	}
	took = time.Since(begun)
	if err != nil {
		return err.Error(), nil, took
	}
	if network == "tcp" {
		n, buf = int(binary.BigEndian.Uint16(buf)), buf[2:]
	}
	var reply dnsmessage.Message
	if err := reply.Unpack(buf[:n]); err != nil {
		p.t.Fatal(err)
	}
	if reply.ID != 4711 || len(reply.Questions) != 1 {
		p.t.Errorf("%+v", reply)
	}
	for _, r := range reply.Answers {
		addrs = append(addrs, netip.AddrFrom4(r.Body.(*dnsmessage.AResource).A).String())
	}
	code = strings.TrimPrefix(reply.RCode.String(), "RCode")
	if reply.Truncated {
		code += " cut"
	}
	return code, addrs, took
}

func (p *place) want(network, name, code, addr string, most time.Duration) {
	p.t.Helper()
	got, addrs, took := p.ask(network, name)
	if got != code || strings.Join(addrs, " ") != addr || took > most {
		p.t.Errorf("%s %s: %s %v after %s, want %s %s within %s", network, name, got, addrs, took, code, addr, most)
	}
}

func TestResolverAnswers(t *testing.T) {
	p := resolving(t, namedir.Forward{None: true})
	for _, network := range []string{"udp", "tcp"} {
		p.want(network, "web.", "Success", "10.0.0.2", time.Second)
		p.want(network, "WEB.blue.", "Success", "10.0.0.2", time.Second)
		p.want(network, "example.org.", "ServerFailure", "", time.Second) // at once, and nobody was asked
	}
	if err := namedir.Add(p.dir, "web", "id", []netip.Addr{netip.MustParseAddr("10.0.0.9")}); err != nil {
		t.Fatal(err)
	}
	p.want("udp", "web.", "Success", "10.0.0.9", time.Second)
}

func TestResolverForwards(t *testing.T) {
	p := resolving(t, namedir.Forward{Servers: []string{"127.0.0.1", "127.0.0.2"}})
	first := p.upstream("127.0.0.1", func(q []byte, tcp bool) []byte {
		switch {
		case !tcp && strings.Contains(string(q), "large"):
			return says(t, q, "", 0, true)
		case strings.Contains(string(q), "nowhere"):
			return says(t, q, "", dnsmessage.RCodeNameError, false)
		case strings.Contains(string(q), "refused"):
			return says(t, q, "", dnsmessage.RCodeRefused, false)
		case strings.Contains(string(q), "forged"): // an answer to something else
			q[1] ^= 1
		}
		return says(t, q, "192.0.2.1", 0, false)
	})
	second := p.upstream("127.0.0.2", func(q []byte, _ bool) []byte { return says(t, q, "192.0.2.2", 0, false) })
	for _, network := range []string{"udp", "tcp"} {
		p.want(network, "example.org.", "Success", "192.0.2.1", time.Second)
		p.want(network, "nowhere.org.", "NameError", "", time.Second)
	}
	if first.Load() != 4 || second.Load() != 0 {
		t.Errorf("the servers were asked %d and %d times", first.Load(), second.Load())
	}
	p.want("udp", "large.org.", "Success cut", "", time.Second)
	p.want("tcp", "large.org.", "Success", "192.0.2.1", time.Second)
	p.want("udp", "web.", "Success", "10.0.0.2", time.Second)
	p.want("udp", "refused.org.", "Success", "192.0.2.2", time.Second) // the second has better news, and is asked first from now on
	p.want("udp", "example.org.", "Success", "192.0.2.2", time.Second)
	p.want("tcp", "example.org.", "Success", "192.0.2.2", time.Second)
}

// TestResolverForged: an answer that has not the query's number is none.
func TestResolverForged(t *testing.T) {
	p := resolving(t, namedir.Forward{Servers: []string{"127.0.0.1"}})
	p.upstream("127.0.0.1", func(q []byte, _ bool) []byte {
		q[1] ^= 1
		return says(t, q, "192.0.2.66", 0, false)
	})
	p.want("udp", "example.org.", "ServerFailure", "", 5*time.Second)
}

// TestResolverUpstreamGone: a server that is silent costs the first who ask a moment, one that is not there nothing; names of the network are answered meanwhile.
func TestResolverUpstreamGone(t *testing.T) {
	p := resolving(t, namedir.Forward{Servers: []string{"127.0.0.1", "127.0.0.2"}})
	p.upstream("127.0.0.1", func([]byte, bool) []byte { return nil })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 8 {
			p.want("udp", "example.org.", "ServerFailure", "", 4500*time.Millisecond)
			return
		}
	}()
	for {
		p.want("udp", "web.", "Success", "10.0.0.2", 500*time.Millisecond)
		select {
		case <-done:
		default:
			continue
		}
		break
	}
	p.upstream("127.0.0.2", func(q []byte, _ bool) []byte { return says(t, q, "192.0.2.2", 0, false) })
	p.want("udp", "example.org.", "Success", "192.0.2.2", 3*time.Second)
	p.want("udp", "example.org.", "Success", "192.0.2.2", 500*time.Millisecond) // it is remembered who answered
	if err := (namedir.Forward{Servers: []string{"127.0.0.3", "127.0.0.4"}}).Write(p.member); err != nil {
		t.Fatal(err)
	}
	p.want("udp", "example.org.", "ServerFailure", "", 500*time.Millisecond) // nobody is there, and the kernel says so
	p.want("tcp", "example.org.", "ServerFailure", "", 500*time.Millisecond)
}

// TestResolverRate: two thousand look-ups a second, without one that fails, while the name changes hands.
func TestResolverRate(t *testing.T) {
	p := resolving(t, namedir.Forward{None: true})
	var c net.Conn
	var err error
	p.in(func() { c, err = net.Dial("udp", p.udp) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			id := []string{"a", "b"}[i%2]
			if err := namedir.Add(p.dir, "web", id, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})}); err != nil {
				t.Error(err)
			}
			if err := namedir.Remove(p.dir, "web", id); err != nil {
				t.Error(err)
			}
			time.Sleep(100 * time.Microsecond)
		}
	}()
	const count = 6000
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("web."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	query, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	buf := make([]byte, 4096)
	for i := range count {
		binary.BigEndian.PutUint16(query, uint16(i))
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write(query); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buf)
		if err != nil || n < 12 || binary.BigEndian.Uint16(buf) != uint16(i) || buf[3]&15 != 0 || buf[7] == 0 {
			t.Fatalf("look-up %d: %x, %v", i, buf[:n], err)
		}
	}
	close(stop)
	<-ended
	rate := float64(count) / time.Since(begun).Seconds()
	t.Logf("%.0f look-ups a second, one after the other", rate)
	if rate < 2000 {
		t.Errorf("%.0f look-ups a second, want 2000", rate)
	}
}
