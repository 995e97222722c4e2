package monitor

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/runtime/microvm/wire"
)

// ask asks the session's monitor, as the box of a member does, and returns the connection.
func (g *guest) ask(body string) *net.UnixConn {
	g.t.Helper()
	path := filepath.Join(g.t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { l.Close() })
	go g.s.admit(l)
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	head := binary.LittleEndian.AppendUint32([]byte{0}, uint32(len(body)))
	if _, _, err := c.WriteMsgUnix(head, unix.UnixRights(fd, fd, fd), nil); err != nil {
		g.t.Fatal(err)
	}
	if _, err := io.WriteString(c, body); err != nil {
		g.t.Fatal(err)
	}
	return c
}

// next is the next order to the machine of a kind.
func (g *guest) next(kind wire.Kind) wire.Frame {
	g.t.Helper()
	for {
		if f := g.hear(); f.Kind == kind {
			return f
		}
	}
}

func answered(t *testing.T, c *net.UnixConn) wire.Frame {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	f, err := wire.Read(c, wire.MaxBody, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestMember: whoever asks for a member hears that it executes, then how it ended; the next run of the same container waits for the end of the former in the machine.
func TestMember(t *testing.T) {
	g := newGuest(t)
	g.next(wire.Start)
	g.say(hello, started)
	c := g.ask(`{"member":"aa.1","config":{}}`)
	f := g.next(wire.Start)
	if !strings.Contains(string(f.Body), "aa.1") {
		t.Fatalf("%q", f.Body)
	}
	at := f.Stream
	go g.say(wire.Frame{Kind: wire.Started, Stream: at})
	if f := answered(t, c); f.Kind != wire.Started {
		t.Fatalf("%c", f.Kind)
	}
	c.Close() // its box was killed
	if f := g.next(wire.Signal); f.Stream != at || f.Body[0] != byte(unix.SIGKILL) {
		t.Fatalf("%+v", f)
	}
	again := g.ask(`{"member":"aa.2","config":{}}`)
	begun := make(chan wire.Frame)
	go func() { begun <- g.next(wire.Start) }()
	select {
	case <-begun:
		t.Fatal("two runs of one container at a time")
	case <-time.After(100 * time.Millisecond):
	}
	go g.say(wire.Frame{Kind: wire.Exit, Stream: at, Body: []byte{137, 9, 0}})
	f = <-begun
	go g.say(wire.Frame{Kind: wire.Started, Stream: f.Stream}, wire.Frame{Kind: wire.Exit, Stream: f.Stream, Body: []byte{137, 9, 1}})
	if f := answered(t, again); f.Kind != wire.Started {
		t.Fatalf("%c", f.Kind)
	}
	if f := answered(t, again); f.Kind != wire.Exit || f.Body[0] != 137 || f.Body[2] != 1 {
		t.Fatalf("%+v", f)
	}
}
