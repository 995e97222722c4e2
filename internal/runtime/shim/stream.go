package shim

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/pty"
	"brig/internal/runtime/oci"
	"brig/internal/runtime/shim/wire"
)

// stream is a process's standard streams: its ends of pipes or its terminal, and the clients that are attached to them.
type stream struct {
	s       *server
	proc    *oci.Process
	in      int    // write end of standard input, or the terminal; -1: none or closed
	out     [2]int // read ends of stdout and stderr; the terminal is out[0]; -1: none or ended
	tty     bool
	hung    bool // no process has the terminal open, as before the first and between two of systemd's looks at /dev/console
	once    bool // standard input ends with the first client that had it
	log     *logger
	tap     func([]byte) // gets all output, nil: nobody does
	clients []*conn
	pending []byte // input that the process has not taken yet
	eof     bool   // close standard input when pending is empty
	giver   *conn  // who gives input, to be resumed
	paused  bool
	ended   func(api.Exit)

	box  bool   // the process is a level's monitor, with another inside
	told string // what that one has told of the end inside: boxed.ToldPath
}

// pipesFor makes the pipes of a process without a terminal and returns the process's ends.
func (t *stream) pipesFor(stdin bool) (theirs [3]int, err error) {
	t.in, t.out = -1, [2]int{-1, -1}
	theirs = [3]int{-1, -1, -1}
	defer func() {
		if err != nil {
			closeAll(theirs[:])
			t.closeFDs()
		}
	}()
	var p [2]int
	if stdin {
		if err = unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return theirs, err
		}
		theirs[0], t.in = p[0], p[1]
		unix.SetNonblock(t.in, true)
	} else if theirs[0], err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return theirs, err
	}
	for i := range t.out {
		if err = unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return theirs, err
		}
		t.out[i], theirs[i+1] = p[0], p[1]
		unix.SetNonblock(t.out[i], true)
	}
	return theirs, nil
}

// terminal takes the master end over.
func (t *stream) terminal(p *oci.Process, stdin bool) error {
	t.tty = true
	fd, err := unix.FcntlInt(p.Console.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	p.Console.Close()
	p.Console = nil
	if err != nil {
		return err
	}
	unix.SetNonblock(fd, true)
	t.in, t.out = -1, [2]int{fd, -1}
	if stdin {
		t.in = fd
	}
	return nil
}

// run watches the process and its output.
func (t *stream) run() {
	for i, fd := range t.out {
		if fd >= 0 {
			t.s.watch(fd, unix.EPOLLIN, func(uint32) { t.read(i) })
		}
	}
	t.s.watch(t.proc.PidFD, unix.EPOLLIN, func(uint32) { t.reap() })
}

const readSize = 32 << 10 // bytes

// read passes one chunk of output on; it reports whether there was one.
func (t *stream) read(i int) bool {
	if t.out[i] < 0 {
		return false
	}
	var buf [readSize]byte
	n, err := unix.Read(t.out[i], buf[:])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return false
	case err == unix.EIO && t.tty: // nobody has it open; somebody may open it again, until the process has ended
		if !t.hung {
			t.hung = true
			t.watchAgain(i)
		}
		return false
	case err != nil || n == 0:
		t.closeOut(i)
		return false
	}
	if t.hung {
		t.hung = false
		t.watchAgain(i)
	}
	t.s.busy()
	t.log.write(i+1, buf[:n])
	if t.tap != nil {
		t.tap(buf[:n])
	}
	kind := byte(wire.FrameStdout)
	if i == 1 {
		kind = wire.FrameStderr
	}
	for _, c := range slices.Clone(t.clients) {
		c.send(kind, buf[:n])
	}
	if slices.ContainsFunc(t.clients, (*conn).behind) {
		t.pause()
	}
	return true
}

func (t *stream) closeOut(i int) {
	fd := t.out[i]
	t.out[i] = -1
	if t.tty {
		t.in = -1
	}
	t.s.unwatch(fd)
}

func (t *stream) pause() {
	if t.paused {
		return
	}
	t.paused = true
	for i := range t.out {
		t.watchAgain(i)
	}
}

func (t *stream) resume() {
	if !t.paused || slices.ContainsFunc(t.clients, (*conn).behind) {
		return
	}
	t.paused = false
	for i := range t.out {
		t.watchAgain(i)
	}
}

// watchAgain is for who has changed what outEvents says.
func (t *stream) watchAgain(i int) {
	if t.out[i] >= 0 {
		t.s.rewatch(t.out[i], t.outEvents(i))
	}
}

func (t *stream) outEvents(i int) uint32 {
	events := uint32(0)
	if t.hung {
		events = unix.EPOLLET // EPOLLHUP, which cannot be left out, would come without end
	}
	if t.paused {
		return events
	}
	events |= unix.EPOLLIN
	if t.tty && i == 0 && len(t.pending) > 0 {
		events |= unix.EPOLLOUT
	}
	return events
}

// input takes bytes from a client; none means the end.
func (t *stream) input(c *conn, b []byte) {
	if t.in < 0 {
		return
	}
	if len(b) == 0 {
		if !t.tty {
			t.eof = true
		}
	} else {
		t.pending = append(t.pending, b...)
	}
	t.giver = c
	t.push()
}

// push writes pending input as far as the process takes it.
func (t *stream) push() {
	for len(t.pending) > 0 && t.in >= 0 {
		n, err := unix.Write(t.in, t.pending)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			t.waitWritable(true)
			if len(t.pending) > maxStdin && t.giver != nil {
				t.giver.stall(true)
			}
			return
		}
		if err != nil { // the process closed its end
			t.pending = nil
			t.closeIn()
			return
		}
		t.pending = t.pending[n:]
	}
	t.pending = nil
	t.waitWritable(false)
	if t.eof {
		t.closeIn()
	}
	if t.giver != nil {
		t.giver.stall(false)
	}
}

// waitWritable asks for, or stops asking for, word that input can be written.
func (t *stream) waitWritable(on bool) {
	if t.in < 0 {
		return
	}
	if t.tty {
		if on {
			t.s.handlers[t.in] = func(e uint32) {
				if e&unix.EPOLLOUT != 0 {
					t.push()
				}
				if e&^unix.EPOLLOUT != 0 {
					t.read(0)
				}
			}
		}
		t.watchAgain(0)
		return
	}
	_, watched := t.s.handlers[t.in]
	switch {
	case on && !watched:
		t.s.watch(t.in, unix.EPOLLOUT, func(uint32) { t.push() })
	case !on && watched:
		unix.EpollCtl(t.s.ep, unix.EPOLL_CTL_DEL, t.in, nil)
		delete(t.s.handlers, t.in)
	}
}

func (t *stream) closeIn() {
	if t.in >= 0 && !t.tty {
		t.s.unwatch(t.in)
		t.in = -1
	}
}

// inputGone is called when the client that gave input has gone.
func (t *stream) inputGone(c *conn) {
	if t.giver == c {
		t.giver = nil
	}
	if t.once && !t.tty {
		t.eof = true
		t.push()
	}
}

func (t *stream) attach(c *conn) {
	c.attached = t
	t.clients = append(t.clients, c)
}

func (t *stream) detach(c *conn) {
	t.clients = slices.DeleteFunc(t.clients, func(o *conn) bool { return o == c })
	t.resume()
}

func (t *stream) resize(rows, cols uint16) {
	if t.tty && t.out[0] >= 0 {
		pty.Resize(t.out[0], rows, cols)
	}
}

// maxLeft is how many reads take what an ended process left in a pipe, 1 MiB at most: pipe(7). Without a limit one that it started, and that
// still writes, would keep the shim here for ever.
const maxLeft = 1 << 20 / readSize

// reap takes the exit status, after which the process's output is complete but for what descendants outside its PID namespace still write.
func (t *stream) reap() {
	if t.box {
		name, _ := os.ReadFile("/proc/" + strconv.Itoa(t.proc.Pid) + "/comm") // which it has until it is reaped, and which has 15 bytes
		t.told = strings.TrimSpace(string(name))
	}
	e, err := t.proc.Reap()
	if err != nil {
		e = api.Exit{Code: 255, Error: "exit status lost: " + err.Error()}
	}
	t.s.unwatch(t.proc.PidFD)
	for i := range t.out {
		for n := 0; n < maxLeft && t.read(i); n++ {
		}
	}
	t.closeFDs()
	t.ended(e)
}

func (t *stream) closeFDs() {
	if t.in >= 0 && !t.tty {
		t.s.unwatch(t.in)
	}
	for i, fd := range t.out {
		if fd >= 0 {
			t.s.unwatch(fd)
			t.out[i] = -1
		}
	}
	t.in = -1
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
