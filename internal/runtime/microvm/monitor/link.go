package monitor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"brig/internal/kernel/netlink"
	"brig/internal/runtime/microvm/wire"
)

// nic is an interface of the box that the guest has instead.
type nic struct {
	link wire.Link
	tap  *os.File
}

// nics connects each interface of the box's network namespace to a tap for the guest. What comes in on either goes out of the other, below the protocols of the
// box's kernel, so that the guest has the interface's address on the wire. It works on whatever the network made: veth, macvlan, or a tap of its own.
func nics() ([]nic, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var list []nic
	for _, l := range links {
		if l.Flags&net.FlagLoopback != 0 || l.Flags&net.FlagUp == 0 || len(l.HardwareAddr) != 6 {
			continue
		}
		n, err := connect(c, &l)
		if err != nil {
			return nil, fmt.Errorf("network interface %s: %w", l.Name, err)
		}
		list = append(list, n)
	}
	return list, nil
}

func connect(c *netlink.Conn, l *net.Interface) (n nic, err error) {
	index := uint32(l.Index)
	n.link = wire.Link{Name: l.Name, MAC: l.HardwareAddr.String(), MTU: uint32(l.MTU)}
	addrs, err := c.Addresses(index)
	if err != nil {
		return n, err
	}
	for _, a := range addrs {
		if a.Scope != unix.RT_SCOPE_LINK { // that one the guest makes itself
			n.link.Addrs = append(n.link.Addrs, a.Prefix.String())
		}
	}
	if n.link.Routes, err = routes(c, index); err != nil {
		return n, err
	}
	name := fmt.Sprintf("tap%d", l.Index)
	if n.tap, err = openTap(name); err != nil {
		return n, err
	}
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0) // it has nothing to say there
	at, err := c.LinkByName(name)
	if err != nil {
		return n, err
	}
	var r netlink.Request
	r.SetMTU(at.Index, n.link.MTU)
	r.SetUp(at.Index)
	r.Redirect(index, at.Index)
	r.Redirect(at.Index, index)
	if err := c.Do(&r, nil); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("%w: does the host's kernel have the modules sch_ingress, cls_u32 and act_mirred?", err)
		}
		return n, err
	}
	return n, nil
}

// openTap makes a tap and takes it, for as long as the descriptor lives.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("TUNSETIFF", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// routes are all the ways out of an interface. The machine's addresses bring none with them: most of the host's do not either, so that what goes to others on a bridge passes the host.
func routes(c *netlink.Conn, index uint32) ([]wire.Route, error) {
	var list []wire.Route
	var r netlink.Request
	r.Start("list routes", unix.RTM_GETROUTE, unix.NLM_F_DUMP, make([]byte, unix.SizeofRtMsg))
	err := c.Do(&r, func(typ uint16, b []byte) {
		// struct rtmsg: family, length of the destination, of the source, tos, table, protocol, scope, type
		if typ != unix.RTM_NEWROUTE || len(b) < unix.SizeofRtMsg || b[4] != unix.RT_TABLE_MAIN || b[7] != unix.RTN_UNICAST {
			return
		}
		dst := netip.IPv4Unspecified()
		if b[0] == unix.AF_INET6 {
			dst = netip.IPv6Unspecified()
		}
		var gateway netip.Addr
		var oif uint32
		netlink.Attributes(b[unix.SizeofRtMsg:], func(attr uint16, v []byte) {
			switch {
			case attr == unix.RTA_DST:
				if a, ok := netip.AddrFromSlice(v); ok {
					dst = a
				}
			case attr == unix.RTA_GATEWAY:
				gateway, _ = netip.AddrFromSlice(v)
			case attr == unix.RTA_OIF && len(v) == 4:
				oif = binary.NativeEndian.Uint32(v)
			}
		})
		if oif != index {
			return
		}
		way := wire.Route{Dst: netip.PrefixFrom(dst, int(b[1])).String()}
		if gateway.IsValid() {
			way.Gateway = gateway.String()
		}
		list = append(list, way)
	})
	return list, err
}

// hasResolver reports whether somebody answers questions about names at 127.0.0.11 in this network namespace: on a port of his own, to which rules lead.
func hasResolver() bool {
	b, err := os.ReadFile("/proc/net/udp")
	return err == nil && bytes.Contains(b, []byte(" 0B00007F:"))
}
