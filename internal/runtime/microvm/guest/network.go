package guest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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
	lo, err := c.LinkByName("lo")
	if err != nil {
		return err
	}
	var r netlink.Request
	r.SetUp(lo.Index)
	if err := c.Do(&r, nil); err != nil {
		return err
	}
	found, err := byMAC()
	if err != nil {
		return err
	}
	for i := range links {
		if err := link(c, &links[i], found[strings.ToLower(links[i].MAC)]); err != nil {
			return fmt.Errorf("network interface %s: %w", links[i].Name, err)
		}
	}
	return nil
}

// byMAC are the names of the machine's interfaces.
func byMAC() (map[string]string, error) {
	const class = "/sys/class/net"
	names := map[string]string{}
	entries, err := os.ReadDir(class)
	for _, e := range entries {
		if mac, err := os.ReadFile(filepath.Join(class, e.Name(), "address")); err == nil && e.Name() != "lo" {
			names[strings.TrimSpace(string(mac))] = e.Name()
		}
	}
	return names, err
}

func link(c *netlink.Conn, l *wire.Link, name string) error {
	if name == "" {
		return fmt.Errorf("the machine has none with the address %s", l.MAC)
	}
	at, err := c.LinkByName(name)
	if err != nil {
		return err
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
	e, ok := err.(*netlink.Error)
	return ok && e.Errno == syscall.EEXIST
}
