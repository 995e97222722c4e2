package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"brig/api"
)

// catchDelay is how long a command runs before it catches signals: Go's machinery for that costs 0.2 ms, more than the rest of this
// package, and most commands end sooner. A signal before then ends the process at once, as SIGKILL may at any time.
const catchDelay = 20 * time.Millisecond

// catcher receives the process's signals for as long as a command runs. At first one that would end the process cancels the
// command's context instead, so that the engine can undo what it began; a second one ends the process. forward sends all signals
// elsewhere from then on.
type catcher struct {
	cancel func()
	exit   func(code int)
	timer  *time.Timer
	once   sync.Once
	ch     chan os.Signal

	mu      sync.Mutex
	got     syscall.Signal             // the first that canceled
	deliver func(syscall.Signal) error // nil: cancel
	cleanup func()                     // before exit
}

// newCatcher makes a catcher that starts after a delay.
func newCatcher(cancel func(), delay time.Duration) *catcher {
	c := &catcher{ch: make(chan os.Signal, 32), cancel: cancel, exit: os.Exit}
	c.timer = time.AfterFunc(delay, c.start)
	return c
}

// start begins to receive SIGINT, SIGTERM and SIGHUP, unless it did already.
func (c *catcher) start() {
	c.once.Do(func() {
		c.notify(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		go func() {
			for s := range c.ch {
				if sig, ok := s.(syscall.Signal); ok {
					c.handle(sig)
				}
			}
		}()
	})
}

// notify asks for signals, but not for those that the parent process chose to ignore, as nohup does.
func (c *catcher) notify(sigs ...syscall.Signal) {
	for _, s := range sigs {
		if !signal.Ignored(s) {
			signal.Notify(c.ch, s)
		}
	}
}

// stop gives the signals back. A process that is about to end need not: it costs 0.1 ms.
func (c *catcher) stop() {
	c.timer.Stop()
	c.start() // from now on a no-op, should the timer be running it
	signal.Stop(c.ch)
	close(c.ch)
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
// process and its terminal, SIGURG, by which the Go runtime preempts, those that a fault raises, and 32 to 34, which belong to libc.
func (c *catcher) forward(deliver func(syscall.Signal) error) {
	c.start()
	c.mu.Lock()
	c.deliver = deliver
	got := c.got
	c.got = 0
	c.mu.Unlock()
	for s := syscall.Signal(1); s <= 64; s++ {
		if forwarded(s) {
			c.notify(s)
		}
	}
	if got != 0 {
		_ = deliver(got)
	}
}

func forwarded(s syscall.Signal) bool {
	switch s {
	case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGWINCH, syscall.SIGTTIN, syscall.SIGTTOU,
		syscall.SIGURG, syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, 32, 33, 34:
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
			a.signals.start()
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
