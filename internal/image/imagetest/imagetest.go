// Package imagetest makes small images and serves them from memory, for tests: as an image.Source and as a registry over HTTP.
package imagetest

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

// Docker's media types.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Store is a source in memory, and a registry of one repository.
type Store struct {
	mu    sync.Mutex
	Blobs map[digest.Digest][]byte
	Types map[digest.Digest]string // media types of manifests and indexes
	Tags  map[string]digest.Digest
	// Hook, when set, may answer a request itself and say so.
	Hook func(w http.ResponseWriter, r *http.Request) bool
	// Log lists the requests that came: method and path.
	Log []string
}

// New is an empty store.
func New() *Store {
	return &Store{Blobs: map[digest.Digest][]byte{}, Types: map[digest.Digest]string{}, Tags: map[string]digest.Digest{}}
}

// Put stores a blob and describes it. The media type makes it a manifest or an index where it is one.
func (s *Store) Put(mediaType string, b []byte) imagespec.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := digest.FromBytes(b)
	s.Blobs[d] = b
	if strings.Contains(mediaType, "manifest") || strings.Contains(mediaType, "index") {
		s.Types[d] = mediaType
	}
	return imagespec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

// JSON stores v.
func (s *Store) JSON(mediaType string, v any) imagespec.Descriptor {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return s.Put(mediaType, b)
}

// Layer is a tar with one file.
func Layer(name, data string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1700000000, 0)})
	io.WriteString(w, data)
	w.Close()
	return buf.Bytes()
}

// Gzip packs b.
func Gzip(b []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write(b)
	z.Close()
	return buf.Bytes()
}

// Zstd packs b.
func Zstd(b []byte) []byte {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	defer z.Close()
	return z.EncodeAll(b, nil)
}

// Parts are an image's manifest and config before they are stored, for tests to bend.
type Parts struct {
	Manifest imagespec.Manifest
	Config   imagespec.Image
}

// OCI prepares an OCI image of linux/amd64 whose layers are the tars given, packed by pack (Gzip, Zstd or nil).
func (s *Store) OCI(pack func([]byte) []byte, layers ...[]byte) *Parts {
	created := time.Unix(1700000000, 0).UTC()
	p := &Parts{}
	p.Manifest.Versioned, p.Manifest.MediaType = specs.Versioned{SchemaVersion: 2}, imagespec.MediaTypeImageManifest
	p.Manifest.Layers = []imagespec.Descriptor{}
	p.Config.Created, p.Config.OS, p.Config.Architecture = &created, "linux", "amd64"
	p.Config.Config = imagespec.ImageConfig{Cmd: []string{"sh"}, Env: []string{"A=b"}}
	p.Config.RootFS.Type = "layers"
	for _, l := range layers {
		t, b := imagespec.MediaTypeImageLayer, l
		if pack != nil {
			b = pack(l)
			t = imagespec.MediaTypeImageLayerGzip
			if b[0] == 0x28 {
				t = imagespec.MediaTypeImageLayerZstd
			}
		}
		p.Manifest.Layers = append(p.Manifest.Layers, s.Put(t, b))
		p.Config.RootFS.DiffIDs = append(p.Config.RootFS.DiffIDs, digest.FromBytes(l))
	}
	return p
}

// Docker makes docker's manifest version 2 of it.
func (p *Parts) Docker() *Parts {
	p.Manifest.MediaType = DockerManifest
	for i := range p.Manifest.Layers {
		p.Manifest.Layers[i].MediaType = DockerLayer
	}
	return p
}

// PutImage stores config and manifest, and names the image where tag is not empty.
func (s *Store) PutImage(p *Parts, tag string) imagespec.Descriptor {
	t := imagespec.MediaTypeImageConfig
	if p.Manifest.MediaType == DockerManifest {
		t = DockerConfig
	}
	p.Manifest.Config = s.JSON(t, p.Config)
	d := s.JSON(p.Manifest.MediaType, p.Manifest)
	if tag != "" {
		s.Tag(tag, d)
	}
	return d
}

// Index stores an index of manifests.
func (s *Store) Index(tag string, manifests ...imagespec.Descriptor) imagespec.Descriptor {
	d := s.JSON(imagespec.MediaTypeImageIndex, imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex, Manifests: manifests})
	if tag != "" {
		s.Tag(tag, d)
	}
	return d
}

// Tag names d.
func (s *Store) Tag(tag string, d imagespec.Descriptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Tags[tag] = d.Digest
}

// Where implements image.Source.
func (s *Store) Where() string { return "memory" }

// Open implements image.Source.
func (s *Store) Open(_ context.Context, d imagespec.Descriptor) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.Blobs[d.Digest]
	if !ok {
		return nil, api.Errorf(api.NotFound, "memory: no blob %s", d.Digest)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// ServeHTTP implements the reading half of the distribution protocol, whatever the repository's name.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.Log = append(s.Log, r.Method+" "+r.URL.Path)
	hook := s.Hook
	s.mu.Unlock()
	if hook == nil || !hook(w, r) {
		s.Serve(w, r)
	}
}

// Serve answers without the hook: for hooks that bend an answer.
func (s *Store) Serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/" {
		return
	}
	i := strings.LastIndexByte(r.URL.Path, '/')
	kind, id := r.URL.Path[:i], digest.Digest(r.URL.Path[i+1:])
	s.mu.Lock()
	if d, ok := s.Tags[string(id)]; ok {
		id = d
	}
	b, ok := s.Blobs[id]
	t, isManifest := s.Types[id]
	s.mu.Unlock()
	if !ok || strings.HasSuffix(kind, "/manifests") != isManifest {
		Fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	if isManifest {
		w.Header().Set("Content-Type", t)
	} else {
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	w.Header().Set("Docker-Content-Digest", id.String())
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// Requests counts the requests whose method and path contain part.
func (s *Store) Requests(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, l := range s.Log {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

// Fail answers with a registry's error.
func Fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}
