package shim

import (
	"fmt"
	"os"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/runtime"
)

// maxLogLine is where a line is cut into two records, as docker's json-file driver does.
const maxLogLine = 16 << 10

// logger writes a record a line: docker's json-file format, {"log":"…\n","stream":"stdout","time":"…"}, or Kubernetes', TIME stdout F …. A file that has reached
// its size is renamed to NAME.1, that one to NAME.2 and so on. Or it sends a datagram a line, to journald or syslog.
type logger struct {
	spec runtime.LogSpec
	fd   int
	size int64
	buf  []byte    // records of the chunk at hand
	line [2][]byte // unfinished lines of stdout and stderr
}

// openLog prepares a log; its file is made with the first record.
func openLog(spec runtime.LogSpec) *logger {
	if spec.Path == "" && spec.UDP == "" {
		return nil
	}
	return &logger{spec: spec, fd: -1}
}

func (l *logger) open() error {
	if l.datagrams() {
		return l.connect()
	}
	fd, err := unix.Open(l.spec.Path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return &os.PathError{Op: "open", Path: l.spec.Path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	l.fd, l.size = fd, st.Size
	return nil
}

// write takes a chunk of stream 1 (stdout) or 2 (stderr). A disk that is full loses records, never blocks the container.
func (l *logger) write(stream int, chunk []byte) {
	if l == nil || len(chunk) == 0 {
		return
	}
	now := time.Now()
	pending := l.line[stream-1]
	for len(chunk) > 0 {
		n := len(chunk)
		whole := false
		for i, c := range chunk {
			if c == '\n' {
				n, whole = i+1, true
				break
			}
		}
		if room := maxLogLine - len(pending); n > room {
			n, whole = room, true
		}
		if !whole {
			pending = append(pending, chunk[:n]...)
			break
		}
		if len(pending) > 0 {
			pending = append(pending, chunk[:n]...)
			l.record(stream, pending, now)
			pending = pending[:0]
		} else {
			l.record(stream, chunk[:n], now)
		}
		chunk = chunk[n:]
	}
	l.line[stream-1] = pending
	l.flush()
}

// close writes unfinished lines and closes the file.
func (l *logger) close() {
	if l == nil {
		return
	}
	now := time.Now()
	for i := range l.line {
		if len(l.line[i]) > 0 {
			l.record(i+1, l.line[i], now)
			l.line[i] = nil
		}
	}
	l.flush()
	if l.fd >= 0 {
		unix.Close(l.fd)
		l.fd = -1
	}
}

func (l *logger) record(stream int, line []byte, now time.Time) {
	if l.datagrams() {
		l.send(stream, line, now)
		return
	}
	if l.spec.Driver == api.LogK8sFile {
		l.buf = appendK8s(l.buf, stream, line, now)
		l.full()
		return
	}
	b := append(l.buf, `{"log":"`...)
	b = appendEscaped(b, line)
	if stream == 2 {
		b = append(b, `","stream":"stderr","time":"`...)
	} else {
		b = append(b, `","stream":"stdout","time":"`...)
	}
	b = now.UTC().AppendFormat(b, time.RFC3339Nano)
	l.buf = append(b, "\"}\n"...)
	l.full()
}

// full writes what there is as soon as the file reaches its size: a chunk may have many lines.
func (l *logger) full() {
	if l.spec.MaxSize > 0 && l.size+int64(len(l.buf)) >= l.spec.MaxSize {
		l.flush()
	}
}

func (l *logger) flush() {
	if len(l.buf) == 0 {
		return
	}
	if l.fd < 0 {
		l.open() // tried again with the next record where it fails
	}
	if l.fd >= 0 {
		n, _ := unix.Write(l.fd, l.buf)
		if n > 0 && n < len(l.buf) { // a torn record would make the next one unreadable
			unix.Write(l.fd, []byte("\n"))
		}
		l.size += int64(max(n, 0))
	}
	l.buf = l.buf[:0]
	if cap(l.buf) > 256<<10 {
		l.buf = nil
	}
	if l.spec.MaxSize > 0 && l.size >= l.spec.MaxSize {
		l.rotate()
	}
}

// rotate renames the files up by one, the oldest away, and starts anew. When it fails the current file just grows.
func (l *logger) rotate() {
	name := func(i int) string { return fmt.Sprintf("%s.%d", l.spec.Path, i) }
	if l.spec.MaxFiles <= 1 {
		unix.Ftruncate(l.fd, 0)
		l.size = 0
		return
	}
	for i := l.spec.MaxFiles - 1; i > 1; i-- {
		os.Rename(name(i-1), name(i))
	}
	if err := os.Rename(l.spec.Path, name(1)); err != nil && !os.IsNotExist(err) { // it is not there when a full disk stopped the last try
		return
	}
	old := l.fd
	if l.open() != nil {
		l.fd = old
		return
	}
	unix.Close(old)
}

// appendEscaped writes s as the inside of a JSON string; bytes that are not UTF-8 become U+FFFD, as encoding/json does.
func appendEscaped(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRune(s[i:])
		if r == utf8.RuneError && size == 1 {
			b = append(b, s[start:i]...)
			b = append(b, `\ufffd`...)
			i++
			start = i
			continue
		}
		i += size
	}
	return append(b, s[start:]...)
}
