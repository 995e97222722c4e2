package network

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/jsonscan"
	"brig/internal/base/record"
	"brig/internal/kernel/netlink"
)

// subnetFile is ROOT/network/bridge.json. Each prefix has the bridge's own address.
type subnetFile struct {
	V4 netip.Prefix `json:"ipv4"`
	V6 netip.Prefix `json:"ipv6"`
}

var subnetFileNames = [...]string{"ipv4", "ipv6"}

func readSubnets(s *jsonscan.Scanner, v *subnetFile) {
	for more := s.Object(); more; more = s.More() {
		switch s.Field(subnetFileNames[:]) {
		case 0:
			jsonscan.Text(s, &v.V4)
		case 1:
			jsonscan.Text(s, &v.V6)
		default:
			s.Skip()
		}
	}
}

// subnet returns the subnets of the bridge: those of last time, if nothing on the host has come to use the IPv4 one since, else free ones,
// which are written down. routes are those of others than the bridge, which exists already or not.
func (s *segment) subnet(routes []netlink.Route, exists bool) (v4, v6 netip.Prefix, err error) {
	used := taken(routes)
	var f subnetFile
	data, err := os.ReadFile(s.subnets)
	if err == nil {
		err = jsonscan.Decode(data, &f, readSubnets)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return v4, v6, api.Errorf(api.Corrupt, "%s: %w; remove it, and new subnets are chosen", s.subnets, err)
	}
	if f.V4.IsValid() && f.V4.Addr().Is4() && f.V4.Bits() <= 29 && f.V6.IsValid() && f.V6.Addr().Is6() && f.V6.Bits() <= 96 && free(f.V4, used) {
		return f.V4, f.V6, nil
	}
	if ids, err := s.holders(); exists && (err != nil || len(ids) > 0) {
		return v4, v6, api.Errorf(api.Conflict, "its subnet is in use by another interface, or %s was removed, while containers run: stop them, and start them again", s.subnets)
	}
	networks, err := s.Networks()
	if err != nil {
		return v4, v6, err
	}
	used = append(used, subnetsOf(networks)...)
	// The host's name servers are often reached by the default route only, so no route speaks for thes.
	servers, _, _ := s.hostDNS(true)
	for _, server := range servers {
		if a, err := netip.ParseAddr(server); err == nil && a.Is4() {
			used = append(used, netip.PrefixFrom(a, 32))
		}
	}
	if f.V4, err = chooseV4(used, 16); err != nil {
		return v4, v6, err
	}
	f.V6 = chooseV6()
	if data, err = record.Marshal(f); err != nil {
		return v4, v6, err
	}
	if err := os.MkdirAll(filepath.Dir(s.subnets), 0o700); err != nil {
		return v4, v6, err
	}
	return f.V4, f.V6, atomicfile.Write(s.subnets, data, 0o600, atomicfile.Durable)
}

// taken lists the IPv4 ranges that the host uses: addresses, and routes that are no default routes. VPNs cut their default route into two
// halves, and no private range is shorter than eight bits.
func taken(routes []netlink.Route) []netip.Prefix {
	var used []netip.Prefix
	for _, r := range routes {
		if r.Dst.Addr().Is4() && r.Dst.Bits() >= 8 {
			used = append(used, r.Dst)
		}
	}
	return used
}

func free(p netip.Prefix, used []netip.Prefix) bool {
	for _, u := range used {
		if u.Overlaps(p) {
			return false
		}
	}
	return true
}

// chooseV4 finds a free private subnet and returns it with the bridge's address in it. The upper half of 10.0.0.0/8 comes first,
// from a random start, so that machines that a VPN joins later seldom have the same; then 172.16.0.0/12 from its end, since Docker
// goes from its beginning; then pieces of 192.168.0.0/16. bits is its length, from 16 to 20.
func chooseV4(used []netip.Prefix, bits int) (netip.Prefix, error) {
	pieces := uint32(1) << (bits - 16) // of a range of 16 bits
	step := 256 >> (bits - 16)
	start := rand.Uint32N(112 * pieces)
	try := func(b2, b3 int, first byte, bits int) (netip.Prefix, bool) {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{first, byte(b2), byte(b3), 1}), bits)
		return p, free(p, used)
	}
	for i := range 112 * pieces {
		n := (start + i) % (112 * pieces)
		if p, ok := try(128+int(n/pieces), int(n%pieces)*step, 10, bits); ok {
			return p, nil
		}
	}
	for b := 31; b >= 16; b-- {
		for piece := range int(pieces) {
			if p, ok := try(b, piece*step, 172, bits); ok {
				return p, nil
			}
		}
	}
	for b := 240; b >= 0; b -= 16 {
		if p, ok := try(168, b, 192, 20); ok {
			return p, nil
		}
	}
	return netip.Prefix{}, api.Errorf(api.Exhausted, "the host's routes cover all private IPv4 ranges: use the network %s or %s", modeHost, modeNone)
}

// chooseV6 makes a unique local /64 as RFC 4193 asks: 40 random bits.
func chooseV6() netip.Prefix {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], rand.Uint64()<<16)
	a[0], a[15] = 0xfd, 1
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}
