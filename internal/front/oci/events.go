package oci

import (
	"encoding/json"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/cgroup"
)

func eventsFlags() []flag {
	return []flag{
		{"interval", "", isDuration, "how often to print statistics (default 5s)"},
		{"stats", "", isBool, "print the statistics once"},
	}
}

// event is one line of output, as runc writes it.
type event struct {
	Type string `json:"type"` // stats or oom
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

// stats adds to a cgroup's numbers what engines find in runc's beside them.
type stats struct {
	*cgroup.Stats
	IntelRdt          struct{} `json:"intel_rdt"`
	NetworkInterfaces []string `json:"network_interfaces"` // those that the runtime made itself: none
}

// events is `brig-oci events`: statistics at intervals, and out-of-memory events when they happen, until the container ends.
func events(c *call) (int, error) {
	interval := c.duration("interval", 5*time.Second)
	if interval <= 0 {
		return 0, api.Errorf(api.InvalidArgument, "events: flag --interval: %s is not greater than zero", interval)
	}
	e, g, err := c.group()
	if err != nil {
		return 0, err
	}
	if e.status() == specs.StateStopped {
		return 0, api.Errorf(api.Conflict, "container %s is not running", e.ID)
	}
	if c.on("stats") {
		return 0, c.printStats(e.ID, g)
	}
	fd, err := e.pidfd()
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	notice, err := g.NotifyOOM()
	switch {
	case err == nil:
		defer notice.Close()
		poll = append(poll, unix.PollFd{Fd: int32(notice.Fd()), Events: unix.POLLIN})
	case api.KindOf(err) == api.Unsupported:
		c.warn(err) // the statistics are there all the same
	default:
		return 0, err
	}
	return 0, c.printEvents(e.ID, g, notice, poll, interval)
}

// printEvents prints until the first descriptor of poll, the container's process, can be read.
func (c *call) printEvents(id string, g *cgroup.Group, notice *cgroup.Notice, poll []unix.PollFd, interval time.Duration) error {
	next := time.Now().Add(interval)
	for {
		_, err := unix.Poll(poll, int(max(time.Until(next), 0).Milliseconds()))
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if len(poll) > 1 && poll[1].Revents != 0 {
			times, gone, err := notice.Read()
			if err != nil || gone {
				poll = poll[:1]
			}
			for range times {
				if err := c.printEvent(&event{Type: "oom", ID: id}); err != nil {
					return err
				}
			}
		}
		if poll[0].Revents != 0 {
			return nil
		}
		if !time.Now().Before(next) {
			if err := c.printStats(id, g); err != nil {
				return err
			}
			next = next.Add(interval)
		}
	}
}

func (c *call) printStats(id string, g *cgroup.Group) error {
	s, err := g.Stats()
	if err != nil {
		return err
	}
	return c.printEvent(&event{"stats", id, stats{Stats: s}})
}

func (c *call) printEvent(e *event) error {
	data, err := json.Marshal(e)
	if err == nil {
		_, err = c.stdout.Write(append(data, '\n'))
	}
	return err
}
