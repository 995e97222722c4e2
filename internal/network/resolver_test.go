package network

import (
	"context"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/base/namedir"
)

// TestResolverSockets: what goes to port 53 of 127.0.0.11 comes to the keeper's sockets and the answers come from there, while a server of the container's own has port 53 of
// all its addresses.
func TestResolverSockets(t *testing.T) {
	m := manager(t)
	create(t, m, api.Network{Name: "blue"})
	_, l := attachTo(t, m, api.NetworkSpec{}, "blue")
	_, other := attachTo(t, m, api.NetworkSpec{}, "blue")
	if len(l.Resolver) != 2 || l.Names == "" {
		t.Fatalf("%+v", l)
	}
	keeper, err := net.FilePacketConn(l.Resolver[0])
	if err != nil {
		t.Fatal(err)
	}
	defer keeper.Close()
	stream, err := net.FileListener(l.Resolver[1])
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := keeper.ReadFrom(buf)
			if err != nil {
				return
			}
			keeper.WriteTo([]byte("keeper"), from)
		}
	}()
	go func() {
		for {
			c, err := stream.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "keeper")
			c.Close()
		}
	}()
	serve(t, l.NetNS, "udp4", "0.0.0.0:53")
	serve(t, l.NetNS, "tcp4", "0.0.0.0:53")
	address := l.Endpoints[0].Addresses[0].Addr().String()
	for _, network := range []string{"udp", "tcp"} {
		for range 3 {
			wantSource(t, "the keeper", l.NetNS, network, "127.0.0.11:53", "keeper")
		}
		wantSource(t, "its own server", l.NetNS, network, "127.0.0.1:53", "127.0.0.1")
		wantSource(t, "its own server from elsewhere", other.NetNS, network, address+":53", other.Endpoints[0].Addresses[0].Addr().String())
	}
	// Datagrams of a client that does not connect have the sender that it asked.
	within(t, l.NetNS, func() {
		c, err := net.ListenPacket("udp4", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 11), Port: 53})
		buf := make([]byte, 100)
		if n, from, err := c.ReadFrom(buf); err != nil || string(buf[:n]) != "keeper" || from.String() != "127.0.0.11:53" {
			t.Errorf("%s from %v: %v", buf[:n], from, err)
		}
	})
	within(t, l.NetNS, func() {
		if _, err := os.Stat(sysctls + "netfilter/nf_conntrack_count"); err == nil && !sysctlIs("netfilter/nf_conntrack_count", "0") {
			data, _ := os.ReadFile(sysctls + "netfilter/nf_conntrack_count")
			t.Errorf("%s connections are tracked", data)
		}
	})
}

// TestForward: whom a container's keeper asks follows from its networks.
func TestForward(t *testing.T) {
	m := manager(t)
	create(t, m, api.Network{Name: "blue"})
	create(t, m, api.Network{Name: "quiet", Internal: true})
	for _, c := range []struct {
		networks []string
		dns      []string
		want     namedir.Forward
	}{
		{[]string{"blue"}, nil, namedir.Forward{}},
		{[]string{"blue"}, []string{"192.0.2.1", "2001:db8::1"}, namedir.Forward{Servers: []string{"192.0.2.1", "2001:db8::1"}}},
		{[]string{"quiet"}, []string{"192.0.2.1"}, namedir.Forward{None: true}},
		{[]string{"quiet", "blue"}, nil, namedir.Forward{}},
	} {
		_, l := attachTo(t, m, api.NetworkSpec{DNS: c.dns}, c.networks...)
		if got := namedir.ReadForward(l.Names); got.None != c.want.None || !slices.Equal(got.Servers, c.want.Servers) {
			t.Errorf("%v %v: %+v", c.networks, c.dns, got)
		}
	}
	create(t, m, api.Network{Name: "mute", NoDNS: true})
	if _, l := attachTo(t, m, api.NetworkSpec{DNS: []string{"192.0.2.1"}}, "mute"); l.Names != "" || !slices.Equal(l.DNS, []string{"192.0.2.1"}) {
		t.Errorf("%+v", l)
	}
}

// TestConnect puts a container that runs on networks and takes it off them.
func TestConnect(t *testing.T) {
	ctx := context.Background()
	m := manager(t)
	other := outside(t)
	for _, n := range []string{"blue", "red"} {
		create(t, m, api.Network{Name: n})
	}
	create(t, m, api.Network{Name: "quiet", Internal: true})
	port := []api.PortSpec{{HostPort: 8090, ContainerPort: 80, Protocol: "tcp"}}
	spec := api.NetworkSpec{Mode: api.NetworkOwn, Ports: port, Names: []string{"web"}, Networks: []api.EndpointSpec{{Network: "blue"}}}
	name := id.New()
	l, err := m.Attach(ctx, name, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { l.NetNS.Close(); closeAll(append(l.Held, l.Resolver...)) }()
	serve(t, l.NetNS, "tcp", ":80")
	serve(t, other, "tcp", ":90")
	_, red := attachTo(t, m, api.NetworkSpec{}, "red")
	_, quiet := attachTo(t, m, api.NetworkSpec{}, "quiet")
	to := func(i int) string { return net.JoinHostPort(l.Endpoints[i].Addresses[1].Addr().String(), "80") }

	for _, n := range []string{"red", "quiet"} {
		if err := m.Connect(ctx, name, l.NetNS, l, spec, api.EndpointSpec{Network: n, Aliases: []string{"site"}}); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.Endpoints) != 3 || l.Endpoints[2].Interface != "eth2" || !slices.Equal(l.Endpoints[1].Names, []string{"web", "site"}) {
		t.Fatalf("%+v", l)
	}
	wantSource(t, "by the second", red.NetNS, "tcp", to(1), red.Endpoints[0].Addresses[1].Addr().String())
	wantSource(t, "by the internal", quiet.NetNS, "tcp", to(2), quiet.Endpoints[0].Addresses[1].Addr().String())
	if _, there := new(namedir.Finder).Find(red.Names, []byte("site")); !there {
		t.Error("no alias")
	}
	if err := m.Connect(ctx, name, l.NetNS, l, spec, api.EndpointSpec{Network: "red"}); api.KindOf(err) != api.Conflict {
		t.Errorf("twice: %v", err)
	}
	if err := m.Connect(ctx, name, l.NetNS, l, spec, api.EndpointSpec{Network: "nothing"}); api.KindOf(err) != api.NotFound {
		t.Errorf("nothing: %v", err)
	}
	// Off the one that leads out and has the port.
	if err := m.Disconnect(ctx, name, l.NetNS, l, spec, "blue"); err != nil {
		t.Fatal(err)
	}
	wantSource(t, "the port by the other", other, "tcp", hostV4+":8090", outsideV4)
	wantSource(t, "the port by the other", other, "tcp", "["+hostV6+"]:8090", outsideV6)
	wantSource(t, "out by the other", l.NetNS, "tcp", "["+outsideV6+"]:90", hostV6)
	if err := m.Disconnect(ctx, name, l.NetNS, l, spec, "blue"); api.KindOf(err) != api.Conflict {
		t.Errorf("twice: %v", err)
	}
	// With the internal one alone there is no way out, and the port leads nowhere; with the default bridge there is again.
	if err := m.Disconnect(ctx, name, l.NetNS, l, spec, "red"); err != nil {
		t.Fatal(err)
	}
	wantSource(t, "no port", other, "tcp", hostV4+":8090", "")
	wantSource(t, "no way out", l.NetNS, "tcp", outsideV4+":90", "")
	if !namedir.ReadForward(l.Names).None {
		t.Error("others are asked from an internal network")
	}
	spec.Mode = modeBridge
	if err := m.Connect(ctx, name, l.NetNS, l, spec, api.EndpointSpec{Network: modeBridge}); err != nil {
		t.Fatal(err)
	}
	wantSource(t, "the port by the default bridge", other, "tcp", hostV4+":8090", outsideV4)
	wantSource(t, "out by the default bridge", l.NetNS, "tcp", outsideV4+":90", hostV4)
	if err := m.Rename(name, "web", "web2", l); err != nil {
		t.Fatal(err)
	}
	if _, there := new(namedir.Finder).Find(quiet.Names, []byte("web2")); !there {
		t.Error("not found by its new name")
	}
	if _, there := new(namedir.Finder).Find(quiet.Names, []byte("web")); there {
		t.Error("found by its old name")
	}
	if err := m.Detach(ctx, name); err != nil {
		t.Fatal(err)
	}
	if _, there := new(namedir.Finder).Find(quiet.Names, []byte("web2")); there {
		t.Error("found though it has left")
	}
}
