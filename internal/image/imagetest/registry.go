package imagetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is a registry in memory that can be written to: repositories, uploads that go on after a break, mounts, referrers. Like a real
// one it takes no manifest whose pieces it lacks.
type Registry struct {
	Host string // host:port on loopback

	// NoReferrers leaves out the referrers API and the header that says of a manifest's subject that it is known.
	NoReferrers bool
	// NoResume forgets an upload whose connection broke.
	NoResume bool
	// Hook, when set, may answer a request itself and say so.
	Hook func(w http.ResponseWriter, r *http.Request) bool

	mu      sync.Mutex
	repos   map[string]*Repo
	uploads map[string]*bytes.Buffer
	log     []string
	count   int
	taken   int64
}

// Repo is one repository.
type Repo struct {
	Blobs     map[digest.Digest][]byte
	Manifests map[digest.Digest]imagespec.Descriptor
	Tags      map[string]digest.Digest
}

// NewRegistry serves an empty registry; closing it is the caller's.
func NewRegistry() (*Registry, *httptest.Server) {
	g := &Registry{repos: map[string]*Repo{}, uploads: map[string]*bytes.Buffer{}}
	server := httptest.NewServer(g)
	g.Host = strings.TrimPrefix(server.URL, "http://")
	return g, server
}

// Repo returns a repository, making it where it is missing.
func (g *Registry) Repo(name string) *Repo {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.repo(name)
}

func (g *Registry) repo(name string) *Repo {
	r := g.repos[name]
	if r == nil {
		r = &Repo{map[digest.Digest][]byte{}, map[digest.Digest]imagespec.Descriptor{}, map[string]digest.Digest{}}
		g.repos[name] = r
	}
	return r
}

// Fill puts all of s into a repository.
func (g *Registry) Fill(name string, s *Store) {
	r := g.Repo(name)
	for d, b := range s.Blobs {
		r.Blobs[d] = b
		if t, ok := s.Types[d]; ok {
			r.Manifests[d] = imagespec.Descriptor{MediaType: t, Digest: d, Size: int64(len(b))}
		}
	}
	for tag, d := range s.Tags {
		r.Tags[tag] = d
	}
}

// Requests counts the requests that came whose "METHOD path?query" contains part.
func (g *Registry) Requests(part string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, l := range g.log {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

// Taken is how many bytes of blobs were uploaded, those of uploads that broke off included.
func (g *Registry) Taken() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken
}

// Forget empties the log of requests.
func (g *Registry) Forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.log, g.taken = nil, 0
}

// ServeHTTP implements http.Handler.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.log = append(g.log, r.Method+" "+r.URL.RequestURI())
	hook := g.Hook
	g.mu.Unlock()
	if hook != nil && hook(w, r) {
		return
	}
	g.Serve(w, r)
}

// Serve answers without the hook.
func (g *Registry) Serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	if path == "" {
		return
	}
	for _, part := range []struct {
		mark string
		do   func(http.ResponseWriter, *http.Request, string, string)
	}{{"/blobs/uploads/", g.upload}, {"/blobs/", g.blob}, {"/manifests/", g.manifest}, {"/referrers/", g.referrers}} {
		if i := strings.LastIndex(path, part.mark); i > 0 {
			part.do(w, r, path[:i], path[i+len(part.mark):])
			return
		}
	}
	http.NotFound(w, r)
}

func (g *Registry) blob(w http.ResponseWriter, r *http.Request, repo, id string) {
	g.mu.Lock()
	b, ok := g.repo(repo).Blobs[digest.Digest(id)]
	g.mu.Unlock()
	if !ok {
		Fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	w.Header().Set("Docker-Content-Digest", id)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

func (g *Registry) upload(w http.ResponseWriter, r *http.Request, repo, id string) {
	if r.Method == http.MethodPost {
		g.begin(w, r, repo)
		return
	}
	g.mu.Lock()
	buf, ok := g.uploads[id]
	g.mu.Unlock()
	if !ok {
		Fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
		return
	}
	w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+id)
	switch r.Method {
	case http.MethodGet:
		g.mu.Lock()
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, buf.Len()-1)))
		g.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPatch:
		g.patch(w, r, id, buf)
	case http.MethodPut:
		d := digest.Digest(r.URL.Query().Get("digest"))
		g.mu.Lock()
		defer g.mu.Unlock()
		if d.Validate() != nil || d.Algorithm().FromBytes(buf.Bytes()) != d {
			Fail(w, http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content")
			return
		}
		g.repo(repo).Blobs[d] = bytes.Clone(buf.Bytes())
		delete(g.uploads, id)
		w.WriteHeader(http.StatusCreated)
	case http.MethodDelete:
		g.mu.Lock()
		delete(g.uploads, id)
		g.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	}
}

func (g *Registry) begin(w http.ResponseWriter, r *http.Request, repo string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := r.URL.Query()
	if d := digest.Digest(q.Get("mount")); d != "" {
		if b, ok := g.repo(q.Get("from")).Blobs[d]; ok {
			g.repo(repo).Blobs[d] = b
			w.WriteHeader(http.StatusCreated)
			return
		}
	}
	g.count++
	id := strconv.Itoa(g.count)
	g.uploads[id] = &bytes.Buffer{}
	w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+id)
	w.WriteHeader(http.StatusAccepted)
}

func (g *Registry) patch(w http.ResponseWriter, r *http.Request, id string, buf *bytes.Buffer) {
	g.mu.Lock()
	at := buf.Len()
	g.mu.Unlock()
	if cr := r.Header.Get("Content-Range"); cr != "" {
		if first, _, _ := strings.Cut(cr, "-"); first != strconv.Itoa(at) {
			Fail(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "wrong offset")
			return
		}
	} else if at > 0 {
		Fail(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "an upload goes on with Content-Range")
		return
	}
	chunk := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(chunk)
		g.mu.Lock()
		buf.Write(chunk[:n])
		g.taken += int64(n)
		if err != nil && err != io.EOF && g.NoResume {
			delete(g.uploads, id)
		}
		g.mu.Unlock()
		if err == io.EOF {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		if err != nil {
			return
		}
	}
}

func (g *Registry) manifest(w http.ResponseWriter, r *http.Request, repo, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	rp := g.repo(repo)
	if r.Method == http.MethodPut {
		g.put(w, r, rp, id)
		return
	}
	d := digest.Digest(id)
	if t, ok := rp.Tags[id]; ok {
		d = t
	}
	desc, ok := rp.Manifests[d]
	if !ok {
		Fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	w.Header().Set("Content-Type", desc.MediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(rp.Blobs[d]))
}

func (g *Registry) put(w http.ResponseWriter, r *http.Request, rp *Repo, id string) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	d := digest.FromBytes(b)
	if want := digest.Digest(id); want.Validate() == nil {
		if d = want.Algorithm().FromBytes(b); d != want {
			Fail(w, http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match")
			return
		}
	}
	var m struct {
		Config    *imagespec.Descriptor
		Layers    []imagespec.Descriptor
		Manifests []imagespec.Descriptor
		Subject   *imagespec.Descriptor
	}
	if err := json.Unmarshal(b, &m); err != nil {
		Fail(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
		return
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, l := range m.Layers {
		if _, ok := rp.Blobs[l.Digest]; !ok {
			Fail(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
			return
		}
	}
	for _, c := range m.Manifests {
		if _, ok := rp.Manifests[c.Digest]; !ok {
			Fail(w, http.StatusBadRequest, "MANIFEST_UNKNOWN", "manifest unknown")
			return
		}
	}
	rp.Blobs[d] = b
	rp.Manifests[d] = imagespec.Descriptor{MediaType: r.Header.Get("Content-Type"), Digest: d, Size: int64(len(b))}
	if digest.Digest(id).Validate() != nil {
		rp.Tags[id] = d
	}
	if m.Subject != nil && !g.NoReferrers {
		w.Header().Set("OCI-Subject", m.Subject.Digest.String())
	}
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

func (g *Registry) referrers(w http.ResponseWriter, _ *http.Request, repo, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.NoReferrers {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	index := imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex, Manifests: []imagespec.Descriptor{}}
	rp := g.repo(repo)
	for d, desc := range rp.Manifests {
		var m imagespec.Manifest
		if json.Unmarshal(rp.Blobs[d], &m) == nil && m.Subject != nil && m.Subject.Digest == digest.Digest(id) {
			desc.ArtifactType = m.ArtifactType
			index.Manifests = append(index.Manifests, desc)
		}
	}
	w.Header().Set("Content-Type", imagespec.MediaTypeImageIndex)
	json.NewEncoder(w).Encode(index)
}
