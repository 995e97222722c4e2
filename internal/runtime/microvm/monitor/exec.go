package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	boxed "brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/microvm/wire"
)

// execSocket is where the monitor is asked for one more process. Nobody but the box's root can reach it: not QEMU, whose user is another, and not virtiofsd, whose root is
// the container's tree.
const execSocket = "/run/exec.sock"

// An exec's process sends its standard streams with one byte (1 where they are a terminal), the length of the wanted process (32 bits) and the process as JSON; then frames of
// signals and sizes. It gets one frame: Exit or Failed; a pod's member gets Started before. Both speak package wire.

func listen() (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: execSocket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(execSocket, 0o600)
}

// admit takes execs until the end.
func (s *session) admit(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if err := s.exec(c); err != nil {
				c.Write(wire.Append(nil, wire.Frame{Kind: wire.Failed, Body: append([]byte{0}, err.Error()...)})) //nolint:errcheck // who asked has gone
			}
		}()
	}
}

// exec runs what one connection asks for to its end.
func (s *session) exec(c *net.UnixConn) error {
	files, tty, body, err := receive(c)
	if err != nil {
		return err
	}
	t := s.open(files)
	if t == nil {
		closeFiles(files)
		return fmt.Errorf("the virtual machine runs %d processes of this kind, and no more are begun", mostExecs)
	}
	defer closeFiles(files)
	t.tty = tty
	select {
	case <-s.up: // one that comes while the machine starts waits
	case <-s.ended:
		return nil
	}
	began, err := s.memberOf(t, body)
	if err != nil {
		t.give()
		return err
	}
	defer s.endMember(t)
	s.begin(t, body)
	gone := make(chan struct{})
	go func() { // what the other end asks for; its end is the process's
		defer close(gone)
		for {
			f, err := wire.Read(c, 64, nil)
			switch {
			case err != nil:
				return
			case f.Kind == wire.Signal || f.Kind == wire.Resize:
				f.Stream = t.id
				t.order(f)
			}
		}
	}()
	for left := (<-chan struct{})(gone); ; {
		select {
		case <-began:
			c.Write(wire.Append(nil, wire.Frame{Kind: wire.Started})) //nolint:errcheck // who asked has gone
			began = nil
		case <-t.over:
			select {
			case <-began: // both at once
				c.Write(wire.Append(nil, wire.Frame{Kind: wire.Started})) //nolint:errcheck // who asked has gone
			default:
			}
			code, err := t.result()
			sig, lacked := t.ends()
			f := wire.Frame{Kind: wire.Exit, Body: []byte{byte(code), sig, lacked}}
			if err != nil {
				f = wire.Frame{Kind: wire.Failed, Body: append([]byte{byte(code)}, err.Error()...)}
			}
			c.Write(wire.Append(nil, f)) //nolint:errcheck // who asked has gone
			return nil
		case <-left:
			t.signal(unix.SIGKILL)
			left = nil
		case <-s.ended:
			return nil // and with it this program
		}
	}
}

func closeFiles(files [3]*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// receive reads what join sends.
func receive(c *net.UnixConn) (files [3]*os.File, tty bool, body []byte, err error) {
	var head [5]byte
	rights := make([]byte, unix.CmsgSpace(3*4))
	n, rn, _, _, err := c.ReadMsgUnix(head[:], rights)
	if err != nil {
		return files, false, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil || len(messages) != 1 {
		return files, false, nil, errors.New("an exec without its streams")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return files, false, nil, err
	}
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		if i < len(files) {
			unix.SetNonblock(fd, true) // so that its reader can be called away
			files[i] = os.NewFile(uintptr(fd), "stream")
		}
	}
	if _, err = io.ReadFull(c, head[n:]); err == nil {
		if size := binary.LittleEndian.Uint32(head[1:]); size > wire.MaxOrder {
			err = errors.New("an exec of more bytes than a machine takes")
		} else {
			body = make([]byte, size)
			_, err = io.ReadFull(c, body)
		}
	}
	if err == nil && len(fds) != len(files) {
		err = errors.New("an exec without its streams")
	}
	if err != nil {
		closeFiles(files)
	}
	return files, head[0] == 1, body, err
}

// dial reaches the monitor, which may have been executed just now.
func dial(socket string) (*net.UnixConn, error) {
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
		if err == nil || time.Since(begun) > 30*time.Second {
			return c, err
		}
	}
}

// ask reaches the monitor at a socket and asks for a process with the streams of this one, which gets what this one is told.
func ask(socket string, body []byte, signals <-chan os.Signal) (*net.UnixConn, error) {
	c, err := dial(socket)
	if err != nil {
		return nil, fmt.Errorf("the virtual machine is not ready: %w", err)
	}
	head := make([]byte, 5)
	tty := raw(0) == nil
	if tty {
		head[0] = 1
	}
	binary.LittleEndian.PutUint32(head[1:], uint32(len(body)))
	if _, _, err := c.WriteMsgUnix(head, unix.UnixRights(0, 1, 2), nil); err != nil {
		return nil, err
	}
	if _, err := c.Write(body); err != nil {
		return nil, err
	}
	a := &asker{c: c, tty: tty}
	a.resized()
	go forward(signals, a)
	return c, nil
}

// join is the process of an exec.
func join() (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	socket, body, err := where(boxed.AskedExec(os.Getenv))
	if err != nil {
		return exitFailed, err
	}
	c, err := ask(socket, body, signals)
	if err != nil {
		return exitFailed, err
	}
	f, err := wire.Read(c, wire.MaxBody, nil)
	return answer(&f, err)
}

// answer is how the process ended that was asked for.
func answer(f *wire.Frame, err error) (int, error) {
	switch {
	case err != nil:
		return exitLost, fmt.Errorf("the virtual machine has ended: %w", err)
	case f.Kind == wire.Exit && len(f.Body) == 3:
		return int(f.Body[0]), nil
	case f.Kind == wire.Failed && len(f.Body) > 1:
		code := int(f.Body[0])
		if code == 0 {
			code = exitFailed
		}
		return code, errors.New(string(f.Body[1:]))
	}
	return exitLost, errors.New("the monitor gave no answer")
}

// asker passes on what an exec's process is told.
type asker struct {
	c   *net.UnixConn
	tty bool
}

func (a *asker) signal(sig syscall.Signal) {
	a.c.Write(wire.Append(nil, wire.Frame{Kind: wire.Signal, Body: []byte{byte(sig)}})) //nolint:errcheck // the end is read
}

func (a *asker) resized() {
	if w, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); a.tty && err == nil {
		a.c.Write(wire.Append(nil, wire.Frame{Kind: wire.Resize, Body: wire.Size(w.Row, w.Col)})) //nolint:errcheck // the end is read
	}
}
