package engine

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/base/rootless"
	"brig/internal/base/undo"
	"brig/internal/kernel/userns"
	"brig/internal/runtime/oci"
)

const (
	// autoSize is how many ids a container with --userns auto has: all that images use, nobody among them.
	autoSize = 1 << 16
	// autoUser is whose ranges of /etc/subuid and /etc/subgid containers are given: podman's rule.
	autoUser = "containers"
	// autoFirst to autoEnd are the host's ids where autoUser has none: above those of systemd-nspawn, which end at 1879048191, and of any range that useradd(8) gives.
	autoFirst = 1 << 31
	autoEnd   = 1<<32 - 1<<16
)

// checkUserNS refuses what cannot be, and finds the ranges of names.
func checkUserNS(s *api.ContainerSpec) error {
	n := &s.UserNS
	if n.Mode == "" {
		return nil
	}
	switch {
	case rootless.Nested():
		return api.Errorf(api.Unsupported, "--userns %s: this Brig runs in a user namespace itself, where the kernel shows no image's files with other owners: leave the flag out", n.Mode)
	case s.Pull == api.PullLazy:
		return api.Errorf(api.Unsupported, "--userns does not go together with --pull lazy: files that are read as they are needed have the owners that they have")
	case rootless.Active():
		return checkInner(s)
	case n.Mode == api.UserNSKeepID, n.Mode == api.UserNSNoMap:
		return api.Errorf(api.Unsupported, "--userns %s is about a user without root's rights: use auto, or for files on a bind mount the option owneridmap", n.Mode)
	case s.Privileged:
		return api.Errorf(api.InvalidArgument, "privileged mode is incompatible with user namespaces: leave --userns or --privileged out")
	}
	if n.SubUIDName != "" && n.UIDMap == nil {
		uids, gids, err := userns.Subordinate(n.SubUIDName, n.SubGIDName)
		if err != nil {
			return err
		}
		n.UIDMap, n.GIDMap = apiRanges(uids), apiRanges(gids)
	}
	if n.Mode != api.UserNSPrivate {
		return nil
	}
	return checkPrivate(n)
}

// checkPrivate refuses maps that are none.
func checkPrivate(n *api.UserNS) error {
	if len(n.UIDMap) == 0 || len(n.GIDMap) == 0 {
		return api.Errorf(api.InvalidArgument, "--userns private: say which ids, with --uidmap and --gidmap or --subuidname, or use --userns auto")
	}
	for _, m := range []struct {
		flag string
		list []api.IDRange
	}{{"--uidmap", n.UIDMap}, {"--gidmap", n.GIDMap}} {
		if err := userns.Validate(m.flag, ociRanges(m.list)); err != nil {
			return err
		}
		if !userns.Has(ociRanges(m.list), 0) {
			return api.Errorf(api.InvalidArgument, "%s: 0 is not mapped: the container would have no root user", m.flag)
		}
	}
	return nil
}

func apiRanges(list []specs.LinuxIDMapping) (to []api.IDRange) {
	for _, m := range list {
		to = append(to, api.IDRange{Inside: m.ContainerID, Outside: m.HostID, Size: m.Size})
	}
	return to
}

func (e *Engine) idsDir() string { return filepath.Join(e.root, "userns") }

// claimIDs gives a container with --userns auto ids of the host that no other container of this store has. Nobody else is given any until done is called, when the container's
// record is written: a claim of a container without a record is nobody's. Claims are links START+SIZE to the container's folder.
func (e *Engine) claimIDs(c *api.Container, u *undo.Stack) (done func(), err error) {
	n := &c.Spec.UserNS
	if n.Mode != api.UserNSAuto || n.UIDMap != nil {
		return func() {}, nil
	}
	size := n.Size
	if size == 0 {
		size = e.autoSize(c)
	}
	firstUID, firstGID, room, err := autoRange()
	if err != nil {
		return nil, err
	}
	if err := atomicfile.MakeDir(e.idsDir()); err != nil {
		return nil, err
	}
	l, err := lock.Take(filepath.Join(e.idsDir(), ".lock"))
	if err != nil {
		return nil, err
	}
	taken, err := e.claims()
	if err != nil {
		l.Release()
		return nil, err
	}
	pick := pickRange
	if rootless.Active() {
		pick = firstRange
	}
	at, ok := pick(c.ID, taken, room, uint64(size))
	if !ok && rootless.Active() {
		l.Release()
		return nil, api.Errorf(api.Exhausted, "--userns auto: %d ids are not free among your %d: remove containers that have some, use auto:size=N, or have root give you more in /etc/subuid and /etc/subgid", size, room)
	}
	if !ok {
		l.Release()
		return nil, api.Errorf(api.Exhausted, "--userns auto: %d ids are not free among the %d of user %s in /etc/subuid and /etc/subgid: give it more there, or use auto:size=N", size, room, autoUser)
	}
	if err := os.Symlink(filepath.Join("..", "container", c.ID), filepath.Join(e.idsDir(), claimName(at, uint64(size)))); err != nil {
		l.Release()
		return nil, err
	}
	if durability(c) == atomicfile.Durable {
		if err := atomicfile.SyncDir(e.idsDir()); err != nil {
			l.Release()
			return nil, err
		}
	}
	n.UIDMap = []api.IDRange{{Outside: uint32(firstUID + at), Size: size}}
	n.GIDMap = []api.IDRange{{Outside: uint32(firstGID + at), Size: size}}
	if rootless.Active() {
		if err := splitMaps(n); err != nil {
			l.Release()
			return nil, errors.Join(err, e.releaseIDs(c))
		}
	}
	u.Add(func() { l.Release(); _ = e.releaseIDs(c) })
	return func() { l.Release() }, nil
}

// releaseIDs gives a container's ids back.
func (e *Engine) releaseIDs(c *api.Container) error {
	if c.Spec.UserNS.Mode != api.UserNSAuto || len(c.Spec.UserNS.UIDMap) == 0 {
		return nil
	}
	l, err := lock.Take(filepath.Join(e.idsDir(), ".lock"))
	if err != nil {
		return err
	}
	defer l.Release()
	entries, err := os.ReadDir(e.idsDir())
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(e.idsDir(), entry.Name())
		if to, err := os.Readlink(path); err == nil && filepath.Base(to) == c.ID {
			return os.Remove(path)
		}
	}
	return nil
}

// claim is a part of the room, from the room's first id on.
type claim struct{ at, size uint64 }

func claimName(at, size uint64) string { return fmt.Sprintf("%d+%d", at, size) }

// claims lists what containers have, and takes away what is of containers that are gone. The caller holds the lock.
func (e *Engine) claims() (list []claim, err error) {
	entries, err := os.ReadDir(e.idsDir())
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		first, rest, ok := strings.Cut(entry.Name(), "+")
		at, err := strconv.ParseUint(first, 10, 32)
		size, serr := strconv.ParseUint(rest, 10, 32)
		if !ok || err != nil || serr != nil {
			continue
		}
		path := filepath.Join(e.idsDir(), entry.Name())
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		list = append(list, claim{at, size})
	}
	return list, nil
}

// pickRange finds a part of the room that nobody has. It looks from a place on that follows from the container's ID: so two stores of one machine, which do not know each
// other's, hardly ever meet.
func pickRange(id string, taken []claim, room, size uint64) (uint64, bool) {
	step := (size + autoSize - 1) / autoSize * autoSize
	if room < step {
		step = size
	}
	places := room / step
	if size == 0 || places == 0 {
		return 0, false
	}
	h := fnv.New64a()
	h.Write([]byte(id))
	first := h.Sum64() % places
places:
	for i := range places {
		at := (first + i) % places * step
		for _, t := range taken {
			if at < t.at+t.size && t.at < at+size {
				continue places
			}
		}
		return at, true
	}
	return 0, false
}

// autoRange is the room of all containers with --userns auto.
func autoRange() (firstUID, firstGID, room uint64, err error) {
	if rootless.Active() {
		return innerRange()
	}
	uids, gids, err := userns.Subordinate(autoUser, autoUser)
	if errors.Is(err, api.Unsupported) {
		return autoFirst, autoFirst, autoEnd - autoFirst, nil
	}
	if err != nil {
		return 0, 0, 0, err
	}
	return uint64(uids[0].HostID), uint64(gids[0].HostID), uint64(min(uids[0].Size, gids[0].Size)), nil
}

// userNS puts a container into its user namespace: its own files in it have its numbers, as the image's and its volumes' have.
func userNS(o *specs.Spec, s *api.ContainerSpec, ownFiles map[string]bool) {
	if s.UserNS.Mode == "" {
		return
	}
	o.Linux.Namespaces = append(o.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	o.Linux.UIDMappings, o.Linux.GIDMappings = ociRanges(s.UserNS.UIDMap), ociRanges(s.UserNS.GIDMap)
	for i := range o.Mounts {
		m := &o.Mounts[i]
		switch {
		case m.Type == "bind" && !rootless.Active() && (ownFiles[m.Source] || slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, oci.OptionSecret) })):
			m.Options = append(m.Options, "idmap")
		case m.Type == "devpts" && !userns.Has(o.Linux.GIDMappings, ttyGroup):
			m.Options = withoutGroup(m.Options)
		case m.Type == "sysfs" && s.Network.Mode == "host":
			hostSysfs(m)
		}
	}
}

// ownNetwork makes the network namespace of a container with a user namespace, to which it belongs: so the container's root rules it. Nil: it has none of its own.
func ownNetwork(s *api.ContainerSpec) (*os.File, error) {
	if s.UserNS.Mode == "" || s.Network.Mode == "host" {
		return nil, nil
	}
	return userns.NewNet(ociRanges(s.UserNS.UIDMap), ociRanges(s.UserNS.GIDMap))
}
