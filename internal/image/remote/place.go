package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"brig/api"
	"brig/internal/image/remote/credential"
	"brig/internal/image/remote/hosts"
)

// place is one host that has the repository: a mirror or the registry itself. It is connected to when it is first needed.
type place struct {
	at      hosts.Endpoint
	about   subject
	client  *http.Client
	session *session
	guard   *guard

	mu     sync.Mutex
	scheme string // "": not asked yet
	broken error  // why it is not asked any more: a mirror only
	served bool   // content came from it
}

// newPlace makes a place; nothing is asked of the network. scopes are what a token is asked for.
func newPlace(e hosts.Endpoint, about subject, o Options, scopes []string, helpers []string, p patience) (*place, error) {
	g, err := newGuard(e, o.Insecure, p)
	if err != nil {
		return nil, err
	}
	if o.Insecure {
		e.Schemes = []string{"https", "http"}
		g.place.Schemes = e.Schemes
	}
	secrets := func(ctx context.Context) (credential.Credential, error) {
		if o.as != nil {
			return *o.as, nil
		}
		return credential.Open(o.AuthFile, helpers...).Get(ctx, e.Account, e.Repo)
	}
	s := newSession(g, e.Host, scopes, secrets)
	about.place = e.Name()
	return &place{at: e, about: about, guard: g, session: s, client: &http.Client{Transport: s, CheckRedirect: checkRedirect}}, nil
}

// dial finds out whether the place speaks HTTPS or, where that is allowed, plain HTTP, and what it wants of who asks. It is done once.
func (p *place) dial(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.scheme != "" {
		return nil
	}
	var errs []error
	for _, scheme := range p.at.Schemes {
		u := url.URL{Scheme: scheme, Host: p.at.Host, Path: p.at.Root + "/"}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return api.Errorf(api.InvalidArgument, "%s: %w", p.at.Name(), err)
		}
		resp, err := (&http.Client{Transport: p.guard, CheckRedirect: checkRedirect}).Do(req)
		if err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil || verified(err) {
				break // who speaks TLS is not asked without
			}
			continue
		}
		resp.Body.Close()
		if c := choose(resp.Header); c != nil && resp.StatusCode == http.StatusUnauthorized {
			c.params["scope"] = "" // that of the whole API, which nobody wants
			if err := p.session.learn(ctx, c, scheme == "https"); err != nil {
				return err
			}
		}
		// Other answers are told by the request to come: not everybody who has repositories has this address.
		if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 {
			return p.about.explain(ctx, checkStatus(resp))
		}
		p.scheme = scheme
		return nil
	}
	return p.about.explain(ctx, firstTelling(errs))
}

// verified reports whether a connection failed over a certificate, the place's or ours.
func verified(err error) bool {
	var theirs *tls.CertificateVerificationError
	return errors.As(err, &theirs) || alerted(err)
}

// firstTelling is of the failures with HTTPS and with HTTP the one to tell: the last, unless that says only that it was TLS.
func firstTelling(errs []error) error {
	last := errs[len(errs)-1]
	if strings.Contains(last.Error(), "malformed HTTP response") {
		return errs[0]
	}
	return last
}

// url is an address below the repository; path may be a whole address that the registry gave.
func (p *place) url(q request) (*url.URL, error) {
	if strings.Contains(q.path, "://") {
		u, err := url.Parse(q.path)
		if err != nil || u.Host == "" {
			return nil, api.Errorf(api.Unavailable, "%s: its Location %.200q is no address", p.at.Name(), q.path)
		}
		return u, nil
	}
	path := p.at.Root + "/"
	if p.at.Repo != "" {
		path += p.at.Repo + "/"
	}
	u := &url.URL{Scheme: p.scheme, Host: p.at.Host, Path: path + q.path}
	if p.at.NS != "" {
		u.RawQuery = url.Values{"ns": {p.at.NS}}.Encode()
	}
	return u, nil
}

// do makes one request. Errors are explained.
func (p *place) do(ctx context.Context, q request) (*http.Response, error) {
	resp, err := p.try(ctx, q)
	if err != nil {
		return nil, p.about.explain(ctx, err)
	}
	return resp, nil
}

// try makes one request. Errors are as they come, for who makes something of a status.
func (p *place) try(ctx context.Context, q request) (*http.Response, error) {
	if err := p.dial(ctx); err != nil {
		return nil, err
	}
	u, err := p.url(q)
	if err != nil {
		return nil, err
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
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	ok := q.ok
	if len(ok) == 0 {
		ok = []int{http.StatusOK}
	}
	if err := checkStatus(resp, ok...); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// fail notes why a mirror is not to be asked any more; it reports whether that is news. That a mirror lacks something is no failure.
func (p *place) fail(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil || errors.Is(err, api.NotFound) {
		return false
	}
	p.broken = err
	return true
}

func (p *place) usable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken == nil
}
