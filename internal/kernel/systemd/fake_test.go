package systemd

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fake is a systemd with a bus around it, as far as this package calls them.
type fake struct {
	t       *testing.T
	path    string // of its socket
	private bool
	version string
	refuse  string // SASL's answer, "" to let in
	result  string // of jobs
	early   bool   // the job's signal comes before the method's reply
	mute    bool   // no signal comes
	started func(unit string, pids []any) error

	mu    sync.Mutex
	units map[string]map[string]any // by name, properties
	calls []string
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, path: filepath.Join(t.TempDir(), "bus"), version: "252.39-1~deb12u1", result: "done", units: map[string]map[string]any{}}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: f.path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 5); err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return
			}
			done.Go(func() {
				c := &Conn{fd: conn}
				defer c.Close()
				if f.greet(c) {
					f.serve(c)
				}
			})
		}
	})
	t.Cleanup(func() {
		unix.Shutdown(fd, unix.SHUT_RDWR) // ends Accept
		unix.Close(fd)
		done.Wait()
	})
	return f
}

// greet is the server's part of the SASL dialogue.
func (f *fake) greet(c *Conn) bool {
	deadline := time.Now().Add(10 * time.Second)
	for {
		line, err := c.line(deadline)
		if err != nil {
			return false
		}
		switch strings.TrimPrefix(line, "\x00") {
		case "AUTH EXTERNAL":
			if f.refuse != "" {
				c.write([]byte(f.refuse + "\r\n"))
				return false
			}
			c.write([]byte("DATA\r\n"))
		case "DATA":
			c.write([]byte("OK 0123456789abcdef\r\n"))
		case "BEGIN":
			return true
		}
	}
}

func (f *fake) log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

func (f *fake) unit(name string) map[string]any {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.units[name]
}

func (f *fake) serve(c *Conn) {
	for {
		m, err := c.receive(time.Now().Add(10 * time.Second))
		if err != nil {
			return
		}
		args, err := m.values()
		if err != nil {
			f.t.Error(err)
			return
		}
		f.mu.Lock()
		f.calls = append(f.calls, m.member)
		f.mu.Unlock()
		f.answer(c, m, args)
	}
}

func (f *fake) answer(c *Conn, m *message, args []any) {
	reply := func(signature string, v ...any) {
		if m.flags&flagNoReply == 0 {
			c.send(&message{kind: typeReply, replySerial: m.serial, destination: m.sender()}, signature, v...)
		}
	}
	fail := func(name string) {
		c.send(&message{kind: typeError, replySerial: m.serial, errorName: name, destination: m.sender()}, "s", "no")
	}
	job := func() {
		path := Path("/org/freedesktop/systemd1/job/" + args[0].(string)[:1])
		signal := func() {
			if !f.mute {
				c.send(&message{kind: typeSignal, path: managerPath, iface: manager, member: "JobRemoved"}, "uoss", uint32(7), Path("/job/other"), "x.scope", "done")
				c.send(&message{kind: typeSignal, path: managerPath, iface: manager, member: "JobRemoved"}, "uoss", uint32(8), path, args[0], f.result)
			}
		}
		if f.early {
			signal()
		}
		reply("o", path)
		if !f.early {
			signal()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch m.member {
	case "Hello":
		reply("s", ":1.7")
	case "AddMatch", "Subscribe":
		reply("")
	case "Get":
		value := f.version
		if args[1] == "ControlGroup" {
			value = "/user.slice/user-1000.slice/user@1000.service"
		}
		e := &encoder{}
		e.variant(value)
		c.sendRaw(&message{kind: typeReply, replySerial: m.serial, destination: m.sender(), signature: "v", body: e.b})
	case "StartTransientUnit":
		name := args[0].(string)
		if f.units[name] != nil {
			fail("org.freedesktop.systemd1.UnitExists")
			return
		}
		props := named2(args[2])
		if f.started != nil {
			pids, _ := props["PIDs"].([]any)
			if err := f.started(name, pids); err != nil {
				f.t.Error(err)
			}
		}
		f.units[name] = props
		job()
	case "AttachProcessesToUnit":
		u := f.units[args[0].(string)]
		if u == nil {
			fail("org.freedesktop.systemd1.NoSuchUnit")
			return
		}
		u["attached"] = args[1:]
		reply("")
	case "StopUnit":
		if f.units[args[0].(string)] == nil {
			fail("org.freedesktop.systemd1.NoSuchUnit")
			return
		}
		delete(f.units, args[0].(string))
		job()
	case "ResetFailedUnit":
		if u := f.units[args[0].(string)]; u != nil && u["failed"] != nil {
			delete(f.units, args[0].(string))
		}
		reply("")
	case "SetUnitProperties":
		u := f.units[args[0].(string)]
		if u == nil || args[1] != true {
			fail("org.freedesktop.systemd1.NoSuchUnit")
			return
		}
		for k, v := range named2(args[2]) {
			u[k] = v
		}
		reply("")
	default:
		fail("org.freedesktop.DBus.Error.UnknownMethod")
	}
}

// named2 turns a(sv) into a map; a list given twice, first empty, is the second.
func named2(list any) map[string]any {
	props := map[string]any{}
	all, _ := list.([]any)
	for _, one := range all {
		p := one.([]any)
		props[p[0].(string)] = p[1]
	}
	return props
}

// sender is where the answer goes: on a real bus the bus fills it in.
func (m *message) sender() string { return m.from }

// sendRaw sends a message whose body is made.
func (c *Conn) sendRaw(m *message) error {
	c.serial++
	m.serial = c.serial
	return c.write(m.encode())
}

func (f *fake) dial() *Conn {
	f.t.Helper()
	c, err := dial(f.path, f.private, time.Now().Add(greetLimit))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	return c
}
