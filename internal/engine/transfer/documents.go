package transfer

import (
	"bytes"
	"context"
	"io"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/internal/image"
	"brig/internal/store/garbage"
)

// documents is a source whose manifests and configs are taken from the store where it has them, and kept there: of many that want one at the same time
// one fetches it.
type documents struct {
	image.Source
	t     *Transfer
	added garbage.Set
}

// resolve is image.Resolve with that. The set is what was added to the store, for the caller to take back.
func (t *Transfer) resolve(ctx context.Context, src image.Source, target imagespec.Descriptor, p image.Platform) (*image.Image, garbage.Set, error) {
	d := &documents{Source: src, t: t}
	img, err := image.Resolve(ctx, d, target, p)
	if err != nil {
		t.takeBack(d.added)
		return nil, garbage.Set{}, err
	}
	img.Source = src
	return img, d.added, nil
}

// takeBack removes what was added, but for what another image came to need meanwhile. A failure leaves it to the next removal of an image.
func (t *Transfer) takeBack(added garbage.Set) {
	if len(added.Blobs)+len(added.Layers) == 0 {
		return
	}
	l, err := t.stores.Lock()
	if err != nil {
		return
	}
	defer l.Release()
	t.stores.Remove(added) //nolint:errcheck // as said
}

// Open implements image.Source, for documents: image.Resolve asks for no others.
func (d *documents) Open(ctx context.Context, desc imagespec.Descriptor) (io.ReadCloser, error) {
	store := d.t.stores.Content
	if r, err := store.Reader(desc.Digest); err == nil {
		return r, nil
	}
	claim, err := store.Claim(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	defer claim.Release()
	if r, err := store.Reader(desc.Digest); err == nil {
		return r, nil
	}
	src, err := d.Source.Open(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	b, err := io.ReadAll(io.LimitReader(src, image.MaxDocument+1))
	if err != nil {
		return nil, err
	}
	if image.Verify(d.Where(), desc, b) == nil { // who asked will say what is wrong with it
		if err := d.t.keep(ctx, desc, b); err != nil {
			return nil, err
		}
		d.added.Blobs = append(d.added.Blobs, desc.Digest)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// keep stores a document.
func (t *Transfer) keep(ctx context.Context, d imagespec.Descriptor, b []byte) error {
	w, err := t.stores.Content.Writer(ctx, d.Digest, d.Size)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(b); err != nil {
		return err
	}
	_, _, err = w.Commit()
	return err
}
