package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Error is the kernel's refusal of one message.
type Error struct {
	What   string // as given to Start
	Errno  unix.Errno
	Detail string // the kernel's own words, if it has any
}

func (e *Error) Error() string {
	if e.Detail != "" {
		return e.What + ": " + e.Errno.Error() + " (" + e.Detail + ")"
	}
	return e.What + ": " + e.Errno.Error()
}

// Unwrap gives the errno, for errors.Is.
func (e *Error) Unwrap() error { return e.Errno }

// Conn is a netlink socket. It is for one goroutine at a time.
type Conn struct {
	fd  int
	seq uint32
	buf []byte
}

// Dial opens a socket for protocol (unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER) in the calling thread's network namespace.
func Dial(protocol int) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	// Both are comforts: reasons in words, and refusals that do not repeat the request. Kernels before 4.12 have neither.
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &Conn{fd: fd}, nil
}

// Close frees the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Namespace opens the network namespace that the socket belongs to (ioctl_ns(2); SIOCGSKNS, Linux 4.9). The descriptor is close-on-exec.
func (c *Conn) Namespace() (int, error) {
	fd, err := unix.IoctlRetInt(c.fd, unix.SIOCGSKNS)
	if err != nil {
		return -1, fmt.Errorf("network namespace of a socket: %w", err)
	}
	return fd, nil
}

// Do sends the request and waits until the kernel has answered every message that asks for it with NLM_F_ACK or NLM_F_DUMP.
// Messages in the answer go to each, which may be nil; data is valid only during the call. It returns the first refusal, an *Error.
func (c *Conn) Do(r *Request, each func(typ uint16, data []byte)) error {
	r.finish()
	if r.err != nil {
		return r.err
	}
	first := c.seq + 1
	waiting := 0
	for _, m := range r.messages {
		c.seq++
		binary.NativeEndian.PutUint32(r.buf[m.at+8:], c.seq)
		if m.ack || dumps(r.buf[m.at:]) {
			waiting++
		}
	}
	if len(r.buf) > largeRequest { // half of what a socket may have under way is the kernel's own
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*len(r.buf)) // else sending says so
	}
	for {
		err := unix.Sendto(c.fd, r.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return fmt.Errorf("netlink send: %w", err)
		}
	}
	for waiting > 0 {
		b, err := c.receive()
		if err != nil {
			return err
		}
		for len(b) >= unix.NLMSG_HDRLEN {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return errors.New("netlink: the answer is cut short")
			}
			typ, seq, data := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:]), b[unix.NLMSG_HDRLEN:size]
			flags := binary.NativeEndian.Uint16(b[6:])
			b = b[min(align(size), len(b)):]
			i := int(int32(seq - first))
			if i < 0 || i >= len(r.messages) {
				continue // belongs to an earlier request that was given up at its first refusal
			}
			switch typ {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				if err := refusal(r.messages[i].what, flags, data); err != nil {
					return err
				}
				waiting--
			case unix.NLMSG_NOOP, unix.NLMSG_OVERRUN:
			default:
				if each != nil {
					each(typ, data)
				}
			}
		}
	}
	return nil
}

// largeRequest is what every socket takes in one message, in bytes: a good part of net.core.wmem_default.
const largeRequest = 64 << 10

func dumps(msg []byte) bool {
	return binary.NativeEndian.Uint16(msg[6:])&(unix.NLM_F_ACK|unix.NLM_F_DUMP) == unix.NLM_F_DUMP
}

// receive reads one datagram from the kernel.
func (c *Conn) receive() ([]byte, error) {
	if c.buf == nil {
		c.buf = make([]byte, 8<<10) // more than the kernel puts into a part of a dump for who reads so little
	}
	for {
		n, from, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_TRUNC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("netlink receive: %w", err)
		}
		if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid != 0 {
			continue // another process, not the kernel
		}
		if n > len(c.buf) {
			return nil, fmt.Errorf("netlink receive: a message of %d bytes, and there is room for %d", n, len(c.buf))
		}
		return c.buf[:n], nil
	}
}

// refusal reads the body of NLMSG_ERROR or NLMSG_DONE; errno 0 is an acknowledgement.
func refusal(what string, flags uint16, data []byte) error {
	if len(data) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(data))
	if code >= 0 {
		return nil
	}
	e := &Error{What: what, Errno: unix.Errno(-code)}
	if flags&unix.NLM_F_ACK_TLVS != 0 && len(data) >= 4+unix.NLMSG_HDRLEN {
		rest := data[4+unix.NLMSG_HDRLEN:]
		if flags&unix.NLM_F_CAPPED == 0 {
			size := align(int(binary.NativeEndian.Uint32(data[4:]))) - unix.NLMSG_HDRLEN
			rest = rest[max(0, min(size, len(rest))):]
		}
		Attributes(rest, func(attr uint16, v []byte) {
			if attr == unix.NLMSGERR_ATTR_MSG {
				e.Detail = Text(v)
			}
		})
	}
	return e
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// Attributes calls each for every attribute in b, its flags taken off, and stops at the first malformed one.
func Attributes(b []byte, each func(attr uint16, value []byte)) {
	for len(b) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return
		}
		each(binary.NativeEndian.Uint16(b[2:])&nlaTypeMask, b[unix.SizeofNlAttr:size])
		b = b[min(align(size), len(b)):]
	}
}

// Text is a string attribute's value without the zeros at its end.
func Text(v []byte) string {
	for len(v) > 0 && v[len(v)-1] == 0 {
		v = v[:len(v)-1]
	}
	return string(v)
}
