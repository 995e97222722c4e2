package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/guest/wire"
)

// runTerminal runs a command as the leader of a session on a terminal of its own.
func (s *server) runTerminal(id uint32, w *work, cmd *exec.Cmd, size wire.Size, in io.Reader) wire.Status {
	master, slave, err := openTerminal()
	if err != nil {
		return wire.Status{Error: err.Error()}
	}
	defer master.Close()
	resize(master, size)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = w.start(cmd, master)
	slave.Close()
	if err != nil {
		return wire.Status{Error: err.Error()}
	}
	drained := make(chan struct{})
	go func() {
		io.Copy(sink{s, wire.Stdout, id}, master) // ends with EIO, when the last one has closed the terminal
		close(drained)
	}()
	go io.Copy(master, in)
	st := w.wait(cmd)
	wait := time.NewTimer(afterlife)
	defer wait.Stop()
	select {
	case <-drained:
	case <-wait.C:
	}
	return st
}

// openTerminal makes a terminal: its master, and the end that is a program's (pts(4)).
func openTerminal() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

func resize(tty *os.File, size wire.Size) {
	unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns})
}
