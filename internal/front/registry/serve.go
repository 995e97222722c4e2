package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	headerTime = 30 * time.Second // for a request's head
	keepAlive  = 2 * time.Minute  // of a connection without a request
	maxHeader  = 64 << 10         // bytes
	// lastRequests is how long requests under way have when the server is told to stop. Uploads go on with the next one.
	lastRequests = 5 * time.Second
)

// Serve answers on a listener until ctx ends, with TLS where there is a configuration. Requests under way are finished, or cut off after
// some seconds. It closes the listener.
func Serve(ctx context.Context, l net.Listener, h http.Handler, c *tls.Config, logf func(format string, args ...any)) error {
	s := &http.Server{
		Handler: h, TLSConfig: c, ReadHeaderTimeout: headerTime, IdleTimeout: keepAlive, MaxHeaderBytes: maxHeader,
		ErrorLog: log.New(lines(logf), "", 0),
	}
	failed := make(chan error, 1)
	go func() {
		if c != nil {
			failed <- s.ServeTLS(l, "", "")
		} else {
			failed <- s.Serve(l)
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	late, cancel := context.WithTimeout(context.Background(), lastRequests)
	defer cancel()
	err := s.Shutdown(late)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.Close()
	}
	<-failed //nolint:errcheck // it says that the server was closed
	return err
}

// lines is an io.Writer for package log.
type lines func(format string, args ...any)

func (f lines) Write(p []byte) (int, error) {
	// A client that hangs up in the middle of its greeting, or speaks HTTP to TLS, is nothing to report.
	if s := strings.TrimSpace(string(p)); !strings.Contains(s, "TLS handshake error") {
		f("%s", s)
	}
	return len(p), nil
}
