package wire

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client is the host's end. Its methods may be called from many goroutines.
type Client struct {
	conn *Conn

	mu      sync.Mutex
	next    uint32
	streams map[uint32]*stream
	err     error // why the connection is over
}

// stream is one thing asked for.
type stream struct {
	out, errs io.Writer
	credit    chan struct{} // holds a token for each Data frame that may be sent
	done      chan struct{} // closed when status is set, or the connection lost
	status    Status
	welcome   Greeting
}

// NewClient takes over a stream to an agent. It ends when the stream does.
func NewClient(rw io.ReadWriter) *Client {
	c := &Client{conn: NewConn(rw), streams: map[uint32]*stream{}}
	go c.read()
	return c
}

// read hands out what the agent says.
func (c *Client) read() {
	for {
		f, err := c.conn.Read()
		c.mu.Lock()
		if err != nil {
			c.err = fmt.Errorf("the guest's agent is gone: %w", err)
			for _, s := range c.streams {
				close(s.done)
			}
			clear(c.streams)
			c.mu.Unlock()
			return
		}
		s := c.streams[f.Stream]
		if s != nil && (f.Kind == Exit || f.Kind == Welcome) {
			delete(c.streams, f.Stream)
		}
		c.mu.Unlock()
		if s == nil {
			continue // of a session before this one
		}
		switch f.Kind {
		case Stdout:
			s.out.Write(f.Body)
		case Stderr:
			s.errs.Write(f.Body)
		case Ack:
			select {
			case s.credit <- struct{}{}:
			default:
			}
		case Welcome, Exit:
			into := any(&s.status)
			if f.Kind == Welcome {
				into = &s.welcome
			}
			if err := json.Unmarshal(f.Body, into); err != nil {
				s.status.Error = err.Error()
			}
			close(s.done)
		}
	}
}

// open begins a stream.
func (c *Client) open(kind Kind, body any, out, errs io.Writer) (uint32, *stream, error) {
	s := &stream{out: out, errs: errs, credit: make(chan struct{}, Window), done: make(chan struct{})}
	for range Window {
		s.credit <- struct{}{}
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return 0, nil, c.err
	}
	c.next++
	id := c.next
	c.streams[id] = s
	c.mu.Unlock()
	return id, s, c.conn.WriteJSON(kind, id, body)
}

// end waits for the agent's last word on a stream.
func (c *Client) end(s *stream) error {
	<-s.done
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.status == (Status{}) && s.welcome.Version == 0 && c.err != nil {
		return c.err
	}
	if s.status.Error != "" {
		return errors.New(s.status.Error)
	}
	return nil
}

// feed sends what r gives as the stream's data, and its end.
func (c *Client) feed(id uint32, s *stream, r io.Reader) error {
	buf := make([]byte, MaxBody)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			select {
			case <-s.credit:
			case <-s.done:
				return nil
			}
			if err := c.conn.Write(Data, id, buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			end := c.conn.Write(Data, id, nil)
			if err == io.EOF {
				err = nil
			}
			return errors.Join(err, end)
		}
	}
}

// Hello begins a session: the agent forgets what went before, takes over this machine's clock and fresh randomness, and answers.
func (c *Client) Hello(ctx context.Context) error {
	seed := make([]byte, 64)
	rand.Read(seed)
	_, s, err := c.open(Hello, Greeting{Version: Version, Time: time.Now().UnixNano(), Seed: seed}, nil, nil)
	if err != nil {
		return err
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		return fmt.Errorf("no answer from the guest's agent: %w", ctx.Err())
	}
	if err := c.end(s); err != nil {
		return err
	}
	if s.welcome.Version != Version {
		return fmt.Errorf("the guest's agent speaks version %d, this program %d: `make guest` makes the snapshot anew", s.welcome.Version, Version)
	}
	return nil
}

// IO is where a command's streams lead. The zero value: no input, output dropped.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
	Resize   <-chan Size // of a command with a terminal; may be nil
}

// Run runs a command to its end and returns its exit status, 128 and the number of the signal that killed it. With a terminal all
// output is Out's. At the context's end the command's process group is killed. An error means that there is no exit status.
func (c *Client) Run(ctx context.Context, cmd Command, streams IO) (int, error) {
	if streams.Out == nil {
		streams.Out = io.Discard
	}
	if streams.Err == nil {
		streams.Err = io.Discard
	}
	id, s, err := c.open(Run, cmd, streams.Out, streams.Err)
	if err != nil {
		return -1, err
	}
	if streams.In != nil {
		go c.feed(id, s, streams.In)
	} else if err := c.conn.Write(Data, id, nil); err != nil {
		return -1, err
	}
	for over := false; !over; {
		select {
		case <-s.done:
			over = true
		case size := <-streams.Resize:
			if err := c.conn.WriteJSON(Resize, id, size); err != nil {
				return -1, err
			}
		case <-ctx.Done():
			if err := c.conn.Write(Signal, id, []byte{byte(unix.SIGKILL)}); err != nil {
				return -1, err
			}
			select {
			case <-s.done:
			case <-time.After(10 * time.Second):
			}
			return -1, fmt.Errorf("%s: %w", cmd.Args[0], ctx.Err())
		}
	}
	if err := c.end(s); err != nil {
		return -1, err
	}
	if s.status.Signal != 0 {
		return 128 + s.status.Signal, nil
	}
	return s.status.Code, nil
}

// Put writes a file in the guest, replacing one that is there.
func (c *Client) Put(file File, content io.Reader) error {
	id, s, err := c.open(Put, file, nil, nil)
	if err != nil {
		return err
	}
	if err := c.feed(id, s, content); err != nil {
		return fmt.Errorf("%s: %w", file.Path, err)
	}
	return c.end(s)
}
