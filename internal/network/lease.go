package network

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"

	"brig/api"
	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

// lease takes a free address for the container: a symbolic link lease/ADDRESS to the ID. Making one is atomic and says who has
// it, without a lock. The start is random, so thousands of leases cost no more than one, and an address that was just given back is not
// used again at once. The link holder/ID comes first, so that no lease can outlive the knowledge of whose it is.
func (s *segment) lease(id string, br bridge) (netip.Addr, error) {
	size := br.size()
	start := rand.Uint32N(size)
	for i := range size {
		addr := br.address(2 + (start+i)%size)
		if _, err := os.Lstat(s.path("lease", addr.String())); err == nil {
			continue
		}
		if err := s.hold(id, addr); err != nil {
			return addr, err
		}
		err := os.Symlink(id, s.path("lease", addr.String()))
		if err == nil {
			return addr, nil
		}
		if err := os.Remove(s.path("holder", id)); err != nil {
			return addr, err
		}
		if !errors.Is(err, fs.ErrExist) {
			return addr, err
		}
	}
	return netip.Addr{}, api.Errorf(api.Exhausted, "no free address in %s: stop some containers, or use the network %s or %s", br.V4.Masked(), modeHost, modeNone)
}

func (s *segment) hold(id string, addr netip.Addr) error {
	err := os.Symlink(addr.String(), s.path("holder", id))
	if errors.Is(err, fs.ErrExist) { // an earlier life of the container was not detached
		if err := s.unpublish(id); err != nil {
			return err
		}
		if err := s.release(id); err != nil {
			return err
		}
		err = os.Symlink(addr.String(), s.path("holder", id))
	}
	return err
}

// release gives the container's address back, if it has one.
func (s *segment) release(id string) error {
	holder := s.path("holder", id)
	addr, err := os.Readlink(holder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.forgetNeighbour(addr)
	lease := s.path("lease", addr)
	if owner, err := os.Readlink(lease); err == nil && owner == id {
		if err := os.Remove(lease); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(holder); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// forgetNeighbour takes back what connect told the host. It is tidiness only: see there.
func (s *segment) forgetNeighbour(addr string) {
	br, ok := s.load()
	v4, err := netip.ParseAddr(addr)
	if !ok || err != nil || !v4.Is4() || !br.V4.Contains(v4) {
		return
	}
	var addrs []netip.Addr
	for _, a := range br.addresses(v4) {
		addrs = append(addrs, a.Addr())
	}
	br.forget(addrs)
}

// forgetNeighbours is forgetNeighbour for who knows all the addresses.
func (s *segment) forgetNeighbours(addrs []netip.Addr) {
	if br, ok := loadBridge(s.path("bridge")); ok {
		br.forget(addrs)
	}
}

func (b *bridge) forget(addrs []netip.Addr) {
	rt, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return
	}
	defer rt.Close()
	var r netlink.Request
	for _, a := range addrs {
		r.DelNeighbour(b.Index, a)
	}
	_ = rt.Do(&r, nil) // what stays is right for the next container with the address, or replaced by it: connect
}
