package transfer

import (
	"io"
	"sync"
)

const (
	chunkSize  = 256 << 10 // bytes handed from one stage to the next
	chunkCount = 6         // chunks a stage may be ahead
)

// ahead reads in a goroutine of its own, so that receiving, decompressing and unpacking a layer happen at a time. The memory that it
// takes is bounded by chunkCount chunks.
type ahead struct {
	full  chan chunk
	empty chan []byte
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once
	rest  []byte // of the chunk being read
	whole []byte
	err   error
}

type chunk struct {
	b   []byte
	err error // after b
}

// readAhead starts reading r. After Close has returned, r is not read any more.
func readAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan chunk, chunkCount), empty: make(chan []byte, chunkCount), stop: make(chan struct{}), done: make(chan struct{})}
	for range chunkCount {
		a.empty <- nil // made when first needed: small layers need one
	}
	go a.run(r)
	return a
}

func (a *ahead) run(r io.Reader) {
	defer close(a.done)
	defer close(a.full)
	for {
		var b []byte
		select {
		case b = <-a.empty:
		case <-a.stop:
			return
		}
		if b == nil {
			b = make([]byte, chunkSize)
		}
		n, err := io.ReadFull(r, b[:chunkSize])
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		select {
		case a.full <- chunk{b[:n], err}:
		case <-a.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		if a.whole != nil {
			a.empty <- a.whole
			a.whole = nil
		}
		c, ok := <-a.full
		if !ok {
			a.err = io.ErrClosedPipe
			continue
		}
		a.whole, a.rest, a.err = c.b, c.b, c.err
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the reading and waits for a Read of r that is under way.
func (a *ahead) Close() error {
	a.once.Do(func() { close(a.stop) })
	<-a.done
	return nil
}
