package api

import "time"

// StopOptions say how a container is asked to end. The zero value is the container's own way.
type StopOptions struct {
	Timeout *int   // seconds until SIGKILL; nil: the container's own, or 10; negative: never
	Signal  string // empty: the container's own, or SIGTERM
}

// Change is one file that a container has and its image has not, or the other way round, or that is different.
type Change struct {
	Kind ChangeKind
	Path string // absolute, in the container
}

// ChangeKind is docker's letter for a change.
type ChangeKind byte

// The kinds of changes.
const (
	Added   ChangeKind = 'A'
	Changed ChangeKind = 'C'
	Deleted ChangeKind = 'D'
)

// ProcessList is a table of a container's processes.
type ProcessList struct {
	Titles []string
	Rows   [][]string
}

// Usage is what a container has used at a moment. The zero value is that of one that does not run.
type Usage struct {
	At          time.Time     `json:"at"`
	CPU         time.Duration `json:"cpu"`    // of all processors together, since it was started
	Memory      uint64        `json:"memory"` // bytes, without the part of the page cache that nobody asks for
	MemoryLimit uint64        `json:"memoryLimit"`
	NetIn       uint64        `json:"netIn"` // bytes, of all interfaces but loopback
	NetOut      uint64        `json:"netOut"`
	BlockIn     uint64        `json:"blockIn"` // bytes that were read from devices
	BlockOut    uint64        `json:"blockOut"`
	Pids        uint64        `json:"pids"`
}

// Event is something that happened to a container, an image, a volume or a network.
type Event struct {
	Time       time.Time         `json:"time"`
	Type       string            `json:"type,omitempty"` // image, volume or network; empty: container
	Action     string            `json:"action"`         // docker's word: create, start, kill, die, stop, destroy, pause, …
	ID         string            `json:"id"`
	Attributes map[string]string `json:"attributes,omitempty"` // image, name and labels of the container; exitCode, signal, oldName; the name of an image or a volume
}

// CheckpointOptions say how a checkpoint is made.
type CheckpointOptions struct {
	Dir          string // that it gets a folder in; empty: the container's own
	LeaveRunning bool   // else the container ends
	Replace      bool   // instead of one of its name
}

// EventOptions choose events. The zero times mean: none of the past, and no end.
type EventOptions struct {
	Since, Until time.Time
}
