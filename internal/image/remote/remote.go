// Package remote reads images from registries over the OCI distribution protocol, and writes them.
//
// A repository is read from the places that package hosts names: mirrors in their order, then the registry itself. A mirror that is down,
// slow, has not got it or answers with something else is passed over, with a word to the user; a blob that breaks off goes on from the next
// place at the byte where it stopped. What is written goes to the registry itself.
//
// A request passes three layers: session adds credentials or a token (auth.go), guard decides about TLS and plain HTTP and tries again
// where the protocol allows it (transport.go), and the transport of net/http knows proxies ($HTTP_PROXY, $HTTPS_PROXY, $NO_PROXY).
//
// Rules: plain HTTP and unverified certificates only to a loopback address, as docker has it, or when the user or a configuration file
// allowed them; a redirect never takes credentials to another host, nor from HTTPS to HTTP.
package remote

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/ref"
	"brig/internal/image/remote/credential"
	"brig/internal/image/remote/hosts"
)

// Options are the user's choices about a registry. The zero value is docker's behaviour for a pull.
type Options struct {
	Insecure bool     // plain HTTP, or a certificate that cannot be verified, is allowed
	Actions  []string // what is asked for: "pull" when empty; with "push" the registry itself is spoken to, never a mirror
	Mount    []string // push: other repositories of the same registry that blobs may be mounted from; asked for with "pull"
	Direct   bool     // the registry itself is spoken to, never a mirror, as with "push"
	AuthFile string   // credentials are read from this file alone; empty: from where docker and podman have them
	CertDir  string   // more authorities (*.crt) and client certificates (*.cert, *.key) for the registry

	Hosts *hosts.Config                    // nil: read from the machine's and the user's files
	Warn  func(format string, args ...any) // told of mirrors that are passed over; may be nil

	as    *credential.Credential // in place of what the files have
	hasty *patience              // with mirrors; nil: as hasty says
}

// request is one request of a repository, made by [Repository.do].
type request struct {
	method string
	path   string     // below the repository: "blobs/uploads/"; or a whole URL that the registry gave (its Location)
	query  url.Values // added to those of path
	header http.Header
	body   func() (io.ReadCloser, error) // nil: none; called again for another try
	size   int64                         // of body in bytes; -1: unknown
	ok     []int                         // status codes that are a success; none: 200
}

// Repository is a repository of a registry and its mirrors.
type Repository struct {
	ref    ref.Ref
	places []*place // in the order to try them; the registry itself is the last
	warn   func(string, ...any)
	last   atomic.Pointer[place] // that something came from
}

var _ image.Source = (*Repository)(nil)

// Open finds out which places have the repository of r, and how the first of them that answers wants to be spoken to. It asks the network.
func Open(ctx context.Context, r ref.Ref, o Options) (*Repository, error) {
	var err error
	if o.Hosts == nil {
		if o.Hosts, err = hosts.Load(o.CertDir); err != nil {
			return nil, err
		}
	}
	about := subject{image: r, action: "pull"}
	push := slices.Contains(o.Actions, "push")
	if push {
		about.action = "push"
	}
	all, err := o.Hosts.Endpoints(r, push)
	if err != nil {
		return nil, err
	}
	if o.Direct {
		all = all[len(all)-1:]
	}
	repo := &Repository{ref: r, warn: o.Warn}
	for i, e := range all {
		p := patient()
		if i < len(all)-1 {
			p = hasty()
			if o.hasty != nil {
				p = *o.hasty
			}
		}
		to, err := newPlace(e, about, o, scopes(e.Repo, o), o.Hosts.Helpers(), p)
		if err != nil {
			return nil, err
		}
		repo.places = append(repo.places, to)
	}
	_, err = repo.each(ctx, func(p *place) error { return p.dial(ctx) }, func(hosts.Endpoint) bool { return true })
	return repo, err
}

// each tries the places that suit, in their order, until one does it. A mirror that fails is passed over; the last failure is the answer.
func (r *Repository) each(ctx context.Context, do func(*place) error, suits func(hosts.Endpoint) bool) (*place, error) {
	var err error
	for i, p := range r.places {
		last := i == len(r.places)-1
		if !last && !(suits(p.at) && p.usable()) {
			continue
		}
		if last && !suits(p.at) && err == nil {
			return nil, api.Errorf(api.Unsupported, "image %s: %s lets its server neither be read from nor asked for tags", r.ref.Familiar(), p.at.From)
		}
		if err = do(p); err == nil || last || ctx.Err() != nil { // cancelled is no mirror's fault, whatever the cause is
			return p, err
		}
		r.passOver(p, err)
	}
	return nil, err
}

// passOver leaves a mirror out from now on, unless it only lacks something.
func (r *Repository) passOver(p *place, err error) {
	if p.fail(err) && r.warn != nil {
		r.warn("%s of %s is passed over: %s", p.at.Name(), r.ref.Domain, reason(err))
	}
}

// reason is an error without the words that only fit the registry itself.
func reason(err error) string {
	s, _, _ := strings.Cut(err.Error(), "; without a registry")
	return s
}

// Distrust leaves out the mirrors that something came from: a digest was wrong. It reports whether there were any, so that trying again
// makes sense.
func (r *Repository) Distrust(err error) bool {
	some := false
	for _, p := range r.places[:len(r.places)-1] {
		p.mu.Lock()
		served := p.served
		p.served = false
		p.mu.Unlock()
		if served {
			r.passOver(p, err) // if it is not left already, for another reason
			some = true
		}
	}
	return some
}

// scopes are what a token is asked for.
func scopes(path string, o Options) []string {
	actions := "pull"
	if len(o.Actions) > 0 {
		actions = strings.Join(o.Actions, ",")
	}
	all := []string{"repository:" + path + ":" + actions}
	for _, other := range o.Mount {
		all = append(all, "repository:"+other+":pull")
	}
	return all
}

// Where implements image.Source.
func (r *Repository) Where() string {
	if p := r.last.Load(); p != nil && p.at.Mirror {
		return p.at.Name() + " of " + r.ref.Domain
	}
	return r.registry().at.Name()
}

// Head asks for the digest that the reference has now; empty when the registry does not say.
func (r *Repository) Head(ctx context.Context) (digest.Digest, error) {
	var d digest.Digest
	_, err := r.each(ctx, func(p *place) error {
		resp, err := p.get(ctx, http.MethodHead, "manifests/"+r.ref.Identifier(), accept, 0, -1)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if d = digest.Digest(resp.Header.Get("Docker-Content-Digest")); d.Validate() != nil {
			d = "" // not every registry says it
		}
		return nil
	}, r.resolves)
	return d, err
}

// resolves reports whether a place may be asked what the reference points to.
func (r *Repository) resolves(e hosts.Endpoint) bool {
	return e.Resolve || r.ref.Digest != "" && e.Pull
}

// Resolve reads what the reference points to. The digest is of the bytes that came, checked against the reference's where it has one.
func (r *Repository) Resolve(ctx context.Context) (imagespec.Descriptor, error) {
	d, err := r.Document(ctx)
	return d.Descriptor, err
}

// Document is Resolve with the bytes.
func (r *Repository) Document(ctx context.Context) (image.Document, error) {
	var doc image.Document
	p, err := r.each(ctx, func(p *place) error {
		resp, err := p.get(ctx, http.MethodGet, "manifests/"+r.ref.Identifier(), accept, 0, -1)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := whole(resp.Body, image.MaxDocument+1, p.guard.patience.header)
		if err != nil {
			return p.about.explain(ctx, err)
		}
		d := imagespec.Descriptor{MediaType: image.DetectMediaType(resp.Header.Get("Content-Type"), b), Size: int64(len(b)), Digest: digest.Digest(r.ref.Digest)}
		if d.Digest == "" {
			d.Digest = digest.FromBytes(b)
		}
		doc = image.Document{Descriptor: d, Bytes: b}
		return image.Verify(p.at.Name(), d, b)
	}, r.resolves)
	if err != nil {
		return image.Document{}, err
	}
	r.came(p)
	return doc, nil
}

// At is the same repository, asked for another tag or, without one, another digest.
func (r *Repository) At(tag string, d digest.Digest) *Repository {
	at := &Repository{ref: r.ref, places: r.places, warn: r.warn}
	at.ref.Tag, at.ref.Digest = tag, ""
	if tag == "" {
		at.ref.Digest = d.String()
	}
	return at
}

// came notes that something came from a place.
func (r *Repository) came(p *place) {
	r.last.Store(p)
	p.mu.Lock()
	p.served = true
	p.mu.Unlock()
}

// Open implements image.Source. The reader goes on by itself when the connection breaks, as long as there is progress.
func (r *Repository) Open(ctx context.Context, d imagespec.Descriptor) (io.ReadCloser, error) {
	return r.OpenAt(ctx, d, 0)
}

// OpenAt is Open from a byte on: it returns the blob's bytes from offset, also where the registry ignores ranges and sends all of it. An
// offset that is d.Size yields nothing, one beyond it is an api.InvalidArgument. The caller checks the digest of the whole.
func (r *Repository) OpenAt(ctx context.Context, d imagespec.Descriptor, offset int64) (io.ReadCloser, error) {
	return r.OpenRange(ctx, d, offset, d.Size-offset)
}

// OpenRange is OpenAt for length bytes and no more. A registry that knows no ranges is api.Unsupported, unless all is asked for to the end.
func (r *Repository) OpenRange(ctx context.Context, d imagespec.Descriptor, offset, length int64) (io.ReadCloser, error) {
	switch {
	case offset < 0 || offset > d.Size || length < 0 || length > d.Size-offset:
		return nil, api.Errorf(api.InvalidArgument, "%s: %s has %d bytes, it cannot be read from byte %d on", r.Where(), d.Digest, d.Size, offset)
	case length == 0 && offset > 0:
		return io.NopCloser(strings.NewReader("")), nil
	}
	path, want := "blobs/"+d.Digest.String(), ""
	if image.IsManifest(d.MediaType) || image.IsIndex(d.MediaType) {
		path, want = "manifests/"+d.Digest.String(), accept
	}
	b := &body{repo: r, path: path, accept: want, desc: d, offset: offset, end: offset + length}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	if err := b.open(); err != nil {
		b.cancel(nil)
		return nil, err
	}
	return b, nil
}

// accept lists the documents that Brig understands.
var accept = strings.Join([]string{imagespec.MediaTypeImageIndex, imagespec.MediaTypeImageManifest, image.DockerIndex, image.DockerManifest}, ", ")

// get makes one request below the repository, from byte offset to last, -1 for all there is. Errors are explained.
func (p *place) get(ctx context.Context, method, path, want string, offset, last int64) (*http.Response, error) {
	q := request{method: method, path: path, header: http.Header{}, ok: []int{http.StatusOK}}
	if want != "" {
		q.header.Set("Accept", want)
	}
	if offset > 0 || last >= 0 {
		span := "bytes=" + strconv.FormatInt(offset, 10) + "-"
		if last >= 0 {
			span += strconv.FormatInt(last, 10)
		}
		q.header.Set("Range", span)
		q.ok = append(q.ok, http.StatusPartialContent)
	}
	return p.do(ctx, q)
}

// do makes one request of the registry itself, authenticated where it goes to the registry's own host. A status that is not among q.ok is
// an error; errors are explained. The caller closes the body of the answer, whose Location method resolves a relative Location.
func (r *Repository) do(ctx context.Context, q request) (*http.Response, error) {
	return r.registry().do(ctx, q)
}

// registry is the place that is no mirror.
func (r *Repository) registry() *place { return r.places[len(r.places)-1] }

// whole reads a body to its end, but max bytes and no longer than d.
func whole(body io.ReadCloser, limit int64, d time.Duration) ([]byte, error) {
	late := time.AfterFunc(d, func() { body.Close() })
	b, err := io.ReadAll(io.LimitReader(body, limit))
	if !late.Stop() && err != nil {
		err = errStalled
	}
	return b, err
}
