package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"brig/api"
	"brig/internal/image/ref"
)

// maxErrorBody bounds what is read of an answer that says what went wrong, in bytes.
const maxErrorBody = 64 << 10

// statusError is an answer that is none of those hoped for.
type statusError struct {
	code  int    // HTTP's
	word  string // the distribution specification's: DENIED
	text  string
	after time.Duration // of Retry-After; 0: not said
}

func (e *statusError) Error() string { return fmt.Sprintf("%d (%s)", e.code, e.text) }

// checkStatus makes an error of an answer whose status is not among ok; it does not close the body.
func checkStatus(resp *http.Response, ok ...int) error {
	if slices.Contains(ok, resp.StatusCode) {
		return nil
	}
	e := &statusError{code: resp.StatusCode, text: http.StatusText(resp.StatusCode)}
	if s := resp.Header.Get("Retry-After"); s != "" {
		e.after = retryAfter(s, time.Now())
	}
	b, _ := whole(resp.Body, maxErrorBody, 10*time.Second) // half of a message is none
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(b, &body) == nil && len(body.Errors) > 0 {
		first := body.Errors[0]
		e.word, e.text = first.Code, first.Message
		if e.text == "" {
			e.text = strings.ToLower(strings.ReplaceAll(first.Code, "_", " "))
		}
	}
	e.text = printable(e.text)
	return e
}

// subject is what a request was about, for messages.
type subject struct {
	image  ref.Ref // without a path: the registry alone
	place  string  // "registry docker.io", "mirror m.example.com"
	action string  // pull or push
}

// of names the image, where there is one.
func (s subject) of() string {
	if s.image.Path == "" {
		return ""
	}
	return "image " + s.image.Familiar() + ": "
}

// explain turns a failed request into a message that names the image, the place and the next step.
func (s subject) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if api.KindOf(err) != "" {
		return err
	}
	var refused *tokenError
	if errors.As(err, &refused) {
		return s.explainToken(refused)
	}
	var answer *statusError
	if errors.As(err, &answer) {
		return s.explainAnswer(answer)
	}
	// The address in the request is of no use to a user, the cause is.
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var (
		dns      *net.DNSError
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		record   tls.RecordHeaderError
	)
	without := "; without a registry, images come in with \"brig load\""
	if s.action == "push" || s.image.Path == "" {
		without = ""
	}
	switch {
	case errors.Is(err, errPlainHTTP), errors.Is(err, errDowngrade), errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return api.Errorf(api.Unavailable, "%s speaks plain HTTP, which is refused except on this machine (allow it with --tls-verify=false, or with insecure in registries.conf): %w", s.place, err)
	case errors.As(err, &unknown), errors.As(err, &hostname), errors.As(err, &invalid):
		return api.Errorf(api.Unavailable, "%s: its certificate cannot be verified (add its authority to the system's or to /etc/docker/certs.d/HOST:PORT/ca.crt, or allow it with --tls-verify=false): %w", s.place, err)
	case alerted(err) && strings.Contains(err.Error(), "certificate"):
		return api.Errorf(api.Unauthorized, "%s refuses the connection: it wants a client certificate, or another one (NAME.cert and NAME.key in /etc/docker/certs.d/HOST:PORT): %w", s.place, err)
	case errors.As(err, &dns):
		return api.Errorf(api.Unavailable, "%s cannot be reached: %s: no address found (%s)%s", s.place, dns.Name, dns.Err, without)
	default:
		return api.Errorf(api.Unavailable, "%s cannot be reached: %w%s", s.place, err, without)
	}
}

// alerted reports whether the other side ended the TLS handshake with a word why.
func alerted(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

func (s subject) explainToken(e *tokenError) error {
	var answer *statusError
	switch {
	case e.kind() == api.Unauthorized && e.nobody:
		return s.denied(e.Error())
	case e.kind() == api.Unauthorized:
		return api.Errorf(api.Unauthorized, "%s%s: token server %s refuses the credentials (%w): log in again with \"brig login\"", s.of(), s.place, e.server, e.err)
	case errors.As(e, &answer) && answer.code == http.StatusTooManyRequests:
		return s.explainAnswer(answer)
	case errors.As(e, &answer):
		return api.Errorf(api.Unavailable, "%s%s: token server %s answered %w", s.of(), s.place, e.server, answer)
	}
	return api.Errorf(api.Unavailable, "%s%s: %w", s.of(), s.place, e)
}

// denied is docker's message: who is not let in is not told whether the thing is there.
func (s subject) denied(why string) error {
	login := "brig login"
	if _, host, _ := strings.Cut(s.place, " "); host != ref.DefaultDomain {
		login += " " + host
	}
	if s.image.Path == "" {
		return api.Errorf(api.Unauthorized, "%s: access denied (%s): it may want \"%s\"", s.place, why, login)
	}
	return api.Errorf(api.Unauthorized, "image %s: %s access denied by %s: the repository does not exist, or it wants credentials: \"%s\" (%s)", s.image.Familiar(), s.action, s.place, login, why)
}

func (s subject) explainAnswer(e *statusError) error {
	switch {
	case e.code == http.StatusUnauthorized, e.code == http.StatusForbidden, e.word == "DENIED", e.word == "UNAUTHORIZED":
		return s.denied(e.text)
	case e.code == http.StatusNotFound:
		return api.Errorf(api.NotFound, "%snot found in %s (%s)", s.of(), s.place, e.text)
	case e.code == http.StatusTooManyRequests && e.after > maxRetryAfter:
		return api.Errorf(api.Unavailable, "%s%s limits the rate of requests (%s): it asks to wait %s, which is more than the %s that Brig waits by itself: try again then, or log in for a higher limit", s.of(), s.place, e.text, e.after.Round(time.Second), maxRetryAfter)
	case e.code == http.StatusTooManyRequests:
		return api.Errorf(api.Unavailable, "%s%s limits the rate of requests (%s), also after %d tries: wait, or log in for a higher limit", s.of(), s.place, e.text, tries)
	default:
		return api.Errorf(api.Unavailable, "%s%s answered %w", s.of(), s.place, e)
	}
}

// printable keeps a registry's words from writing to the terminal's controls, or at length.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return ' '
		}
		return c
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}
