package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"brig/api"
	"brig/internal/base/id"
)

// onWire makes a network of a wire of the host's, at whose other end another machine is.
func onWire(t *testing.T, m *Manager, name, driver, mode string) {
	t.Helper()
	create(t, m, api.Network{Name: name, Driver: driver, Options: map[string]string{"parent": "wire0", "mode": mode}, Subnets: []api.Subnet{
		{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Gateway: netip.MustParseAddr(outsideV4), Range: netip.MustParsePrefix("198.51.100.64/27")},
		{Prefix: netip.MustParsePrefix("2001:db8:1::/64"), Gateway: netip.MustParseAddr(outsideV6), Range: netip.MustParsePrefix("2001:db8:1::8000/113")},
	}})
}

// TestWires: containers on a wire of the host's are as machines of their own there, and in its modes the drivers let them reach one another or not.
func TestWires(t *testing.T) {
	for _, c := range []struct {
		driver, mode string
		together     bool
	}{
		{"macvlan", "bridge", true}, {"macvlan", "private", false}, {"ipvlan", "l2", true}, {"ipvlan", "l3", true}, {"ipvlan", "l3s", true},
	} {
		t.Run(c.driver+"/"+c.mode, func(t *testing.T) {
			m := manager(t)
			other := outside(t)
			onWire(t, m, "lan", c.driver, c.mode)
			spec := api.NetworkSpec{Mode: api.NetworkOwn, Names: []string{"web"}, Networks: []api.EndpointSpec{{Network: "lan"}}}
			server, err := m.Attach(context.Background(), id.New(), spec)
			if errors.Is(err, api.Unsupported) {
				t.Skip("this kernel has no such kind of interface: ", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { server.NetNS.Close(); closeAll(server.Resolver) }()
			_, client := attachTo(t, m, api.NetworkSpec{}, "lan")
			within(t, server.NetNS, func() { quickly(t) })
			within(t, client.NetNS, func() { quickly(t) })
			serve(t, server.NetNS, "tcp", ":80")
			serve(t, other, "tcp", ":90")
			for v, out := range []string{outsideV4, outsideV6} {
				own := client.Endpoints[0].Addresses[v].Addr().String()
				if c.mode != "l3" && c.mode != "l3s" { // of which a neighbour knows nothing without a route
					wantSource(t, "out", client.NetNS, "tcp", net.JoinHostPort(out, "90"), own)
					wantSource(t, "in", other, "tcp", net.JoinHostPort(server.Endpoints[0].Addresses[v].Addr().String(), "80"), out)
				}
				want := own
				if !c.together {
					want = ""
				}
				wantSource(t, "to one another", client.NetNS, "tcp", net.JoinHostPort(server.Endpoints[0].Addresses[v].Addr().String(), "80"), want)
			}
			if _, err := m.Attach(context.Background(), id.New(), api.NetworkSpec{
				Mode: api.NetworkOwn, Networks: spec.Networks, Ports: []api.PortSpec{{ContainerPort: 80, Protocol: "tcp"}},
			}); !errors.Is(err, api.InvalidArgument) {
				t.Errorf("a port is published there: %v", err)
			}
		})
	}
}

// quickly has the first packets of a test not wait for neighbours that take no part yet.
func quickly(t *testing.T) {
	if err := quickNeighbours("eth0"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
}

// TestWirePassthru: the mode gives the whole interface to one container.
func TestWirePassthru(t *testing.T) {
	m := manager(t)
	outside(t)
	onWire(t, m, "lan", "macvlan", "passthru")
	attachTo(t, m, api.NetworkSpec{}, "lan")
	if _, err := m.Attach(context.Background(), id.New(), api.NetworkSpec{Mode: api.NetworkOwn, Networks: []api.EndpointSpec{{Network: "lan"}}}); !errors.Is(err, api.Conflict) {
		t.Errorf("a second one: %v", err)
	}
}

// TestNoParent: a parent that is gone is named.
func TestNoParent(t *testing.T) {
	m := manager(t)
	create(t, m, api.Network{Name: "lan", Driver: "macvlan", Options: map[string]string{"parent": "gone0"}})
	if _, err := m.Attach(context.Background(), id.New(), api.NetworkSpec{Mode: api.NetworkOwn, Networks: []api.EndpointSpec{{Network: "lan"}}}); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
}
