package network

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/base/rootless"
	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

const (
	defaultState = "/run/brig"
	// localMetric puts the bridge's route to ::1 behind that of lo.
	localMetric = 4096
)

// bridge is what a container needs to know of the bridge: all of STATE/network/bridge, read at every attach.
type bridge struct {
	NetNS  uint64 // inode of the network namespace that it is in: an index means something only there
	Index  uint32
	MTU    uint32
	V4, V6 netip.Prefix // the bridge's own address with the prefix of the subnet; no V6 where the host has IPv6 turned off
}

// bridgeName is the name of bridge and table: brig0 for the default state folder, else one that no other folder has.
func bridgeName(state string) string {
	if state = filepath.Clean(state); state == defaultState {
		return "brig0"
	}
	sum := sha256.Sum256([]byte(state))
	return "brig-" + hex.EncodeToString(sum[:4]) // 13 of the 15 characters that an interface may have
}

// address is the n-th address of the subnet; 0 is the network itself, 1 the bridge.
func (b bridge) address(n uint32) netip.Addr {
	a := b.V4.Masked().Addr().As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+n)
	return netip.AddrFrom4(a)
}

// size is how many addresses containers can have: not the network, the bridge and the broadcast address.
func (b bridge) size() uint32 { return 1<<(32-b.V4.Bits()) - 3 }

// addresses are a container's, IPv4 first, with the prefixes of the subnets. In IPv6 it has the same number.
func (b bridge) addresses(v4 netip.Addr) []netip.Prefix {
	all := []netip.Prefix{netip.PrefixFrom(v4, b.V4.Bits())}
	if b.V6.IsValid() {
		net4, host := b.V4.Masked().Addr().As4(), v4.As4()
		a := b.V6.Masked().Addr().As16()
		binary.BigEndian.PutUint32(a[12:], binary.BigEndian.Uint32(host[:])-binary.BigEndian.Uint32(net4[:]))
		all = append(all, netip.PrefixFrom(netip.AddrFrom16(a), b.V6.Bits()))
	}
	return all
}

func (b bridge) gateways() []netip.Addr {
	if b.V6.IsValid() {
		return []netip.Addr{b.V4.Addr(), b.V6.Addr()}
	}
	return []netip.Addr{b.V4.Addr()}
}

// macOf derives a MAC from an IPv4 address, in the locally administered range that Docker uses too: a host's neighbour
// entry for an address that goes to another container stays right.
func macOf(a netip.Addr) netlink.MAC {
	b := a.As4()
	return netlink.MAC{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// namespaceInode tells network namespaces apart; it is the calling thread's.
func namespaceInode() uint64 {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0
	}
	return st.Ino
}

// load reads the record of a bridge that is whole; not ok if there is none in this network namespace.
func (m *Manager) load() (b bridge, ok bool) {
	var text [128]byte // five numbers; twice in each attach, hence without the care that os.ReadFile takes of larger files
	fd, err := unix.Open(m.path("bridge"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return b, false
	}
	n, err := unix.Read(fd, text[:])
	unix.Close(fd)
	if err != nil {
		return b, false
	}
	f := strings.Fields(string(text[:n]))
	if len(f) != 5 {
		return b, false
	}
	var errs [5]error
	var index, mtu uint64
	b.NetNS, errs[0] = strconv.ParseUint(f[0], 10, 64)
	index, errs[1] = strconv.ParseUint(f[1], 10, 32)
	mtu, errs[2] = strconv.ParseUint(f[2], 10, 32)
	b.V4, errs[3] = netip.ParsePrefix(f[3])
	if f[4] != "-" {
		b.V6, errs[4] = netip.ParsePrefix(f[4])
	}
	b.Index, b.MTU = uint32(index), uint32(mtu)
	return b, errors.Join(errs[:]...) == nil && b.V4.Bits() <= 29 && b.NetNS == namespaceInode()
}

func (m *Manager) save(b bridge) error {
	v6 := "-"
	if b.V6.IsValid() {
		v6 = b.V6.String()
	}
	text := fmt.Sprintf("%d %d %d %s %s\n", b.NetNS, b.Index, b.MTU, b.V4, v6)
	return atomicfile.Write(m.path("bridge"), []byte(text), 0o600, atomicfile.Volatile)
}

// setup makes the bridge with all that belongs to it, or completes what a process that died has left. Each step may find its work done.
// The record comes last: who finds it finds everything.
func (m *Manager) setup() (bridge, error) {
	for _, dir := range []string{"lease", "holder", "ports"} {
		if err := os.MkdirAll(m.path(dir), 0o700); err != nil {
			return bridge{}, err
		}
	}
	l, err := lock.Take(m.path("lock"))
	if err != nil {
		return bridge{}, err
	}
	defer l.Release()
	rt, nft, err := dialBoth()
	if err != nil {
		return bridge{}, err
	}
	defer rt.Close()
	defer nft.Close()
	if br, ok := m.load(); ok && m.intact(rt, nft, br) {
		return br, nil
	}
	br, err := m.makeBridge(rt)
	if err != nil {
		return br, fmt.Errorf("bridge %s: %w", m.name, err)
	}
	if err := forward(br.V6.IsValid()); err != nil {
		return br, fmt.Errorf("bridge %s: %w", m.name, err)
	}
	if err := m.makeTable(nft, br); err != nil {
		return br, fmt.Errorf("nftables table %s: %w", m.name, err)
	}
	if err := m.passDocker(nft); err != nil {
		return br, fmt.Errorf("let bridge %s through Docker's firewall: %w", m.name, err)
	}
	return br, m.save(br)
}

func dialBoth() (rt, nft *netlink.Conn, err error) {
	if rt, err = netlink.Dial(unix.NETLINK_ROUTE); err != nil {
		return nil, nil, err
	}
	if nft, err = netlink.Dial(unix.NETLINK_NETFILTER); err != nil {
		rt.Close()
		return nil, nil, err
	}
	return rt, nft, nil
}

// intact reports whether bridge and table are still there.
func (m *Manager) intact(rt, nft *netlink.Conn, br bridge) bool {
	l, err := rt.LinkByIndex(br.Index)
	if err != nil || l.Name != m.name || l.Flags&unix.IFF_UP == 0 {
		return false
	}
	has, err := nft.HasTable(m.table())
	return err == nil && has
}

// makeBridge makes the interface with its addresses. The machine's lock is held while a subnet is chosen and until it is visible
// to others as an address of the bridge, so no two Brigs can choose the same.
func (m *Manager) makeBridge(rt *netlink.Conn) (bridge, error) {
	l, err := lock.Take(m.machine)
	if err != nil {
		return bridge{}, err
	}
	defer func() {
		os.Remove(m.machine) // lock.Take notices that
		l.Release()
	}()
	old, err := rt.LinkByName(m.name)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return bridge{}, err
	}
	if err == nil && old.Kind != "bridge" {
		return bridge{}, api.Errorf(api.Conflict, "an interface of this name exists and is no bridge: rename or remove it")
	}
	br := bridge{NetNS: namespaceInode()}
	routes, err := rt.Routes()
	if err != nil {
		return br, err
	}
	if br.V4, br.V6, err = m.subnet(routes, old.Index); err != nil {
		return br, err
	}
	br.MTU = uplinkMTU(rt, routes)

	var r netlink.Request
	r.AddBridge(netlink.Bridge{Name: m.name, MAC: macOf(br.V4.Addr()), MTU: br.MTU})
	if err := rt.Do(&r, nil); err != nil && !errors.Is(err, unix.EEXIST) {
		return br, err
	}
	made, err := rt.LinkByName(m.name)
	if err != nil {
		return br, err
	}
	br.Index = made.Index
	if err := tuneBridge(m.name); err != nil {
		return br, err
	}
	return br, br.number(rt)
}

// number gives the bridge its addresses and takes it into service. An IPv6 address is usable at once: nobody else can have it, so
// nobody is asked. The route to ::1 is for packets that come back from a container to a client on the host that connected to
// [::1]: IPv6 has no route_localnet, and takes a loopback address only from an interface that has a route for it.
func (b *bridge) number(rt *netlink.Conn) error {
	steps := []func(*netlink.Request){
		func(r *netlink.Request) { r.AddAddress(b.Index, b.V4, 0) },
		func(r *netlink.Request) { r.SetUp(b.Index) },
		func(r *netlink.Request) { r.AddAddress(b.Index, b.V6, unix.IFA_F_NODAD) },
		func(r *netlink.Request) { r.AddLocalRoute(b.Index, netip.IPv6Loopback(), localMetric) },
	}
	for i, step := range steps {
		var r netlink.Request
		step(&r)
		err := rt.Do(&r, nil)
		if i == 2 && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)) {
			b.V6 = netip.Prefix{} // the host has no IPv6, or it is turned off
			return nil
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return eventually(func() (bool, error) { return rt.IsLocal(b.V6.Addr()) })
}

// uplinkMTU is the MTU of the interface that the default route leaves by, or Ethernet's: a larger one inside would lose packets on
// hosts whose own link is a tunnel or a cloud's overlay.
func uplinkMTU(rt *netlink.Conn, routes []netlink.Route) uint32 {
	const ethernet = 1500
	for _, r := range routes {
		if r.Dst.Bits() == 0 && r.Index != 0 {
			if l, err := rt.LinkByIndex(r.Index); err == nil && l.Flags&unix.IFF_LOOPBACK == 0 && l.MTU >= 1280 && l.MTU < ethernet {
				return l.MTU
			}
		}
	}
	return ethernet
}

// Close removes the bridge, the table and the boot-lived folder. It refuses with api.Conflict while a container holds an address. The sysctls
// stay, since others may have come to rely on them, and so do the subnets, for the next time.
func (m *Manager) Close(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if rootless.Active() {
		return m.endHelpers()
	}
	l, err := lock.Take(m.path("lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // never used
	}
	if err != nil {
		return err
	}
	defer l.Release()
	record, rerr := os.ReadFile(m.path("bridge"))
	if err := os.Remove(m.path("bridge")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ids, err := m.Leases()
	if err == nil && len(ids) > 0 {
		err = api.Errorf(api.Conflict, "bridge %s is used by %d containers, %s among them: stop them first", m.name, len(ids), ids[0])
	}
	if err != nil {
		if rerr == nil {
			err = errors.Join(err, atomicfile.Write(m.path("bridge"), record, 0o600, atomicfile.Volatile))
		}
		return err
	}
	if err := m.remove(); err != nil {
		return err
	}
	return os.RemoveAll(m.dir)
}

// remove takes away what setup made in the kernel, as far as it is there.
func (m *Manager) remove() error {
	rt, nft, err := dialBoth()
	if err != nil {
		return err
	}
	defer rt.Close()
	defer nft.Close()
	if err := m.unpassDocker(nft); err != nil {
		return err
	}
	if has, err := nft.HasTable(m.table()); err != nil {
		return err
	} else if has {
		var r netlink.Request
		r.Batch(func() { r.DelTable(m.table()) })
		if err := nft.Do(&r, nil); err != nil {
			return err
		}
	}
	l, err := rt.LinkByName(m.name)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	var r netlink.Request
	r.DelLink(l.Index)
	return rt.Do(&r, nil)
}
