package netlink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// private moves the test's thread into a network namespace of its own. The thread is not used again, so nothing is left.
func private(t *testing.T) *Conn {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		t.Skip("no network namespace: ", err)
	}
	c, err := Dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestLengthsDoNotWrap(t *testing.T) {
	for _, size := range []int{65528, 65532, 70000} {
		var r Request
		r.Start("test", unix.RTM_GETLINK, unix.NLM_F_ACK, ifinfo(1, 0, 0))
		r.Nest(1, func() { r.Bytes(2, make([]byte, size-4)) })
		c := private(t)
		err := c.Do(&r, nil)
		var refused *Error
		if tooLong := size+4 > 65535; tooLong == (err == nil || errors.As(err, &refused)) {
			t.Errorf("attribute of %d bytes: %v", size+4, err)
		}
	}
}

func TestEncoding(t *testing.T) {
	var r Request
	r.Start("one", 16, 0, []byte{1, 2, 3})
	r.String(5, "ab")
	r.Nest(6, func() { r.Net16(7, 0x0102) })
	r.Start("two", 17, unix.NLM_F_ACK, nil)
	r.finish()
	first := binary.NativeEndian.Uint32(r.buf)
	if first != 16+4+8+12 || r.Len() != int(first)+16 || r.messages[1].at != int(first) {
		t.Fatalf("first message has %d bytes of %d: %v", first, r.Len(), r.messages)
	}
	var got []uint16
	Attributes(r.buf[20:first], func(attr uint16, v []byte) {
		got = append(got, attr)
		switch attr {
		case 5:
			if Text(v) != "ab" || len(v) != 3 {
				t.Errorf("string %q", v)
			}
		case 6:
			if !bytes.Equal(descend(v, []uint16{7}), []byte{1, 2}) {
				t.Errorf("nested %v", v)
			}
		}
	})
	if len(got) != 2 || got[0] != 5 || got[1] != 6 {
		t.Errorf("attributes %v", got)
	}
}

func TestRefusals(t *testing.T) {
	c := private(t)
	if _, err := c.LinkByName("nope0"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("link: %v", err)
	}
	var r Request
	r.AddBridge(Bridge{Name: "br0", MAC: MAC{2, 0, 0, 0, 0, 1}, MTU: 1400})
	r.AddBridge(Bridge{Name: "br0", MAC: MAC{2, 0, 0, 0, 0, 9}, MTU: 1400})
	r.SetUp(1)
	err := c.Do(&r, nil)
	var e *Error
	if !errors.As(err, &e) || e.Errno != unix.EEXIST || e.What != "create bridge br0" {
		t.Errorf("second bridge: %v", err)
	}
	// The answers to what followed the refused message must not be taken for answers to this one.
	l, err := c.LinkByName("br0")
	if err != nil || l.Kind != "bridge" || l.MTU != 1400 || l.Name != "br0" {
		t.Errorf("bridge: %+v %v", l, err)
	}
	r = Request{}
	r.AddVeth(Veth{Name: "v0", Master: 99, MTU: 1500, Peer: "v1", PeerIndex: 50, PeerNS: -1})
	if err := c.Do(&r, nil); err == nil {
		t.Error("an interface was made for no namespace")
	}
}

func TestRoutes(t *testing.T) {
	c := private(t)
	p4, p6 := netip.MustParsePrefix("10.9.0.1/16"), netip.MustParsePrefix("fd09::1/64")
	var r Request
	r.AddBridge(Bridge{Name: "br0", MAC: MAC{2, 0, 0, 0, 0, 9}, MTU: 1500})
	if err := c.Do(&r, nil); err != nil {
		t.Fatal(err)
	}
	l, err := c.LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	r = Request{}
	r.SetUp(l.Index)
	r.AddAddress(l.Index, p4, 0)
	r.AddAddress(l.Index, p6, unix.IFA_F_NODAD)
	r.AddDefaultRoute(l.Index, netip.MustParseAddr("10.9.0.2"))
	r.AddLocalRoute(l.Index, netip.IPv6Loopback(), 77)
	if err := c.Do(&r, nil); err != nil {
		t.Fatal(err)
	}
	routes, err := c.Routes()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []netip.Prefix{p4.Masked(), p6.Masked(), netip.MustParsePrefix("10.9.0.1/32"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::1/128")} {
		found := false
		for _, got := range routes {
			found = found || got.Dst == want && got.Index == l.Index
		}
		if !found {
			t.Errorf("no route to %s in %v", want, routes)
		}
	}
}

func TestTransactionIsWhole(t *testing.T) {
	private(t)
	c, err := Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	table := Table{Family: unix.NFPROTO_INET, Name: "t"}
	set := Set{Name: "m", Key: []DataType{TypeProto, TypeService}, Data: []DataType{TypeIPv6, TypeService}}
	one := Element{Key: []byte{6, 0, 0, 0, 0, 80, 0, 0}, Data: append(make([]byte, 16), 0, 81, 0, 0)}
	two := Element{Key: []byte{6, 0, 0, 0, 0, 90, 0, 0}, Data: one.Data}
	do := func(body func(r *Request)) error {
		var r Request
		r.Batch(func() { body(&r) })
		return c.Do(&r, nil)
	}
	if err := do(func(r *Request) { r.AddTable(table); r.AddSet(table, set, 1); r.AddElement(table, "m", one) }); err != nil {
		t.Fatal(err)
	}
	err = do(func(r *Request) { r.AddElement(table, "m", two); r.AddElement(table, "m", one) })
	if !errors.Is(err, unix.EEXIST) {
		t.Errorf("key that is there: %v", err)
	}
	if _, err := c.Element(table, "m", two.Key); !errors.Is(err, unix.ENOENT) {
		t.Errorf("half of a transaction was carried out: %v", err)
	}
	if e, err := c.Element(table, "m", one.Key); err != nil || !bytes.Equal(e.Data, one.Data) {
		t.Errorf("element: %v %v", e, err)
	}
	chain := Chain{Name: "c"}
	if err := do(func(r *Request) {
		r.AddChain(table, chain)
		r.AddRule(table, Rule{Chain: "c", Comment: "first", Exprs: []Expr{Counter(), Verdict(Accept, "")}})
		r.AddRule(table, Rule{Chain: "c", Exprs: []Expr{Counter(), Verdict(Return, "")}})
	}); err != nil {
		t.Fatal(err)
	}
	rules, err := c.Rules(table, "c")
	if err != nil || len(rules) != 2 || rules[0].Comment != "first" || rules[0].Returns || !rules[1].Returns {
		t.Fatalf("rules %+v %v", rules, err)
	}
	if err := do(func(r *Request) { r.DelRule(table, "c", rules[0].Handle) }); err != nil {
		t.Error(err)
	}
	if rules, _ = c.Rules(table, "c"); len(rules) != 1 {
		t.Errorf("rules after one was removed: %+v", rules)
	}
	if err := do(func(r *Request) { r.DelTable(table) }); err != nil {
		t.Error(err)
	}
	if has, err := c.HasTable(table); has || err != nil {
		t.Errorf("table is still there: %v %v", has, err)
	}
	if has, err := c.HasChain(table, "c"); has || err != nil {
		t.Errorf("chain is still there: %v %v", has, err)
	}
}

func FuzzAttributes(f *testing.F) {
	f.Add([]byte{5, 0, 1, 0, 9})
	f.Add([]byte{3, 0, 1, 0})
	f.Add([]byte{255, 255, 1, 0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		Attributes(b, func(_ uint16, v []byte) { total += 4 + len(v) })
		if total > len(b) {
			t.Errorf("%d bytes of attributes in %d", total, len(b))
		}
		refusal("x", unix.NLM_F_ACK_TLVS, b)
		refusal("x", unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, b)
		onlyReturns(b)
		parseRoute(unix.AF_INET, 24, b, unix.RTA_DST, unix.RTA_OIF)
	})
}

// TestAddresses: what is given to an interface is read back, with the other end of a point-to-point link.
func TestAddresses(t *testing.T) {
	c := private(t)
	lo, err := c.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	var r Request
	r.SetUp(lo.Index)
	r.AddAddress(lo.Index, netip.MustParsePrefix("10.0.0.2/24"), 0)
	r.AddPeerAddress(lo.Index, netip.MustParsePrefix("10.1.0.2/32"), netip.MustParseAddr("10.1.0.1"), 0)
	r.AddAddress(lo.Index, netip.MustParsePrefix("2001:db8::1/64"), unix.IFA_F_NODAD)
	if err := c.Do(&r, nil); err != nil {
		t.Fatal(err)
	}
	got, err := c.Addresses(lo.Index)
	if err != nil {
		t.Fatal(err)
	}
	for prefix, peer := range map[string]netip.Addr{"10.0.0.2/24": {}, "10.1.0.2/32": netip.MustParseAddr("10.1.0.1"), "2001:db8::1/64": {}, "127.0.0.1/8": {}, "::1/128": {}} {
		found := false
		for _, a := range got {
			found = found || a.Prefix == netip.MustParsePrefix(prefix) && a.Peer == peer && a.Flags&unix.IFA_F_PERMANENT != 0
		}
		if !found {
			t.Errorf("%s with peer %v is not in %+v", prefix, peer, got)
		}
	}
	if other, err := c.Addresses(lo.Index + 1); err != nil || len(other) > 0 {
		t.Errorf("of no interface: %v, %v", other, err)
	}
}

// TestMoveLink: an interface goes to another namespace under a new name.
func TestMoveLink(t *testing.T) {
	here := private(t)
	ns, err := here.Namespace()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ns)
	there := private(t)
	to, err := there.Namespace()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(to)
	var r Request
	r.AddBridge(Bridge{Name: "br", MAC: MAC{2, 0, 0, 0, 0, 1}, MTU: 1500})
	if err := here.Do(&r, nil); err != nil {
		t.Fatal(err)
	}
	br, err := here.LinkByName("br")
	if err != nil {
		t.Fatal(err)
	}
	r = Request{}
	r.AddVeth(Veth{Name: "a", Master: br.Index, MTU: 1400, Peer: "b", PeerIndex: 77, PeerNS: ns, PeerMAC: MAC{2, 0, 0, 0, 0, 2}})
	if err := here.Do(&r, nil); err != nil {
		t.Fatal(err)
	}
	b, err := here.LinkByName("b")
	if err != nil {
		t.Fatal(err)
	}
	r = Request{}
	r.SetDown(b.Index)
	r.MoveLink(b.Index, to, "c")
	if err := here.Do(&r, nil); err != nil {
		t.Fatal(err)
	}
	if l, err := there.LinkByName("c"); err != nil || l.MTU != 1400 || l.Flags&unix.IFF_UP != 0 {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := here.LinkByName("b"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("it is still here: %v", err)
	}
}
