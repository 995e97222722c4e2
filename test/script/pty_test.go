package script

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is the far end of a program's terminal.
type terminal struct {
	master *os.File
	done   chan struct{} // closed when the output has ended

	mu      sync.Mutex
	output  []byte
	matched int // how far expect has got in output
}

// startOnTerminal starts cmd as the leader of a session with a terminal of 24 by 80.
func startOnTerminal(cmd *exec.Cmd) (*terminal, error) {
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
	t := &terminal{master: master, done: make(chan struct{})}
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
func (t *terminal) collect() {
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

// expect waits until text stands in the output behind the last match.
func (t *terminal) expect(text string, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		t.mu.Lock()
		rest, ok := after(t.output[t.matched:], text)
		if ok {
			t.matched = len(t.output) - len(rest)
		}
		seen := string(t.output)
		t.mu.Unlock()
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the terminal did not show %q within %s; it shows:\n%s", text, limit, seen)
		}
	}
}

// close ends the reading, a second after the program's end at most, and returns all output. It may be called again.
func (t *terminal) close() string {
	select {
	case <-t.done:
	case <-time.After(time.Second):
	}
	t.master.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.output)
}

func TestTerminalTypesAndExpects(t *testing.T) {
	cmd := exec.Command("sh", "-c", `stty size; printf 'name? '; read -r n; echo "hello $n"; exit 3`)
	term, err := startOnTerminal(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer term.close()
	if err := term.expect("24 80", patience); err != nil {
		t.Fatal(err)
	}
	if err := term.expect("name? ", patience); err != nil {
		t.Fatal(err)
	}
	if _, err := term.master.WriteString("brig\r"); err != nil {
		t.Fatal(err)
	}
	if err := term.expect("hello brig", patience); err != nil {
		t.Fatal(err)
	}
	if err := term.expect("24 80", 50*time.Millisecond); err == nil {
		t.Error("expect matched what stands before the last match")
	}
	if got := code(cmd.Wait()); got != 3 {
		t.Errorf("exit code %d, want 3", got)
	}
}
