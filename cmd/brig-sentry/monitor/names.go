package monitor

import (
	"bytes"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/mount"
	"brig/internal/runtime/boxed/wire"
)

// On networks of one's own the container's keeper answers look-ups of names, at resolver, in the box's network namespace. The Sentry's network stack has a loopback of its own and never
// gets there. So the box has a pair of interfaces more: the Sentry takes one of them over, as it does the container's other interfaces, and at the other, at the address that the
// container's resolv.conf names, the monitor takes questions and asks the keeper.
const (
	resolver   = "127.0.0.11"
	dnsServer  = "169.254.53.53" // link-local addresses, RFC 3927: on a link that nobody else is on
	dnsClient  = "169.254.53.54"
	dnsPrefix  = 30
	dnsInside  = "dns0" // the Sentry's
	dnsOutside = "dns1"
	resolvConf = "/etc/resolv.conf"
)

// Limits of what the container may have the monitor do at a time.
const (
	maxQuestions = 128
	maxQuestion  = 64 << 10 // bytes, of a datagram
	maxResolv    = 64 << 10 // bytes, of resolv.conf
	answerLimit  = 15 * time.Second
)

// names makes look-ups of names work, where the container's resolv.conf asks the keeper: spec then has another resolv.conf. For a member of a pod its infra container's monitor answers.
func names(spec *specs.Spec, member bool) error {
	at := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == resolvConf })
	if at < 0 {
		return nil
	}
	data, err := small(spec.Mounts[at].Source)
	if err != nil {
		return err
	}
	if !bytes.Contains(data, []byte("nameserver "+resolver+"\n")) {
		return nil
	}
	if !member {
		if err := wires(); err != nil {
			return err
		}
		if err := answer(); err != nil {
			return err
		}
	}
	path := wire.RunDir + "/resolv.conf"
	data = bytes.ReplaceAll(data, []byte("nameserver "+resolver+"\n"), []byte("nameserver "+dnsServer+"\n"))
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	spec.Mounts[at].Source = path
	return os.Chmod(path, 0o644)
}

// small reads a regular file of the user's tree, by its path in the box, which has no links.
func small(path string) ([]byte, error) {
	fd, err := mount.OpenInRoot(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxResolv))
}

// wires makes the pair of interfaces.
func wires() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = dnsOutside
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: dnsInside}); err != nil {
		return os.NewSyscallError("making "+dnsOutside, err)
	}
	for _, name := range []string{dnsOutside, dnsInside} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		// No IPv6, or the pair would be looking for neighbours and routers.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644) // a kernel without it needs none
		if err := netlink.LinkSetUp(l); err != nil {
			return os.NewSyscallError("setting "+name+" up", err)
		}
		if name == dnsInside {
			if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: dnsNet(dnsClient, dnsPrefix)}); err != nil {
				return os.NewSyscallError("giving "+name+" its address", err)
			}
			continue
		}
		// Not an address of the interface's: the Sentry takes over every interface that has one. That an address is local a route says just as well.
		local := netlink.Route{LinkIndex: l.Attrs().Index, Dst: dnsNet(dnsServer, 32), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST}
		back := netlink.Route{LinkIndex: l.Attrs().Index, Dst: dnsNet(dnsClient, 32), Scope: unix.RT_SCOPE_LINK}
		for _, r := range []*netlink.Route{&local, &back} {
			if err := netlink.RouteAdd(r); err != nil {
				return os.NewSyscallError("a route to "+r.Dst.String(), err)
			}
		}
	}
	return nil
}

func dnsNet(address string, prefix int) *net.IPNet {
	return &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(prefix, 32)}
}

// answer takes questions from now on.
func answer() error {
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(dnsServer), Port: 53})
	if err != nil {
		return err
	}
	tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(dnsServer), Port: 53})
	if err != nil {
		return err
	}
	free := make(chan struct{}, maxQuestions)
	go func() {
		buf := make([]byte, maxQuestion)
		for {
			n, from, err := udp.ReadFromUDP(buf)
			if err != nil {
				return
			}
			select {
			case free <- struct{}{}:
			default:
				continue // as lost on the way: who asks asks again
			}
			question := bytes.Clone(buf[:n])
			go func() {
				defer func() { <-free }()
				if reply, err := ask(question); err == nil {
					_, _ = udp.WriteToUDP(reply, from) // or it is lost
				}
			}()
		}
	}()
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			free <- struct{}{}
			go func() {
				defer func() { <-free }()
				relay(c)
			}()
		}
	}()
	return nil
}

// ask asks the keeper over UDP.
func ask(question []byte) ([]byte, error) {
	c, err := net.Dial("udp4", resolver+":53")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return nil, err
	}
	if _, err := c.Write(question); err != nil {
		return nil, err
	}
	reply := make([]byte, maxQuestion)
	n, err := c.Read(reply)
	return reply[:n], err
}

// relay lets a connection ask the keeper over TCP.
func relay(c net.Conn) {
	defer c.Close()
	k, err := net.Dial("tcp4", resolver+":53")
	if err != nil {
		return
	}
	defer k.Close()
	for _, x := range []net.Conn{c, k} {
		if err := x.SetDeadline(time.Now().Add(answerLimit)); err != nil {
			return
		}
	}
	done := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(k, c); done <- struct{}{} }()
	go func() { _, _ = io.Copy(c, k); done <- struct{}{} }()
	<-done
}
