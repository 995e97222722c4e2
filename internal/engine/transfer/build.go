package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/archive"
	"brig/internal/image/change"
	"brig/internal/image/ref"
	"brig/internal/store/content"
	"brig/internal/store/garbage"
)

// gzipLevel packs at some four times the speed of level 6, for a layer some tenth longer.
const gzipLevel = gzip.BestSpeed

// document is an image's config as Brig writes it: OCI's, with docker's additions.
type document struct {
	Created *time.Time `json:"created,omitempty"`
	Author  string     `json:"author,omitempty"`
	imagespec.Platform
	Config  change.Config       `json:"config,omitzero"`
	RootFS  imagespec.RootFS    `json:"rootfs"`
	History []imagespec.History `json:"history,omitempty"`
}

// packed is a new layer in an unnamed file: nobody sees it, and it goes when it is closed, also when we die.
type packed struct {
	f      *os.File
	diffID digest.Digest
	blob   imagespec.Descriptor
}

// pack has fill write a layer's archive, and keeps it compressed. More than limit bytes, of the archive, are api.Exhausted.
func (t *Transfer) pack(limit int64, fill func(w io.Writer) error) (*packed, error) {
	f, err := archive.Unnamed(t.stores.Root)
	if err != nil {
		return nil, err
	}
	blob := &counter{w: f, hash: digest.Canonical.Digester()}
	z, err := gzip.NewWriterLevel(blob, gzipLevel)
	if err != nil {
		f.Close()
		return nil, err
	}
	// Reading and hashing the archive is one stage, compressing it another: a processor each.
	pr, pw := io.Pipe()
	plain := &counter{w: pw, hash: digest.Canonical.Digester(), limit: limit}
	filled := make(chan error, 1)
	go func() {
		err := fill(plain)
		pw.CloseWithError(err)
		filled <- err
	}()
	_, err = io.CopyBuffer(struct{ io.Writer }{z}, pr, make([]byte, 256<<10))
	pr.CloseWithError(err)
	if ferr := <-filled; ferr != nil && (err == nil || errors.Is(ferr, err)) {
		err = ferr
	}
	if err == nil {
		err = z.Close()
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = api.Errorf(api.Exhausted, "no space in %s for the new layer: %w", t.stores.Root, err)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	d := imagespec.Descriptor{MediaType: imagespec.MediaTypeImageLayerGzip, Digest: blob.hash.Digest(), Size: blob.n}
	return &packed{f, plain.hash.Digest(), d}, nil
}

// space is how many bytes are free where the store is.
func (t *Transfer) space() (int64, error) {
	if err := os.MkdirAll(t.stores.Root, 0o700); err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(t.stores.Root, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: t.stores.Root, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil //nolint:unconvert // of other types on other architectures
}

// counter hashes and counts what is written through it.
type counter struct {
	w     io.Writer
	hash  digest.Digester
	n     int64
	limit int64 // 0: none
}

func (c *counter) Write(p []byte) (int, error) {
	if c.limit > 0 && int64(len(p)) > c.limit-c.n {
		return 0, api.Errorf(api.Exhausted, "the layer is longer than the %d bytes that are free for it", c.limit)
	}
	n, err := c.w.Write(p)
	c.hash.Hash().Write(p[:n])
	c.n += int64(n)
	return n, err
}

// built is an image that was put together here, as a source: what is new in memory and in an unnamed file, the rest in the store.
type built struct {
	where string
	docs  map[digest.Digest][]byte
	layer *packed // nil: there is no new one
	store *content.Store
}

var _ image.Source = (*built)(nil)

func (b *built) Where() string { return b.where }

func (b *built) Open(_ context.Context, d imagespec.Descriptor) (io.ReadCloser, error) {
	if doc, ok := b.docs[d.Digest]; ok {
		return io.NopCloser(bytes.NewReader(doc)), nil
	}
	if b.layer != nil && d.Digest == b.layer.blob.Digest {
		return io.NopCloser(io.NewSectionReader(b.layer.f, 0, d.Size)), nil
	}
	return b.store.Reader(d.Digest)
}

// add keeps a document as JSON.
func (b *built) add(mediaType string, v any) (imagespec.Descriptor, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // <missing> and && stay legible in what others print raw
	if err := enc.Encode(v); err != nil {
		return imagespec.Descriptor{}, err
	}
	doc := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(doc) > image.MaxDocument {
		return imagespec.Descriptor{}, api.Errorf(api.Exhausted, "the image's %s would be %d bytes long, more than the %d that it may have", mediaType, len(doc), image.MaxDocument)
	}
	d := imagespec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(doc), Size: int64(len(doc))}
	b.docs[d.Digest] = doc
	return d, nil
}

// publish makes config and manifest, and brings the image in as if it came from elsewhere: verified, durable, and not to be seen before it is whole. v is
// what the signature policy said.
func (b *built) publish(ctx context.Context, t *Transfer, doc document, layers []imagespec.Descriptor, name string, v verdict) (api.Image, error) {
	config, err := b.add(imagespec.MediaTypeImageConfig, doc)
	if err != nil {
		return api.Image{}, err
	}
	target, err := b.add(imagespec.MediaTypeImageManifest, imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageManifest, Config: config, Layers: layers,
	})
	if err != nil {
		return api.Image{}, err
	}
	platform := image.Platform{OS: doc.OS, Arch: doc.Architecture, Variant: doc.Variant}
	img, err := image.Resolve(ctx, b, target, platform)
	if err != nil {
		return api.Image{}, err
	}
	show := newDisplay(t.Stderr, true, false)
	defer show.finish()
	return t.ingest(ctx, img, name, show, garbage.Set{}, &v)
}

// newName reads the name that a new image shall get; empty is none.
func newName(refs []string) (string, error) {
	if len(refs) == 0 || refs[0] == "" {
		return "", nil
	}
	name, err := ref.Parse(refs[0])
	if err != nil {
		return "", err
	}
	if name.Digest != "" {
		return "", api.Errorf(api.InvalidArgument, "%s: a new image cannot be named by a digest: use NAME[:TAG]", refs[0])
	}
	return name.String(), nil
}
