package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/namedir"
	"brig/internal/base/undo"
	"brig/internal/kernel/netlink"
)

// plugging is a container's network namespace while interfaces are put into it.
type plugging struct {
	id      string
	rt, nft *netlink.Conn
	inside  *netlink.Conn // routing, in the container's namespace
	ns      *os.File
}

// attachOwn is Attach for a container that is on networks of one's own.
func (m *Manager) attachOwn(id string, spec api.NetworkSpec) (*api.Link, error) {
	networks, err := m.wanted(spec)
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.Run()
	rt, nft, err := dialBoth()
	if err != nil {
		return nil, err
	}
	defer rt.Close()
	defer nft.Close()
	u.Add(func() { m.Detach(context.Background(), id) })
	if err := m.leaveAll(id); err != nil { // of an earlier life that was not detached
		return nil, err
	}
	ns, inside, err := newNamespace(rt, spec.Namespace)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	u.Add(func() { ns.Close() })
	if err := loopback(inside); err != nil {
		return nil, err
	}
	p := &plugging{id: id, rt: rt, nft: nft, inside: inside, ns: ns}
	link := &api.Link{Network: spec.Mode, NetNS: ns}
	next := uint32(0)
	if m.user && alone(spec.Mode) {
		beAlone(link)
		next++ // its interface is the first, and made later
	}
	name := func() (string, uint32) {
		next++
		return fmt.Sprintf("eth%d", next-1), firstPeerIndex + next - 1
	}
	leads := m.leaders(spec, networks)
	if link.Interface == "" && spec.Mode != api.NetworkOwn {
		link.Network = modeBridge
		at := place{leads: leads(modeBridge)}
		at.name, at.index = name()
		if err := m.plugGround(p, at, spec.MAC, spec.Priority, link); err != nil {
			return nil, err
		}
	}
	for i := range networks {
		at := place{leads: leads(networks[i].Name)}
		at.name, at.index = name()
		e, err := m.plug(p, &networks[i], spec.Networks[i], spec.Names, at)
		if err != nil {
			return nil, err
		}
		link.Endpoints = append(link.Endpoints, e)
	}
	if err := m.publishAt(p, link, spec.Ports); err != nil {
		return nil, err
	}
	u.Add(func() { closeAll(link.Held) })
	if err := m.answer(p, link, spec, networks); err != nil {
		return nil, err
	}
	u.Release()
	return link, nil
}

// wanted reads the records of the networks that a container asks for, in their order.
func (m *Manager) wanted(spec api.NetworkSpec) ([]api.Network, error) {
	var list []api.Network
	for i, e := range spec.Networks {
		n, err := m.readRecord(e.Network)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, noNetwork(e.Network)
		}
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(spec.Networks[:i], func(o api.EndpointSpec) bool { return o.Network == e.Network }) {
			return nil, api.Errorf(api.InvalidArgument, "network %s: named twice for one container", e.Network)
		}
		list = append(list, n)
	}
	return list, nil
}

// plugGround puts the container on the default bridge.
func (m *Manager) plugGround(p *plugging, at place, mac string, priority int, link *api.Link) error {
	s := m.ground()
	br, addrs, err := s.join(p.nft, func(br bridge) ([]netip.Prefix, error) {
		addr, err := s.lease(p.id, br)
		return br.addresses(addr), err
	}, func() { s.release(p.id) })
	if err != nil {
		return err
	}
	at.addrs, at.gateways = addrs, br.gateways()
	if at.mac, err = chooseMAC(mac, addrs); err != nil {
		return err
	}
	if err := s.plugInto(p, &br, &at); err != nil {
		return err
	}
	link.Interface, link.MAC, link.Addresses, link.Gateways, link.Priority = at.name, macText(at.mac), addrs, at.gateways, priority
	return nil
}

// plugInto makes the pair of interfaces and waits until packets can pass.
func (s *segment) plugInto(p *plugging, br *bridge, at *place) error {
	port, err := s.connect(p.rt, br, p.ns, *at, true)
	if err != nil {
		return err
	}
	if err := at.configure(p.inside); err != nil {
		return err
	}
	return settle(p.rt, p.inside, *br, port, at.addrs)
}

// plug puts the container on a network of one's own, under its names.
func (m *Manager) plug(p *plugging, n *api.Network, spec api.EndpointSpec, names []string, at place) (e api.Endpoint, err error) {
	defer func() {
		if err != nil {
			err = api.Errorf(api.KindOf(err), "network %s: %w", n.Name, err)
		}
	}()
	names, err = namesOf(n, spec, names)
	if err != nil {
		return e, err
	}
	want, err := wantedAddresses(n, spec)
	if err != nil {
		return e, err
	}
	s := m.segment(n)
	if err := os.MkdirAll(m.path("member", p.id), 0o700); err != nil {
		return e, err
	}
	// Before anything else: by it whoever cleans up finds the rest.
	if err := os.Symlink(s.dir, m.path("member", p.id, n.Name)); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = api.Errorf(api.Conflict, "the container is on it already")
		}
		return e, err
	}
	lease := func(br bridge) ([]netip.Prefix, error) { return s.leaseOwn(p.id, br, want, names) }
	var br bridge
	if n.Driver == api.DriverBridge {
		br, at.addrs, err = s.join(p.nft, lease, func() { s.releaseOwn(p.id) })
	} else {
		br, at.addrs, err = s.joinWire(lease)
	}
	if err != nil {
		return e, err
	}
	at.gateways = br.gateways()
	if at.mac, err = chooseMAC(spec.MAC, at.addrs); err != nil {
		return e, err
	}
	if n.Driver == api.DriverBridge {
		err = s.plugInto(p, &br, &at)
	} else {
		err = s.plugWire(p, &at)
	}
	if err != nil {
		return e, err
	}
	e = api.Endpoint{
		Network: n.Name, NetworkID: n.ID, Driver: n.Driver, Interface: at.name, Addresses: at.addrs, Gateways: at.gateways, Names: names, Internal: n.Internal,
		Priority: spec.Priority,
	}
	if n.Driver != api.DriverIPvlan { // whose interfaces have their parent's
		e.MAC = macText(at.mac)
	}
	return e, nil
}

// namesOf are the names by which a container can be found on a network: its own, and its aliases there. None where the network has no DNS.
func namesOf(n *api.Network, spec api.EndpointSpec, own []string) ([]string, error) {
	var names []string
	size := 0
	for i, name := range append(slices.Clone(own), spec.Aliases...) {
		if !namedir.Valid(name) {
			if i < len(own) {
				continue // a container's name may be what DNS cannot ask for
			}
			return nil, api.Errorf(api.InvalidArgument, "alias %q: it is no name that DNS could ask for", name)
		}
		if !slices.ContainsFunc(names, func(have string) bool { return namedir.Fold(have) == namedir.Fold(name) }) {
			names = append(names, name)
			size += len(name) + 1
		}
	}
	if most := 3500; size > most { // a link leads to 4095 bytes at most
		return nil, api.Errorf(api.InvalidArgument, "its names there are %d bytes long together, and %d is the most: leave out some aliases", size, most)
	}
	if n.NoDNS {
		return nil, nil
	}
	return names, nil
}

// wantedAddresses are those that were asked for, of the families that were.
func wantedAddresses(n *api.Network, spec api.EndpointSpec) (map[bool]netip.Addr, error) {
	want := map[bool]netip.Addr{} // by whether it is IPv6
	for _, text := range []string{spec.IPv4, spec.IPv6} {
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return nil, api.Errorf(api.InvalidArgument, "%q is not an IP address", text)
		}
		i := slices.IndexFunc(n.Subnets, func(s api.Subnet) bool { return s.Prefix.Contains(a) })
		if i < 0 {
			return nil, api.Errorf(api.InvalidArgument, "address %s is in no subnet of it: there are %s", a, subnetText(n))
		}
		if !usable(&n.Subnets[i], a) {
			return nil, api.Errorf(api.InvalidArgument, "address %s cannot be a container's: it is the subnet's own, its broadcast address or its gateway's", a)
		}
		want[a.Is6()] = a
	}
	return want, nil
}

func subnetText(n *api.Network) string {
	var text []string
	for _, p := range subnetsOf([]api.Network{*n}) {
		text = append(text, p.String())
	}
	return strings.Join(text, " and ")
}

// chooseMAC reads the address that was asked for; without one it follows from the IPv4 address.
func chooseMAC(text string, addrs []netip.Prefix) (mac netlink.MAC, err error) {
	if text == "" {
		return macOf(addrs[0].Addr()), nil
	}
	if mac, err = ParseMAC(text); err != nil {
		return mac, err
	}
	return mac, nil
}

// ParseMAC reads an Ethernet address of one machine: six bytes in hexadecimal with colons or hyphens between.
func ParseMAC(text string) (mac netlink.MAC, err error) {
	var rest string
	n, _ := fmt.Sscanf(strings.ReplaceAll(text, "-", ":")+" ", "%02x:%02x:%02x:%02x:%02x:%02x%s", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5], &rest)
	if n != 6 || len(text) != len("02:42:00:00:00:00") {
		return mac, api.Errorf(api.InvalidArgument, "%q is not a MAC address: six bytes are wanted, as in 02:42:0a:00:00:02", text)
	}
	if mac[0]&1 != 0 || mac == (netlink.MAC{}) {
		return mac, api.Errorf(api.InvalidArgument, "MAC address %s: it is none of one machine: its first byte must be even", text)
	}
	return mac, nil
}

func macText(mac netlink.MAC) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5])
}

// publishAt publishes ports at the first of the ways out that is a bridge's.
func (m *Manager) publishAt(p *plugging, link *api.Link, specs []api.PortSpec) error {
	if len(specs) == 0 {
		return nil
	}
	addrs, _ := exposed(link)
	if addrs == nil {
		return noPorts()
	}
	specs, err := m.bound(link, specs)
	if err != nil {
		return err
	}
	ports, held, err := m.reserve(p.id, specs, addrs)
	if err != nil {
		return err
	}
	if err := m.publish(p.nft, p.id, ports); err != nil {
		closeAll(held)
		return err
	}
	link.Held = held
	for _, q := range ports {
		link.Ports = append(link.Ports, q.spec())
	}
	return nil
}

func noPorts() error {
	return api.Errorf(api.InvalidArgument, "no port can be published: none of the container's networks is a bridge that leads out: leave out -p, or connect it to one that is")
}

// bound are ports with the host's address that the network which they lead to has for those without one.
func (m *Manager) bound(link *api.Link, specs []api.PortSpec) ([]api.PortSpec, error) {
	_, n := exposed(link)
	if n == "" || len(specs) == 0 {
		return specs, nil
	}
	rec, err := m.readRecord(n)
	if err != nil {
		return nil, err
	}
	if only := rec.Options[optionBinding]; only != "" {
		specs = slices.Clone(specs)
		for i := range specs {
			if specs[i].HostIP == "" {
				specs[i].HostIP = only
			}
		}
	}
	return specs, nil
}

// exposed are the addresses that published ports lead to, and the network of one's own that they are on, if it is one; nil: there is no such place.
func exposed(link *api.Link) (addrs []netip.Prefix, network string) {
	for _, e := range ways(link) {
		switch {
		case e.NetworkID == "":
			return e.Addresses, ""
		case e.Driver == api.DriverBridge:
			return e.Addresses, e.Network
		}
	}
	return nil, ""
}

// leaveAll takes a container off all networks of one's own.
func (m *Manager) leaveAll(id string) error {
	entries, err := os.ReadDir(m.path("member", id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 {
			if err := m.leave(id, e.Name()); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(m.path("member", id))
}

// leave takes a container off one network.
func (m *Manager) leave(id, network string) error {
	at := m.path("member", id, network)
	dir, err := os.Readlink(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s := m.segment(&api.Network{ID: filepath.Base(dir) + strings.Repeat("0", 12)})
	s.dir = dir
	if br, ok := loadBridge(s.path("bridge")); ok {
		s.name = br.Name
	}
	if err := s.releaseOwn(id); err != nil {
		return err
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// leaseOwn takes addresses for the container, those that are wanted or free ones, and lets it be found by its names.
func (s *segment) leaseOwn(id string, br bridge, want map[bool]netip.Addr, names []string) ([]netip.Prefix, error) {
	if _, err := os.Lstat(s.path("holder", id)); err == nil { // an earlier life of the container was not detached
		if err := s.releaseOwn(id); err != nil {
			return nil, err
		}
	}
	var addrs []netip.Addr
	for i := range s.own.Subnets {
		sub := &s.own.Subnets[i]
		if sub.Prefix.Addr().Is6() && !br.V6.IsValid() {
			if a, ok := want[true]; ok {
				return nil, errors.Join(s.releaseOwn(id), api.Errorf(api.Unsupported, "address %s: IPv6 is turned off on this host", a))
			}
			continue
		}
		a, err := s.leaseOf(id, sub, want[sub.Prefix.Addr().Is6()], addrs, names)
		if err != nil {
			return nil, errors.Join(err, s.releaseOwn(id))
		}
		addrs = append(addrs, a)
	}
	for _, name := range names {
		if err := namedir.Add(s.dir, name, id, addrs); err != nil {
			return nil, errors.Join(err, s.releaseOwn(id))
		}
	}
	var list []netip.Prefix
	for i, a := range addrs {
		list = append(list, netip.PrefixFrom(a, s.own.Subnets[i].Prefix.Bits()))
	}
	return list, nil
}

// leaseOf takes one address of a subnet. had are those that the container has already: the holder's link says all of them before the next is taken. The IPv6 address
// has the number of the IPv4 one, where that is free. Else, as on the default bridge, the search begins anywhere.
func (s *segment) leaseOf(id string, sub *api.Subnet, want netip.Addr, had []netip.Addr, names []string) (netip.Addr, error) {
	try := func(a netip.Addr) (bool, error) {
		if _, err := os.Lstat(s.path("lease", a.String())); err == nil {
			return false, nil
		}
		if err := s.holdOwn(id, append(slices.Clone(had), a), names); err != nil {
			return false, err
		}
		err := os.Symlink(id, s.path("lease", a.String()))
		if errors.Is(err, fs.ErrExist) {
			return false, s.holdOwn(id, had, names)
		}
		return err == nil, err
	}
	if want.IsValid() {
		ok, err := try(want)
		if err == nil && !ok {
			owner, _ := os.Readlink(s.path("lease", want.String()))
			err = api.Errorf(api.Conflict, "address %s is in use by container %.12s: choose another one", want, owner)
		}
		return want, err
	}
	first, count := span(sub)
	if len(had) > 0 && !sub.Range.IsValid() {
		n := number(had[0]) - number(s.own.Subnets[0].Prefix.Addr())
		if a := plus(first, n); n < count && usable(sub, a) {
			if ok, err := try(a); ok || err != nil {
				return a, err
			}
		}
	}
	start := rand.Uint64N(count)
	for i := range count {
		a := plus(first, (start+i)%count)
		if !usable(sub, a) {
			continue
		}
		if ok, err := try(a); ok || err != nil {
			return a, err
		}
	}
	return netip.Addr{}, api.Errorf(api.Exhausted, "no free address in %s: stop some containers, or make a network with a larger subnet", sub.Prefix)
}

// holdOwn writes down, whole, what the container has or is about to take.
func (s *segment) holdOwn(id string, addrs []netip.Addr, names []string) error {
	holder, draft := s.path("holder", id), s.path("holder", "."+id)
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(namedir.Hold(addrs, names), draft); err != nil {
		return err
	}
	return os.Rename(draft, holder)
}

// releaseOwn gives back what the container has of the segment, if it has anything.
func (s *segment) releaseOwn(id string) error {
	if err := unix.Unlink(s.path("holder", "."+id)); err != nil && err != unix.ENOENT && err != unix.ENOTDIR {
		return &fs.PathError{Op: "unlink", Path: s.path("holder", "."+id), Err: err}
	}
	text, err := os.Readlink(s.path("holder", id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	addrs, names := namedir.Held(text)
	for _, name := range names {
		if err := namedir.Remove(s.dir, name, id); err != nil {
			return err
		}
	}
	s.forgetNeighbours(addrs)
	for _, a := range addrs {
		lease := s.path("lease", a.String())
		if owner, err := os.Readlink(lease); err == nil && owner == id {
			if err := os.Remove(lease); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if err := os.Remove(s.path("holder", id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
