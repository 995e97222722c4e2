package network

import (
	"errors"
	"net/netip"

	"brig/api"
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

// makeTable makes the table in one transaction, in place of one that is there, with all bridges that are on record, the one that is just being
// made, if any, and the ports that are on record. In nft's words:
//
//	chain publish     { ip daddr . meta l4proto . th dport dnat to @host4;  meta l4proto . th dport dnat to @any4; the same for IPv6 }
//	chain prerouting  { nat, dstnat;   ip daddr 127.0.0.0/8 return;  fib daddr type local jump publish }
//	chain output      { nat, -100;     fib daddr type local jump publish }
//	chain postrouting { nat, srcnat;   to a bridge from loopback, or from a container to itself: masquerade
//	                                   from a bridge's subnet to where no bridge is: masquerade }
//	chain guard       { filter, raw;   from a bridge to or from 127.0.0.0/8: drop (CVE-2020-8558)
//	                                   from an internal bridge to another subnet: drop }
//	chain forward     { filter;        from a bridge to itself: accept;  from or to an internal one: drop
//	                                   from elsewhere to a bridge: only answers, and what was published }
//	chain redirect    { filter output; an ICMP redirect to a bridge: drop; containers shall not find a way past the host }
//
// Clients keep their address but for those two cases: 127.0.0.1 and ::1 are never seen by another machine, and a packet that comes back to its
// sender with its own address is dropped there.
//
// The caller holds the lock. Who publishes a port does not: he writes his record first and then adds to the table. So the transaction is refused,
// and begun again, where anything has changed since the records were read.
func (m *Manager) makeTable(nft *netlink.Conn, making *bridge) error {
	const tries = 100
	for range tries {
		generation, err := nft.Generation()
		if err != nil {
			return err
		}
		bridges, err := m.bridges(making)
		if err != nil {
			return err
		}
		var ports []mapping
		if err := m.eachPublisher(func(_ string, p []mapping) { ports = append(ports, p...) }); err != nil {
			return err
		}
		var r netlink.Request
		r.BatchAt(generation, func() { m.fillTable(&r, bridges, ports) })
		if err := nft.Do(&r, nil); !errors.Is(err, unix.ERESTART) {
			return err
		}
	}
	return api.Errorf(api.Unavailable, "the rules of this machine are being changed all the time: try again")
}

// bridges are those that are on record, and one that is just being made.
func (m *Manager) bridges(making *bridge) (list []bridge, err error) {
	own, err := m.ownSegments()
	if err != nil {
		return nil, err
	}
	for _, s := range append([]*segment{m.ground()}, own...) {
		if br, ok := s.load(); ok && (making == nil || br.Name != making.Name) {
			list = append(list, br)
		}
	}
	if making != nil {
		list = append(list, *making)
	}
	return list, nil
}

func (m *Manager) fillTable(r *netlink.Request, bridges []bridge, ports []mapping) {
	t := m.table()
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
	all := rules()
	for i := range bridges {
		all = append(all, rulesOf(&bridges[i])...)
	}
	for _, rule := range all {
		r.AddRule(t, rule)
	}
	for _, br := range bridges {
		name := interfaceName(br.Name)
		r.AddElement(t, setBridges, netlink.Element{Key: name})
		if !br.is(flagApart) {
			r.AddElement(t, setInside, netlink.Element{Key: append(interfaceName(br.Name), name...)})
		}
		if br.is(flagInternal) {
			r.AddElement(t, setInternal, netlink.Element{Key: name})
		}
	}
	for _, e := range elementsOf(ports) {
		r.AddElement(t, e.set, e.Element)
	}
}

func tableSets() []netlink.Set {
	const v4, v6, proto, port, name = netlink.TypeIPv4, netlink.TypeIPv6, netlink.TypeProto, netlink.TypeService, netlink.TypeIfname
	type types = []netlink.DataType
	return []netlink.Set{
		{Name: setAny4, Key: types{proto, port}, Data: types{v4, port}},
		{Name: setAny6, Key: types{proto, port}, Data: types{v6, port}},
		{Name: setHost4, Key: types{v4, proto, port}, Data: types{v4, port}},
		{Name: setHost6, Key: types{v6, proto, port}, Data: types{v6, port}},
		{Name: setSelf4, Key: types{v4, v4}},
		{Name: setSelf6, Key: types{v6, v6}},
		{Name: setBridges, Key: types{name}},
		{Name: setInternal, Key: types{name}},
		{Name: setInside, Key: types{name, name}},
	}
}

// inNamed and outNamed match an interface that a set has.
func inNamed(set string) []netlink.Expr {
	return []netlink.Expr{netlink.Meta(unix.NFT_META_IIFNAME, regIn), netlink.InSet(set, regIn)}
}

func outNamed(set string) []netlink.Expr {
	return []netlink.Expr{netlink.Meta(unix.NFT_META_OIFNAME, regIn), netlink.InSet(set, regIn)}
}

func ruleOf(chain string, parts ...[]netlink.Expr) netlink.Rule {
	var all []netlink.Expr
	for _, p := range parts {
		all = append(all, p...)
	}
	return netlink.Rule{Chain: chain, Exprs: all}
}

func loopback4() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8) }
func loopback6() netip.Prefix { return netip.PrefixFrom(netip.IPv6Loopback(), 128) }

// rules are those that serve all bridges.
func rules() []netlink.Rule {
	accept, drop := verdict(netlink.Accept), verdict(netlink.Drop)
	masquerade := []netlink.Expr{netlink.Masquerade()}
	jump := []netlink.Expr{
		netlink.LocalDestination(regIn), netlink.Equal(regIn, native32(unix.RTN_LOCAL)), netlink.Verdict(netlink.Jump, "publish"),
	}
	within := []netlink.Expr{netlink.Meta(unix.NFT_META_IIFNAME, regIn), netlink.Meta(unix.NFT_META_OIFNAME, regIn+unix.IFNAMSIZ/4), netlink.InSet(setInside, regIn)}
	answers := []netlink.Expr{netlink.CtState(regIn), netlink.Mask(regIn, native32(netlink.CtEstablished|netlink.CtRelated)), netlink.Differs(regIn, native32(0))}
	published := []netlink.Expr{netlink.CtStatus(regIn), netlink.Mask(regIn, native32(netlink.CtDstNAT)), netlink.Differs(regIn, native32(0))}
	return []netlink.Rule{
		ruleOf("publish", publishOn(unix.NFPROTO_IPV4, ipDestination4, 4, setHost4)),
		ruleOf("publish", publishAny(unix.NFPROTO_IPV4, setAny4)),
		ruleOf("publish", publishOn(unix.NFPROTO_IPV6, ipDestination6, 16, setHost6)),
		ruleOf("publish", destination(loopback6()), verdict(netlink.Return)), // only what is in host6: see mapping.NoLoopback
		ruleOf("publish", publishAny(unix.NFPROTO_IPV6, setAny6)),

		ruleOf("prerouting", destination(loopback4()), verdict(netlink.Return)), // even if another program turned route_localnet on everywhere
		ruleOf("prerouting", jump),
		ruleOf("output", jump),

		ruleOf("postrouting", outNamed(setBridges), source(loopback4()), masquerade),
		ruleOf("postrouting", outNamed(setBridges), source(loopback6()), masquerade),
		ruleOf("postrouting", outNamed(setBridges), toItself(unix.NFPROTO_IPV4, ipSource4, 8, setSelf4), masquerade),
		ruleOf("postrouting", outNamed(setBridges), toItself(unix.NFPROTO_IPV6, ipSource6, 32, setSelf6), masquerade),
		ruleOf("postrouting", outNamed(setBridges), verdict(netlink.Return)), // also a container of another network, which came by a published port, keeps its address

		ruleOf("guard", inNamed(setBridges), destination(loopback4()), drop),
		ruleOf("guard", inNamed(setBridges), source(loopback4()), drop),

		ruleOf("forward", within, accept),
		ruleOf("forward", inNamed(setInternal), drop),
		ruleOf("forward", outNamed(setInternal), drop),
		ruleOf("forward", answers, accept),
		ruleOf("forward", published, accept),
		ruleOf("forward", outNamed(setBridges), drop),

		ruleOf("redirect", outNamed(setBridges), icmp(unix.IPPROTO_ICMP, icmpRedirect), drop),
		ruleOf("redirect", outNamed(setBridges), icmp(unix.IPPROTO_ICMPV6, icmp6Redirect), drop),
	}
}

// rulesOf are a bridge's own.
func rulesOf(br *bridge) (list []netlink.Rule) {
	from := []netlink.Expr{netlink.Meta(unix.NFT_META_IIFNAME, regIn), netlink.Equal(regIn, interfaceName(br.Name))}
	for _, p := range []netip.Prefix{br.V4, br.V6} {
		switch {
		case !p.IsValid():
		case br.is(flagInternal): // what is for the subnet, and what neighbours say to each other
			elsewhere := notTowards(p.Masked())
			if p.Addr().Is6() {
				elsewhere = append(elsewhere, notTowards(netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 10))...)
				elsewhere = append(elsewhere, notTowards(netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8))...)
			} else {
				elsewhere = append(elsewhere, notTowards(netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4))...)
			}
			list = append(list, ruleOf("guard", from, elsewhere, verdict(netlink.Drop)))
		case !br.is(flagNoMasquerade):
			list = append(list, ruleOf("postrouting", source(p.Masked()), []netlink.Expr{netlink.Masquerade()}))
		}
	}
	return list
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

func source(p netip.Prefix) []netlink.Expr { return inPrefix(p, ipSource4, ipSource6, netlink.Equal) }
func destination(p netip.Prefix) []netlink.Expr {
	return inPrefix(p, ipDestination4, ipDestination6, netlink.Equal)
}
func notTowards(p netip.Prefix) []netlink.Expr {
	return inPrefix(p, ipDestination4, ipDestination6, netlink.Differs)
}

// inPrefix matches an address of the IP header that compares to the range.
func inPrefix(p netip.Prefix, offset4, offset6 uint32, compare func(netlink.Reg, []byte) netlink.Expr) []netlink.Expr {
	family, offset := uint8(unix.NFPROTO_IPV4), offset4
	if p.Addr().Is6() {
		family, offset = unix.NFPROTO_IPV6, offset6
	}
	addr := p.Addr().AsSlice()
	mask := make([]byte, len(addr))
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(of(family), netlink.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, uint32(len(addr)), regIn), netlink.Mask(regIn, mask), compare(regIn, addr))
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
