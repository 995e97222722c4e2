package wire

import (
	"encoding/binary"
	"errors"
	"io"
)

// AskCheckpoint asks for the state of all that runs inside. It comes on the standard output, in chunks, while everything inside stands still: until the standard input ends.
const AskCheckpoint = "checkpoint"

// CheckpointName is the file of a checkpoint, gVisor's name for it.
const CheckpointName = "checkpoint.img"

// ErrCut says that chunks ended before their end was told.
var ErrCut = errors.New("the checkpoint is not whole: what wrote it has ended")

// ErrLong says that there was more than any state can be.
var ErrLong = errors.New("the checkpoint does not end")

// WriteChunk writes b as a chunk: its length in four bytes, then itself. An empty one says that all has come.
func WriteChunk(w io.Writer, b []byte) error {
	if _, err := w.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(b)))); err != nil {
		return err
	}
	if len(b) == 0 {
		return nil
	}
	_, err := w.Write(b)
	return err
}

// Chunks takes what WriteChunk wrote apart, as it comes. An error ends it, for Close to tell: what comes after that is dropped.
type Chunks struct {
	To    io.Writer
	Whole func() error // called once, when all has come
	Over  func()       // called once: nothing more is wanted
	Most  int64        // bytes that are taken

	head [4]byte
	have int    // bytes of head
	left uint32 // bytes of the chunk
	over bool
	err  error
}

// Write takes what has come; it returns no error.
func (c *Chunks) Write(b []byte) (int, error) {
	all := len(b)
	for len(b) > 0 && !c.over {
		if c.left == 0 {
			n := copy(c.head[c.have:], b)
			c.have += n
			b = b[n:]
			if c.have < len(c.head) {
				break
			}
			c.have, c.left = 0, binary.LittleEndian.Uint32(c.head[:])
			if c.left == 0 {
				c.end(c.Whole())
			}
			continue
		}
		n := min(uint32(len(b)), c.left)
		if c.Most -= int64(n); c.Most < 0 {
			c.end(ErrLong)
			break
		}
		if _, err := c.To.Write(b[:n]); err != nil {
			c.end(err)
		}
		c.left -= n
		b = b[n:]
	}
	return all, nil
}

func (c *Chunks) end(err error) {
	c.over, c.err = true, err
	c.Over()
}

// Close says whether all has come and was kept: else why not, ErrCut where it just ended.
func (c *Chunks) Close() error {
	if !c.over {
		return ErrCut
	}
	return c.err
}
