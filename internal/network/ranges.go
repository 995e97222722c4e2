package network

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/netlink"
)

// ownBits is the length of the IPv4 subnets that are chosen for networks: four thousand addresses, more than a bridge has ports.
const ownBits = 20

// chooseSubnets completes the subnets of a network that is to be made, IPv4 first, and looks that nobody has them.
func (m *Manager) chooseSubnets(n *api.Network, others []api.Network) error {
	used, err := m.usedSubnets(n, others)
	if err != nil {
		return err
	}
	var v4, v6 api.Subnet
	for _, s := range n.Subnets {
		have := &v4
		if s.Prefix.Addr().Is6() {
			have = &v6
		}
		if have.Prefix.IsValid() {
			return api.Errorf(api.Unsupported, "subnets %s and %s: a network has one of each family", have.Prefix, s.Prefix)
		}
		if err := checkSubnet(&s); err != nil {
			return err
		}
		if !free(s.Prefix, used) {
			return api.Errorf(api.Conflict, "subnet %s: an interface, a route or another network of this host uses it, or a part of it: choose another one", s.Prefix)
		}
		*have = s
	}
	if n.IPv4Only && v6.Prefix.IsValid() {
		return api.Errorf(api.InvalidArgument, "subnet %s: the network is to have no IPv6", v6.Prefix)
	}
	if !v4.Prefix.IsValid() {
		p, err := chooseV4(used, ownBits)
		if err != nil {
			return err
		}
		v4 = api.Subnet{Prefix: p.Masked(), Gateway: p.Addr()}
	}
	n.Subnets = []api.Subnet{v4}
	if !v6.Prefix.IsValid() && !n.IPv4Only {
		p := chooseV6()
		v6 = api.Subnet{Prefix: p.Masked(), Gateway: p.Addr()}
	}
	if v6.Prefix.IsValid() {
		n.Subnets = append(n.Subnets, v6)
	}
	return nil
}

// checkSubnet completes a subnet that was asked for.
func checkSubnet(s *api.Subnet) error {
	if s.Prefix != s.Prefix.Masked() {
		return api.Errorf(api.InvalidArgument, "subnet %s: it is an address in %s: name that", s.Prefix, s.Prefix.Masked())
	}
	if s.Prefix.Addr().Is4() && (s.Prefix.Bits() < 8 || s.Prefix.Bits() > leastBits) || s.Prefix.Addr().Is6() && (s.Prefix.Bits() < 16 || s.Prefix.Bits() > 126) {
		return api.Errorf(api.InvalidArgument, "subnet %s: a prefix of 8 to %d bits is wanted, or of 16 to 126 of IPv6", s.Prefix, leastBits)
	}
	if a := s.Prefix.Addr(); a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.Is4In6() || a.Is4() && a.As4()[0] >= 224 {
		return api.Errorf(api.InvalidArgument, "subnet %s: there can be no machines in it", s.Prefix)
	}
	if !s.Gateway.IsValid() {
		s.Gateway = s.Prefix.Addr().Next()
	}
	if !s.Prefix.Contains(s.Gateway) || s.Gateway == s.Prefix.Addr() || s.Gateway == last(s.Prefix) {
		return api.Errorf(api.InvalidArgument, "gateway %s: an address of a machine in the subnet %s is wanted", s.Gateway, s.Prefix)
	}
	if s.Range.IsValid() && (!s.Prefix.Contains(s.Range.Addr()) || s.Range.Bits() < s.Prefix.Bits() || s.Range != s.Range.Masked()) {
		return api.Errorf(api.InvalidArgument, "IP range %s: a part of the subnet %s is wanted", s.Range, s.Prefix)
	}
	return nil
}

// last is the broadcast address of an IPv4 subnet; in IPv6 the last is an address like others, and left out all the same.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// usedSubnets are those of the host, of the default bridge, and of other networks. The networks of the drivers macvlan and ipvlan are those of a wire of the host's, on which
// the host may be too, and may share one.
func (m *Manager) usedSubnets(n *api.Network, others []api.Network) ([]netip.Prefix, error) {
	if n.Driver != api.DriverBridge {
		var used []netip.Prefix
		if len(n.Subnets) == 0 {
			return m.hostSubnets()
		}
		for _, o := range others {
			if o.Driver == api.DriverBridge {
				used = append(used, subnetsOf([]api.Network{o})...)
			}
		}
		return used, nil
	}
	used, err := m.hostSubnets()
	return append(used, subnetsOf(others)...), err
}

func (m *Manager) hostSubnets() ([]netip.Prefix, error) {
	rt, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer rt.Close()
	routes, err := rt.Routes()
	if err != nil {
		return nil, err
	}
	used := taken(routes)
	if m.user {
		used = append(used, userAddress().Masked()) // each container's way out
	}
	for _, r := range routes { // IPv6 addresses and routes, but for what every interface has
		if a := r.Dst.Addr(); a.Is6() && r.Dst.Bits() >= 16 && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !a.IsLoopback() {
			used = append(used, r.Dst)
		}
	}
	for _, n := range m.Predefined() {
		used = append(used, subnetsOf([]api.Network{n})...)
	}
	servers, _, _ := m.hostDNS(true)
	for _, s := range servers {
		if a, err := netip.ParseAddr(s); err == nil {
			used = append(used, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return used, nil
}

func subnetsOf(networks []api.Network) (list []netip.Prefix) {
	for _, n := range networks {
		for _, s := range n.Subnets {
			list = append(list, s.Prefix)
		}
	}
	return list
}

// ownSubnet fills in what the record says of a network's bridge. routes are those of others than the bridge.
func (s *segment) ownSubnet(br *bridge, routes []netlink.Route) error {
	for _, n := range s.own.Subnets {
		p := netip.PrefixFrom(n.Gateway, n.Prefix.Bits())
		if n.Prefix.Addr().Is6() {
			br.V6 = p
			continue
		}
		br.V4 = p
		if !free(n.Prefix, taken(routes)) {
			return api.Errorf(api.Conflict, "network %s: its subnet %s has come to be used by another interface or route of the host: make the network anew", s.own.Name, n.Prefix)
		}
	}
	br.Flags, br.MTU = flagsOf(s.own), mtuOf(s.own)
	return nil
}

// span is where a network's containers get addresses from: the first one, and how many there are, 2³² at most.
func span(s *api.Subnet) (first netip.Addr, count uint64) {
	p := s.Prefix
	if s.Range.IsValid() {
		p = s.Range
	}
	return p.Masked().Addr(), uint64(1) << min(p.Addr().BitLen()-p.Bits(), 32)
}

// plus is the address n behind another.
func plus(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	low := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], low+n) // a span does not reach over 64 bits
	if a.Is4() {
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrFrom16(b)
}

// number is the last four bytes of an address.
func number(a netip.Addr) uint64 {
	b := a.As16()
	return uint64(binary.BigEndian.Uint32(b[12:]))
}

// usable reports whether an address may be a container's.
func usable(s *api.Subnet, a netip.Addr) bool {
	return s.Prefix.Contains(a) && a != s.Gateway && a != s.Prefix.Addr() && a != last(s.Prefix)
}
