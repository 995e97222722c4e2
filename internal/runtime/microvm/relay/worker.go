package relay

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// worker moves the requests of one queue, as it is described now.
type worker struct {
	ring       ring
	kick, call int
	mem        Memory
	guest      guestMemory
	shadow     *shadow
	number     int
	indirect   bool
	halt       int         // an eventfd
	abandon    atomic.Bool // what virtiofsd has is not waited for
	slot       [slots]request
	files      files // that the guest has opened
}

func newWorker(q *queue, mem Memory, g *guestMemory, d *daemon, number int, indirect bool, known files) (*worker, error) {
	halt, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return &worker{ring: q.ring, kick: q.kick, call: q.call, mem: mem, guest: *g, shadow: &d.queue[number], number: number, indirect: indirect, halt: halt, files: known}, nil
}

// stop has run end when nothing is under way.
func (w *worker) stop() { raise(w.halt) }

func (w *worker) close() { unix.Close(w.halt) }

// idle is how long a queue has to rest until its memory is given back, in milliseconds.
const idle = 1000

// run moves requests until it is stopped.
func (w *worker) run() error {
	fds := []unix.PollFd{{Fd: int32(w.kick), Events: unix.POLLIN}, {Fd: int32(w.shadow.call), Events: unix.POLLIN}, {Fd: int32(w.halt), Events: unix.POLLIN}}
	for stopping, due := false, true; ; {
		if due && !stopping {
			var err error
			if due, err = w.question(); err != nil {
				return fmt.Errorf("queue %d: %w", w.number, err)
			}
		}
		if stopping && (w.shadow.inFlight == 0 || w.abandon.Load()) {
			return nil
		}
		wait := -1
		if w.shadow.touched {
			wait = idle
		}
		n, err := unix.Poll(fds, wait)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("poll", err)
		}
		if n == 0 {
			w.shadow.rest()
		}
		for i := range fds {
			if fds[i].Revents&unix.POLLIN != 0 {
				lower(int(fds[i].Fd))
			} else if fds[i].Revents != 0 {
				return fmt.Errorf("queue %d: the descriptor of its kicks is none of an event", w.number)
			}
		}
		due = due || fds[0].Revents != 0 // the guest is never told not to kick
		stopping = stopping || fds[2].Revents != 0
		if err := w.answer(); err != nil {
			return fmt.Errorf("queue %d: %w", w.number, err)
		}
	}
}

// question hands on what is available, as far as there is room, and reports whether there is more.
func (w *worker) question() (more bool, err error) {
	n, err := w.ring.available(w.mem)
	if err != nil || n == 0 {
		return false, err
	}
	for ; n > 0; n-- {
		i := w.shadow.free()
		if i < 0 {
			break
		}
		if err := w.hand(i); err != nil {
			return false, err
		}
	}
	raise(w.shadow.kick)
	return n > 0, nil
}

// hand copies the next request into a slot, and gives that to virtiofsd.
func (w *worker) hand(i int) error {
	q := &w.slot[i]
	if err := w.ring.take(w.mem, &w.guest, w.indirect, q); err != nil {
		return err
	}
	if len(q.out) == 0 {
		return errors.New("a request without a question")
	}
	b := w.shadow.slot(i)
	var parts [perSlot - 1]int
	n := 0
	for k, p := range q.out {
		if _, err := w.mem.ReadAt(b[n:n+p.len], p.at); err != nil {
			return err
		}
		n += p.len
		parts[min(k, len(parts)-1)] += p.len
	}
	q.asked = askedBy(b[:n])
	w.shadow.offer(i, parts[:min(len(q.out), len(parts))], q.inBytes)
	return nil
}

// answer copies what virtiofsd has answered.
func (w *worker) answer() error {
	any, more := false, false
	for {
		i, n, err := w.shadow.answered()
		if err != nil {
			return err
		}
		if i < 0 {
			break
		}
		q := &w.slot[i]
		at, room := q.outBytes, q.inBytes
		if q.asked.held != nil {
			at, room = getattrLen, attrLen
		}
		if n > room {
			return fmt.Errorf("virtiofsd answers with %d bytes where there is room for %d", n, room)
		}
		b := w.shadow.slot(i)[at:][:n]
		if q.asked.opened(b) {
			q.asked.hold(b)
			askAttributes(w.shadow.slot(i))
			w.shadow.offer(i, []int{getattrLen}, attrLen)
			more = true
			continue
		}
		if q.asked.held != nil {
			b = w.files.openedAgain(&q.asked, b, time.Now())
			n = len(b)
		}
		for _, p := range q.in {
			k := min(p.len, len(b))
			if k == 0 {
				break
			}
			if _, err := w.mem.WriteAt(b[:k], p.at); err != nil {
				return err
			}
			b = b[k:]
		}
		if err := w.ring.done(w.mem, q.head, n); err != nil {
			return err
		}
		any = true
	}
	if more {
		raise(w.shadow.kick)
	}
	if !any {
		return nil
	}
	call, err := w.ring.publish(w.mem)
	if call && w.call >= 0 {
		raise(w.call)
	}
	return err
}

// raise adds to an eventfd, and lower takes all of it. One that does not take it is full, or nobody's.
func raise(fd int) { _, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func lower(fd int) {
	var n [8]byte
	_, _ = unix.Read(fd, n[:])
}

// replace closes a descriptor and puts another in its place.
func replace(fd *int, by int) {
	if *fd >= 0 {
		unix.Close(*fd)
	}
	*fd = by
}
