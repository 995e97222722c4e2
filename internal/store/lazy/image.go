package lazy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"brig/api"
	"brig/internal/store/erofs"
)

type state uint8

const (
	missing  state = iota
	fetching       // chunk.done is closed when it is kept, or missing again
	kept
)

const (
	// window is how much of a blob one request asks for, in bytes, as long as what follows is missing too: what is read next is often what lies beside.
	window = 256 << 10
	// maxGap is how much between two chunks is fetched with them rather than asked for anew.
	maxGap = 64 << 10
	// patience is how long one request may take.
	patience = 30 * time.Second
	// respite is how long a source is left alone that did not give a chunk, though it was asked again as often as a pull would: reads fail at once.
	respite = 5 * time.Second
	// parallel is how many requests a layer makes at a time.
	parallel = 4
)

// Image is a layer as a file: an EROFS file system, of whose files the chunks come when they are first read.
type Image struct {
	Name string // its digest, in messages
	// Distrust, where it is set, is told of bytes that were wrong, before they are asked for once more.
	Distrust func(error) bool

	src       Source
	zstd      bool
	file      *os.File
	size      int64
	room      func(n int64) error // reserves bytes of the disk
	failed    func(error)         // is told why a read fails
	slots     chan struct{}
	unpackers sync.Pool // of *zstd.Decoder: a new one costs more than most chunks

	mu     sync.Mutex
	chunks []chunk // by their place in the image
	order  []int   // those that are in the blob, by their place there
	rank   []int   // of a chunk, its place in order
	down   time.Time
	why    error
}

// NewImage lays a table out in a file, which it takes over.
func NewImage(name string, t *Table, src Source, file *os.File, room func(int64) error, failed func(error)) (*Image, error) {
	m := &Image{Name: name, src: src, zstd: t.zstd, file: file, room: room, failed: failed, slots: make(chan struct{}, parallel)}
	meta, total, err := erofs.Flat(file, t.root, [16]byte{})
	if err != nil {
		return nil, err
	}
	if err := room(meta * erofs.BlockSize); err != nil {
		return nil, err
	}
	m.size = total * erofs.BlockSize
	if err := file.Truncate(m.size); err != nil {
		return nil, err
	}
	seen := map[*erofs.Node]bool{}
	stack := []*erofs.Node{t.root}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, c := range n.Children {
			switch {
			case c.Dir():
				stack = append(stack, c)
			case c.Mode&0o170000 == erofs.ModeFile && c.Size > 0 && !seen[c]:
				seen[c] = true
				for _, part := range t.files[c.Offset] {
					part.at += c.Block() * erofs.BlockSize
					m.chunks = append(m.chunks, part)
				}
			}
		}
	}
	slices.SortFunc(m.chunks, func(a, b chunk) int { return cmp64(a.at, b.at) })
	m.rank = make([]int, len(m.chunks))
	for i := range m.chunks {
		if m.chunks[i].end > 0 {
			m.order = append(m.order, i)
		}
	}
	slices.SortFunc(m.order, func(a, b int) int { return cmp64(m.chunks[a].offset, m.chunks[b].offset) })
	for r, i := range m.order {
		m.rank[i] = r
	}
	return m, nil
}

func cmp64(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Ensure brings in what of the image's bytes from offset on is missing.
func (m *Image) Ensure(ctx context.Context, offset, length int64) error {
	m.mu.Lock()
	i, found := slices.BinarySearchFunc(m.chunks, offset, func(c chunk, at int64) int { return cmp64(c.at, at) })
	if !found && i > 0 {
		i--
	}
	m.mu.Unlock()
	for ; i < len(m.chunks) && m.chunks[i].at < offset+length; i++ {
		if m.chunks[i].at+m.chunks[i].size <= offset {
			continue
		}
		if err := m.chunk(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// chunk brings one in, or waits for who does.
func (m *Image) chunk(ctx context.Context, i int) error {
	for {
		m.mu.Lock()
		c := &m.chunks[i]
		switch {
		case c.state == kept:
			m.mu.Unlock()
			return nil
		case c.state == fetching:
			done := c.done
			m.mu.Unlock()
			select {
			case <-done:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		case time.Now().Before(m.down):
			err := m.why
			m.mu.Unlock()
			return err
		}
		batch := m.batch(i)
		m.mu.Unlock()
		err := m.fetch(ctx, batch)
		if errors.Is(err, api.Corrupt) {
			if m.Distrust != nil {
				m.Distrust(err)
			}
			err = m.fetch(ctx, batch)
		}
		m.mu.Lock()
		if c.state == kept {
			err = nil
		}
		for _, j := range batch {
			if m.chunks[j].state == fetching {
				m.chunks[j].state = missing
			}
			close(m.chunks[j].done)
		}
		if err != nil {
			m.down, m.why = time.Now().Add(respite), err
		}
		m.mu.Unlock()
		if err != nil {
			m.failed(err)
		}
		return err
	}
}

// batch takes on a chunk, and those behind it in the blob that one request gives as well. m.mu is held.
func (m *Image) batch(i int) []int {
	first := m.chunks[i].offset
	var batch []int
	for r := m.rank[i]; r < len(m.order); r++ {
		j := m.order[r]
		c := &m.chunks[j]
		if len(batch) > 0 && (c.state != missing || c.end-first > window || c.offset-m.chunks[batch[len(batch)-1]].end > maxGap) {
			break
		}
		c.state, c.done = fetching, make(chan struct{})
		batch = append(batch, j)
	}
	return batch
}

// fetch gets the chunks of a batch that are not kept yet.
func (m *Image) fetch(ctx context.Context, batch []int) error {
	m.slots <- struct{}{}
	defer func() { <-m.slots }()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	first, end := m.chunks[batch[0]].offset, int64(0)
	for _, j := range batch {
		end = max(end, m.chunks[j].end)
	}
	b, err := part(ctx, m.src, first, end-first)
	if err != nil {
		return err
	}
	for _, j := range batch {
		c := &m.chunks[j]
		if err := m.keep(c, b[c.offset-first:c.end-first]); err != nil {
			return err
		}
		m.mu.Lock()
		c.state = kept
		m.mu.Unlock()
	}
	return nil
}

// keep decompresses a chunk, verifies it and writes it to its place.
func (m *Image) keep(c *chunk, packed []byte) error {
	plain := make([]byte, c.size)
	if err := m.unpack(plain, packed); err != nil {
		return bad("layer %s: the chunk at %d: %w", m.Name, c.offset, err)
	}
	if c.digest.Algorithm().FromBytes(plain) != c.digest {
		return bad("layer %s: the chunk at %d has another digest than the table of contents says", m.Name, c.offset)
	}
	if err := m.room((c.size + erofs.BlockSize - 1) &^ (erofs.BlockSize - 1)); err != nil {
		return err
	}
	_, err := m.file.WriteAt(plain, c.at)
	return err
}

func (m *Image) unpack(plain, packed []byte) error {
	var r io.Reader
	if m.zstd {
		z, ok := m.unpackers.Get().(*zstd.Decoder)
		if !ok {
			var err error
			if z, err = newZstd(nil); err != nil {
				return err
			}
		}
		defer m.unpackers.Put(z) // one of concurrency 1 has no goroutine to be ended
		if err := z.Reset(bytes.NewReader(packed)); err != nil {
			return err
		}
		r = z
	} else {
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			return err
		}
		r = z
	}
	_, err := io.ReadFull(r, plain)
	return err
}
