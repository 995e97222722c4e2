// Package remote reads images from a registry over the OCI distribution protocol.
//
// Authentication (anonymous and other tokens, basic, credentials and helpers of docker's config file) is go-containerregistry's; the two
// requests of a pull, GET of a manifest and GET of a blob, are made here, because a pull wants more of them: a layer that breaks off goes
// on where it stopped, a stalled one is noticed, and a blob's digest is computed once, by who stores it.
//
// Rules: plain HTTP and unverified certificates only to a loopback address, as docker has it, or when the user allowed them
// ([Options.Insecure]); a redirect never takes credentials to another host, nor from HTTPS to HTTP.
package remote

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/ref"
)

// Options are the user's choices about a registry. The zero value is docker's behaviour for a pull.
type Options struct {
	Insecure bool     // plain HTTP, or a certificate that cannot be verified, is allowed
	Actions  []string // what is asked for: "pull" when empty; with "push" the registry itself is spoken to, never a mirror
	Mount    []string // push: other repositories of the same registry that blobs may be mounted from; asked for with "pull"
	AuthFile string   // credentials are read from this file alone; empty: from where docker and podman have them
	CertDir  string   // more authorities (*.crt) and client certificates (*.cert, *.key) for the registry
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

// Repository is a repository of a registry, authenticated for reading.
type Repository struct {
	ref    ref.Ref
	base   url.URL // https://host/v2/path
	client *http.Client
}

var _ image.Source = (*Repository)(nil)

// Open finds out how the registry of r wants to be spoken to, and authenticates. It asks the network.
func Open(ctx context.Context, r ref.Ref, o Options) (*Repository, error) {
	var opts []name.Option
	if o.Insecure || loopback(r.Domain) {
		opts = append(opts, name.Insecure) // HTTPS is tried first, then HTTP
	}
	registry, err := name.NewRegistry(r.Domain, opts...)
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "registry %s: %w", r.Domain, err)
	}
	repo := registry.Repo(r.Path)
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, repo)
	if err != nil {
		return nil, api.Errorf(api.Unauthorized, "credentials for registry %s from docker's config file: %w", r.Domain, err)
	}
	t, err := transport.NewWithContext(ctx, registry, auth, newTransport(o), scopes(r.Path, o))
	if err != nil {
		return nil, explain(ctx, r, err)
	}
	return &Repository{
		ref:    r,
		base:   url.URL{Scheme: registry.Scheme(), Host: registry.RegistryStr(), Path: "/v2/" + r.Path},
		client: &http.Client{Transport: t, CheckRedirect: checkRedirect},
	}, nil
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
func (r *Repository) Where() string { return "registry " + r.ref.Domain }

// Head asks for the digest that the reference has now; empty when the registry does not say.
func (r *Repository) Head(ctx context.Context) (digest.Digest, error) {
	resp, err := r.get(ctx, http.MethodHead, "manifests/"+r.ref.Identifier(), accept, 0)
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	d := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if d.Validate() != nil {
		return "", nil //nolint:nilerr // not every registry says it
	}
	return d, nil
}

// Resolve reads what the reference points to. The digest is of the bytes that came, checked against the reference's where it has one.
func (r *Repository) Resolve(ctx context.Context) (imagespec.Descriptor, error) {
	resp, err := r.get(ctx, http.MethodGet, "manifests/"+r.ref.Identifier(), accept, 0)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxDocument+1))
	if err != nil {
		return imagespec.Descriptor{}, explain(ctx, r.ref, err)
	}
	d := imagespec.Descriptor{MediaType: image.DetectMediaType(resp.Header.Get("Content-Type"), b), Size: int64(len(b)), Digest: digest.Digest(r.ref.Digest)}
	if d.Digest == "" {
		d.Digest = digest.FromBytes(b)
	}
	if err := image.Verify(r.Where(), d, b); err != nil {
		return imagespec.Descriptor{}, err
	}
	return d, nil
}

// Open implements image.Source. The reader goes on by itself when the connection breaks, as long as there is progress.
func (r *Repository) Open(ctx context.Context, d imagespec.Descriptor) (io.ReadCloser, error) {
	return r.OpenAt(ctx, d, 0)
}

// OpenAt is Open from a byte on: it returns the blob's bytes from offset, also where the registry ignores ranges and sends all of it. An
// offset that is d.Size yields nothing, one beyond it is an api.InvalidArgument. The caller checks the digest of the whole.
func (r *Repository) OpenAt(ctx context.Context, d imagespec.Descriptor, offset int64) (io.ReadCloser, error) {
	switch {
	case offset < 0 || offset > d.Size:
		return nil, api.Errorf(api.InvalidArgument, "%s: %s has %d bytes, it cannot be read from byte %d on", r.Where(), d.Digest, d.Size, offset)
	case offset == d.Size && offset > 0:
		return io.NopCloser(strings.NewReader("")), nil
	}
	path, want := "blobs/"+d.Digest.String(), ""
	if image.IsManifest(d.MediaType) || image.IsIndex(d.MediaType) {
		path, want = "manifests/"+d.Digest.String(), accept
	}
	b := &body{repo: r, path: path, accept: want, desc: d, offset: offset}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	if err := b.open(); err != nil {
		b.cancel(nil)
		return nil, err
	}
	return b, nil
}

// accept lists the documents that Brig understands.
var accept = strings.Join([]string{imagespec.MediaTypeImageIndex, imagespec.MediaTypeImageManifest, image.DockerIndex, image.DockerManifest}, ", ")

// get makes one request below the repository, from byte offset on. Errors are explained.
func (r *Repository) get(ctx context.Context, method, path, want string, offset int64) (*http.Response, error) {
	q := request{method: method, path: path, header: http.Header{}, ok: []int{http.StatusOK}}
	if want != "" {
		q.header.Set("Accept", want)
	}
	if offset > 0 {
		q.header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
		q.ok = append(q.ok, http.StatusPartialContent)
	}
	return r.do(ctx, q)
}

// do makes one request, authenticated where it goes to the registry's own host. A status that is not among q.ok is an error; errors are
// explained. The caller closes the body of the answer, whose Location method resolves a relative Location.
func (r *Repository) do(ctx context.Context, q request) (*http.Response, error) {
	u := r.base
	u.Path += "/" + q.path
	if strings.Contains(q.path, "://") {
		whole, err := url.Parse(q.path)
		if err != nil {
			return nil, api.Errorf(api.Unavailable, "registry %s: its Location %q: %w", r.ref.Domain, q.path, err)
		}
		u = *whole
	}
	if len(q.query) > 0 {
		v := u.Query()
		for k, all := range q.query {
			v[k] = append(v[k], all...)
		}
		u.RawQuery = v.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if q.body != nil {
		if req.Body, err = q.body(); err != nil {
			return nil, err
		}
		req.GetBody, req.ContentLength = q.body, q.size
	}
	for k, v := range q.header {
		req.Header[k] = v
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, explain(ctx, r.ref, err)
	}
	if len(q.ok) == 0 {
		q.ok = []int{http.StatusOK}
	}
	if err := transport.CheckError(resp, q.ok...); err != nil {
		resp.Body.Close()
		return nil, explain(ctx, r.ref, err)
	}
	return resp, nil
}
