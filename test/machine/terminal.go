package machine

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal is the far end of a program's terminal.
type Terminal struct {
	master *os.File
	done   chan struct{} // closed when the output has ended

	mu      sync.Mutex
	output  []byte
	matched int // how far expect has got in output
}

// StartOnTerminal starts cmd as the leader of a session with a terminal of 24 by 80.
func StartOnTerminal(cmd *exec.Cmd) (*Terminal, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	slave, err := openSlave(master)
	if err != nil {
		master.Close()
		return nil, err
	}
	defer slave.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		master.Close()
		return nil, err
	}
	t := &Terminal{master: master, done: make(chan struct{})}
	go t.collect()
	return t, nil
}

func openSlave(master *os.File) (*os.File, error) {
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, err
	}
	var n int
	var ierr error
	err = raw.Control(func(fd uintptr) {
		if ierr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ierr == nil {
			n, ierr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
		if ierr == nil {
			ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80})
		}
	})
	if err == nil {
		err = ierr
	}
	if err != nil {
		return nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	return os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
}

// collect reads until the last process has closed the terminal (EIO).
func (t *Terminal) collect() {
	defer close(t.done)
	buf := make([]byte, 4096)
	for {
		n, err := t.master.Read(buf)
		t.mu.Lock()
		t.output = append(t.output, buf[:n]...)
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Expect waits until text stands in the output behind the last match.
func (t *Terminal) Expect(text string, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		t.mu.Lock()
		i := bytes.Index(t.output[t.matched:], []byte(text))
		if i >= 0 {
			t.matched += i + len(text)
		}
		seen := string(t.output)
		t.mu.Unlock()
		if i >= 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the terminal did not show %q within %s; it shows:\n%s", text, limit, seen)
		}
	}
}

// Type writes text as if a person typed it: \r is Enter.
func (t *Terminal) Type(text string) error {
	_, err := t.master.WriteString(text)
	return err
}

// Resize changes the size, in characters, of which the program is told by SIGWINCH.
func (t *Terminal) Resize(rows, cols uint16) error {
	raw, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = raw.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	if err == nil {
		err = ierr
	}
	return err
}

// Close ends the reading, a second after the program's end at most, and returns all output. It may be called again.
func (t *Terminal) Close() string {
	select {
	case <-t.done:
	case <-time.After(time.Second):
	}
	t.master.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.output)
}
