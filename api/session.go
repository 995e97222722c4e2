package api

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// ErrDetached is what a session ends with when the user typed the detach keys: the container runs on.
var ErrDetached = errors.New("detached from the container")

// Streams are the standard streams of whoever calls the engine.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Terminal is the controlling terminal when standard input is one, else nil. Stdin puts it into raw mode when it is first read
	// for a process with a terminal, so read Stdin, and use Terminal only to ask for its size.
	Terminal *os.File
}

// Attach says which streams of a container are joined to the caller's.
type Attach struct {
	Stdin, Stdout, Stderr bool
	TTY                   bool // the container has a terminal: one stream for both outputs
	Streams               Streams
	DetachKeys            []byte     // typed in a row they detach; nil: ctrl-p ctrl-q
	Size                  WindowSize // of the caller's terminal; zero: unknown
}

// Session is a live connection to a container's streams; the engine copies between it and Attach.Streams.
type Session struct {
	// Wait returns when the container's first process has ended and its output is written, or with ErrDetached.
	Wait   func(context.Context) (Exit, error)
	Resize func(WindowSize) error
	Signal func(syscall.Signal) error
}

// LogOptions choose log lines. The zero times mean no bound.
type LogOptions struct {
	Follow       bool
	Tail         int // the last lines; -1: all
	Since, Until time.Time
}

// LogEntry is one line of a container's log.
type LogEntry struct {
	Time   time.Time
	Stream string // stdout or stderr
	Line   []byte // with its newline, unless the process wrote none
}

// ExecSpec is one more process for a running container. Empty fields mean what the container's own process has.
type ExecSpec struct {
	Command     []string
	Env         []string // NAME=VALUE; a bare NAME unsets
	WorkingDir  string
	User        string // name|uid[:group|gid]
	Interactive bool
	TTY         bool
	Detach      bool
	Privileged  bool
	Tools       string      // an image of one layer whose files the command finds below ToolsDir; empty: none
	Network     NetworkSpec // with Tools, of a container that does not run; zero: none
	DetachKeys  []byte      // nil: ctrl-p ctrl-q
	Size        WindowSize  // at first; on SIGWINCH ask Streams.Terminal again
	Files       []int       // descriptors that the process gets as 3 and on; they stay the caller's
}

// ToolsImage is where tools come from if nothing else is said, and ToolsDir where a command finds them in its container.
const (
	ToolsImage = "brig/base"
	ToolsDir   = "/dev/brig"
)

// Info is what there is to know about this Brig and its machine.
type Info struct {
	Version string `json:"version"`
	Root    string `json:"root"`  // durable data
	State   string `json:"state"` // boot-lived data

	Containers int `json:"containers"`
	Running    int `json:"running"`
	Paused     int `json:"paused"`
	Stopped    int `json:"stopped"`
	Images     int `json:"images"`

	Hostname        string `json:"hostname"`
	KernelVersion   string `json:"kernelVersion"`   // uname -r
	OperatingSystem string `json:"operatingSystem"` // PRETTY_NAME of os-release
	OSType          string `json:"osType"`          // linux
	Architecture    string `json:"architecture"`    // uname -m: x86_64
	CPUs            int    `json:"cpus"`
	Memory          int64  `json:"memory"` // bytes

	CgroupVersion string           `json:"cgroupVersion"` // 1 or 2
	CgroupDriver  string           `json:"cgroupDriver"`  // cgroupfs
	StorageDriver string           `json:"storageDriver"` // overlay
	Isolation     []IsolationState `json:"isolation"`     // every level, weakest first

	ID              string   `json:"id"`              // of the store on this machine: a UUID, the same as long as both are
	OSRelease       []string `json:"osRelease"`       // KEY=VALUE of os-release, unquoted
	FreeMemory      int64    `json:"freeMemory"`      // bytes
	Swap            int64    `json:"swap"`            // bytes
	FreeSwap        int64    `json:"freeSwap"`        // bytes
	Uptime          int64    `json:"uptime"`          // of the machine, seconds
	Controllers     []string `json:"controllers"`     // of control groups by which containers can be limited
	SwapLimit       bool     `json:"swapLimit"`       // the kernel can limit swap
	IPv4Forwarding  bool     `json:"ipv4Forwarding"`  // net.ipv4.ip_forward
	Filesystem      string   `json:"filesystem"`      // below Root, by docker's names: extfs, xfs, …; else by its number
	Disk            int64    `json:"disk"`            // bytes of that file system
	DiskUsed        int64    `json:"diskUsed"`        // bytes
	Runtime         string   `json:"runtime"`         // path of brig-oci
	Volumes         string   `json:"volumes"`         // their folder
	SecurityOptions []string `json:"securityOptions"` // docker's form: name=seccomp,profile=builtin
	Warnings        []string `json:"warnings,omitempty"`
}

// IsolationState says whether a level can be used here.
type IsolationState struct {
	Level     Isolation `json:"level"`
	Available bool      `json:"available"`
	Reason    string    `json:"reason,omitempty"` // why not, and what would help
	Detail    string    `json:"detail,omitempty"` // how, where there is a choice
}
