package network

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"time"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

const (
	containerInterface = "eth0"
	loopbackIndex      = 1 // lo is the first interface of every namespace
	firstPeerIndex     = 2 // eth0 is the second, unless the kernel puts tunnels into each new namespace
)

// newNamespace makes a network namespace, or takes the one that is given, and a socket that speaks for it from outside. The thread goes there for the time of two system calls
// and comes back to where home was made; if it cannot come back it is never used again.
func newNamespace(home *netlink.Conn, given *os.File) (ns *os.File, inside *netlink.Conn, err error) {
	back, err := home.Namespace()
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(back)
	runtime.LockOSThread()
	if given != nil {
		err = unix.Setns(int(given.Fd()), unix.CLONE_NEWNET)
	} else {
		err = unix.Unshare(unix.CLONE_NEWNET)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return nil, nil, fmt.Errorf("new network namespace: %w; it takes root and a kernel with CONFIG_NET_NS; where namespaces are forbidden --isolation chroot does without", err)
	}
	if inside, err = netlink.Dial(unix.NETLINK_ROUTE); err == nil {
		err = writeSysctl("ipv6/conf/default/accept_ra", "0") // a neighbour on the bridge is no router
	}
	if lost := unix.Setns(back, unix.CLONE_NEWNET); lost != nil {
		err = errors.Join(err, fmt.Errorf("back to the host's network namespace: %w", lost)) // the thread stays locked, and dies with its goroutine
	} else {
		runtime.UnlockOSThread()
	}
	fd := -1
	if err == nil {
		fd, err = inside.Namespace()
	}
	if err != nil {
		if inside != nil {
			inside.Close()
		}
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "netns"), inside, nil
}

// namespace is newNamespace for who needs nothing of the host's.
func namespace(given *os.File) (ns *os.File, inside *netlink.Conn, err error) {
	if rootless.Active() {
		return awayNamespace(given)
	}
	rt, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, err
	}
	defer rt.Close()
	return newNamespace(rt, given)
}

// awayNamespace is newNamespace for who may not come back.
func awayNamespace(given *os.File) (ns *os.File, inside *netlink.Conn, err error) {
	aside(func() { ns, inside, err = leave(given) })
	return ns, inside, err
}

// leave moves the thread into a new network namespace, or the one that is given.
func leave(given *os.File) (*os.File, *netlink.Conn, error) {
	var err error
	if given != nil {
		err = unix.Setns(int(given.Fd()), unix.CLONE_NEWNET)
	} else {
		err = unix.Unshare(unix.CLONE_NEWNET)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("new network namespace: %w", err)
	}
	inside, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, err
	}
	err = writeSysctl("ipv6/conf/default/accept_ra", "0")
	fd := -1
	if err == nil {
		fd, err = inside.Namespace()
	}
	if err != nil {
		inside.Close()
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "netns"), inside, nil
}

func loopback(inside *netlink.Conn) error {
	var r netlink.Request
	r.SetUp(loopbackIndex)
	return inside.Do(&r, nil)
}

// connect makes the pair of interfaces between the bridge and the namespace, inside under the given name and, unless that is taken, index; 0 is any. With hairpin the
// bridge may send back to the container what came from it: br_netfilter, if it is loaded, makes the bridge itself translate what a container sends to its own published port.
//
// Host and container are told each other's MAC for good. So no first packet waits for a question that is lost because the kernel on the other
// side does not listen yet, which would be a second, and no other container can give a false answer. An entry that a lost container
// leaves is right for the next one with its address, since the MAC follows from that, or it is replaced.
func (s *segment) connect(rt *netlink.Conn, br *bridge, ns *os.File, inside place, hairpin bool) (port string, err error) {
	index := inside.index
	for try := range 8 {
		v := netlink.Veth{
			Name: fmt.Sprintf("veth%08x", rand.Uint32()), Master: br.Index, MTU: br.MTU,
			Peer: inside.name, PeerIndex: index, PeerNS: int(ns.Fd()), PeerMAC: inside.mac,
		}
		var r netlink.Request
		r.AddVeth(v)
		for _, a := range inside.addrs {
			r.AddNeighbour(br.Index, a.Addr(), v.PeerMAC)
		}
		if hairpin {
			r.SetHairpin(v.Name)
		}
		if br.is(flagApart) {
			r.IsolatePort(v.Name)
		}
		err = rt.Do(&r, nil)
		switch {
		case errors.Is(err, unix.EXFULL):
			return "", api.Errorf(api.Exhausted, "bridge %s has its %d containers, the most that Linux allows one: stop some, or use the network %s or %s",
				s.name, netlink.PortLimit, modeHost, modeNone)
		case errors.Is(err, unix.EEXIST), errors.Is(err, unix.EBUSY):
			if index != 0 {
				index += 16
			}
		case try == 0 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV)): // somebody removed the bridge
			again, serr := s.setup()
			if serr != nil {
				return "", serr
			}
			if again.V4 != br.V4 {
				return "", api.Errorf(api.Unavailable, "bridge %s was made anew with another subnet: try again", s.name)
			}
			*br = again
		default:
			return v.Name, err
		}
	}
	return "", err
}

// place is an interface as it is to be in a container.
type place struct {
	name     string
	index    uint32 // wanted; 0: any
	mac      netlink.MAC
	addrs    []netip.Prefix // IPv4 first
	gateways []netip.Addr   // one for each address
	leads    families       // out: what is for nobody else goes there; else only what is for the subnet
}

// configure gives the container its addresses and routes, all in one system call. The addresses come without a route to the
// subnet, so that what goes to other containers passes the host; see the package comment.
func (p *place) configure(inside *netlink.Conn) error {
	index := p.index
	err := error(unix.ENODEV)
	if index != 0 {
		err = p.configureIndex(inside, index)
	}
	if err == nil || !errors.Is(err, unix.ENODEV) {
		return err
	}
	l, err := inside.LinkByName(p.name) // it has another index than it was wanted to have
	if err != nil {
		return err
	}
	return p.configureIndex(inside, l.Index)
}

func (p *place) configureIndex(inside *netlink.Conn, index uint32) error {
	var r netlink.Request
	r.SetUp(loopbackIndex)
	r.SetUp(index)
	for i, a := range p.addrs {
		flags := uint32(unix.IFA_F_NOPREFIXROUTE)
		if a.Addr().Is6() {
			flags |= unix.IFA_F_NODAD
		}
		r.AddAddress(index, a, flags)
		if p.leads.of(a.Addr()) {
			r.AddDefaultRoute(index, p.gateways[i])
		} else {
			r.AddRoute(index, a, p.gateways[i])
		}
		r.AddNeighbour(index, p.gateways[i], macOf(p.gateways[0]))
	}
	return inside.Do(&r, nil)
}

// settle waits until packets can pass between the container, its port of the bridge and the host. The kernel takes a new link, and a
// new IPv6 address, into use a little after the request was answered; a packet in that moment is lost, and TCP sends the next one a second
// later. Asking for a link hurries the kernel (Linux 6.8), else it takes a millisecond or two, and only for the first container of an idle bridge.
func settle(rt, inside *netlink.Conn, br bridge, port string, addrs []netip.Prefix) error {
	return eventually(func() (bool, error) {
		l, err := rt.LinkByName(port)
		if err != nil || l.Flags&unix.IFF_RUNNING == 0 {
			return false, err
		}
		if l, err = rt.LinkByIndex(br.Index); err != nil || l.Flags&unix.IFF_RUNNING == 0 {
			return false, err
		}
		return inside.IsLocal(addrs[len(addrs)-1].Addr())
	})
}

// eventually tries until it is done, at most for about a fifth of a second: what takes longer is no reason to refuse a container.
func eventually(try func() (done bool, err error)) error {
	pause := 50 * time.Microsecond
	for waited := time.Duration(0); waited < 200*time.Millisecond; waited += pause {
		if done, err := try(); done || err != nil {
			return err
		}
		time.Sleep(pause)
		pause = min(2*pause, 2*time.Millisecond)
	}
	return nil
}
