package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
)

// maxReferrers is how many of what refers to an image are looked into: all that say that they are signatures, up to this.
const maxReferrers = 32

const (
	simpleSigning   = "application/vnd.dev.cosign.simplesigning.v1+json"
	cosignArtifact  = "application/vnd.dev.cosign.artifact.sig.v1+json"
	cosignSignature = "dev.cosignproject.cosign/signature"
)

// Fetch finds the signatures of an image's digests: in cosign's tag, and among what refers to them. That there are none is no error, and
// one that is broken or beyond a limit is passed over; a registry that cannot be asked is an error.
func Fetch(ctx context.Context, repo image.Referring, digests []digest.Digest) ([]Signature, error) {
	f := fetcher{ctx: ctx, repo: repo}
	for i, d := range digests {
		if slices.Contains(digests[:i], d) {
			continue
		}
		if err := f.tagged(d.Algorithm().String() + "-" + d.Encoded() + ".sig"); err != nil {
			return nil, err
		}
		if err := f.referrers(d); err != nil {
			return nil, err
		}
	}
	return f.found, nil
}

type fetcher struct {
	ctx   context.Context
	repo  image.Referring
	found []Signature
	asked int // for signatures, there or not
}

// absent reports whether there just is no such thing, or nothing that can be read: then there may be signatures elsewhere.
func absent(err error) bool {
	return errors.Is(err, api.NotFound) || errors.Is(err, api.Corrupt) || errors.Is(err, api.Unsupported) || errors.Is(err, api.Exhausted)
}

func (f *fetcher) tagged(tag string) error {
	d, err := f.repo.Tagged(f.ctx, tag)
	if err == nil {
		var doc image.Document
		if doc, err = image.ReadDocument(f.ctx, f.repo, d); err == nil {
			return f.manifest(doc.Bytes)
		}
	}
	return passed(err)
}

// passed keeps of an error that signatures could not be looked for; that there are none is no error.
func passed(err error) error {
	if err == nil || absent(err) {
		return nil
	}
	return fmt.Errorf("looking for signatures: %w", err)
}

// referrers asks what refers to an image: the registry or, of before OCI 1.1, its tag for that.
func (f *fetcher) referrers(d digest.Digest) error {
	entries, err := f.repo.Referrers(f.ctx, d)
	if err != nil {
		return passed(err)
	}
	looked := 0
	for _, e := range entries {
		if t := e.ArtifactType; !image.IsManifest(e.MediaType) || !strings.HasPrefix(t, bundlePrefix) && t != cosignArtifact && t != simpleSigning || looked == maxReferrers {
			continue
		}
		looked++
		doc, err := image.ReadDocument(f.ctx, f.repo, e)
		if err == nil {
			err = f.manifest(doc.Bytes)
		}
		if err := passed(err); err != nil {
			return err
		}
	}
	return nil
}

// manifest reads the signatures that are the layers of a manifest.
func (f *fetcher) manifest(b []byte) error {
	var m struct {
		Layers []imagespec.Descriptor `json:"layers"`
	}
	if json.Unmarshal(b, &m) != nil {
		return nil //nolint:nilerr // what is no manifest holds no signatures
	}
	for _, l := range m.Layers {
		if len(f.found) >= maxSignatures {
			return nil
		}
		limit := int64(maxPayload)
		isBundle := strings.HasPrefix(l.MediaType, bundlePrefix)
		switch {
		case isBundle:
			limit = maxBundle
		case l.MediaType != simpleSigning:
			continue
		}
		if l.Size > limit || image.IsManifest(l.MediaType) {
			continue
		}
		if f.asked++; f.asked > 2*maxSignatures {
			return nil
		}
		doc, err := image.ReadDocument(f.ctx, f.repo, l)
		if err != nil {
			if err := passed(err); err != nil {
				return err
			}
			continue
		}
		if isBundle {
			f.found = append(f.found, Signature{Bundle: doc.Bytes})
			continue
		}
		if sig, err := decodeSig(l.Annotations[cosignSignature]); err == nil && len(sig) > 0 {
			f.found = append(f.found, Signature{Payload: doc.Bytes, Sig: sig})
		}
	}
	return nil
}
