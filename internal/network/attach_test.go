package network

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

func TestModes(t *testing.T) {
	ctx := context.Background()
	m := manager(t)
	none, err := m.Attach(ctx, id.New(), api.NetworkSpec{Mode: "none"})
	if err != nil {
		t.Fatal(err)
	}
	defer none.NetNS.Close()
	within(t, none.NetNS, func() {
		rt, err := netlink.Dial(unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		defer rt.Close()
		if lo, err := rt.LinkByName("lo"); err != nil || lo.Flags&unix.IFF_UP == 0 {
			t.Errorf("lo: %+v %v, want it up", lo, err)
		}
		if _, err := rt.LinkByName("eth0"); !errors.Is(err, unix.ENODEV) {
			t.Errorf("eth0: %v, want none", err)
		}
	})
	host, err := m.Attach(ctx, id.New(), api.NetworkSpec{Mode: "host"})
	if err != nil || host.NetNS != nil {
		t.Fatalf("host: %+v %v, want no namespace", host, err)
	}
	if ids, err := m.Leases(); len(ids) != 0 || err != nil {
		t.Errorf("leases %v %v, want none without a bridge", ids, err)
	}
}

func TestRefusals(t *testing.T) {
	m := manager(t)
	port := func(p api.PortSpec) api.NetworkSpec { return api.NetworkSpec{Ports: []api.PortSpec{p}} }
	for _, c := range []struct {
		name string
		spec api.NetworkSpec
		kind api.Kind
		says string
	}{
		{"mode", api.NetworkSpec{Mode: "macvlan"}, api.InvalidArgument, "bridge, none and host"},
		{"ports of host", api.NetworkSpec{Mode: "host", Ports: []api.PortSpec{{ContainerPort: 1, Protocol: "tcp"}}}, api.InvalidArgument, "leave out -p"},
		{"dns", api.NetworkSpec{DNS: []string{"dns.example"}}, api.InvalidArgument, "IP address"},
		{"protocol", port(api.PortSpec{ContainerPort: 1, Protocol: "icmp"}), api.InvalidArgument, "tcp, udp and sctp"},
		{"port 0", port(api.PortSpec{Protocol: "tcp"}), api.InvalidArgument, "1 to 65535"},
		{"address", port(api.PortSpec{HostIP: "localhost", ContainerPort: 1, Protocol: "tcp"}), api.InvalidArgument, "address"},
		{"zone", port(api.PortSpec{HostIP: "fe80::1%lo", ContainerPort: 1, Protocol: "tcp"}), api.InvalidArgument, "zone"},
		{"strange address", port(api.PortSpec{HostIP: "203.0.113.9", ContainerPort: 1, Protocol: "tcp"}), api.InvalidArgument, "does not have"},
	} {
		l, err := m.Attach(context.Background(), id.New(), c.spec)
		if api.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v %v, want %q and %q", c.name, l, err, c.kind, c.says)
		}
	}
	if _, err := m.Attach(context.Background(), "../x", api.NetworkSpec{}); !errors.Is(err, api.InvalidArgument) {
		t.Errorf("ID ../x: %v", err)
	}
	if err := m.Detach(context.Background(), ".."); !errors.Is(err, api.InvalidArgument) {
		t.Errorf("detach ..: %v", err)
	}
	if ids, err := m.Leases(); len(ids) != 0 || err != nil {
		t.Errorf("refused containers left leases: %v %v", ids, err)
	}
}

// TestFirstPacketArrives connects as soon as Attach returns, on a bridge that was idle: nothing may be lost, since that costs a second.
func TestFirstPacketArrives(t *testing.T) {
	serve(t, nil, "tcp", ":90")
	for range 8 {
		m := manager(t)
		name, l := attach(t, m, api.PortSpec{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"})
		serve(t, l.NetNS, "tcp", ":80")
		wantSource(t, "host to container", nil, "tcp", "[::1]:8080", l.Gateways[1].String())
		wantSource(t, "container to host", l.NetNS, "tcp", netip.AddrPortFrom(l.Gateways[1], 90).String(), l.Addresses[1].Addr().String())
		closeAll(append(l.Held, l.NetNS))
		if err := m.Detach(context.Background(), name); err != nil {
			t.Fatal(err)
		}
		_, l = attach(t, m)
		wantSource(t, "container to host", l.NetNS, "tcp", netip.AddrPortFrom(l.Gateways[0], 90).String(), l.Addresses[0].Addr().String())
		closeAll(append(l.Held, l.NetNS))
	}
}

// TestPaths follows packets between the host, another machine and two containers, and looks at where servers see them come from.
func TestPaths(t *testing.T) {
	for _, filters := range []string{"0", "1"} {
		t.Run("br_netfilter="+filters, func(t *testing.T) {
			setBridgeFilters(t, filters)
			defer setBridgeFilters(t, "0")
			testPaths(t, filters == "1")
		})
	}
}

func setBridgeFilters(t *testing.T, value string) {
	for _, f := range []string{"iptables", "ip6tables"} {
		if _, err := os.Stat(sysctls + "bridge/bridge-nf-call-" + f); err != nil {
			if value == "1" {
				t.Skip("no br_netfilter: ", err)
			}
			return
		}
		if err := setSysctl("bridge/bridge-nf-call-"+f, value); err != nil {
			t.Fatal(err)
		}
	}
}

func testPaths(t *testing.T, filters bool) {
	m := manager(t)
	other := outside(t)
	var ports []api.PortSpec
	for _, proto := range []string{"tcp", "udp"} {
		ports = append(ports,
			api.PortSpec{HostPort: 8080, ContainerPort: 80, Protocol: proto},
			api.PortSpec{HostIP: "127.0.0.1", HostPort: 8081, ContainerPort: 80, Protocol: proto},
			api.PortSpec{HostIP: hostV4, HostPort: 8082, ContainerPort: 80, Protocol: proto},
			api.PortSpec{HostIP: hostV6, HostPort: 8082, ContainerPort: 80, Protocol: proto})
	}
	if !filters {
		ports = append(ports, api.PortSpec{HostIP: "::1", HostPort: 8083, ContainerPort: 80, Protocol: "tcp"})
	}
	_, server := attach(t, m, ports...)
	_, client := attach(t, m)
	for _, network := range []string{"tcp", "udp"} {
		serve(t, server.NetNS, network, ":80")
		serve(t, server.NetNS, network, ":81")
		serve(t, other, network, ":90")
		for v, f := range []struct{ host, other, loopback string }{
			{hostV4, outsideV4, "127.0.0.1"}, {hostV6, outsideV6, "::1"},
		} {
			join := func(addr string, port uint16) string {
				return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
			}
			srv, cli, gw := server.Addresses[v].Addr().String(), client.Addresses[v].Addr().String(), server.Gateways[v].String()
			want := func(what string, from *os.File, to string, source string) {
				t.Helper()
				wantSource(t, what, from, network, to, source)
			}
			want("host to container", nil, join(srv, 80), gw)
			want("container to container", client.NetNS, join(srv, 80), cli)
			want("container to outside", client.NetNS, join(f.other, 90), f.host)
			want("host to own address", nil, join(f.host, 8080), f.host)
			want("outside to published", other, join(f.host, 8080), f.other)
			want("outside to its address", other, join(f.host, 8082), f.other)
			want("container to published", client.NetNS, join(f.host, 8080), cli)
			want("container to gateway", client.NetNS, join(gw, 8080), cli)
			want("container to itself", server.NetNS, join(f.host, 8080), gw)
			want("outside to unpublished", other, join(srv, 81), "")
			want("outside past the host port", other, join(srv, 80), "")
			want("outside to loopback's", other, join(f.host, 8081), "")
			want("container to loopback's", client.NetNS, join(f.host, 8081), "")
			want("host to loopback's by its address", nil, join(f.host, 8081), "")
			switch {
			case v == 0:
				want("loopback", nil, join(f.loopback, 8080), gw)
				want("loopback's", nil, join(f.loopback, 8081), gw)
			case !filters:
				want("loopback", nil, join(f.loopback, 8080), gw)
				if network == "tcp" {
					want("loopback's", nil, join(f.loopback, 8083), gw)
				}
			default:
				if _, err := ask(t, nil, network, join(f.loopback, 8080)); network == "tcp" && !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("[::1] with br_netfilter: %v, want it refused at once", err)
				}
			}
		}
	}
}
