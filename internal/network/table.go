package network

import (
	"net/netip"

	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

// Registers of the rules: what is looked up starts at in, what a map answers at out, one register an IPv4 address.
const (
	regIn  netlink.Reg = 0
	regOut netlink.Reg = 8
)

// Offsets into the headers of packets.
const (
	ipSource4, ipDestination4 = 12, 16
	ipSource6, ipDestination6 = 8, 24
	destinationPort           = 2
	icmpRedirect              = 5
	icmp6Redirect             = 137
)

// makeTable makes the table in one transaction, in place of one that is there, with the ports that are on record. In nft's words:
//
//	chain publish     { ip daddr . meta l4proto . th dport dnat to @host4;  meta l4proto . th dport dnat to @any4; the same for IPv6 }
//	chain prerouting  { nat, dstnat;   ip daddr 127.0.0.0/8 return;  fib daddr type local jump publish }
//	chain output      { nat, -100;     fib daddr type local jump publish }
//	chain postrouting { nat, srcnat;   to the bridge from loopback, or from a container to itself: masquerade
//	                                   from the subnet to elsewhere: masquerade }
//	chain guard       { filter, raw;   from the bridge to or from 127.0.0.0/8: drop (CVE-2020-8558) }
//	chain forward     { filter;        from elsewhere to the bridge: only answers, and what was published }
//	chain redirect    { filter output; an ICMP redirect to the bridge: drop; containers shall not find a way past the host }
//
// Clients keep their address but for those two cases: 127.0.0.1 and ::1 are never seen by another machine, and a packet that comes back to its
// sender with its own address is dropped there.
func (m *Manager) makeTable(nft *netlink.Conn, br bridge) error {
	t := m.table()
	var ports []mapping
	if err := m.eachPublisher(func(_ string, p []mapping) { ports = append(ports, p...) }); err != nil {
		return err
	}
	var r netlink.Request
	r.Batch(func() {
		r.AddTable(t) // so that there is one to remove
		r.DelTable(t)
		r.AddTable(t)
		for i, s := range tableSets() {
			r.AddSet(t, s, uint32(i+1))
		}
		for _, c := range []netlink.Chain{
			{Name: "publish"},
			{Name: "prerouting", Type: "nat", Hook: unix.NF_INET_PRE_ROUTING, Priority: -100},
			{Name: "output", Type: "nat", Hook: unix.NF_INET_LOCAL_OUT, Priority: -100},
			{Name: "postrouting", Type: "nat", Hook: unix.NF_INET_POST_ROUTING, Priority: 100},
			{Name: "guard", Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: -300},
			{Name: "forward", Type: "filter", Hook: unix.NF_INET_FORWARD},
			{Name: "redirect", Type: "filter", Hook: unix.NF_INET_LOCAL_OUT},
		} {
			r.AddChain(t, c)
		}
		for _, rule := range m.rules(br) {
			r.AddRule(t, rule)
		}
		for _, e := range elementsOf(ports) {
			r.AddElement(t, e.set, e.Element)
		}
	})
	return nft.Do(&r, nil)
}

func tableSets() []netlink.Set {
	const v4, v6, proto, port = netlink.TypeIPv4, netlink.TypeIPv6, netlink.TypeProto, netlink.TypeService
	type types = []netlink.DataType
	return []netlink.Set{
		{Name: setAny4, Key: types{proto, port}, Data: types{v4, port}},
		{Name: setAny6, Key: types{proto, port}, Data: types{v6, port}},
		{Name: setHost4, Key: types{v4, proto, port}, Data: types{v4, port}},
		{Name: setHost6, Key: types{v6, proto, port}, Data: types{v6, port}},
		{Name: setSelf4, Key: types{v4, v4}},
		{Name: setSelf6, Key: types{v6, v6}},
	}
}

func (m *Manager) rules(br bridge) []netlink.Rule {
	fromBridge := []netlink.Expr{netlink.Meta(unix.NFT_META_IIFNAME, regIn), netlink.Equal(regIn, interfaceName(m.name))}
	toBridge := []netlink.Expr{netlink.Meta(unix.NFT_META_OIFNAME, regIn), netlink.Equal(regIn, interfaceName(m.name))}
	notTo := []netlink.Expr{netlink.Meta(unix.NFT_META_OIFNAME, regIn), netlink.Differs(regIn, interfaceName(m.name))}
	notFrom := []netlink.Expr{netlink.Meta(unix.NFT_META_IIFNAME, regIn), netlink.Differs(regIn, interfaceName(m.name))}
	loopback4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	loopback6 := netip.PrefixFrom(netip.IPv6Loopback(), 128)
	accept, drop := verdict(netlink.Accept), verdict(netlink.Drop)
	masquerade := []netlink.Expr{netlink.Masquerade()}
	jump := []netlink.Expr{
		netlink.LocalDestination(regIn), netlink.Equal(regIn, native32(unix.RTN_LOCAL)), netlink.Verdict(netlink.Jump, "publish"),
	}
	rule := func(chain string, parts ...[]netlink.Expr) netlink.Rule {
		var all []netlink.Expr
		for _, p := range parts {
			all = append(all, p...)
		}
		return netlink.Rule{Chain: chain, Exprs: all}
	}
	rules := []netlink.Rule{
		rule("publish", publishOn(unix.NFPROTO_IPV4, ipDestination4, 4, setHost4)),
		rule("publish", publishAny(unix.NFPROTO_IPV4, setAny4)),
		rule("publish", publishOn(unix.NFPROTO_IPV6, ipDestination6, 16, setHost6)),
		rule("publish", destination(loopback6), verdict(netlink.Return)), // only what is in host6: see mapping.NoLoopback
		rule("publish", publishAny(unix.NFPROTO_IPV6, setAny6)),

		rule("prerouting", destination(loopback4), verdict(netlink.Return)), // even if another program turned route_localnet on everywhere
		rule("prerouting", jump),
		rule("output", jump),

		rule("postrouting", toBridge, source(loopback4), masquerade),
		rule("postrouting", toBridge, source(loopback6), masquerade),
		rule("postrouting", toBridge, toItself(unix.NFPROTO_IPV4, ipSource4, 8, setSelf4), masquerade),
		rule("postrouting", toBridge, toItself(unix.NFPROTO_IPV6, ipSource6, 32, setSelf6), masquerade),
		rule("postrouting", notTo, source(br.V4.Masked()), masquerade),

		rule("guard", fromBridge, destination(loopback4), drop),
		rule("guard", fromBridge, source(loopback4), drop),

		rule("forward", notTo, accept),
		rule("forward", fromBridge, accept),
		rule("forward", []netlink.Expr{netlink.CtState(regIn), netlink.Mask(regIn, native32(netlink.CtEstablished|netlink.CtRelated)), netlink.Differs(regIn, native32(0))}, accept),
		rule("forward", []netlink.Expr{netlink.CtStatus(regIn), netlink.Mask(regIn, native32(netlink.CtDstNAT)), netlink.Differs(regIn, native32(0))}, accept),
		rule("forward", notFrom, drop),

		rule("redirect", toBridge, icmp(unix.IPPROTO_ICMP, icmpRedirect), drop),
		rule("redirect", toBridge, icmp(unix.IPPROTO_ICMPV6, icmp6Redirect), drop),
	}
	if br.V6.IsValid() {
		rules = append(rules, rule("postrouting", notTo, source(br.V6.Masked()), masquerade))
	}
	return rules
}

func verdict(code int32) []netlink.Expr { return []netlink.Expr{netlink.Verdict(code, "")} }

// of restricts a rule to a family, as all must that look into the IP header.
func of(family uint8) []netlink.Expr {
	return []netlink.Expr{netlink.Meta(unix.NFT_META_NFPROTO, regIn), netlink.Equal(regIn, []byte{family})}
}

// service loads protocol and destination port from reg on.
func service(reg netlink.Reg) []netlink.Expr {
	return []netlink.Expr{
		netlink.Meta(unix.NFT_META_L4PROTO, reg), netlink.Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, destinationPort, 2, reg+1),
	}
}

// publishOn translates what goes to one address of the host, publishAny what goes to any.
func publishOn(family uint8, offset, size uint32, set string) []netlink.Expr {
	e := append(of(family), netlink.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, size, regIn))
	e = append(e, service(regIn+netlink.Reg(size/4))...)
	return append(e, netlink.InMap(set, regIn, regOut), netlink.DestinationNAT(family, regOut, regOut+netlink.Reg(size/4)))
}

func publishAny(family uint8, set string) []netlink.Expr {
	size := netlink.Reg(1)
	if family == unix.NFPROTO_IPV6 {
		size = 4
	}
	return append(append(of(family), service(regIn)...), netlink.InMap(set, regIn, regOut), netlink.DestinationNAT(family, regOut, regOut+size))
}

// toItself matches what a container sent to its own published port, by then with itself as destination.
func toItself(family uint8, offset, size uint32, set string) []netlink.Expr {
	return append(of(family), netlink.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, size, regIn), netlink.InSet(set, regIn))
}

func source(p netip.Prefix) []netlink.Expr      { return inPrefix(p, ipSource4, ipSource6) }
func destination(p netip.Prefix) []netlink.Expr { return inPrefix(p, ipDestination4, ipDestination6) }

// inPrefix matches an address of the IP header.
func inPrefix(p netip.Prefix, offset4, offset6 uint32) []netlink.Expr {
	family, offset := uint8(unix.NFPROTO_IPV4), offset4
	if p.Addr().Is6() {
		family, offset = unix.NFPROTO_IPV6, offset6
	}
	addr := p.Addr().AsSlice()
	mask := make([]byte, len(addr))
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(of(family), netlink.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, uint32(len(addr)), regIn), netlink.Mask(regIn, mask), netlink.Equal(regIn, addr))
}

func icmp(proto, typ byte) []netlink.Expr {
	return []netlink.Expr{
		netlink.Meta(unix.NFT_META_L4PROTO, regIn), netlink.Equal(regIn, []byte{proto}),
		netlink.Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, regIn), netlink.Equal(regIn, []byte{typ}),
	}
}

// interfaceName is a name as registers hold it, filled up with zeros.
func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
