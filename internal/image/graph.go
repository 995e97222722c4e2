package image

import (
	"context"
	"strings"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

// Node is an index or a manifest of any kind, an image's or another artifact's: verified, read, and what it refers to checked.
type Node struct {
	Document
	Index        bool
	Manifests    []imagespec.Descriptor // of an index
	Layers       []imagespec.Descriptor // of a manifest
	Blobs        []imagespec.Descriptor // of a manifest: config and layers, each digest once
	Config       imagespec.Descriptor   // of a manifest
	ArtifactType string                 // what a manifest is, where it is not an image: the config's media type says it for older ones
	Subject      *imagespec.Descriptor  // what it says something about: a referrer's (image specification 1.1)
	Annotations  map[string]string
}

// ReadNode reads an index or a manifest as it is, for who copies it. Unlike [Resolve] it asks neither for a platform nor for an image.
func ReadNode(ctx context.Context, src Source, d imagespec.Descriptor) (*Node, error) {
	doc, err := ReadDocument(ctx, src, d)
	if err != nil {
		return nil, err
	}
	n, err := ParseNode(doc)
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "%s: manifest %s: %w", src.Where(), d.Digest, err)
	}
	return n, nil
}

// ParseNode reads a verified document.
func ParseNode(doc Document) (*Node, error) {
	m, err := parse(doc.Descriptor.MediaType, doc.Bytes)
	if err != nil {
		return nil, err
	}
	n := &Node{Document: doc, Index: m.index, Manifests: m.Manifests, ArtifactType: m.ArtifactType, Subject: m.Subject, Annotations: m.Annotations}
	all := m.Manifests
	if m.Subject != nil {
		all = append(all[:len(all):len(all)], *m.Subject)
	}
	if !m.index {
		if len(m.Layers) > MaxLayers {
			return nil, api.Errorf(api.Exhausted, "%d layers, more than the %d that a manifest may have", len(m.Layers), MaxLayers)
		}
		n.Config, n.Layers = *m.Config, m.Layers
		if n.ArtifactType == "" && !n.Image() {
			n.ArtifactType = n.Config.MediaType
		}
		seen := map[string]bool{}
		for _, b := range append([]imagespec.Descriptor{*m.Config}, m.Layers...) {
			all = append(all[:len(all):len(all)], b)
			if !seen[b.Digest.String()] {
				seen[b.Digest.String()] = true
				n.Blobs = append(n.Blobs, b)
			}
		}
	}
	for _, d := range all {
		if err := checkDescriptor(d); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Image reports whether a manifest is a container image's, not another artifact's.
func (n *Node) Image() bool {
	return !n.Index && (n.Config.MediaType == imagespec.MediaTypeImageConfig || n.Config.MediaType == dockerConfig)
}

// Foreign reports whether d is a layer that registries do not hold: it is to be fetched from its URLs.
func Foreign(d imagespec.Descriptor) bool {
	return strings.Contains(d.MediaType, ".nondistributable.") || strings.HasPrefix(d.MediaType, dockerForeign)
}

// Referring is a source that knows which manifests say something about another: signatures, SBOMs, attestations.
type Referring interface {
	Source
	// Referrers lists the manifests whose subject is d.
	Referrers(ctx context.Context, d digest.Digest) ([]imagespec.Descriptor, error)
	// Tagged finds what a tag of the same repository points to. No such tag is of kind api.NotFound.
	Tagged(ctx context.Context, tag string) (imagespec.Descriptor, error)
}

// ReferrersTag is the tag under which a registry without the referrers API keeps the index of what refers to d: the "referrers tag
// schema" of the distribution specification.
func ReferrersTag(d digest.Digest) string {
	algorithm, hex := d.Algorithm().String(), d.Encoded()
	return algorithm[:min(len(algorithm), 32)] + "-" + hex[:min(len(hex), 64)]
}

// SignatureTags are the tags under which cosign keeps what it says about d, whatever the registry: signature, attestations, SBOM.
func SignatureTags(d digest.Digest) []string {
	t := ReferrersTag(d)
	return []string{t + ".sig", t + ".att", t + ".sbom"}
}

// AboutOther reports whether a tag is one of those above.
func AboutOther(tag string) bool {
	algorithm, rest, ok := strings.Cut(tag, "-")
	hex, suffix, _ := strings.Cut(rest, ".")
	if !ok || algorithm != "sha256" && algorithm != "sha512" || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return false
	}
	return suffix == "" || suffix == "sig" || suffix == "att" || suffix == "sbom"
}
