package api

import (
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Mount is a file system to mount, in the order given; Target is relative to the container's root.
type Mount struct {
	Type    string   `json:"type"`
	Source  string   `json:"source"`
	Target  string   `json:"target,omitempty"` // empty: the root itself
	Options []string `json:"options,omitempty"`
}

// Process is a process to run in a container, as the OCI runtime specification writes it.
type Process = specs.Process

// Stdio are the standard streams that a process is given. With a terminal only Console matters.
type Stdio struct {
	Stdin, Stdout, Stderr *os.File
}

// WindowSize is a terminal's size in characters.
type WindowSize struct {
	Rows, Cols uint16
}

// SandboxSpec opens a sandbox: the boundary that one container, or the containers of a pod, stand behind.
type SandboxSpec struct {
	ID  string
	Dir string // boot-lived folder of the sandbox, made by the caller, 0700
	// Link yields the network; the driver asks when it needs it, so that sandbox and network are made at the same time. Nil for Find.
	Link func() (*Link, error)
	// Subtree is the one of the control groups that a normal user's containers have theirs in (internal/kernel/delegated: Subtree.Arg); "": none.
	Subtree string
}
