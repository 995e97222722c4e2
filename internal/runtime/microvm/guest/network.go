package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"brig/internal/kernel/netlink"
	"brig/internal/runtime/microvm/wire"
)

// network sets the machine's interfaces up: those that the box has, with their names, addresses and ways out.
func network(links []wire.Link) error {
	c, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.Close()
	found, err := byMAC(c)
	if err != nil {
		return err
	}
	for i := range links {
		if err := link(c, &links[i], found[links[i].MAC]); err != nil {
			return fmt.Errorf("network interface %s: %w", links[i].Name, err)
		}
	}
	return nil
}

// setMAC gives the interface with one address another.
func setMAC(from, to string) error {
	mac, err := net.ParseMAC(to)
	if err != nil {
		return err
	}
	c, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.Close()
	links, err := byMAC(c)
	if err != nil {
		return err
	}
	at, ok := links[from]
	if !ok {
		return fmt.Errorf("the machine has no network interface with the address %s", from)
	}
	var r netlink.Request
	r.SetMAC(at.Index, mac)
	return c.Do(&r, nil)
}

// loopback sets lo up.
func loopback() error {
	c, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.Close()
	lo, err := c.LinkByName("lo")
	if err != nil {
		return err
	}
	var r netlink.Request
	r.SetUp(lo.Index)
	return c.Do(&r, nil)
}

// byMAC are the machine's interfaces.
func byMAC(c *netlink.Conn) (map[string]netlink.Link, error) {
	const skipStats = 8 // RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h
	found := map[string]netlink.Link{}
	var r netlink.Request
	r.Start("list interfaces", unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg))
	r.Uint32(unix.IFLA_EXT_MASK, skipStats)
	err := c.Do(&r, func(typ uint16, b []byte) {
		if typ != unix.RTM_NEWLINK || len(b) < unix.SizeofIfInfomsg {
			return
		}
		l, mac := netlink.Link{Index: binary.NativeEndian.Uint32(b[4:])}, ""
		netlink.Attributes(b[unix.SizeofIfInfomsg:], func(attr uint16, v []byte) {
			switch {
			case attr == unix.IFLA_IFNAME:
				l.Name = netlink.Text(v)
			case attr == unix.IFLA_MTU && len(v) == 4:
				l.MTU = binary.NativeEndian.Uint32(v)
			case attr == unix.IFLA_ADDRESS:
				mac = net.HardwareAddr(v).String()
			}
		})
		found[mac] = l
	})
	return found, err
}

func link(c *netlink.Conn, l *wire.Link, at netlink.Link) error {
	name := at.Name
	if name == "" {
		return fmt.Errorf("the machine has none with the address %s", l.MAC)
	}
	// No address is made up, nor taken from an advertisement: the host's network says what there is.
	for _, set := range [][2]string{{"accept_dad", "0"}, {"accept_ra", "0"}} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/"+set[0], []byte(set[1]), 0); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	var r netlink.Request
	if l.Name != name {
		r.Rename(at.Index, l.Name)
	}
	if l.MTU != at.MTU && l.MTU > 0 {
		r.SetMTU(at.Index, l.MTU)
	}
	r.SetUp(at.Index)
	for _, a := range l.Addrs {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return err
		}
		flags := uint32(unix.IFA_F_NOPREFIXROUTE) // the monitor names all routes
		if p.Addr().Is6() {
			flags |= unix.IFA_F_NODAD
		}
		r.AddAddress(at.Index, p, flags)
	}
	if err := c.Do(&r, nil); err != nil {
		return err
	}
	for _, way := range l.Routes {
		dst, err := netip.ParsePrefix(way.Dst)
		if err != nil {
			return err
		}
		var gateway netip.Addr
		if way.Gateway != "" {
			if gateway, err = netip.ParseAddr(way.Gateway); err != nil {
				return err
			}
		}
		var r netlink.Request
		r.AddRoute(at.Index, dst, gateway)
		if err := c.Do(&r, nil); err != nil && !isExist(err) { // that of link-local addresses is there already
			return err
		}
	}
	return nil
}

func isExist(err error) bool {
	var e *netlink.Error
	return errors.As(err, &e) && e.Errno == syscall.EEXIST
}
