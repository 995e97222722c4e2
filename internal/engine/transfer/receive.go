package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/image"
	"brig/internal/image/ref"
	"brig/internal/image/trust"
	"brig/internal/store/content"
	"brig/internal/store/garbage"
)

const (
	// inMemory is the size in bytes up to which a piece is received into memory: the documents of all but the strangest images.
	inMemory = 1 << 20
	// keepParts is how long a piece that did not arrive whole is kept for another try.
	keepParts = 7 * 24 * time.Hour
)

// Receive takes in an image from the push of another machine, which speaks on standard input and output.
func (t *Transfer) Receive(ctx context.Context, r api.TransferRequest) (api.TransferReply, error) {
	c := newWire(t.Stdin, t.Stdout)
	reply, err := t.receive(ctx, c, r.Policy)
	var last error
	if err != nil {
		last = c.tell(frameResult, result{fault: tellable(err)})
	} else {
		last = c.tell(frameResult, result{Digest: reply.Images[0].Target.Digest, ID: reply.Images[0].ID})
	}
	if err == nil && last != nil {
		err = api.Errorf(api.Unavailable, "the image is here, but the sender went before it could be told: %w", last)
	}
	if err != nil {
		return api.TransferReply{}, err
	}
	return reply, nil
}

func (t *Transfer) receive(ctx context.Context, c *wire, policy string) (api.TransferReply, error) {
	none := api.TransferReply{}
	if _, err := io.WriteString(c.w, greeting); err != nil {
		return none, err
	}
	if err := c.w.Flush(); err != nil {
		return none, err
	}
	if err := t.stores.EnsureVersion(); err != nil {
		return none, err
	}
	judge, err := trust.Open(policy)
	if err != nil {
		return none, err
	}
	o, err := awaitOffer(ctx, c)
	if err != nil {
		return none, err
	}
	platform, err := o.check()
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.sweepParts(time.Now())
	in := newIncoming(t, c, cancel)
	go in.run()
	go in.breathe(ctx)
	defer in.close()
	show := newDisplay(io.Discard, true, true)
	for try := 1; ; try++ {
		var rec api.Image
		var v verdict
		img, err := image.Resolve(ctx, in, o.Target, platform)
		if err == nil { // it comes as one does that is loaded from standard input, whatever the sender calls it
			v, err = accept(ctx, judge, trust.Subject{Transport: trust.OCIArchive, Digests: []digest.Digest{img.Target.Digest, img.Manifest.Digest}}, nil)
		}
		if err == nil {
			rec, err = t.ingest(ctx, img, o.Name, show, garbage.Set{}, &v)
		}
		switch {
		case err == nil:
			in.drop()
			return api.TransferReply{Images: []api.Image{rec}, Fresh: true}, nil
		case ctx.Err() != nil:
			if err = context.Cause(ctx); errors.Is(err, api.Exhausted) {
				in.drop()
			}
			return none, err
		case errors.Is(err, api.Exhausted):
			in.drop() // room is what is lacking
			return none, err
		case errors.Is(err, api.Corrupt) && in.resumed() && try == 1:
			in.drop() // what an earlier try left may be the cause: once more, with nothing of it
		default:
			if errors.Is(err, api.Corrupt) {
				in.drop()
			}
			return none, err
		}
	}
}

// awaitOffer reads the first frame. Nobody who speaks the protocol is long about it.
func awaitOffer(ctx context.Context, c *wire) (offer, error) {
	type first struct {
		o   offer
		err error
	}
	done := make(chan first, 1)
	go func() {
		var f first
		kind, payload, err := c.receive(make([]byte, maxData))
		switch {
		case err != nil:
			f.err = gone(err)
		case kind != frameOffer:
			f.err = unexpected(kind)
		default:
			f.err = fill(payload, &f.o)
		}
		done <- f
	}()
	timer := time.NewTimer(wireSilence)
	defer timer.Stop()
	select {
	case f := <-done:
		return f.o, f.err
	case <-timer.C:
		return offer{}, silent()
	case <-ctx.Done():
		return offer{}, context.Cause(ctx)
	}
}

func silent() error {
	return api.Errorf(api.Unavailable, "nothing came from the other machine for %s", wireSilence)
}

// gone says why a stream ended.
func gone(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) {
		return api.Errorf(api.Unavailable, "the connection broke off: what has arrived is kept for another try")
	}
	return err
}

// check refuses an offer that could not be an image's.
func (o offer) check() (image.Platform, error) {
	if o.Name != "" {
		name, err := ref.Parse(o.Name)
		if err != nil {
			return image.Platform{}, err
		}
		if name.String() != o.Name || name.Digest != "" && name.Digest != o.Target.Digest.String() {
			return image.Platform{}, api.Errorf(api.InvalidArgument, "%q is not the full name of the image", clean(o.Name))
		}
	}
	if err := content.Check(o.Target.Digest); err != nil {
		return image.Platform{}, err
	}
	p, err := image.ParsePlatform(o.Platform)
	if err == nil && o.Platform == "" {
		err = api.Errorf(api.InvalidArgument, "the platform is missing")
	}
	return p, err
}

// incoming is the other machine as a source of images. What arrives is written to files as fast as it comes, whoever reads them and when,
// so a layer that takes long to unpack holds up no other. A file stays until its image is whole: the next try goes on with it.
type incoming struct {
	t      *Transfer
	c      *wire
	cancel context.CancelCauseFunc // ends the whole

	mu      sync.Mutex // also held while a want is sent: wants and waiting are in one order
	parts   map[digest.Digest]*part
	waiting []*part     // what was asked for and has not come, in order
	spoke   *time.Timer // runs while something is waited for
	broken  error
}

// part is one piece on its way.
type part struct {
	d    imagespec.Descriptor
	lock *lock.Lock // of the file; nil: in memory
	path string     // empty: a file without a name
	file *os.File
	buf  []byte

	moved *sync.Cond // on incoming.mu
	from  int64      // bytes that were there before
	have  int64
	err   error
}

func newIncoming(t *Transfer, c *wire, cancel context.CancelCauseFunc) *incoming {
	in := &incoming{t: t, c: c, cancel: cancel, parts: map[digest.Digest]*part{}}
	in.spoke = time.AfterFunc(wireSilence, func() { in.fail(silent()) })
	in.spoke.Stop()
	return in
}

var _ image.Source = (*incoming)(nil)

// Where implements image.Source.
func (in *incoming) Where() string { return "the other machine" }

// Open implements image.Source. What the store has is not asked for.
func (in *incoming) Open(ctx context.Context, d imagespec.Descriptor) (io.ReadCloser, error) {
	if err := content.Check(d.Digest); err != nil {
		return nil, err
	}
	if r, err := in.t.stores.Content.Reader(d.Digest); err == nil {
		return r, nil
	}
	p, err := in.ask(d)
	if err != nil {
		return nil, err
	}
	r := &partReader{in: in, p: p, ctx: ctx}
	r.stop = context.AfterFunc(ctx, func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		p.moved.Broadcast()
	})
	return r, nil
}

// ask makes the other machine send a piece, unless it is here or on its way.
func (in *incoming) ask(d imagespec.Descriptor) (*part, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.broken != nil {
		return nil, in.broken
	}
	if p := in.parts[d.Digest]; p != nil && p.err == nil && p.d.Size == d.Size {
		return p, nil
	}
	if len(in.waiting) == maxWaiting {
		return nil, api.Errorf(api.Exhausted, "more than %d pieces asked for at a time", maxWaiting)
	}
	p, err := in.begin(d)
	if err != nil {
		return nil, err
	}
	in.parts[d.Digest] = p
	if p.have == d.Size && p.from > 0 {
		return p, nil
	}
	in.waiting = append(in.waiting, p)
	in.spoke.Reset(wireSilence)
	return p, in.c.tell(frameWant, want{d.Digest, p.from})
}

// begin finds the place for a piece: memory, or a file that may hold the first part of it.
func (in *incoming) begin(d imagespec.Descriptor) (*part, error) {
	p := &part{d: d, moved: sync.NewCond(&in.mu)}
	if d.Size <= inMemory {
		p.buf = make([]byte, 0, d.Size)
		return p, nil
	}
	dir := in.t.partDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, d.Digest.Algorithm().String()+"-"+d.Digest.Encoded())
	l, err := lock.Try(path)
	if errors.Is(err, lock.ErrHeld) { // another machine sends the same
		f, err := os.CreateTemp(dir, ".part-")
		if err != nil {
			return nil, err
		}
		p.file = f
		return p, os.Remove(f.Name())
	}
	if err != nil {
		return nil, err
	}
	p.lock, p.path, p.file = l, path, l.File()
	info, err := p.file.Stat()
	if err == nil && info.Size() > d.Size {
		err = p.file.Truncate(0)
	} else if err == nil {
		p.from = info.Size()
	}
	p.have = p.from
	return p, err
}

// run reads what the other machine sends, until it goes.
func (in *incoming) run() {
	buf := make([]byte, maxData)
	for {
		kind, payload, err := in.c.receive(buf)
		if err == nil {
			err = in.frame(kind, payload)
		}
		if err == io.EOF && in.complete() {
			return
		}
		if err != nil {
			in.fail(gone(err))
			return
		}
	}
}

// complete reports whether nothing is missing when the sender goes. Nothing more can be asked for then.
func (in *incoming) complete() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.waiting) > 0 {
		return false
	}
	if in.broken == nil {
		in.broken = gone(io.EOF)
	}
	return true
}

// frame takes in one frame.
func (in *incoming) frame(kind byte, payload []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.waiting) == 0 {
		return unexpected(kind)
	}
	p := in.waiting[0]
	in.spoke.Reset(wireSilence)
	switch kind {
	case frameData:
		return in.data(p, payload)
	case frameEnd:
		if p.have != p.d.Size {
			return api.Errorf(api.Corrupt, "%s ended after %d of %d bytes", p.d.Digest, p.have, p.d.Size)
		}
	case frameRefuse:
		var f fault
		if err := fill(payload, &f); err != nil {
			return err
		}
		p.err = f.err("the other machine")
	default:
		return unexpected(kind)
	}
	if in.waiting = in.waiting[1:]; len(in.waiting) == 0 {
		in.spoke.Stop()
	}
	p.moved.Broadcast()
	return nil
}

func (in *incoming) data(p *part, b []byte) error {
	if p.have+int64(len(b)) > p.d.Size {
		return api.Errorf(api.Corrupt, "%s: more than its %d bytes came", p.d.Digest, p.d.Size)
	}
	if p.err != nil { // dropped
	} else if p.file == nil {
		p.buf = append(p.buf, b...)
	} else if _, err := p.file.WriteAt(b, p.have); err != nil {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = api.Errorf(api.Exhausted, "no space in %s for %s (%d bytes): %w", in.t.stores.Root, p.d.Digest, p.d.Size, err)
		}
		return err
	}
	p.have += int64(len(b))
	p.moved.Broadcast()
	return nil //nolint:nilerr // who reads the part is told p.err
}

// fail ends all reading.
func (in *incoming) fail(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.broken == nil {
		in.broken = err
		in.cancel(err)
	}
	for _, p := range in.parts {
		p.moved.Broadcast()
	}
}

// breathe tells the other machine that we are at work, which may take long after the last byte came.
func (in *incoming) breathe(ctx context.Context) {
	tick := time.NewTicker(wireAlive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if in.c.send(frameAlive, nil) != nil {
				return
			}
		}
	}
}

// resumed reports whether something of an earlier try is in use.
func (in *incoming) resumed() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, p := range in.parts {
		if p.from > 0 {
			return true
		}
	}
	return false
}

// drop forgets all that has arrived whole or never will.
func (in *incoming) drop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for d, p := range in.parts {
		if p.path != "" {
			_ = os.Remove(p.path)
		}
		p.release()
		p.buf, p.err = nil, api.Errorf(api.Conflict, "%s was dropped", d) // more of it may be on its way
		delete(in.parts, d)
	}
}

// close keeps the files for another try.
func (in *incoming) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.spoke.Stop()
	for _, p := range in.parts {
		if p.path != "" && p.have == 0 {
			_ = os.Remove(p.path)
		}
		p.release()
	}
}

func (p *part) release() {
	switch {
	case p.lock != nil:
		p.lock.Release()
	case p.file != nil:
		p.file.Close()
	}
	p.lock, p.file, p.path = nil, nil, ""
}

// partReader reads a piece while it arrives.
type partReader struct {
	in   *incoming
	p    *part
	ctx  context.Context
	stop func() bool
	at   int64
}

// Read implements io.Reader.
func (r *partReader) Read(b []byte) (int, error) {
	in, p := r.in, r.p
	in.mu.Lock()
	for p.have == r.at && p.have < p.d.Size && p.err == nil && in.broken == nil && r.ctx.Err() == nil {
		p.moved.Wait()
	}
	have, file, buf := p.have, p.file, p.buf
	var err error
	switch {
	case r.ctx.Err() != nil:
		err = context.Cause(r.ctx)
	case p.err != nil:
		err = p.err
	case r.at == p.d.Size:
		err = io.EOF
	case have > r.at:
	default:
		err = in.broken
	}
	in.mu.Unlock()
	if err != nil || len(b) == 0 {
		return 0, err
	}
	var src io.ReaderAt = bytes.NewReader(buf)
	if file != nil {
		src = file
	}
	n, err := src.ReadAt(b[:min(int64(len(b)), have-r.at)], r.at)
	r.at += int64(n)
	if err == io.EOF && n > 0 {
		err = nil
	}
	return n, err
}

// Close implements io.Closer.
func (r *partReader) Close() error {
	r.stop()
	return nil
}

// partDir is where pieces lie that have not arrived whole.
func (t *Transfer) partDir() string { return filepath.Join(t.stores.Root, "receive") }

// sweepParts removes what nobody came back for.
func (t *Transfer) sweepParts(now time.Time) {
	names, err := os.ReadDir(t.partDir())
	if err != nil {
		return
	}
	for _, e := range names {
		info, err := e.Info()
		if err != nil || now.Sub(info.ModTime()) < keepParts {
			continue
		}
		path := filepath.Join(t.partDir(), e.Name())
		if l, err := lock.Try(path); err == nil {
			_ = os.Remove(path)
			l.Release()
		}
	}
}
