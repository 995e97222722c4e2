package network

import (
	"net/netip"
	"os"
	"slices"
	"strings"

	"brig/api"
)

// publicDNS are the servers that a container asks when the host's can be reached from the host only, the same as Docker's.
func publicDNS(v6 bool) []string {
	servers := []string{"8.8.8.8", "8.8.4.4"}
	if v6 {
		servers = append(servers, "2001:4860:4860::8888", "2001:4860:4860::8844")
	}
	return servers
}

func checkDNS(servers []string) error {
	for _, s := range servers {
		if _, err := netip.ParseAddr(s); err != nil {
			return api.Errorf(api.InvalidArgument, "name server %q: an IP address is needed", s)
		}
	}
	return nil
}

// addDNS fills in the name servers that were asked for, or the host's. A bridge cannot reach servers on the host's loopback.
func (m *Manager) addDNS(l *api.Link, spec api.NetworkSpec, bridge bool) {
	l.DNS, l.Search, l.DNSOptions = m.hostDNS(bridge)
	switch {
	case len(spec.Search) == 1 && spec.Search[0] == ".": // docker's word for none
		l.Search = nil
	case len(spec.Search) > 0:
		l.Search = slices.Clone(spec.Search)
	}
	if len(spec.DNSOptions) > 0 {
		l.DNSOptions = slices.Clone(spec.DNSOptions)
	}
	switch {
	case len(spec.DNS) > 0:
		l.DNS = slices.Clone(spec.DNS)
	case bridge && len(l.DNS) == 0:
		l.DNS = publicDNS(len(l.Gateways) > 1)
	}
}

// hostDNS reads the host's resolv.conf. With reachable it leaves out servers that are reached from the host only; if none is left, and
// systemd-resolved stands behind them, it takes the servers that this one asks.
func (m *Manager) hostDNS(reachable bool) (servers, search, options []string) {
	data, err := os.ReadFile(m.resolv)
	if err != nil {
		return nil, nil, nil // a host without name servers is a host without name servers
	}
	servers, search, options = parseResolv(data)
	if !reachable {
		return servers, search, options
	}
	stub := len(servers) > 0
	for _, s := range servers {
		stub = stub && (s == "127.0.0.53" || s == "127.0.0.54") // systemd-resolved.service(8)
	}
	if stub {
		if data, err := os.ReadFile(m.resolved); err == nil {
			servers, search, options = parseResolv(data)
		}
	}
	servers = slices.DeleteFunc(servers, func(s string) bool {
		a, err := netip.ParseAddr(s)
		return err != nil || a.Unmap().IsLoopback() || a.IsUnspecified() || a.Zone() != ""
	})
	return servers, search, options
}

// parseResolv reads a resolv.conf(5): of several search lines the last one counts, and domain is an old word for search.
func parseResolv(data []byte) (servers, search, options []string) {
	for line := range strings.Lines(string(data)) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			servers = append(servers, f[1])
		case "search":
			search = f[1:]
		case "domain":
			search = f[1:2]
		case "options":
			options = append(options, f[1:]...)
		}
	}
	return servers, search, options
}

// ResolvConf is the text of a container's /etc/resolv.conf. In mode host, unless other servers were asked for, it is the host's own.
func ResolvConf(l *api.Link) []byte {
	if l.Network == modeHost {
		if data, err := os.ReadFile("/etc/resolv.conf"); err == nil {
			servers, search, options := parseResolv(data)
			if slices.Equal(servers, l.DNS) && slices.Equal(search, l.Search) && slices.Equal(options, l.DNSOptions) {
				return data
			}
		}
	}
	var b strings.Builder
	for _, s := range l.DNS {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(l.Search) > 0 {
		b.WriteString("search " + strings.Join(l.Search, " ") + "\n")
	}
	if len(l.DNSOptions) > 0 {
		b.WriteString("options " + strings.Join(l.DNSOptions, " ") + "\n")
	}
	return []byte(b.String())
}

// hostGateway as the address of a host entry means the host, as a container sees it.
const hostGateway = "host-gateway"

// Hosts is the text of a container's /etc/hosts: localhost, the container's own name, and what was added. In mode host the host's
// own entries come first. api.InvalidArgument for a name or an address that is none, and for host-gateway where no way leads to the host.
func Hosts(l *api.Link, hostname string, add []api.HostSpec) ([]byte, error) {
	var b strings.Builder
	data, err := os.ReadFile("/etc/hosts")
	if l.Network == modeHost && err == nil {
		b.Write(data)
		if n := len(data); n > 0 && data[n-1] != '\n' {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	}
	for _, h := range add {
		if !hostName(h.Name) {
			return nil, api.Errorf(api.InvalidArgument, "add host %q: not a host name", h.Name)
		}
		addrs := []string{h.IP}
		if h.IP == hostGateway {
			if addrs = gatewayOf(l); addrs == nil {
				return nil, api.Errorf(api.InvalidArgument, "add host %s: no way leads to the host from the network %s: leave out %s", h.Name, l.Network, hostGateway)
			}
		} else if _, err := netip.ParseAddr(h.IP); err != nil {
			return nil, api.Errorf(api.InvalidArgument, "add host %s: %q: an IP address or %s is needed", h.Name, h.IP, hostGateway)
		}
		for _, a := range addrs {
			b.WriteString(a + "\t" + h.Name + "\n")
		}
	}
	if hostname == "" || l.Network == modeHost {
		return []byte(b.String()), nil
	}
	if !hostName(hostname) {
		return nil, api.Errorf(api.InvalidArgument, "%q is not a host name", hostname)
	}
	names := ownNames(hostname)
	for _, e := range l.All() {
		for _, a := range e.Addresses {
			b.WriteString(a.Addr().String() + "\t" + names + "\n")
		}
	}
	return []byte(b.String()), nil
}

// ChangeHosts takes the lines of addresses that a running container has no more out of its hosts file, and adds those of new ones. All else stays.
func ChangeHosts(text []byte, hostname string, old, now *api.Link) []byte {
	list := func(l *api.Link) (all []string) {
		for _, e := range l.All() {
			for _, a := range e.Addresses {
				all = append(all, a.Addr().String())
			}
		}
		return all
	}
	had, has := list(old), list(now)
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 0 && slices.Contains(had, f[0]) && !slices.Contains(has, f[0]) {
			continue
		}
		b.WriteString(line)
	}
	for _, a := range has {
		if !slices.Contains(had, a) {
			b.WriteString(a + "\t" + ownNames(hostname) + "\n")
		}
	}
	return []byte(b.String())
}

// ownNames are what a container calls itself: its host name, and the first part of that.
func ownNames(hostname string) string {
	if short, _, dotted := strings.Cut(hostname, "."); dotted && short != "" {
		return hostname + " " + short
	}
	return hostname
}

// gatewayOf are the host's addresses as the container sees them.
func gatewayOf(l *api.Link) (addrs []string) {
	if l.Network == modeHost {
		return []string{"127.0.0.1"}
	}
	for _, a := range l.Host {
		addrs = append(addrs, a.String())
	}
	if len(addrs) > 0 || l.BridgesFile != "" { // a gateway in the hub is not the host
		return addrs
	}
	for _, e := range ways(l) {
		if len(e.Gateways) == 0 {
			continue
		}
		for _, g := range e.Gateways {
			addrs = append(addrs, g.String())
		}
		break
	}
	return addrs
}

// hostName keeps apart what would be more than one word in a line of the file.
func hostName(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == '#' || c == 0x7f })
}
