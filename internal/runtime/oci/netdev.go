package oci

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/netlink"
)

// netDevices are the interfaces of the host that a container was given: config-linux.md, "Network Devices". The zero value has none.
type netDevices struct {
	host, inside     *netlink.Conn // sockets of both network namespaces
	hostNS, insideNS int           // their descriptors, once there are sockets
	moved            []movedLink
}

// movedLink is an interface that has changed its namespace.
type movedLink struct {
	host, inside string // its names
	index        uint32 // in the container
	up           bool   // as it was on the host
	addresses    []netlink.Address
}

func (n *netDevices) close() {
	if n.host == nil {
		return
	}
	n.host.Close()
	unix.Close(n.hostNS)
	unix.Close(n.insideNS)
	if n.inside != nil {
		n.inside.Close()
	}
}

// take moves interfaces into the network namespace at the path ns, each under its new name, with its permanent addresses of global scope, and takes them
// into service there. All else about them (MTU, MAC, queue settings) the kernel moves along; routes and neighbours it does not.
// On error all are given back.
func (n *netDevices) take(devices map[string]specs.LinuxNetDevice, ns string) error {
	if len(devices) == 0 {
		return nil
	}
	var err error
	if n.insideNS, err = unix.Open(ns, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("linux.netDevices: %w", &os.PathError{Op: "open", Path: ns, Err: err})
	}
	if err := n.onHost(n.dial); err != nil {
		if n.host == nil {
			unix.Close(n.insideNS)
		}
		return fmt.Errorf("linux.netDevices: %w", err)
	}
	names := make([]string, 0, len(devices))
	for name := range devices {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		inside := devices[name].Name
		if inside == "" {
			inside = name
		}
		if err := n.onHost(func() error { return n.move(name, inside) }); err != nil {
			n.giveBack()
			return fmt.Errorf("linux.netDevices: %s: %w", name, err)
		}
	}
	return nil
}

// dial opens a socket in both namespaces. A socket belongs to the namespace that it was made in, but what may be done through it is also the
// caller's matter: everything happens on a thread of the host.
func (n *netDevices) dial() error {
	var err error
	if n.hostNS, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return &os.PathError{Op: "open", Path: "/proc/thread-self/ns/net", Err: err}
	}
	if n.host, err = netlink.Dial(unix.NETLINK_ROUTE); err != nil {
		unix.Close(n.hostNS)
		return err
	}
	var a, b unix.Stat_t
	if err := unix.Fstat(n.hostNS, &a); err != nil {
		return err
	}
	if err := unix.Fstat(n.insideNS, &b); err != nil {
		return err
	}
	if a.Ino == b.Ino && a.Dev == b.Dev {
		return api.Errorf(api.InvalidArgument, "the container's network namespace is the host's own: there is nothing to move")
	}
	return onThread(func() (err error) {
		if err := unix.Setns(n.insideNS, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering the container's network namespace: %w", err)
		}
		n.inside, err = netlink.Dial(unix.NETLINK_ROUTE)
		return err
	})
}

// onHost runs f on a thread that is in the host's namespaces.
func (*netDevices) onHost(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }() // the builder's thread is locked, so this is another
	return <-done
}

func (n *netDevices) move(name, inside string) error {
	link, err := n.host.LinkByName(name)
	if err != nil {
		if errors.Is(err, unix.ENODEV) {
			return api.Errorf(api.InvalidArgument, "the host has no such network interface")
		}
		return err
	}
	addresses, err := n.host.Addresses(link.Index)
	if err != nil {
		return err
	}
	m := movedLink{host: name, inside: inside, up: link.Flags&unix.IFF_UP != 0, addresses: kept(addresses)}
	var r netlink.Request
	r.SetDown(link.Index)
	r.MoveLink(link.Index, n.insideNS, inside)
	if err := n.host.Do(&r, nil); err != nil {
		if errors.Is(err, unix.EPERM) {
			err = api.Errorf(api.Unsupported, "%w: moving an interface of the host takes CAP_NET_ADMIN there: run as root", err)
		}
		if errors.Is(err, unix.EEXIST) {
			err = api.Errorf(api.InvalidArgument, "the container's network namespace has an interface %s already: %w", inside, err)
		}
		if _, herr := n.host.LinkByName(name); herr == nil {
			_ = n.restore(n.host, link.Index, &m) // it may be down, and without its IPv6 addresses
		} else if there, ierr := n.inside.LinkByName(name); ierr == nil { // moved, and not renamed: the kernel does one after the other
			m.index = there.Index
			n.moved = append(n.moved, m)
		}
		return err
	}
	there, err := n.inside.LinkByName(inside)
	if err != nil {
		return err
	}
	m.index = there.Index
	n.moved = append(n.moved, m)
	m.up = true
	if err := n.restore(n.inside, m.index, &m); err != nil {
		return fmt.Errorf("in the container: %w", err)
	}
	return nil
}

// kept are the addresses that move along, as in runc: those that somebody gave the interface for good, and that mean something beyond its link.
func kept(list []netlink.Address) []netlink.Address {
	return slices.DeleteFunc(list, func(a netlink.Address) bool {
		return a.Scope != unix.RT_SCOPE_UNIVERSE || a.Flags&unix.IFA_F_PERMANENT == 0
	})
}

// restore gives an interface its addresses, those that it has not lost aside, and takes it into service if it is to be.
func (*netDevices) restore(c *netlink.Conn, index uint32, m *movedLink) error {
	for _, a := range m.addresses {
		var r netlink.Request
		peer := a.Peer
		if !peer.IsValid() {
			peer = a.Prefix.Addr()
		}
		// The kernel sets the others itself.
		r.AddPeerAddress(index, a.Prefix, peer, a.Flags&(unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE|unix.IFA_F_HOMEADDRESS|unix.IFA_F_MCAUTOJOIN))
		if err := c.Do(&r, nil); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	if !m.up {
		return nil
	}
	var r netlink.Request
	r.SetUp(index)
	return c.Do(&r, nil)
}

// giveBack moves all interfaces back, for a container that could not be made: the end of its network namespace would be the end of virtual ones. What
// cannot be moved back stays, since there is an error to be told already.
func (n *netDevices) giveBack() {
	_ = n.onHost(func() error {
		for _, m := range slices.Backward(n.moved) {
			var r netlink.Request
			r.SetDown(m.index)
			r.MoveLink(m.index, n.hostNS, m.host)
			if n.inside.Do(&r, nil) != nil {
				continue
			}
			if link, err := n.host.LinkByName(m.host); err == nil {
				_ = n.restore(n.host, link.Index, &m)
			}
		}
		n.moved = nil
		return nil
	})
}
