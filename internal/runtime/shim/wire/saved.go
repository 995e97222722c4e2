package wire

import (
	"time"

	"brig/internal/runtime"
)

// Saved is a shim that executes itself anew. Numbers named FD are open descriptors, -1 for none.
type Saved struct {
	ListenerFD int
	FDs        []int
	Reap       []string
	Containers []SavedContainer
	Resolver   [2]int // the sockets on which look-ups of names come in, UDP and TCP
	Names      string // see Request; empty: there are none
	Bridges    bool   // the network namespace of the user's bridges is held, in the file that says so
}

// SavedContainer is a container of it, which runs.
type SavedContainer struct {
	ID, Bundle, ExitPath, CgroupPath string
	StartedAt                        time.Time
	Pid, PidFD                       int
	InFD                             int
	OutFD                            [2]int
	Durable, TTY, Once, OwnPIDs      bool
	Log                              *SavedLog // nil: none is kept
	Health                           runtime.HealthSpec
	Root                             string // where its root is mounted among the host's mounts; "": in a mount namespace
}

// SavedLog is a container's log.
type SavedLog struct {
	Spec runtime.LogSpec
	Line [2]string // what has come of a line of stdout and of stderr
}

// Encode writes it as a row.
func (s *Saved) Encode() []byte {
	v := new(row)
	v.putInt(int64(s.ListenerFD))
	v.putInt(int64(len(s.FDs)))
	for _, fd := range s.FDs {
		v.putInt(int64(fd))
	}
	v.putStrings(s.Reap)
	v.putInt(int64(len(s.Containers)))
	for i := range s.Containers {
		v.putContainer(&s.Containers[i])
	}
	v.putInt(int64(s.Resolver[0]))
	v.putInt(int64(s.Resolver[1]))
	v.putString(s.Names)
	v.putBool(s.Bridges)
	return v.b
}

func (v *row) putContainer(c *SavedContainer) {
	for _, str := range []string{c.ID, c.Bundle, c.ExitPath, c.CgroupPath} {
		v.putString(str)
	}
	for _, n := range []int64{c.StartedAt.UnixNano(), int64(c.Pid), int64(c.PidFD), int64(c.InFD), int64(c.OutFD[0]), int64(c.OutFD[1])} {
		v.putInt(n)
	}
	for _, t := range []bool{c.Durable, c.TTY, c.Once, c.OwnPIDs, c.Log != nil} {
		v.putBool(t)
	}
	if c.Log != nil {
		v.putLog(c.Log.Spec)
		v.putString(c.Log.Line[0])
		v.putString(c.Log.Line[1])
	}
	v.putHealth(&c.Health)
	v.putString(c.Root)
}

// DecodeSaved reads what Encode wrote.
func DecodeSaved(b []byte) *Saved {
	v := &row{b}
	s := &Saved{ListenerFD: v.int()}
	for n := v.count(); v.more(&n); {
		s.FDs = append(s.FDs, v.int())
	}
	s.Reap = v.strings()
	for n := v.count(); v.more(&n); {
		s.Containers = append(s.Containers, v.container())
	}
	s.Resolver, s.Names, s.Bridges = [2]int{v.int(), v.int()}, v.string(), v.bool()
	return s
}

func (v *row) container() SavedContainer {
	c := SavedContainer{ID: v.string(), Bundle: v.string(), ExitPath: v.string(), CgroupPath: v.string()}
	c.StartedAt = time.Unix(0, int64(v.int())).UTC()
	c.Pid, c.PidFD, c.InFD, c.OutFD = v.int(), v.int(), v.int(), [2]int{v.int(), v.int()}
	c.Durable, c.TTY, c.Once, c.OwnPIDs = v.bool(), v.bool(), v.bool(), v.bool()
	if v.bool() {
		c.Log = &SavedLog{Spec: v.log(), Line: [2]string{v.string(), v.string()}}
	}
	c.Health = v.health()
	c.Root = v.string()
	return c
}
