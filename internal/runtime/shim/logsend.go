package shim

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
)

// datagrams reports whether the log goes to another program.
func (l *logger) datagrams() bool {
	return l.spec.Driver == api.LogJournald || l.spec.Driver == api.LogSyslog
}

// connect makes the socket. A program that is not there is looked for again with the next line.
func (l *logger) connect() error {
	domain, to := unix.AF_UNIX, unix.Sockaddr(&unix.SockaddrUnix{Name: l.spec.Path})
	if l.spec.UDP != "" {
		at, err := netip.ParseAddrPort(l.spec.UDP)
		if err != nil {
			return err
		}
		if a := at.Addr().Unmap(); a.Is4() {
			domain, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: a.As4()}
		} else {
			domain, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: a.As16()}
		}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, to); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	l.fd = fd
	return nil
}

// send sends a line. One that the program does not take is lost: a log never holds the container up.
func (l *logger) send(stream int, line []byte, now time.Time) {
	n := len(line)
	whole := n > 0 && line[n-1] == '\n'
	if whole {
		line = line[:n-1]
	}
	severity := 6 // informational; 3: error
	if stream == 2 {
		severity = 3
	}
	if l.spec.Driver == api.LogJournald {
		l.buf = appendJournal(l.buf[:0], l.spec.Tag, severity, line, whole)
	} else {
		l.buf = appendSyslog(l.buf[:0], l.spec.Facility<<3|severity, l.spec.Tag, line, now)
	}
	for range 2 { // a program that was started anew has another socket
		if l.fd < 0 && l.connect() != nil {
			break
		}
		if _, err := unix.Write(l.fd, l.buf); err == nil || err == unix.EAGAIN || err == unix.EMSGSIZE {
			break
		}
		unix.Close(l.fd)
		l.fd = -1
	}
	l.buf = l.buf[:0]
}

// appendJournal writes an entry of journald's native protocol; fields are NAME=VALUE, each ended by a newline. What is not a whole line is marked as docker marks it.
func appendJournal(b []byte, fields string, severity int, line []byte, whole bool) []byte {
	b = append(b, fields...)
	if !whole {
		b = append(b, "CONTAINER_PARTIAL_MESSAGE=true\n"...)
	}
	b = append(b, "PRIORITY="...)
	b = strconv.AppendInt(b, int64(severity), 10)
	b = append(b, "\nMESSAGE\n"...) // its length follows, since it may be of any bytes
	b = binary.LittleEndian.AppendUint64(b, uint64(len(line)))
	b = append(b, line...)
	return append(b, '\n')
}

// appendSyslog writes a message of RFC 3164, as programs send it to their own machine's syslog: without a host.
func appendSyslog(b []byte, priority int, tag string, line []byte, now time.Time) []byte {
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(priority), 10)
	b = append(b, '>')
	b = now.AppendFormat(b, time.Stamp)
	b = append(b, ' ')
	b = append(b, tag...)
	b = append(b, ": "...)
	return append(b, line...)
}

// appendK8s writes a line of the format that kubelets read: time, stream, F for a whole line or P for a part of one, and what was said.
func appendK8s(b []byte, stream int, line []byte, now time.Time) []byte {
	b = now.AppendFormat(b, time.RFC3339Nano)
	if stream == 2 {
		b = append(b, " stderr "...)
	} else {
		b = append(b, " stdout "...)
	}
	if n := len(line); n > 0 && line[n-1] == '\n' {
		b = append(b, "F "...)
		return append(b, line...)
	}
	b = append(b, "P "...)
	b = append(b, line...)
	return append(b, '\n')
}
