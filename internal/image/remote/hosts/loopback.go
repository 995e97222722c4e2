package hosts

import (
	"net"
	"net/netip"
	"strings"
)

// Loopback reports whether host[:port] is this machine, by name or number: docker's rule for registries without TLS.
func Loopback(hostport string) bool {
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
