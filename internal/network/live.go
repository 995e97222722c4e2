package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/namedir"
	"brig/internal/base/undo"
	"brig/internal/kernel/netlink"
)

// Connect puts a container that runs, in the namespace ns, on one more network, and changes its link accordingly: e is its place there, or that on the default bridge. spec
// is what the container asks for, the new place among it. Where it has come to the first network with names, link.Resolver are sockets for its keeper.
// Without root's rights link.Bridges and link.Held are for the keeper too. Nothing has changed on error.
func (m *Manager) Connect(ctx context.Context, id string, ns *os.File, link *api.Link, spec api.NetworkSpec, e api.EndpointSpec) error {
	if err := checkID(id); err != nil {
		return err
	}
	if e.Priority != 0 && m.user {
		return noPriority()
	}
	now := *link
	if err := m.where(func() error { return m.connect(id, ns, &now, spec, e) }); err != nil {
		return err
	}
	if m.user {
		if err := m.connectUser(ctx, id, ns, link, &now, spec); err != nil {
			closeAll(now.Resolver)
			back := now
			return errors.Join(err, m.Disconnect(context.WithoutCancel(ctx), id, ns, &back, spec, e.Network))
		}
	}
	*link = now
	return nil
}

// connectUser completes what a normal user's container has come to: a way out, where it had none.
func (m *Manager) connectUser(ctx context.Context, id string, ns *os.File, before, now *api.Link, spec api.NetworkSpec) (err error) {
	if now.Bridges, err = m.hub.share(); err != nil {
		return err
	}
	now.BridgesFile = m.path(hubFile)
	if !leadsOut(before) && leadsOut(now) {
		now.NetNS = ns
		err = m.carry(ctx, id, now, spec, now.Ports)
		now.NetNS = nil
	}
	if err != nil {
		now.Bridges.Close()
	}
	return err
}

func (m *Manager) connect(id string, ns *os.File, link *api.Link, spec api.NetworkSpec, e api.EndpointSpec) (err error) {
	p, done, err := m.enter(id, ns)
	if err != nil {
		return err
	}
	defer done()
	var u undo.Stack
	defer u.Run()
	now := *link
	now.Endpoints = slices.Clone(link.Endpoints)
	at := place{} // which leads nowhere yet
	if at.name, err = freeName(p.inside); err != nil {
		return err
	}
	u.Add(func() { _ = dropLink(p.inside, at.name) })
	noNames := true
	if e.Network == modeBridge {
		u.Add(func() { _ = m.ground().release(id) })
		if err := m.plugGround(p, at, e.MAC, e.Priority, &now); err != nil {
			return err
		}
		now.Network = modeBridge
	} else {
		n, err := m.readRecord(e.Network)
		if errors.Is(err, fs.ErrNotExist) {
			return noNetwork(e.Network)
		}
		if err != nil {
			return err
		}
		if _, err := os.Readlink(m.path("member", id, n.Name)); err == nil {
			return api.Errorf(api.Conflict, "the container is on network %s already", n.Name)
		}
		u.Add(func() { _ = m.leave(id, n.Name) })
		made, err := m.plug(p, &n, e, spec.Names, at)
		if err != nil {
			return err
		}
		now.Endpoints = append(now.Endpoints, made)
		noNames = n.NoDNS
	}
	switch {
	case link.Names != "":
		err = forwardOf(&now, spec.DNS).Write(link.Names)
	case !noNames:
		if now.Resolver, err = resolverSockets(p); err == nil {
			err = m.answerFor(id, &now, spec)
		}
	}
	if err == nil && !m.user {
		u.Add(func() { _ = lead(p.inside, link) })
		err = lead(p.inside, &now)
	}
	if err == nil && !m.user {
		err = m.moveIfOther(p, link, &now, &u)
	}
	if err != nil {
		closeAll(now.Resolver)
		return err
	}
	u.Release()
	*link = now
	return nil
}

// Disconnect takes a container that runs off a network, and changes its link accordingly. ns nil: its namespace cannot be entered any more. What can be taken away
// is, also on error, and it may be called again.
func (m *Manager) Disconnect(_ context.Context, id string, ns *os.File, link *api.Link, spec api.NetworkSpec, network string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := m.where(func() error { return m.disconnect(id, ns, link, spec, network) }); err != nil {
		return err
	}
	if m.user && !leadsOut(link) {
		return m.endHelper(id)
	}
	return nil
}

func (m *Manager) disconnect(id string, ns *os.File, link *api.Link, spec api.NetworkSpec, network string) error {
	now := *link
	name := ""
	if network == modeBridge {
		name = link.Interface
		now.Network, now.Interface, now.MAC, now.Addresses, now.Gateways, now.Priority = api.NetworkOwn, "", "", nil, nil, 0
	} else if i := slices.IndexFunc(link.Endpoints, func(e api.Endpoint) bool { return e.Network == network }); i >= 0 {
		name = link.Endpoints[i].Interface
		now.Endpoints = slices.Delete(slices.Clone(link.Endpoints), i, i+1)
	}
	if name == "" {
		return api.Errorf(api.Conflict, "the container is not connected to network %s", network)
	}
	p, done, err := m.enter(id, ns)
	if err != nil {
		return err
	}
	defer done()
	before, _ := exposed(link)
	after, _ := exposed(&now)
	if len(before) > 0 && (len(after) == 0 || before[0] != after[0]) { // nothing may lead to an address that is somebody else's
		if err := m.unpublish(id); err != nil {
			return err
		}
	}
	if err := dropLink(p.inside, name); err != nil {
		return err
	}
	if network == modeBridge {
		err = m.ground().release(id)
	} else {
		err = m.leave(id, network)
	}
	if err != nil {
		return err
	}
	*link = now
	if len(before) > 0 && len(after) > 0 && before[0] != after[0] && !m.user {
		if err := m.moveAll(p, link); err != nil {
			return err
		}
	}
	if link.Names != "" {
		if err := forwardOf(link, spec.DNS).Write(link.Names); err != nil {
			return err
		}
	}
	if m.user { // the way out is as it was
		return nil
	}
	return lead(p.inside, link)
}

// enter makes the sockets that speak for a container's namespace.
func (m *Manager) enter(id string, ns *os.File) (*plugging, func(), error) {
	rt, nft, err := dialBoth()
	if err != nil {
		return nil, nil, err
	}
	p := &plugging{id: id, rt: rt, nft: nft, ns: ns}
	done := func() {
		rt.Close()
		nft.Close()
		if p.inside != nil {
			p.inside.Close()
		}
	}
	err = inNamespace(rt, ns, func() (err error) {
		p.inside, err = netlink.Dial(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		done()
		return nil, nil, err
	}
	return p, done, nil
}

// freeName is the first of eth0, eth1, … that the namespace does not have.
func freeName(inside *netlink.Conn) (string, error) {
	const most = 1000
	for n := range most {
		name := fmt.Sprintf("eth%d", n)
		if _, err := inside.LinkByName(name); errors.Is(err, unix.ENODEV) {
			return name, nil
		} else if err != nil {
			return "", err
		}
	}
	return "", api.Errorf(api.Exhausted, "the container has %d interfaces", most)
}

// dropLink removes an interface, if it is there.
func dropLink(inside *netlink.Conn, name string) error {
	l, err := inside.LinkByName(name)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	var r netlink.Request
	r.DelLink(l.Index)
	if err := inside.Do(&r, nil); !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// leadsOut reports whether one of the places is the way to all that is elsewhere.
func leadsOut(link *api.Link) bool {
	return slices.ContainsFunc(link.All(), func(e api.Endpoint) bool { return !e.Internal })
}

// lead makes the ways out what they are to be for the places that a container has now: one of them may have come or gone. It may be called again.
func lead(inside *netlink.Conn, link *api.Link) error {
	list := ways(link)
	var led families
	for i := range list {
		e := &list[i]
		l, err := inside.LinkByName(e.Interface)
		if errors.Is(err, unix.ENODEV) { // somebody has removed it
			continue
		}
		if err != nil {
			return err
		}
		for j, a := range e.Addresses {
			var r netlink.Request
			var gateway netip.Addr
			if len(e.Gateways) > j {
				gateway = e.Gateways[j]
			}
			switch {
			case led.add(a.Addr()):
				r.SetRoute(l.Index, everywhere(a.Addr()), gateway)
			case e.Driver == api.DriverBridge: // which may have been led through to until now
				r.AddRoute(l.Index, a, gateway)
			default:
				continue
			}
			if err := inside.Do(&r, nil); err != nil && !errors.Is(err, unix.EEXIST) {
				return err
			}
		}
	}
	return nil
}

// moveIfOther has published ports lead to another place, if a new one has become the way out.
func (m *Manager) moveIfOther(p *plugging, link, now *api.Link, u *undo.Stack) error {
	before, _ := exposed(link)
	after, _ := exposed(now)
	if len(after) == 0 || len(before) > 0 && before[0] == after[0] {
		return nil
	}
	move := func(to *api.Link) error {
		if err := m.unpublish(p.id); err != nil {
			return err
		}
		return m.moveAll(p, to)
	}
	u.Add(func() { _ = move(link) })
	return move(now)
}

// moveAll has all published ports of a container, whose sockets its keeper holds, lead to where it can be reached now.
func (m *Manager) moveAll(p *plugging, link *api.Link) error {
	addrs, _ := exposed(link)
	var ports []mapping
	for _, s := range link.Ports {
		host, err := netip.ParseAddr(s.HostIP)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(addrs, func(a netip.Prefix) bool { return a.Addr().Is4() == host.Is4() })
		if i < 0 {
			continue // there is no IPv6 there
		}
		ports = append(ports, mapping{
			Protocol: s.Protocol, Host: netip.AddrPortFrom(host, s.HostPort), Container: netip.AddrPortFrom(addrs[i].Addr(), s.ContainerPort),
			NoLoopback: host.Is6() && host.IsUnspecified() && bridgeFilters(),
		})
	}
	return m.publish(p.nft, p.id, ports)
}

// Rename lets a container that runs be found by another name of its own on all its networks.
func (m *Manager) Rename(id, old, to string, link *api.Link) error {
	for i := range link.Endpoints {
		e := &link.Endpoints[i]
		if len(e.Names) == 0 {
			continue
		}
		dir, err := os.Readlink(m.path("member", id, e.Network))
		if err != nil {
			return err
		}
		s := m.segment(&api.Network{ID: strings.Repeat("0", 64)})
		s.dir = dir
		addrs := make([]netip.Addr, len(e.Addresses))
		for i, a := range e.Addresses {
			addrs[i] = a.Addr()
		}
		names := slices.DeleteFunc(slices.Clone(e.Names), func(n string) bool { return n == old || namedir.Fold(n) == namedir.Fold(to) })
		if namedir.Valid(to) {
			names = append([]string{to}, names...)
		}
		// At every moment the holder says all names that there may be.
		if err := s.holdOwn(id, addrs, append(slices.Clone(names), old)); err != nil {
			return err
		}
		if namedir.Valid(to) {
			if err := namedir.Add(s.dir, to, id, addrs); err != nil {
				return err
			}
		}
		if namedir.Valid(old) && namedir.Fold(old) != namedir.Fold(to) {
			if err := namedir.Remove(s.dir, old, id); err != nil {
				return err
			}
		}
		if err := s.holdOwn(id, addrs, names); err != nil {
			return err
		}
		e.Names = names
	}
	return nil
}
