package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/base/namedir"
)

// create makes a network.
func create(t testing.TB, m *Manager, n api.Network) api.Network {
	t.Helper()
	n, err := m.Create(n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// attachTo makes the link of a container that is on the networks named.
func attachTo(t testing.TB, m *Manager, spec api.NetworkSpec, networks ...string) (string, *api.Link) {
	t.Helper()
	if spec.Mode == "" {
		spec.Mode = api.NetworkOwn
	}
	for _, n := range networks {
		spec.Networks = append(spec.Networks, api.EndpointSpec{Network: n})
	}
	id := id.New()
	l, err := m.Attach(context.Background(), id, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.NetNS.Close()
		closeAll(append(l.Held, l.Resolver...))
	})
	return id, l
}

func TestCreate(t *testing.T) {
	m := manager(t)
	p := netip.MustParsePrefix
	sub := func(s string) []api.Subnet { return []api.Subnet{{Prefix: p(s)}} }
	made := create(t, m, api.Network{Name: "one", Labels: map[string]string{"a": "b"}})
	if len(made.ID) != 64 || len(made.Subnets) != 2 || made.Driver != "bridge" || made.Subnets[1].Gateway.Is4() || !made.Subnets[0].Prefix.Contains(made.Subnets[0].Gateway) {
		t.Errorf("%+v", made)
	}
	for _, key := range []string{"one", made.ID, made.ID[:12]} {
		got, err := m.Network(key)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(made) {
			t.Errorf("%s: %+v %v, want %+v", key, got, err, made)
		}
	}
	if got, err := m.Network("bridge"); err != nil || got.Driver != "bridge" || len(got.ID) != 64 {
		t.Errorf("%+v %v", got, err)
	}
	outside(t)
	for _, c := range []struct {
		name string
		n    api.Network
		kind api.Kind
		says string
	}{
		{"name in use", api.Network{Name: "one"}, api.AlreadyExists, "already exists"},
		{"predefined", api.Network{Name: "host"}, api.Denied, "predefined"},
		{"name", api.Network{Name: "../x"}, api.InvalidArgument, "invalid"},
		{"driver", api.Network{Name: "x", Driver: "overlay"}, api.Unsupported, "overlay"},
		{"option", api.Network{Name: "x", Options: map[string]string{"vlan": "3"}}, api.Unsupported, `"vlan"`},
		{"not isolated", api.Network{Name: "x", Options: map[string]string{"isolate": "false"}}, api.Unsupported, "isolate=false"},
		{"mtu", api.Network{Name: "x", Options: map[string]string{"mtu": "12"}}, api.InvalidArgument, "mtu=12"},
		{"bridge name", api.Network{Name: "x", Options: map[string]string{optionBridgeName: "wire0"}}, api.Conflict, "wire0"},
		{"no parent", api.Network{Name: "x", Driver: "macvlan"}, api.InvalidArgument, "parent=NAME"},
		{"mode", api.Network{Name: "x", Driver: "ipvlan", Options: map[string]string{"parent": "wire0", "mode": "l4"}}, api.InvalidArgument, "l2, l3, l3s"},
		{"of another network", api.Network{Name: "x", Subnets: sub(made.Subnets[0].Prefix.String())}, api.Conflict, "uses it"},
		{"of the host", api.Network{Name: "x", Subnets: sub("198.51.100.128/25")}, api.Conflict, "uses it"},
		{"of the host, IPv6", api.Network{Name: "x", Subnets: sub("2001:db8:1::/64")}, api.Conflict, "uses it"},
		{"two", api.Network{Name: "x", Subnets: append(sub("10.1.0.0/24"), sub("10.2.0.0/24")...)}, api.Unsupported, "one of each family"},
		{"an address", api.Network{Name: "x", Subnets: sub("10.1.0.1/24")}, api.InvalidArgument, "10.1.0.0/24"},
		{"too small", api.Network{Name: "x", Subnets: sub("10.1.0.0/31")}, api.InvalidArgument, "prefix"},
		{"loopback", api.Network{Name: "x", Subnets: sub("127.1.0.0/24")}, api.InvalidArgument, "no machines"},
		{"gateway", api.Network{Name: "x", Subnets: []api.Subnet{{Prefix: p("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.2.0.1")}}}, api.InvalidArgument, "gateway 10.2.0.1"},
		{"range", api.Network{Name: "x", Subnets: []api.Subnet{{Prefix: p("10.1.0.0/24"), Range: p("10.2.0.0/28")}}}, api.InvalidArgument, "IP range"},
	} {
		got, err := m.Create(c.n)
		if api.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %+v %v, want %q and %q", c.name, got, err, c.kind, c.says)
		}
	}
	if err := m.Remove("bridge"); !errors.Is(err, api.Denied) {
		t.Error(err)
	}
	if err := m.Remove("nothing"); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
	if err := m.Remove("one"); err != nil {
		t.Error(err)
	}
	if all, err := m.Networks(); len(all) != 0 || err != nil {
		t.Error(all, err)
	}
}

// TestDamagedNetwork: a record that cannot be read is in nobody's way, and can be removed.
func TestDamagedNetwork(t *testing.T) {
	m := manager(t)
	create(t, m, api.Network{Name: "good"})
	create(t, m, api.Network{Name: "bad"})
	data, err := os.ReadFile(m.recordPath("bad"))
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(m.recordPath("bad"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := m.Networks(); len(all) != 1 || err != nil {
		t.Error(all, err)
	}
	if _, err := m.Network("bad"); !errors.Is(err, api.Corrupt) {
		t.Error(err)
	}
	if damaged, err := m.Damaged(); damaged["bad"] == nil || len(damaged) != 1 || err != nil {
		t.Error(damaged, err)
	}
	if err := m.Remove("bad"); err != nil {
		t.Error(err)
	}
}

// TestOwnPaths follows packets between containers on networks of one's own, the default bridge, the host and another machine.
func TestOwnPaths(t *testing.T) {
	for _, filters := range []string{"0", "1"} {
		t.Run("br_netfilter="+filters, func(t *testing.T) {
			setBridgeFilters(t, filters)
			defer setBridgeFilters(t, "0")
			testOwnPaths(t)
		})
	}
}

func testOwnPaths(t *testing.T) {
	m := manager(t)
	other := outside(t)
	create(t, m, api.Network{Name: "blue"})
	create(t, m, api.Network{Name: "red"})
	create(t, m, api.Network{Name: "quiet", Internal: true})
	create(t, m, api.Network{Name: "apart", Options: map[string]string{optionICC: "false"}})
	var ports []api.PortSpec
	for _, proto := range []string{"tcp", "udp"} {
		ports = append(ports,
			api.PortSpec{HostPort: 8080, ContainerPort: 80, Protocol: proto},
			api.PortSpec{HostIP: "127.0.0.1", HostPort: 8081, ContainerPort: 80, Protocol: proto})
	}
	_, server := attachTo(t, m, api.NetworkSpec{Ports: ports}, "blue")
	_, blue := attachTo(t, m, api.NetworkSpec{}, "blue")
	_, red := attachTo(t, m, api.NetworkSpec{}, "red")
	_, quiet := attachTo(t, m, api.NetworkSpec{}, "quiet")
	_, quiet2 := attachTo(t, m, api.NetworkSpec{}, "quiet")
	_, both := attachTo(t, m, api.NetworkSpec{}, "quiet", "blue")
	_, apart := attachTo(t, m, api.NetworkSpec{}, "apart")
	_, apart2 := attachTo(t, m, api.NetworkSpec{}, "apart")
	_, plain := attach(t, m)
	all := []*api.Link{server, blue, red, quiet, quiet2, both, apart, apart2, plain}
	for _, network := range []string{"tcp", "udp"} {
		for _, l := range all {
			serve(t, l.NetNS, network, ":80")
		}
		serve(t, other, network, ":90")
		serve(t, nil, network, ":91")
		for v, f := range []struct{ host, other string }{{hostV4, outsideV4}, {hostV6, outsideV6}} {
			join := func(addr string, port uint16) string {
				return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
			}
			addr := func(l *api.Link, i int) string { return l.All()[i].Addresses[v].Addr().String() }
			gateway := func(l *api.Link, i int) string { return l.All()[i].Gateways[v].String() }
			want := func(what string, from *os.File, to, source string) {
				t.Helper()
				wantSource(t, what, from, network, to, source)
			}
			want("within a network", blue.NetNS, join(addr(server, 0), 80), addr(blue, 0))
			want("within an internal network", quiet.NetNS, join(addr(quiet2, 0), 80), addr(quiet, 0))
			want("by the second interface", both.NetNS, join(addr(server, 0), 80), addr(both, 1))
			want("to the second interface", blue.NetNS, join(addr(both, 1), 80), addr(blue, 0))
			want("by the internal interface", both.NetNS, join(addr(quiet, 0), 80), addr(both, 0))
			want("out", blue.NetNS, join(f.other, 90), f.host)
			want("out by the second interface", both.NetNS, join(f.other, 90), f.host)
			want("outside to published", other, join(f.host, 8080), f.other)
			want("another network to published", red.NetNS, join(f.host, 8080), addr(red, 0))
			want("own network to published", blue.NetNS, join(f.host, 8080), addr(blue, 0))
			want("to itself", server.NetNS, join(f.host, 8080), gateway(server, 0))
			want("host to container", nil, join(addr(red, 0), 80), gateway(red, 0))
			want("host to internal", nil, join(addr(quiet, 0), 80), gateway(quiet, 0))
			want("outside to loopback's", other, join(f.host, 8081), "")
			if v == 0 {
				want("loopback", nil, "127.0.0.1:8080", gateway(server, 0))
				want("loopback's", nil, "127.0.0.1:8081", gateway(server, 0))
			}

			want("between networks", red.NetNS, join(addr(server, 0), 80), "")
			want("from the default bridge", plain.NetNS, join(addr(server, 0), 80), "")
			want("to the default bridge", red.NetNS, join(plain.Addresses[v].Addr().String(), 80), "")
			want("apart", apart.NetNS, join(addr(apart2, 0), 80), "")
			want("apart, out", apart.NetNS, join(f.other, 90), f.host)
			want("outside to container", other, join(addr(server, 0), 80), "")
			want("internal, out", quiet.NetNS, join(f.other, 90), "")
			want("internal to another network", quiet.NetNS, join(addr(server, 0), 80), "")
			want("internal to published", quiet.NetNS, join(f.host, 8080), "")
			want("internal to the host", quiet.NetNS, join(f.host, 91), "")
			want("outside to internal", other, join(addr(quiet, 0), 80), "")
			want("another network to internal", blue.NetNS, join(addr(quiet, 0), 80), "")
		}
	}
	// A container that helps itself to a way out of its internal network does not get out all the same.
	within(t, quiet.NetNS, func() {
		out := run(t, "", "ip", "route", "add", "default", "via", quiet.Endpoints[0].Gateways[0].String(), "dev", "eth0", "onlink")
		out += run(t, "", "ip", "-6", "route", "add", "default", "via", quiet.Endpoints[0].Gateways[1].String(), "dev", "eth0", "onlink")
		if out != "" {
			t.Error(out)
		}
	})
	for _, to := range []string{outsideV4 + ":90", "[" + outsideV6 + "]:90", hostV4 + ":91", "[" + hostV6 + "]:91", server.Endpoints[0].Addresses[0].Addr().String() + ":80"} {
		wantSource(t, "internal with a route", quiet.NetNS, "tcp", to, "")
	}
}

// TestOwnAddresses: what was asked for is had, or refused, and all comes back.
func TestOwnAddresses(t *testing.T) {
	m := manager(t)
	v4, v6 := netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("fd77::/112")
	n := create(t, m, api.Network{Name: "blue", Subnets: []api.Subnet{
		{Prefix: v6}, {Prefix: v4, Gateway: netip.MustParseAddr("10.77.0.254"), Range: netip.MustParsePrefix("10.77.0.8/30")},
	}})
	ask := func(e api.EndpointSpec, names ...string) (string, *api.Link, error) {
		e.Network = "blue"
		id := id.New()
		l, err := m.Attach(context.Background(), id, api.NetworkSpec{Mode: api.NetworkOwn, Networks: []api.EndpointSpec{e}, Names: names})
		if err == nil {
			t.Cleanup(func() { l.NetNS.Close(); closeAll(l.Resolver) })
		}
		return id, l, err
	}
	wanted, l, err := ask(api.EndpointSpec{IPv4: "10.77.0.77", IPv6: "fd77::99", MAC: "02:11:22:33:44:55", Aliases: []string{"Alias"}}, "web")
	if err != nil {
		t.Fatal(err)
	}
	e := l.Endpoints[0]
	if e.Addresses[0].String() != "10.77.0.77/24" || e.Addresses[1].String() != "fd77::99/112" || e.MAC != "02:11:22:33:44:55" || e.Gateways[0].String() != "10.77.0.254" || e.NetworkID != n.ID {
		t.Errorf("%+v", e)
	}
	if !slices.Equal(e.Names, []string{"web", "Alias"}) || l.DNS[0] != "127.0.0.11" || !slices.Contains(l.DNSOptions, "ndots:0") {
		t.Errorf("%+v %+v", e, l)
	}
	within(t, l.NetNS, func() {
		if out := run(t, "", "ip", "link", "show", "eth0"); !strings.Contains(out, "02:11:22:33:44:55") {
			t.Error(out)
		}
	})
	for _, c := range []struct {
		e    api.EndpointSpec
		kind api.Kind
		says string
	}{
		{api.EndpointSpec{IPv4: "10.77.0.77"}, api.Conflict, wanted[:12]},
		{api.EndpointSpec{IPv6: "fd77::99"}, api.Conflict, "in use"},
		{api.EndpointSpec{IPv4: "10.78.0.1"}, api.InvalidArgument, "10.77.0.0/24 and fd77::/112"},
		{api.EndpointSpec{IPv4: "10.77.0.254"}, api.InvalidArgument, "gateway"},
		{api.EndpointSpec{IPv4: "10.77.0.255"}, api.InvalidArgument, "broadcast"},
		{api.EndpointSpec{IPv4: "x"}, api.InvalidArgument, "not an IP address"},
		{api.EndpointSpec{MAC: "01:00:00:00:00:01"}, api.InvalidArgument, "even"},
		{api.EndpointSpec{MAC: "zz"}, api.InvalidArgument, "six bytes"},
		{api.EndpointSpec{Aliases: []string{"a/b"}}, api.InvalidArgument, "alias"},
	} {
		if _, _, err := ask(c.e); api.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%+v: %v, want %q and %q", c.e, err, c.kind, c.says)
		}
	}
	// The range has four addresses, and an IPv6 address comes with each.
	var ids []string
	seen := map[netip.Addr]bool{}
	for range 4 {
		id, l, err := ask(api.EndpointSpec{}, "many")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range l.Endpoints[0].Addresses {
			if seen[a.Addr()] || a.Addr().Is4() && !netip.MustParsePrefix("10.77.0.8/30").Contains(a.Addr()) {
				t.Errorf("%s", a)
			}
			seen[a.Addr()] = true
		}
		ids = append(ids, id)
	}
	if _, _, err := ask(api.EndpointSpec{}); !errors.Is(err, api.Exhausted) {
		t.Errorf("a fifth: %v", err)
	}
	member := m.path("member", wanted)
	if got, there := new(namedir.Finder).Find(member, []byte("many")); !there || len(got) != 8 {
		t.Error(got, there)
	}
	if got, there := new(namedir.Finder).Find(member, []byte("alias.blue")); !there || len(got) != 2 {
		t.Error(got, there)
	}
	if name, there := namedir.Whose(member, netip.MustParseAddr("fd77::99")); name != "web.blue" || !there {
		t.Error(name, there)
	}
	if err := m.Remove("blue"); !errors.Is(err, api.Conflict) {
		t.Errorf("removed while in use: %v", err)
	}
	for _, id := range append(ids, wanted) {
		for range 2 {
			if err := m.Detach(context.Background(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := m.segment(&n)
	for _, dir := range []string{s.path("lease"), s.path("holder"), s.path("name"), m.path("member")} {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s: %v %v", dir, left, err)
		}
	}
	if err := m.Remove("blue"); err != nil {
		t.Error(err)
	}
}

// TestRefusedLeavesNothing: an attach that fails at its last step gives all back.
func TestRefusedLeavesNothing(t *testing.T) {
	m := manager(t)
	create(t, m, api.Network{Name: "blue"})
	create(t, m, api.Network{Name: "quiet", Internal: true})
	for _, spec := range []api.NetworkSpec{
		{Networks: []api.EndpointSpec{{Network: "blue"}, {Network: "nothing"}}},
		{Networks: []api.EndpointSpec{{Network: "blue"}, {Network: "blue"}}},
		{Networks: []api.EndpointSpec{{Network: "blue"}, {Network: "quiet", IPv4: "1.2.3.4"}}},
		{Networks: []api.EndpointSpec{{Network: "quiet"}}, Ports: []api.PortSpec{{ContainerPort: 80, Protocol: "tcp"}}},
		{Networks: []api.EndpointSpec{{Network: "blue"}}, Ports: []api.PortSpec{{ContainerPort: 80, Protocol: "tcp", HostIP: "203.0.113.9"}}},
	} {
		spec.Mode = api.NetworkOwn
		if l, err := m.Attach(context.Background(), id.New(), spec); err == nil {
			t.Errorf("%+v: %+v", spec, l)
		}
	}
	if left, _ := os.ReadDir(m.path("member")); len(left) != 0 {
		t.Error(left)
	}
	own, err := m.ownSegments()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range own {
		if ids, err := s.holders(); len(ids) != 0 || err != nil {
			t.Error(s.name, ids, err)
		}
	}
}

// TestPublishersBesideNewNetworks: ports that are published while networks come and go, each of which makes the table anew, are all in it.
func TestPublishersBesideNewNetworks(t *testing.T) {
	m := manager(t)
	attach(t, m)
	stop := make(chan struct{})
	done := make(chan error)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			n, err := m.Create(api.Network{Name: fmt.Sprintf("n%d", i)})
			if err == nil {
				_, err = m.segment(&n).setup()
			}
			if err == nil {
				err = m.Remove(n.Name)
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	_, nft, err := dialBoth()
	if err != nil {
		t.Fatal(err)
	}
	defer nft.Close()
	for range 60 {
		_, l := attach(t, m, api.PortSpec{ContainerPort: 80, Protocol: "tcp"})
		for _, p := range l.Ports {
			q := mapping{Protocol: "tcp", Host: netip.AddrPortFrom(netip.MustParseAddr(p.HostIP), p.HostPort), Container: netip.AddrPortFrom(l.Addresses[0].Addr(), 80)}
			if q.Host.Addr().Is6() {
				q.Container = netip.AddrPortFrom(l.Addresses[1].Addr(), 80)
			}
			for _, e := range q.elements() {
				if _, err := nft.Element(m.table(), e.set, e.Key); err != nil && !strings.HasPrefix(e.set, "self") {
					t.Errorf("%s: %v", q.Host, err)
				}
			}
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestOwnFirewall: a firewall of the host's that forwards nothing is obeyed, with what it lets through.
func TestOwnFirewall(t *testing.T) {
	m := manager(t)
	other := outside(t)
	create(t, m, api.Network{Name: "blue"})
	_, server := attachTo(t, m, api.NetworkSpec{Ports: []api.PortSpec{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}}, "blue")
	serve(t, server.NetNS, "tcp", ":80")
	serve(t, other, "tcp", ":90")
	run(t, "table inet wall { chain forward { type filter hook forward priority 10; policy drop; ct state established accept; ip saddr "+outsideV4+" tcp dport 80 accept; }\n}\n", "nft", "-f", "-")
	defer run(t, "", "nft", "delete", "table", "inet", "wall")
	wantSource(t, "let in", other, "tcp", hostV4+":8080", outsideV4)
	wantSource(t, "not let in", other, "tcp", "["+hostV6+"]:8080", "")
	wantSource(t, "not let out", server.NetNS, "tcp", outsideV4+":90", "")
}

// TestKilledAttach: wherever who attaches is killed, Detach gives all back, and others who use the networks notice nothing.
func TestKilledAttach(t *testing.T) {
	m := manager(t)
	blue := create(t, m, api.Network{Name: "blue"})
	red := create(t, m, api.Network{Name: "red"})
	_, l := attachTo(t, m, api.NetworkSpec{Names: []string{"stays"}}, "blue", "red")
	root := filepath.Dir(filepath.Dir(m.subnets))
	for i := range 60 {
		name := id.New()
		cmd := exec.Command("/proc/self/exe", "own", root, filepath.Dir(m.dir), m.machine, name, "blue", "red")
		cmd.Env = append(os.Environ(), inside+"=helper")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 500 * time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()
		if err := m.Detach(context.Background(), name); err != nil {
			t.Fatal(err)
		}
		for _, n := range []*api.Network{&blue, &red} {
			s := m.segment(n)
			for dir, most := range map[string]int{"holder": 1, "lease": 2, "name": 1} {
				if left, err := os.ReadDir(s.path(dir)); err != nil || len(left) > most {
					t.Fatalf("killed after %d: left in %s: %v %v", i, dir, left, err)
				}
			}
		}
		if left, err := os.ReadDir(m.path("ports")); err != nil || len(left) > 0 {
			t.Fatalf("killed after %d: left ports: %v %v", i, left, err)
		}
		if addrs, there := new(namedir.Finder).Find(l.Names, []byte("stays")); !there || len(addrs) != 4 {
			t.Fatal(addrs, there)
		}
	}
}
