package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"brig/api"
	"brig/internal/image/ref"
)

// explain turns a failed request into a message that names the image, the registry and the next step.
func explain(ctx context.Context, r ref.Ref, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if api.KindOf(err) != "" {
		return err
	}
	var answer *transport.Error
	if errors.As(err, &answer) {
		return explainAnswer(r, answer)
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
	switch {
	case errors.Is(err, errPlainHTTP), errors.Is(err, errDowngrade), errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return api.Errorf(api.Unavailable, "registry %s speaks plain HTTP, which is refused except on this machine (allow it with --tls-verify=false): %w", r.Domain, err)
	case errors.As(err, &unknown), errors.As(err, &hostname), errors.As(err, &invalid):
		return api.Errorf(api.Unavailable, "registry %s: its certificate cannot be verified (add its authority to the system's, or allow it with --tls-verify=false): %w", r.Domain, err)
	case errors.As(err, &dns):
		return api.Errorf(api.Unavailable, "registry %s cannot be reached: %s: no address found (%s); without a registry, images come in with \"brig load\"", r.Domain, dns.Name, dns.Err)
	default:
		return api.Errorf(api.Unavailable, "registry %s cannot be reached: %w; without a registry, images come in with \"brig load\"", r.Domain, err)
	}
}

func explainAnswer(r ref.Ref, e *transport.Error) error {
	code, text := "", http.StatusText(e.StatusCode)
	if len(e.Errors) > 0 {
		code, text = string(e.Errors[0].Code), e.Errors[0].Message
		if text == "" {
			text = strings.ToLower(strings.ReplaceAll(code, "_", " "))
		}
	}
	text = printable(text)
	switch {
	case e.StatusCode == http.StatusUnauthorized, e.StatusCode == http.StatusForbidden, code == string(transport.DeniedErrorCode), code == string(transport.UnauthorizedErrorCode):
		return api.Errorf(api.Unauthorized, "image %s: pull access denied by registry %s: the repository does not exist, or it wants credentials, which are read from docker's config file (%s)", r.Familiar(), r.Domain, text)
	case e.StatusCode == http.StatusNotFound:
		return api.Errorf(api.NotFound, "image %s: not found in registry %s (%s)", r.Familiar(), r.Domain, text)
	case e.StatusCode == http.StatusTooManyRequests:
		return api.Errorf(api.Unavailable, "image %s: registry %s limits the rate of pulls (%s): wait, or use credentials", r.Familiar(), r.Domain, text)
	default:
		return api.Errorf(api.Unavailable, "image %s: registry %s answered %d (%s)", r.Familiar(), r.Domain, e.StatusCode, text)
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
		s = s[:300] + "…"
	}
	return s
}
