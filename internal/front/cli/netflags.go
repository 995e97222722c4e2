package cli

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"brig/api"
)

// parseNetwork takes the networks that are built.
func parseNetwork(s string) (string, error) {
	switch s {
	case "bridge", "none", "host", "pasta", "slirp4netns":
		return s, nil
	case "default":
		return "", nil
	}
	if name, ok := strings.CutPrefix(s, api.NamespaceContainer); ok && name != "" {
		return s, nil
	}
	if path, ok := strings.CutPrefix(s, api.NamespacePath); ok && filepath.IsAbs(path) {
		return s, nil
	}
	return "", api.Errorf(api.Unsupported, "network %q is not supported: the networks are bridge, none, host and container:NAME", s)
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

// parsePorts reads [[IP:][HOST-PORTS]:]CONTAINER-PORTS[/PROTOCOL]. Ports may be ranges of equal length; an IPv6 address may stand
// in brackets.
func parsePorts(s string) ([]api.PortSpec, error) {
	rest, protocol, found := strings.Cut(s, "/")
	if !found {
		protocol = "tcp"
	}
	switch protocol = strings.ToLower(protocol); protocol {
	case "tcp", "udp":
	case "sctp":
		return nil, api.Errorf(api.Unsupported, "publish %s: protocol sctp is not supported: use tcp or udp", s)
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
	var hostFirst, hostLast int
	if host != "" {
		if hostFirst, hostLast, err = portRange(host); err != nil {
			return nil, fmt.Errorf("invalid hostPort: %s", host)
		}
		if hostLast-hostFirst != last-first {
			if first == last {
				return nil, api.Errorf(api.Unsupported, "publish %s: a free port out of a range is not supported: name one host port, or none", s)
			}
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
