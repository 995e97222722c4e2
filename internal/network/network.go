// Package network gives containers their place on a network: a [api.Link].
//
// # What Attach makes
//
// Mode bridge, the default, makes a network namespace with an interface eth0, whose other end is a port of a bridge that all containers
// share. The bridge, its sysctls and one nftables table are made at first use; afterwards Attach takes no lock, starts no program and
// lists nothing: it leases an address by making a symbolic link, and sends the kernel a handful of netlink requests. Mode none makes a namespace
// with nothing but lo, mode host none at all.
//
// The namespace belongs to whoever holds it open: Attach returns a descriptor, and the kernel takes the interface pair down, in its own
// time, when the last process or descriptor is gone. That is why [Manager.Detach] does not remove the interface: the kernel would
// make it wait for 20 ms. Detach gives back what lies on the disk and in nftables, and without published ports that is two symbolic links and two neighbour entries.
//
// # Networks of one's own
//
// A network of one's own is a bridge like the default one, of the same table, or an interface of the host's whose wire containers share: see [Manager.Create]. Its
// record is durable, all else is made when the first container comes. A container may be on several: one of those that lead out is its default route, see [ways], and published ports lead there. On them containers
// find one another by names, which the container's keeper looks up: Attach makes its sockets, and package namedir says what it reads.
//
// # Between containers
//
// A container's address carries the prefix of the whole subnet, but no route comes with it: everything goes through the gateway, the
// bridge's own address. So packets between two containers pass the host's IP layer, and a container that connects to a
// port published on a host address is translated there and back without help of br_netfilter, and with its own address kept.
//
// # Ports
//
// A published port is an element of an nftables map, not a rule: a thousand cost a packet what one costs, and adding one changes no
// rule. See [table] for the rules. The host port is also bound by a socket (Link.Held), so that no other program takes it unnoticed and two
// containers cannot have it; Detach and the kernel's own clean-up of that socket are independent of each other.
// The table forwards nothing to a container that was not asked for: neither to an unpublished port from another machine, nor to
// a port that is published on 127.0.0.1. All its other decisions are left to the host's firewall, whose chains see the packets too.
// For one foreign firewall there is an exception: where Docker is installed, its policy drops all that it does not forward itself, and
// DOCKER-USER is the chain that it offers others to be let through, so two rules are put there. No other table is touched.
//
// # Without root
//
// A normal user's bridges, and the table, are in a network namespace of their own, the hub, on a thread in which all of the above runs: see [hub]. Nothing leads out of it. The way out of a container,
// and in to its ports, is an interface beside those to bridges, whose packets a program carries.
//
// # On disk
//
// Under STATE/network: bridge is written when all is ready, holder/ID (a link to the address) and lease/ADDRESS (a link to the ID) are made in
// that order and removed in the reverse one, ports/ID says what a container publishes. Networks of one's own have the same below own/NETWORK, with names beside, and
// member/ID, a container's networks, is made before and removed after what it has there. Under ROOT/network: bridge.json, the
// subnets, so that containers have the same ones after a reboot, and NAME.json, the networks.
//
// Lock order: ROOT/network/.lock, STATE/network/lock, then the machine's lock. The first is taken to make a network, the others only to make or remove a bridge, and the
// second to take elements out of the table, none to attach. hub.lock, by which a normal user's process finds the hub, is held by itself.
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/base/undo"
	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

// The modes of a network.
const (
	modeBridge = "bridge"
	modeNone   = "none"
	modeHost   = "host"
)

// Manager is the network room of one Brig, given by its folders. Any number of processes may have one at a time.
type Manager struct {
	name     string // of the bridge and of the table
	dir      string // boot-lived
	subnets  string // durable file
	machine  string // lock file of all Brigs of the machine
	user     bool   // without root's rights: bridges are in the hub, and the way out of a container is another
	hub      hub
	resolv   string // the host's resolv.conf
	resolved string // the one with the real servers, where resolv is systemd-resolved's stub
}

// Open returns the room of the Brig with these folders. It does no input or output.
func Open(root, state string) *Manager {
	user := rootless.User()
	return &Manager{
		name:     bridgeName(state),
		dir:      filepath.Join(state, "network"),
		subnets:  filepath.Join(root, "network", "bridge.json"),
		machine:  machineLock(state, user),
		user:     user,
		resolv:   "/etc/resolv.conf",
		resolved: "/run/systemd/resolve/resolv.conf",
	}
}

// Attach makes a link for the container. The caller owns the files in it: it hands them to the sandbox, or closes them.
// A lease that an earlier life of the container left is given back first.
//
// Errors: api.InvalidArgument for a mode, an address or a port that makes no sense, api.Conflict for a host port in use, api.Exhausted
// without a free address or a free port of the bridge, api.Unsupported for what this kernel's settings rule out.
func (m *Manager) Attach(ctx context.Context, id string, spec api.NetworkSpec) (*api.Link, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkID(id); err != nil {
		return nil, err
	}
	if err := checkDNS(spec.DNS); err != nil {
		return nil, err
	}
	switch spec.Mode {
	case "", modeBridge, api.NetworkOwn, modePasta, modeSlirp:
		if m.user {
			return m.attachUser(ctx, id, spec)
		}
	}
	switch spec.Mode {
	case "", modeBridge:
		if len(spec.Networks) > 0 {
			return m.attachOwn(id, spec)
		}
		return m.attachBridge(id, spec)
	case api.NetworkOwn:
		return m.attachOwn(id, spec)
	case modeNone, modeHost:
		if len(spec.Ports) > 0 {
			return nil, api.Errorf(api.InvalidArgument, "network %s cannot publish ports: leave out -p, or use the network %s", spec.Mode, modeBridge)
		}
	default:
		return nil, api.Errorf(api.InvalidArgument, "no network %q: there are %s, %s and %s", spec.Mode, modeBridge, modeNone, modeHost)
	}
	link := &api.Link{Network: spec.Mode}
	m.addDNS(link, spec, false)
	if spec.Mode == modeHost {
		return link, nil
	}
	ns, inside, err := namespace(spec.Namespace)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	if err := loopback(inside); err != nil {
		ns.Close()
		return nil, err
	}
	link.NetNS = ns
	return link, nil
}

func (m *Manager) attachBridge(id string, spec api.NetworkSpec) (*api.Link, error) {
	var u undo.Stack
	defer u.Run()
	rt, nft, err := dialBoth()
	if err != nil {
		return nil, err
	}
	defer rt.Close()
	defer nft.Close()
	s := m.ground()
	br, addrs, err := s.join(nft, func(br bridge) ([]netip.Prefix, error) {
		addr, err := s.lease(id, br)
		return br.addresses(addr), err
	}, func() { s.release(id) })
	if err != nil {
		return nil, err
	}
	u.Add(func() { m.Detach(context.Background(), id) })

	ports, held, err := m.reserve(id, spec.Ports, addrs)
	if err != nil {
		return nil, err
	}
	u.Add(func() { closeAll(held) })

	ns, inside, err := newNamespace(rt, spec.Namespace)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	u.Add(func() { ns.Close() })
	p := place{name: containerInterface, index: firstPeerIndex, addrs: addrs, gateways: br.gateways()}
	p.leads = families{!m.user, !m.user}
	if p.mac, err = chooseMAC(spec.MAC, addrs); err != nil {
		return nil, err
	}
	port, err := s.connect(rt, &br, ns, p, len(ports) > 0)
	if err != nil {
		return nil, err
	}
	if err := p.configure(inside); err != nil {
		return nil, err
	}
	if err := settle(rt, inside, br, port, addrs); err != nil {
		return nil, err
	}
	if err := m.publish(nft, id, ports); err != nil {
		return nil, err
	}
	link := &api.Link{
		Network: modeBridge, NetNS: ns, Held: held,
		Interface: p.name, MAC: macText(p.mac), Addresses: addrs, Gateways: p.gateways,
	}
	for _, p := range ports {
		link.Ports = append(link.Ports, p.spec())
	}
	m.addDNS(link, spec, true)
	u.Release()
	return link, nil
}

// join leases addresses on the bridge, which is made or mended where need be.
func (s *segment) join(nft *netlink.Conn, lease func(bridge) ([]netip.Prefix, error), release func()) (bridge, []netip.Prefix, error) {
	br, ok := s.load()
	for range 4 {
		if !ok {
			var err error
			if br, err = s.setup(); err != nil {
				return br, nil, err
			}
		}
		addrs, err := lease(br)
		if err != nil {
			return br, nil, err
		}
		// Close removes the record of the bridge first and looks for leases then; we lease first and look for the record then. The table
		// may be gone too: `nft flush ruleset` is how many a firewall starts.
		now, there := s.load()
		if there && now == br {
			if has, err := nft.HasTable(s.table()); err == nil && has {
				return br, addrs, nil
			}
		}
		release()
		ok = false
	}
	return br, nil, api.Errorf(api.Unavailable, "bridge %s is being removed and made again all the time: try later", s.name)
}

// Detach gives back the container's address, host ports and rules. It may be called again, from any process, and for a container that
// was never attached. It does not close the link's files, and leaves the interface to the kernel, which removes it after the last of them.
func (m *Manager) Detach(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if m.user {
		if err := m.endHelper(id); err != nil {
			return err
		}
		if !m.holds(id) { // the usual case
			return nil
		}
	}
	return m.whereIfAny(func() error { return m.detach(id) })
}

// holds reports whether the container may have something of a bridge.
func (m *Manager) holds(id string) bool {
	for _, path := range []string{m.path("holder", id), m.path("member", id)} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return false
}

func (m *Manager) detach(id string) error {
	if err := m.unpublish(id); err != nil {
		return fmt.Errorf("ports of container %s: %w", id, err)
	}
	if err := unix.Unlink(m.draft(id)); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "unlink", Path: m.draft(id), Err: err}
	}
	if err := m.ground().release(id); err != nil {
		return err
	}
	return m.leaveAll(id)
}

// Leases lists the containers that hold an address on the default bridge: of those that are gone, Detach gives it back.
func (m *Manager) Leases() ([]string, error) { return m.ground().holders() }

// holders lists the containers that hold an address of the segment.
func (s *segment) holders() ([]string, error) {
	entries, err := os.ReadDir(s.path("holder"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, err
}

func (m *Manager) path(parts ...string) string {
	return filepath.Join(append([]string{m.dir}, parts...)...)
}

// checkID keeps an ID from leading out of the folder that its files lie in.
func checkID(id string) error {
	if id == "" || len(id) > 200 || id[0] == '.' || strings.ContainsAny(id, "/\x00") {
		return api.Errorf(api.InvalidArgument, "%q is not a container ID", id)
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
