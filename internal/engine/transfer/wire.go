package transfer

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

// An image goes from one Brig to another over one pair of streams, those of an ssh. The receiver greets with a line; then both send frames:
// a byte that says what it is, four bytes of length (big endian), and so many bytes.
//
//	sender                                  receiver
//	                                        brig-receive/1\n
//	offer   {name, platform, target}
//	                                        want    {digest, offset}     what it lacks, as it finds out; several may wait
//	data, data, … end | refuse {kind, msg}  (in the order of the wants)
//	                                        alive                        while it unpacks
//	                                        result  {digest, id} | {kind, msg}
//
// Neither trusts the other. The sender gives only what belongs to the image that it offered. The receiver walks from the target as with
// any source: every document is held against its digest before it is read, every layer before it is seen, and the image gets its name last.
const (
	greeting = "brig-receive/1\n"

	frameOffer  = 'O'
	frameData   = 'D'
	frameEnd    = 'E'
	frameRefuse = 'X'
	frameWant   = 'W'
	frameAlive  = 'P'
	frameResult = 'R'

	maxControl = 64 << 10  // bytes of a frame that is not data
	maxData    = chunkSize // bytes of a frame of data
	maxWaiting = 16        // wants that have no answer yet
)

// How long the other side may be silent when it has the word, and how often it says that it is at work.
const (
	wireSilence = 2 * time.Minute
	wireAlive   = 20 * time.Second
)

type offer struct {
	Name     string               `json:"name,omitempty"` // full reference; empty: an image without a name
	Platform string               `json:"platform"`
	Target   imagespec.Descriptor `json:"target"`
}

type want struct {
	Digest digest.Digest `json:"digest"`
	Offset int64         `json:"offset,omitempty"` // bytes that are there already, from an earlier try
}

type fault struct {
	Kind api.Kind `json:"kind,omitempty"`
	Msg  string   `json:"msg,omitempty"`
}

type result struct {
	fault
	Digest digest.Digest `json:"digest,omitempty"`
	ID     string        `json:"id,omitempty"`
}

// wire sends and receives frames.
type wire struct {
	r  *bufio.Reader
	mu sync.Mutex // held while a frame is written
	w  *bufio.Writer
}

func newWire(r io.Reader, w io.Writer) *wire {
	return &wire{r: bufio.NewReaderSize(r, 64<<10), w: bufio.NewWriterSize(w, 64<<10)}
}

// send writes a frame.
func (c *wire) send(kind byte, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var head [5]byte
	head[0] = kind
	binary.BigEndian.PutUint32(head[1:], uint32(len(payload)))
	if _, err := c.w.Write(head[:]); err != nil {
		return err
	}
	if _, err := c.w.Write(payload); err != nil {
		return err
	}
	return c.w.Flush()
}

// tell writes a frame of JSON.
func (c *wire) tell(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxControl {
		return api.Errorf(api.InvalidArgument, "a message of %d bytes, more than the %d that the other machine accepts", len(b), maxControl)
	}
	return c.send(kind, b)
}

// receive reads a frame into buf, which has room for maxData bytes. The end of the stream is io.EOF between frames.
func (c *wire) receive(buf []byte) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	n, limit := binary.BigEndian.Uint32(head[1:]), uint32(maxControl)
	if head[0] == frameData {
		limit = maxData
	}
	if n > limit {
		return 0, nil, api.Errorf(api.Corrupt, "a frame of %d bytes, more than %d", n, limit)
	}
	_, err = io.ReadFull(c.r, buf[:n])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return head[0], buf[:n], err
}

// fill decodes a frame of JSON.
func fill(payload []byte, v any) error {
	if err := json.Unmarshal(payload, v); err != nil {
		return api.Errorf(api.Corrupt, "a message that is not understood: %w", err)
	}
	return nil
}

// unexpected is the error of a frame that has no place here.
func unexpected(kind byte) error {
	return api.Errorf(api.Corrupt, "a frame of kind %q, which has no place here", kind)
}

// tellable is an error as the other side is told it.
func tellable(err error) fault { return fault{api.KindOf(err), clean(err.Error())} }

// err is the other side's error.
func (f fault) err(where string) error {
	switch f.Kind {
	case api.NotFound, api.AlreadyExists, api.Conflict, api.InvalidArgument, api.Exhausted, api.Corrupt, api.Unsupported, api.Unavailable, api.Unauthorized, api.Denied:
		return api.Errorf(f.Kind, "%s: %s", where, clean(f.Msg))
	}
	return errors.New(where + ": " + clean(f.Msg))
}

// clean keeps another machine's words from writing to the terminal's controls, or at length.
func clean(s string) string {
	const most = 1000
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 || c == '\ufffd' {
			return ' '
		}
		return c
	}, s)
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return strings.TrimSpace(s)
}
