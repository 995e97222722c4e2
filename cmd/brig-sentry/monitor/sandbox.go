package monitor

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"

	"brig/internal/runtime/boxed/wire"
)

// sandbox is the Sentry that this process started.
type sandbox struct {
	c    *container.Container
	conf *config.Config
	spec *specs.Spec
	held net.Conn // of a pod's member: to the monitor of the Sentry, which is another box's
}

// maxLastWords bounds what is told of a Sentry that crashed, in bytes: the reason is what it says first.
const maxLastWords = 4 << 10

// catch takes every signal that is to be handed on. This program is executed with all of them blocked; those that came since are taken now, on a thread of the Go runtime's that takes
// signals alone. This thread, which starts gVisor's processes, has none blocked any more, and they neither.
func catch() <-chan os.Signal {
	c := make(chan os.Signal, 64)
	signal.Notify(c)
	runtime.LockOSThread()
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil) // of arguments that are right
	return c
}

// forward hands signals on to a process inside, 0 for the first: with a terminal to those in its foreground, as the line discipline of a container that shares the host's kernel would.
func (s *sandbox) forward(signals <-chan os.Signal, pid int32, terminal bool) {
	for sig := range signals {
		n := sig.(syscall.Signal)
		switch n {
		case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE: // of this process's own doing
			continue
		}
		_ = s.c.Sandbox.SignalProcess(s.c.ID, pid, n, terminal && fromTerminal(n)) // it may have ended
	}
}

// fromTerminal reports whether a signal is one that a terminal sends.
func fromTerminal(n syscall.Signal) bool {
	switch n {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGWINCH:
		return true
	}
	return false
}

// give gives up the rights that only the start took. What further processes take is to read the files of users, whoever owns them.
func give() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	keep := uint32(1) << unix.CAP_DAC_READ_SEARCH
	data := [2]unix.CapUserData{{Effective: keep, Permitted: keep}}
	_, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	if e != 0 {
		return os.NewSyscallError("capset", e)
	}
	return nil
}

// wait returns the status of the process inside, in the numbers of a shell: the first process of a PID namespace cannot die of a signal by its own hand.
func (s *sandbox) wait() int {
	if s.held != nil {
		return s.waitMember()
	}
	ws, err := s.c.Sandbox.WaitPID(sandboxID, 1) // not s.c.Wait, which waits for the Sentry to take itself down
	if err != nil {
		ws, err = s.c.Wait() // it was quicker: its own status is that of the process
		crashed(os.Stderr)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "brig: gVisor: %v\n", err)
		return exitFailed
	}
	return status(ws)
}

// crashed tells what a Sentry said that crashed, as far as it did.
func crashed(w io.Writer) {
	if words := sentrySaid(); words != "" {
		fmt.Fprintf(w, "brig: gVisor's Sentry crashed:\n%s\n", words)
	}
}

// sentrySaid is what a Sentry said that crashed, empty if none did.
func sentrySaid() string {
	f, err := os.Open(lastWords)
	if err != nil {
		return ""
	}
	defer f.Close()
	words, _ := io.ReadAll(io.LimitReader(f, maxLastWords))
	return string(words)
}

// died is err with the reason of a Sentry that crashed, of which the caller sees but the end of the connection. words: see sentrySaid.
func died(err error, words string) error {
	if reason, _, _ := strings.Cut(strings.TrimSpace(words), "\n"); reason != "" {
		return fmt.Errorf("%w: the Sentry crashed: %s", err, reason)
	}
	return err
}

// maxReason bounds an error of gVisor's about a checkpoint, in bytes: where configurations differ it lists both.
const maxReason = 400

// short is what err says, as far as it is of use to anybody.
func short(err error) string {
	said := err.Error()
	if len(said) > maxReason {
		said = strings.ToValidUTF8(said[:maxReason], "") + "…"
	}
	return said
}

func status(ws unix.WaitStatus) int {
	if ws.Signaled() {
		_ = os.WriteFile(wire.ToldPath, fmt.Append(nil, wire.ToldSignal, int(ws.Signal())), 0o600) // it is but the reason
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
