package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/guest/wire"
)

// afterlife is how long the output of a command is read on after its end, while something that it left holds the pipes.
const afterlife = 3 * time.Second

// clocks is what a greeting changes on the machine.
type clocks interface {
	setClock(ns int64) error
	reseed(seed []byte) error
}

// server serves one connection.
type server struct {
	conn *wire.Conn
	host clocks

	mu      sync.Mutex
	streams map[uint32]*work
}

// work is one stream that goes on.
type work struct {
	data chan []byte // Data frames not taken yet: never more than the window
	gone chan struct{}

	mu  sync.Mutex
	pid int      // process group of a command that runs; 0: none
	tty *os.File // its terminal's master; nil: none
}

func newServer(rw io.ReadWriter, host clocks) *server {
	return &server{conn: wire.NewConn(rw), host: host, streams: map[uint32]*work{}}
}

// serve returns at the connection's end.
func (s *server) serve() error {
	for {
		f, err := s.conn.Read()
		if err != nil {
			return err
		}
		switch f.Kind {
		case wire.Hello:
			s.hello(f)
		case wire.Run:
			var c wire.Command
			if w := s.begin(f, &c); w != nil {
				go s.run(f.Stream, w, c)
			}
		case wire.Put:
			var file wire.File
			if w := s.begin(f, &file); w != nil {
				go func() { s.end(f.Stream, wire.Status{Error: text(s.put(f.Stream, w, file))}) }()
			}
		case wire.Data, wire.Signal, wire.Resize:
			s.mu.Lock()
			w := s.streams[f.Stream]
			s.mu.Unlock()
			if w != nil {
				w.take(f)
			}
		}
	}
}

// hello begins a session; what an earlier one left is killed and forgotten.
func (s *server) hello(f wire.Frame) {
	s.mu.Lock()
	for id, w := range s.streams {
		w.signal(unix.SIGKILL)
		close(w.gone)
		delete(s.streams, id)
	}
	s.mu.Unlock()
	var g wire.Greeting
	err := json.Unmarshal(f.Body, &g)
	if err == nil {
		err = errors.Join(s.host.setClock(g.Time), s.host.reseed(g.Seed))
	}
	if err != nil {
		s.conn.WriteJSON(wire.Exit, f.Stream, wire.Status{Error: "greeting: " + err.Error()})
		return
	}
	s.conn.WriteJSON(wire.Welcome, f.Stream, wire.Greeting{Version: wire.Version, Time: time.Now().UnixNano()})
}

// begin takes up a stream; nil if it makes no sense, which it has then said.
func (s *server) begin(f wire.Frame, into any) *work {
	w := &work{data: make(chan []byte, wire.Window+1), gone: make(chan struct{})}
	s.mu.Lock()
	_, twice := s.streams[f.Stream]
	if !twice {
		s.streams[f.Stream] = w
	}
	s.mu.Unlock()
	if twice {
		return nil
	}
	if err := json.Unmarshal(f.Body, into); err != nil {
		s.end(f.Stream, wire.Status{Error: err.Error()})
		return nil
	}
	return w
}

// end says the last word on a stream, if it is still this session's.
func (s *server) end(id uint32, st wire.Status) {
	s.mu.Lock()
	_, ours := s.streams[id]
	delete(s.streams, id)
	s.mu.Unlock()
	if ours {
		s.conn.WriteJSON(wire.Exit, id, st)
	}
}

// take handles a frame for a stream that goes on. It does not block.
func (w *work) take(f wire.Frame) {
	switch f.Kind {
	case wire.Data:
		select {
		case w.data <- f.Body:
		default: // beyond the window: a host that cannot count
		}
	case wire.Signal:
		if len(f.Body) == 1 {
			w.signal(syscall.Signal(f.Body[0]))
		}
	case wire.Resize:
		var size wire.Size
		if json.Unmarshal(f.Body, &size) == nil {
			w.mu.Lock()
			if w.tty != nil {
				resize(w.tty, size)
			}
			w.mu.Unlock()
		}
	}
}

func (w *work) signal(sig syscall.Signal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pid > 0 {
		unix.Kill(-w.pid, sig)
	}
}

// source reads a stream's data, a credit back for each frame.
type source struct {
	s    *server
	id   uint32
	w    *work
	rest []byte
	end  bool
}

func (r *source) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.end {
			return 0, io.EOF
		}
		select {
		case r.rest = <-r.w.data:
		case <-r.w.gone:
			return 0, io.ErrClosedPipe
		}
		if r.end = len(r.rest) == 0; !r.end {
			if err := r.s.conn.Write(wire.Ack, r.id, nil); err != nil {
				return 0, err
			}
		}
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// put writes a file beside its name, then moves it there.
func (s *server) put(id uint32, w *work, file wire.File) error {
	if err := os.MkdirAll(filepath.Dir(file.Path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file.Path), ".put")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, &source{s: s, id: id, w: w})
	err = errors.Join(err, f.Chmod(os.FileMode(file.Mode)&os.ModePerm), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file.Path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// sink sends what a command writes.
type sink struct {
	s    *server
	kind wire.Kind
	id   uint32
}

func (k sink) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return len(b), k.s.conn.Write(k.kind, k.id, b)
}

// run runs a command to its end.
func (s *server) run(id uint32, w *work, c wire.Command) {
	if len(c.Args) == 0 {
		s.end(id, wire.Status{Error: "no command"})
		return
	}
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = append(os.Environ(), c.Env...), c.Dir, afterlife
	in := &source{s: s, id: id, w: w}
	if c.Size != nil {
		s.end(id, s.runTerminal(id, w, cmd, *c.Size, in))
		return
	}
	cmd.Stdout, cmd.Stderr = sink{s, wire.Stdout, id}, sink{s, wire.Stderr, id}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Not cmd.Stdin: Wait would wait for input that no one sends any more.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.end(id, wire.Status{Error: err.Error()})
		return
	}
	if err := w.start(cmd, nil); err != nil {
		s.end(id, wire.Status{Error: err.Error()})
		return
	}
	go func() {
		io.Copy(stdin, in)
		stdin.Close()
	}()
	s.end(id, w.wait(cmd))
}

// start starts the command and notes its process group.
func (w *work) start(cmd *exec.Cmd, tty *os.File) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	w.pid, w.tty = cmd.Process.Pid, tty
	return nil
}

// wait returns how the command ended.
func (w *work) wait(cmd *exec.Cmd) wire.Status {
	err := cmd.Wait()
	w.mu.Lock()
	w.pid, w.tty = 0, nil
	w.mu.Unlock()
	if cmd.ProcessState == nil {
		return wire.Status{Error: text(err)}
	}
	st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && st.Signaled() {
		return wire.Status{Signal: int(st.Signal())}
	}
	return wire.Status{Code: cmd.ProcessState.ExitCode()}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
