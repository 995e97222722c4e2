// Package wire is what a shim and its clients say to each other, and what a shim leaves to itself when it executes itself anew: frames,
// and the rows that are in them. It does nothing but encode and decode, so that it can be fuzzed by itself.
//
// Whoever can open the shim's socket is as mighty as the shim, but a broken frame must not end the keeper of a container: no input
// makes a decoder fail, read past its end or take more memory than a multiple of the input.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"syscall"
	"time"

	"brig/api"
	"brig/internal/base/record"
	"brig/internal/runtime"
	"brig/internal/runtime/config"
)

// Types of frames.
const (
	FrameRequest = 'Q' // a Request, to the shim
	FrameStdin   = 'I' // bytes for standard input; empty: end of it
	FrameResize  = 'W' // rows and columns, two little endian 16-bit numbers
	FrameFDs     = 'F' // carries descriptors (SCM_RIGHTS)
	FrameDone    = 'D' // the owner has cleaned up

	FrameReply  = 'R' // Reply, from the shim
	FrameStdout = 'O'
	FrameStderr = 'X'
	FrameExit   = 'Z' // api.Exit
)

const (
	// HeaderLen is the length of a frame's header, in bytes: type, length of the payload (little endian).
	HeaderLen = 5
	// MaxFrame bounds a frame's payload, in bytes; a peer that announces more is cut off.
	MaxFrame = 1 << 20
)

// Request asks the shim for something.
type Request struct {
	Op string // add, keep, start, attach, exec, execfiles, wait, resolve, hold
	ID string // container

	Bundle runtime.Bundle // add
	NetNS  bool           // add: the first descriptor sent is the network namespace

	Stdin bool // start, attach, exec: this connection gives standard input

	Attach  bool         // start: output follows on this connection
	Process *api.Process // exec
	User    string       // exec
	Detach  bool         // exec: no streams, no exit status
	Tools   string       // exec: a folder that the process finds at api.ToolsDir; empty: none

	// Names is the folder of the container's networks: the shim answers look-ups of names from it. add: the second and the third descriptor are the sockets
	// on which they come in; resolve: the two that came with the request are. Empty: it does not answer.
	Names string
	// Bridges is the file by which others find the network namespace of a normal user's bridges: the shim keeps that open, and says so in the file. add: the last
	// descriptor sent, but for Files, is the namespace; hold: the first of those that came with the request is, and the others are kept too. Empty: there is none.
	Bridges string
	// Files is how many descriptors the process gets from 3 on. add: they are the last ones sent, behind that of Bridges; execfiles, which is an exec that older shims do not
	// know: those that came with the request.
	Files int
}

// Reply answers a Request.
type Reply struct {
	Pid   int
	Error string
	Kind  api.Kind
}

// Header writes a frame's header.
func Header(b []byte, kind byte, n int) {
	b[0] = kind
	binary.LittleEndian.PutUint32(b[1:], uint32(n))
}

// Split takes the first frame off b; ok is false where b does not hold a whole one yet. The error is that of a frame over [MaxFrame].
func Split(b []byte) (kind byte, payload, rest []byte, ok bool, err error) {
	if len(b) < HeaderLen {
		return 0, nil, b, false, nil
	}
	n := binary.LittleEndian.Uint32(b[1:])
	if n > MaxFrame {
		return 0, nil, b, false, tooLong(n)
	}
	end := HeaderLen + int(n)
	if len(b) < end {
		return 0, nil, b, false, nil
	}
	return b[0], b[HeaderLen:end], b[end:], true, nil
}

func tooLong(n uint32) error {
	return fmt.Errorf("shim: frame of %d bytes is over the limit of %d", n, MaxFrame)
}

// WriteFrame sends one frame over a blocking writer.
func WriteFrame(w io.Writer, kind byte, payload []byte) error {
	buf := make([]byte, HeaderLen+len(payload))
	Header(buf, kind, len(payload))
	copy(buf[HeaderLen:], payload)
	_, err := w.Write(buf)
	return err
}

// ReadFrame takes one frame; buf is reused where it is large enough.
func ReadFrame(r io.Reader, buf []byte) (kind byte, payload []byte, err error) {
	var h [HeaderLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(h[1:])
	if n > MaxFrame {
		return 0, nil, tooLong(n)
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err = io.ReadFull(r, buf)
	return h[0], buf, err
}

// Encode writes a request as a row. A process, which has many fields and comes with exec only, is in it as JSON.
func (r *Request) Encode() ([]byte, error) {
	var process []byte
	if r.Process != nil {
		var err error
		if process, err = record.Marshal(r.Process); err != nil {
			return nil, err
		}
	}
	v := &row{make([]byte, 0, 1024)}
	v.putString(r.Op)
	v.putString(r.ID)
	for _, t := range []bool{r.NetNS, r.Stdin, r.Attach, r.Detach} {
		v.putBool(t)
	}
	v.putString(r.User)
	v.putString(string(process))
	v.putBundle(&r.Bundle)
	v.putString(r.Tools) // behind all that older shims read
	v.putString(r.Names)
	v.putString(r.Bridges)
	v.putInt(int64(r.Files))
	return v.b, nil
}

func (v *row) putBundle(b *runtime.Bundle) {
	for _, s := range []string{b.ID, b.Dir, b.ExitPath} {
		v.putString(s)
	}
	for _, t := range []bool{b.Stdin, b.StdinOnce, b.Durable} {
		v.putBool(t)
	}
	v.putLog(b.Log)
	v.putStrings(b.Reap)
	v.putInt(int64(len(b.Root)))
	for _, m := range b.Root {
		v.putString(m.Type)
		v.putString(m.Source)
		v.putString(m.Target)
		v.putStrings(m.Options)
	}
	v.putHealth(&b.Health)
}

func (v *row) putHealth(h *runtime.HealthSpec) {
	v.putInt(int64(h.RunFor))
	var process []byte
	if h.Process != nil {
		process, _ = record.Marshal(h.Process) // strings and numbers: it cannot fail
	}
	v.putString(string(process))
	if len(process) == 0 {
		return
	}
	v.putString(h.User)
	v.putString(h.OnFailure)
	for _, n := range []int64{int64(h.Interval), int64(h.Timeout), int64(h.StartPeriod), int64(h.StartInterval), int64(h.Retries), int64(h.StopSignal), int64(h.StopTimeout)} {
		v.putInt(n)
	}
}

// health reads what putHealth wrote. A process that cannot be read is none.
func (v *row) health() runtime.HealthSpec {
	limit := time.Duration(v.int())
	process := v.string()
	if process == "" {
		return runtime.HealthSpec{RunFor: limit}
	}
	p, err := config.DecodeProcess([]byte(process))
	if err != nil {
		p = nil
	}
	return runtime.HealthSpec{
		RunFor: limit, Process: p, User: v.string(), OnFailure: v.string(), Interval: time.Duration(v.int()), Timeout: time.Duration(v.int()), StartPeriod: time.Duration(v.int()),
		StartInterval: time.Duration(v.int()), Retries: v.int(), StopSignal: syscall.Signal(v.int()), StopTimeout: time.Duration(v.int()),
	}
}

func (v *row) putLog(l runtime.LogSpec) {
	for _, s := range []string{l.Driver, l.Path, l.UDP, l.Tag} {
		v.putString(s)
	}
	for _, n := range []int64{l.MaxSize, int64(l.MaxFiles), int64(l.Facility)} {
		v.putInt(n)
	}
}

// DecodeRequest reads what Encode wrote. The error, of kind api.InvalidArgument, is that of the process in it.
func DecodeRequest(b []byte) (*Request, error) {
	v := &row{b}
	r := &Request{Op: v.string(), ID: v.string()}
	r.NetNS, r.Stdin, r.Attach, r.Detach = v.bool(), v.bool(), v.bool(), v.bool()
	r.User = v.string()
	if process := v.string(); process != "" {
		var err error
		if r.Process, err = config.DecodeProcess([]byte(process)); err != nil {
			return nil, api.Errorf(api.InvalidArgument, "the request's process: %w", err)
		}
	}
	r.Bundle = v.bundle()
	r.Tools = v.string()
	r.Names = v.string()
	r.Bridges = v.string()
	r.Files = v.int()
	return r, nil
}

func (v *row) bundle() (b runtime.Bundle) {
	b.ID, b.Dir, b.ExitPath = v.string(), v.string(), v.string()
	b.Stdin, b.StdinOnce, b.Durable = v.bool(), v.bool(), v.bool()
	b.Log = v.log()
	b.Reap = v.strings()
	for n := v.count(); v.more(&n); {
		b.Root = append(b.Root, api.Mount{Type: v.string(), Source: v.string(), Target: v.string(), Options: v.strings()})
	}
	b.Health = v.health()
	return b
}

func (v *row) log() runtime.LogSpec {
	l := runtime.LogSpec{Driver: v.string(), Path: v.string(), UDP: v.string(), Tag: v.string()}
	l.MaxSize, l.MaxFiles, l.Facility = int64(v.int()), v.int(), v.int()
	return l
}

// Encode writes a reply as a row.
func (r Reply) Encode() []byte {
	v := new(row)
	v.putInt(int64(r.Pid))
	v.putString(r.Error)
	v.putString(string(r.Kind))
	return v.b
}

// DecodeReply reads what Encode wrote.
func DecodeReply(b []byte) Reply {
	v := &row{b}
	return Reply{Pid: v.int(), Error: v.string(), Kind: api.Kind(v.string())}
}

// Err is the failure that a reply tells of, nil for none.
func (r Reply) Err() error {
	if r.Error == "" {
		return nil
	}
	if r.Kind == "" {
		return fmt.Errorf("%s", r.Error)
	}
	return api.Errorf(r.Kind, "%s", r.Error)
}

// EncodeExit writes how a process ended.
func EncodeExit(e api.Exit) []byte {
	v := new(row)
	v.putInt(int64(e.Code))
	v.putBool(e.OOMKilled)
	v.putString(e.Error)
	v.putInt(e.At.UnixNano())
	v.putInt(int64(e.Signal))
	return v.b
}

// DecodeExit reads what EncodeExit wrote.
func DecodeExit(b []byte) api.Exit {
	v := &row{b}
	return api.Exit{Code: v.int(), OOMKilled: v.bool(), Error: v.string(), At: time.Unix(0, int64(v.int())).UTC(), Signal: v.int()}
}
