package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	tries         = 4                      // of a request that has no answer yet
	firstBackoff  = 200 * time.Millisecond // then four times as long each
	maxRetryAfter = 60 * time.Second       // a registry that asks for more is reported instead
)

var (
	errPlainHTTP = errors.New("plain HTTP is refused")
	errDowngrade = errors.New("redirect from HTTPS to plain HTTP is refused")
)

// guard is the innermost transport: it refuses plain HTTP to other machines, verifies certificates of theirs, and tries again where the
// protocol allows it. Every request passes it, also those for tokens and after redirects.
type guard struct {
	insecure bool
	strict   *http.Transport // verifies certificates
	lax      *http.Transport // for loopback, and for all when insecure
}

func newTransport(o Options) http.RoundTripper {
	strict := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // blobs are wanted as they are stored
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		ReadBufferSize:        64 << 10,
	}
	lax := strict.Clone()
	lax.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // used for loopback or at the user's demand only
	return &guard{insecure: o.Insecure, strict: strict, lax: lax}
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	t := g.strict
	if g.insecure || loopback(req.URL.Host) {
		t = g.lax
	} else if req.URL.Scheme != "https" {
		return nil, fmt.Errorf("%s: %w", req.URL.Host, errPlainHTTP)
	}
	for try := 1; ; try++ {
		resp, err := t.RoundTrip(req)
		wait, again := retry(resp, err, try)
		if !again || try == tries || req.Context().Err() != nil || req.Body != nil && req.Body != http.NoBody {
			return resp, err
		}
		if resp != nil {
			_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
			resp.Body.Close()
		}
		if err := pause(req.Context(), wait); err != nil {
			return nil, err
		}
	}
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
			return wait, wait <= maxRetryAfter
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
	return d + time.Duration(rand.Int64N(int64(d/5)))
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

// loopback reports whether host[:port] is this machine, by name or number: docker's rule for registries without TLS.
func loopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
