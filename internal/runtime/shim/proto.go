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
// A connection carries frames both ways: one byte of type, four bytes of length (little endian), payload. See the frame constants.
// Everything is on one thread around epoll(7), so there are no locks.
package shim

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"brig/api"
	"brig/internal/runtime"
)

// Types of frames.
const (
	frameRequest = 'Q' // JSON Request, to the shim
	frameStdin   = 'I' // bytes for standard input; empty: end of it
	frameResize  = 'W' // rows and columns, two little endian 16-bit numbers
	frameFDs     = 'F' // carries descriptors (SCM_RIGHTS)
	frameDone    = 'D' // the owner has cleaned up

	frameReply  = 'R' // Reply, from the shim
	frameStdout = 'O'
	frameStderr = 'X'
	frameExit   = 'Z' // api.Exit
)

const (
	headerLen = 5
	// maxFrame bounds a frame's payload, in bytes; a peer that announces more is cut off.
	maxFrame = 1 << 20
	// SocketName is the shim's socket in the sandbox's folder, LockName the lock that it holds as long as it lives, StateName its record,
	// ExitName the ExitRecord that could not be written to its own place.
	SocketName = "shim.sock"
	LockName   = "lock"
	StateName  = "state.json"
	ExitName   = "exit.json"
)

// Request asks the shim for something.
type Request struct {
	Op string `json:"op"` // add, start, attach, exec, wait
	ID string `json:"id"` // container

	Bundle runtime.Bundle `json:"bundle,omitzero"` // add
	NetNS  bool           `json:"netNS,omitempty"` // add: the first descriptor sent is the network namespace

	Stdin bool `json:"stdin,omitempty"` // start, attach, exec: this connection gives standard input

	Attach  bool         `json:"attach,omitempty"`  // start: output follows on this connection
	Process *api.Process `json:"process,omitempty"` // exec
	User    string       `json:"user,omitempty"`    // exec
	Detach  bool         `json:"detach,omitempty"`  // exec: no streams, no exit status
}

// Reply answers a Request.
type Reply struct {
	Pid   int
	Error string
	Kind  api.Kind
}

// State is what the shim records of its container, before the container's command is executed.
type State struct {
	Pid        int       `json:"pid"`
	StartTicks uint64    `json:"startTicks"` // of the process, in clock ticks since boot: tells it from a later one with the same PID
	BootID     string    `json:"bootID"`
	Cgroup     string    `json:"cgroup"`
	StartedAt  time.Time `json:"startedAt"`
}

// ExitRecord is what is kept of a container's last run.
type ExitRecord struct {
	Exit      api.Exit  `json:"exit"`
	StartedAt time.Time `json:"startedAt,omitzero"`
}

// header writes a frame's header.
func header(b []byte, kind byte, n int) {
	b[0] = kind
	binary.LittleEndian.PutUint32(b[1:], uint32(n))
}

// writeFrame sends one frame over a blocking writer.
func writeFrame(w io.Writer, kind byte, payload []byte) error {
	buf := make([]byte, headerLen+len(payload))
	header(buf, kind, len(payload))
	copy(buf[headerLen:], payload)
	_, err := w.Write(buf)
	return err
}

// readFrame takes one frame; buf is reused where it is large enough.
func readFrame(r io.Reader, buf []byte) (kind byte, payload []byte, err error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(h[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("shim: frame of %d bytes is over the limit of %d", n, maxFrame)
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err = io.ReadFull(r, buf)
	return h[0], buf, err
}

// encode writes a reply as a row: what comes back to the command line on the way of every run is read without a JSON decoder getting ready.
func (r Reply) encode() []byte {
	v := new(saved)
	v.putInt(int64(r.Pid))
	v.putString(r.Error)
	v.putString(string(r.Kind))
	return v.b
}

func decodeReply(b []byte) Reply {
	v := &saved{b}
	return Reply{Pid: v.int(), Error: v.string(), Kind: api.Kind(v.string())}
}

func encodeExit(e api.Exit) []byte {
	v := new(saved)
	v.putInt(int64(e.Code))
	v.putBool(e.OOMKilled)
	v.putString(e.Error)
	v.putInt(e.At.UnixNano())
	return v.b
}

func decodeExit(b []byte) api.Exit {
	v := &saved{b}
	return api.Exit{Code: v.int(), OOMKilled: v.bool(), Error: v.string(), At: time.Unix(0, int64(v.int())).UTC()}
}

func (r Reply) err() error {
	if r.Error == "" {
		return nil
	}
	if r.Kind == "" {
		return fmt.Errorf("%s", r.Error)
	}
	return api.Errorf(r.Kind, "%s", r.Error)
}
