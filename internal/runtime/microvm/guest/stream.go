package guest

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/pty"
	"brig/internal/runtime/microvm/wire"
	"brig/internal/runtime/oci"
)

// stream is one process's.
type stream struct {
	a  *agent
	id uint32

	member string // the name of the member whose first process it is; empty: of none

	told   []byte // what is said instead of what a process would say; nil: there is a process
	theirs [3]int // the process's ends of its pipes, until it has them; -1: none

	mu     sync.Mutex
	more   sync.Cond // on mu: input, credit or the end has come
	proc   *oci.Process
	in     *os.File    // where input goes; nil: nowhere
	out    [2]*os.File // where output comes from; nil: nowhere
	tty    bool
	input  [][]byte // not taken yet: never more than the window
	eof    bool     // no more input comes
	credit [2]int   // bytes of each output that may be sent
	ended  bool     // the process has
	early  []syscall.Signal
}

func newStream(a *agent, id uint32) *stream {
	s := &stream{a: a, id: id, theirs: [3]int{-1, -1, -1}, credit: [2]int{wire.Window, wire.Window}}
	s.more.L = &s.mu
	return s
}

// pipes makes those of a process without a terminal.
func (s *stream) pipes() ([3]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.theirs {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return s.theirs, os.NewSyscallError("pipe2", err)
		}
		theirs, ours := p[1], p[0]
		if i == 0 {
			theirs, ours = p[0], p[1]
		}
		unix.SetNonblock(ours, true) // so that its reader can be called away
		s.theirs[i] = theirs
		f := os.NewFile(uintptr(ours), "pipe")
		if i == 0 {
			s.in = f
		} else {
			s.out[i-1] = f
		}
	}
	return s.theirs, nil
}

// handedOver closes the process's ends.
func (s *stream) handedOver() {
	for i, fd := range s.theirs {
		if fd >= 0 {
			unix.Close(fd)
		}
		s.theirs[i] = -1
	}
}

// begin notes the process, before it executes: a signal may come at once.
func (s *stream) begin(p *oci.Process, terminal bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proc, s.tty = p, terminal
	if terminal {
		if fd, err := unix.FcntlInt(p.Console.Fd(), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			unix.SetNonblock(fd, true)
			s.in = os.NewFile(uintptr(fd), "terminal")
			s.out[0] = s.in
		}
	}
}

// abandon ends what begin noted and did not execute.
func (s *stream) abandon() {
	s.handedOver()
	s.mu.Lock()
	p := s.proc
	s.ended = true
	s.more.Broadcast()
	s.mu.Unlock()
	if p != nil {
		unix.PidfdSendSignal(p.PidFD, unix.SIGKILL, nil, 0)
		p.Reap()
		p.Close()
	}
}

// left is how long the output of an ended process is read on while something that it started holds the pipes.
const left = 100 * time.Millisecond

// run moves bytes until the process has ended and its output is sent.
func (s *stream) run() api.Exit {
	go s.feed()
	var outputs sync.WaitGroup
	for i, f := range s.out {
		if f != nil {
			outputs.Go(func() { s.drain(i, f) })
		}
	}
	s.mu.Lock()
	early := s.early
	s.early = nil
	s.mu.Unlock()
	for _, sig := range early {
		s.signal(sig)
	}
	e, err := s.proc.Reap()
	if err != nil {
		e = api.Exit{Code: 255}
	}
	s.mu.Lock()
	s.ended = true
	s.more.Broadcast()
	s.mu.Unlock()
	for _, f := range s.out {
		if f != nil {
			f.SetReadDeadline(time.Now().Add(left))
		}
	}
	outputs.Wait()
	s.proc.Close()
	return e
}

// say sends what is told as a process that said so would.
func (s *stream) say() api.Exit {
	r, w, err := os.Pipe()
	if err != nil {
		return api.Exit{Code: 255}
	}
	go func() {
		w.Write(s.told) //nolint:errcheck // nobody hears it, then
		w.Close()
	}()
	s.drain(0, r)
	r.Close()
	return api.Exit{}
}

// drain sends one output as far as there is credit.
func (s *stream) drain(i int, f *os.File) {
	kind := wire.Stdout
	if i == 1 {
		kind = wire.Stderr
	}
	buf := make([]byte, 32<<10)
	for {
		s.mu.Lock()
		for s.credit[i] == 0 {
			s.more.Wait()
		}
		most := min(len(buf), s.credit[i])
		s.mu.Unlock()
		n, err := f.Read(buf[:most])
		if n > 0 {
			s.mu.Lock()
			s.credit[i] -= n
			s.mu.Unlock()
			s.a.send(wire.Frame{Kind: kind, Stream: s.id, Body: buf[:n]})
		}
		if err != nil && errors.Is(err, unix.EIO) && s.tty && !s.over() {
			time.Sleep(20 * time.Millisecond) // nobody has the terminal open; somebody may open it again
			continue
		}
		if err != nil {
			return
		}
	}
}

func (s *stream) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// feed gives the process its input.
func (s *stream) feed() {
	if s.in == nil {
		return
	}
	deaf := false // the process has closed its end: what comes is dropped
	for {
		s.mu.Lock()
		for len(s.input) == 0 && !s.eof && !s.ended {
			s.more.Wait()
		}
		if s.ended || len(s.input) == 0 {
			over := s.tty || s.ended
			s.mu.Unlock()
			if !over {
				s.in.Close()
			}
			return
		}
		b := s.input[0]
		s.input = s.input[1:]
		s.mu.Unlock()
		if !deaf {
			_, err := s.in.Write(b)
			deaf = err != nil && !s.tty
		}
		s.a.send(wire.Frame{Kind: wire.Took, Stream: s.id, Body: wire.Number(uint32(len(b)))})
	}
}

// take handles a frame for the stream. It does not block.
func (s *stream) take(f wire.Frame) {
	switch f.Kind {
	case wire.Stdin:
		s.mu.Lock()
		if len(f.Body) == 0 {
			s.eof = true
		} else if !s.eof {
			s.input = append(s.input, f.Body)
		}
		s.more.Broadcast()
		s.mu.Unlock()
	case wire.Credit:
		if i, n, ok := wire.ParseCredit(f.Body); ok {
			s.mu.Lock()
			s.credit[i-1] += int(n)
			s.more.Broadcast()
			s.mu.Unlock()
		}
	case wire.Signal:
		if len(f.Body) == 1 {
			s.signal(syscall.Signal(f.Body[0]))
		}
	case wire.Resize:
		rows, cols, ok := wire.ParseSize(f.Body)
		s.mu.Lock()
		if ok && s.tty && s.in != nil {
			if c, err := s.in.SyscallConn(); err == nil {
				c.Control(func(fd uintptr) { pty.Resize(int(fd), rows, cols) })
			}
		}
		s.mu.Unlock()
	}
}

// signal sends one; before the process is there it is kept.
func (s *stream) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
	case s.proc == nil:
		s.early = append(s.early, sig)
	default:
		unix.PidfdSendSignal(s.proc.PidFD, sig, nil, 0) //nolint:errcheck // it has ended
	}
}

// close frees the pipes.
func (s *stream) close() {
	s.mu.Lock()
	s.ended = true
	s.more.Broadcast()
	s.mu.Unlock()
	for _, f := range []*os.File{s.in, s.out[0], s.out[1]} {
		if f != nil {
			f.Close()
		}
	}
}
