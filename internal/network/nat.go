package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"brig/internal/base/lock"
	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

// The sets of the table. Published ports are in the maps: any4 and any6 for all addresses of the host, host4 and host6 for one. The sets self4 and
// self6 have each container with published ports as a pair of source and destination, to find one that talks to itself. The names of all bridges are in
// bridges, those of internal ones in internal, and those that let their containers reach one another in inside, as a pair of where from and where to.
const (
	setAny4, setAny6   = "any4", "any6"
	setHost4, setHost6 = "host4", "host6"
	setSelf4, setSelf6 = "self4", "self6"

	setBridges, setInternal, setInside = "bridges", "internal", "inside"
)

// table is the one table of a Brig, in family inet: its rules serve IPv4 and IPv6.
func (m *Manager) table() netlink.Table {
	return netlink.Table{Family: unix.NFPROTO_INET, Name: m.tableName()}
}

// tableName is the bridge's, but brig for brig0.
func (m *Manager) tableName() string {
	if m.name == "brig0" {
		return "brig"
	}
	return m.name
}

// element is a member of one of the table's sets.
type element struct {
	set string
	netlink.Element
}

// elements are what the table needs to know of a published port.
func (p mapping) elements() []element {
	proto := byte(unix.IPPROTO_TCP)
	switch p.Protocol {
	case "udp":
		proto = unix.IPPROTO_UDP
	case "sctp":
		proto = unix.IPPROTO_SCTP
	}
	service := append([]byte{proto, 0, 0, 0}, portField(p.Host.Port())...)
	data := append(p.Container.Addr().AsSlice(), portField(p.Container.Port())...)
	every, one, self := setAny4, setHost4, setSelf4
	if p.Host.Addr().Is6() {
		every, one, self = setAny6, setHost6, setSelf6
	}
	at := func(a netip.Addr) element {
		return element{one, netlink.Element{Key: append(a.AsSlice(), service...), Data: data}}
	}
	own := p.Container.Addr().AsSlice()
	all := []element{{self, netlink.Element{Key: append(own, own...)}}}
	if !p.Host.Addr().IsUnspecified() {
		return append(all, at(p.Host.Addr()))
	}
	all = append(all, element{every, netlink.Element{Key: service, Data: data}})
	if p.Host.Addr().Is6() && !p.NoLoopback {
		all = append(all, at(netip.IPv6Loopback()))
	}
	return all
}

// portField is a port in network byte order, padded to a register.
func portField(port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(nil, port), 0, 0)
}

// elementsOf are the elements of several ports, each once.
func elementsOf(ports []mapping) []element {
	seen := make(map[string]bool)
	var all []element
	for _, p := range ports {
		for _, e := range p.elements() {
			if name := e.set + string(e.Key); !seen[name] {
				seen[name] = true
				all = append(all, e)
			}
		}
	}
	return all
}

// publish lets the host's ports lead to the container, all at once. The record is written first: who makes the table anew puts back what is
// recorded, and who finds a record may find elements.
func (m *Manager) publish(nft *netlink.Conn, id string, ports []mapping) error {
	if len(ports) == 0 {
		return nil
	}
	if err := m.record(id, ports); err != nil {
		return err
	}
	err := m.addElements(nft, ports)
	if errors.Is(err, unix.ENOENT) { // the table went away since join looked
		err = m.restoreTable(nft)
	} else if errors.Is(err, unix.EEXIST) {
		err = m.takeOver(nft, id, ports)
	}
	if err != nil {
		return err
	}
	return forgetFlows(nft, ports)
}

// restoreTable makes the table again, with all that is on record, where something has removed it.
func (m *Manager) restoreTable(nft *netlink.Conn) error {
	l, err := lock.Take(m.path("lock"))
	if err != nil {
		return err
	}
	defer l.Release()
	if has, err := nft.HasTable(m.table()); err != nil || has {
		return err
	}
	return m.makeTable(nft, nil)
}

func (m *Manager) addElements(nft *netlink.Conn, ports []mapping) error {
	var r netlink.Request
	r.Batch(func() {
		for _, e := range elementsOf(ports) {
			r.AddElement(m.table(), e.set, e.Element)
		}
	})
	return nft.Do(&r, nil)
}

// takeOver puts in the elements of ports after others were found in their place. Since we hold the sockets, their container is
// dead, and nobody has detached it yet; or they are our own, from setup.
func (m *Manager) takeOver(nft *netlink.Conn, id string, ports []mapping) error {
	l, err := lock.Take(m.path("lock"))
	if err != nil {
		return err
	}
	defer l.Release()
	wanted := make(map[string]bool)
	for _, e := range elementsOf(ports) {
		wanted[e.set+string(e.Key)] = true
	}
	var dead []string
	err = m.eachPublisher(func(owner string, theirs []mapping) {
		for _, e := range elementsOf(theirs) {
			if owner != id && wanted[e.set+string(e.Key)] {
				dead = append(dead, owner)
				return
			}
		}
	})
	if err != nil {
		return err
	}
	for _, d := range append(dead, id) {
		theirs, err := m.published(d)
		if err == nil {
			err = m.dropElements(nft, theirs)
		}
		if err == nil && d != id {
			err = os.Remove(m.path("ports", d))
		}
		if err != nil {
			return err
		}
	}
	return m.addElements(nft, ports)
}

// unpublish takes a container's ports out of the table and forgets their record, under the lock: from the first to the last element a record stands
// for elements that are its container's. Removing costs 10 ms in the kernel, so nobody who has no ports comes past the first line.
func (m *Manager) unpublish(id string) error {
	if _, err := os.Lstat(m.path("ports", id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	l, err := lock.Take(m.path("lock"))
	if err != nil {
		return err
	}
	defer l.Release()
	ports, err := m.published(id)
	if err != nil || ports == nil {
		return err
	}
	nft, err := netlink.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer nft.Close()
	if err := m.dropElements(nft, ports); err != nil {
		return err
	}
	if err := forgetFlows(nft, ports); err != nil {
		return err
	}
	return os.Remove(m.path("ports", id))
}

// dropElements removes elements in one go, or one by one where some are missing.
func (m *Manager) dropElements(nft *netlink.Conn, ports []mapping) error {
	drop := func(elements []element) error {
		var r netlink.Request
		r.Batch(func() {
			for _, e := range elements {
				r.DelElement(m.table(), e.set, e.Element)
			}
		})
		err := nft.Do(&r, nil)
		if errors.Is(err, unix.ENOENT) && len(elements) == 1 {
			return nil
		}
		return err
	}
	all := elementsOf(ports)
	err := drop(all)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	for i := range all {
		if err := drop(all[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// forgetFlows makes the kernel look at the next packet of each UDP flow anew. UDP has no end of connection: a client that keeps sending
// keeps the translation that its first packet met, to nowhere before the port was published, or to an address that another
// container has by now. Kernels before 5.8 cannot, and there the flow has to pause for half a minute.
func forgetFlows(nft *netlink.Conn, ports []mapping) error {
	for _, p := range ports {
		if p.Protocol != "udp" {
			continue
		}
		family := uint8(unix.AF_INET)
		if p.Host.Addr().Is6() {
			family = unix.AF_INET6
		}
		for _, ask := range []func(*netlink.Request){
			func(r *netlink.Request) { r.ForgetUDP(family, p.Host.Port()) },
			func(r *netlink.Request) { r.ForgetUDPServer(p.Container) },
		} {
			var r netlink.Request
			ask(&r)
			err := nft.Do(&r, nil)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
				break
			}
			if err != nil {
				return fmt.Errorf("port %s/udp: %w", p.Host, err)
			}
		}
	}
	return nil
}
