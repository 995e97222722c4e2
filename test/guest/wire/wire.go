// Package wire is what the host and the agent in the test guest say to each other, over any byte stream.
//
// All is frames: magic, kind, stream, length, body, numbers little-endian. A stream is one thing that the host asked for, under a number
// of the host's choice that it does not use again: a command (Run) or a file (Put). Replies carry the stream's number, so that many go
// on at once. What flows into the guest is metered, a frame a credit (Window, Ack), so that a command that does not read its standard
// input holds up nobody else; what flows out is not, since the host always reads.
//
// A session begins with Hello, which may come at any time and ends what went before: after a restore the agent may have half a frame
// of somebody else in hand. Therefore a reader looks for the next magic instead of giving up.
package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Version is of the protocol: host and agent must have the same, or the snapshot is to be made anew.
const Version = 1

const (
	// MaxBody is the most bytes in one frame's body.
	MaxBody = 32 << 10
	// Window is how many Data frames of a stream may be on their way into the guest.
	Window = 32

	magic  = 0x67697242 // "Brig"
	header = 4 + 1 + 4 + 4
)

// Kind says what a frame's body is.
type Kind byte

// From the host: Hello, Run, Put, Data, Signal, Resize. From the agent: Welcome, Stdout, Stderr, Ack, Exit.
const (
	Hello   Kind = iota + 1 // Greeting
	Welcome                 // Greeting, without seed
	Run                     // Command
	Put                     // File
	Data                    // bytes of standard input or of the file; none: the end
	Signal                  // one byte: the number, sent to the command's process group
	Resize                  // Size, of the command's terminal
	Stdout                  // bytes
	Stderr                  // bytes
	Ack                     // none: one Data frame was taken
	Exit                    // Status: the stream is over
	last
)

// Frame is one message.
type Frame struct {
	Kind   Kind
	Stream uint32
	Body   []byte
}

// Greeting is the body of Hello and Welcome.
type Greeting struct {
	Version int
	Time    int64  // the sender's clock, nanoseconds of the epoch
	Seed    []byte `json:",omitempty"` // randomness that no other clone gets
}

// Command is the body of Run.
type Command struct {
	Args []string
	Env  []string // NAME=VALUE, beyond the agent's own
	Dir  string   // working directory; "" is the agent's
	Size *Size    `json:",omitempty"` // of a terminal to run it on; nil: pipes
}

// Size is of a terminal, in characters.
type Size struct{ Rows, Columns uint16 }

// File is the body of Put.
type File struct {
	Path string // the folders above it are made
	Mode uint32 // permission bits
}

// Status is the body of Exit.
type Status struct {
	Code   int    // exit status of a command
	Signal int    // that killed it; 0: none
	Error  string // why it could not be done at all; "": it was
}

// Conn reads and writes frames. Any number of goroutines may write, one may read.
type Conn struct {
	r *bufio.Reader

	mu sync.Mutex
	w  io.Writer
}

// NewConn frames a stream.
func NewConn(rw io.ReadWriter) *Conn {
	return &Conn{r: bufio.NewReaderSize(rw, header+MaxBody), w: rw}
}

// Read returns the next frame. Bytes that belong to none are passed over. Errors are the stream's own; io.EOF within a frame is
// io.ErrUnexpectedEOF.
func (c *Conn) Read() (Frame, error) {
	for {
		h, err := c.r.Peek(header)
		if err != nil {
			return Frame{}, err
		}
		kind, size := Kind(h[4]), binary.LittleEndian.Uint32(h[9:])
		if binary.LittleEndian.Uint32(h) != magic || kind == 0 || kind >= last || size > MaxBody {
			if _, err := c.r.Discard(1); err != nil {
				return Frame{}, err
			}
			continue
		}
		f := Frame{Kind: kind, Stream: binary.LittleEndian.Uint32(h[5:]), Body: make([]byte, size)}
		if _, err := c.r.Discard(header); err != nil {
			return Frame{}, err
		}
		if _, err := io.ReadFull(c.r, f.Body); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return Frame{}, err
		}
		return f, nil
	}
}

// Write sends bytes, in as many frames as they need; none is one empty frame.
func (c *Conn) Write(kind Kind, stream uint32, body []byte) error {
	for {
		part := body[:min(len(body), MaxBody)]
		body = body[len(part):]
		b := binary.LittleEndian.AppendUint32(make([]byte, 0, header+len(part)), magic)
		b = append(b, byte(kind))
		b = binary.LittleEndian.AppendUint32(b, stream)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
		c.mu.Lock()
		_, err := c.w.Write(b)
		c.mu.Unlock()
		if err != nil || len(body) == 0 {
			return err
		}
	}
}

// WriteJSON sends one frame with v as its body.
func (c *Conn) WriteJSON(kind Kind, stream uint32, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > MaxBody {
		return fmt.Errorf("message of %d bytes; the most is %d", len(b), MaxBody)
	}
	return c.Write(kind, stream, b)
}
