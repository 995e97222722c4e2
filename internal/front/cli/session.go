package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/sigpipe"
)

// catcher receives the process's signals for as long as a command runs. At first one that would end the process cancels the
// command's context instead, so that the engine can undo what it began; a second one ends the process. forward sends all signals
// elsewhere from then on.
type catcher struct {
	cancel func()
	exit   func(code int)
	pipe   *os.File // nil: nothing is caught

	mu      sync.Mutex
	got     syscall.Signal             // the first that canceled
	deliver func(syscall.Signal) error // nil: cancel
	cleanup func()                     // before exit
}

// newCatcher begins to receive SIGINT, SIGTERM and SIGHUP.
func newCatcher(cancel func()) *catcher {
	c := &catcher{cancel: cancel, exit: os.Exit}
	fd, err := sigpipe.Catch(func(s syscall.Signal) bool {
		return (s == syscall.SIGINT || s == syscall.SIGTERM || s == syscall.SIGHUP) && !sigpipe.Ignored(s)
	})
	if err == nil {
		fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil { // they end the process then, as SIGKILL may at any time
		_ = sigpipe.Restore()
		return c
	}
	c.pipe = os.NewFile(uintptr(fd), "signals")
	go c.receive()
	return c
}

func (c *catcher) receive() {
	var b [64]byte
	for {
		n, err := c.pipe.Read(b[:])
		for _, s := range b[:n] {
			c.handle(syscall.Signal(s))
		}
		if err != nil {
			return
		}
	}
}

// stop gives the signals back. A process that is about to end need not.
func (c *catcher) stop() {
	_ = sigpipe.Restore()
	c.pipe.Close()
}

// first returns the signal that canceled the command, or 0.
func (c *catcher) first() syscall.Signal {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got
}

// atExit makes f run before the process ends by a second signal; nil: nothing to do.
func (c *catcher) atExit(f func()) {
	c.mu.Lock()
	c.cleanup = f
	c.mu.Unlock()
}

// handle does what a signal means now.
func (c *catcher) handle(sig syscall.Signal) {
	c.mu.Lock()
	deliver, got, cleanup := c.deliver, c.got, c.cleanup
	if deliver == nil && got == 0 {
		c.got = sig
	}
	c.mu.Unlock()
	switch {
	case deliver != nil:
		_ = deliver(sig) // the process may have ended meanwhile, which Wait reports
	case got == 0:
		c.cancel()
	default:
		if cleanup != nil {
			cleanup()
		}
		c.exit(signalCode(sig))
	}
}

// forward makes deliver receive every signal that can be caught and means something to another process, also the one that came
// while the session was being opened. Not forwarded are SIGCHLD, SIGPIPE, SIGWINCH, SIGTTIN and SIGTTOU, which are about this
// process and its terminal, those that [sigpipe.Kept] names, and SIGHUP and SIGINT where the parent process chose to ignore them, as nohup does.
func (c *catcher) forward(deliver func(syscall.Signal) error) {
	c.mu.Lock()
	c.deliver = deliver
	got := c.got
	c.got = 0
	c.mu.Unlock()
	_, _ = sigpipe.Catch(func(s syscall.Signal) bool { return forwarded(s) && !sigpipe.Ignored(s) })
	if got != 0 {
		_ = deliver(got)
	}
}

func forwarded(s syscall.Signal) bool {
	switch s {
	case syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGWINCH, syscall.SIGTTIN, syscall.SIGTTOU:
		return false
	}
	return true
}

// joined is what the caller's side of an open session needs: made before the session is opened, used by follow, closed after it.
type joined struct {
	app    *app
	attach api.Attach
	raw    *rawInput // nil: the terminal stays as it is
	winch  chan os.Signal
}

// join prepares the caller's streams for a. The terminal goes into raw mode when the engine first reads from it, that is once the
// container has started: the progress of a pull before that still finds a usual terminal, where ctrl-c works.
func (a *app) join(at api.Attach) *joined {
	j := &joined{app: a}
	at.Streams = a.streams
	if at.TTY {
		at.Size = windowSize(a.terminal())
		j.winch = make(chan os.Signal, 1)
		signal.Notify(j.winch, syscall.SIGWINCH)
		if at.Stdin && a.streams.Terminal != nil {
			j.raw = &rawInput{file: a.streams.Terminal, from: a.streams.Stdin}
			at.Streams.Stdin = j.raw
			a.signals.atExit(j.raw.restore)
			// A closed pipe on standard output must not kill the process before the terminal is restored.
			signal.Notify(j.winch, syscall.SIGPIPE)
		}
	}
	j.attach = at
	return j
}

// close restores the terminal. It may be called again.
func (j *joined) close() {
	if j.raw != nil {
		j.raw.restore()
		j.app.signals.atExit(nil)
	}
	if j.winch != nil {
		signal.Stop(j.winch)
	}
}

// terminal is where the window's size can be asked: standard input, else standard output, else nil.
func (a *app) terminal() *os.File {
	if a.streams.Terminal != nil {
		return a.streams.Terminal
	}
	f, _ := a.streams.Stdout.(*os.File)
	return f
}

// follow waits for the session's end and meanwhile hands it the window's sizes and, with proxy, the signals. A session that the
// user detached from ends with api.ErrDetached.
func (j *joined) follow(ctx context.Context, s *api.Session, proxy bool) (api.Exit, error) {
	defer j.close()
	if proxy && s.Signal != nil {
		j.app.signals.forward(s.Signal)
		ctx = context.WithoutCancel(ctx) // a signal that came just before the session was open is the container's, too
	}
	if j.winch != nil && s.Resize != nil {
		done := make(chan struct{})
		defer close(done)
		if size := windowSize(j.app.terminal()); size != j.attach.Size {
			_ = s.Resize(size) // it changed while the session was being opened
		}
		go j.resize(s, done)
	}
	return s.Wait(ctx)
}

// resize carries each change of the window to the session until done.
func (j *joined) resize(s *api.Session, done <-chan struct{}) {
	for {
		select {
		case sig := <-j.winch:
			if sig != syscall.SIGWINCH {
				continue
			}
			if size := windowSize(j.app.terminal()); size != (api.WindowSize{}) {
				_ = s.Resize(size) // the process may have ended meanwhile, which Wait reports
			}
		case <-done:
			return
		}
	}
}

// finish turns the end of a session into the command's: the container's exit code, or success after the detach keys.
func (a *app) finish(exit api.Exit, err error) error {
	if errors.Is(err, api.ErrDetached) {
		return nil
	}
	if err != nil {
		return err
	}
	if exit.Error != "" {
		a.errorf("%s", exit.Error)
	}
	if exit.Code != 0 {
		return &exitError{code: exit.Code}
	}
	return nil
}
