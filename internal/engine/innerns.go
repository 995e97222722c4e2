package engine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/userns"
	"brig/internal/runtime/oci"
	"brig/internal/store/owners"
	"brig/internal/store/snapshot"
)

// A normal user's container may have a user namespace within the one that all of the user's Brig is in, in which 0 is the user and the ids from 1 on are the subordinate ones.
// doc/adr/0010-inner-user-namespaces.md says how its files come to have its numbers.

// checkInner refuses what cannot be, and fills in the map where it follows from the mode alone.
func checkInner(s *api.ContainerSpec) error {
	n := &s.UserNS
	if n.SubUIDName != "" {
		return api.Errorf(api.Unsupported, "--subuidname: without root a container's ids are mapped to those of your user namespace, where 0 is you and your subordinate ids follow from 1 on: use --uidmap")
	}
	uid, uids, _, err := userns.Place("uid")
	if err != nil {
		return err
	}
	gid, gids, _, err := userns.Place("gid")
	if err != nil {
		return err
	}
	if uids == 0 || gids == 0 {
		return api.Errorf(api.Unsupported, "--userns %s: you have no ids but your own: a range is needed in /etc/subuid and /etc/subgid (`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME`), "+
			"and Debian's package uidmap; stop all containers afterwards", n.Mode)
	}
	switch n.Mode {
	case api.UserNSKeepID:
		uid, gid = keptAs(n.UIDMap, uid), keptAs(n.GIDMap, gid)
		n.UIDMap, n.GIDMap = keepMap(uid, uids), keepMap(gid, gids)
		if s.User == "" {
			s.User = itoa(int64(uid)) + ":" + itoa(int64(gid))
		}
	case api.UserNSNoMap:
		n.UIDMap, n.GIDMap = []api.IDRange{{Outside: 1, Size: uids}}, []api.IDRange{{Outside: 1, Size: gids}}
	case api.UserNSPrivate:
		if err := checkPrivate(n); err != nil {
			return err
		}
		for _, m := range []struct {
			flag string
			list []api.IDRange
			last uint32
		}{{"--uidmap", n.UIDMap, uids}, {"--gidmap", n.GIDMap, gids}} {
			for _, r := range m.list {
				if uint64(r.Outside)+uint64(r.Size)-1 > uint64(m.last) {
					return api.Errorf(api.InvalidArgument, "%s %d:%d:%d: your user namespace has the ids 0, which is you, to %d, and HOST is one of these", m.flag, r.Inside, r.Outside, r.Size, m.last)
				}
			}
		}
	}
	return splitMaps(n)
}

// checkInnerShares refuses namespaces that belong to another user namespace than the container's: it would have no rights there.
func (e *Engine) checkInnerShares(s *api.ContainerSpec) error {
	if !rootless.Active() || s.UserNS.Mode == "" {
		return nil
	}
	for _, n := range shared(s) {
		id, isContainer := strings.CutPrefix(*n.mode, api.NamespaceContainer)
		if !isContainer && !strings.HasPrefix(*n.mode, api.NamespacePath) {
			continue
		}
		if isContainer && n.kind == specs.NetworkNamespace { // whose user namespace the container is then in, too
			o, err := e.meta.Container(id)
			if err != nil {
				return err
			}
			if o.Spec.UserNS.Mode != "" && slices.Equal(o.Spec.UserNS.UIDMap, s.UserNS.UIDMap) && slices.Equal(o.Spec.UserNS.GIDMap, s.UserNS.GIDMap) {
				continue
			}
		}
		return api.Errorf(api.Unsupported, "%s %s does not go together with --userns %s: that namespace belongs to another user namespace; only the network of a container with the same ids can be shared", n.flag, *n.mode, s.UserNS.Mode)
	}
	return nil
}

// splitMaps cuts a container's ranges where those of the user's namespace begin, which the kernel wants.
func splitMaps(n *api.UserNS) error {
	for kind, list := range map[string]*[]api.IDRange{"uid": &n.UIDMap, "gid": &n.GIDMap} {
		_, _, begins, err := userns.Place(kind)
		if err != nil {
			return err
		}
		*list = splitRanges(*list, begins)
	}
	return nil
}

func splitRanges(list []api.IDRange, begins []uint32) (split []api.IDRange) {
	for _, r := range list {
		for _, b := range begins {
			if cut := b - r.Outside; b > r.Outside && cut < r.Size {
				split = append(split, api.IDRange{Inside: r.Inside, Outside: r.Outside, Size: cut})
				r = api.IDRange{Inside: r.Inside + cut, Outside: b, Size: r.Size - cut}
			}
		}
		split = append(split, r)
	}
	return split
}

// keptAs is the number that --userns keep-id gives the user in the container.
func keptAs(asked []api.IDRange, own uint32) uint32 {
	if len(asked) > 0 {
		return asked[0].Inside
	}
	return own
}

// keepMap has the user, 0 of the user's namespace, be kept in the container, and the others follow in their order, as with podman: kept's neighbours above have the same number on
// both sides.
func keepMap(kept, more uint32) (list []api.IDRange) {
	if low := min(kept, more); low > 0 {
		list = append(list, api.IDRange{Inside: 0, Outside: 1, Size: low})
	}
	list = append(list, api.IDRange{Inside: kept, Outside: 0, Size: 1})
	if more > kept {
		list = append(list, api.IDRange{Inside: kept + 1, Outside: kept + 1, Size: more - kept})
	}
	return list
}

// innerRange is the room of --userns auto: all but the user.
func innerRange() (firstUID, firstGID, room uint64, err error) {
	_, uids, _, err := userns.Place("uid")
	if err != nil {
		return 0, 0, 0, err
	}
	_, gids, _, err := userns.Place("gid")
	return 1, 1, uint64(min(uids, gids)), err
}

// firstRange finds the first free part of the room: the layers of who has had it before are there with its owners.
func firstRange(_ string, taken []claim, room, size uint64) (at uint64, ok bool) {
	taken = slices.Clone(taken)
	slices.SortFunc(taken, func(a, b claim) int { return int(int64(a.at) - int64(b.at)) })
	for _, t := range taken {
		if at+size <= t.at {
			break
		}
		at = max(at, t.at+t.size)
	}
	return at, size > 0 && at+size <= room
}

// autoSize is how many ids --userns auto gives a container: of a normal user's few those that the image and its user need, by the thousand.
func (e *Engine) autoSize(c *api.Container) uint32 {
	if !rootless.Active() {
		return autoSize
	}
	const step = 1024
	highest := e.highestID(c)
	for part := range strings.SplitSeq(c.Spec.User, ":") {
		if n, err := strconv.ParseUint(part, 10, 16); err == nil {
			highest = max(highest, uint32(n))
		}
	}
	return (highest/step + 1) * step
}

// highestID is that of an image's /etc/passwd and /etc/group, but for nobody, who need not be there to own nothing.
func (e *Engine) highestID(c *api.Container) (highest uint32) {
	lowers, err := e.snapshot.Lowers(c.Layers)
	if err != nil {
		return 0 // who mounts them is told
	}
	slices.Reverse(lowers)
	for name, columns := range map[string][]int{"etc/passwd": {2, 3}, "etc/group": {2}} {
		for line := range bytes.Lines(topmost(lowers, name)) {
			fields := strings.Split(strings.TrimSpace(string(line)), ":")
			if fields[0] == "nobody" || fields[0] == "nogroup" {
				continue
			}
			for _, i := range columns {
				if i < len(fields) {
					if n, err := strconv.ParseUint(fields[i], 10, 16); err == nil {
						highest = max(highest, uint32(n))
					}
				}
			}
		}
	}
	return highest
}

// topmost reads a file of layers, top first; what is no regular file is empty.
func topmost(layers []string, name string) []byte {
	for _, dir := range layers {
		root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		fd, err := mount.OpenInRoot(root, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		unix.Close(root)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil { // removed above, or no file
			return nil
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
			return nil
		}
		const most = 4 << 20 // as the runtime reads them
		data, _ := io.ReadAll(io.LimitReader(f, most))
		return data
	}
	return nil
}

// giveFiles gives files of Brig's own, which a container has mounted, to its root.
func giveFiles(c *api.Container, paths ...string) error {
	m, ok := snapshot.Owners(c)
	if !ok {
		return nil
	}
	uid, gid := rootOutside(m)
	for _, p := range paths {
		if err := os.Lchown(p, uid, gid); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// rootOutside is the container's root in the user's namespace.
func rootOutside(m owners.Map) (uid, gid int) {
	u, _ := owners.Outside(m.UIDs, 0)
	g, _ := owners.Outside(m.GIDs, 0)
	return int(u), int(g)
}

// giveVolume gives a volume that is new to the container's root. One that has been used keeps its owners, which have to be among the container's.
func (e *Engine) giveVolume(c *api.Container, name string, rec *volumeRecord, readOnly bool) error {
	m, ok := snapshot.Owners(c)
	if !ok {
		return nil
	}
	data := e.volumeData(name)
	if !rec.Used {
		if names, err := os.ReadDir(data); err != nil || len(names) == 0 {
			return errors.Join(err, giveFiles(c, data))
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(data, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: data, Err: err}
	}
	if has := func(list []api.IDRange, id uint32) bool {
		return slices.ContainsFunc(list, func(r api.IDRange) bool { return id >= r.Outside && id-r.Outside < r.Size })
	}; readOnly || has(m.UIDs, st.Uid) {
		return nil
	}
	return api.Errorf(api.Conflict, "volume %s belongs to user %d of your user namespace, whom this container's does not have: give both containers the same --userns, mount it read-only, "+
		"or take its files into a new volume with `brig volume export` and `import`", name, st.Uid)
}

// passwdEntries are the lines for the image's passwd and group, with which --userns keep-id names the user in the container; none: it names nobody.
func passwdEntries(s *api.ContainerSpec, cwd string) string {
	if !rootless.Active() || s.UserNS.Mode != api.UserNSKeepID {
		return ""
	}
	self, ok := rootless.UID()
	if !ok {
		return ""
	}
	kept := slices.IndexFunc(s.UserNS.UIDMap, func(r api.IDRange) bool { return r.Outside == 0 })
	keptGID := slices.IndexFunc(s.UserNS.GIDMap, func(r api.IDRange) bool { return r.Outside == 0 })
	if kept < 0 || keptGID < 0 || s.UserNS.UIDMap[kept].Inside == 0 {
		return ""
	}
	uid, gid := s.UserNS.UIDMap[kept].Inside, s.UserNS.GIDMap[keptGID].Inside
	u := userns.Account(self)
	home := cwd
	for dir := path.Clean(u.Home); path.IsAbs(dir) && dir != "/"; dir = path.Dir(dir) { // where it is mounted it is the home there too
		if slices.ContainsFunc(s.Mounts, func(m api.MountSpec) bool { return filepath.Clean(m.Target) == dir }) {
			home = u.Home
			break
		}
	}
	return oci.PasswdEntries(u.Name, uid, gid, u.Gecos, home)
}
