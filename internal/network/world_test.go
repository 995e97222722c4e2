package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

// manager is a fresh Brig, taken down at the end of the test, which fails if that leaves anything.
func manager(t testing.TB) *Manager {
	t.Helper()
	root, state := t.TempDir(), t.TempDir()
	m := Open(root, state)
	m.machine = filepath.Join(root, "machine.lock")
	t.Cleanup(func() {
		ids, err := m.Leases()
		if err != nil {
			t.Error(err)
		}
		members, _ := os.ReadDir(m.path("member"))
		for _, e := range members {
			ids = append(ids, e.Name())
		}
		for _, id := range ids {
			if err := m.Detach(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(state, "network")); !os.IsNotExist(err) {
			t.Errorf("Close left the state folder: %v", err)
		}
		rt, nft, err := dialBoth()
		if err != nil {
			t.Fatal(err)
		}
		defer rt.Close()
		defer nft.Close()
		networks, err := m.Networks()
		if err != nil {
			t.Error(err)
		}
		bridges := []string{m.name}
		for i := range networks {
			bridges = append(bridges, bridgeOf(&networks[i]))
		}
		for _, name := range bridges {
			if l, err := rt.LinkByName(name); !errors.Is(err, unix.ENODEV) {
				t.Errorf("Close left the bridge: %v %v", l, err)
			}
		}
		if has, err := nft.HasTable(m.table()); has || err != nil {
			t.Errorf("Close left the table: %v %v", has, err)
		}
	})
	return m
}

// attach makes a container's link and closes its files at the end.
func attach(t testing.TB, m *Manager, ports ...api.PortSpec) (string, *api.Link) {
	t.Helper()
	id := id.New()
	l, err := m.Attach(context.Background(), id, api.NetworkSpec{Ports: ports})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.NetNS.Close()
		closeAll(l.Held)
	})
	return id, l
}

// within runs f on a thread that is in the network namespace; nil is the host's. Sockets that f makes stay there.
func within(t testing.TB, ns *os.File, f func()) {
	t.Helper()
	if ns == nil {
		f()
		return
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// serve answers each connection or datagram at addr in the namespace with its sender's address.
func serve(t testing.TB, ns *os.File, network, addr string) {
	t.Helper()
	within(t, ns, func() {
		if strings.HasPrefix(network, "tcp") {
			l, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
					c.Close()
				}
			}()
			return
		}
		c, err := net.ListenPacket(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 16)
			for {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				c.WriteTo([]byte(from.(*net.UDPAddr).AddrPort().Addr().Unmap().String()), from)
			}
		}()
	})
}

// patience is how long an answer may take: less than the second after which TCP sends a lost packet again.
const patience = 600 * time.Millisecond

// ask returns the address that a server (see serve) saw a client in the namespace come from.
func ask(t testing.TB, ns *os.File, network, addr string) (answer string, err error) {
	t.Helper()
	within(t, ns, func() {
		var c net.Conn
		if c, err = net.DialTimeout(network, addr, patience); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if strings.HasPrefix(network, "udp") {
			if _, err = c.Write([]byte("hello")); err != nil {
				return
			}
			buf := make([]byte, 64)
			var n int
			n, err = c.Read(buf)
			answer = string(buf[:n])
			return
		}
		var b []byte
		b, err = io.ReadAll(c)
		answer = string(b)
	})
	return answer, err
}

// wantSource checks what a server says of a client; "" means that no answer may come.
func wantSource(t *testing.T, what string, ns *os.File, network, addr, want string) {
	t.Helper()
	got, err := ask(t, ns, network, addr)
	switch {
	case want == "" && err == nil:
		t.Errorf("%s: %s %s answers (to %s), and must not be reachable", what, network, addr, got)
	case want != "" && err != nil:
		t.Errorf("%s: %s %s: %v", what, network, addr, err)
	case want != got:
		t.Errorf("%s: %s %s: server saw %s, want %s", what, network, addr, got, want)
	}
}

// The outside host and the host's addresses on the wire between them.
const (
	hostV4, hostV6       = "198.51.100.1", "2001:db8:1::1"
	outsideV4, outsideV6 = "198.51.100.2", "2001:db8:1::2"
)

// outside is another machine on a wire of the host's, which sends everything to the host, also what is for containers.
func outside(t testing.TB) *os.File {
	t.Helper()
	rt, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	ns, there, err := newNamespace(rt, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	var r netlink.Request
	r.AddVeth(netlink.Veth{Name: "wire0", MTU: 1400, Peer: "eth0", PeerIndex: 2, PeerNS: int(ns.Fd()), PeerMAC: netlink.MAC{2, 0, 0, 0, 0, 2}})
	if err := rt.Do(&r, nil); err != nil {
		t.Fatal(err)
	}
	l, err := rt.LinkByName("wire0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ns.Close()
		rt, err := netlink.Dial(unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		defer rt.Close()
		var r netlink.Request
		r.DelLink(l.Index)
		if err := rt.Do(&r, nil); err != nil && !errors.Is(err, unix.ENODEV) {
			t.Error(err)
		}
	})
	for _, end := range []struct {
		c      *netlink.Conn
		index  uint32
		v4, v6 string
	}{{rt, l.Index, hostV4, hostV6}, {there, 2, outsideV4, outsideV6}} {
		var r netlink.Request
		r.SetUp(end.index)
		r.AddAddress(end.index, netip.MustParsePrefix(end.v4+"/24"), 0)
		r.AddAddress(end.index, netip.MustParsePrefix(end.v6+"/64"), unix.IFA_F_NODAD)
		if err := end.c.Do(&r, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := quickNeighbours("wire0"); err != nil {
		t.Fatal(err)
	}
	within(t, ns, func() {
		if err := quickNeighbours("eth0"); err != nil {
			t.Fatal(err)
		}
	})
	var routes netlink.Request
	routes.AddDefaultRoute(2, netip.MustParseAddr(hostV4))
	routes.AddDefaultRoute(2, netip.MustParseAddr(hostV6))
	routes.SetUp(loopbackIndex)
	if err := there.Do(&routes, nil); err != nil {
		t.Fatal(err)
	}
	return ns
}

// quickNeighbours makes a machine ask for a MAC again after 30 ms, not after a second: the first question may come before the other
// takes part in neighbour discovery.
func quickNeighbours(name string) error {
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, s := range [...][2]string{{"/retrans_time_ms", "30"}, {"/mcast_solicit", "60"}} {
			if err := setSysctl(family+"/neigh/"+name+s[0], s[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// helper is what the test binary does when a test starts it as another process: attach ROOT STATE LOCK ID, own ROOT STATE LOCK ID NETWORK…, detach ROOT STATE LOCK ID, hub ROOT STATE LOCK.
func helper(args []string) int {
	m := Open(args[1], args[2])
	m.machine = args[3]
	switch args[0] {
	case "attach":
		l, err := m.Attach(context.Background(), args[4], api.NetworkSpec{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(l.Addresses[0], l.Addresses[len(l.Addresses)-1])
	case "own":
		spec := api.NetworkSpec{Mode: api.NetworkOwn, Names: []string{"victim"}, Ports: []api.PortSpec{{ContainerPort: 80, Protocol: "tcp"}}}
		for _, n := range args[5:] {
			spec.Networks = append(spec.Networks, api.EndpointSpec{Network: n})
		}
		if _, err := m.Attach(context.Background(), args[4], spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "hub":
		if err := holdHub(m); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "detach":
		if err := m.Detach(context.Background(), args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}
