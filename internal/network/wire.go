package network

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/netlink"
)

// The drivers macvlan and ipvlan put a container on a wire of the host's: its interface shares the parent's. There is no bridge, no rule and nothing that the host would have to
// forward, and the host itself cannot reach it there, which is how the kernel has it. What is left of a segment are its leases and names.

// joinWire leases addresses.
func (s *segment) joinWire(lease func(bridge) ([]netip.Prefix, error)) (bridge, []netip.Prefix, error) {
	br := bridge{Name: s.name}
	for _, n := range s.own.Subnets {
		p := netip.PrefixFrom(n.Gateway, n.Prefix.Bits())
		if n.Prefix.Addr().Is6() {
			br.V6 = p
		} else {
			br.V4 = p
		}
	}
	for _, dir := range []string{"lease", "holder", "name"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return br, nil, err
		}
	}
	addrs, err := lease(br)
	return br, addrs, err
}

// plugWire makes the interface on the parent, in the container's namespace.
func (s *segment) plugWire(p *plugging, at *place) error {
	parent, err := p.rt.LinkByName(s.own.Options[optionParent])
	if errors.Is(err, unix.ENODEV) {
		return api.Errorf(api.NotFound, "its parent, the interface %s, is not there (ip link shows those that are)", s.own.Options[optionParent])
	}
	if err != nil {
		return err
	}
	mode, _ := vlanMode(s.own.Driver, modeOf(s.own))
	link := netlink.Sublink{
		Kind: s.own.Driver, Mode: mode, Parent: parent.Index, MTU: mtuOf(s.own), Name: at.name, Index: at.index, NS: int(p.ns.Fd()),
	}
	if s.own.Driver == api.DriverMacvlan {
		link.MAC = at.mac
	}
	var r netlink.Request
	r.AddSublink(link)
	switch err := p.rt.Do(&r, nil); {
	case errors.Is(err, unix.EBUSY):
		return api.Errorf(api.Conflict, "the interface %s is in use in another way, by a bridge or by the other one of macvlan and ipvlan: %w", parent.Name, err)
	case errors.Is(err, unix.EINVAL):
		return api.Errorf(api.Conflict, "the interface %s cannot be a parent in this mode, or has containers in mode passthru: %w", parent.Name, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return api.Errorf(api.Unsupported, "this kernel has no %s: load its module, or use the driver bridge: %w", s.own.Driver, err)
	case err != nil:
		return err
	}
	made, err := p.inside.LinkByName(at.name)
	if err != nil {
		return err
	}
	return s.configureWire(p.inside, made.Index, at, mode)
}

// configureWire gives the interface its addresses, with the route to the subnet that goes with them, and a way out: through the gateway, or in ipvlan's modes of layer 3, where there is
// none to be asked for, by the interface itself. In an internal network there is no way out.
func (s *segment) configureWire(inside *netlink.Conn, index uint32, at *place, mode uint32) error {
	layer3 := s.own.Driver == api.DriverIPvlan && mode != netlink.IPvlanL2
	var r netlink.Request
	r.SetUp(index)
	for i, a := range at.addrs {
		flags := uint32(0)
		if a.Addr().Is6() {
			flags = unix.IFA_F_NODAD
		}
		r.AddAddress(index, a, flags)
		switch {
		case !at.leads.of(a.Addr()):
		case layer3:
			r.AddRoute(index, everywhere(a.Addr()), netip.Addr{})
		default:
			r.AddDefaultRoute(index, at.gateways[i])
		}
	}
	if layer3 {
		at.gateways = nil
	}
	return inside.Do(&r, nil)
}
