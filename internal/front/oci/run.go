package oci

import (
	"io"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/base/sigpipe"
	"brig/internal/base/weak"
	"brig/internal/kernel/systemd"
	"brig/internal/runtime/oci"
)

func runFlags() []flag {
	return append(createFlags(),
		flag{"detach", "d", isBool, "return when the command runs"},
		flag{"keep", "", isBool, "do not delete the container at its end"},
		flag{"no-subreaper", "", isBool, "do not become the parent of orphans; brig-oci never does"},
	)
}

// run is `brig-oci run`: create, start, wait, delete. The process is started by this one, so it waits at no gate.
func run(c *call) (int, error) {
	m, err := c.make(false)
	if err != nil {
		return 0, err
	}
	signals := -1
	if !c.on("detach") {
		if signals, err = sigpipe.Catch(sigpipe.All); err != nil {
			c.undo(m)
			return 0, err
		}
		c.sizeTerminal(m.made.Process)
	}
	if err := m.made.Start(); err != nil {
		c.undo(m)
		return 0, err
	}
	if err := c.poststart(m.e, m.spec); err != nil {
		c.undo(m)
		return 0, err
	}
	m.lock.Release()
	if c.on("detach") {
		return 0, nil
	}
	exit, err := c.attend(m.made.Process, signals)
	if err != nil {
		return 0, err
	}
	if c.on("keep") {
		return exit.Code, nil
	}
	return exit.Code, c.removeEnded(m.e, m.spec)
}

// removeEnded removes a container whose process has ended, as this process saw, unless somebody else has removed it, and perhaps made another of its name.
func (c *call) removeEnded(mine *entry, s *specs.Spec) error {
	e, l, err := c.hold(mine.ID)
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	defer l.Release()
	if e.Pid != mine.Pid || e.StartTicks != mine.StartTicks || e.BootID != mine.BootID {
		return nil
	}
	return c.destroy(mine, s)
}

// attend passes signals and the terminal on until the process has ended. signals is of sigpipe.Catch, called before the process executed: a signal that came
// later, and before there was a handler, would have ended this process alone.
func (c *call) attend(p *oci.Process, signals int) (api.Exit, error) {
	in := int(c.stdin.Fd())
	shown := make(chan struct{})
	if p.Console != nil {
		restore := rawTerminal(in, int(p.Console.Fd()))
		defer restore()
		go func() { _, _ = io.Copy(p.Console, c.stdin) }()
		go func() {
			if weak.Buffer {
				all, _ := io.ReadAll(p.Console)
				_, _ = c.stdout.Write(all)
			}
			_, _ = io.Copy(c.stdout, p.Console)
			close(shown)
		}()
	} else {
		close(shown)
	}
	passSignals(p, signals, in)
	exit, err := p.Reap()
	<-shown // the terminal may have held output still
	return exit, err
}

// passSignals passes signals on until the process has ended.
func passSignals(p *oci.Process, signals, in int) {
	watch := []unix.PollFd{{Fd: int32(p.PidFD), Events: unix.POLLIN}, {Fd: int32(signals), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(watch, -1); err != nil && err != unix.EINTR {
			return // Reap waits as well
		}
		if watch[0].Revents != 0 {
			return
		}
		for _, s := range sigpipe.Read(signals, nil) {
			switch {
			case s == unix.SIGCHLD || s == unix.SIGPIPE:
			case s == unix.SIGWINCH && p.Console != nil:
				copySize(in, int(p.Console.Fd()))
			default:
				unix.PidfdSendSignal(p.PidFD, s, nil, 0)
			}
		}
	}
}

// destroy removes all of a container that has ended. s is its configuration; nil: it is read where it is needed. The caller holds its lock.
func (c *call) destroy(e *entry, s *specs.Spec) error {
	c.debugf("delete container %s and cgroup %q", e.ID, e.Cgroup)
	if e.Cgroup != "" {
		if err := removeCgroup(e.Cgroup, e.CgroupPaths); err != nil {
			return err
		}
	}
	if e.Unit != "" { // its processes have ended, but one that failed stays known
		if err := systemd.Stop(e.Unit, c.goWithoutCgroup()); err != nil {
			c.warn(err)
		}
	}
	if e.Mount != "" {
		if err := oci.Unmount(e.Mount); err != nil {
			return err
		}
	}
	if e.RDT != nil {
		if err := e.RDT.Remove(); err != nil {
			return err
		}
	}
	if s == nil {
		s, _ = e.config() // what cannot be read has no hooks
	}
	if s != nil {
		c.poststop(e, s)
	}
	return lock.RemoveHeld(e.dir, lockName)
}

// poststop runs the hooks of hooks.poststop, all of them. A failure is told, and no reason to keep the rest: runtime.md, "Lifecycle", step 13.
func (g *globals) poststop(e *entry, s *specs.Spec) {
	if s.Hooks == nil || len(s.Hooks.Poststop) == 0 {
		return
	}
	state, err := e.stateJSON(specs.StateStopped, 0)
	if err != nil {
		g.warn(err)
		return
	}
	for _, err := range oci.RunEveryHook("poststop", s.Hooks.Poststop, state) {
		g.warn(err)
	}
}

// sizeTerminal gives a process that has not executed yet the size of the caller's terminal, so that it never sees another.
func (c *call) sizeTerminal(p *oci.Process) {
	if p.Console != nil {
		copySize(int(c.stdin.Fd()), int(p.Console.Fd()))
	}
}

func copySize(from, to int) {
	if w, err := unix.IoctlGetWinsize(from, unix.TIOCGWINSZ); err == nil {
		unix.IoctlSetWinsize(to, unix.TIOCSWINSZ, w)
	}
}

// rawTerminal puts the caller's terminal into raw mode, with its size passed on, and returns what restores it.
func rawTerminal(in, console int) func() {
	old, err := unix.IoctlGetTermios(in, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	copySize(in, console)
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	unix.IoctlSetTermios(in, unix.TCSETS, &raw)
	return func() { unix.IoctlSetTermios(in, unix.TCSETS, old) }
}
