package remote

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"brig/api"
	"brig/internal/image/ref"
	"brig/internal/image/remote/credential"
	"brig/internal/image/remote/hosts"
)

// registry is the place of a whole registry, to be spoken to with c, or with what the files have where c is nil.
func registry(host string, c *credential.Credential, o Options) (*place, error) {
	var err error
	if o.Hosts == nil {
		if o.Hosts, err = hosts.Load(o.CertDir); err != nil {
			return nil, err
		}
	}
	e, err := o.Hosts.Registry(host)
	if err != nil {
		return nil, err
	}
	e.NS, o.as = "", c
	return newPlace(e, subject{image: ref.Ref{Domain: host}, action: "login"}, o, nil, o.Hosts.Helpers(), patient())
}

// Login finds out whether a registry takes a credential. It returns what to keep: the credential, or the identity token that the registry
// gave for the password. A refusal is an api.Unauthorized.
func Login(ctx context.Context, host string, c credential.Credential, o Options) (credential.Credential, error) {
	p, err := registry(host, &c, o)
	if err != nil {
		return c, err
	}
	p.session.offline = true
	if err := p.dial(ctx); err != nil {
		return c, err
	}
	u := url.URL{Scheme: p.scheme, Host: p.at.Host, Path: p.at.Root + "/"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return c, err
	}
	resp, err := p.client.Do(req)
	if err == nil {
		err = checkStatus(resp, http.StatusOK)
		resp.Body.Close()
	}
	var status *statusError
	var token *tokenError
	switch {
	case errors.As(err, &token) && token.kind() == api.Unauthorized:
		return c, api.Errorf(api.Unauthorized, "login attempt to %s failed: token server %s: %w", &u, token.server, token.err)
	case errors.As(err, &token):
		return c, p.about.explain(ctx, err)
	case errors.As(err, &status) && (status.code == http.StatusUnauthorized || status.code == http.StatusForbidden):
		return c, api.Errorf(api.Unauthorized, "login attempt to %s failed with status: %d %s", &u, status.code, http.StatusText(status.code)) // docker's words
	case err != nil:
		return c, p.about.explain(ctx, err)
	}
	if p.session.identity != "" && c.Password != "" {
		return credential.Credential{Username: c.Username, IdentityToken: p.session.identity}, nil
	}
	return c, nil
}
