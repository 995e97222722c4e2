package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/layout"
	"brig/internal/image/ref"
)

// docker is an archive in docker save's own format: manifest.json, which knows files and no digests. Each image gets a manifest made
// for it here, so that the rest of Brig sees one kind of image. An unpacked layer's digest is its diff ID, which the config tells; that
// the file is what the config says shows when it is read.
type docker struct {
	where   string
	files   *contents
	entries []image.Entry
	made    map[digest.Digest][]byte // manifests and configs
	layers  map[digest.Digest]string // file in the archive
	known   map[string]packed        // by file: what a packed layer was found to be
	budget  int                      // bytes that made may still take
}

// packed is a packed layer that was read once, however many images have it.
type packed struct {
	kind   image.Compression
	digest digest.Digest
}

// maxMade bounds the memory for the documents of all images of one archive, in bytes.
const maxMade = 64 << 20

var _ image.Lister = (*docker)(nil)

// item is an element of manifest.json: docker's image specification 1.2.
type item struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func newDocker(where string, files *contents) (*docker, error) {
	d := &docker{where: where, files: files, made: map[digest.Digest][]byte{}, layers: map[digest.Digest]string{}, known: map[string]packed{}, budget: maxMade}
	b, err := layout.ReadSmall(files, "manifest.json")
	if err != nil {
		return nil, d.fault("manifest.json", err)
	}
	var items []item
	if err := json.Unmarshal(b, &items); err != nil {
		return nil, d.fault("manifest.json", err)
	}
	if len(items) > image.MaxIndexEntries {
		return nil, api.Errorf(api.Exhausted, "%s: %d images, more than the %d that an archive may have", where, len(items), image.MaxIndexEntries)
	}
	for _, it := range items {
		target, err := d.manifest(it)
		if err != nil {
			return nil, err
		}
		if len(it.RepoTags) == 0 {
			d.entries = append(d.entries, image.Entry{Target: target})
		}
		for _, tag := range it.RepoTags {
			r, err := ref.Parse(tag)
			if err != nil {
				return nil, api.Errorf(api.InvalidArgument, "%s: manifest.json: %w", where, err)
			}
			d.entries = append(d.entries, image.Entry{Name: r.String(), Target: target})
		}
	}
	return d, nil
}

// manifest makes the manifest of one image.
func (d *docker) manifest(it item) (imagespec.Descriptor, error) {
	none := imagespec.Descriptor{}
	config, err := layout.ReadSmall(d.files, it.Config)
	if err != nil {
		return none, d.fault("config "+it.Config, err)
	}
	var c struct {
		RootFS imagespec.RootFS `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return none, d.fault("config "+it.Config, err)
	}
	if len(it.Layers) > image.MaxLayers || len(it.Layers) != len(c.RootFS.DiffIDs) {
		return none, api.Errorf(api.Corrupt, "%s: %d layers for the %d diff IDs of config %s", d.where, len(it.Layers), len(c.RootFS.DiffIDs), it.Config)
	}
	m := imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: image.DockerManifest,
		Config:    d.keep("application/vnd.docker.container.image.v1+json", config),
		Layers:    []imagespec.Descriptor{},
	}
	for i, file := range it.Layers {
		l, err := d.layer(file, c.RootFS.DiffIDs[i])
		if err != nil {
			return none, d.fault("layer "+file, err)
		}
		m.Layers = append(m.Layers, l)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return none, err
	}
	target := d.keep(image.DockerManifest, b)
	if d.budget < 0 {
		return none, api.Errorf(api.Exhausted, "%s: the documents of its images have more than %d bytes", d.where, maxMade)
	}
	return target, nil
}

// layer describes a layer's file. Only a packed one has to be read for it.
func (d *docker) layer(file string, diffID digest.Digest) (imagespec.Descriptor, error) {
	s, err := d.files.section(file)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	head := make([]byte, 4)
	n, err := s.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return imagespec.Descriptor{}, err
	}
	desc := imagespec.Descriptor{MediaType: image.DockerLayerTar, Digest: diffID, Size: s.Size()}
	if kind := image.Detect(head[:n]); kind != image.Uncompressed {
		p, ok := d.known[file]
		if !ok {
			if p.digest, err = digest.FromReader(s); err != nil {
				return imagespec.Descriptor{}, err
			}
			p.kind = kind
			d.known[file] = p
		}
		desc.MediaType, desc.Digest = desc.MediaType+"."+string(p.kind), p.digest
	}
	d.layers[desc.Digest] = file
	return desc, nil
}

func (d *docker) keep(mediaType string, b []byte) imagespec.Descriptor {
	sum := digest.FromBytes(b)
	if _, ok := d.made[sum]; !ok {
		d.made[sum] = b
		d.budget -= len(b)
	}
	return imagespec.Descriptor{MediaType: mediaType, Digest: sum, Size: int64(len(b))}
}

// fault names the archive and the file, and gives an error without a kind that of a broken archive.
func (d *docker) fault(what string, err error) error {
	kind := api.KindOf(err)
	if kind == "" {
		kind = api.Corrupt
	}
	if errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.Corrupt, "%s: %s is missing", d.where, what)
	}
	return api.Errorf(kind, "%s: %s: %w", d.where, what, err)
}

// Where implements image.Source.
func (d *docker) Where() string { return d.where }

// Transport is the name of this kind of source in a signature policy.
func (d *docker) Transport() string { return "docker-archive" }

// Entries implements image.Lister.
func (d *docker) Entries() []image.Entry { return d.entries }

// Close implements image.Lister.
func (d *docker) Close() error { return d.files.Close() }

// Open implements image.Source.
func (d *docker) Open(_ context.Context, desc imagespec.Descriptor) (io.ReadCloser, error) {
	if b, ok := d.made[desc.Digest]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	file, ok := d.layers[desc.Digest]
	if !ok {
		return nil, api.Errorf(api.NotFound, "%s: blob %s is missing", d.where, desc.Digest)
	}
	r, _, err := d.files.Open(file)
	if err != nil {
		return nil, d.fault("layer "+file, err)
	}
	return r, nil
}
