package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	boxed "brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/microvm/wire"
)

// session is the talk with one machine. The goroutine that reads never waits for the machine to read, so that a machine which does not read cannot keep it from
// noticing what else is wrong. Lock order: session.mu, then stream.mu.
type session struct {
	channel io.ReadWriter
	tick    time.Duration // between two looks at the machine
	console tail
	orders  chan wire.Frame // on their way to the machine
	up      chan struct{}   // closed when the container's process executes
	ended   chan struct{}   // closed with the session
	asking  chan struct{}   // a token for each question that is being answered

	mu      sync.Mutex
	why     error // the session's end, nil: it goes on
	greeted bool
	quiet   int // ticks since the machine was last heard
	next    uint32
	streams map[uint32]*stream
	members map[string]*stream // of a pod, by the ID of the container: its last run
}

const (
	mostQuiet  = 120 // ticks without a word that end a machine
	mostExecs  = 256
	mostAsking = 64
)

func newSession(channel io.ReadWriter) *session {
	return &session{
		channel: channel, tick: time.Second, orders: make(chan wire.Frame, 64), up: make(chan struct{}), ended: make(chan struct{}), asking: make(chan struct{}, mostAsking),
		next: wire.First, streams: map[uint32]*stream{}, members: map[string]*stream{},
	}
}

// lost ends the session. The first reason counts.
func (s *session) lost(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		s.why = err
		close(s.ended)
	}
}

// send gives the machine an order. It waits for the machine to read; not for one that has ended.
func (s *session) send(f wire.Frame) {
	select {
	case s.orders <- f:
	case <-s.ended:
	}
}

// write is the only goroutine that writes.
func (s *session) write() {
	var buf []byte
	for {
		select {
		case f := <-s.orders:
			buf = wire.Append(buf[:0], f)
			if _, err := s.channel.Write(buf); err != nil {
				return // who reads finds out why
			}
		case <-s.ended:
			return
		}
	}
}

// begin has a process started on a stream; body says which.
func (s *session) begin(t *stream, body []byte) {
	s.mu.Lock()
	s.streams[t.id] = t
	s.mu.Unlock()
	s.send(wire.Frame{Kind: wire.Start, Stream: t.id, Body: body})
}

// open makes a stream for one more process; nil where there are too many.
func (s *session) open(files [3]*os.File) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams) > mostExecs {
		return nil
	}
	s.next++
	return newStream(s, s.next, files)
}

// serve reads what the machine says, to its end.
func (s *session) serve() {
	go s.write()
	buf := make([]byte, wire.MaxBody)
	for {
		f, err := wire.Read(s.channel, wire.MaxBody, buf)
		var system *os.PathError
		if errors.Is(err, io.EOF) || errors.As(err, &system) {
			time.Sleep(s.tick / 2) // QEMU's own end says more
			s.lost(fmt.Errorf("the virtual machine has closed its channel: %w", err))
			return
		}
		if err == nil {
			err = s.take(&f)
		}
		if err != nil {
			s.lost(fmt.Errorf("the virtual machine breaks the rules: %w", err))
			return
		}
	}
}

// take checks and handles one frame. An error is a broken rule.
func (s *session) take(f *wire.Frame) error {
	if err := f.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = 0
	if greets := f.Kind == wire.Hello; greets == s.greeted {
		return fmt.Errorf("a frame of kind %c out of order", f.Kind)
	}
	switch f.Kind {
	case wire.Hello:
		if v := wire.ParseNumber(f.Body); v != wire.Version {
			return fmt.Errorf("it speaks version %d, and this is %d", v, wire.Version)
		}
		s.greeted = true
		return nil
	case wire.Pong:
		return nil
	case wire.Ask:
		s.ask(f)
		return nil
	}
	t := s.streams[f.Stream]
	if t == nil {
		return fmt.Errorf("a frame of kind %c for stream %d, which there is not", f.Kind, f.Stream)
	}
	over, err := t.take(f)
	if over {
		delete(s.streams, f.Stream)
	}
	return err
}

// attend asks the machine, time and again, whether it is well, and tells it the time. The ticks do not pile up while the box stands still.
func (s *session) attend(boot int) {
	clock := time.NewTicker(s.tick)
	defer clock.Stop()
	for n := 0; ; n++ {
		select {
		case <-clock.C:
		case <-s.ended:
			return
		}
		s.mu.Lock()
		s.quiet++
		quiet, greeted := s.quiet, s.greeted
		s.mu.Unlock()
		switch {
		case !greeted && quiet > boot:
			s.lost(fmt.Errorf("the virtual machine has not started after %s", time.Duration(boot)*s.tick))
		case greeted && quiet > mostQuiet:
			s.lost(fmt.Errorf("the virtual machine has not answered for %s", mostQuiet*s.tick))
		case greeted && n%5 == 0:
			select {
			case s.orders <- wire.Frame{Kind: wire.Ping, Body: binary.LittleEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))}:
			default: // it does not read
			}
		}
	}
}

// wait returns when the container's process or the machine has ended.
func (s *session) wait(first *stream) (int, error) {
	select {
	case <-first.over:
		return first.result()
	case <-s.ended:
	}
	select {
	case <-first.over: // both at once
		return first.result()
	default:
	}
	s.mu.Lock()
	err := s.why
	s.mu.Unlock()
	if said := s.console.String(); said != "" {
		err = fmt.Errorf("the console of the virtual machine said last:\n%s\nbrig: %w", said, err) // the reason is the last line of the log
	}
	return exitLost, err
}

// stream is one process's.
type stream struct {
	s    *session
	id   uint32
	file [3]*os.File
	tty  bool

	member string // the ID of the container, where it is the first process of a pod's member

	began chan struct{} // closed when it executes
	over  chan struct{} // closed when it has ended, and its output is written

	mu      sync.Mutex
	more    sync.Cond // on mu
	running bool
	output  [2]struct { // what the machine sent and has no credit for yet
		chunks [][]byte
		size   int
	}
	credit int // bytes of input that may be sent
	ended  bool
	code   int
	sig    byte // that ended it, 0: none did
	lacked byte // what had run out in the machine: wire.EndMemory, wire.EndCrowded
	err    error
	early  []wire.Frame // orders that came before the process was there
}

func newStream(s *session, id uint32, files [3]*os.File) *stream {
	t := &stream{s: s, id: id, file: files, credit: wire.Window, began: make(chan struct{}), over: make(chan struct{})}
	t.more.L = &t.mu
	go t.write()
	return t
}

// terminal says that the streams are a terminal.
func (t *stream) terminal() {
	t.tty = true
	t.resized()
}

// order sends one about the process, or keeps it until there is one.
func (t *stream) order(f wire.Frame) {
	t.mu.Lock()
	if !t.running {
		if len(t.early) < 64 {
			t.early = append(t.early, f)
		}
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	t.s.send(f)
}

func (t *stream) signal(sig syscall.Signal) {
	t.order(wire.Frame{Kind: wire.Signal, Stream: t.id, Body: []byte{byte(sig)}})
}

// resized tells the size of the terminal.
func (t *stream) resized() {
	if !t.tty {
		return
	}
	if w, err := unix.IoctlGetWinsize(int(t.file[0].Fd()), unix.TIOCGWINSZ); err == nil {
		t.order(wire.Frame{Kind: wire.Resize, Stream: t.id, Body: wire.Size(w.Row, w.Col)})
	}
}

// take handles a frame of the machine's; over says that it was the last.
func (t *stream) take(f *wire.Frame) (over bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.more.Broadcast()
	if f.Kind != wire.Started && f.Kind != wire.Failed && !t.running {
		return false, fmt.Errorf("a frame of kind %c on stream %d before its process", f.Kind, t.id)
	}
	switch f.Kind {
	case wire.Started:
		if t.running {
			return false, fmt.Errorf("stream %d started twice", t.id)
		}
		t.running = true
		close(t.began)
		if t.id == wire.First {
			close(t.s.up)
		}
		early := t.early
		t.early = nil
		go func() {
			for _, f := range early {
				t.s.send(f)
			}
			t.read()
		}()
	case wire.Failed:
		if t.running {
			return false, fmt.Errorf("stream %d failed after its start", t.id)
		}
		t.code, t.err = failure(f.Body)
		t.ended = true
		return true, nil
	case wire.Stdout, wire.Stderr:
		o := &t.output[0]
		if f.Kind == wire.Stderr {
			o = &t.output[1]
		}
		if o.size += len(f.Body); o.size > wire.Window {
			return false, fmt.Errorf("more output on stream %d than it has credit for", t.id)
		}
		o.chunks = append(o.chunks, append([]byte(nil), f.Body...))
	case wire.Took:
		n := wire.ParseNumber(f.Body)
		if n > wire.Window || t.credit+int(n) > wire.Window {
			return false, fmt.Errorf("more input taken on stream %d than was sent", t.id)
		}
		t.credit += int(n)
	case wire.Exit:
		t.code, t.sig, t.lacked, t.ended = int(f.Body[0]), f.Body[1], f.Body[2], true
		if t.sig != 0 {
			t.code = 128 + int(t.sig)
		}
		return true, nil
	}
	return false, nil
}

// write writes the process's output, then says that all is over.
func (t *stream) write() {
	var both sync.WaitGroup
	for i := range t.output {
		both.Go(func() { t.writeOne(i) })
	}
	both.Wait()
	close(t.over)
}

func (t *stream) writeOne(i int) {
	for {
		t.mu.Lock()
		for len(t.output[i].chunks) == 0 && !t.ended {
			t.more.Wait()
		}
		if len(t.output[i].chunks) == 0 {
			t.mu.Unlock()
			return
		}
		b := t.output[i].chunks[0]
		t.output[i].chunks = t.output[i].chunks[1:]
		t.mu.Unlock()
		t.file[i+1].Write(b) //nolint:errcheck // who read it has gone: as with a closed pipe whose writer goes on
		t.mu.Lock()
		t.output[i].size -= len(b)
		ended := t.ended
		t.mu.Unlock()
		if !ended {
			t.s.send(wire.Frame{Kind: wire.Credit, Stream: t.id, Body: wire.CreditOf(byte(i+1), uint32(len(b)))})
		}
	}
}

// read passes input on, as far as the process takes it.
func (t *stream) read() {
	buf := make([]byte, 32<<10)
	for {
		t.mu.Lock()
		for t.credit < len(buf) && !t.ended {
			t.more.Wait()
		}
		ended := t.ended
		t.mu.Unlock()
		if ended {
			return
		}
		n, err := t.file[0].Read(buf)
		if n > 0 {
			t.mu.Lock()
			t.credit -= n
			t.mu.Unlock()
			t.s.send(wire.Frame{Kind: wire.Stdin, Stream: t.id, Body: append([]byte(nil), buf[:n]...)})
		}
		if err != nil {
			t.s.send(wire.Frame{Kind: wire.Stdin, Stream: t.id})
			return
		}
	}
}

// result is how the process ended; call it after over.
func (t *stream) result() (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.code, t.err
}

// ends is by which signal it has ended, 0 for none, and what had run out in the machine: wire.EndMemory, wire.EndCrowded.
func (t *stream) ends() (sig, lacked byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sig, t.lacked
}

// tells is what the keeper is to know of an end, by package boxed/wire; empty: nothing.
func tells(sig, lacked byte) string {
	switch {
	case lacked&wire.EndMemory != 0:
		return boxed.ToldOOM
	case lacked&wire.EndCrowded != 0:
		return boxed.ToldCrowded
	case sig != 0:
		return boxed.ToldSignal + strconv.Itoa(int(sig))
	}
	return ""
}
