// Package monitor is the program around a virtual machine: the first process of its box, and the one that joins it for an exec.
//
// In the box are four processes: this one; QEMU, which has no rights and its own user; virtiofsd, which serves the container's tree and sees nothing else; and a
// short-lived one for each exec. They end together, since this one is the first of their PID namespace. It connects the box's network interfaces to the
// machine's, hands the configuration in, moves bytes between the standard streams that the keeper gave it and the machine's, passes signals on, answers questions
// about names with the help of who answers them in the box, and ends as the process inside has ended.
//
// What comes out of the machine is hostile: package wire says what form it may have, and session what may come when. A machine that breaks the rules, does not
// answer, or ends, ends the container with an error that says so.
package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	boxed "brig/internal/runtime/boxed/wire"
	"brig/internal/runtime/config"
	"brig/internal/runtime/microvm/template"
	"brig/internal/runtime/microvm/wire"
)

// Exit statuses, docker's: of an engine that failed, a command that cannot be executed, one that is not there. lost is that of a machine that ended by itself.
const (
	exitFailed      = 125
	exitNotRunnable = 126
	exitNotFound    = 127
	exitLost        = 255
)

// Main is `brig-vm run`, `exec`, `probe`, `kernel`, `template` and `save`.
func Main(args []string) int {
	verb := ""
	if len(args) == 2 {
		verb = args[1]
	}
	var code int
	var err error
	switch verb {
	case boxed.ArgRun:
		unix.CloseOnExec(boxed.TellFD)
		var p *boxed.Pod
		switch p, err = member(); {
		case err != nil:
			tell(boxed.Begun{Code: exitFailed, Why: err.Error()})
			return exitFailed
		case p != nil:
			code, err = runMember(p)
		default:
			code, err = run()
		}
	case boxed.ArgExec:
		code, err = join()
	case wire.ArgProbe:
		return probe()
	case wire.ArgKernel:
		code, err = readKernel()
	case wire.ArgSave:
		code, err = exitFailed, save()
		if err == nil {
			code = 0
		}
	case wire.ArgTemplate:
		code, err = exitFailed, makeTemplate()
		if err == nil {
			code = 0
		}
	default:
		fmt.Fprintln(os.Stderr, "brig-vm is started by Brig, in the box of a virtual machine, and does nothing elsewhere")
		return 2
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "brig:", err)
	}
	return code
}

// run is the first process of the box. Until the process inside executes, what goes wrong is told to who executed this one.
func run() (int, error) {
	s, first, err := begin()
	code := exitFailed
	if err == nil {
		code, err = s.untilUp(first)
	}
	if err != nil {
		tell(boxed.Begun{Code: uint32(code), Why: err.Error()})
		return code, nil //nolint:nilerr // it was told
	}
	tell(boxed.Begun{})
	code, err = s.wait(first)
	why := tells(first.ends())
	if err != nil {
		why = boxed.ToldLost
	}
	if why != "" {
		_ = os.WriteFile(boxed.ToldPath, []byte(why), 0o600) // it is but the reason
	}
	return code, err
}

// start starts the machine: from a template, where there is one that is whole, which is a matter of time alone.
func start(m *wire.Machine, nics []nic, begun stamp, opened func() (*origin, error)) (*vm, error) {
	const warning = "brig: warning: the virtual machine starts from nothing, which takes longer:"
	switch {
	case m.Damaged:
		fmt.Fprintln(os.Stderr, warning, template.ErrDamaged)
	case m.Template != "":
		t, err := opened()
		if err == nil {
			defer t.Close()
			var v *vm
			if v, err = resume(m, t, nics); err == nil {
				return v, nil
			}
		}
		if !errors.Is(err, os.ErrNotExist) { // else there is none yet
			fmt.Fprintln(os.Stderr, warning, err)
		}
	}
	return launch(m, nics, begun)
}

// untilUp returns when the container's process executes, or cannot.
func (s *session) untilUp(first *stream) (int, error) {
	select {
	case <-s.up:
		return 0, nil
	case <-first.over:
	case <-s.ended:
	}
	select {
	case <-s.up: // all at once
		return 0, nil
	default:
	}
	code, err := s.wait(first)
	if code == exitLost {
		code = exitFailed
	}
	return code, err
}

// begin starts the machine.
func begin() (*session, *stream, error) {
	begun := now()
	signals := make(chan os.Signal, 64)
	signal.Notify(signals) // the first process of a PID namespace gets only those that it asks for
	var m wire.Machine
	if err := json.Unmarshal([]byte(os.Getenv(wire.MachineVar)), &m); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", wire.MachineVar, err)
	}
	opened := sync.OnceValues(func() (*origin, error) { return openTemplate(&m) })
	if m.Template != "" && !m.Damaged {
		go opened() //nolint:errcheck // whoever needs it asks again: to read it takes as long as all that comes before
	}
	user, err := os.ReadFile(boxed.ConfigPath)
	if err != nil {
		return nil, nil, err
	}
	spec, err := config.Decode(user)
	if err != nil {
		return nil, nil, err
	}
	raiseLimits()
	execs, err := listen()
	if err != nil {
		return nil, nil, err
	}
	taps, err := nics()
	if err != nil {
		return nil, nil, err
	}
	settings := wire.Settings{Seed: seed(), DNS: hasResolver()}
	for _, n := range taps {
		settings.Links = append(settings.Links, n.link)
	}
	v, err := start(&m, taps, begun, opened)
	if err != nil {
		return nil, nil, err
	}
	settings.Late = v.late
	for _, n := range taps {
		n.tap.Close()
	}
	if err := dropRights(); err != nil {
		return nil, nil, err
	}
	s := newSession(v.channel)
	s.greeted = v.late // to who saved it
	go s.keepConsole(v.console)
	go v.watch(s)
	settings.Time = time.Now().UnixNano()
	s.send(wire.Frame{Kind: wire.Boot, Body: settings.Encode()})
	first := newStream(s, wire.First, [3]*os.File{os.Stdin, os.Stdout, os.Stderr})
	if spec.Process.Terminal {
		if err := raw(0); err != nil {
			return nil, nil, err
		}
		first.terminal()
	}
	s.begin(first, user)
	go forward(signals, first)
	go s.serve()
	go s.attend(bootTicks(&m))
	go s.admit(execs)
	return s, first, nil
}

// tell says to who executed this program, once, what became of the process inside.
func tell(b boxed.Begun) {
	_, _ = unix.Write(boxed.TellFD, b.Encode()) // who has gone is not told
	unix.Close(boxed.TellFD)
}

// raiseLimits lets virtiofsd have a descriptor for each file that the guest knows of, and sees to it that the limit is passed on: Go would reset it.
func raiseLimits() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil {
		l.Cur = l.Max
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, (*syscall.Rlimit)(&l)) //nolint:errcheck // as it was, then
	}
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) //nolint:errcheck // a core of QEMU would be the guest's memory
}

// unforwarded are signals that are this process's own business.
func unforwarded(sig syscall.Signal) bool {
	return sig == unix.SIGCHLD || sig == unix.SIGPIPE || sig == unix.SIGURG
}

// signaller is a process that gets signals.
type signaller interface {
	signal(sig syscall.Signal)
	resized()
}

func forward(signals <-chan os.Signal, to signaller) {
	for sig := range signals {
		n, ok := sig.(syscall.Signal)
		switch {
		case !ok || unforwarded(n):
		case n == unix.SIGWINCH:
			to.resized()
		default:
			to.signal(n)
		}
	}
}

// raw makes a terminal pass everything on as it is: the one in the machine has the line discipline.
func raw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	return nil
}

// watch notices the end of the machine's processes.
func (v *vm) watch(s *session) {
	go func() {
		err := v.fs.Wait()
		time.Sleep(s.tick / 2) // it ends with QEMU, whose end says more
		s.lost(fmt.Errorf("the server of the virtual machine's files has ended: %w", ended(err)))
	}()
	go func() {
		err := <-v.relayed
		time.Sleep(s.tick / 2) // as above
		s.lost(fmt.Errorf("the relay of the virtual machine's files: %w", err))
	}()
	err := ended(v.qemu.Wait())
	time.Sleep(s.tick / 20) // what the machine said last is read first
	s.lost(fmt.Errorf("the virtual machine has ended: %w", err))
}

// ended is how a process did that should not have.
func ended(err error) error {
	if err == nil {
		err = errors.New("by itself")
	}
	return err
}

// tail keeps the end of what the console says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailLen = 2 << 10 // bytes

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b[max(0, len(b)-tailLen):]...)
	if n := len(t.b) - tailLen; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(b), nil
}

// String is printable, whatever the guest has written.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r < 0x7f {
			return r
		}
		return -1
	}, string(t.b)))
}

func (s *session) keepConsole(r io.Reader) { io.Copy(&s.console, r) } //nolint:errcheck // it ends with the machine

// failure reads why a process did not start, and what a command line says for that.
func failure(body []byte) (int, error) {
	kind, text, _ := strings.Cut(string(body), "\x00")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	switch api.Kind(kind) {
	case api.CommandNotFound:
		return exitNotFound, errors.New(text)
	case api.CommandNotRunnable:
		return exitNotRunnable, errors.New(text)
	}
	return exitFailed, errors.New(text)
}
