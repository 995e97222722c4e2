// Package shim is the keeper of a sandbox: one small process that is the parent of the containers' first processes, writes their logs, holds
// their terminals and exit statuses, and lets clients attach. It outlives the command that started it, and ends with its last container.
//
// # Life
//
// The driver starts `brig-oci shim` with one end of a socket pair: the owner's connection. The owner sends descriptors (network namespace, held
// ports), adds a container, starts it. Anybody who can open the sandbox's folder may connect to shim.sock there and attach, exec, wait.
//
// When the last container has ended, its status is on the disk first and then told to every connection. The owner, if it is still there, cleans
// up what it made (network, snapshot, record) and says so. If it is gone, or goes without saying so, the shim executes the clean-up
// command it was given in its own place, keeping the lock and the waiting connections open: whoever sees the end of its connection sees a clean machine.
//
// # Protocol
//
// A connection carries frames both ways: one byte of type, four bytes of length (little endian), payload: package wire.
// Everything is on one thread around epoll(7), so there are no locks.
package shim

import (
	"path/filepath"
	"time"

	"brig/api"
	"brig/internal/base/jsonscan"
	"brig/internal/base/smallfile"
)

//go:generate go run ./gen

const (
	// SocketName is the shim's socket in the sandbox's folder, LockName the lock that it holds as long as it lives, StateName its record,
	// ExitName the ExitRecord that could not be written to its own place.
	SocketName = "shim.sock"
	LockName   = "lock"
	StateName  = "state.json"
	ExitName   = "exit.json"
	// AskedName is a file in the sandbox's folder: who sends the container's process a signal says there, in words, that it was him.
	AskedName = "asked"
)

// State is what the shim records of its container, before the container's command is executed.
type State struct {
	Pid        int       `json:"pid"`
	StartTicks uint64    `json:"startTicks"` // of the process, in clock ticks since boot: tells it from a later one with the same PID
	BootID     string    `json:"bootID"`
	Cgroup     string    `json:"cgroup"`
	StartedAt  time.Time `json:"startedAt"`
	Waits      bool      `json:"waits,omitempty"` // its command is not executed before somebody asks for it
}

// ExitRecord is what is kept of a container's last run.
type ExitRecord struct {
	Exit      api.Exit  `json:"exit"`
	StartedAt time.Time `json:"startedAt,omitzero"`
	Pid       int       `json:"pid,omitempty"`
	Unhealthy string    `json:"unhealthy,omitempty"` // api.UnhealthyKill, … where that was done to it
	Asked     string    `json:"asked,omitempty"`     // what AskedName said
	Crowded   bool      `json:"crowded,omitempty"`   // it failed, and had come to its limit of processes
	NotAgain  string    `json:"notAgain,omitempty"`  // why it could not be started after this run
}

// ReadState reads the record of the container in the sandbox in dir; api.NotFound when there is none.
func ReadState(dir string) (s State, err error) {
	path := filepath.Join(dir, StateName)
	data, err := smallfile.Read(path, 1<<20)
	if err != nil {
		return s, &api.Error{Kind: api.NotFound, Err: err}
	}
	if err := jsonscan.Decode(data, &s, readState); err != nil {
		return s, api.Errorf(api.Corrupt, "%s: %w", path, err)
	}
	return s, nil
}

// ReadExit reads the record of a container's last run; api.NotFound when there is none.
func ReadExit(path string) (e ExitRecord, err error) {
	data, err := smallfile.Read(path, 1<<20)
	if err != nil {
		return e, &api.Error{Kind: api.NotFound, Err: err}
	}
	if err := jsonscan.Decode(data, &e, readExitRecord); err != nil {
		return e, api.Errorf(api.Corrupt, "%s: %w", path, err)
	}
	return e, nil
}
