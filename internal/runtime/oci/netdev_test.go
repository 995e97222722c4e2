package oci

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// veth makes a pair of interfaces in the test's network namespace.
func veth(t *testing.T, name, peer string) {
	t.Helper()
	tool(t, "ip", "link", "add", name, "type", "veth", "peer", "name", peer)
	tool(t, "ip", "link", "set", peer, "up")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", peer).Run() }) // gone already where its other end went with a container
}

// TestNetDevices: interfaces move with MTU, MAC and their permanent global addresses, up and under their new names.
func TestNetDevices(t *testing.T) {
	c := newContainer(t)
	veth(t, "n0", "n0peer")
	veth(t, "n1", "n1peer")
	tool(t, "ip", "link", "set", "n0", "address", "02:00:00:00:00:77", "mtu", "1400", "up")
	tool(t, "ip", "address", "add", "10.7.0.2/24", "dev", "n0")
	tool(t, "ip", "address", "add", "10.7.0.9/32", "dev", "n0", "scope", "link")
	tool(t, "ip", "address", "add", "10.8.0.2", "peer", "10.8.0.1/32", "dev", "n0")
	tool(t, "ip", "address", "add", "2001:db8::7/64", "dev", "n0", "nodad")
	tool(t, "ip", "address", "add", "2001:db8::8/64", "dev", "n0", "valid_lft", "500", "preferred_lft", "400")
	c.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"n0": {Name: "eth0"}, "n1": {}}
	out := c.run("ip link show eth0; ip address show eth0; ip link show n1")
	for _, want := range []string{"mtu 1400", "02:00:00:00:00:77", "inet 10.7.0.2/24", "inet 10.8.0.2 peer 10.8.0.1/32", "inet6 2001:db8::7/64", "UP", "n1@"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	for _, not := range []string{"10.7.0.9", "2001:db8::8"} {
		if strings.Contains(out, not) {
			t.Errorf("%s has moved\n%s", not, out)
		}
	}
}

// TestNetDevicesGivenBack: a container that cannot be made leaves the interfaces as they were, whatever fails.
func TestNetDevicesGivenBack(t *testing.T) {
	c := newContainer(t)
	veth(t, "g0", "g0peer")
	tool(t, "ip", "link", "set", "g0", "up")
	tool(t, "ip", "address", "add", "10.9.0.2/24", "dev", "g0")
	tool(t, "ip", "address", "add", "2001:db8::9/64", "dev", "g0", "nodad")
	check := func(what string) {
		t.Helper()
		out := tool(t, "ip", "address", "show", "g0")
		for _, want := range []string{"10.9.0.2/24", "2001:db8::9/64", "UP"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %q is not in\n%s", what, want, out)
			}
		}
	}
	c.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"g0": {Name: "eth0"}, "missing": {}}
	c.refused("linux.netDevices: missing: the host has no such network interface")
	check("one that is not there")
	c.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"g0": {Name: "lo"}}
	c.refused("linux.netDevices: g0", "has an interface lo already")
	check("a name that is taken")
	c.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"g0": {Name: "eth0"}}
	c.mount("/x", "bind", "/no/such/source")
	c.refused("does not exist on the host")
	check("a mount that fails later")
	c.spec.Mounts = c.spec.Mounts[:1]
	c.spec.Linux.Namespaces[4].Path = "/proc/self/ns/net"
	c.refused("linux.netDevices", "the host's own")
	check("the host's namespace")
	c.spec.Linux.Namespaces = c.spec.Linux.Namespaces[:4]
	c.refused("config.json: linux.netDevices: the container has no network namespace")
	c.spec.Linux.Namespaces = append(c.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	c.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"lo": {Name: "eth0"}}
	c.refused("linux.netDevices: lo")
}
