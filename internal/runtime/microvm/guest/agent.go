package guest

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/runtime/microvm/wire"
)

// agent serves the monitor. Lock order: agent.mu, then stream.mu; writing is last.
type agent struct {
	port io.ReadWriter

	networked chan struct{} // closed when the machine has its interfaces, or cannot have them
	noNetwork error         // after that: why it cannot

	writing sync.Mutex
	out     []byte

	whole bool // all processors are up; of who makes the first container

	building sync.Mutex // held by who builds a member

	mu      sync.Mutex
	streams map[uint32]*stream
	main    *container            // nil: not made yet
	members map[string]*container // of a pod, by the names of their runs
	nic     string                // the device of the interface that the template has; empty: there is none such
	away    bool                  // it has no driver
	dns     *resolver             // nil: nobody answers
}

func newAgent(port io.ReadWriter) *agent {
	return &agent{port: port, streams: map[uint32]*stream{}, members: map[string]*container{}}
}

// send writes one frame. An error is the channel's end, which who reads notices.
func (a *agent) send(f wire.Frame) {
	a.writing.Lock()
	defer a.writing.Unlock()
	a.out = wire.Append(a.out[:0], f)
	a.port.Write(a.out) //nolint:errcheck // see above
}

// fail says why a stream's process does not run.
func (a *agent) fail(id uint32, err error) {
	text := err.Error()
	body := append([]byte(api.KindOf(err)), 0)
	body = append(body, text[:min(len(text), wire.MaxText-len(body))]...)
	a.send(wire.Frame{Kind: wire.Failed, Stream: id, Body: body})
}

// serve does what the monitor says. It returns at the end of the channel.
func (a *agent) serve() error {
	for {
		f, err := wire.Read(a.port, wire.MaxOrder, nil)
		if err != nil {
			return fmt.Errorf("the monitor: %w", err)
		}
		switch f.Kind {
		case wire.Boot:
			if err := a.boot(f.Body); err != nil {
				a.fail(wire.First, err)
			}
		case wire.Start:
			s := newStream(a, f.Stream)
			a.mu.Lock()
			a.streams[f.Stream] = s
			a.mu.Unlock()
			go a.start(s, f.Body)
		case wire.Ping:
			setClock(f.Body, clockSlack)
			a.send(wire.Frame{Kind: wire.Pong, Body: f.Body})
		case wire.Rest:
			if err := a.rest(); err != nil {
				return err
			}
			a.send(wire.Frame{Kind: wire.Rested})
		case wire.Answer:
			a.dns.answer(f.Stream, f.Body)
		default:
			a.mu.Lock()
			s := a.streams[f.Stream]
			a.mu.Unlock()
			if s != nil {
				s.take(f)
			}
		}
	}
}

// boot applies the machine's settings. What takes its time for an emulator, the network, goes on beside the making of the container.
func (a *agent) boot(body []byte) error {
	a.networked = make(chan struct{}) // for which whoever executes something waits
	s, err := wire.ParseSettings(body)
	if err != nil {
		return err
	}
	now := unix.NsecToTimeval(s.Time)
	if err := unix.Settimeofday(&now); err != nil {
		return os.NewSyscallError("settimeofday", err)
	}
	if err := reseed(s.Seed); err != nil {
		return err // and nobody's process executes: it waits for the devices
	}
	go func() {
		a.noNetwork = a.network(&s)
		close(a.networked)
	}()
	return nil
}

// network gives the machine its interfaces, beside the making of the container, which waits for it before it executes anything.
func (a *agent) network(s *wire.Settings) error {
	if s.Late {
		if err := a.interfaces(s.Links); err != nil {
			return err
		}
	}
	if err := network(s.Links); err != nil || !s.DNS {
		return err
	}
	dns, err := listen(a)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.dns = dns
	a.mu.Unlock()
	return nil
}

// clockSlack is how far the clock may be from the monitor's before it is set. A machine that was paused is late.
const clockSlack = 500 * time.Millisecond

func setClock(body []byte, slack time.Duration) {
	if len(body) != 8 {
		return
	}
	var ns int64
	for i := range 8 {
		ns |= int64(body[i]) << (8 * i)
	}
	if off := time.Until(time.Unix(0, ns)); off < slack && off > -slack {
		return
	}
	now := unix.NsecToTimeval(ns)
	unix.Settimeofday(&now) //nolint:errcheck // the next one tries again
}

// reseed gives the kernel's generator what no other machine has, and has it go by that from now on, which machines of one template would else do in step: random(4),
// RNDADDENTROPY and RNDRESEEDCRNG.
func reseed(seed []byte) error {
	if len(seed) == 0 {
		return nil
	}
	fd, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b := make([]byte, 8+len(seed))
	*(*int32)(unsafe.Pointer(&b[0])) = int32(len(seed) * 8)
	*(*int32)(unsafe.Pointer(&b[4])) = int32(len(seed))
	copy(b[8:], seed)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return os.NewSyscallError("RNDADDENTROPY", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return os.NewSyscallError("RNDRESEEDCRNG", errno)
	}
	return nil
}

// start runs the process of a new stream to its end.
func (a *agent) start(s *stream, body []byte) {
	var err error
	if s.id == wire.First {
		err = a.create(s, body)
	} else {
		err = a.further(s, body)
	}
	if err != nil {
		s.abandon()
		a.endMember(s, 0)
		a.forget(s)
		a.fail(s.id, err)
		return
	}
	a.send(wire.Frame{Kind: wire.Started, Stream: s.id})
	run := s.run
	if s.told != nil {
		run = s.say
	}
	e := run()
	why := byte(0)
	if s.id == wire.First {
		unix.Sync() // what was written through mappings goes to the host, before it hears of the end
		why = a.main.ranOut(e.Code)
	} else {
		why = a.endMember(s, e.Code)
	}
	a.forget(s)
	a.send(wire.Frame{Kind: wire.Exit, Stream: s.id, Body: []byte{byte(e.Code), byte(e.Signal), why}})
}

func (a *agent) forget(s *stream) {
	a.mu.Lock()
	delete(a.streams, s.id)
	a.mu.Unlock()
	s.close()
}
