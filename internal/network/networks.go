package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/base/jsonscan"
	"brig/internal/base/lock"
	"brig/internal/base/record"
	"brig/internal/kernel/netlink"
)

//go:generate go run ./gen

// A network of one's own is a record, ROOT/network/NAME.json. What it takes of the kernel is made when the first container comes to it.
const recordSuffix = ".json"

// predefined are the networks that need no record. Their names are nobody else's.
func predefined() []string { return []string{modeBridge, modeHost, modeNone} }

// checkName holds a name against docker's rule for names. What --network means otherwise is none.
func checkName(name string) error {
	ok := name != "" && len(name) <= 128
	for i, c := range name {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (letter || i > 0 && (c == '_' || c == '.' || c == '-'))
	}
	if !ok {
		return api.Errorf(api.InvalidArgument, "network name %q is invalid: up to 128 of [a-zA-Z0-9_.-] are allowed, the first a letter or a digit", name)
	}
	switch name {
	case modeBridge, modeHost, modeNone:
		return api.Errorf(api.Denied, "operation is not permitted on predefined %s network", name)
	case "default", "private", "container", "ns", "slirp4netns", "pasta":
		return api.Errorf(api.InvalidArgument, "a network cannot be called %q: --network %s means something else", name, name)
	}
	return nil
}

func (m *Manager) recordPath(name string) string {
	return filepath.Join(filepath.Dir(m.subnets), name+recordSuffix)
}

// Create makes a network. It chooses what is left open: an ID, and subnets that neither the host nor another network uses.
//
// Errors: api.AlreadyExists for a name in use, api.Conflict for a subnet in use, api.InvalidArgument and api.Unsupported for what makes no sense or is not built.
func (m *Manager) Create(n api.Network) (api.Network, error) {
	if err := checkName(n.Name); err != nil {
		return n, err
	}
	if n.Driver == "" {
		n.Driver = api.DriverBridge
	}
	if err := checkOptions(&n); err != nil {
		return n, err
	}
	if m.user && n.Driver != api.DriverBridge {
		return n, api.Errorf(api.Unsupported, "network %s: the driver %s puts containers on a wire of the host's, which takes root's rights there: use the driver bridge, or run as root", n.Name, n.Driver)
	}
	if m.user && off(&n, optionMasquerade) {
		return n, api.Errorf(api.Unsupported, "network option %s: without root's rights what leaves a container is sent by a program of the user's, from the host's address: leave the option out", optionMasquerade)
	}
	dir := filepath.Dir(m.subnets)
	if err := atomicfile.MakeDir(dir); err != nil {
		return n, err
	}
	l, err := lock.Take(filepath.Join(dir, ".lock")) // two that choose subnets do so one after the other
	if err != nil {
		return n, err
	}
	defer l.Release()
	if _, err := os.Lstat(m.recordPath(n.Name)); err == nil {
		return n, api.Errorf(api.AlreadyExists, "network with name %s already exists", n.Name)
	}
	others, err := m.Networks()
	if err != nil {
		return n, err
	}
	if err := m.chooseSubnets(&n, others); err != nil {
		return n, err
	}
	if name := n.Options[optionBridgeName]; name != "" {
		if err := m.freeBridgeName(name, others); err != nil {
			return n, err
		}
	}
	n.ID, n.Created, n.IPv4Only = id.New(), time.Now().UTC(), false
	data, err := record.Marshal(n)
	if err != nil {
		return n, err
	}
	return n, atomicfile.Write(m.recordPath(n.Name), record.Sign(data), 0o600, atomicfile.Durable)
}

// freeBridgeName makes sure that an interface of that name is nobody's: it is removed with the network.
func (m *Manager) freeBridgeName(name string, others []api.Network) error {
	for _, o := range others {
		if bridgeOf(&o) == name {
			return api.Errorf(api.Conflict, "the bridge name %s is that of network %s: choose another one", name, o.Name)
		}
	}
	rt, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer rt.Close()
	if _, err := rt.LinkByName(name); err == nil || name == m.name {
		return api.Errorf(api.Conflict, "an interface %s is there already: choose another name for the bridge", name)
	}
	return nil
}

// DecodeLink reads a container's link as the engine writes it down: JSON.
func DecodeLink(data []byte) (*api.Link, error) {
	l := new(api.Link)
	if err := jsonscan.Decode(data, l, readLink); err != nil {
		return nil, err
	}
	return l, nil
}

// readRecord reads the record of a network; fs.ErrNotExist, or api.Corrupt.
func (m *Manager) readRecord(name string) (n api.Network, err error) {
	path := m.recordPath(name)
	data, err := os.ReadFile(path)
	if err != nil {
		return n, err
	}
	if err = record.Verify(data); err == nil {
		err = jsonscan.Decode(data, &n, readNetwork)
	}
	if err == nil && (n.Name != name || !id.Valid(n.ID)) {
		err = fmt.Errorf("it is the record of %q", n.Name)
	}
	if err == nil {
		err = sound(&n)
	}
	if err != nil {
		return n, &api.Error{Kind: api.Corrupt, Msg: path + ": the record is damaged (see `brig system check --repair`)", Err: err}
	}
	return n, nil
}

// sound looks whether a record says what the code below relies on.
func sound(n *api.Network) error {
	for i, s := range n.Subnets {
		if !s.Prefix.IsValid() || !s.Prefix.Contains(s.Gateway) || s.Range.IsValid() && !s.Prefix.Contains(s.Range.Addr()) || s.Prefix.Addr().Is4() != (i == 0) {
			return errors.New("its subnets make no sense")
		}
	}
	if len(n.Subnets) == 0 || len(n.Subnets) > 2 || n.Subnets[0].Prefix.Bits() > leastBits {
		return errors.New("its subnets make no sense")
	}
	return nil
}

// recordNames lists the networks that have a record, damaged or not, in order.
func (m *Manager) recordNames() ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(m.subnets))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), recordSuffix); ok && checkName(name) == nil {
			names = append(names, name)
		}
	}
	return names, err
}

// Networks lists the networks of one's own, by name. One whose record is damaged is left out: see [Manager.Damaged].
func (m *Manager) Networks() ([]api.Network, error) {
	names, err := m.recordNames()
	if err != nil {
		return nil, err
	}
	var all []api.Network
	for _, name := range names {
		n, err := m.readRecord(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, api.Corrupt) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// Damaged lists the records that cannot be read, with the reason.
func (m *Manager) Damaged() (map[string]error, error) {
	names, err := m.recordNames()
	damaged := map[string]error{}
	for _, name := range names {
		if _, err := m.readRecord(name); errors.Is(err, api.Corrupt) {
			damaged[name] = err
		}
	}
	return damaged, err
}

// Predefined are the networks that are always there.
func (m *Manager) Predefined() []api.Network {
	var all []api.Network
	for _, name := range predefined() {
		sum := sha256.Sum256([]byte("network " + name + " of " + m.subnets))
		n := api.Network{ID: hex.EncodeToString(sum[:]), Name: name, Driver: name}
		switch name {
		case modeNone:
			n.Driver = "null"
		case modeBridge:
			if info, err := os.Stat(m.subnets); err == nil {
				n.Created = info.ModTime().UTC()
			}
			var f subnetFile
			if data, err := os.ReadFile(m.subnets); err == nil && jsonscan.Decode(data, &f, readSubnets) == nil {
				for _, p := range []netip.Prefix{f.V4, f.V6} {
					n.Subnets = append(n.Subnets, api.Subnet{Prefix: p.Masked(), Gateway: p.Addr()})
				}
			}
		}
		all = append(all, n)
	}
	return all
}

// Network finds a network, predefined or not, by its name, its ID, or the beginning of an ID that no other has.
func (m *Manager) Network(key string) (api.Network, error) {
	if checkName(key) == nil {
		n, err := m.readRecord(key)
		if !errors.Is(err, fs.ErrNotExist) {
			return n, err
		}
	}
	all, err := m.Networks()
	if err != nil {
		return api.Network{}, err
	}
	all = append(all, m.Predefined()...)
	if i := slices.IndexFunc(all, func(n api.Network) bool { return n.Name == key || n.ID == key }); i >= 0 {
		return all[i], nil
	}
	found := -1
	for i := range all {
		if !id.Prefix(key) || !strings.HasPrefix(all[i].ID, key) {
			continue
		}
		if found >= 0 {
			return api.Network{}, api.Errorf(api.InvalidArgument, "network %s is ambiguous (2 matches found based on ID prefix): it could be %s or %s", key, all[found].Name, all[i].Name)
		}
		found = i
	}
	if found < 0 {
		return api.Network{}, noNetwork(key)
	}
	return all[found], nil
}

func noNetwork(name string) error { return api.Errorf(api.NotFound, "network %s not found", name) }

// Remove removes a network that no container is attached to, by its name. Who is killed on the way has removed it, or not.
func (m *Manager) Remove(name string) error {
	if slices.Contains(predefined(), name) {
		return api.Errorf(api.Denied, "%s is a pre-defined network and cannot be removed", name)
	}
	if err := checkName(name); err != nil {
		return noNetwork(name)
	}
	n, err := m.readRecord(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return noNetwork(name)
	case errors.Is(err, api.Corrupt): // what it was nobody knows
	case err != nil:
		return err
	default:
		if err := m.removeSegment(&n); err != nil {
			return err
		}
	}
	if err := os.Remove(m.recordPath(name)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return noNetwork(name)
		}
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(m.subnets))
}

// removeSegment takes away what a network has in the kernel and of boot-lived files.
func (m *Manager) removeSegment(n *api.Network) error {
	s := m.segment(n)
	if _, err := os.Lstat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return m.where(s.dismantle)
}

// dismantle is removeSegment for one that has been used.
func (s *segment) dismantle() error {
	m, n := s.Manager, s.own
	l, err := lock.Take(m.path("lock"))
	if err != nil {
		return err
	}
	defer l.Release()
	if n.Driver != api.DriverBridge {
		if ids, err := s.holders(); err != nil || len(ids) > 0 {
			return errors.Join(err, api.Errorf(api.Conflict, "network %s is used by %d containers", n.Name, len(ids)))
		}
		return os.RemoveAll(s.dir)
	}
	if err := s.vacate(); err != nil {
		return err
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return err
	}
	nft, err := netlink.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer nft.Close()
	if has, err := nft.HasTable(m.table()); err != nil || !has {
		return err
	}
	return m.makeTable(nft, nil)
}

// segment is where the containers of a network of one's own are.
func (m *Manager) segment(n *api.Network) *segment {
	return &segment{Manager: m, name: bridgeOf(n), dir: m.path("own", n.ID), own: n}
}

// bridgeOf is the name of a network's bridge: docker's, unless it was given another.
func bridgeOf(n *api.Network) string {
	if name := n.Options[optionBridgeName]; name != "" {
		return name
	}
	return "br-" + n.ID[:12]
}

// ownSegments are those that have been used since the boot. They are known by their folders, whatever has become of their records.
func (m *Manager) ownSegments() ([]*segment, error) {
	entries, err := os.ReadDir(m.path("own"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*segment
	for _, e := range entries {
		if !id.Valid(e.Name()) {
			continue
		}
		s := m.segment(&api.Network{ID: e.Name()})
		if br, ok := loadBridge(s.path("bridge")); ok && br.Name != "" {
			s.name = br.Name
		}
		list = append(list, s)
	}
	return list, nil
}
