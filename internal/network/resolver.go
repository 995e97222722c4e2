package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/namedir"
	"brig/internal/kernel/netlink"
)

// resolverAddress is where a container on a network of one's own asks for names: docker's. Its keeper has two sockets there, of a port that the kernel chose, so that the
// container can have a DNS server of its own on port 53; see [translateDNS].
func resolverAddress() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

const dnsPort = 53

// answer makes what the container's keeper needs to answer look-ups, unless no network of the container has DNS.
func (m *Manager) answer(p *plugging, link *api.Link, spec api.NetworkSpec, networks []api.Network) error {
	if !slices.ContainsFunc(networks, func(n api.Network) bool { return !n.NoDNS }) {
		m.addDNS(link, spec, true)
		return nil
	}
	sockets, err := resolverSockets(p)
	if err != nil {
		return err
	}
	link.Resolver = sockets
	if err := m.answerFor(p.id, link, spec); err != nil {
		closeAll(sockets)
		link.Resolver = nil
		return err
	}
	return nil
}

// answerFor has the container ask its keeper.
func (m *Manager) answerFor(id string, link *api.Link, spec api.NetworkSpec) error {
	link.Names = m.path("member", id)
	m.addDNS(link, spec, false)
	link.DNS = []string{resolverAddress().String()}
	// A name without a dot is asked for as it is: docker's rule.
	if !slices.ContainsFunc(link.DNSOptions, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
		link.DNSOptions = append(link.DNSOptions, "ndots:0")
	}
	return forwardOf(link, spec.DNS).Write(link.Names)
}

// forwardOf is whom the keeper asks for other names.
func forwardOf(link *api.Link, servers []string) namedir.Forward {
	out := len(link.Addresses) > 0 || slices.ContainsFunc(link.Endpoints, func(e api.Endpoint) bool { return !e.Internal })
	if !out {
		return namedir.Forward{None: true}
	}
	return namedir.Forward{Servers: servers}
}

// resolverSockets makes the sockets in the container's namespace, and the translation of their ports.
func resolverSockets(p *plugging) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	var nft *netlink.Conn
	err = inNamespace(p.rt, p.ns, func() error {
		for _, typ := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
			fd, err := unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return os.NewSyscallError("socket", err)
			}
			files = append(files, os.NewFile(uintptr(fd), "resolver"))
			if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: resolverAddress().As4()}); err != nil {
				return fmt.Errorf("bind %s: %w", resolverAddress(), err)
			}
			if typ == unix.SOCK_STREAM {
				if err := unix.Listen(fd, 64); err != nil {
					return os.NewSyscallError("listen", err)
				}
			}
		}
		nft, err = netlink.Dial(unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return files, err
	}
	defer nft.Close()
	var ports [2]uint16
	for i, f := range files {
		conn, err := f.SyscallConn()
		if err != nil {
			return files, err
		}
		var sa unix.Sockaddr
		cerr := conn.Control(func(fd uintptr) { sa, err = unix.Getsockname(int(fd)) })
		if err = errors.Join(cerr, err); err != nil {
			return files, err
		}
		ports[i] = uint16(sa.(*unix.SockaddrInet4).Port)
	}
	return files, translateDNS(nft, ports[0], ports[1])
}

// translateDNS has what goes to port 53 of the resolver's address come to our sockets, and their answers from there. The ports are written over in the packets, without connection
// tracking: a container that asks for a name a thousand times a second fills no table.
func translateDNS(nft *netlink.Conn, udp, tcp uint16) error {
	const (
		sourcePort  = 0
		udpChecksum = 6
		tcpChecksum = 16
	)
	t := netlink.Table{Family: unix.NFPROTO_IPV4, Name: "brig"}
	here := netip.PrefixFrom(resolverAddress(), 32)
	port := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	change := func(where []netlink.Expr, protocol byte, offset, checksum uint32, from, to uint16) netlink.Rule {
		return ruleOf("output", where, []netlink.Expr{
			netlink.Meta(unix.NFT_META_L4PROTO, regIn), netlink.Equal(regIn, []byte{protocol}),
			netlink.Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, offset, 2, regIn), netlink.Equal(regIn, port(from)),
			netlink.Load(regIn, port(to)), netlink.SetPort(regIn, offset, checksum), netlink.NoTracking(),
		})
	}
	var r netlink.Request
	r.Batch(func() {
		r.AddTable(t)
		r.DelTable(t)
		r.AddTable(t)
		r.AddChain(t, netlink.Chain{Name: "output", Type: "filter", Hook: unix.NF_INET_LOCAL_OUT, Priority: -310}) // before connections are tracked, and before anybody else's chain
		for _, rule := range []netlink.Rule{
			change(destination(here), unix.IPPROTO_UDP, destinationPort, udpChecksum, dnsPort, udp),
			change(destination(here), unix.IPPROTO_TCP, destinationPort, tcpChecksum, dnsPort, tcp),
			change(source(here), unix.IPPROTO_UDP, sourcePort, udpChecksum, udp, dnsPort),
			change(source(here), unix.IPPROTO_TCP, sourcePort, tcpChecksum, tcp, dnsPort),
		} {
			r.AddRule(t, rule)
		}
	})
	if err := nft.Do(&r, nil); err != nil {
		return fmt.Errorf("the container's nftables, for port %d of %s: %w", dnsPort, resolverAddress(), err)
	}
	return nil
}

// inNamespace runs f on a thread that is in a network namespace, and comes back to where home was made; if it cannot come back the thread is never used again.
func inNamespace(home *netlink.Conn, ns *os.File, f func() error) error {
	back, err := home.Namespace()
	if err != nil {
		return err
	}
	defer unix.Close(back)
	runtime.LockOSThread()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("network namespace of the container: %w", err)
	}
	err = f()
	if lost := unix.Setns(back, unix.CLONE_NEWNET); lost != nil {
		return errors.Join(err, fmt.Errorf("back to the host's network namespace: %w", lost))
	}
	runtime.UnlockOSThread()
	return err
}
