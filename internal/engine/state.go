package engine

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"

	"brig/api"
	"brig/internal/base/smallfile"
	"brig/internal/kernel/proc"
	"brig/internal/network"
	"brig/internal/runtime/ns"
	"brig/internal/runtime/shim"
)

// linkName is the file in a sandbox's folder that holds the container's api.Link, for inspect and ps.
const linkName = "link.json"

// fillState derives a container's state from what is on the disk and which processes live.
func (e *Engine) fillState(c *api.Container) {
	dir := e.sandboxDir(c.ID)
	if restartable(c) {
		defer func() { c.State.Restarts = e.readRestarts(c.ID).Count }()
	}
	s, err := shim.ReadState(dir)
	if err == nil && running(s) {
		c.State = api.State{Status: api.StatusRunning, Pid: s.Pid, StartedAt: s.StartedAt}
		switch {
		case s.Waits:
			c.State.Status = api.StatusInitialized
		case e.paused(c):
			c.State.Status = api.StatusPaused
		}
		c.Link = readLink(dir)
		if c.Spec.Pull == api.PullLazy {
			why, _ := os.ReadFile(filepath.Join(dir, api.LazyErrorFile))
			c.State.Error = string(why)
		}
		if c.Healthcheck != nil {
			if h, err := shim.ReadHealth(dir); err == nil {
				c.State.Health = &h
			}
		}
		return
	}
	exit := e.lastExit(c.ID)
	ending := false
	if err == nil && !tellsOf(exit, s) {
		// Its shim may be about to write the status down, or may have done so since we looked.
		ending = e.occupied(c.ID)
		if exit = e.lastExit(c.ID); ending && !tellsOf(exit, s) {
			exit = nil
		}
	}
	switch {
	case exit != nil && restartable(c) && (e.waitedFor(c.ID) || e.occupied(c.ID) && e.due(c, exit, false)):
		c.State = api.State{Status: api.StatusRestarting, StartedAt: exit.StartedAt, Exit: &exit.Exit}
	case exit != nil && exit.StartedAt.IsZero():
		c.State = api.State{Status: api.StatusCreated, Exit: &exit.Exit, Error: exit.NotAgain}
	case exit != nil:
		c.State = api.State{Status: api.StatusExited, StartedAt: exit.StartedAt, Exit: &exit.Exit, Error: exit.NotAgain}
	case ending:
		c.State = api.State{Status: api.StatusRunning, Pid: s.Pid, StartedAt: s.StartedAt}
	case err == nil: // it ran, and who should have kept its exit status is gone
		c.State = api.State{Status: api.StatusExited, StartedAt: s.StartedAt, Exit: &lostExit}
	case e.wasStarted(c.ID) && !exists(dir) && e.lastExit(c.ID) == nil: // it ran when the machine stopped, which took what boot forgets along
		c.State = api.State{Status: api.StatusExited, Exit: &lostExit}
	default:
		c.State = api.State{Status: api.StatusCreated}
	}
}

// lastExit is how the container's last run ended, nil when nobody has written it down.
func (e *Engine) lastExit(id string) *shim.ExitRecord {
	if exit := readExit(e.exitPath(id)); exit != nil {
		return exit
	}
	return readExit(filepath.Join(e.sandboxDir(id), shim.ExitName))
}

// tellsOf reports whether r is of the run that s is of: one before it is kept until it has begun.
func tellsOf(r *shim.ExitRecord, s shim.State) bool {
	return r != nil && !r.StartedAt.Before(s.StartedAt)
}

// lostExit stands for the status of a container whose shim was killed.
var lostExit = api.Exit{Code: 255, Error: "exit status unknown: the container's shim was killed, or the machine stopped"}

func readExit(path string) *shim.ExitRecord {
	r, err := shim.ReadExit(path)
	if err != nil {
		return nil
	}
	return &r
}

// running reports whether the process of s lives: it was started since the last boot and is not another with the same number.
func running(s shim.State) bool {
	return s.Pid > 0 && proc.Alive(s.Pid, s.StartTicks) && s.BootID == proc.BootID()
}

func readLink(dir string) *api.Link {
	data, err := smallfile.Read(filepath.Join(dir, linkName), 1<<20)
	if err != nil {
		return nil
	}
	l, err := network.DecodeLink(data)
	if err != nil {
		return nil
	}
	return l
}

// isRunning asks for one container without its record. One that is initialized has a process, too.
func (e *Engine) isRunning(id string) bool {
	s, err := shim.ReadState(e.sandboxDir(id))
	return err == nil && running(s)
}

// occupied reports whether somebody lives in the container's sandbox: its shim, or the clean-up after it.
func (e *Engine) occupied(id string) bool { return ns.Alive(e.sandboxDir(id)) }

func sortNewestFirst(list []api.Container) {
	slices.SortFunc(list, func(a, b api.Container) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) })
}
