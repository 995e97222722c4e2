package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"brig/api"
)

const (
	maxRedirects = 10
	// stall is how long a server may send nothing.
	stall = 60 * time.Second
)

// isURL reports whether a source is to be fetched: docker's rule.
func isURL(s string) bool { return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") }

// withoutPassword is a URL as it may be shown and kept.
func withoutPassword(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "URL"
	}
	return u.Redacted()
}

// fetch gets what a URL stands for. From HTTPS no redirect leads to plain HTTP, and a server that falls silent is given up. How much comes is
// bounded by who reads.
func fetch(ctx context.Context, address string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	shown := withoutPassword(address)
	fail := func(kind api.Kind, err error) (io.ReadCloser, error) {
		cancel(nil)
		return nil, api.Errorf(kind, "import from %s: %w", shown, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // it repeats the URL, with the password
		}
		return fail(api.InvalidArgument, err)
	}
	client := &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 30 * time.Second}).DialContext, ForceAttemptHTTP2: true,
			DisableCompression: true, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: stall, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			switch {
			case len(via) > maxRedirects:
				return fmt.Errorf("more than %d redirects", maxRedirects)
			case next.URL.Scheme != "http" && next.URL.Scheme != "https":
				return fmt.Errorf("redirect to %q: only http and https are followed", next.URL.Scheme)
			case next.URL.Scheme == "http" && via[len(via)-1].URL.Scheme == "https":
				return errors.New("redirect from HTTPS to plain HTTP is refused")
			}
			return nil
		},
	}
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		if ctx.Err() != nil {
			return fail("", context.Cause(ctx))
		}
		return fail(api.Unavailable, err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		kind := api.Unavailable
		if resp.StatusCode == http.StatusNotFound {
			kind = api.NotFound
		}
		return fail(kind, fmt.Errorf("the server answered %q", resp.Status))
	}
	b := &body{r: resp.Body, cancel: cancel, want: resp.ContentLength}
	b.timer = time.AfterFunc(stall, func() { cancel(errStalled) })
	b.cause = func() error { return context.Cause(ctx) }
	return b, nil
}

var errStalled = fmt.Errorf("the server sent nothing for %s", stall)

// body is an answer that must not stall and must be whole.
type body struct {
	r      io.ReadCloser
	cancel context.CancelCauseFunc
	cause  func() error
	timer  *time.Timer
	want   int64 // -1: not announced
	n      int64
}

func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(stall)
	n, err := b.r.Read(p)
	b.timer.Stop() // how long the reader takes is no fault of the server's
	b.n += int64(n)
	if err == nil {
		return n, nil
	}
	switch cause := b.cause(); {
	case cause != nil:
		err = api.Errorf(api.Unavailable, "%w", cause)
	case err == io.EOF && b.want >= 0 && b.n != b.want:
		err = api.Errorf(api.Unavailable, "the server sent %d bytes of %d", b.n, b.want)
	case err != io.EOF:
		err = api.Errorf(api.Unavailable, "%w", err)
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	err := b.r.Close()
	b.cancel(nil)
	return err
}
