package transfer

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/ref"
	"brig/internal/store/content"
	"brig/internal/store/erofs"
	"brig/internal/store/garbage"
	"brig/internal/store/snapshot"
)

const (
	// parallel is how many layers arrive at a time: docker's number. On two cores four are no faster, one layer's stages fill both.
	parallel = 3
	// parallelZstd is how many of those may be of zstd, where they become images: each takes 8 MiB for what the stream refers to, and a processor.
	parallelZstd = 2
	// rounds is how often layers are fetched again that another process removed meanwhile.
	rounds = 3
)

// ingest is one image on its way into the store.
type ingest struct {
	t    *Transfer
	img  *image.Image
	show *display

	budget  *garbage.Budget
	verdict *verdict

	mu    sync.Mutex
	added garbage.Set // what was not there before
}

// needs lists all that the image consists of.
func (in *ingest) needs() (set garbage.Set) {
	for _, d := range in.img.Documents {
		set.Blobs = append(set.Blobs, d.Descriptor.Digest)
	}
	for _, l := range in.img.Layers {
		set.Blobs = append(set.Blobs, l.Blob.Digest)
		set.Layers = append(set.Layers, digest.Digest(l.DiffID))
	}
	return set
}

// ingest brings img in under name, which may be empty, and returns its record. added is what of it was stored before; v is what the signature policy
// said, nil where the name alone says where the image came from.
func (t *Transfer) ingest(ctx context.Context, img *image.Image, name string, show *display, added garbage.Set, v *verdict) (rec api.Image, err error) {
	if r, rerr := ref.Parse(name); rerr == nil && r.Digest != "" && r.Digest != img.Target.Digest.String() {
		t.takeBack(added)
		return rec, api.Errorf(api.InvalidArgument, "%s: image %s cannot be called %s: a digest is its own image's alone", img.Source.Where(), img.Target.Digest, r.Familiar())
	}
	in := &ingest{t: t, img: img, show: show, added: added, verdict: v}
	var lease *garbage.Lease
	if t.lease != nil {
		lease = t.stores.Join(ctx, t.lease)
	} else if lease, err = t.stores.Lease(ctx); err != nil {
		t.takeBack(in.added)
		return rec, err
	}
	defer func() {
		lease.Release() // it would protect from takeBack too
		if err != nil {
			t.takeBack(in.added)
		}
	}()
	if err := lease.Add(in.needs()); err != nil {
		return rec, err
	}
	if in.budget, err = t.stores.Budget(); err != nil {
		return rec, err
	}
	defer in.budget.Close()
	for range rounds {
		if err := in.fetch(ctx); err != nil {
			return api.Image{}, err
		}
		rec, ok, err := in.publish(ctx, name)
		if ok || err != nil {
			return rec, err
		}
	}
	return api.Image{}, api.Errorf(api.Conflict, "image %s: other processes keep removing its layers: try again", name)
}

// fetch brings in what is missing.
func (in *ingest) fetch(ctx context.Context) error {
	type job struct {
		layer api.Layer
		bar   *bar
	}
	var jobs []job
	seen := map[digest.Digest]bool{}
	for _, l := range in.img.Layers {
		if !seen[l.Blob.Digest] { // an empty layer often comes many times
			jobs = append(jobs, job{l, in.show.layer(l.Blob.Digest, l.Blob.Size)})
		}
		seen[l.Blob.Digest] = true
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, j := range jobs {
		g.Go(func() error {
			err := context.Cause(ctx)
			var existed bool
			if err == nil {
				existed, err = in.layer(ctx, j.layer, j.bar)
			}
			j.bar.end(existed, err)
			return err
		})
	}
	g.Go(func() error { return in.documents(ctx) })
	return g.Wait()
}

// documents stores index, manifest and config, which were verified when the image was resolved.
func (in *ingest) documents(ctx context.Context) error {
	for _, d := range in.img.Documents {
		if in.t.stores.Content.Has(d.Descriptor.Digest) {
			continue
		}
		in.note(d.Descriptor.Digest, "")
		if err := in.t.keep(ctx, d.Descriptor, d.Bytes); err != nil {
			return err
		}
	}
	return nil
}

// layer brings in one layer: its blob, its files, or both from one stream. Who has the layer's claim does it; others wait, and find it there.
func (in *ingest) layer(ctx context.Context, l api.Layer, bar *bar) (existed bool, err error) {
	stores, diffID := in.t.stores, digest.Digest(l.DiffID)
	if stores.Content.Has(l.Blob.Digest) && stores.Snapshot.Has(diffID) {
		return true, nil
	}
	claim, err := stores.Snapshot.Claim(ctx, diffID)
	if err != nil {
		return false, err
	}
	defer claim.Release()
	hasBlob, hasFiles := stores.Content.Has(l.Blob.Digest), stores.Snapshot.Has(diffID)
	if hasBlob && hasFiles {
		return true, nil
	}
	if !hasFiles && in.packable(l) {
		err := in.pack(ctx, claim, l, bar)
		if !errors.Is(err, snapshot.ErrUnfit) {
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			return false, in.name(l, err)
		}
		bar.again()
	}
	src := &source{n: bar.add}
	request, cancel := context.WithCancel(ctx) // ends a read that nobody waits for
	defer cancel()
	var r io.ReadCloser
	if hasBlob {
		r, err = stores.Content.Reader(l.Blob.Digest)
	} else {
		in.note(l.Blob.Digest, "")
		r, err = in.img.Open(request, l)
		if err == nil {
			src.w, err = stores.Content.Writer(ctx, l.Blob.Digest, l.Blob.Size)
		}
	}
	if r != nil {
		defer r.Close()
		src.r = r
	}
	if src.w != nil {
		defer src.w.Abort()
	}
	if err != nil {
		return false, in.name(l, err)
	}
	if !hasFiles {
		in.note("", diffID)
	}
	if !hasBlob {
		release, err := in.budget.Reserve(ctx, l.Blob.Size)
		if err != nil {
			return false, err
		}
		defer release()
	}
	err = in.stream(ctx, claim, src, !hasFiles, cancel)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	return false, in.name(l, err)
}

// minPacked is the length of a blob, in bytes, from which on its layer is kept as an image: a mount for each small layer would cost a container's start
// more than is saved.
const minPacked = 4 << 20

// packable reports whether a layer is one to be kept as an image, as far as its descriptor tells.
func (in *ingest) packable(l api.Layer) bool {
	if l.Blob.Digest.Algorithm() != digest.SHA256 {
		return false
	}
	switch in.t.layers {
	case layersAsFolders:
		return false
	case layersAsImages:
		return true
	}
	a := erofs.Deflate
	if isZstd(l) {
		a = erofs.LZ4
	}
	return l.Blob.Size >= minPacked && in.t.packs(a)
}

// isZstd is what a layer's media type says; in pack the blob has the last word.
func isZstd(l api.Layer) bool { return strings.HasSuffix(l.Blob.MediaType, "zstd") }

// pack brings a layer in as an image, which gives its blob as well.
func (in *ingest) pack(ctx context.Context, claim *snapshot.Claim, l api.Layer, bar *bar) error {
	store := in.t.stores.Content
	src := snapshot.Source{Blob: l.Blob.Digest, Size: l.Blob.Size, Known: bar.add}
	isFile := store.HasFile(l.Blob.Digest)
	src.Open = func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		var r io.ReadCloser
		var err error
		switch {
		case isFile:
			r, err = store.Reader(l.Blob.Digest)
		case offset > 0:
			r, err = in.img.OpenAt(ctx, l, offset)
		default:
			r, err = in.img.Open(ctx, l)
		}
		if err != nil {
			return nil, err
		}
		return counted{r, bar.add}, nil
	}
	src.Resumes = !isFile && in.img.Resumes()
	in.note(l.Blob.Digest, digest.Digest(l.DiffID))
	if isZstd(l) {
		select {
		case in.t.zstd <- struct{}{}:
			defer func() { <-in.t.zstd }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	src.Zstd = func() bool { return in.t.layers == layersAsImages || in.t.packs(erofs.LZ4) }
	var err error
	if src.Bound, err = image.Bound(); err != nil {
		return err
	}
	// What becomes of gzip is known; what zstd takes beyond that, as it grows.
	room := l.Blob.Size + l.Blob.Size/16 + 1<<20
	release, err := in.budget.Reserve(ctx, room)
	if err != nil {
		return err
	}
	defer release()
	grown := in.budget.Growth(ctx)
	defer grown.Release()
	src.Grow = func(n int64) error {
		room -= n
		return grown.Add(max(0, min(n, -room)))
	}
	_, err = claim.Pack(ctx, src, func(dir string) error { return store.Derive(l.Blob.Digest, dir) })
	if err == nil && isFile {
		err = store.RemoveFile(l.Blob.Digest)
	}
	return err
}

// counted tells how much was read.
type counted struct {
	io.ReadCloser
	n func(int)
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n(n)
	return n, err
}

// stream reads src to its end, stores it where src has a writer, and unpacks it on the way. What is wrong with the stream itself is told
// rather than what the decompressor or the unpacking make of it. giveUp ends a read of src that is under way.
func (in *ingest) stream(ctx context.Context, claim *snapshot.Claim, src *source, unpack bool, giveUp func()) error {
	compressed := readAhead(src)
	var err error
	if unpack {
		err = in.unpack(ctx, claim, compressed)
	}
	if err == nil || errors.Is(err, api.Corrupt) {
		_, _ = io.Copy(io.Discard, compressed) // the rest belongs to the digest too; an error is in src.err
	} else {
		giveUp()
	}
	compressed.Close()
	switch {
	case src.err != nil && (err == nil || errors.Is(err, api.Corrupt) || errors.Is(err, src.err)):
		return src.err
	case src.w != nil && (err == nil || errors.Is(err, api.Corrupt)):
		if _, _, werr := src.w.Commit(); werr != nil {
			return werr // other bytes than promised explain why they cannot be unpacked
		}
	}
	return err
}

// unpack decompresses in a stage of its own, where there is something to decompress.
func (in *ingest) unpack(ctx context.Context, claim *snapshot.Claim, compressed io.Reader) error {
	plain, kind, err := image.Decompress(compressed)
	if err != nil {
		return err
	}
	defer plain.Close()
	var r io.Reader = plain
	if kind != image.Uncompressed {
		stage := readAhead(plain)
		defer stage.Close()
		r = stage
	}
	grown := in.budget.Growth(ctx)
	defer grown.Release()
	_, err = claim.Unpack(ctx, growing{r, grown})
	return err
}

// growing reserves room for what an archive becomes when it is unpacked: a quarter more, for files end within blocks of the disk.
type growing struct {
	io.Reader
	g *garbage.Growth
}

func (r growing) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if gerr := r.g.Add(int64(n) + int64(n)/4); gerr != nil {
		return 0, gerr
	}
	return n, err
}

// name says which layer of which source an error is about. Errors of the machine (a full disk) and cancellation speak for themselves.
func (in *ingest) name(l api.Layer, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, api.Exhausted) || errors.Is(err, api.Unavailable) {
		return err
	}
	return api.Errorf(api.KindOf(err), "layer %s from %s: %w", l.Blob.Digest, in.img.Source.Where(), err)
}

// source is a layer's stream as it comes in: counted, and stored where there is a writer.
type source struct {
	r   io.Reader
	w   *content.Writer // nil: is stored already
	n   func(int)
	err error // of the reader or of the writer, kept apart from what later stages say
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n(n)
	if n > 0 && s.w != nil {
		if _, werr := s.w.Write(p[:n]); werr != nil {
			err = werr
		}
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// note remembers what this transfer adds, before it does.
func (in *ingest) note(blob, diffID digest.Digest) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if blob != "" {
		in.added.Blobs = append(in.added.Blobs, blob)
	}
	if diffID != "" {
		in.added.Layers = append(in.added.Layers, diffID)
	}
}

// publish gives the image its name. It is not ok when something that was there has been removed since.
func (in *ingest) publish(ctx context.Context, name string) (rec api.Image, ok bool, err error) {
	l, err := in.t.stores.Lock()
	if err != nil {
		return api.Image{}, false, err
	}
	defer l.Release()
	if ctx.Err() != nil {
		return api.Image{}, false, context.Cause(ctx)
	}
	rec, ok = in.record(name)
	if !ok {
		return rec, false, nil
	}
	if in.verdict != nil {
		if rec.Trust, err = in.t.keepSignatures(*in.verdict); err != nil {
			return rec, false, err
		}
	}
	return rec, true, in.t.put(rec)
}

// record makes the image's record; it is not ok when a piece is missing.
func (in *ingest) record(name string) (api.Image, bool) {
	img, stores := in.img, in.t.stores
	rec := in.describe(name)
	for _, d := range img.Documents {
		if !stores.Content.Has(d.Descriptor.Digest) {
			return rec, false
		}
	}
	for _, l := range img.Layers {
		size, err := stores.Snapshot.LayerSize(l.DiffID)
		if err != nil || !stores.Content.Has(l.Blob.Digest) {
			return rec, false
		}
		l.Blob, l.Size = bare(l.Blob), size
		rec.Layers = append(rec.Layers, l)
	}
	return rec, true
}

// describe makes the image's record as far as it says nothing of the layers.
func (in *ingest) describe(name string) api.Image {
	img := in.img
	return api.Image{Name: name, Target: bare(img.Target), Manifest: bare(img.Manifest), ID: img.ID.String(), Platform: img.Platform.String(),
		Config: img.Config, Health: img.Health, Created: img.Created, Pulled: time.Now().UTC().Truncate(time.Second)}
}

// bare keeps of a descriptor what identifies the piece; annotations of the place where it was found are not the store's.
func bare(d imagespec.Descriptor) imagespec.Descriptor {
	return imagespec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// put writes a record, durably, under the lock. An image that loses its name to it stays, untagged, as with docker: containers may be made of it.
func (t *Transfer) put(rec api.Image) error {
	old, err := t.stores.Meta.Image(rec.Name)
	known := rec.Name != "" && err == nil
	if err := t.stores.Publish(rec); err != nil {
		return err
	}
	if known && old.ID == rec.ID && old.Manifest.Digest != rec.Manifest.Digest {
		t.stores.Remove(t.stores.Of(old)) //nolint:errcheck // the same image, packed otherwise; a failure leaves it to the next removal
	}
	return nil
}
