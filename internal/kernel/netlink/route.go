package netlink

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	nlaTypeMask  = 0xffff &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER) // NLA_TYPE_MASK
	vethInfoPeer = 1                                                        // VETH_INFO_PEER of linux/veth.h
	skipStats    = 1 << 3                                                   // RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h
	// PortLimit is how many ports a bridge of Linux can have (BR_PORT_BITS of net/bridge/br_private.h, less the reserved zero).
	PortLimit = 1023
)

// MAC is an Ethernet address.
type MAC [6]byte

// Link is a network interface.
type Link struct {
	Index uint32
	Name  string
	Kind  string // bridge, veth, …; empty for hardware
	Flags uint32 // unix.IFF_UP, …
	MTU   uint32
}

// Bridge is a bridge to be made. It does no multicast snooping: without a querier that only loses neighbour discovery.
type Bridge struct {
	Name string
	MAC  MAC // fixed, or it would change with the ports
	MTU  uint32
}

// Veth is a pair of interfaces to be made, its end on the host up and a port of a bridge, its peer down in another namespace.
type Veth struct {
	Name   string
	Master uint32 // index of the bridge
	MTU    uint32

	Peer      string // name
	PeerIndex uint32 // wanted, so that the peer can be configured without asking for it
	PeerNS    int    // descriptor of its network namespace
	PeerMAC   MAC
}

func ifinfo(index, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], index)
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// AddBridge makes a bridge, down; EEXIST if the name is taken.
func (r *Request) AddBridge(b Bridge) {
	r.Start("create bridge "+b.Name, unix.RTM_NEWLINK, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(0, 0, 0))
	r.String(unix.IFLA_IFNAME, b.Name)
	r.Bytes(unix.IFLA_ADDRESS, b.MAC[:])
	r.Uint32(unix.IFLA_MTU, b.MTU)
	r.Nest(unix.IFLA_LINKINFO, func() {
		r.String(unix.IFLA_INFO_KIND, "bridge")
		r.Nest(unix.IFLA_INFO_DATA, func() { r.Uint8(unix.IFLA_BR_MCAST_SNOOPING, 0) })
	})
}

// AddVeth makes a pair of interfaces in one go. EEXIST if the name or the peer's index is taken, EINVAL or ENODEV if there is no such
// bridge, EXFULL if it has PortLimit ports already.
func (r *Request) AddVeth(v Veth) {
	r.Start("create interface "+v.Name, unix.RTM_NEWLINK, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(0, unix.IFF_UP, unix.IFF_UP))
	r.String(unix.IFLA_IFNAME, v.Name)
	r.Uint32(unix.IFLA_MTU, v.MTU)
	r.Uint32(unix.IFLA_MASTER, v.Master)
	r.Nest(unix.IFLA_LINKINFO, func() {
		r.String(unix.IFLA_INFO_KIND, "veth")
		r.Nest(unix.IFLA_INFO_DATA, func() {
			r.Nest(vethInfoPeer, func() {
				r.buf = append(r.buf, ifinfo(v.PeerIndex, 0, 0)...) // cannot be up yet: veth_open wants the pair complete
				r.String(unix.IFLA_IFNAME, v.Peer)
				r.Bytes(unix.IFLA_ADDRESS, v.PeerMAC[:])
				r.Uint32(unix.IFLA_MTU, v.MTU)
				r.Uint32(unix.IFLA_NET_NS_FD, uint32(v.PeerNS))
			})
		})
	})
}

// SetHairpin lets a bridge send a frame back through the port that it came from.
func (r *Request) SetHairpin(port string) {
	r.Start("hairpin on "+port, unix.RTM_NEWLINK, unix.NLM_F_ACK, ifinfo(0, 0, 0))
	r.String(unix.IFLA_IFNAME, port)
	r.Nest(unix.IFLA_LINKINFO, func() {
		r.String(unix.IFLA_INFO_SLAVE_KIND, "bridge")
		r.Nest(unix.IFLA_INFO_SLAVE_DATA, func() { r.Uint8(unix.IFLA_BRPORT_MODE, 1) })
	})
}

// IsolatePort keeps a port of a bridge from those that are isolated too: frames pass between it and the host alone.
func (r *Request) IsolatePort(port string) {
	r.Start("isolate "+port, unix.RTM_NEWLINK, unix.NLM_F_ACK, ifinfo(0, 0, 0))
	r.String(unix.IFLA_IFNAME, port)
	r.Nest(unix.IFLA_LINKINFO, func() {
		r.String(unix.IFLA_INFO_SLAVE_KIND, "bridge")
		r.Nest(unix.IFLA_INFO_SLAVE_DATA, func() { r.Uint8(unix.IFLA_BRPORT_ISOLATED, 1) })
	})
}

// SetUp takes an interface into service.
func (r *Request) SetUp(index uint32) {
	r.Start("set interface up", unix.RTM_SETLINK, unix.NLM_F_ACK, ifinfo(index, unix.IFF_UP, unix.IFF_UP))
}

// SetDown takes an interface out of service. It loses its IPv6 addresses.
func (r *Request) SetDown(index uint32) {
	r.Start("set interface down", unix.RTM_SETLINK, unix.NLM_F_ACK, ifinfo(index, 0, unix.IFF_UP))
}

// Rename gives an interface another name. The interface must be down.
func (r *Request) Rename(index uint32, name string) {
	r.Start("rename interface to "+name, unix.RTM_SETLINK, unix.NLM_F_ACK, ifinfo(index, 0, 0))
	r.String(unix.IFLA_IFNAME, name)
}

// SetMTU says how large an interface's packets may be, in bytes.
func (r *Request) SetMTU(index, mtu uint32) {
	r.Start("set MTU", unix.RTM_SETLINK, unix.NLM_F_ACK, ifinfo(index, 0, 0))
	r.Uint32(unix.IFLA_MTU, mtu)
}

// SetMAC gives an interface another hardware address.
func (r *Request) SetMAC(index uint32, mac []byte) {
	r.Start("set hardware address", unix.RTM_SETLINK, unix.NLM_F_ACK, ifinfo(index, 0, 0))
	r.Bytes(unix.IFLA_ADDRESS, mac)
}

// MoveLink moves an interface into the network namespace of a descriptor, under the given name there. The interface must be down.
// EEXIST if the name is taken there: then it may have moved all the same, under its old name. EINVAL for one that cannot be moved.
func (r *Request) MoveLink(index uint32, ns int, name string) {
	r.Start("move interface to a network namespace as "+name, unix.RTM_NEWLINK, unix.NLM_F_ACK, ifinfo(index, 0, 0))
	r.String(unix.IFLA_IFNAME, name)
	r.Uint32(unix.IFLA_NET_NS_FD, uint32(ns))
}

// DelLink removes an interface.
func (r *Request) DelLink(index uint32) {
	r.Start("remove interface", unix.RTM_DELLINK, unix.NLM_F_ACK, ifinfo(index, 0, 0))
}

// AddAddress gives an interface an address; EEXIST if it has it. Flags are unix.IFA_F_….
func (r *Request) AddAddress(index uint32, p netip.Prefix, flags uint32) {
	r.AddPeerAddress(index, p, p.Addr(), flags)
}

// AddPeerAddress gives an interface an address and tells it who is at the other end of a point-to-point link.
func (r *Request) AddPeerAddress(index uint32, p netip.Prefix, peer netip.Addr, flags uint32) {
	h := make([]byte, unix.SizeofIfAddrmsg)
	h[0], h[1] = family(p.Addr()), uint8(p.Bits())
	binary.NativeEndian.PutUint32(h[4:], index)
	r.Start("add address "+p.String(), unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, h)
	r.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
	r.Bytes(unix.IFA_ADDRESS, peer.AsSlice())
	r.Uint32(unix.IFA_FLAGS, flags)
}

// AddDefaultRoute sends everything through a gateway that is reached on the interface itself, whatever its prefix (onlink).
func (r *Request) AddDefaultRoute(index uint32, gateway netip.Addr) {
	r.Start("add default route through "+gateway.String(), unix.RTM_NEWROUTE, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		rtmsg(family(gateway), 0, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, unix.RTNH_F_ONLINK))
	r.Bytes(unix.RTA_GATEWAY, gateway.AsSlice())
	r.Uint32(unix.RTA_OIF, index)
}

// AddRoute sends what is for a range through a gateway that is reached on the interface itself, or with no gateway to who is there.
func (r *Request) AddRoute(index uint32, dst netip.Prefix, gateway netip.Addr) {
	r.route("add route to ", unix.NLM_F_EXCL, index, dst, gateway)
}

// SetRoute is AddRoute in the place of the route that there is to the same range, if there is one.
func (r *Request) SetRoute(index uint32, dst netip.Prefix, gateway netip.Addr) {
	r.route("set route to ", unix.NLM_F_REPLACE, index, dst, gateway)
}

func (r *Request) route(what string, how uint16, index uint32, dst netip.Prefix, gateway netip.Addr) {
	flags, scope := uint32(unix.RTNH_F_ONLINK), uint8(unix.RT_SCOPE_UNIVERSE)
	if !gateway.IsValid() {
		flags, scope = 0, unix.RT_SCOPE_LINK
	}
	h := rtmsg(family(dst.Addr()), uint8(dst.Bits()), unix.RT_TABLE_MAIN, unix.RTN_UNICAST, flags)
	h[6] = scope
	r.Start(what+dst.String(), unix.RTM_NEWROUTE, unix.NLM_F_ACK|unix.NLM_F_CREATE|how, h)
	if dst.Bits() > 0 {
		r.Bytes(unix.RTA_DST, dst.Masked().Addr().AsSlice())
	}
	if gateway.IsValid() {
		r.Bytes(unix.RTA_GATEWAY, gateway.AsSlice())
	}
	r.Uint32(unix.RTA_OIF, index)
}

// AddNeighbour tells for good which MAC an address on the interface's link has, so that it is never asked for.
func (r *Request) AddNeighbour(index uint32, addr netip.Addr, mac MAC) {
	h := make([]byte, unix.SizeofNdMsg)
	h[0] = family(addr)
	binary.NativeEndian.PutUint32(h[4:], index)
	binary.NativeEndian.PutUint16(h[8:], unix.NUD_PERMANENT)
	r.Start("add neighbour "+addr.String(), unix.RTM_NEWNEIGH, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE, h)
	r.Bytes(unix.NDA_DST, addr.AsSlice())
	r.Bytes(unix.NDA_LLADDR, mac[:])
}

// DelNeighbour forgets one; ENOENT if it is not known.
func (r *Request) DelNeighbour(index uint32, addr netip.Addr) {
	h := make([]byte, unix.SizeofNdMsg)
	h[0] = family(addr)
	binary.NativeEndian.PutUint32(h[4:], index)
	r.Start("remove neighbour "+addr.String(), unix.RTM_DELNEIGH, unix.NLM_F_ACK, h)
	r.Bytes(unix.NDA_DST, addr.AsSlice())
}

// AddLocalRoute makes the host take packets for addr that come in through the interface, behind (by metric) what it has for addr already.
func (r *Request) AddLocalRoute(index uint32, addr netip.Addr, metric uint32) {
	r.Start("add local route "+addr.String(), unix.RTM_NEWROUTE, unix.NLM_F_ACK|unix.NLM_F_CREATE, // with EXCL no second interface could have one
		rtmsg(family(addr), uint8(addr.BitLen()), unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, 0))
	r.Bytes(unix.RTA_DST, addr.AsSlice())
	r.Uint32(unix.RTA_OIF, index)
	r.Uint32(unix.RTA_PRIORITY, metric)
}

func rtmsg(family, bits, table, typ uint8, flags uint32) []byte {
	h := make([]byte, unix.SizeofRtMsg)
	h[0], h[1], h[4], h[5], h[7] = family, bits, table, unix.RTPROT_STATIC, typ
	binary.NativeEndian.PutUint32(h[8:], flags)
	return h
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// LinkByName finds an interface; ENODEV if there is none.
func (c *Conn) LinkByName(name string) (Link, error) {
	var r Request
	r.Start("interface "+name, unix.RTM_GETLINK, unix.NLM_F_ACK, ifinfo(0, 0, 0))
	r.String(unix.IFLA_IFNAME, name)
	return c.link(&r)
}

// LinkByIndex finds an interface; ENODEV if there is none.
func (c *Conn) LinkByIndex(index uint32) (Link, error) {
	var r Request
	r.Start("interface", unix.RTM_GETLINK, unix.NLM_F_ACK, ifinfo(index, 0, 0))
	return c.link(&r)
}

func (c *Conn) link(r *Request) (Link, error) {
	var l Link
	r.Uint32(unix.IFLA_EXT_MASK, skipStats)
	err := c.Do(r, func(typ uint16, b []byte) {
		if typ != unix.RTM_NEWLINK || len(b) < unix.SizeofIfInfomsg {
			return
		}
		l.Index, l.Flags = binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[8:])
		Attributes(b[unix.SizeofIfInfomsg:], func(attr uint16, v []byte) {
			switch {
			case attr == unix.IFLA_IFNAME:
				l.Name = Text(v)
			case attr == unix.IFLA_MTU && len(v) == 4:
				l.MTU = binary.NativeEndian.Uint32(v)
			case attr == unix.IFLA_LINKINFO:
				Attributes(v, func(attr uint16, v []byte) {
					if attr == unix.IFLA_INFO_KIND {
						l.Kind = Text(v)
					}
				})
			}
		})
	})
	return l, err
}

// IsLocal reports whether packets to addr are delivered here, as they are once the address is in use.
func (c *Conn) IsLocal(addr netip.Addr) (bool, error) {
	var r Request
	r.Start("route to "+addr.String(), unix.RTM_GETROUTE, unix.NLM_F_ACK, rtmsg(family(addr), uint8(addr.BitLen()), 0, 0, 0))
	r.Bytes(unix.RTA_DST, addr.AsSlice())
	local := false
	err := c.Do(&r, func(typ uint16, b []byte) {
		local = typ == unix.RTM_NEWROUTE && len(b) >= unix.SizeofRtMsg && b[7] == unix.RTN_LOCAL
	})
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		err = nil
	}
	return local, err
}

// Route is a destination that the host knows a way to, or an address that it has.
type Route struct {
	Dst   netip.Prefix
	Index uint32 // interface; 0 where the route has none or several
}

// Routes lists the routes of all tables and the addresses of all interfaces. Default routes come with zero bits.
func (c *Conn) Routes() ([]Route, error) {
	var routes []Route
	var r Request
	r.Start("list routes", unix.RTM_GETROUTE, unix.NLM_F_DUMP, make([]byte, unix.SizeofRtMsg))
	err := c.Do(&r, func(typ uint16, b []byte) {
		if typ == unix.RTM_NEWROUTE && len(b) >= unix.SizeofRtMsg {
			if route, ok := parseRoute(b[0], b[1], b[unix.SizeofRtMsg:], unix.RTA_DST, unix.RTA_OIF); ok {
				routes = append(routes, route)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	r = Request{}
	r.Start("list addresses", unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg))
	err = c.Do(&r, func(typ uint16, b []byte) {
		if typ == unix.RTM_NEWADDR && len(b) >= unix.SizeofIfAddrmsg {
			route, ok := parseRoute(b[0], b[1], b[unix.SizeofIfAddrmsg:], unix.IFA_ADDRESS, 0)
			if route.Index = binary.NativeEndian.Uint32(b[4:]); ok {
				routes = append(routes, route)
			}
		}
	})
	return routes, err
}

// Address is an address of an interface.
type Address struct {
	Prefix netip.Prefix // the interface's own address, with the bits of its network
	Peer   netip.Addr   // the other end of a point-to-point link; not valid where there is none
	Flags  uint32       // unix.IFA_F_…
	Scope  uint8        // unix.RT_SCOPE_…
}

// Addresses lists the IPv4 and IPv6 addresses of an interface, in the kernel's order.
func (c *Conn) Addresses(index uint32) ([]Address, error) {
	var list []Address
	var r Request
	r.Start("list addresses", unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg))
	err := c.Do(&r, func(typ uint16, b []byte) {
		if typ != unix.RTM_NEWADDR || len(b) < unix.SizeofIfAddrmsg || binary.NativeEndian.Uint32(b[4:]) != index || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
			return
		}
		a := Address{Flags: uint32(b[2]), Scope: b[3]}
		var local, addr netip.Addr
		Attributes(b[unix.SizeofIfAddrmsg:], func(attr uint16, v []byte) {
			switch {
			case attr == unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(v)
			case attr == unix.IFA_ADDRESS:
				addr, _ = netip.AddrFromSlice(v)
			case attr == unix.IFA_FLAGS && len(v) == 4:
				a.Flags = binary.NativeEndian.Uint32(v)
			}
		})
		if !local.IsValid() { // IPv6 without a peer has the other attribute alone
			local = addr
		} else if addr != local {
			a.Peer = addr
		}
		if a.Prefix = netip.PrefixFrom(local, int(b[1])); a.Prefix.IsValid() {
			list = append(list, a)
		}
	})
	return list, err
}

// parseRoute reads what routes and addresses have in common; oif is the interface's attribute.
func parseRoute(family, bits uint8, attrs []byte, dst, oif uint16) (Route, bool) {
	addr := netip.IPv4Unspecified()
	switch family {
	case unix.AF_INET:
	case unix.AF_INET6:
		addr = netip.IPv6Unspecified()
	default:
		return Route{}, false
	}
	var route Route
	ok := true
	Attributes(attrs, func(attr uint16, v []byte) {
		switch {
		case attr == dst:
			var a netip.Addr
			if a, ok = netip.AddrFromSlice(v); ok {
				addr = a
			}
		case attr == oif && len(v) == 4:
			route.Index = binary.NativeEndian.Uint32(v)
		}
	})
	p, err := addr.Prefix(int(bits))
	route.Dst = p
	return route, ok && err == nil
}
