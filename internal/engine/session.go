package engine

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/runtime"
	"brig/internal/runtime/shim"
)

// session joins the caller's streams to a container that this process launched and cleans up after.
func (e *Engine) session(l *launched, a api.Attach) *api.Session {
	s := e.join(l.c.ID, l.stream, a)
	wait := s.Wait
	s.Wait = func(ctx context.Context) (api.Exit, error) {
		exit, err := wait(ctx)
		if err != nil { // detached, broken off, or the shim is gone: whoever keeps the sandbox cleans up
			l.leave()
			if errors.Is(err, shim.ErrGone) {
				e.tidy(context.WithoutCancel(ctx), l.c.ID)
			}
			return exit, err
		}
		if !l.c.Spec.AutoRemove { // it may have been given a policy meanwhile
			if now, err := e.meta.Container(l.c.ID); err == nil {
				l.c.Spec.Restart = now.Spec.Restart
			}
		}
		if restartable(l.c) { // the shim's successor starts it again
			l.leave()
			return exit, nil
		}
		trash, err := e.reapToTrash(context.WithoutCancel(ctx), l.c)
		if err != nil {
			l.leave() // the shim has another try at it
			exit.Error = "cleaning up after the container: " + err.Error()
			return exit, nil //nolint:nilerr // it is in the exit record
		}
		l.owner.Done(trash...)
		l.owner.Drain(ctx)
		l.leave()
		return exit, nil
	}
	return s
}

// join copies between the caller's streams and a process's until it ends or the detach keys are typed.
func (e *Engine) join(id string, st runtime.Stream, a api.Attach) *api.Session {
	detached := make(chan struct{})
	if a.Stdin && a.Streams.Stdin != nil {
		go pumpInput(st, a, detached)
	}
	if a.Size.Rows > 0 {
		st.Resize(a.Size)
	}
	return &api.Session{
		Wait: func(ctx context.Context) (api.Exit, error) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			go func() {
				select {
				case <-detached:
					cancel()
				case <-ctx.Done():
				}
			}()
			exit, err := st.Wait(ctx, output(a.Stdout, a.Streams.Stdout), output(a.Stderr, a.Streams.Stderr))
			select {
			case <-detached:
				if err != nil {
					return exit, api.ErrDetached
				}
			default:
			}
			return exit, err
		},
		Resize: st.Resize,
		Signal: func(sig syscall.Signal) error { return e.signal(id, sig) },
	}
}

// output keeps an unwanted stream a nil writer.
func output(want bool, w io.Writer) io.Writer {
	if !want || w == nil {
		return nil
	}
	return w
}

// pumpInput sends input until its end, or until the detach keys come in a row on a terminal.
func pumpInput(st runtime.Stream, a api.Attach, detached chan<- struct{}) {
	keys := a.DetachKeys
	if keys == nil {
		keys = []byte{16, 17} // ctrl-p ctrl-q, as docker
	}
	if !a.TTY {
		keys = nil
	}
	buf := make([]byte, 32<<10)
	held := 0 // how many of keys have been typed and not been sent
	for {
		n, err := a.Streams.Stdin.Read(buf)
		send := make([]byte, 0, n+held)
		for _, b := range buf[:n] {
			if len(keys) > 0 && b == keys[held] {
				held++
				if held == len(keys) {
					_ = st.Input(send)
					close(detached)
					return
				}
				continue
			}
			send = append(send, keys[:held]...)
			held = 0
			if len(keys) > 0 && b == keys[0] {
				held = 1
				continue
			}
			send = append(send, b)
		}
		if len(send) > 0 && st.Input(send) != nil {
			return
		}
		if err != nil {
			if held > 0 { // half of the detach keys is input after all
				_ = st.Input(keys[:held]) // the process may have ended
			}
			st.CloseInput()
			return
		}
	}
}

// Attach joins the caller's streams to a running container.
func (e *Engine) Attach(ctx context.Context, name string, a api.Attach) (*api.Session, error) {
	c, err := e.meta.Container(name)
	if err != nil {
		return nil, err
	}
	ct, err := e.running(ctx, &c)
	if err != nil {
		return nil, err
	}
	if err := e.notPaused(&c, "attach to it"); err != nil {
		return nil, err
	}
	a.TTY = c.Spec.TTY
	a.Stdin = a.Stdin && c.Spec.Interactive
	st, err := ct.Attach(ctx, wanted(&a))
	if err != nil {
		return nil, err
	}
	return e.join(c.ID, st, a), nil
}

func boxOf(w api.WindowSize) *specs.Box {
	return &specs.Box{Height: uint(w.Rows), Width: uint(w.Cols)}
}
