package shim

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/runtime"
	"brig/internal/runtime/shim/wire"
)

// High-water marks in bytes: a reader that is this far behind stops the container's writes until it catches up; a container that does not read
// its input stops the client's.
const (
	maxBehind = 256 << 10
	maxStdin  = 128 << 10
)

// conn is one client's connection.
type conn struct {
	s        *server
	fd       int
	in, out  []byte
	attached *stream // whose output it gets
	stdin    *stream // whose input it gives
	stalled  bool    // not read from, until stdin has room
	gone     bool
	given    []int // descriptors for its next request; the owner's are the server's
}

func (s *server) addConn(fd int) *conn {
	c := &conn{s: s, fd: fd}
	s.conns[c] = true
	s.watch(fd, unix.EPOLLIN, c.event)
	return c
}

func (c *conn) event(events uint32) {
	if events&unix.EPOLLOUT != 0 {
		c.flush()
	}
	if c.gone || c.stalled || events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			c.close()
		}
		return
	}
	var buf [32 << 10]byte
	var oob [1024]byte
	n, oobn, _, _, err := unix.Recvmsg(c.fd, buf[:], oob[:], unix.MSG_CMSG_CLOEXEC)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if err != nil || n == 0 {
		c.close()
		return
	}
	if oobn > 0 {
		c.takeFDs(oob[:oobn])
	}
	c.in = append(c.in, buf[:n]...)
	c.frames()
}

// mostGiven is how many descriptors a request of anybody but the owner may come with.
const mostGiven = runtime.MostFiles

// takeFDs keeps descriptors that the owner sent for good; anybody else's are for his next request.
func (c *conn) takeFDs(oob []byte) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		if c == c.s.owner {
			c.s.fds = append(c.s.fds, fds...)
			continue
		}
		n := min(len(fds), mostGiven-len(c.given))
		c.given = append(c.given, fds[:n]...)
		closeAll(fds[n:])
	}
}

// frames handles the whole frames that have come in.
func (c *conn) frames() {
	for !c.gone && !c.stalled {
		kind, payload, rest, whole, err := wire.Split(c.in)
		if err != nil {
			c.close()
			return
		}
		if !whole {
			break
		}
		c.in = rest
		c.frame(kind, payload)
	}
	if len(c.in) == 0 {
		c.in = nil
	}
}

func (c *conn) frame(kind byte, payload []byte) {
	switch kind {
	case wire.FrameRequest:
		c.s.handle(c, payload)
	case wire.FrameStdin:
		if c.stdin != nil {
			c.stdin.input(c, payload)
		}
	case wire.FrameResize:
		if c.attached != nil && len(payload) == 4 {
			c.attached.resize(binary.LittleEndian.Uint16(payload), binary.LittleEndian.Uint16(payload[2:]))
		}
	case wire.FrameDone:
		if c == c.s.owner {
			c.s.cleaned = true
			for dir := range strings.SplitSeq(string(payload), "\x00") {
				if dir != "" {
					c.s.trash = append(c.s.trash, dir)
				}
			}
			c.s.abandon()
		}
	case wire.FrameFDs:
	default:
		c.close()
	}
}

// givenUp reports whether the client has gone, or has sent word that it is done, behind what is being handled.
func (c *conn) givenUp() bool {
	if len(c.in) > 0 {
		return c.in[0] == wire.FrameDone
	}
	var next [1]byte
	n, _, err := unix.Recvfrom(c.fd, next[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == nil && (n == 0 || next[0] == wire.FrameDone)
}

func (c *conn) reply(r wire.Reply) { c.send(wire.FrameReply, r.Encode()) }

func (c *conn) exit(e api.Exit) { c.send(wire.FrameExit, wire.EncodeExit(e)) }

// send queues a frame and writes what the socket takes.
func (c *conn) send(kind byte, payload []byte) {
	if c.gone {
		return
	}
	var h [wire.HeaderLen]byte
	wire.Header(h[:], kind, len(payload))
	c.out = append(append(c.out, h[:]...), payload...)
	c.flush()
}

// behind reports whether the client has fallen so far behind that its sources must wait.
func (c *conn) behind() bool { return !c.gone && len(c.out) > maxBehind }

func (c *conn) flush() {
	for len(c.out) > 0 {
		n, err := unix.SendmsgN(c.fd, c.out, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			c.close()
			return
		}
		c.out = c.out[n:]
	}
	if len(c.out) == 0 {
		c.out = nil
	}
	c.interest()
	if c.attached != nil && !c.behind() {
		c.attached.resume()
	}
}

// flushBlocking sends what is queued before the shim ends; a peer that does not read gets five seconds.
func (c *conn) flushBlocking() {
	unix.SetNonblock(c.fd, false)
	unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5})
	for len(c.out) > 0 {
		n, err := unix.SendmsgN(c.fd, c.out, nil, nil, unix.MSG_NOSIGNAL)
		if err != nil {
			return
		}
		c.out = c.out[n:]
	}
}

func (c *conn) interest() {
	var events uint32
	if !c.stalled {
		events |= unix.EPOLLIN
	}
	if len(c.out) > 0 {
		events |= unix.EPOLLOUT
	}
	c.s.rewatch(c.fd, events)
}

// stall stops or resumes reading from the client.
func (c *conn) stall(on bool) {
	if c.gone || c.stalled == on {
		return
	}
	c.stalled = on
	c.interest()
	if !on {
		c.frames()
	}
}

func (c *conn) close() {
	if c.gone {
		return
	}
	c.gone = true
	delete(c.s.conns, c)
	closeAll(c.given)
	c.given = nil
	if c.attached != nil {
		c.attached.detach(c)
	}
	if c.stdin != nil {
		c.stdin.inputGone(c)
	}
	if c == c.s.owner {
		c.s.owner = nil
		c.s.abandon()
	}
	c.s.unwatch(c.fd)
}
