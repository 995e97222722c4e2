package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/kernel/netlink"
	"brig/internal/kernel/nsfd"
)

// ofUser is a fresh Brig of a normal user's. That root runs it here is no matter: all bridges are in the hub.
func ofUser(t *testing.T) *Manager {
	m := manager(t)
	m.user = true
	return m
}

// attachHubTo puts a container on networks, without a way out.
func attachHubTo(t *testing.T, m *Manager, mode string, networks ...string) *api.Link {
	t.Helper()
	spec := api.NetworkSpec{Mode: mode, Names: []string{"c"}}
	for _, n := range networks {
		spec.Networks = append(spec.Networks, api.EndpointSpec{Network: n})
	}
	l, err := m.attachHub(id.New(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLink(l) })
	return l
}

// TestHub follows packets between a user's containers: those of a network reach one another and nobody else does, and the host has nothing of it.
func TestHub(t *testing.T) {
	m := ofUser(t)
	blue := create(t, m, api.Network{Name: "blue"})
	create(t, m, api.Network{Name: "red"})
	create(t, m, api.Network{Name: "quiet", Internal: true})
	web, peer := attachHubTo(t, m, api.NetworkOwn, "blue"), attachHubTo(t, m, api.NetworkOwn, "blue")
	other, both := attachHubTo(t, m, api.NetworkOwn, "red"), attachHubTo(t, m, modeBridge, "red", "blue")
	ground, inner := attachHubTo(t, m, modeBridge), attachHubTo(t, m, api.NetworkOwn, "quiet")
	for i := range web.Endpoints[0].Addresses {
		network, addr := "tcp4", web.Endpoints[0].Addresses[i].Addr()
		if addr.Is6() {
			network = "tcp6"
		}
		serve(t, web.NetNS, network, ":80")
		at := fmt.Sprintf("%s:80", addr)
		if addr.Is6() {
			at = fmt.Sprintf("[%s]:80", addr)
		}
		wantSource(t, "same network", peer.NetNS, network, at, peer.Endpoints[0].Addresses[i].Addr().String())
		wantSource(t, "both networks", both.NetNS, network, at, both.Endpoints[1].Addresses[i].Addr().String())
		for what, l := range map[string]*api.Link{"other network": other, "default bridge": ground, "internal network": inner} {
			wantSource(t, what, l.NetNS, network, at, "")
		}
		wantSource(t, "host", nil, network, at, "")
	}
	rt, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	if _, err := rt.LinkByName(bridgeOf(&blue)); !errors.Is(err, unix.ENODEV) {
		t.Error("the host has the bridge:", err)
	}
	if leadsOut(inner) || !leadsOut(web) {
		t.Error("the wrong one leads out")
	}
}

// TestHubRefuses: what without root's rights cannot be is refused by name.
func TestHubRefuses(t *testing.T) {
	m := ofUser(t)
	for _, n := range []api.Network{
		{Name: "wire", Driver: api.DriverMacvlan, Options: map[string]string{optionParent: "lo"}},
		{Name: "wire", Driver: api.DriverIPvlan, Options: map[string]string{optionParent: "lo"}},
		{Name: "bare", Options: map[string]string{optionMasquerade: "false"}},
	} {
		if _, err := m.Create(n); !errors.Is(err, api.Unsupported) {
			t.Errorf("%+v: %v", n, err)
		}
	}
	if _, err := m.Create(api.Network{Name: "out", Subnets: []api.Subnet{{Prefix: userAddress().Masked()}}}); !errors.Is(err, api.Conflict) {
		t.Error(err)
	}
	create(t, m, api.Network{Name: "quiet", Internal: true})
	id := id.New()
	_, err := m.Attach(context.Background(), id, api.NetworkSpec{
		Mode: api.NetworkOwn, Networks: []api.EndpointSpec{{Network: "quiet"}}, Ports: []api.PortSpec{{ContainerPort: 80, Protocol: "tcp"}},
	})
	if !errors.Is(err, api.InvalidArgument) || m.holds(id) {
		t.Error(err)
	}
}

// holder starts another process that holds the hub, and returns the hub's number.
func holder(t *testing.T, m *Manager, root string) (uint64, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "hub", root, filepath.Dir(m.dir), m.machine)
	cmd.Env = append(os.Environ(), inside+"=helper")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n, cmd
}

// holdHub is what the other process does.
func holdHub(m *Manager) error {
	m.user = true
	ns, err := m.enterable(true)
	if err != nil {
		return err
	}
	n, err := inodeOf(ns)
	if err != nil {
		return err
	}
	fmt.Println(n)
	_, err = io.ReadAll(os.Stdin)
	return err
}

func inodeOf(f *os.File) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return st.Ino, err
}

// TestHubOutlivesItsMaker: there is one hub as long as somebody holds it, whoever made it and however he ended. After the last one another is made, in which nothing is
// that the records of bridges say.
func TestHubOutlivesItsMaker(t *testing.T) {
	m := ofUser(t)
	root := filepath.Dir(filepath.Dir(m.subnets))
	first, maker := holder(t, m, root)
	second, _ := holder(t, m, root)
	if first != second {
		t.Fatal("there are two hubs")
	}
	maker.Process.Kill()
	maker.Wait()
	ns, err := m.enterable(false)
	if err != nil || ns == nil {
		t.Fatal("the hub is gone with its maker:", err)
	}
	if n, err := inodeOf(ns); n != first || err != nil {
		t.Fatal(n, err)
	}
	create(t, m, api.Network{Name: "blue"})
	link := attachHubTo(t, m, modeBridge, "blue")
	if third, cmd := holder(t, m, root); third != first {
		t.Error("a third has another hub")
	} else {
		cmd.Process.Kill()
		cmd.Wait()
	}
	if _, err := os.Stat(m.path("bridge")); err != nil {
		t.Fatal(err)
	}
	// The second one is killed, and this process gives up its share: as if it had been killed too.
	again := Open(root, filepath.Dir(m.dir))
	again.user, again.machine = true, m.machine
	_ = nsfd.Forget(int(m.hub.file.Fd()), int(m.hub.ns.Fd()))
	_, last := holder(t, m, root)
	_ = last
	fresh, err := again.enterable(true)
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := inodeOf(fresh); n != first {
		t.Error("the hub that the second one holds is not found")
	}
	if _, err := os.Stat(m.path("bridge")); err != nil {
		t.Error("the record of a bridge that is there is gone:", err)
	}
	closeLink(link)
}

// TestHubIsMadeAnew: the records of a hub that is no more are no records of the new one's, whose number may be the same.
func TestHubIsMadeAnew(t *testing.T) {
	m := ofUser(t)
	n := create(t, m, api.Network{Name: "blue"})
	if ns, err := m.enterable(false); ns != nil || err != nil {
		t.Fatal(ns, err)
	}
	for _, dir := range []string{m.dir, m.path("own", n.ID)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "bridge"), []byte("stale"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.where(func() error {
		for _, path := range []string{m.path("bridge"), m.path("own", n.ID, "bridge")} {
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Errorf("%s: %v", path, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// A file that is no namespace, in the place of one, is not taken for one: see package nsfd. The folder of another time is left behind.
	before, _ := m.enterable(false)
	if err := os.RemoveAll(m.dir); err != nil {
		t.Fatal(err)
	}
	if ns, err := m.enterable(false); ns != nil || err != nil {
		t.Error(ns, err)
	}
	after, err := m.enterable(true)
	if err != nil || after == before {
		t.Error(after, err)
	}
}
