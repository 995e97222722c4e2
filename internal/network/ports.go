package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/jsonscan"
	"brig/internal/base/record"
)

// mapping is one published port in one address family; STATE/network/ports/ID is a list of them.
type mapping struct {
	Protocol  string         `json:"protocol"`
	Host      netip.AddrPort `json:"host"` // the unspecified address: all of the family
	Container netip.AddrPort `json:"container"`
	// NoLoopback: [::] was asked for, and ::1 is left out, since br_netfilter would lose the answers.
	NoLoopback bool `json:"noLoopback,omitempty"`
}

var mappingNames = [...]string{"protocol", "host", "container", "noLoopback"}

func readMapping(s *jsonscan.Scanner, v *mapping) {
	for more := s.Object(); more; more = s.More() {
		switch s.Field(mappingNames[:]) {
		case 0:
			jsonscan.String(s, &v.Protocol)
		case 1:
			jsonscan.Text(s, &v.Host)
		case 2:
			jsonscan.Text(s, &v.Container)
		case 3:
			jsonscan.Bool(s, &v.NoLoopback)
		default:
			s.Skip()
		}
	}
}

func readMappings(s *jsonscan.Scanner, v *[]mapping) { jsonscan.List(s, v, readMapping) }

func (p mapping) spec() api.PortSpec {
	return api.PortSpec{HostIP: p.Host.Addr().String(), HostPort: p.Host.Port(), ContainerPort: p.Container.Port(), Protocol: p.Protocol}
}

// reserve binds the host's ports, so that no other program takes them and no other has them: the kernel is the judge. It returns a mapping
// an address family and a socket for each.
func (m *Manager) reserve(id string, specs []api.PortSpec, container []netip.Prefix) (ports []mapping, held []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(held)
			held = nil
		}
	}()
	for _, s := range specs {
		hosts, err := hostAddresses(s, len(container) > 1)
		if err != nil {
			return nil, held, err
		}
		group := make([]mapping, len(hosts))
		for i, h := range hosts {
			family := 0
			if h.Is6() {
				family = 1
			}
			p := mapping{Protocol: s.Protocol, Host: netip.AddrPortFrom(h, s.HostPort), Container: netip.AddrPortFrom(container[family].Addr(), s.ContainerPort)}
			if h.Is6() && (h.IsUnspecified() || h.IsLoopback()) && bridgeFilters() {
				if h.IsLoopback() {
					return nil, held, api.Errorf(api.Unsupported, "publish on [::1]:%d: with br_netfilter the answers would be lost: set the sysctl net.bridge.bridge-nf-call-ip6tables to 0, or publish on 127.0.0.1", s.HostPort)
				}
				p.NoLoopback = true
			}
			group[i] = p
		}
		files, err := bindGroup(group, s.HostPortEnd)
		if s.HostPortEnd != 0 && errors.Is(err, unix.EADDRINUSE) {
			return nil, held, api.Errorf(api.Conflict, "publish port %d/%s: all ports of the host from %d to %d are in use: choose another range, or stop one of the programs that have them (ss -anp shows them)",
				s.ContainerPort, s.Protocol, s.HostPort, s.HostPortEnd)
		}
		if err != nil {
			return nil, held, m.explain(id, err)
		}
		ports, held = append(ports, group...), append(held, files...)
	}
	return ports, held, nil
}

// hostAddresses are the addresses that a port is published on: those of both families, unless one was given.
func hostAddresses(s api.PortSpec, v6 bool) ([]netip.Addr, error) {
	if s.Protocol != "tcp" && s.Protocol != "udp" && s.Protocol != "sctp" {
		return nil, api.Errorf(api.InvalidArgument, "publish port %d: protocol %q: there are tcp, udp and sctp", s.ContainerPort, s.Protocol)
	}
	if s.ContainerPort == 0 {
		return nil, api.Errorf(api.InvalidArgument, "publish port 0 of the container: there is none, ports are 1 to 65535")
	}
	if s.HostIP == "" {
		if v6 {
			return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil
		}
		return []netip.Addr{netip.IPv4Unspecified()}, nil
	}
	a, err := netip.ParseAddr(s.HostIP)
	if err != nil || a.Zone() != "" {
		return nil, api.Errorf(api.InvalidArgument, "publish on %q: an IPv4 or IPv6 address of the host is needed, without a zone", s.HostIP)
	}
	if a = a.Unmap(); a.Is6() && !v6 {
		return nil, api.Errorf(api.Unsupported, "publish on [%s]: IPv6 is turned off on this host", a)
	}
	return []netip.Addr{a}, nil
}

// bindError is a host port that could not be had.
type bindError struct {
	port mapping
	err  error
}

func (e *bindError) Error() string { return "bind " + e.port.Host.String() + ": " + e.err.Error() }
func (e *bindError) Unwrap() error { return e.err }

// bindGroup binds one port in each family and fills in its number where it was left to the kernel, or is to be the first free one up to last: the same for all.
func bindGroup(group []mapping, last uint16) ([]*os.File, error) {
	first := group[0].Host.Port()
	for try := 0; ; try++ {
		files, err := bindAll(group, first)
		if err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return files, err
		}
		switch {
		case first == 0 && try < 32: // the kernel chose one that is taken in the other family
		case first != 0 && first < last:
			first++
		default:
			return nil, err
		}
	}
}

// bindAll binds one port in each family, 0: any.
func bindAll(group []mapping, port uint16) (files []*os.File, err error) {
	for i := range group {
		group[i].Host = netip.AddrPortFrom(group[i].Host.Addr(), port)
		var f *os.File
		if f, port, err = bind(group[i]); err != nil {
			closeAll(files)
			return nil, &bindError{group[i], err}
		}
		files = append(files, f)
		group[i].Host = netip.AddrPortFrom(group[i].Host.Addr(), port)
	}
	return files, nil
}

// bind takes a host port. A TCP socket listens, which ss shows; SO_REUSEADDR forgives it the connections of a former server that are
// about to end. Nothing ever arrives there, since the table translates first, except connections to ::1 with NoLoopback: these shall be
// refused, so that clients go on to 127.0.0.1, hence that socket gives up listening.
func bind(p mapping) (f *os.File, port uint16, err error) {
	family, typ, protocol := unix.AF_INET, unix.SOCK_STREAM, 0
	if p.Host.Addr().Is6() {
		family = unix.AF_INET6
	}
	switch p.Protocol {
	case "udp":
		typ = unix.SOCK_DGRAM
	case "sctp":
		protocol = unix.IPPROTO_SCTP
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, protocol)
	if err == unix.EPROTONOSUPPORT && p.Protocol == "sctp" {
		return nil, 0, api.Errorf(api.Unsupported, "publish port %d/sctp: this kernel has no SCTP: load its module sctp, or use tcp or udp", p.Container.Port())
	}
	if err != nil {
		return nil, 0, err
	}
	f = os.NewFile(uintptr(fd), p.Host.String())
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	var sa unix.Sockaddr
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return f, 0, err
		}
		sa = &unix.SockaddrInet6{Port: int(p.Host.Port()), Addr: p.Host.Addr().As16()}
	} else {
		sa = &unix.SockaddrInet4{Port: int(p.Host.Port()), Addr: p.Host.Addr().As4()}
	}
	// Listening makes other programs' attempts fail whatever options they set. A port that the kernel chooses nobody else has had, so
	// there it can be done without.
	listen := typ == unix.SOCK_STREAM && !(p.NoLoopback && p.Host.Port() == 0)
	if typ == unix.SOCK_DGRAM {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0) // a datagram that nobody translated is nobody's
	} else if listen {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err != nil {
		return f, 0, err
	}
	if err := unix.Bind(fd, sa); err != nil {
		return f, 0, err
	}
	if listen {
		if err := unix.Listen(fd, 0); err != nil {
			return f, 0, err
		}
		if p.NoLoopback { // the port stays, and without SO_REUSEADDR on this socket nobody else can listen on it
			if err := errors.Join(unix.Shutdown(fd, unix.SHUT_RDWR), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)); err != nil {
				return f, 0, err
			}
		}
	}
	if sa, err = unix.Getsockname(fd); err != nil {
		return f, 0, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		port = uint16(sa.Port)
	case *unix.SockaddrInet6:
		port = uint16(sa.Port)
	}
	return f, port, nil
}

// explain turns a failure to bind into what the user can do about it.
func (m *Manager) explain(id string, err error) error {
	var e *bindError
	if !errors.As(err, &e) {
		return err
	}
	p := e.port
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		if other := m.publisher(id, p); other != "" {
			return api.Errorf(api.Conflict, "port %s/%s of the host is published by container %.12s: stop that one, or choose another host port", p.Host, p.Protocol, other)
		}
		return api.Errorf(api.Conflict, "port %s/%s of the host is in use: choose another one, or stop the program that has it (ss -anp shows it)", p.Host, p.Protocol)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return api.Errorf(api.InvalidArgument, "publish on %s: the host does not have this address (ip address shows those it has)", p.Host.Addr())
	}
	return err
}

// publisher finds the container that holds a host port.
func (m *Manager) publisher(id string, p mapping) string {
	other := ""
	_ = m.eachPublisher(func(owner string, ports []mapping) {
		for _, o := range ports {
			a, b := o.Host.Addr(), p.Host.Addr()
			if owner != id && o.Protocol == p.Protocol && o.Host.Port() == p.Host.Port() && a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified()) {
				other = owner
			}
		}
	})
	return other
}

// eachPublisher goes through the records of published ports.
func (m *Manager) eachPublisher(each func(id string, ports []mapping)) error {
	entries, err := os.ReadDir(m.path("ports"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if checkID(e.Name()) != nil {
			continue // a draft
		}
		ports, err := m.published(e.Name())
		if err != nil {
			return err
		}
		each(e.Name(), ports)
	}
	return nil
}

// published reads what a container publishes.
func (m *Manager) published(id string) ([]mapping, error) {
	data, err := os.ReadFile(m.path("ports", id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ports []mapping
	if err := jsonscan.Decode(data, &ports, readMappings); err != nil {
		return nil, fmt.Errorf("%s: %w", m.path("ports", id), err)
	}
	return ports, nil
}

// record writes what a container publishes, which it alone does, by way of a file that Detach knows if the writer dies.
func (m *Manager) record(id string, ports []mapping) error {
	data, err := record.Marshal(ports)
	if err != nil {
		return err
	}
	draft := m.draft(id)
	if err = os.WriteFile(draft, data, 0o600); err == nil {
		err = os.Rename(draft, m.path("ports", id))
	}
	if err != nil {
		os.Remove(draft)
	}
	return err
}

func (m *Manager) draft(id string) string { return m.path("ports", "."+id) }

// bridgeFilters reports whether br_netfilter hands the frames of bridges to ip6tables and nftables: then a packet from a container is looked at
// once more after its translation, and one with a loopback address is dropped.
func bridgeFilters() bool { return sysctlIs("bridge/bridge-nf-call-ip6tables", "1") }
