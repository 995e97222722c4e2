package engine

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"brig/api"
)

// followSize passes a terminal's changes of size on until the returned function is called.
func followSize(terminal *os.File, resize func(api.WindowSize) error) func() {
	changed := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(changed, unix.SIGWINCH)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-changed:
				if w, err := unix.IoctlGetWinsize(int(terminal.Fd()), unix.TIOCGWINSZ); err == nil {
					resize(api.WindowSize{Rows: w.Row, Cols: w.Col})
				}
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		close(done)
	}
}
