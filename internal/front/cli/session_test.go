package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
)

// openPTY opens a pair of terminal ends. They are not the test's controlling terminal.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// isRaw reports whether a terminal is in raw mode.
func isRaw(t *testing.T, f *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0
}

func resize(t *testing.T, f *os.File, rows, cols uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		t.Fatal(err)
	}
}

func signalSelf(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), sig); err != nil {
		t.Fatal(err)
	}
}

func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(5 * time.Second):
		t.Fatal("nothing came in 5 s")
		panic("unreachable")
	}
}

// onTerminal runs a command line on a terminal of 24 by 80.
func onTerminal(t *testing.T, f *fake, args ...string) (r result, slave, master *os.File) {
	master, slave = openPTY(t)
	resize(t, slave, 24, 80)
	return brigWith(t, f, api.Streams{Stdin: slave, Terminal: slave}, args...), slave, master
}

func TestTerminal(t *testing.T) {
	master, slave := openPTY(t)
	resize(t, slave, 24, 80)
	sizes := make(chan api.WindowSize, 8)
	f := &fake{}
	f.during = func(context.Context, *fake, api.Streams) error {
		if isRaw(t, slave) {
			t.Error("raw before the container runs: the progress of a pull would be garbled and ctrl-c dead")
		}
		return nil
	}
	f.session = &api.Session{
		Resize: func(s api.WindowSize) error { sizes <- s; return nil },
		Wait: func(context.Context) (api.Exit, error) {
			typed := make(chan string, 1)
			go func() {
				b := make([]byte, 8)
				n, _ := f.attach.Streams.Stdin.Read(b)
				typed <- string(b[:n])
			}()
			for deadline := time.Now().Add(5 * time.Second); !isRaw(t, slave) && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			if !isRaw(t, slave) {
				t.Error("not raw while the session reads")
			}
			master.WriteString("\x03\r") // ctrl-c is a character now, and return stays as it is
			if got := receive(t, typed); got[0] != 3 {
				t.Errorf("typed %q", got)
			}
			resize(t, slave, 50, 100)
			signalSelf(t, syscall.SIGWINCH)
			if got := receive(t, sizes); got != (api.WindowSize{Rows: 50, Cols: 100}) {
				t.Errorf("resized to %+v", got)
			}
			return api.Exit{Code: 5}, nil
		},
	}
	brigWith(t, f, api.Streams{Stdin: slave, Terminal: slave}, "run", "-it", "img").wants(t, 5, "")
	if f.attach.Size != (api.WindowSize{Rows: 24, Cols: 80}) {
		t.Errorf("first size %+v", f.attach.Size)
	}
	if isRaw(t, slave) {
		t.Error("still raw after the run")
	}
}

// read puts the terminal into raw mode as an engine does by its first read.
func read(t *testing.T, f *fake) {
	t.Helper()
	raw, ok := f.attach.Streams.Stdin.(*rawInput)
	if !ok {
		t.Fatalf("standard input is %T", f.attach.Streams.Stdin)
	}
	if err := raw.enter(); err != nil {
		t.Fatal(err)
	}
	if !isRaw(t, raw.file) {
		t.Error("not raw")
	}
}

// TestTerminalRestored tries the ways out of a session.
func TestTerminalRestored(t *testing.T) {
	running := api.Container{ID: testID, Name: "c", Spec: api.ContainerSpec{TTY: true, Interactive: true}}
	for _, verb := range []string{"run -it img", "start -ai c", "attach c"} {
		for how, x := range map[string]struct {
			err  error
			code int
		}{"exit": {nil, 0}, "detach": {api.ErrDetached, 0}, "failure": {errors.New("lost"), 1}} {
			f := &fake{containers: []api.Container{running}}
			f.session = &api.Session{Wait: func(context.Context) (api.Exit, error) { read(t, f); return api.Exit{}, x.err }}
			r, slave, _ := onTerminal(t, f, strings.Fields(verb)...)
			if isRaw(t, slave) {
				t.Errorf("%s: %s: still raw", verb, how)
			}
			want := x.code
			if want == 1 && strings.HasPrefix(verb, "run") {
				want = 125
			}
			if r.code != want {
				t.Errorf("%s: %s: code %d, want %d: %s", verb, how, r.code, want, r.errOut)
			}
		}
	}
}

func TestTerminalRestoredAfterPanic(t *testing.T) {
	f := &fake{}
	f.session = &api.Session{Wait: func(context.Context) (api.Exit, error) { read(t, f); panic("bug") }}
	_, slave := openPTY(t)
	func() {
		defer func() { recover() }()
		brigWith(t, f, api.Streams{Stdin: slave, Terminal: slave}, "run", "-it", "img")
		t.Error("no panic")
	}()
	if isRaw(t, slave) {
		t.Error("still raw after a panic")
	}
}

// TestTerminalRestoredAfterSignal sends the signal that ends an attach to a container with a terminal, which gets no signals.
func TestTerminalRestoredAfterSignal(t *testing.T) {
	running := api.Container{ID: testID, Name: "c", Spec: api.ContainerSpec{TTY: true, Interactive: true}}
	f := &fake{containers: []api.Container{running}}
	f.session = &api.Session{
		Signal: func(s syscall.Signal) error { t.Errorf("the container got %v", s); return nil },
		Wait: func(ctx context.Context) (api.Exit, error) {
			read(t, f)
			signalSelf(t, syscall.SIGTERM)
			receive(t, ctx.Done())
			return api.Exit{}, ctx.Err()
		},
	}
	r, slave, _ := onTerminal(t, f, "attach", "c")
	if r.code != 128+15 || isRaw(t, slave) {
		t.Errorf("code %d, raw %t: %s", r.code, isRaw(t, slave), r.errOut)
	}
}

func TestNeverRawAfterRestore(t *testing.T) {
	_, slave := openPTY(t)
	r := &rawInput{file: slave, from: strings.NewReader("x")}
	r.restore()
	if _, err := r.Read(make([]byte, 1)); err != nil || isRaw(t, slave) {
		t.Errorf("%v; a late reader makes the terminal raw after the command ended", err)
	}
}

func TestNoTerminalNeeded(t *testing.T) {
	brig(t, &fake{}, "run", "-t", "img").wants(t, 0, "")            // without -i nothing is read
	brig(t, &fake{}, "run", "-itd", "img").wants(t, 0, testID+"\n") // nothing is attached
	brig(t, &fake{}, "exec", "-itd", "c", "sh").wants(t, 0, "")
	f := &fake{}
	r, slave, _ := onTerminal(t, f, "exec", "-it", "c", "sh")
	if r.code != 0 || f.exec.Size != (api.WindowSize{Rows: 24, Cols: 80}) || f.attach.Streams.Terminal != slave {
		t.Errorf("%+v %+v", r, f.exec)
	}
	r, _, _ = onTerminal(t, f, "load")
	r.complains(t, 1, "brig: requested load from stdin, but stdin is a terminal")
}

func TestSignalsForwarded(t *testing.T) {
	for _, line := range []string{"run img", "run -i img", "start -a c", "attach c"} {
		got := make(chan syscall.Signal, 8)
		f := &fake{containers: []api.Container{{ID: "c", Name: "c"}}}
		f.session = &api.Session{
			Signal: func(s syscall.Signal) error { got <- s; return nil },
			Wait: func(ctx context.Context) (api.Exit, error) {
				for _, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, 40} {
					signalSelf(t, s)
					if g := receive(t, got); g != s {
						t.Errorf("%s: %v came as %v", line, s, g)
					}
				}
				signalSelf(t, syscall.SIGCHLD)
				signalSelf(t, syscall.SIGURG)
				time.Sleep(10 * time.Millisecond)
				if len(got) > 0 {
					t.Errorf("%s: %v was forwarded", line, <-got)
				}
				return api.Exit{Code: 130}, ctx.Err()
			},
		}
		brig(t, f, strings.Fields(line)...).wants(t, 130, "")
	}
}

func TestSignalsNotForwarded(t *testing.T) {
	for _, line := range []string{"run --sig-proxy=false img", "attach --sig-proxy=false c"} {
		f := &fake{containers: []api.Container{{ID: "c", Name: "c"}}}
		f.session = &api.Session{
			Signal: func(s syscall.Signal) error { t.Errorf("%s: the container got %v", line, s); return nil },
			Wait: func(ctx context.Context) (api.Exit, error) {
				signalSelf(t, syscall.SIGINT)
				receive(t, ctx.Done())
				return api.Exit{}, ctx.Err()
			},
		}
		brig(t, f, strings.Fields(line)...).wants(t, 128+2, "")
	}
}

// TestInterruptedPull shows that a signal before the session is open cancels the engine's work.
func TestInterruptedPull(t *testing.T) {
	for _, verb := range []string{"run", "create"} {
		f := &fake{during: func(ctx context.Context, _ *fake, _ api.Streams) error {
			signalSelf(t, syscall.SIGTERM)
			receive(t, ctx.Done())
			return ctx.Err()
		}}
		r := brig(t, f, verb, "img")
		if r.wants(t, 128+15, ""); r.errOut != "" {
			t.Errorf("%s explains what the user did: %s", verb, r.errOut)
		}
	}
}

// TestLateSignal shows that a signal which came while the container started reaches the container.
func TestLateSignal(t *testing.T) {
	got := make(chan syscall.Signal, 1)
	f := &fake{during: func(ctx context.Context, _ *fake, _ api.Streams) error {
		signalSelf(t, syscall.SIGINT)
		receive(t, ctx.Done())
		return nil // too late to undo
	}}
	f.session = &api.Session{
		Signal: func(s syscall.Signal) error { got <- s; return nil },
		Wait: func(ctx context.Context) (api.Exit, error) {
			if s := receive(t, got); s != syscall.SIGINT {
				t.Errorf("got %v", s)
			}
			return api.Exit{Code: 130}, ctx.Err()
		},
	}
	brig(t, f, "run", "img").wants(t, 130, "")
}

func TestSecondSignalEnds(t *testing.T) {
	var did []string
	c := &catcher{cancel: func() { did = append(did, "cancel") }, exit: func(code int) {
		if code != 130 {
			t.Errorf("code %d", code)
		}
		did = append(did, "exit")
	}}
	c.atExit(func() { did = append(did, "restore") })
	c.handle(syscall.SIGINT)
	c.handle(syscall.SIGINT)
	if got := strings.Join(did, " "); got != "cancel restore exit" {
		t.Errorf("did %s", got)
	}
}

func TestDetachedRunEnds(t *testing.T) {
	f := &fake{session: &api.Session{Wait: func(context.Context) (api.Exit, error) { return api.Exit{}, api.ErrDetached }}}
	brig(t, f, "run", "img").wants(t, 0, "")
}

func TestStreamsReachEngine(t *testing.T) {
	f := &fake{}
	f.session = &api.Session{Wait: func(context.Context) (api.Exit, error) {
		text, err := io.ReadAll(f.attach.Streams.Stdin)
		if err != nil {
			return api.Exit{}, err
		}
		io.WriteString(f.attach.Streams.Stderr, "seen\n")
		_, err = io.WriteString(f.attach.Streams.Stdout, strings.ToUpper(string(text)))
		return api.Exit{}, err
	}}
	r := brigWith(t, f, api.Streams{Stdin: strings.NewReader("hello\n")}, "run", "-i", "img")
	r.wants(t, 0, "HELLO\n")
	if r.errOut != "seen\n" {
		t.Errorf("errors %q", r.errOut)
	}
}
