package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"brig/api"
	"brig/internal/image/remote/credential"
	"brig/internal/image/remote/hosts"
)

const (
	clientID = "brig"
	// maxToken bounds a token server's answer, in bytes.
	maxToken = 1 << 20
	// tokenLife is how long a token is good whose server does not say: distribution's token specification.
	tokenLife = 60 * time.Second
	// tokenSlack is how long before its end a token is not used any more.
	tokenSlack = 5 * time.Second
	// maxScopes bounds what a registry may have Brig ask for, beside what it asks by itself.
	maxScopes = 16
)

// session authenticates the requests to one place: with a token of the server that the registry names, by basic authentication, or not at
// all. Credentials and tokens go to the place's own host, and credentials to its token server, nowhere else: a request that a redirect has
// led elsewhere passes as it is.
type session struct {
	inner   http.RoundTripper
	host    string // the place's
	secrets func(context.Context) (credential.Credential, error)
	offline bool // login: ask for an identity token

	lock      chan struct{} // holds what is below; a channel, so that who waits can be cancelled
	scopes    []string
	challenge *challenge
	secure    bool // the challenge came over TLS
	known     *credential.Credential
	token     string
	end       time.Time // of token
	identity  string    // that a token server gave for a password
}

func newSession(inner http.RoundTripper, host string, scopes []string, secrets func(context.Context) (credential.Credential, error)) *session {
	return &session{inner: inner, host: host, scopes: scopes, secrets: secrets, lock: make(chan struct{}, 1)}
}

// RoundTrip implements http.RoundTripper.
func (s *session) RoundTrip(req *http.Request) (*http.Response, error) {
	if !sameHost(req.URL, s.host) {
		return s.inner.RoundTrip(req)
	}
	header, err := s.authorization(req.Context(), "")
	if err != nil {
		return nil, err
	}
	resp, err := s.inner.RoundTrip(with(req, header))
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	c := choose(resp.Header)
	if c == nil || c.scheme == "basic" && header != "" {
		return resp, nil
	}
	again := req
	if req.Body != nil && req.Body != http.NoBody {
		if req.GetBody == nil {
			return resp, nil
		}
		body, err := req.GetBody()
		if err != nil {
			return nil, errors.Join(err, resp.Body.Close())
		}
		again = req.Clone(req.Context())
		again.Body = body
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
	if err := s.learn(req.Context(), c, req.URL.Scheme == "https"); err != nil {
		return nil, err
	}
	if header, err = s.authorization(req.Context(), header); err != nil {
		return nil, err
	}
	return s.inner.RoundTrip(with(again, header))
}

// with is req with an Authorization header; a round trip may not change its request.
func with(req *http.Request, authorization string) *http.Request {
	if authorization == "" {
		return req
	}
	c := req.Clone(req.Context())
	c.Header.Set("Authorization", authorization)
	return c
}

func (s *session) hold(ctx context.Context) error {
	select {
	case s.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *session) release() { <-s.lock }

// learn takes over a challenge, and what scope it says that a request needs.
func (s *session) learn(ctx context.Context, c *challenge, secure bool) error {
	if err := s.hold(ctx); err != nil {
		return err
	}
	defer s.release()
	s.challenge, s.secure = c, secure
	for scope := range strings.FieldsSeq(c.params["scope"]) {
		// Some servers look at the first scope only: what was refused comes first.
		if !slices.Contains(s.scopes, scope) && !s.covered(scope) && len(s.scopes) < maxScopes {
			s.scopes = append([]string{scope}, s.scopes...)
		}
	}
	return nil
}

// covered reports whether a scope is part of one that is asked for anyhow: repository:x:pull of repository:x:pull,push.
func (s *session) covered(scope string) bool {
	i := strings.LastIndexByte(scope, ':')
	if i < 0 {
		return false
	}
	for _, have := range s.scopes {
		actions, ok := strings.CutPrefix(have, scope[:i+1])
		if !ok {
			continue
		}
		list := strings.Split(actions, ",")
		if !slices.ContainsFunc(strings.Split(scope[i+1:], ","), func(a string) bool { return !slices.Contains(list, a) }) {
			return true
		}
	}
	return false
}

// authorization is the header for a request to the registry; empty while none has been asked for. refused is what it did not take: then
// another is made, unless somebody else has meanwhile.
func (s *session) authorization(ctx context.Context, refused string) (string, error) {
	if err := s.hold(ctx); err != nil {
		return "", err
	}
	defer s.release()
	if s.challenge == nil {
		return "", nil
	}
	if s.known == nil {
		c, err := s.secrets(ctx)
		if err != nil {
			return "", err
		}
		s.known = &c
	}
	if s.challenge.scheme == "basic" {
		if s.known.Password == "" {
			return "", nil
		}
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(s.known.Username, s.known.Password)
		return r.Header.Get("Authorization"), nil
	}
	if s.known.RegistryToken != "" {
		return "Bearer " + s.known.RegistryToken, nil
	}
	if s.token == "" || "Bearer "+s.token == refused || !time.Now().Before(s.end) {
		if err := s.fetch(ctx); err != nil {
			return "", err
		}
	}
	return "Bearer " + s.token, nil
}

// fetch gets a token. The lock is held.
func (s *session) fetch(ctx context.Context) error {
	realm, err := s.realm()
	if err != nil {
		return err
	}
	client := &http.Client{Transport: s.inner, CheckRedirect: checkRedirect}
	if !s.known.Empty() {
		client.CheckRedirect = stay
	}
	var answer token
	if s.known.IdentityToken != "" {
		answer, err = s.post(ctx, client, realm)
		var status *statusError
		if errors.As(err, &status) && (status.code == http.StatusNotFound || status.code == http.StatusMethodNotAllowed) && s.known.Password != "" {
			answer, err = s.get(ctx, client, realm) // not every server knows OAuth 2
		}
	} else {
		answer, err = s.get(ctx, client, realm)
	}
	if err != nil {
		return &tokenError{realm.Host, s.known.Empty(), err}
	}
	s.token, s.end = answer.value, time.Now().Add(answer.life-tokenSlack)
	if answer.refresh != "" {
		s.identity = answer.refresh
	}
	return nil
}

// stay is checkRedirect for requests that credentials are in: of its own accord net/http takes a password along to other ports and to hosts below the first, and
// a body, which is where an identity token is, to anybody.
func stay(req *http.Request, via []*http.Request) error {
	if !sameHost(req.URL, via[0].URL.Host) {
		return fmt.Errorf("a redirect to %s is refused: credentials are for %s", req.URL.Host, via[0].URL.Host)
	}
	return checkRedirect(req, via)
}

// realm is the token server's address. It comes from the registry, so that it must not lead to where only this machine gets: the addresses
// of the link, where clouds keep a machine's own credentials, and loopback unless the registry is there too.
func (s *session) realm() (*url.URL, error) {
	u, err := url.Parse(s.challenge.params["realm"])
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return nil, fmt.Errorf("its token server has no address that Brig understands: %.200q", s.challenge.params["realm"])
	}
	if s.secure && u.Scheme != "https" && !sameHost(u, s.host) && !hosts.Loopback(s.host) {
		return nil, fmt.Errorf("token server %s: %w", u.Host, errDowngrade)
	}
	if sameName(u.Hostname(), s.host) {
		return u, nil
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil && (a.Unmap().IsLinkLocalUnicast() || a == netip.MustParseAddr("fd00:ec2::254")) || hosts.Loopback(u.Host) && !hosts.Loopback(s.host) {
		return nil, fmt.Errorf("token server %s is refused: a registry may not send its clients there", u.Host)
	}
	return u, nil
}

// get is the way of distribution's token specification.
func (s *session) get(ctx context.Context, client *http.Client, realm *url.URL) (token, error) {
	v := realm.Query()
	if service := s.challenge.params["service"]; service != "" {
		v.Set("service", service)
	}
	for _, scope := range s.scopes {
		v.Add("scope", scope)
	}
	if s.known.Username != "" {
		v.Set("account", s.known.Username)
	}
	if s.offline {
		v.Set("offline_token", "true")
		v.Set("client_id", clientID)
	}
	u := *realm
	u.RawQuery = v.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return token{}, err
	}
	if s.known.Password != "" {
		req.SetBasicAuth(s.known.Username, s.known.Password)
	}
	return ask(client, req)
}

// post is the way of OAuth 2, with an identity token.
func (s *session) post(ctx context.Context, client *http.Client, realm *url.URL) (token, error) {
	v := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.known.IdentityToken}, "client_id": {clientID}}
	if service := s.challenge.params["service"]; service != "" {
		v.Set("service", service)
	}
	if len(s.scopes) > 0 {
		v.Set("scope", strings.Join(s.scopes, " "))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(v.Encode()))
	if err != nil {
		return token{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return ask(client, req)
}

// token is what a token server gives.
type token struct {
	value, refresh string
	life           time.Duration
}

func ask(client *http.Client, req *http.Request) (token, error) {
	resp, err := client.Do(req)
	if err != nil {
		return token{}, err
	}
	defer resp.Body.Close()
	if err := checkStatus(resp, http.StatusOK); err != nil {
		return token{}, err
	}
	b, err := whole(resp.Body, maxToken+1, stallTime)
	if err != nil {
		return token{}, err
	}
	if len(b) > maxToken {
		return token{}, fmt.Errorf("its answer is longer than %d bytes", maxToken)
	}
	return parseToken(b)
}

// parseToken reads the answer of a token server. Names count to the letter: an answer that has "Token" is somebody else's.
func parseToken(b []byte) (token, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return token{}, fmt.Errorf("its answer is no JSON object: %w", err)
	}
	t := token{life: tokenLife}
	text := func(name string) string {
		var s string
		_ = json.Unmarshal(fields[name], &s) // what is no string is not there
		return s
	}
	if t.value = text("token"); t.value == "" {
		t.value = text("access_token")
	}
	t.refresh = text("refresh_token")
	var n float64
	if json.Unmarshal(fields["expires_in"], &n) == nil && n > tokenLife.Seconds() && n < 1e6 { // less than a minute is against the specification
		t.life = time.Duration(n * float64(time.Second))
	}
	if t.value == "" || strings.ContainsAny(t.value, "\r\n\x00") {
		return token{}, errors.New("its answer holds no token")
	}
	return t, nil
}

// tokenError is a failure to get a token.
type tokenError struct {
	server string
	nobody bool // no credentials were sent
	err    error
}

func (e *tokenError) Error() string { return "token server " + e.server + ": " + e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

// kind is what the failure is to a user.
func (e *tokenError) kind() api.Kind {
	var status *statusError
	if errors.As(e.err, &status) && (status.code == http.StatusUnauthorized || status.code == http.StatusForbidden || status.code == http.StatusBadRequest) {
		return api.Unauthorized
	}
	return api.Unavailable
}

// sameHost reports whether u leads to host[:port].
func sameHost(u *url.URL, host string) bool {
	return strings.EqualFold(withPort(u.Host, u.Scheme), withPort(host, u.Scheme))
}

// sameName compares without ports.
func sameName(name, host string) bool {
	u := url.URL{Host: host}
	return strings.EqualFold(name, u.Hostname())
}

func withPort(host, scheme string) string {
	u := url.URL{Host: host}
	if u.Port() != "" {
		return host
	}
	if scheme == "http" {
		return strings.TrimSuffix(host, ":") + ":80"
	}
	return strings.TrimSuffix(host, ":") + ":443"
}
