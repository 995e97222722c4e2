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
	"slices"
	"strconv"
	"strings"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

const (
	defaultState = "/run/brig"
	// localMetric puts the bridge's route to ::1 behind that of lo.
	localMetric = 4096
)

// segment is a bridge with those who are on it: the default one, or that of a network of one's own.
type segment struct {
	*Manager
	name string       // of the interface
	dir  string       // boot-lived
	own  *api.Network // nil: the default one
}

// ground is the segment of the default bridge.
func (m *Manager) ground() *segment { return &segment{Manager: m, name: m.name, dir: m.dir} }

func (s *segment) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// bridge is what a container needs to know of the bridge: all of STATE/network/bridge, or own/ID/bridge, read at every attach.
type bridge struct {
	NetNS  uint64 // inode of the network namespace that it is in: an index means something only there
	Index  uint32
	MTU    uint32
	V4, V6 netip.Prefix // the bridge's own address with the prefix of the subnet; no V6 where the host or the network has no IPv6
	Name   string       // of the interface
	Flags  string       // what the table has to know of a network of one's own: see the constants
}

// Letters of bridge.Flags.
const (
	flagInternal     = "i" // no way leads out or in
	flagApart        = "a" // its containers cannot reach one another
	flagNoMasquerade = "m" // its containers keep their addresses on their way out
)

func (b *bridge) is(flag string) bool { return strings.Contains(b.Flags, flag) }

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
func (s *segment) load() (b bridge, ok bool) {
	b, ok = loadBridge(s.path("bridge"))
	if b.Name == "" {
		b.Name = s.name
	}
	return b, ok && b.Name == s.name
}

// loadBridge reads a record: five words, or seven of a network of one's own.
func loadBridge(path string) (b bridge, ok bool) {
	var text [192]byte // twice in each attach, hence without the care that os.ReadFile takes of larger files
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return b, false
	}
	n, err := unix.Read(fd, text[:])
	unix.Close(fd)
	if err != nil {
		return b, false
	}
	f := strings.Fields(string(text[:n]))
	if len(f) != 5 && len(f) != 7 {
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
	if len(f) == 7 {
		b.Name, b.Flags = f[5], f[6]
	}
	b.Index, b.MTU = uint32(index), uint32(mtu)
	return b, errors.Join(errs[:]...) == nil && b.V4.Bits() <= leastBits && b.NetNS == namespaceInode()
}

// leastBits is the longest prefix of an IPv4 subnet: a container has to fit in beside the bridge.
const leastBits = 30

func (s *segment) save(b bridge) error {
	v6 := "-"
	if b.V6.IsValid() {
		v6 = b.V6.String()
	}
	text := fmt.Sprintf("%d %d %d %s %s", b.NetNS, b.Index, b.MTU, b.V4, v6)
	if s.own != nil {
		text += " " + b.Name + " " + b.Flags
	}
	return atomicfile.Write(s.path("bridge"), []byte(text+"\n"), 0o600, atomicfile.Volatile)
}

// setup makes the bridge with all that belongs to it, or completes what a process that died has left. Each step may find its work done.
// The record comes last: who finds it finds everything.
func (s *segment) setup() (bridge, error) {
	dirs := []string{s.path("lease"), s.path("holder"), s.Manager.path("ports")}
	if s.own != nil {
		dirs = append(dirs, s.path("name"))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return bridge{}, err
		}
	}
	l, err := lock.Take(s.Manager.path("lock"))
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
	if br, ok := s.load(); ok && s.intact(rt, nft, br) {
		return br, nil
	}
	br, err := s.makeBridge(rt)
	if err != nil {
		return br, fmt.Errorf("bridge %s: %w", s.name, err)
	}
	if err := forward(br.V6.IsValid()); err != nil {
		return br, fmt.Errorf("bridge %s: %w", s.name, err)
	}
	if err := s.makeTable(nft, &br); err != nil {
		return br, fmt.Errorf("nftables table %s: %w", s.tableName(), err)
	}
	if err := passDocker(nft, s.name); err != nil {
		return br, fmt.Errorf("let bridge %s through Docker's firewall: %w", s.name, err)
	}
	return br, s.save(br)
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
func (s *segment) intact(rt, nft *netlink.Conn, br bridge) bool {
	l, err := rt.LinkByIndex(br.Index)
	if err != nil || l.Name != s.name || l.Flags&unix.IFF_UP == 0 {
		return false
	}
	has, err := nft.HasTable(s.table())
	return err == nil && has
}

// makeBridge makes the interface with its addresses. The machine's lock is held while a subnet is chosen and until it is visible
// to others as an address of the bridge, so no two Brigs can choose the same.
func (s *segment) makeBridge(rt *netlink.Conn) (bridge, error) {
	l, err := lock.Take(s.machine)
	if err != nil {
		return bridge{}, err
	}
	defer func() {
		os.Remove(s.machine) // lock.Take notices that
		l.Release()
	}()
	old, err := rt.LinkByName(s.name)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return bridge{}, err
	}
	if err == nil && old.Kind != "bridge" {
		return bridge{}, api.Errorf(api.Conflict, "an interface of this name exists and is no bridge: rename or remove it")
	}
	br := bridge{NetNS: namespaceInode(), Name: s.name}
	routes, err := s.usedRoutes(rt, old.Index)
	if err != nil {
		return br, err
	}
	if s.own != nil {
		err = s.ownSubnet(&br, routes)
	} else {
		br.V4, br.V6, err = s.subnet(routes, old.Index != 0)
	}
	if err != nil {
		return br, err
	}
	if br.MTU == 0 {
		br.MTU = s.uplinkMTU(rt, routes)
	}

	var r netlink.Request
	r.AddBridge(netlink.Bridge{Name: s.name, MAC: macOf(br.V4.Addr()), MTU: br.MTU})
	if err := rt.Do(&r, nil); err != nil && !errors.Is(err, unix.EEXIST) {
		return br, err
	}
	made, err := rt.LinkByName(s.name)
	if err != nil {
		return br, err
	}
	br.Index = made.Index
	if err := tuneBridge(s.name); err != nil {
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
	}
	if b.V6.IsValid() {
		steps = append(steps, func(r *netlink.Request) { r.AddAddress(b.Index, b.V6, unix.IFA_F_NODAD) },
			func(r *netlink.Request) { r.AddLocalRoute(b.Index, netip.IPv6Loopback(), localMetric) })
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
	if !b.V6.IsValid() {
		return nil
	}
	return eventually(func() (bool, error) { return rt.IsLocal(b.V6.Addr()) })
}

// usedRoutes are the host's routes, those of the bridge itself left out; own is its index, if it exists. From a normal user's bridges nothing goes to the host, but
// what a container has a route to through a bridge it cannot reach elsewhere.
func (s *segment) usedRoutes(rt *netlink.Conn, own uint32) ([]netlink.Route, error) {
	if s.user {
		return hostRoutes()
	}
	routes, err := rt.Routes()
	return slices.DeleteFunc(routes, func(r netlink.Route) bool { return own != 0 && r.Index == own }), err
}

// uplinkMTU is the MTU of the interface that the default route leaves by, or Ethernet's: a larger one inside would lose packets on
// hosts whose own link is a tunnel or a cloud's overlay.
func (m *Manager) uplinkMTU(rt *netlink.Conn, routes []netlink.Route) uint32 {
	const ethernet = 1500
	if m.user { // nothing leaves by the bridge
		return ethernet
	}
	for _, r := range routes {
		if r.Dst.Bits() == 0 && r.Index != 0 {
			if l, err := rt.LinkByIndex(r.Index); err == nil && l.Flags&unix.IFF_LOOPBACK == 0 && l.MTU >= 1280 && l.MTU < ethernet {
				return l.MTU
			}
		}
	}
	return ethernet
}

// Close removes the bridges, the table and the boot-lived folder. It refuses with api.Conflict while a container holds an address. The sysctls
// stay, since others may have come to rely on them, and so do the subnets, for the next time.
func (m *Manager) Close(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.user {
		if err := m.endHelpers(); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(m.path("lock")); errors.Is(err, fs.ErrNotExist) { // there never was a bridge
		return os.RemoveAll(m.dir)
	}
	return m.where(m.closeBridges)
}

func (m *Manager) closeBridges() error {
	l, err := lock.Take(m.path("lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else has closed them
	}
	if err != nil {
		return err
	}
	defer l.Release()
	own, err := m.ownSegments()
	if err != nil {
		return err
	}
	// Each with its record away, which a container that is just attaching looks for after it has leased.
	for _, s := range append(own, m.ground()) {
		if err := s.vacate(); err != nil {
			return err
		}
	}
	if err := m.remove(); err != nil {
		return err
	}
	return os.RemoveAll(m.dir)
}

// vacate takes away what setup made of a segment in the kernel, but for the table, for who holds the lock. It refuses while a container is on it.
func (s *segment) vacate() error {
	record, rerr := os.ReadFile(s.path("bridge"))
	if err := os.Remove(s.path("bridge")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ids, err := s.holders()
	if err == nil && len(ids) > 0 {
		err = api.Errorf(api.Conflict, "bridge %s is used by %d containers, %s among them: stop them first", s.name, len(ids), ids[0])
	}
	if err != nil {
		if rerr == nil {
			err = errors.Join(err, atomicfile.Write(s.path("bridge"), record, 0o600, atomicfile.Volatile))
		}
		return err
	}
	rt, nft, err := dialBoth()
	if err != nil {
		return err
	}
	defer rt.Close()
	defer nft.Close()
	if err := unpassDocker(nft, s.name); err != nil {
		return err
	}
	l, err := rt.LinkByName(s.name)
	if errors.Is(err, unix.ENODEV) || err == nil && l.Kind != "bridge" {
		return nil
	}
	if err != nil {
		return err
	}
	var r netlink.Request
	r.DelLink(l.Index)
	return rt.Do(&r, nil)
}

// remove takes the table away, if it is there.
func (m *Manager) remove() error {
	nft, err := netlink.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer nft.Close()
	has, err := nft.HasTable(m.table())
	if err != nil || !has {
		return err
	}
	var r netlink.Request
	r.Batch(func() { r.DelTable(m.table()) })
	return nft.Do(&r, nil)
}
