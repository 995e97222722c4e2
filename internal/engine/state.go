package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"brig/api"
	"brig/internal/kernel/proc"
	"brig/internal/runtime/ns"
	"brig/internal/runtime/shim"
)

// linkName is the file in a sandbox's folder that holds the container's api.Link, for inspect and ps.
const linkName = "link.json"

// fillState derives a container's state from what is on the disk and which processes live.
func (e *Engine) fillState(c *api.Container) {
	dir := e.sandboxDir(c.ID)
	s, err := readShimState(dir)
	if err == nil && running(s) {
		c.State = api.State{Status: api.StatusRunning, Pid: s.Pid, StartedAt: s.StartedAt}
		c.Link = readLink(dir)
		return
	}
	ending := err == nil && e.occupied(c.ID) // asked first: when its shim has gone, the exit status is there or never will be
	exit := readExit(e.exitPath(c.ID))
	if exit == nil {
		exit = readExit(filepath.Join(dir, shim.ExitName))
	}
	switch {
	case exit != nil:
		c.State = api.State{Status: api.StatusExited, StartedAt: exit.StartedAt, Exit: &exit.Exit}
	case ending: // the process has ended, and its shim is about to say how
		c.State = api.State{Status: api.StatusRunning, Pid: s.Pid, StartedAt: s.StartedAt}
		c.Link = readLink(dir)
	case err == nil: // it ran, and who should have kept its exit status is gone
		c.State = api.State{Status: api.StatusExited, StartedAt: s.StartedAt, Exit: &lostExit}
	default:
		c.State = api.State{Status: api.StatusCreated}
	}
}

// lostExit stands for the status of a container whose shim was killed.
var lostExit = api.Exit{Code: 255, Error: "exit status unknown: the container's shim was killed, or the machine stopped"}

func readExit(path string) *shim.ExitRecord {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	r := new(shim.ExitRecord)
	if json.Unmarshal(data, r) != nil {
		return nil
	}
	return r
}

func readShimState(dir string) (shim.State, error) {
	var s shim.State
	data, err := os.ReadFile(filepath.Join(dir, shim.StateName))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(data, &s)
}

// running reports whether the process of s lives: it was started since the last boot and is not another with the same number.
func running(s shim.State) bool {
	return s.Pid > 0 && proc.Alive(s.Pid, s.StartTicks) && s.BootID == proc.BootID()
}

func readLink(dir string) *api.Link {
	data, err := os.ReadFile(filepath.Join(dir, linkName))
	if err != nil {
		return nil
	}
	l := new(api.Link)
	if json.Unmarshal(data, l) != nil {
		return nil
	}
	return l
}

// isRunning asks for one container without its record.
func (e *Engine) isRunning(id string) bool {
	s, err := readShimState(e.sandboxDir(id))
	return err == nil && running(s)
}

// occupied reports whether somebody lives in the container's sandbox: its shim, or the clean-up after it.
func (e *Engine) occupied(id string) bool { return ns.Alive(e.sandboxDir(id)) }

func sortNewestFirst(list []api.Container) {
	slices.SortStableFunc(list, func(a, b api.Container) int { return b.Created.Compare(a.Created) })
}
