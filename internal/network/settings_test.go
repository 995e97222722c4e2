package network

import (
	"bytes"
	"context"
	"fmt"
	"net"
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
	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

// run runs a program that looks at the kernel from another side, or skips the test without it.
func run(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skip("needs ", args[0])
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// TestDockerUser has a firewall as Docker makes it, with all combinations of what its chain may end with.
func TestDockerUser(t *testing.T) {
	for _, c := range []struct{ name, rules, first, last string }{
		{"empty", "", "iifname", "accept"},
		{"return", "counter return", "iifname", "return"},
		{"administrator", "ip saddr 192.0.2.99 drop\ncounter return", "192.0.2.99", "return"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, "table ip filter { chain DOCKER-USER {\n"+c.rules+"\n}\n chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }\n}\n", "nft", "-f", "-")
			defer run(t, "", "nft", "delete", "table", "ip", "filter")
			before := run(t, "", "nft", "list", "chain", "ip", "filter", "DOCKER-USER")
			m := manager(t)
			other := outside(t)
			_, l := attach(t, m, api.PortSpec{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"})
			serve(t, l.NetNS, "tcp", ":80")
			serve(t, other, "tcp", ":90")
			wantSource(t, "out past Docker", l.NetNS, "tcp", outsideV4+":90", hostV4)
			wantSource(t, "in past Docker", other, "tcp", hostV4+":8080", outsideV4)
			if err := os.Remove(m.path("bridge")); err != nil { // so that setup runs again
				t.Fatal(err)
			}
			attach(t, m)
			var rules []string
			for line := range strings.Lines(run(t, "", "nft", "list", "chain", "ip", "filter", "DOCKER-USER")) {
				if strings.Contains(line, "name") || strings.Contains(line, "drop") || strings.Contains(line, "return") {
					rules = append(rules, line)
				}
			}
			if n := strings.Count(strings.Join(rules, ""), m.name+`"`); n != 4 || !strings.Contains(rules[0], c.first) || !strings.Contains(rules[len(rules)-1], c.last) {
				t.Errorf("chain, %d times our name, want two rules with it and a comment each:\n%s", n, rules)
			}
			if _, err := exec.LookPath("iptables-nft"); err == nil {
				if list := run(t, "", "iptables-nft", "-S", "DOCKER-USER"); strings.Contains(list, "incompatible") || !strings.Contains(list, "-i "+m.name) {
					t.Errorf("iptables cannot read the chain:\n%s", list)
				}
			}
			_, nft, err := dialBoth()
			if err != nil {
				t.Fatal(err)
			}
			defer nft.Close()
			if err := unpassDocker(nft, m.name); err != nil {
				t.Fatal(err)
			}
			after := run(t, "", "nft", "list", "chain", "ip", "filter", "DOCKER-USER")
			if strings.Contains(after, "brig") || strings.Count(after, "\n") != strings.Count(before, "\n") {
				t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// TestHostKeepsRouterAdvertisements: becoming a router must not make the host deaf to its own.
func TestHostKeepsRouterAdvertisements(t *testing.T) {
	outside(t) // makes wire0
	for _, s := range []string{"all/forwarding", "wire0/forwarding"} {
		if err := setSysctl("ipv6/conf/"+s, "0"); err != nil {
			t.Fatal(err)
		}
	}
	if err := setSysctl("ipv6/conf/wire0/accept_ra", "1"); err != nil {
		t.Fatal(err)
	}
	m := manager(t)
	_, l := attach(t, m)
	for name, want := range map[string]string{
		"ipv6/conf/wire0/accept_ra":                 "2",
		"ipv6/conf/" + m.name + "/accept_ra":        "0",
		"ipv6/conf/all/forwarding":                  "1",
		"ipv4/ip_forward":                           "1",
		"ipv4/conf/all/route_localnet":              "0",
		"ipv4/conf/" + m.name + "/route_localnet":   "1",
		"ipv4/conf/" + m.name + "/send_redirects":   "0",
		"ipv6/conf/" + m.name + "/accept_redirects": "0",
	} {
		if !sysctlIs(name, want) {
			got, err := os.ReadFile(sysctls + name)
			t.Errorf("%s is %q (%v), want %s", name, got, err, want)
		}
	}
	within(t, l.NetNS, func() {
		if !sysctlIs("ipv6/conf/eth0/accept_ra", "0") {
			t.Error("the container listens to router advertisements")
		}
	})
}

// hear tells on the channel where datagrams to addr in the namespace come from.
func hear(t *testing.T, ns *os.File, addr string) <-chan string {
	t.Helper()
	heard := make(chan string, 8)
	within(t, ns, func() {
		c, err := net.ListenPacket("udp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			for {
				_, from, err := c.ReadFrom(make([]byte, 16))
				if err != nil {
					return
				}
				heard <- from.(*net.UDPAddr).IP.String()
			}
		}()
	})
	return heard
}

// TestHostIsGuarded has a container, and another machine, that do what they can as root of their own namespaces. Answers may get lost for
// other reasons, so what counts is whether a datagram arrives.
func TestHostIsGuarded(t *testing.T) {
	m := manager(t)
	other := outside(t)
	_, l := attach(t, m, api.PortSpec{HostIP: "127.0.0.1", HostPort: 8081, ContainerPort: 80, Protocol: "udp"})
	_, peer := attach(t, m)
	loopback, any, published := hear(t, nil, "127.0.0.1:95"), hear(t, nil, "0.0.0.0:96"), hear(t, l.NetNS, ":80")
	serve(t, peer.NetNS, "tcp", ":80")
	enter := func(ns *os.File, script string) string {
		return run(t, "", "nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), ns.Fd()), "sh", "-ec", script)
	}
	send := func(ns *os.File, from, to string) {
		within(t, ns, func() {
			local := &net.UDPAddr{IP: net.ParseIP(from)}
			c, err := net.DialUDP("udp4", local, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.Write([]byte("x"))
		})
	}
	arrives := func(what string, heard <-chan string, want string) {
		t.Helper()
		select {
		case got := <-heard:
			if got != want {
				t.Errorf("%s: a datagram from %s arrived, want one from %q", what, got, want)
			}
		case <-time.After(patience / 2):
			if want != "" {
				t.Errorf("%s: no datagram arrived", what)
			}
		}
	}
	gw, own := l.Gateways[0].String(), l.Addresses[0].Addr().String()
	send(l.NetNS, own, gw+":96")
	arrives("the host's own address", any, own)
	for range 3 { // redirects come with the first packets, if they come
		wantSource(t, "neighbour", l.NetNS, "tcp", peer.Addresses[0].Addr().String()+":80", own)
	}
	if way := enter(l.NetNS, "ip route get "+peer.Addresses[0].Addr().String()); !strings.Contains(way, "via "+gw) || strings.Contains(way, "redirected") {
		t.Errorf("way to a neighbour: %s", way)
	}

	noLoopback := "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local; "
	enter(l.NetNS, noLoopback+"ip route add 127.0.0.1 via "+gw+" dev eth0 onlink")
	send(l.NetNS, own, "127.0.0.1:95")
	arrives("the host's loopback", loopback, "")
	enter(l.NetNS, "ip route del 127.0.0.1; ip addr add 127.0.0.9/32 dev eth0")
	send(l.NetNS, "127.0.0.9", gw+":96")
	arrives("with a loopback source", any, "")

	// Some programs turn route_localnet on for all interfaces.
	if err := setSysctl("ipv4/conf/wire0/route_localnet", "1"); err != nil {
		t.Fatal(err)
	}
	enter(other, noLoopback+"ip route add 127.0.0.1 via "+hostV4+" dev eth0")
	send(other, outsideV4, "127.0.0.1:8081")
	arrives("what is published on loopback", published, "")
}

func TestWithoutIPv6(t *testing.T) {
	if err := setSysctl("ipv6/conf/default/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	defer setSysctl("ipv6/conf/default/disable_ipv6", "0")
	m := manager(t)
	_, l := attach(t, m, api.PortSpec{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"})
	if len(l.Addresses) != 1 || len(l.Gateways) != 1 || len(l.Ports) != 1 {
		t.Errorf("%+v, want IPv4 only", l)
	}
	serve(t, l.NetNS, "tcp4", ":80")
	wantSource(t, "IPv4", nil, "tcp", "127.0.0.1:8080", l.Gateways[0].String())
	_, err := m.Attach(context.Background(), id.New(), api.NetworkSpec{Ports: []api.PortSpec{{HostIP: "::1", ContainerPort: 80, Protocol: "tcp"}}})
	if api.KindOf(err) != api.Unsupported {
		t.Errorf("publish on ::1: %v", err)
	}
}

func TestMTUFollowsUplink(t *testing.T) {
	outside(t) // wire0 has 1400
	run(t, "", "ip", "route", "add", "default", "via", outsideV4)
	m := manager(t)
	_, l := attach(t, m)
	within(t, l.NetNS, func() {
		rt, err := netlink.Dial(unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		defer rt.Close()
		if eth0, err := rt.LinkByName("eth0"); err != nil || eth0.MTU != 1400 {
			t.Errorf("eth0: %+v %v, want an MTU of 1400", eth0, err)
		}
	})
}

func TestDNS(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	resolved := file("resolved", "nameserver 192.0.2.1\nsearch real.example\n")
	for _, c := range []struct {
		name, host string
		asked      []string
		bridge     bool
		want       string
	}{
		{"plain", "# comment\nnameserver 192.0.2.7\nsearch a b\noptions ndots:2 # why\n", nil, true, "nameserver 192.0.2.7\nsearch a b\noptions ndots:2\n"},
		{"stub", "nameserver 127.0.0.53\noptions edns0\n", nil, true, "nameserver 192.0.2.1\nsearch real.example\n"},
		{"local", "nameserver 127.0.0.1\nnameserver ::1\ndomain c\n", nil, true, "nameserver 8.8.8.8\nnameserver 8.8.4.4\nsearch c\n"},
		{"some local", "nameserver ::1\nnameserver 192.0.2.7\nnameserver fe80::1%eth0\n", nil, true, "nameserver 192.0.2.7\n"},
		{"asked", "nameserver 192.0.2.7\nsearch a\n", []string{"192.0.2.8", "2001:db8::8"}, true, "nameserver 192.0.2.8\nnameserver 2001:db8::8\nsearch a\n"},
		{"host", "nameserver 127.0.0.53\n", nil, false, "nameserver 127.0.0.53\n"},
		{"none", "", nil, true, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
	} {
		m := Open(dir, dir)
		m.resolv, m.resolved = file("resolv", c.host), resolved
		var l api.Link
		m.addDNS(&l, api.NetworkSpec{DNS: c.asked}, c.bridge)
		if got := string(ResolvConf(&l)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	own, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Skip(err)
	}
	l := api.Link{Network: "host"}
	Open(dir, dir).addDNS(&l, api.NetworkSpec{}, false)
	if got := ResolvConf(&l); !bytes.Equal(got, own) {
		t.Errorf("mode host: %q, want the host's file %q", got, own)
	}
}

func TestHosts(t *testing.T) {
	m := manager(t)
	_, l := attach(t, m)
	v4, v6 := l.Addresses[0].Addr().String(), l.Addresses[1].Addr().String()
	text, err := Hosts(l, "web.example", []api.HostSpec{{Name: "db", IP: "192.0.2.3"}, {Name: "host.internal", IP: "host-gateway"}})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for _, want := range []string{
		"127.0.0.1\tlocalhost", "192.0.2.3\tdb", v4 + "\tweb.example web", v6 + "\tweb.example web",
		l.Gateways[0].String() + "\thost.internal", l.Gateways[1].String() + "\thost.internal",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in\n%s", want, text)
		}
	}
	host, err := Hosts(&api.Link{Network: "host"}, "ignored", []api.HostSpec{{Name: "me", IP: "host-gateway"}})
	if own, _ := os.ReadFile("/etc/hosts"); err != nil || !bytes.HasPrefix(host, own) || !strings.HasSuffix(string(host), "127.0.0.1\tme\n") {
		t.Errorf("mode host: %q %v", host, err)
	}
	for _, bad := range []struct {
		link     *api.Link
		hostname string
		add      api.HostSpec
	}{
		{l, "a b", api.HostSpec{Name: "x", IP: "::1"}},
		{l, "a", api.HostSpec{Name: "x\n6.6.6.6 y", IP: "::1"}},
		{l, "a", api.HostSpec{Name: "x", IP: "nowhere"}},
		{&api.Link{Network: "none"}, "a", api.HostSpec{Name: "x", IP: "host-gateway"}},
	} {
		if text, err := Hosts(bad.link, bad.hostname, []api.HostSpec{bad.add}); api.KindOf(err) != api.InvalidArgument {
			t.Errorf("%+v: %q %v", bad.add, text, err)
		}
	}
}

func TestBridgeName(t *testing.T) {
	if n := bridgeName("/run/brig/"); n != "brig0" {
		t.Errorf("default: %s", n)
	}
	a, b := bridgeName("/run/a"), bridgeName("/run/b")
	if a == b || len(a) >= unix.IFNAMSIZ || !strings.HasPrefix(a, "brig-") {
		t.Errorf("others: %s %s", a, b)
	}
}
