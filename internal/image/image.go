// Package image finds an image of one platform in a source and checks what the source says about it.
//
// A [Source] is a place where the pieces of images lie under their digests: a repository of a registry (package remote), an archive of
// docker save or an OCI archive (package archive), an OCI layout folder (package layout). [Resolve] starts at a target descriptor and
// walks index -> manifest -> config, all of them small documents under hard limits; layers stay where they are until Image.Open.
// Everything read here is an attacker's input: each document is verified against its digest before it is read, a document that two
// readers could take for two things is refused (CVE-2021-41190), and no digest is used before its syntax is checked (CVE-2024-3727).
package image

import (
	"bytes"
	"context"
	_ "crypto/sha256" // for package digest, which knows only what is linked
	_ "crypto/sha512"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

// Limits on what is read before any of it is trusted.
const (
	// MaxDocument is the size in bytes of a manifest, index or config that is accepted: what the distribution specification asks
	// registries to accept.
	MaxDocument = 4 << 20
	// MaxLayers is the number of layers of an image. The kernel's overlay takes 500 lower folders.
	MaxLayers = 500
	// MaxIndexEntries is the number of manifests in one index.
	MaxIndexEntries = 1000

	maxIndexDepth = 2 // an index in an index is the most that is followed
	maxProbes     = 8 // manifests without a platform in an index, whose configs are read
)

// Source is a place where pieces of images lie.
type Source interface {
	// Where names the source in messages: registry docker.io.
	Where() string
	// Open reads the piece that d describes, from its beginning. The caller verifies the bytes against d.
	// A missing piece is of kind api.NotFound, one that is cut short api.Corrupt.
	Open(ctx context.Context, d imagespec.Descriptor) (io.ReadCloser, error)
}

// Entry is an image that an archive or a layout lists.
type Entry struct {
	Name   string // full reference, or empty
	Tag    string // what the layout itself calls it, org.opencontainers.image.ref.name: a tag, a reference, or empty
	Target imagespec.Descriptor
}

// Lister is a source that knows which images it holds.
type Lister interface {
	Source
	Entries() []Entry
	Close() error
}

// Document is a small piece, verified: an index, a manifest or a config.
type Document struct {
	Descriptor imagespec.Descriptor
	Bytes      []byte
}

// Image is one image of one platform. Its documents are in memory and checked; its layers are read by Open.
type Image struct {
	Source   Source
	Target   imagespec.Descriptor // where Resolve started: an index or a manifest
	Manifest imagespec.Descriptor
	// Documents are target, indexes on the way, manifest and config, in this order: what a store keeps beside the layers.
	Documents []Document
	ID        digest.Digest // of the config
	Platform  Platform
	Layers    []api.Layer // bottom first; sizes unpacked are not known
	Config    imagespec.ImageConfig
	Health    *api.Healthcheck // nil: the image has none
	Created   time.Time
	// Warning is set when the image is of another platform than this machine's and none was asked for.
	Warning string
}

// Open reads a layer as the source holds it, compressed or not.
func (i *Image) Open(ctx context.Context, l api.Layer) (io.ReadCloser, error) {
	return i.Source.Open(ctx, l.Blob)
}

// Resumer is a source that can give the rest of a piece.
type Resumer interface {
	// OpenAt is Open from byte offset on.
	OpenAt(ctx context.Context, d imagespec.Descriptor, offset int64) (io.ReadCloser, error)
}

// Resumes reports whether OpenAt can be used.
func (i *Image) Resumes() bool {
	_, ok := i.Source.(Resumer)
	return ok
}

// OpenAt reads a layer from byte offset on.
func (i *Image) OpenAt(ctx context.Context, l api.Layer, offset int64) (io.ReadCloser, error) {
	r, ok := i.Source.(Resumer)
	if !ok {
		return nil, api.Errorf(api.Unsupported, "%s: a layer cannot be read from its middle", i.Source.Where())
	}
	return r.OpenAt(ctx, l.Blob, offset)
}

// Resolve finds the image of platform p below target. A zero p means this machine's platform; then an image that exists for another
// platform only, without an index, is taken with a Warning, as by docker.
func Resolve(ctx context.Context, src Source, target imagespec.Descriptor, p Platform) (*Image, error) {
	r := resolver{src: src, asked: p != Platform{}, want: p.orHost()}
	img, err := r.resolve(ctx, target, 0)
	if err != nil {
		return nil, err
	}
	img.Target = target
	return img, nil
}

// ReadDocument reads and verifies a small piece.
func ReadDocument(ctx context.Context, src Source, d imagespec.Descriptor) (Document, error) {
	if err := checkDescriptor(d); err != nil {
		return Document{}, err
	}
	if d.Size > MaxDocument {
		return Document{}, api.Errorf(api.Exhausted, "%s: %s is %d bytes long, more than the %d that a manifest or config may have", src.Where(), d.Digest, d.Size, MaxDocument)
	}
	rc, err := src.Open(ctx, d)
	if err != nil {
		return Document{}, err
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, MaxDocument+1))
	if err != nil {
		return Document{}, err
	}
	if err := Verify(src.Where(), d, b); err != nil {
		return Document{}, err
	}
	return Document{d, b}, nil
}

// Verify holds the bytes of a small piece against its descriptor; where says in messages whose bytes they are.
func Verify(where string, d imagespec.Descriptor, b []byte) error {
	if len(b) > MaxDocument {
		return api.Errorf(api.Exhausted, "%s: %s is longer than the %d bytes that a manifest or config may have", where, d.Digest, MaxDocument)
	}
	if int64(len(b)) != d.Size {
		return api.Errorf(api.Corrupt, "%s: %s has %d bytes, %d were announced", where, d.Digest, len(b), d.Size)
	}
	if got := d.Digest.Algorithm().FromBytes(b); got != d.Digest {
		return api.Errorf(api.Corrupt, "%s: what it gave for %s has the digest %s", where, d.Digest, got)
	}
	return nil
}

type resolver struct {
	src    Source
	want   Platform
	asked  bool
	probes int
}

// errPlatform says that a manifest is sound, but of another platform.
var errPlatform = errors.New("another platform")

func (r *resolver) resolve(ctx context.Context, d imagespec.Descriptor, depth int) (*Image, error) {
	doc, err := ReadDocument(ctx, r.src, d)
	if err != nil {
		return nil, err
	}
	m, err := parse(d.MediaType, doc.Bytes)
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "%s: manifest %s: %w", r.src.Where(), d.Digest, err)
	}
	if m.index {
		if depth == maxIndexDepth {
			return nil, api.Errorf(api.Unsupported, "%s: index %s: more than %d indexes in one another", r.src.Where(), d.Digest, maxIndexDepth)
		}
		img, err := r.index(ctx, doc, m, depth)
		if err != nil {
			return nil, err
		}
		img.Documents = append([]Document{doc}, img.Documents...)
		return img, nil
	}
	img, err := r.manifest(ctx, doc, m)
	if err != nil {
		return nil, err
	}
	if !img.Platform.Matches(r.want) {
		switch {
		case depth > 0 && d.Platform == nil:
			return nil, errPlatform
		case r.asked:
			return nil, api.Errorf(api.NotFound, "%s: the image is for %s, not for %s as asked", r.src.Where(), img.Platform, r.want)
		default:
			img.Warning = "the image's platform (" + img.Platform.String() + ") is not this machine's (" + r.want.String() + ") and no --platform was given"
		}
	}
	return img, nil
}

// index picks the manifest of the best platform; entries without a platform are tried in their order.
func (r *resolver) index(ctx context.Context, doc Document, m *manifest, depth int) (*Image, error) {
	var best *imagespec.Descriptor
	rank := 0
	have := map[string]bool{}
	for i, e := range m.Manifests {
		if err := checkDescriptor(e); err != nil {
			return nil, api.Errorf(api.Corrupt, "%s: index %s: %w", r.src.Where(), doc.Descriptor.Digest, err)
		}
		if e.Platform == nil || e.Platform.OS == "unknown" { // unknown: attestations
			continue
		}
		p := fromSpec(*e.Platform)
		have[p.String()] = true
		if n := p.rank(r.want); n > rank {
			best, rank = &m.Manifests[i], n
		}
	}
	if best != nil {
		return r.resolve(ctx, *best, depth+1)
	}
	for _, e := range m.Manifests {
		if e.Platform != nil || r.probes == maxProbes || !IsManifest(e.MediaType) && !IsIndex(e.MediaType) {
			continue
		}
		r.probes++
		img, err := r.resolve(ctx, e, depth+1)
		if err == nil || !errors.Is(err, errPlatform) && !errors.Is(err, api.NotFound) {
			return img, err
		}
	}
	return nil, api.Errorf(api.NotFound, "%s: no image for platform %s in the index %s; it has: %s", r.src.Where(), r.want, doc.Descriptor.Digest, list(have))
}

func (r *resolver) manifest(ctx context.Context, doc Document, m *manifest) (*Image, error) {
	fail := func(k api.Kind, format string, args ...any) (*Image, error) {
		return nil, api.Errorf(k, "%s: manifest %s: %w", r.src.Where(), doc.Descriptor.Digest, api.Errorf(k, format, args...))
	}
	if err := checkDescriptor(*m.Config); err != nil {
		return fail(api.Corrupt, "config: %w", err)
	}
	if t := m.Config.MediaType; t != imagespec.MediaTypeImageConfig && t != dockerConfig {
		return fail(api.Unsupported, "not a container image: its config is of type %q", t)
	}
	if len(m.Layers) > MaxLayers {
		return fail(api.Exhausted, "%d layers, more than the %d that an image may have", len(m.Layers), MaxLayers)
	}
	for i, l := range m.Layers {
		if err := checkLayer(l); err != nil {
			return fail(api.KindOf(err), "layer %d: %w", i+1, err)
		}
	}
	conf, err := ReadDocument(ctx, r.src, *m.Config)
	if err != nil {
		return nil, err
	}
	if _, err := topKeys(conf.Bytes, "architecture", "os", "variant", "config", "rootfs", "history"); err != nil {
		return fail(api.Corrupt, "config %s: %w", m.Config.Digest, err)
	}
	if err := unambiguous(conf.Bytes); err != nil {
		return fail(api.KindOf(corrupt(err)), "config %s: %w", m.Config.Digest, err)
	}
	var c imagespec.Image
	var more struct{ Config api.ImageExtra }
	for _, v := range []any{&c, &more} {
		if err := json.NewDecoder(bytes.NewReader(conf.Bytes)).Decode(v); err != nil {
			return fail(api.Corrupt, "config %s: %w", m.Config.Digest, err)
		}
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return fail(api.Corrupt, "%d layers, but %d diff IDs in the config", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	img := &Image{Source: r.src, Manifest: doc.Descriptor, Documents: []Document{doc, conf}, ID: m.Config.Digest, Platform: fromSpec(c.Platform), Config: c.Config, Health: more.Config.Healthcheck}
	if c.Created != nil {
		img.Created = *c.Created
	}
	for i, l := range m.Layers {
		if d := c.RootFS.DiffIDs[i]; d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return fail(api.Corrupt, "config %s: diff ID %q: not sha256: and 64 hexadecimal digits", m.Config.Digest, d)
		}
		img.Layers = append(img.Layers, api.Layer{Blob: l, DiffID: c.RootFS.DiffIDs[i].String()})
	}
	return img, nil
}
