package transfer

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/remote"
)

const (
	// maxNodes is how many manifests one copy moves, those that refer to others included.
	maxNodes = 4000
	// maxNesting is how deep indexes may lie in one another, and how long a chain of referrers (a signature of an SBOM) may be.
	maxNesting = 4
)

// sink takes in the pieces of images as they are. Blobs come before the manifests that need them, manifests before their indexes.
type sink interface {
	// Where names the sink in messages.
	Where() string
	// has reports whether a manifest is there with all that it needs.
	has(ctx context.Context, d imagespec.Descriptor) (bool, error)
	// blob takes in a blob, unless it is there. count is told of the bytes that arrive.
	blob(ctx context.Context, d imagespec.Descriptor, open remote.Opener, count func(int)) (remote.Outcome, error)
	// manifest takes in a manifest or an index; a tag names it.
	manifest(ctx context.Context, n *image.Node, tag string) error
	// foreign reports whether layers that are to be fetched from elsewhere may stay there.
	foreign() bool
	// lanes is how many blobs it takes at a time.
	lanes() int
}

// copier moves graphs of manifests from a source to a sink, byte by byte: all digests stay.
type copier struct {
	src       image.Source
	dst       sink
	show      *display
	referrers bool // what says something about a manifest comes along

	nodes int
	seen  map[digest.Digest]bool // manifests that are there now, with what refers to them
	mu    sync.Mutex
	done  map[digest.Digest]bool // blobs that are there now
}

func newCopier(src image.Source, dst sink, show *display) *copier {
	return &copier{src: src, dst: dst, show: show, seen: map[digest.Digest]bool{}, done: map[digest.Digest]bool{}}
}

// copy moves d with all beneath it, and names it tag where that is not empty.
func (c *copier) copy(ctx context.Context, d imagespec.Descriptor, tag string) error {
	return c.node(ctx, d, tag, 0)
}

func (c *copier) node(ctx context.Context, d imagespec.Descriptor, tag string, depth int) error {
	if c.seen[d.Digest] && tag == "" {
		return nil
	}
	if c.nodes++; c.nodes > maxNodes {
		return api.Errorf(api.Exhausted, "%s: more than the %d manifests that one copy moves", c.src.Where(), maxNodes)
	}
	if depth > maxNesting {
		return api.Errorf(api.Exhausted, "%s: manifest %s: more than %d levels of indexes and of what refers to one another", c.src.Where(), d.Digest, maxNesting)
	}
	n, err := image.ReadNode(ctx, c.src, d)
	if err != nil {
		return err
	}
	there, err := c.dst.has(ctx, d)
	if err != nil {
		return err
	}
	for _, m := range n.Manifests {
		if there && !c.referrers {
			break
		}
		if !image.IsManifest(m.MediaType) && !image.IsIndex(m.MediaType) {
			return api.Errorf(api.Unsupported, "%s: index %s: an entry of type %q cannot be copied", c.src.Where(), d.Digest, m.MediaType)
		}
		if err := c.node(ctx, m, "", depth+1); err != nil {
			return err
		}
	}
	if err := c.blobs(ctx, n, there); err != nil {
		return err
	}
	if !there || tag != "" || n.Subject != nil { // a referrer may be there without being listed
		if err := c.dst.manifest(ctx, n, tag); err != nil {
			return err
		}
	}
	c.seen[d.Digest] = true
	if c.referrers {
		return c.about(ctx, d.Digest, depth)
	}
	return nil
}

// about copies what refers to a manifest, in all three ways that this is told.
func (c *copier) about(ctx context.Context, d digest.Digest, depth int) error {
	src, ok := c.src.(image.Referring)
	if !ok {
		return api.Errorf(api.Unsupported, "%s: it cannot be asked for referrers", c.src.Where())
	}
	found, err := src.Referrers(ctx, d)
	if err != nil {
		return err
	}
	for _, r := range found {
		if err := c.node(ctx, r, "", depth+1); err != nil {
			return err
		}
	}
	for _, tag := range image.SignatureTags(d) {
		t, err := src.Tagged(ctx, tag)
		if errors.Is(err, api.NotFound) {
			continue
		}
		if err == nil {
			err = c.node(ctx, t, tag, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// blobs moves what a manifest consists of, several at a time.
func (c *copier) blobs(ctx context.Context, n *image.Node, there bool) error {
	type job struct {
		d   imagespec.Descriptor
		bar *bar // nil: the config, whose progress nobody wants to see
	}
	var jobs []job
	for _, d := range n.Blobs {
		if image.Foreign(d) {
			if !c.dst.foreign() {
				return api.Errorf(api.Unsupported, "%s: a foreign layer (%s), which is to be fetched from elsewhere, cannot be put into %s", d.Digest, d.MediaType, c.dst.Where())
			}
			continue
		}
		j := job{d: d}
		if d.Digest != n.Config.Digest || len(n.Blobs) == 1 && !n.Image() {
			j.bar = c.show.layer(d.Digest, d.Size)
		}
		jobs = append(jobs, j)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.dst.lanes())
	for _, j := range jobs {
		g.Go(func() error {
			out, err := c.one(ctx, j.d, j.bar, there)
			if j.bar != nil {
				switch {
				case out.Existed:
					j.bar.end(true, err)
				case out.Mounted != "":
					j.bar.finish("Mounted from "+out.Mounted, err)
				default:
					j.bar.end(false, err)
				}
			}
			return err
		})
	}
	return g.Wait()
}

func (c *copier) one(ctx context.Context, d imagespec.Descriptor, b *bar, there bool) (remote.Outcome, error) {
	if ctx.Err() != nil {
		return remote.Outcome{}, context.Cause(ctx)
	}
	c.mu.Lock()
	done := c.done[d.Digest]
	c.mu.Unlock()
	if done || there {
		return remote.Outcome{Existed: true}, nil
	}
	count := func(int) {}
	if b != nil {
		count = b.add
	}
	out, err := c.dst.blob(ctx, d, func(ctx context.Context, offset int64) (io.ReadCloser, error) { return openAt(ctx, c.src, d, offset) }, count)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return out, err
		}
		return out, api.Errorf(api.KindOf(err), "blob %s: %w", d.Digest, err)
	}
	c.mu.Lock()
	c.done[d.Digest] = true
	c.mu.Unlock()
	return out, nil
}

// openAt reads a blob from a byte on. What is read from the beginning is held against the digest at its end.
func openAt(ctx context.Context, src image.Source, d imagespec.Descriptor, offset int64) (io.ReadCloser, error) {
	if offset == 0 {
		r, err := src.Open(ctx, d)
		if err != nil {
			return nil, err
		}
		if _, own := src.(*shelf); own { // the store verifies itself
			return r, nil
		}
		return &verified{ReadCloser: r, where: src.Where(), d: d, v: d.Digest.Verifier()}, nil
	}
	if far, ok := src.(image.Resumer); ok {
		return far.OpenAt(ctx, d, offset)
	}
	r, err := src.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, reading{ctx, r}, offset); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// verified gives api.Corrupt instead of io.EOF where the bytes were not those of the digest.
type verified struct {
	io.ReadCloser
	where string
	d     imagespec.Descriptor
	v     digest.Verifier
	n     int64
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.n += int64(n)
	_, _ = v.v.Write(p[:n])
	switch {
	case v.n > v.d.Size:
		return 0, api.Errorf(api.Corrupt, "%s: %s is longer than the %d bytes that were announced", v.where, v.d.Digest, v.d.Size)
	case err == io.EOF && v.n < v.d.Size:
		return n, api.Errorf(api.Corrupt, "%s: %s has %d bytes, %d were announced", v.where, v.d.Digest, v.n, v.d.Size)
	case err == io.EOF && !v.v.Verified():
		return n, api.Errorf(api.Corrupt, "%s: what it gave for %s has another digest", v.where, v.d.Digest)
	}
	return n, err
}

// shelf is the store as a source.
type shelf struct{ t *Transfer }

// Where implements image.Source.
func (s *shelf) Where() string { return "the store in " + s.t.stores.Root }

// Open implements image.Source.
func (s *shelf) Open(_ context.Context, d imagespec.Descriptor) (io.ReadCloser, error) {
	return s.t.stores.Content.Reader(d.Digest)
}

// whole reports whether the store has all of a graph: every manifest, and every blob of each.
func (s *shelf) whole(ctx context.Context, d imagespec.Descriptor) bool {
	return s.wholeBelow(ctx, d, 0, map[digest.Digest]bool{})
}

// wholeBelow looks at each manifest once, however often it is named. seen are those that were looked at.
func (s *shelf) wholeBelow(ctx context.Context, d imagespec.Descriptor, depth int, seen map[digest.Digest]bool) bool {
	if seen[d.Digest] {
		return true // or the answer is no already
	}
	if seen[d.Digest] = true; depth > maxNesting || ctx.Err() != nil || !s.t.stores.Content.Has(d.Digest) {
		return false
	}
	n, err := image.ReadNode(ctx, s, d)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(n.Blobs, func(b imagespec.Descriptor) bool { return !image.Foreign(b) && !s.t.stores.Content.Has(b.Digest) }) &&
		!slices.ContainsFunc(n.Manifests, func(m imagespec.Descriptor) bool { return !s.wholeBelow(ctx, m, depth+1, seen) })
}

// registrySink is a repository of a registry.
type registrySink struct {
	repo *remote.Repository
	from func(d digest.Digest) []string // repositories of the same registry that may have a blob
}

func (s *registrySink) Where() string { return s.repo.Where() }
func (s *registrySink) foreign() bool { return true }
func (s *registrySink) lanes() int    { return parallel }

func (s *registrySink) has(ctx context.Context, d imagespec.Descriptor) (bool, error) {
	return s.repo.HasManifest(ctx, d.Digest)
}

func (s *registrySink) blob(ctx context.Context, d imagespec.Descriptor, open remote.Opener, count func(int)) (remote.Outcome, error) {
	return s.repo.PutBlob(ctx, d, s.from(d.Digest), open, count)
}

func (s *registrySink) manifest(ctx context.Context, n *image.Node, tag string) error {
	known, err := s.repo.PutManifest(ctx, n.Document, tag)
	if err != nil || n.Subject == nil || known {
		return err
	}
	return s.repo.AddReferrer(ctx, n)
}

// sent is a line about what was made.
func sent(name string, d imagespec.Descriptor) api.Sent {
	return api.Sent{Name: name, Digest: d.Digest.String(), Size: d.Size}
}
