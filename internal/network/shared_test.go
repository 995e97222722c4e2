package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

// another makes a command that works on m's folders, or those given, in another process.
func another(m *Manager, args ...string) (*exec.Cmd, *bytes.Buffer) {
	root, state := filepath.Dir(filepath.Dir(m.subnets)), filepath.Dir(m.dir)
	cmd := exec.Command("/proc/self/exe", append([]string{args[0], root, state, m.machine}, args[1:]...)...)
	cmd.Env = append(os.Environ(), inside+"=helper")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

func TestFirstAttachIsRaced(t *testing.T) {
	m := manager(t)
	var cmds []*exec.Cmd
	var outs []*bytes.Buffer
	for range 8 {
		cmd, out := another(m, "attach", id.New())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	seen := make(map[string]bool)
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("process %d: %v: %s", i, err, outs[i])
			continue
		}
		seen[outs[i].String()] = true
	}
	if len(seen) != 8 {
		t.Errorf("8 processes got %d different addresses: %v", len(seen), seen)
	}
	if ids, err := m.Leases(); len(ids) != 8 || err != nil {
		t.Errorf("leases: %v %v", ids, err)
	}
	// The processes are gone without a word. Anyone may clean up after them, and again.
	ids, _ := m.Leases()
	for range 2 {
		cmd, out := another(m, "detach", ids[0])
		if err := cmd.Run(); err != nil {
			t.Errorf("detach from another process: %v: %s", err, out)
		}
	}
	if now, _ := m.Leases(); len(now) != 7 {
		t.Errorf("%d leases after one was given back", len(now))
	}
}

func TestBrigsDifferInSubnets(t *testing.T) {
	const brigs = 6
	var all []*Manager
	for range brigs {
		m := manager(t)
		m.machine = filepath.Join(filepath.Dir(t.TempDir()), "machine.lock")
		all = append(all, m)
	}
	// A fixed file of subnets makes all want the same one.
	want := []byte(`{"ipv4":"10.200.0.1/16","ipv6":"fd00:1::1/64"}`)
	var wg sync.WaitGroup
	for _, m := range all {
		if err := os.MkdirAll(filepath.Dir(m.subnets), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(m.subnets, want, 0o600); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			cmd, out := another(m, "attach", id.New())
			if err := cmd.Run(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	var nets []netip.Prefix
	for _, m := range all {
		br, ok := m.ground().load()
		if !ok {
			t.Fatal("no bridge")
		}
		if !free(br.V4, nets) {
			t.Errorf("%s overlaps %v", br.V4, nets)
		}
		nets = append(nets, br.V4.Masked())
	}
	if _, err := os.Stat(all[0].machine); !os.IsNotExist(err) {
		t.Errorf("the machine's lock stays behind: %v", err)
	}
}

// TestKilledSetup kills a process at many points of its first attach; the next one must end up with a network that works.
func TestKilledSetup(t *testing.T) {
	unfinished := 0
	for i := range 16 {
		m := manager(t)
		cmd, _ := another(m, "attach", id.New())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); time.Since(start) < time.Second; { // until it begins, then a bit longer each time
			if _, err := os.Stat(m.path("lock")); err == nil {
				break
			}
			time.Sleep(50 * time.Microsecond)
		}
		time.Sleep(time.Duration(i) * 500 * time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()
		if _, ok := m.ground().load(); !ok {
			unfinished++
		}
		name, l := attach(t, m, api.PortSpec{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"})
		serve(t, l.NetNS, "tcp", ":80")
		wantSource(t, fmt.Sprintf("killed in step %d", i), nil, "tcp", "127.0.0.1:8080", l.Gateways[0].String())
		wantSource(t, fmt.Sprintf("killed in step %d", i), nil, "tcp", "[::1]:8080", l.Gateways[1].String())
		closeAll(append(l.Held, l.NetNS))
		if err := m.Detach(context.Background(), name); err != nil {
			t.Error(err)
		}
	}
	t.Log(unfinished, "of 16 were killed before their bridge was ready")
	if unfinished == 0 {
		t.Error("no process was killed before its bridge was ready: the test shows nothing")
	}
}

func TestPortInUse(t *testing.T) {
	m := manager(t)
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := l.Addr().(*net.TCPAddr).AddrPort().Port()
	spec := func(p uint16, proto string) api.NetworkSpec {
		return api.NetworkSpec{Ports: []api.PortSpec{{HostPort: p, ContainerPort: 80, Protocol: proto}}}
	}
	_, err = m.Attach(context.Background(), id.New(), spec(busy, "tcp"))
	if !errors.Is(err, api.Conflict) || !strings.Contains(err.Error(), fmt.Sprint(busy)) || !strings.Contains(err.Error(), "another") {
		t.Errorf("port of a program: %v", err)
	}
	first, link := attach(t, m, api.PortSpec{ContainerPort: 80, Protocol: "tcp"}, api.PortSpec{ContainerPort: 80, Protocol: "udp"})
	if len(link.Ports) != 4 || len(link.Held) != 4 || link.Ports[0].HostPort == 0 || link.Ports[0].HostPort != link.Ports[1].HostPort ||
		link.Ports[0].HostIP != "0.0.0.0" || link.Ports[1].HostIP != "::" {
		t.Fatalf("ports %+v, want one number for both families", link.Ports)
	}
	for _, p := range []api.PortSpec{link.Ports[0], link.Ports[2]} {
		_, err = m.Attach(context.Background(), id.New(), spec(p.HostPort, p.Protocol))
		if !errors.Is(err, api.Conflict) || !strings.Contains(err.Error(), first[:12]) {
			t.Errorf("port of a container: %v, want it named", err)
		}
		if _, err := net.Listen("tcp", fmt.Sprintf(":%d", link.Ports[0].HostPort)); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("another program could listen: %v", err)
		}
	}
	if ids, _ := m.Leases(); len(ids) != 1 {
		t.Errorf("refused containers left leases: %v", ids)
	}
	// The port is free again as soon as the sockets are closed, even if nobody detached the dead container, and its detaching
	// later does not disturb the new one.
	closeAll(append(link.Held, link.NetNS))
	_, next := attach(t, m, api.PortSpec{HostPort: link.Ports[0].HostPort, ContainerPort: 80, Protocol: "tcp"})
	if err := m.Detach(context.Background(), first); err != nil {
		t.Fatal(err)
	}
	serve(t, next.NetNS, "tcp", ":80")
	wantSource(t, "taken over", nil, "tcp", fmt.Sprintf("127.0.0.1:%d", link.Ports[0].HostPort), next.Gateways[0].String())
}

// TestRefusedLoopbackPort checks the socket that keeps a port without listening on it.
func TestRefusedLoopbackPort(t *testing.T) {
	for _, want := range []string{"[::]:0", "[::]:8080"} {
		f, port, err := bind(mapping{Protocol: "tcp", Host: netip.MustParseAddrPort(want), NoLoopback: true})
		if err != nil {
			t.Fatal(err)
		}
		if c, err := net.DialTimeout("tcp", fmt.Sprintf("[::1]:%d", port), patience); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: connection: %v %v, want it refused", want, c, err)
		}
		if _, err := net.Listen("tcp6", fmt.Sprintf("[::]:%d", port)); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: another program could listen: %v", want, err)
		}
		for _, quiet := range []bool{false, true} {
			if _, _, err := bind(mapping{Protocol: "tcp", Host: netip.AddrPortFrom(netip.IPv6Unspecified(), port), NoLoopback: quiet}); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("%s: another container could have it: %v", want, err)
			}
		}
		f.Close()
	}
}

func TestAttachAgainWithoutDetach(t *testing.T) {
	m := manager(t)
	spec := api.NetworkSpec{Ports: []api.PortSpec{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}}
	id := id.New()
	for range 3 { // each time as if the process and its shim had been killed
		l, err := m.Attach(context.Background(), id, spec)
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l.NetNS, "tcp", ":80")
		wantSource(t, "again", nil, "tcp", "127.0.0.1:8080", l.Gateways[0].String())
		closeAll(append(l.Held, l.NetNS))
	}
	if err := m.Detach(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	if err := m.Detach(context.Background(), id); err != nil {
		t.Error("second detach:", err)
	}
	for _, dir := range []string{"holder", "lease", "ports"} {
		if left, err := os.ReadDir(m.path(dir)); len(left) > 0 || err != nil {
			t.Errorf("%s: %v %v", dir, left, err)
		}
	}
}

func TestThousandLeases(t *testing.T) {
	m := manager(t)
	br, err := m.ground().setup()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[netip.Addr]bool)
	start := time.Now()
	for range 1000 {
		addr, err := m.ground().lease(id.New(), br)
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] || !br.V4.Contains(addr) || addr == br.V4.Addr() || addr == br.V4.Masked().Addr() {
			t.Fatalf("lease of %s in %s", addr, br.V4)
		}
		seen[addr] = true
	}
	t.Log("a lease takes", time.Since(start)/1000)
	if err := m.Close(context.Background()); !errors.Is(err, api.Conflict) {
		t.Errorf("Close with leases: %v", err)
	}
	if now, ok := m.ground().load(); !ok || now != br {
		t.Errorf("a refused Close changed the bridge: %+v %v", now, ok)
	}
}

func TestSmallSubnetIsUsedUp(t *testing.T) {
	m := manager(t)
	if _, err := m.ground().setup(); err != nil {
		t.Fatal(err)
	}
	br := bridge{V4: netip.MustParsePrefix("10.1.2.9/29")}
	seen := make(map[netip.Addr]bool)
	for range br.size() {
		a, err := m.ground().lease(id.New(), br)
		if err != nil {
			t.Fatal(err)
		}
		seen[a] = true
	}
	if seen[netip.MustParseAddr("10.1.2.15")] || seen[netip.MustParseAddr("10.1.2.9")] || len(seen) != 5 {
		t.Errorf("addresses of %s: %v", br.V4, seen)
	}
	if _, err := m.ground().lease(id.New(), br); !errors.Is(err, api.Exhausted) {
		t.Errorf("sixth lease: %v", err)
	}
}

// TestMends removes things behind the manager's back.
func TestMends(t *testing.T) {
	m := manager(t)
	_, old := attach(t, m, api.PortSpec{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"})
	serve(t, old.NetNS, "tcp", ":80")
	_, nft, err := dialBoth()
	if err != nil {
		t.Fatal(err)
	}
	defer nft.Close()
	var r netlink.Request
	r.Batch(func() { r.DelTable(m.table()) })
	if err := nft.Do(&r, nil); err != nil {
		t.Fatal(err)
	}
	attach(t, m)
	wantSource(t, "after the table was flushed", nil, "tcp", "127.0.0.1:8080", old.Gateways[0].String())

	rt, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	br, _ := m.ground().load()
	r = netlink.Request{}
	r.DelLink(br.Index)
	if err := rt.Do(&r, nil); err != nil {
		t.Fatal(err)
	}
	_, l := attach(t, m)
	serve(t, l.NetNS, "tcp", ":80")
	wantSource(t, "after the bridge was removed", nil, "tcp", netip.AddrPortFrom(l.Addresses[0].Addr(), 80).String(), l.Gateways[0].String())
	if l.Gateways[0] != old.Gateways[0] || l.Gateways[1] != old.Gateways[1] {
		t.Errorf("gateways %v, and %v before", l.Gateways, old.Gateways)
	}
}

// TestUDPFlowsFollow has a client that never stops sending: before the port is published, and over the change from one container to another.
func TestUDPFlowsFollow(t *testing.T) {
	m := manager(t)
	other := outside(t)
	attach(t, m) // from now on the kernel tracks flows
	var c net.Conn
	var err error
	within(t, other, func() { c, err = net.Dial("udp", hostV4+":5300") })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	talk := func() (string, error) {
		buf := make([]byte, 64)
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte("x")); err != nil {
			c.SetDeadline(time.Now().Add(patience))
			c.Write([]byte("x")) // the refusal of the datagram before
		}
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	if _, err := talk(); err == nil {
		t.Fatal("an answer before the port was published")
	}
	for i := range 2 {
		name, l := attach(t, m, api.PortSpec{HostPort: 5300, ContainerPort: 53, Protocol: "udp"})
		serve(t, l.NetNS, "udp", ":53")
		if got, err := talk(); err != nil || got != outsideV4 {
			t.Errorf("container %d: %q %v", i, got, err)
		}
		if err := m.Detach(context.Background(), name); err != nil {
			t.Fatal(err)
		}
		closeAll(append(l.Held, l.NetNS))
	}
}
