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

// Options are the user's choices about a registry. The zero value is docker's behaviour.
type Options struct {
	Insecure bool // plain HTTP, or a certificate that cannot be verified, is allowed
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
	t, err := transport.NewWithContext(ctx, registry, auth, newTransport(o), []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, explain(ctx, r, err)
	}
	return &Repository{
		ref:    r,
		base:   url.URL{Scheme: registry.Scheme(), Host: registry.RegistryStr(), Path: "/v2/" + r.Path},
		client: &http.Client{Transport: t, CheckRedirect: checkRedirect},
	}, nil
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
	path, want := "blobs/"+d.Digest.String(), ""
	if image.IsManifest(d.MediaType) || image.IsIndex(d.MediaType) {
		path, want = "manifests/"+d.Digest.String(), accept
	}
	b := &body{repo: r, path: path, accept: want, desc: d}
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
	u := r.base
	u.Path += "/" + path
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if want != "" {
		req.Header.Set("Accept", want)
	}
	if offset > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, explain(ctx, r.ref, err)
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		return nil, explain(ctx, r.ref, err)
	}
	return resp, nil
}
