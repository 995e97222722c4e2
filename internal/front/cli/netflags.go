package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"brig/api"
)

// networkSet is what flags say of a container's networks.
type networkSet struct {
	networks  []api.EndpointSpec
	place     api.EndpointSpec // on the only network
	defaulted bool
}

// declare makes the flags.
func (o *networkSet) declare(f *pflag.FlagSet) {
	parsed(f, "network", "", "network", "Connect a container to a network", o.add)
	list(f, "network-alias", "", "Add network-scoped alias for the container", appendTo(&o.place.Aliases, plain))
	parsed(f, "ip", "", "string", "IPv4 address (e.g., 172.30.100.104)", assign(&o.place.IPv4, family(false)))
	parsed(f, "ip6", "", "string", "IPv6 address (e.g., 2001:db8::33)", assign(&o.place.IPv6, family(true)))
	parsed(f, "mac-address", "", "string", "Container MAC address (e.g., 92:d0:c6:0a:29:33)", assign(&o.place.MAC, plain))
}

// shared reports whether a network is that of another container, or one that is named by its file.
func shared(network string) bool {
	name, joins := strings.CutPrefix(network, api.NamespaceContainer)
	path, given := strings.CutPrefix(network, api.NamespacePath)
	return joins && name != "" || given && filepath.IsAbs(path)
}

// add takes one --network: a name, or with more said docker's name=NAME,ip=… or podman's NAME:ip=….
func (o *networkSet) add(s string) error {
	if shared(s) {
		o.networks = append(o.networks, api.EndpointSpec{Network: s})
		return nil
	}
	e := api.EndpointSpec{Network: s}
	var fields string
	if name, rest, found := strings.Cut(s, ":"); found && !strings.Contains(name, "=") {
		e.Network, fields = name, rest
	} else if strings.Contains(s, "=") {
		e.Network, fields = "", s
	}
	unsupported := api.Errorf(api.Unsupported, "network %q is not supported: the networks are bridge, none, host, container:NAME and those of `brig network create`", s)
	if e.Network == "container" || e.Network == "ns" {
		return unsupported
	}
	for field := range strings.SplitSeq(fields, ",") {
		if field == "" {
			continue
		}
		if err := networkField(&e, field); err != nil {
			return fmt.Errorf("network %s: %w", s, err)
		}
	}
	switch e.Network {
	case "":
		return fmt.Errorf("network %s: its name is missing: use name=NAME", s)
	case "default":
		e.Network, o.defaulted = "bridge", true
	case "private":
		return unsupported
	}
	o.networks = append(o.networks, e)
	return nil
}

// networkField takes a key and its value.
func networkField(e *api.EndpointSpec, field string) (err error) {
	key, val, found := strings.Cut(field, "=")
	if !found || val == "" {
		return fmt.Errorf("invalid field %s: use KEY=VALUE", field)
	}
	switch strings.ToLower(strings.TrimSpace(key)) {
	case "name":
		if e.Network != "" {
			return errors.New("it has two names")
		}
		e.Network = val
	case "alias":
		e.Aliases = append(e.Aliases, val)
	case "ip": // podman takes both families
		if e.IPv4, err = family(false)(val); err != nil {
			e.IPv4 = ""
			e.IPv6, err = family(true)(val)
		}
	case "ip6":
		e.IPv6, err = family(true)(val)
	case "mac-address", "mac":
		e.MAC = val
	case "gw-priority":
		if e.Priority, err = strconv.Atoi(val); err != nil {
			err = fmt.Errorf("invalid gw-priority (%s): use a whole number", val)
		}
	default:
		err = api.Errorf(api.Unsupported, "the key %q is not supported: there are name, alias, ip, ip6, mac-address and gw-priority", key)
	}
	return err
}

// family takes an address of one family.
func family(six bool) func(string) (string, error) {
	return func(s string) (string, error) {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Is6() != six || a.Zone() != "" {
			version := "IPv4"
			if six {
				version = "IPv6"
			}
			return "", fmt.Errorf("invalid %s address: %s", version, s)
		}
		return a.String(), nil
	}
}

// enter puts together what the flags say.
func (o *networkSet) enter(s *api.NetworkSpec) error {
	at := o.place // of --ip and the like
	special := at.IPv4 != "" || at.IPv6 != "" || at.MAC != "" || len(at.Aliases) > 0
	if special && len(o.networks) > 1 {
		return errors.New("conflicting options: --ip, --ip6, --mac-address and --network-alias are for one network: with several say it of each, as in --network name=NAME,ip=ADDRESS")
	}
	if special && len(o.networks) == 0 {
		o.networks = []api.EndpointSpec{{Network: "bridge"}}
	}
	if special {
		e := &o.networks[0]
		if at.IPv4 != "" && e.IPv4 != "" || at.IPv6 != "" && e.IPv6 != "" || at.MAC != "" && e.MAC != "" {
			return fmt.Errorf("conflicting options: two addresses of a kind on network %s", e.Network)
		}
		e.Aliases = append(e.Aliases, at.Aliases...)
		e.IPv4, e.IPv6, e.MAC = first(at.IPv4, e.IPv4), first(at.IPv6, e.IPv6), first(at.MAC, e.MAC)
	}
	for _, e := range o.networks {
		switch {
		case shared(e.Network), slices.Contains([]string{"bridge", "none", "host", "pasta", "slirp4netns"}, e.Network):
			if s.Mode != "" {
				return fmt.Errorf("conflicting options: a container is on one of the networks bridge, none and host, not on %s and %s", s.Mode, e.Network)
			}
			s.Mode = e.Network
			if len(e.Aliases) > 0 || e.IPv4 != "" || e.IPv6 != "" {
				return api.Errorf(api.InvalidArgument, "network-scoped aliases and addresses are only supported for user-defined networks, not for %s: make one with `brig network create`", e.Network)
			}
			if s.MAC = e.MAC; s.MAC != "" && e.Network != "bridge" {
				return api.Errorf(api.InvalidArgument, "conflicting options: mac-address and the network mode %s", e.Network)
			}
			if s.Priority = e.Priority; s.Priority != 0 && e.Network != "bridge" {
				return api.Errorf(api.InvalidArgument, "conflicting options: gw-priority and the network mode %s", e.Network)
			}
		default:
			s.Networks = append(s.Networks, e)
		}
	}
	switch {
	case len(s.Networks) == 0 && o.defaulted: // --network default
		if s.Mode == "bridge" {
			s.Mode = ""
		}
	case len(s.Networks) > 0 && s.Mode == "":
		s.Mode = api.NetworkOwn
	case len(s.Networks) > 0 && s.Mode != "bridge":
		return fmt.Errorf("conflicting options: cannot attach both user-defined and non-user-defined network-modes: %s and %s", s.Networks[0].Network, s.Mode)
	}
	return nil
}

// parseIP takes an address of either family.
func parseIP(s string) (string, error) {
	ip, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil {
		return "", fmt.Errorf("%s is not an ip address", s)
	}
	return ip.String(), nil
}

// parseHost reads NAME:IP or NAME=IP, the address perhaps in brackets; host-gateway stands for the host's own.
func parseHost(s string) (api.HostSpec, error) {
	name, ip, found := strings.Cut(s, "=")
	if !found {
		name, ip, found = strings.Cut(s, ":")
	}
	if !found || name == "" {
		return api.HostSpec{}, fmt.Errorf("bad format for add-host: %q: use NAME:IP", s)
	}
	if ip == "host-gateway" {
		return api.HostSpec{Name: name, IP: ip}, nil
	}
	if inner, ok := strings.CutPrefix(ip, "["); ok {
		ip = strings.TrimSuffix(inner, "]")
	}
	if _, err := netip.ParseAddr(ip); err != nil {
		return api.HostSpec{}, fmt.Errorf("invalid IP address in add-host: %q", ip)
	}
	return api.HostSpec{Name: name, IP: ip}, nil
}

// parsePorts reads [[IP:][HOST-PORTS]:]CONTAINER-PORTS[/PROTOCOL]. Ports may be ranges of equal length, or one port of the container a range of the host's, of which
// it gets a free one; an IPv6 address may stand in brackets.
func parsePorts(s string) ([]api.PortSpec, error) {
	rest, protocol, found := strings.Cut(s, "/")
	if !found {
		protocol = "tcp"
	}
	switch protocol = strings.ToLower(protocol); protocol {
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("invalid proto: %s", protocol)
	}
	hosts, container := "", rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		hosts, container = rest[:i], rest[i+1:]
	}
	ip, host := "", hosts
	if i := strings.LastIndexByte(hosts, ':'); i >= 0 {
		ip, host = hosts[:i], hosts[i+1:]
		if inner, ok := strings.CutPrefix(ip, "["); ok {
			ip = strings.TrimSuffix(inner, "]")
		}
		addr, err := netip.ParseAddr(ip)
		if err != nil && ip != "" {
			return nil, fmt.Errorf("invalid IP address: %s", ip)
		}
		if err == nil {
			ip = addr.String()
		}
	}
	first, last, err := portRange(container)
	if err != nil {
		return nil, fmt.Errorf("invalid containerPort: %s", container)
	}
	if host == "0" { // docker's other word for a free one
		host = ""
	}
	var hostFirst, hostLast int
	if host != "" {
		if hostFirst, hostLast, err = portRange(host); err != nil {
			return nil, fmt.Errorf("invalid hostPort: %s", host)
		}
		if first == last && hostLast > hostFirst {
			return []api.PortSpec{{HostIP: ip, HostPort: uint16(hostFirst), HostPortEnd: uint16(hostLast), ContainerPort: uint16(first), Protocol: protocol}}, nil
		}
		if hostLast-hostFirst != last-first {
			return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", container, host)
		}
	}
	ports := make([]api.PortSpec, 0, last-first+1)
	for p := first; p <= last; p++ {
		spec := api.PortSpec{HostIP: ip, ContainerPort: uint16(p), Protocol: protocol}
		if host != "" {
			spec.HostPort = uint16(hostFirst + p - first)
		}
		ports = append(ports, spec)
	}
	return ports, nil
}

// portRange reads a port or FIRST-LAST.
func portRange(s string) (first, last int, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if first, err = port(a); err != nil || !isRange {
		return first, first, err
	}
	if last, err = port(b); err == nil && last < first {
		err = strconv.ErrRange
	}
	return first, last, err
}

// port reads one port; 0 is none in a range or as a container's port.
func port(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return int(n), err
}
