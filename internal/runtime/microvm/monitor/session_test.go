package monitor

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"brig/api"
	"brig/internal/runtime/microvm/wire"
)

// guest is the other end of a session: a machine whose agent is the attacker's.
type guest struct {
	t *testing.T
	s *session
	c net.Conn

	first       *stream
	in          *os.File // what the process is given
	out, errout *os.File // what it says
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	ours, theirs := net.Pipe()
	g := &guest{t: t, s: newSession(ours), c: theirs}
	g.s.tick = 20 * time.Millisecond
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return r, w
	}
	var files [3]*os.File
	files[0], g.in = pipe()
	g.out, files[1] = pipe()
	g.errout, files[2] = pipe()
	g.first = newStream(g.s, wire.First, files)
	g.s.begin(g.first, []byte("{}"))
	go g.s.serve()
	t.Cleanup(func() {
		theirs.Close()
		g.s.lost(io.EOF)
		ours.Close()
	})
	return g
}

// say sends frames; the session may have hung up already.
func (g *guest) say(frames ...wire.Frame) {
	for _, f := range frames {
		g.c.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := g.c.Write(wire.Append(nil, f)); err != nil {
			return
		}
	}
}

func (g *guest) hear() wire.Frame {
	g.t.Helper()
	g.c.SetReadDeadline(time.Now().Add(10 * time.Second))
	f, err := wire.Read(g.c, wire.MaxOrder, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	return f
}

// ends waits for the session's end and returns why.
func (g *guest) ends() (int, string) {
	g.t.Helper()
	type end struct {
		code int
		err  error
	}
	done := make(chan end, 1)
	go func() {
		code, err := g.s.wait(g.first)
		done <- end{code, err}
	}()
	select {
	case e := <-done:
		return e.code, fmt.Sprint(e.err)
	case <-time.After(10 * time.Second):
		g.t.Fatal("the session goes on")
	}
	return 0, ""
}

var (
	hello   = wire.Frame{Kind: wire.Hello, Body: wire.Number(wire.Version)}
	started = wire.Frame{Kind: wire.Started, Stream: wire.First}
)

func exited(code, sig, memory byte) wire.Frame {
	return wire.Frame{Kind: wire.Exit, Stream: wire.First, Body: []byte{code, sig, memory}}
}

func TestProcess(t *testing.T) {
	g := newGuest(t)
	go g.say(hello, started)
	if f := g.hear(); f.Kind != wire.Start || f.Stream != wire.First || string(f.Body) != "{}" {
		t.Fatalf("the first order is %+v", f)
	}
	g.in.WriteString("word")
	if f := g.hear(); f.Kind != wire.Stdin || string(f.Body) != "word" {
		t.Errorf("input arrives as %c %q", f.Kind, f.Body)
	}
	g.in.Close()
	if f := g.hear(); f.Kind != wire.Stdin || len(f.Body) != 0 {
		t.Errorf("the end of input arrives as %c %q", f.Kind, f.Body)
	}
	g.first.signal(15)
	if f := g.hear(); f.Kind != wire.Signal || !bytes.Equal(f.Body, []byte{15}) {
		t.Errorf("a signal arrives as %c %q", f.Kind, f.Body)
	}
	go g.say(wire.Frame{Kind: wire.Took, Stream: wire.First, Body: wire.Number(4)}, wire.Frame{Kind: wire.Stdout, Stream: wire.First, Body: []byte("said")})
	if f := g.hear(); f.Kind != wire.Credit || !bytes.Equal(f.Body, wire.CreditOf(1, 4)) {
		t.Errorf("credit arrives as %c %q", f.Kind, f.Body)
	}
	go g.say(exited(42, 0, 0))
	if code, err := g.ends(); code != 42 || err != "<nil>" {
		t.Errorf("exit status %d, %s", code, err)
	}
	b := make([]byte, 10)
	if n, _ := g.out.Read(b); string(b[:n]) != "said" {
		t.Errorf("output %q", b[:n])
	}
}

func TestEnds(t *testing.T) {
	for name, c := range map[string]struct {
		last wire.Frame
		code int
		err  string
	}{
		"signal":         {exited(139, 11, 0), 139, "<nil>"},
		"memory":         {exited(137, 9, 1), 137, "<nil>"},
		"processes":      {exited(2, 0, 2), 2, "<nil>"},
		"no command":     {wire.Frame{Kind: wire.Failed, Stream: wire.First, Body: []byte(string(api.CommandNotFound) + "\x00exec x: not\x1b[31m there")}, exitNotFound, "exec x: not [31m there"},
		"not runnable":   {wire.Frame{Kind: wire.Failed, Stream: wire.First, Body: []byte(string(api.CommandNotRunnable) + "\x00denied")}, exitNotRunnable, "denied"},
		"hostile reason": {wire.Frame{Kind: wire.Failed, Stream: wire.First, Body: bytes.Repeat([]byte{0}, wire.MaxText)}, exitFailed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			go io.Copy(io.Discard, g.c)
			go func() {
				g.say(hello)
				if c.last.Kind == wire.Exit {
					g.say(started)
				}
				g.say(c.last)
			}()
			if code, err := g.ends(); code != c.code || !strings.Contains(err, c.err) {
				t.Errorf("exit status %d, %q; want %d, %q", code, err, c.code, c.err)
			}
			if want := map[string]string{"memory": "oom", "processes": "crowded", "signal": "signal 11"}[name]; tells(g.first.ends()) != want {
				t.Errorf("the keeper is told %q, not %q", tells(g.first.ends()), want)
			}
		})
	}
}

// TestHostile has machines break each rule. All end the session, with an error that says so.
func TestHostile(t *testing.T) {
	chunk := wire.Frame{Kind: wire.Stdout, Stream: wire.First, Body: make([]byte, wire.MaxBody)}
	var flood []wire.Frame
	for range 2 + 2*wire.Window/wire.MaxBody { // the pipe takes one
		flood = append(flood, chunk)
	}
	for name, c := range map[string]struct {
		frames []wire.Frame
		want   string
	}{
		"a word before hello":       {[]wire.Frame{started}, "out of order"},
		"hello twice":               {[]wire.Frame{hello, hello}, "out of order"},
		"another version":           {[]wire.Frame{{Kind: wire.Hello, Body: wire.Number(99)}}, "version 99"},
		"an unknown kind":           {[]wire.Frame{hello, {Kind: 'B', Body: []byte("{}")}}, "unknown kind"},
		"a stream of its own":       {[]wire.Frame{hello, {Kind: wire.Started, Stream: 7}}, "stream 7"},
		"output before the process": {[]wire.Frame{hello, chunk}, "before its process"},
		"an end before the process": {[]wire.Frame{hello, exited(0, 0, 0)}, "before its process"},
		"started twice":             {[]wire.Frame{hello, started, started}, "twice"},
		"failed after its start":    {[]wire.Frame{hello, started, {Kind: wire.Failed, Stream: wire.First, Body: []byte{0}}}, "after its start"},
		"a long exit":               {[]wire.Frame{hello, started, {Kind: wire.Exit, Stream: wire.First, Body: make([]byte, 9)}}, "instead of 3"},
		"an unknown want":           {[]wire.Frame{hello, started, exited(0, 0, 4)}, "not known"},
		"credit for no input":       {[]wire.Frame{hello, started, {Kind: wire.Took, Stream: wire.First, Body: wire.Number(1)}}, "more input"},
		"credit that wraps":         {[]wire.Frame{hello, started, {Kind: wire.Took, Stream: wire.First, Body: wire.Number(1<<32 - 1)}}, "more input"},
		"a flood of output":         {append([]wire.Frame{hello, started}, flood...), "than it has credit for"},
		"a frame too long":          {[]wire.Frame{hello, {Kind: wire.Stdout, Stream: wire.First, Body: make([]byte, wire.MaxBody+1)}}, "the most is"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			go io.Copy(io.Discard, g.c)
			go g.say(c.frames...)
			if code, err := g.ends(); code != exitLost || !strings.Contains(err, "breaks the rules") || !strings.Contains(err, c.want) {
				t.Errorf("exit status %d, %q; want the words %q", code, err, c.want)
			}
		})
	}
	t.Run("garbage", func(t *testing.T) {
		g := newGuest(t)
		go io.Copy(io.Discard, g.c)
		go g.c.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 1000))
		if code, err := g.ends(); code != exitLost || !strings.Contains(err, "breaks the rules") {
			t.Errorf("exit status %d, %q", code, err)
		}
	})
	t.Run("half a frame, then the end", func(t *testing.T) {
		g := newGuest(t)
		go io.Copy(io.Discard, g.c)
		go func() {
			g.c.Write(wire.Append(nil, hello)[:7])
			g.c.Close()
		}()
		if code, _ := g.ends(); code != exitLost {
			t.Error("exit status ", code)
		}
	})
}

// TestSilence has machines that do not start, do not answer, or do not even read.
func TestSilence(t *testing.T) {
	t.Run("does not start", func(t *testing.T) {
		g := newGuest(t)
		go g.s.attend(3)
		if code, err := g.ends(); code != exitLost || !strings.Contains(err, "has not started") {
			t.Errorf("exit status %d, %q", code, err)
		}
	})
	t.Run("does not answer", func(t *testing.T) {
		g := newGuest(t)
		go g.say(hello, started)
		go g.s.attend(100)
		if code, err := g.ends(); code != exitLost || !strings.Contains(err, "has not answered") {
			t.Errorf("exit status %d, %q", code, err)
		}
	})
	t.Run("answers", func(t *testing.T) {
		g := newGuest(t)
		g.s.tick = time.Millisecond
		go g.s.attend(100)
		go g.say(hello, started)
		for n := 0; n < 50; {
			if f := g.hear(); f.Kind == wire.Ping {
				g.say(wire.Frame{Kind: wire.Pong, Body: f.Body})
				n++
			}
		}
		go io.Copy(io.Discard, g.c)
		go g.say(exited(0, 0, 0))
		if code, err := g.ends(); code != 0 {
			t.Errorf("exit status %d, %q", code, err)
		}
	})
}

// TestQuestions floods the monitor with questions about names, of which it answers so many at a time.
func TestQuestions(t *testing.T) {
	g := newGuest(t)
	go func() {
		g.say(hello, started)
		for i := range uint32(10 * mostAsking) {
			g.say(wire.Frame{Kind: wire.Ask, Stream: i, Body: []byte{byte(i % 2), 1, 2, 3}})
		}
		g.say(exited(0, 0, 0))
	}()
	go io.Copy(io.Discard, g.c)
	if code, err := g.ends(); code != 0 {
		t.Errorf("exit status %d, %q", code, err)
	}
	if n := len(g.s.asking); n > mostAsking {
		t.Errorf("%d are being answered", n)
	}
}

func TestTail(t *testing.T) {
	var c tail
	c.Write(bytes.Repeat([]byte("x"), 3*tailLen))
	c.Write([]byte("\x1b[2J\x07end\n\n"))
	if got := c.String(); !strings.HasSuffix(got, "x[2Jend") || len(got) > tailLen {
		t.Errorf("%d bytes, %q", len(got), got[len(got)-10:])
	}
}

// FuzzSession gives a session whatever a machine may send. It ends or waits for more; nothing panics, and no stream keeps more than its window.
func FuzzSession(f *testing.F) {
	f.Add(wire.Append(wire.Append(wire.Append(nil, hello), started), exited(1, 0, 0)))
	f.Add(wire.Append(wire.Append(nil, hello), wire.Frame{Kind: wire.Ask, Stream: 3, Body: []byte{0, 1}}))
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSession(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard})
		s.tick = 0
		first := newStream(s, wire.First, [3]*os.File{null, null, null})
		s.streams[wire.First] = first
		s.serve()
		for _, o := range first.output {
			if o.size > wire.Window+wire.MaxBody {
				t.Fatalf("%d bytes are kept", o.size)
			}
		}
		first.mu.Lock()
		first.ended = true
		first.more.Broadcast()
		first.mu.Unlock()
	})
}
