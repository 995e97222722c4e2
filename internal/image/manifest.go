package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/base/weak"
)

// Docker's media types, from its image manifest version 2, schema 2.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerLayerTar = "application/vnd.docker.image.rootfs.diff.tar"
	dockerSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSigned1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar"
)

// IsManifest reports whether t is the media type of an image manifest.
func IsManifest(t string) bool { return t == imagespec.MediaTypeImageManifest || t == DockerManifest }

// IsIndex reports whether t is the media type of an index, docker's manifest list.
func IsIndex(t string) bool { return t == imagespec.MediaTypeImageIndex || t == DockerIndex }

// manifest is an index or an image manifest; index says which.
type manifest struct {
	SchemaVersion int                    `json:"schemaVersion"`
	MediaType     string                 `json:"mediaType"`
	Config        *imagespec.Descriptor  `json:"config"`
	Layers        []imagespec.Descriptor `json:"layers"`
	Manifests     []imagespec.Descriptor `json:"manifests"`
	ArtifactType  string                 `json:"artifactType"`
	Subject       *imagespec.Descriptor  `json:"subject"`
	Annotations   map[string]string      `json:"annotations"`
	index         bool
}

// parse reads a document that was announced as mediaType and refuses what could be read in two ways.
func parse(mediaType string, b []byte) (*manifest, error) {
	if mediaType == dockerSchema1 || mediaType == dockerSigned1 {
		return nil, api.Errorf(api.Unsupported, "docker's schema 1 of before 2016 is not supported: push the image again with a newer client")
	}
	if !IsManifest(mediaType) && !IsIndex(mediaType) {
		return nil, api.Errorf(api.Unsupported, "media type %q is neither an image manifest nor an index", mediaType)
	}
	has, err := topKeys(b, "schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers")
	if err == nil {
		err = unambiguous(b)
	}
	if weak.Ambiguous {
		err = nil
	}
	if err != nil {
		return nil, corrupt(err)
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, api.Errorf(api.Corrupt, "%w", err)
	}
	m.index = IsIndex(mediaType)
	switch {
	case weak.Ambiguous:
	case m.SchemaVersion != 2:
		return nil, api.Errorf(api.Unsupported, "schema version %d is not supported, only 2", m.SchemaVersion)
	case m.MediaType != "" && m.MediaType != mediaType:
		return nil, api.Errorf(api.Corrupt, "ambiguous: announced as %q, but it says %q itself", mediaType, m.MediaType)
	case has["manifests"] && (has["layers"] || has["config"]), has["fsLayers"]:
		return nil, api.Errorf(api.Corrupt, "ambiguous: both an index and an image manifest")
	case m.index && !has["manifests"]:
		return nil, api.Errorf(api.Corrupt, "an index without manifests")
	case !m.index && (m.Config == nil || !has["layers"]):
		return nil, api.Errorf(api.Corrupt, "an image manifest without config or layers")
	case len(m.Manifests) > MaxIndexEntries:
		return nil, api.Errorf(api.Exhausted, "%d manifests, more than the %d that an index may have", len(m.Manifests), MaxIndexEntries)
	}
	return &m, nil
}

// ParseIndex reads the entries of a layout's index.json, under the rules of every index.
func ParseIndex(b []byte) ([]imagespec.Descriptor, error) {
	m, err := parse(imagespec.MediaTypeImageIndex, b)
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		if err := checkDescriptor(d); err != nil {
			return nil, err
		}
	}
	return m.Manifests, nil
}

// DetectMediaType says what a document is when its announcement does not (a registry's application/json): by its own mediaType field,
// else by its shape. The result is announced when nothing fits.
func DetectMediaType(announced string, b []byte) string {
	announced, _, _ = strings.Cut(announced, ";")
	announced = strings.TrimSpace(announced)
	if IsManifest(announced) || IsIndex(announced) || announced == dockerSchema1 || announced == dockerSigned1 {
		return announced
	}
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
	}
	if json.Unmarshal(b, &m) != nil {
		return announced
	}
	switch {
	case m.MediaType != "":
		return m.MediaType
	case m.SchemaVersion == 1:
		return dockerSchema1
	case m.Manifests != nil:
		return imagespec.MediaTypeImageIndex
	case m.Layers != nil:
		return imagespec.MediaTypeImageManifest
	}
	return announced
}

// topKeys returns which of the keys names, which tell documents apart, a JSON object has. One that comes twice, or in other letters
// that fold to the same, is an error: encoding/json takes the last of them, other readers the first or the exact one.
func topKeys(b []byte, names ...string) (map[string]bool, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	keys := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		k, _ := t.(string)
		for _, known := range names {
			if !strings.EqualFold(k, known) {
				continue
			}
			if k != known || keys[known] {
				return nil, fmt.Errorf("ambiguous: the key %q comes twice or in other letters", known)
			}
			keys[known] = true
		}
		var skip json.RawMessage
		if err := dec.Decode(&skip); err != nil {
			return nil, err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, err
	}
	if dec.More() {
		return nil, errors.New("something follows the JSON object")
	}
	return keys, nil
}

// Unambiguous refuses a JSON object that two readers could take for two things: one of the keys names comes twice or in other letters, or any key of any object
// in it twice.
func Unambiguous(b []byte, names ...string) error {
	if _, err := topKeys(b, names...); err != nil {
		return err
	}
	return unambiguous(b)
}

// corrupt gives an error that has none its kind.
func corrupt(err error) error {
	if api.KindOf(err) != "" {
		return err
	}
	return api.Errorf(api.Corrupt, "%w", err)
}

// maxDepth is how deep a document may be nested: those of images have 6 levels.
const maxDepth = 100

// maxMembers is how many elements any array, or keys any object, of a document may have: decoded, each takes hundreds of bytes.
const maxMembers = 50_000

// unambiguous refuses a document in which any object has a key twice, whatever another reader would make of it, and one that is nested
// or goes on without end.
func unambiguous(b []byte) error {
	type object struct {
		keys  map[string]bool // nil: an array
		key   bool            // a key comes next
		count int             // of values that have ended
	}
	var open []object
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	for {
		t, err := dec.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		top := len(open) - 1
		if top >= 0 && open[top].key {
			if k, ok := t.(string); ok {
				if open[top].keys[k] {
					return fmt.Errorf("ambiguous: the key %.100q comes twice", k)
				}
				open[top].keys[k], open[top].key = true, false
				continue
			}
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			if len(open) == maxDepth {
				return fmt.Errorf("nested deeper than %d", maxDepth)
			}
			o := object{}
			if t == json.Delim('{') {
				o = object{keys: map[string]bool{}, key: true}
			}
			open = append(open, o)
			continue
		case json.Delim('}'), json.Delim(']'):
			open = open[:top]
			top--
		}
		if top >= 0 { // a value has ended
			open[top].key = open[top].keys != nil
			if open[top].count++; open[top].count > maxMembers {
				return api.Errorf(api.Exhausted, "a list of more than %d members", maxMembers)
			}
		}
	}
}

// checkDescriptor refuses a descriptor before its digest becomes part of a path or an address.
func checkDescriptor(d imagespec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil && !weak.Digests {
		return api.Errorf(api.Corrupt, "digest %q: %w", d.Digest, err)
	}
	if d.Size < 0 {
		return api.Errorf(api.Corrupt, "%s: size %d", d.Digest, d.Size)
	}
	return nil
}

func checkLayer(d imagespec.Descriptor) error {
	if err := checkDescriptor(d); err != nil {
		return err
	}
	switch t := d.MediaType; {
	case Foreign(d):
		return api.Errorf(api.Unsupported, "%s: a foreign layer (%s), which is to be fetched from elsewhere, is not supported", d.Digest, t)
	case t == imagespec.MediaTypeImageLayer, t == imagespec.MediaTypeImageLayerGzip, t == imagespec.MediaTypeImageLayerZstd,
		t == DockerLayerTar, t == DockerLayerTar+".gzip", t == DockerLayerTar+".zstd":
		return nil
	default:
		return api.Errorf(api.Unsupported, "%s: layer media type %q is not supported", d.Digest, t)
	}
}
