package systemd

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	base "brig/internal/base/rootless"
)

const (
	destination = "org.freedesktop.systemd1"
	manager     = "org.freedesktop.systemd1.Manager"
	managerPath = "/org/freedesktop/systemd1"

	greetLimit  = 2 * time.Second  // for a bus to let us in, which it does in a millisecond: a socket that nobody serves must not hold a run up
	answerLimit = 25 * time.Second // as libdbus waits for a reply
	jobLimit    = 30 * time.Second // as runc waits for a job
)

// Conn is a connection to systemd. It is for one goroutine.
type Conn struct {
	fd       int
	serial   uint32
	private  bool // systemd itself is at the other end, no bus
	rest     []byte
	removed  []jobRemoved
	version  int
	rootless bool
}

// jobRemoved is what the signal of that name tells: (uoss).
type jobRemoved struct{ job, result string }

// callError is an error that came as a reply.
type callError struct{ name, text string }

func (e *callError) Error() string { return e.text + " (" + e.name + ")" }

// Booted reports whether systemd is PID 1, or was when the machine started (sd_booted(3)).
func Booted() bool {
	var st unix.Stat_t
	return unix.Lstat("/run/systemd/system", &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// Dial connects to systemd for --systemd-cgroup: the system's, or with rootless the user's own.
func Dial(rootless bool) (*Conn, error) {
	if !Booted() {
		return nil, api.Errorf(api.Unsupported, "--systemd-cgroup: systemd does not run this machine (/run/systemd/system is not there): leave the option out")
	}
	c, err := connect(rootless)
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "--systemd-cgroup: %w", err)
	}
	return c, nil
}

// DialUser connects to the user's own systemd.
func DialUser() (*Conn, error) { return connect(true) }

// Reachable reports whether there is a socket that Dial would try. Whether it is answered only Dial can tell.
func Reachable(rootless bool) bool {
	return Booted() && slices.ContainsFunc(addresses(rootless), func(a address) bool {
		var st unix.Stat_t
		return strings.HasPrefix(a.path, "@") || unix.Stat(a.path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
	})
}

// connect tries the buses in the order of the environment, the usual socket, and systemd's private socket, which a machine without a D-Bus
// daemon has too.
func connect(rootless bool) (*Conn, error) {
	var last error
	deadline := time.Now().Add(greetLimit)
	for _, a := range addresses(rootless) {
		if rest := time.Now().Add(greetLimit / 8); deadline.Before(rest) { // another did not answer: that is no reason not to ask this one
			deadline = rest
		}
		c, err := dial(a.path, a.private, deadline)
		if err == nil {
			c.rootless = rootless
			return c, nil
		}
		if last == nil || !errors.Is(err, unix.ENOENT) {
			last = err
		}
	}
	if last == nil {
		last = errors.New("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set")
	}
	hint := "is dbus running?"
	if rootless {
		hint = "log in through PAM, so that user@.service runs, and install dbus-user-session"
	}
	return nil, api.Errorf(api.Unavailable, "no connection to systemd: %w: %s", last, hint)
}

type address struct {
	path    string
	private bool
}

func addresses(rootless bool) (list []address) {
	add := func(env, usual, private string) {
		for entry := range strings.SplitSeq(os.Getenv(env), ";") {
			if path, ok := unixPath(entry); ok {
				list = append(list, address{path, false})
			}
		}
		if usual != "" {
			list = append(list, address{usual, false}, address{private, true})
		}
	}
	if !rootless {
		add("DBUS_SYSTEM_BUS_ADDRESS", "/run/dbus/system_bus_socket", "/run/systemd/private")
		return list
	}
	usual, private := "", ""
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if uid, ok := base.UID(); ok && dir == "" {
		dir = "/run/user/" + strconv.Itoa(uid)
	}
	if dir != "" {
		usual, private = dir+"/bus", dir+"/systemd/private"
	}
	add("DBUS_SESSION_BUS_ADDRESS", usual, private)
	return list
}

// unixPath reads an address "unix:path=/run/bus,guid=…" (D-Bus specification, "Server Addresses"); an abstract socket begins with @.
func unixPath(address string) (string, bool) {
	rest, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return "", false
	}
	for pair := range strings.SplitSeq(rest, ",") {
		key, value, _ := strings.Cut(pair, "=")
		if key != "path" && key != "abstract" {
			continue
		}
		path, ok := unescape(value)
		if !ok || path == "" {
			return "", false
		}
		if key == "abstract" {
			path = "@" + path
		}
		return path, true
	}
	return "", false
}

// unescape undoes an address's %xx.
func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		high, low := strings.IndexByte(hexDigits, s[i+1]|0x20), strings.IndexByte(hexDigits, s[i+2]|0x20)
		if high < 0 || low < 0 {
			return "", false
		}
		b.WriteByte(byte(high<<4 | low))
		i += 2
	}
	return b.String(), true
}

const hexDigits = "0123456789abcdef"

// dial connects and authenticates by the socket's credentials, SASL EXTERNAL without an identity, which holds in a user namespace too.
// All that needs no answer goes out in one write, as sd-bus does it.
func dial(path string, private bool, deadline time.Time) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	c := &Conn{fd: fd, private: private}
	limit := unix.NsecToTimeval(int64(max(time.Until(deadline), time.Millisecond))) // of connect(2) too, where nobody accepts: unix(7)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		c.Close()
		return nil, &os.PathError{Op: "connect", Path: path, Err: err}
	}
	wait := unix.NsecToTimeval(int64(answerLimit))
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait)
	if err := c.login(deadline); err != nil {
		c.Close()
		return nil, api.Errorf(api.KindOf(err), "%s: %w", path, err)
	}
	return c, nil
}

func (c *Conn) login(deadline time.Time) error {
	if err := c.write([]byte("\x00AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")); err != nil {
		return err
	}
	for {
		line, err := c.line(deadline)
		if err != nil {
			return err
		}
		word, _, _ := strings.Cut(line, " ")
		switch word {
		case "DATA":
			continue
		case "OK":
		default:
			return api.Errorf(api.Unauthorized, "systemd bus: it does not take this user: %q", line)
		}
		break
	}
	if c.private {
		return nil
	}
	if _, err := c.callUntil(deadline, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", ""); err != nil {
		return err
	}
	// No answers are waited for: the bus takes messages in their order.
	rule := "type='signal',sender='" + destination + "',interface='" + manager + "',member='JobRemoved',path='" + managerPath + "'"
	if err := c.send(&message{kind: typeCall, flags: flagNoReply, destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus",
		iface: "org.freedesktop.DBus", member: "AddMatch"}, "s", rule); err != nil {
		return err
	}
	return c.send(&message{kind: typeCall, flags: flagNoReply, destination: destination, path: managerPath, iface: manager, member: "Subscribe"}, "")
}

// line reads one line of the SASL dialogue.
func (c *Conn) line(deadline time.Time) (string, error) {
	for {
		if i := bytes.Index(c.rest, []byte("\r\n")); i >= 0 {
			line := string(c.rest[:i])
			c.rest = c.rest[i+2:]
			return line, nil
		}
		if len(c.rest) > 4096 {
			return "", api.Errorf(api.Corrupt, "systemd bus: no end of line while authenticating")
		}
		if err := c.fill(deadline); err != nil {
			return "", err
		}
	}
}

// fill reads more into rest.
func (c *Conn) fill(deadline time.Time) error {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return api.Errorf(api.Unavailable, "systemd bus: no answer in time")
		}
		poll := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, int(left/time.Millisecond)+1); err == unix.EINTR || err == nil && n == 0 {
			continue
		} else if err != nil {
			return os.NewSyscallError("poll", err)
		}
		var buf [4096]byte
		n, err := unix.Read(c.fd, buf[:])
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0:
			return api.Errorf(api.Unavailable, "systemd bus: the other end hung up")
		}
		c.rest = append(c.rest, buf[:n]...)
		return nil
	}
}

func (c *Conn) write(b []byte) error {
	for len(b) > 0 {
		n, err := unix.SendmsgN(c.fd, b, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return api.Errorf(api.Unavailable, "systemd bus: %w", os.NewSyscallError("sendmsg", err))
		}
		b = b[n:]
	}
	return nil
}

// send completes and writes a message with its arguments; []Property goes as a(sv).
func (c *Conn) send(m *message, signature string, args ...any) error {
	c.serial++
	m.serial, m.signature = c.serial, signature
	if c.private {
		m.destination = ""
	}
	e := &encoder{}
	for _, a := range args {
		switch a := a.(type) {
		case []Property:
			e.properties(a)
		case auxiliary:
			e.array(8, func() {})
		default:
			e.value(a)
		}
	}
	m.body = e.b
	return c.write(m.encode())
}

// auxiliary stands for StartTransientUnit's empty a(sa(sv)).
type auxiliary struct{}

// receive reads one message.
func (c *Conn) receive(deadline time.Time) (*message, error) {
	need := headerSize
	for {
		if len(c.rest) >= headerSize {
			n, err := size(c.rest)
			if err != nil {
				return nil, err
			}
			need = n
		}
		if len(c.rest) >= need {
			break
		}
		if err := c.fill(deadline); err != nil {
			return nil, err
		}
	}
	m, err := decode(bytes.Clone(c.rest[:need]))
	c.rest = c.rest[need:]
	return m, err
}

// next reads one message, and keeps what a JobRemoved says.
func (c *Conn) next(deadline time.Time) (*message, error) {
	m, err := c.receive(deadline)
	if err != nil || m.kind != typeSignal || m.member != "JobRemoved" || m.signature != "uoss" {
		return m, err
	}
	v, err := m.values()
	if err != nil {
		return nil, err
	}
	c.removed = append(c.removed, jobRemoved{v[1].(string), v[3].(string)})
	return m, nil
}

// call calls a method and returns what it answers.
func (c *Conn) call(to, path, iface, member, signature string, args ...any) ([]any, error) {
	return c.callUntil(time.Now().Add(answerLimit), to, path, iface, member, signature, args...)
}

func (c *Conn) callUntil(deadline time.Time, to, path, iface, member, signature string, args ...any) ([]any, error) {
	m := &message{kind: typeCall, destination: to, path: path, iface: iface, member: member}
	if err := c.send(m, signature, args...); err != nil {
		return nil, err
	}
	for {
		r, err := c.next(deadline)
		if err != nil {
			return nil, err
		}
		if r.replySerial != m.serial || r.kind != typeReply && r.kind != typeError {
			continue
		}
		v, err := r.values()
		if err != nil {
			return nil, err
		}
		if r.kind == typeReply {
			return v, nil
		}
		e := &callError{name: r.errorName}
		if len(v) > 0 {
			e.text, _ = v[0].(string)
		}
		return nil, e
	}
}

// method calls one of systemd's manager.
func (c *Conn) method(member, signature string, args ...any) ([]any, error) {
	return c.call(destination, managerPath, manager, member, signature, args...)
}

// property reads a string of systemd's manager.
func (c *Conn) property(name string) (string, error) {
	v, err := c.call(destination, managerPath, "org.freedesktop.DBus.Properties", "Get", "ss", manager, name)
	if err != nil {
		return "", api.Errorf(api.Unavailable, "systemd: property %s: %w", name, err)
	}
	if len(v) == 1 {
		if s, ok := v[0].(string); ok {
			return s, nil
		}
	}
	return "", api.Errorf(api.Corrupt, "systemd: property %s is not a string", name)
}

// wait waits for the end of a job and returns its result, "done" when it went well (org.freedesktop.systemd1(5), JobRemoved).
func (c *Conn) wait(job string) (string, error) {
	deadline := time.Now().Add(jobLimit)
	for {
		for _, r := range c.removed {
			if r.job == job {
				c.removed = nil
				return r.result, nil
			}
		}
		if _, err := c.next(deadline); err != nil {
			return "", err
		}
	}
}

// Close hangs up.
func (c *Conn) Close() error { return unix.Close(c.fd) }
