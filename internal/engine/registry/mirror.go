package registry

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/ref"
	"brig/internal/image/remote"
	"brig/internal/store/repository"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// upstreamLife is how long a repository's connection and token are used. A token that ends earlier is asked for again.
	upstreamLife = 5 * time.Minute
	// maxUpstreams bounds how many are kept.
	maxUpstreams = 256
)

// Mirror is another registry that is read through this one.
type Mirror struct {
	Domain   string // as references name it: docker.io
	host     string // where it is asked: host[:port]
	prefix   string // of the paths there, or empty
	insecure bool   // plain HTTP
}

// ParseMirror reads DOMAIN or DOMAIN=URL.
func ParseMirror(s string) (Mirror, error) {
	domain, address, given := strings.Cut(s, "=")
	name, err := ref.Parse(domain + "/x/y")
	if err != nil || name.Domain != domain {
		return Mirror{}, api.Errorf(api.InvalidArgument, "mirror %q: %q is not the name of a registry; want DOMAIN or DOMAIN=URL, as in docker.io=https://mirror.example.org", s, domain)
	}
	if !given {
		return Mirror{Domain: domain, host: domain}, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return Mirror{}, api.Errorf(api.InvalidArgument, "mirror %q: %q is not an address like https://mirror.example.org or https://mirror.example.org/prefix", s, address)
	}
	m := Mirror{Domain: domain, host: u.Host, prefix: strings.Trim(u.Path, "/"), insecure: u.Scheme == "http"}
	if _, err := ref.Parse(m.host + "/" + m.path("x/y")); err != nil {
		return Mirror{}, api.Errorf(api.InvalidArgument, "mirror %q: %q is not an address of a registry", s, address)
	}
	return m, nil
}

// path is a repository's path at the mirrored registry.
func (m *Mirror) path(repo string) string {
	if m.prefix == "" {
		return repo
	}
	return m.prefix + "/" + repo
}

// place is where a repository's name leads.
type place struct {
	repo   string  // whose records answer
	mirror *Mirror // nil: nobody else is asked
	path   string  // of the repository in the mirrored registry
}

// place finds out where a name leads: with a mirrored registry's domain in front to that; else to the repository, if something was pushed to
// it; else to the first mirrored registry. So an image that was pushed here is never looked for elsewhere.
func (r *Registry) place(repo string) place {
	first, rest, more := strings.Cut(repo, "/")
	for i := range r.mirrors {
		if m := &r.mirrors[i]; more && m.Domain == first {
			return m.place(rest, repo)
		}
	}
	registry := more && (strings.ContainsAny(first, ".:") || first == "localhost")
	if len(r.mirrors) == 0 || registry || r.repos.Exists(repo) {
		return place{repo: repo}
	}
	return r.mirrors[0].place(repo, repo)
}

func (m *Mirror) place(path, repo string) place {
	name, err := ref.Parse(m.Domain + "/" + path) // debian of docker.io is library/debian
	if err != nil {
		return place{repo: repo}
	}
	return place{name.Name(), m, name.Path}
}

// writable refuses to push into a mirrored registry's repositories: they say what that registry says.
func (r *Registry) writable(repo string) error {
	first, _, more := strings.Cut(repo, "/")
	for _, m := range r.mirrors {
		if more && m.Domain == first {
			return api.Errorf(api.Unsupported, "repository %s mirrors the one of %s: push to that, or under another name", repo, m.Domain)
		}
	}
	return nil
}

// upstream is a repository of a mirrored registry, spoken to.
type upstream struct {
	repo  *remote.Repository
	until time.Time
}

// open speaks to a repository of a mirrored registry. Credentials are those of docker's config file.
func (r *Registry) open(ctx context.Context, at place) (*remote.Repository, error) {
	r.mu.Lock()
	up, ok := r.upstreams[at.repo]
	r.mu.Unlock()
	if ok && time.Now().Before(up.until) {
		return up.repo, nil
	}
	// The path's grammar was checked; a tag is filled in for each request.
	name := ref.Ref{Domain: at.mirror.host, Path: at.mirror.path(at.path), Tag: ref.DefaultTag}
	// Not by way of this machine's own mirrors: this registry may be one, and would ask itself.
	repo, err := remote.Open(ctx, name, remote.Options{Insecure: at.mirror.insecure, Direct: true})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.upstreams) >= maxUpstreams {
		clear(r.upstreams)
	}
	r.upstreams[at.repo] = upstream{repo, time.Now().Add(upstreamLife)}
	return repo, nil
}

// mirrored finds a manifest of a mirrored registry. What a tag names now, that registry says; where it does not answer, what it said last,
// or an image that Brig has. repo is the name that was asked for.
func (r *Registry) mirrored(ctx context.Context, at place, repo, tag string, d digest.Digest) (imagespec.Descriptor, error) {
	if tag == "" {
		desc, err := r.recorded(at.repo, "", d)
		if errors.Is(err, api.NotFound) {
			desc, err = r.ofImages(repo, "", d)
		}
		if err == nil || !errors.Is(err, api.NotFound) {
			return desc, err
		}
	}
	desc, err := r.ask(ctx, at, tag, d)
	if err == nil || ctx.Err() != nil {
		return desc, err
	}
	kind := api.KindOf(err)
	if kind == api.Unauthorized { // said to who asks, it would be taken for a wish for credentials of this registry
		err = &api.Error{Kind: api.NotFound, Err: errors.New(err.Error())}
	}
	if kind != api.Unavailable && kind != api.NotFound && kind != api.Unauthorized {
		return desc, err
	}
	if kind == api.Unavailable {
		if desc, rerr := r.recorded(at.repo, tag, d); rerr == nil {
			r.log("%v; serving what it had last", err)
			return desc, nil
		}
	}
	if desc, rerr := r.ofImages(repo, tag, d); rerr == nil {
		return desc, nil
	}
	return desc, err
}

// ask has the mirrored registry say what a tag or a digest is, and fetches the manifest if it is not here.
func (r *Registry) ask(ctx context.Context, at place, tag string, d digest.Digest) (imagespec.Descriptor, error) {
	up, err := r.open(ctx, at)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	up = up.At(tag, d)
	if tag != "" {
		now, err := up.Head(ctx)
		if err != nil {
			return imagespec.Descriptor{}, err
		}
		if desc, err := r.recorded(at.repo, "", now); now != "" && err == nil {
			if was, _ := r.repos.Tag(at.repo, tag); was != now {
				err = r.repos.SetTag(at.repo, tag, now)
			}
			return desc, err
		}
	}
	doc, err := up.Document(ctx)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	return doc.Descriptor, r.keep(ctx, at.repo, tag, doc)
}

// keep records a manifest that came from a mirrored registry. What it names comes when it is asked for.
func (r *Registry) keep(ctx context.Context, repo, tag string, doc image.Document) error {
	m, err := read(doc.Descriptor.MediaType, doc.Bytes)
	if err != nil {
		return api.Errorf(api.Corrupt, "manifest %s of %s: %w", doc.Descriptor.Digest, repo, err)
	}
	for _, b := range m.blobs() {
		if err := r.repos.Announce(repo, b); err != nil {
			return err
		}
	}
	return r.locked(ctx, func() error {
		return r.putManifest(ctx, repo, m.record(doc.Descriptor), doc.Bytes, tag)
	})
}

// putManifest writes a manifest: its record first, so that no clean-up takes its bytes, then the bytes, then its tags. The caller holds
// the lock.
func (r *Registry) putManifest(ctx context.Context, repo string, m repository.Manifest, b []byte, tags ...string) error {
	if err := r.repos.PutManifest(repo, m); err != nil {
		return err
	}
	if !r.stores.Content.Has(m.Digest) {
		w, err := r.stores.Content.Writer(ctx, m.Digest, m.Size)
		if err != nil {
			return err
		}
		defer w.Abort()
		if _, err := w.Write(b); err != nil {
			return err
		}
		if _, _, err := w.Commit(); err != nil {
			return err
		}
	}
	for _, tag := range tags {
		if tag == "" {
			continue
		}
		if err := r.repos.SetTag(repo, tag, m.Digest); err != nil {
			return err
		}
	}
	return nil
}
