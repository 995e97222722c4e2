package network

import (
	"cmp"
	"net/netip"
	"slices"

	"brig/api"
)

// ways are the places by which a container may reach what is on none of its networks, the best first: of the highest priority, and among equals the first by name, as with docker.
// An internal network is none.
func ways(link *api.Link) []api.Endpoint {
	list := slices.DeleteFunc(slices.Clone(link.All()), func(e api.Endpoint) bool { return e.Internal })
	slices.SortStableFunc(list, func(a, b api.Endpoint) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Network, b.Network))
	})
	return list
}

// families says something of IPv4 and of IPv6.
type families [2]bool

func (f families) of(a netip.Addr) bool { return f[familyIndex(a)] }

// add reports whether it was not so before.
func (f *families) add(a netip.Addr) bool {
	had := f.of(a)
	f[familyIndex(a)] = true
	return !had
}

func familyIndex(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// leaders tells which network of a container that is about to be attached leads out, for each family of addresses: a network without IPv6 is no way for it.
// Without root's rights none does: the way out is another.
func (m *Manager) leaders(spec api.NetworkSpec, networks []api.Network) func(name string) families {
	var to api.Link
	if spec.Mode != api.NetworkOwn {
		to = api.Link{Network: modeBridge, Interface: containerInterface, Priority: spec.Priority}
	}
	for i := range networks {
		to.Endpoints = append(to.Endpoints, api.Endpoint{Network: networks[i].Name, Internal: networks[i].Internal, Priority: spec.Networks[i].Priority})
	}
	var best [2]string
	for _, e := range ways(&to) {
		six := true
		if i := slices.IndexFunc(networks, func(n api.Network) bool { return n.Name == e.Network }); i >= 0 {
			six = slices.ContainsFunc(networks[i].Subnets, func(s api.Subnet) bool { return s.Prefix.Addr().Is6() })
		}
		best[0] = cmp.Or(best[0], e.Network)
		if six {
			best[1] = cmp.Or(best[1], e.Network)
		}
	}
	return func(name string) families { return families{!m.user && best[0] == name, !m.user && best[1] == name} }
}

// everywhere are all addresses of the family.
func everywhere(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
