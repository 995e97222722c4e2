package registry

import (
	"encoding/json"
	"mime"
	"strings"
	"time"

	"brig/api"
	"brig/internal/image"
	"brig/internal/store/content"
	"brig/internal/store/repository"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxReferences bounds what one manifest names. An image has some hundred layers, an index some dozens of manifests.
	maxReferences = 10000
	schema1       = "application/vnd.docker.distribution.manifest.v1"
)

// manifest is what a registry has to know of a manifest or an index, of whatever kind.
type manifest struct {
	MediaType    string                 `json:"mediaType"`
	Config       *imagespec.Descriptor  `json:"config"`
	Layers       []imagespec.Descriptor `json:"layers"`
	Blobs        []imagespec.Descriptor `json:"blobs"` // of the artifact manifest that image-spec 1.1 had for a while
	Manifests    []imagespec.Descriptor `json:"manifests"`
	FSLayers     json.RawMessage        `json:"fsLayers"` // of docker's schema 1
	Subject      *imagespec.Descriptor  `json:"subject"`
	ArtifactType string                 `json:"artifactType"`
	Annotations  map[string]string      `json:"annotations"`
}

// read parses a manifest that was announced as mediaType, and fills that in where it is empty. What could be read in two ways is refused
// (CVE-2021-41190). Errors are api.InvalidArgument.
func read(mediaType string, b []byte) (*manifest, error) {
	refuse := func(format string, args ...any) (*manifest, error) {
		return nil, api.Errorf(api.InvalidArgument, format, args...)
	}
	var m manifest
	if err := image.Unambiguous(b, "schemaVersion", "mediaType", "config", "layers", "blobs", "manifests", "fsLayers", "subject", "artifactType", "annotations"); err != nil {
		return refuse("%w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return refuse("not a JSON document: %w", err)
	}
	switch announced, _, err := mime.ParseMediaType(mediaType); {
	case mediaType == "" && m.MediaType == "":
		return refuse("neither its media type nor its own field mediaType says what it is")
	case mediaType != "" && err != nil:
		return refuse("media type %.200q: %w", mediaType, err)
	case mediaType != "" && m.MediaType != "" && !strings.EqualFold(announced, m.MediaType):
		return refuse("ambiguous: announced as %.200q, but it says %.200q itself", announced, m.MediaType)
	case m.MediaType == "":
		m.MediaType = announced
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return &m, nil
}

// check looks at the shape and at every descriptor.
func (m *manifest) check() error {
	refuse := func(format string, args ...any) error { return api.Errorf(api.InvalidArgument, format, args...) }
	if _, _, err := mime.ParseMediaType(m.MediaType); err != nil || len(m.MediaType) > 255 {
		return refuse("media type %.200q: not a media type", m.MediaType)
	}
	index, img := image.IsIndex(m.MediaType), image.IsManifest(m.MediaType)
	switch {
	case strings.HasPrefix(m.MediaType, schema1) || m.FSLayers != nil:
		return refuse("docker's schema 1 of before 2016 is not supported: push with a newer client")
	case m.Manifests != nil && (m.Layers != nil || m.Config != nil):
		return refuse("ambiguous: both an index and an image manifest")
	case img && (m.Config == nil || m.Layers == nil):
		return refuse("an image manifest without config or layers")
	case index && m.Manifests == nil:
		return refuse("an index without manifests")
	case len(m.Layers)+len(m.Blobs)+len(m.Manifests) > maxReferences:
		return refuse("it names more than %d things", maxReferences)
	}
	all := append(m.blobs(), m.Manifests...)
	if m.Subject != nil {
		all = append(all, *m.Subject)
	}
	for _, d := range all {
		if err := content.Check(d.Digest); err != nil {
			return err
		}
		if d.Size < 0 || d.Size > maxBlob {
			return refuse("%s: a size of %d bytes", d.Digest, d.Size)
		}
	}
	return nil
}

// blobs lists config and layers.
func (m *manifest) blobs() []imagespec.Descriptor {
	var all []imagespec.Descriptor
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	return append(append(all, m.Layers...), m.Blobs...)
}

// record is what a repository keeps of it. The list of referrers shows an image manifest's config type where there is no artifact type.
func (m *manifest) record(desc imagespec.Descriptor) repository.Manifest {
	rec := repository.Manifest{Pushed: time.Now().UTC().Truncate(time.Second)}
	rec.Descriptor = imagespec.Descriptor{MediaType: m.MediaType, Digest: desc.Digest, Size: desc.Size, ArtifactType: m.ArtifactType, Annotations: m.Annotations}
	if rec.ArtifactType == "" && m.Config != nil {
		rec.ArtifactType = m.Config.MediaType
	}
	if m.Subject != nil {
		rec.Subject = m.Subject.Digest
	}
	for _, d := range append(m.blobs(), m.Manifests...) {
		rec.Needs = append(rec.Needs, d.Digest)
	}
	return rec
}

// elsewhere reports whether a layer may be missing here: it must not be distributed, so clients fetch it from its own addresses.
func elsewhere(d imagespec.Descriptor) bool {
	return strings.Contains(d.MediaType, ".nondistributable.") || strings.Contains(d.MediaType, ".foreign.")
}
