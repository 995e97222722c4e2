package cli

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/api"
)

func TestNetworkCreate(t *testing.T) {
	for args, want := range map[string]string{
		"blue": "create network blue bridge [] false false false map[] map[]",
		"--subnet 10.1.0.0/24,fd00::/64 --gateway fd00::9 --gateway 10.1.0.9 --ip-range 10.1.0.128/25 --internal --disable-dns --label a=b -o mtu=1400 blue": "create network blue bridge " +
			"[{10.1.0.0/24 10.1.0.9 10.1.0.128/25} {fd00::/64 fd00::9 invalid Prefix}] false true true map[a:b] map[mtu:1400]",
		"-d macvlan --ipv6=false -o parent=eth0 lan": "create network lan macvlan [] true false false map[] map[parent:eth0]",
	} {
		f := &fake{}
		r := brig(t, f, append([]string{"network", "create"}, strings.Fields(args)...)...)
		if r.code != 0 || r.out != testID+"\n" || !slices.Equal(f.calls, []string{want}) {
			t.Errorf("%s: %q, %+v", args, f.calls, r)
		}
	}
	for args, words := range map[string]string{
		"--subnet 10.1.0.0 x":                                          "invalid subnet 10.1.0.0",
		"--gateway 10.1.0.1 x":                                         "no matching subnet for gateway 10.1.0.1",
		"--subnet 10.1.0.0/24 --gateway x y":                           "invalid gateway x",
		"--subnet 10.1.0.0/24 --ip-range 10.2.0.0/25 x":                "no matching subnet for range 10.2.0.0",
		"--subnet 10.1.0.0/24 --gateway 10.1.0.1 --gateway 10.1.0.2 x": "cannot configure multiple gateways",
		"--ipv4=false x":                                               "every network has IPv4",
	} {
		f := &fake{}
		if r := brig(t, f, append([]string{"network", "create"}, strings.Fields(args)...)...); r.code == 0 || !strings.Contains(r.errOut, words) || len(f.calls) > 0 {
			t.Errorf("%s: %q, %+v", args, f.calls, r)
		}
	}
	f := &fake{fails: map[string]error{"blue": api.Errorf(api.AlreadyExists, "network with name blue already exists")}, networks: []api.Network{{Name: "blue", ID: testID}}}
	brig(t, f, "network", "create", "--ignore", "blue").wants(t, 0, testID+"\n")
	if r := brig(t, f, "network", "create", "blue"); r.code != 1 || r.errOut != "brig: network with name blue already exists\n" {
		t.Errorf("%+v", r)
	}
}

func networksForTest() []api.Network {
	return []api.Network{
		{ID: testID, Name: "blue", Driver: "bridge", Created: time.Unix(1, 0), Labels: map[string]string{"a": "b"}, Subnets: []api.Subnet{{Prefix: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.1.0.1")}},
			Users: []api.NetworkUser{{ID: testID, Name: "web", Endpoint: api.Endpoint{MAC: "02:42:0a:01:00:02", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24")}}}}},
		{ID: "f" + testID[1:], Name: "bridge", Driver: "bridge"}, {ID: "e" + testID[1:], Name: "none", Driver: "null"},
	}
}

func TestNetworkList(t *testing.T) {
	f := &fake{networks: networksForTest()}
	brig(t, f, "network", "ls").wants(t, 0, "NETWORK ID     NAME      DRIVER    SCOPE\n0123456789ab   blue      bridge    local\nf123456789ab   bridge    bridge    local\ne123456789ab   none      null      local\n")
	brig(t, f, "network", "ls", "-q", "--no-trunc", "--filter", "type=custom").wants(t, 0, testID+"\n")
	for filter, want := range map[string]string{
		"name=b": "blue bridge", "driver=null": "none", "label=a": "blue", "label=a=c": "", "type=builtin": "bridge none", "dangling=true": "", "id=f12": "bridge", "scope=swarm": "",
	} {
		r := brig(t, f, "network", "ls", "--format", "{{.Name}}", "-f", filter)
		if got := strings.Join(strings.Fields(r.out), " "); got != want {
			t.Errorf("%s: %s, want %s", filter, got, want)
		}
	}
	for _, filter := range []string{"type=x", "dangling=x", "colour=blue"} {
		if r := brig(t, f, "network", "ls", "-f", filter); r.code == 0 {
			t.Errorf("%s: %+v", filter, r)
		}
	}
}

func TestNetworkInspect(t *testing.T) {
	f := &fake{networks: networksForTest()}
	r := brig(t, f, "network", "inspect", "blue", "nothing")
	for _, line := range []string{`"Name": "blue"`, `"Subnet": "10.1.0.0/24"`, `"Gateway": "10.1.0.1"`, `"IPv4Address": "10.1.0.2/24"`, `"EnableIPv6": false`, `"a": "b"`} {
		if !strings.Contains(r.out, line) {
			t.Errorf("no %s in\n%s", line, r.out)
		}
	}
	if r.code != 1 || !strings.Contains(r.errOut, "network nothing not found") {
		t.Errorf("%+v", r)
	}
	brig(t, f, "network", "inspect", "-f", "{{range .Containers}}{{.Name}}{{end}}", "blue").wants(t, 0, "web\n")
	brig(t, f, "inspect", "--type", "network", "-f", "{{.Name}}", "blue").wants(t, 0, "blue\n")
	brig(t, f, "network", "exists", "nothing").wants(t, 1, "")
}

func TestNetworkVerbs(t *testing.T) {
	f := &fake{fails: map[string]error{"gone": api.Errorf(api.NotFound, "network gone not found")}}
	brig(t, f, "network", "rm", "-f", "blue", "gone").wants(t, 0, "blue\ngone\n")
	if r := brig(t, f, "network", "rm", "gone"); r.code != 1 {
		t.Errorf("%+v", r)
	}
	brig(t, f, "network", "connect", "--gw-priority", "3", "--alias", "a", "--ip", "10.0.0.5", "--ip6", "fd00::5", "blue", "web").wants(t, 0, "")
	brig(t, f, "network", "disconnect", "-f", "blue", "web").wants(t, 0, "")
	want := []string{"remove network blue", "remove network gone", "remove network gone", "connect blue web { [a] 10.0.0.5 fd00::5  3}", "disconnect blue web true"}
	if !slices.Equal(f.calls, want) {
		t.Errorf("%q", f.calls)
	}
	f = &fake{pruned: api.PruneReport{Networks: []string{"blue"}}}
	brig(t, f, "network", "prune", "-f").wants(t, 0, "Deleted Networks:\nblue\n\n")
}
