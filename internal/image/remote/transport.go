package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"brig/api"
	"brig/internal/image/remote/hosts"
)

const (
	tries         = 4                      // of a request that has no answer yet
	firstBackoff  = 200 * time.Millisecond // then four times as long each
	maxRetryAfter = 60 * time.Second       // a registry that asks for more is reported instead
	maxPEM        = 4 << 20                // bytes of a file of certificates
	userAgent     = "brig"
)

var (
	errPlainHTTP = errors.New("plain HTTP is refused")
	errDowngrade = errors.New("redirect from HTTPS to plain HTTP is refused")
)

// patience is how long one place is waited for.
type patience struct {
	dial   time.Duration // until there is a connection
	header time.Duration // until an answer begins
	stall  time.Duration // without data of a body
	least  int64         // bytes that have to come in a time of stall; what comes slower has stalled
	tries  int           // of a request
}

func patient() patience {
	return patience{dial: 30 * time.Second, header: 60 * time.Second, stall: stallTime, least: 1, tries: tries}
}

// hasty is for a mirror: there is somebody else to ask.
func hasty() patience {
	return patience{dial: 5 * time.Second, header: 15 * time.Second, stall: 15 * time.Second, least: 64 << 10, tries: 2}
}

// guard is the innermost transport: it refuses plain HTTP to other machines, verifies certificates of theirs, and tries again where the
// protocol allows it. Every request for one place passes it, also those for tokens and after redirects; what was configured for the place
// (a client's certificate, headers, less verification) holds for its own host only, but for the authorities and for insecure.
type guard struct {
	place    hosts.Endpoint
	insecure bool
	patience patience
	pool     *x509.CertPool // nil: the system's
	certs    []tls.Certificate

	mu    sync.Mutex
	made  map[road]*http.Transport
	until time.Time // the place has asked for a pause
}

// road is a way to connect.
type road struct {
	own bool // to the place's host: with the client's certificate
	lax bool // certificates are not verified
}

func newGuard(e hosts.Endpoint, insecure bool, p patience) (*guard, error) {
	g := &guard{place: e, insecure: insecure || e.Insecure, patience: p, made: map[road]*http.Transport{}}
	if e.DialTimeout > 0 {
		g.patience.dial = e.DialTimeout
	}
	if len(e.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, file := range e.CA {
			b, err := readPEM(file)
			if err != nil {
				return nil, err
			}
			if !pool.AppendCertsFromPEM(b) {
				return nil, api.Errorf(api.InvalidArgument, "%s: holds no certificate of an authority", file)
			}
		}
		g.pool = pool
	}
	for _, pair := range e.Client {
		cert, err := readPEM(pair[0])
		if err != nil {
			return nil, err
		}
		key := cert
		if pair[1] != "" {
			if key, err = readPEM(pair[1]); err != nil {
				return nil, err
			}
		}
		c, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, api.Errorf(api.InvalidArgument, "client certificate %s: %w", pair[0], err)
		}
		g.certs = append(g.certs, c)
	}
	return g, nil
}

func readPEM(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "certificate: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPEM))
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "certificate: %w", err)
	}
	return b, nil
}

// choose says how a host is connected to, or that it is not.
func (g *guard) choose(req *http.Request) (road, error) {
	own, local := sameHost(req.URL, g.place.Host), hosts.Loopback(req.URL.Host)
	if req.URL.Scheme != "https" && !g.insecure && !local && !(own && g.place.Schemes[len(g.place.Schemes)-1] == "http") {
		return road{}, fmt.Errorf("%s: %w", req.URL.Host, errPlainHTTP)
	}
	switch {
	case g.insecure:
		return road{own, true}, nil
	case own && g.place.SkipVerify != nil:
		return road{own, *g.place.SkipVerify}, nil
	}
	return road{own, local && !(own && g.pool != nil)}, nil // who names an authority for loopback wants it asked
}

func (g *guard) transport(r road) *http.Transport {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.made[r]; t != nil {
		return t
	}
	config := &tls.Config{RootCAs: g.pool, InsecureSkipVerify: r.lax, MinVersion: tls.VersionTLS12} // lax: for loopback, or at the user's demand
	if r.own {
		config.Certificates = g.certs
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: g.patience.dial, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       config,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // blobs are wanted as they are stored
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: g.patience.header,
		ReadBufferSize:        64 << 10,
	}
	g.made[r] = t
	return t
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	r, err := g.choose(req)
	if err != nil {
		return nil, err
	}
	t := g.transport(r)
	req = req.Clone(req.Context())
	if r.own {
		for k, v := range g.place.Header {
			req.Header[http.CanonicalHeaderKey(k)] = v
		}
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", userAgent)
	}
	for try := 1; ; try++ {
		if err := g.wait(req.Context()); err != nil {
			return nil, err
		}
		resp, err := t.RoundTrip(req)
		wait, again := retry(resp, err, try)
		if !again || try >= g.patience.tries || req.Context().Err() != nil {
			return resp, err
		}
		if req.Body != nil && req.Body != http.NoBody {
			if req.GetBody == nil || req.Method == http.MethodPatch { // a piece that came may not come again
				return resp, err
			}
			body, berr := req.GetBody()
			if berr != nil {
				return resp, err
			}
			req.Body = body
		}
		if resp != nil {
			if resp.StatusCode == http.StatusTooManyRequests {
				g.pauseAll(wait)
			}
			_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
			resp.Body.Close()
		}
		if err := pause(req.Context(), wait); err != nil {
			return nil, err
		}
	}
}

// pauseAll has the other requests wait too: a place that is asked too much is not asked by those that have not been told yet.
func (g *guard) pauseAll(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := time.Now().Add(d); t.After(g.until) {
		g.until = t
	}
}

func (g *guard) wait(ctx context.Context) error {
	g.mu.Lock()
	d := time.Until(g.until)
	g.mu.Unlock()
	if d <= 0 {
		return nil
	}
	return pause(ctx, d+jitter(d))
}

// retry says whether another try may help, and how long to wait for it: what the answer asks for, else longer each time.
func retry(resp *http.Response, err error, try int) (time.Duration, bool) {
	if err != nil {
		return backoff(try), errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if s := resp.Header.Get("Retry-After"); s != "" {
			wait := retryAfter(s, time.Now())
			return wait + jitter(wait), wait <= maxRetryAfter
		}
		return backoff(try), true
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return backoff(try), true
	}
	return 0, false
}

// retryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, t.Sub(now))
	}
	return firstBackoff
}

// backoff is the time before try n+1, with a fifth of jitter.
func backoff(n int) time.Duration {
	d := firstBackoff << (2 * (n - 1))
	return d + jitter(d)
}

// jitter is up to a fifth of d, at most three seconds: who was told to wait together shall not come back together.
func jitter(d time.Duration) time.Duration {
	return rand.N(min(d/5, 3*time.Second) + 1)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// checkRedirect allows what the Go client allows, except leaving HTTPS. Credentials are bound to the registry's host by the transports.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errDowngrade
	}
	return nil
}
