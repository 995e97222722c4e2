package oci

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/mount"
	"brig/internal/kernel/userns"
	"brig/internal/runtime/users"
)

// OptionOwner is a bind mount's option that has its files, as far as they belong to the owner of the source, be the process's user's in the container, and what that
// user makes there the owner's: systemd-nspawn's owneridmap, docker's bind-idmap=match-user. "owneridmap=user:USER[:GROUP]" names another user of the container than that
// of the process. "owneridmap=caller:UID" is a default, not a demand: it is passed over where the source does not belong to UID, its file system cannot do it, or the
// container has a user of that number, whose files these may be meant to be.
const OptionOwner = "owneridmap"

// AnnotationOwner is whom OptionOwner means where it names nobody, in place of the process's user: USER[:GROUP] in the container's names. A process that starts another is not the user's.
const AnnotationOwner = "org.brig.owner"

// ownerOption is a mount's owneridmap.
type ownerOption struct {
	user   string // in the container; empty: the process's
	caller int64  // who must own the source; -1: anybody
}

// parseOwner reads the option; nil: it is another one.
func parseOwner(o string) *ownerOption {
	rest, ok := strings.CutPrefix(o, OptionOwner)
	if !ok {
		return nil
	}
	if rest == "" {
		return &ownerOption{caller: -1}
	}
	if user, ok := strings.CutPrefix(rest, "=user:"); ok && user != "" {
		return &ownerOption{user: user, caller: -1}
	}
	if uid, ok := strings.CutPrefix(rest, "=caller:"); ok {
		if n, err := strconv.ParseUint(uid, 10, 32); err == nil {
			return &ownerOption{caller: int64(n)}
		}
	}
	return nil
}

// unnamed is an id that no user has: files of who has the owner's number in the container stand there, since two users cannot have one number.
const unnamed = 1<<32 - 2

// identity maps all ids but unnamed, and -1 which is none.
func identity() []specs.LinuxIDMapping { return []specs.LinuxIDMapping{{Size: unnamed}} }

// mapOwner is an ID-mapped mount's map from ids on the file system to those of the kernel: base, from a container's ids to the kernel's, but with owner being
// id, of the container. Others keep their numbers. Files of the number id on the file system are nobody's in a user namespace, else unnamed's, whom root can still
// help; and the number owner of the container has no place there, so that its files are refused (EOVERFLOW) instead of another's.
func mapOwner(base []specs.LinuxIDMapping, owner, id uint32, ownNS bool) ([]specs.LinuxIDMapping, error) {
	outside, ok := hostID(base, id)
	if !ok {
		return nil, api.Errorf(api.InvalidArgument, "user or group %d of the container is not mapped in its user namespace", id)
	}
	if owner == id {
		return base, nil
	}
	list := []specs.LinuxIDMapping{{ContainerID: owner, HostID: outside, Size: 1}}
	if !ownNS {
		list = append(list, specs.LinuxIDMapping{ContainerID: id, HostID: unnamed, Size: 1})
	}
	for _, m := range base {
		at, end := uint64(m.ContainerID), uint64(m.ContainerID)+uint64(m.Size)
		for _, hole := range []uint64{uint64(min(owner, id)), uint64(max(owner, id)), end} {
			if hole < at || hole > end {
				continue
			}
			if hole > at {
				list = append(list, specs.LinuxIDMapping{ContainerID: uint32(at), HostID: m.HostID + uint32(at-uint64(m.ContainerID)), Size: uint32(hole - at)})
			}
			at = hole + 1
		}
	}
	return list, nil
}

// hostID is what an id of the container is outside.
func hostID(list []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range list {
		if id >= m.ContainerID && uint64(id) < uint64(m.ContainerID)+uint64(m.Size) {
			return m.HostID + id - m.ContainerID, true
		}
	}
	return 0, false
}

// ownerMap maps a detached mount, whose root is the source, by its option. It must be called on a thread of the host.
func (b *builder) ownerMap(fd int, opts *mountOptions) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	o := opts.owner
	uid, gid, err := b.ownerUser(o)
	if err != nil {
		return err
	}
	if o.caller >= 0 && (int64(st.Uid) != o.caller || uid != st.Uid && b.hasUser(st.Uid)) {
		return nil
	}
	if st.Uid == 0 && uid != 0 {
		return api.Errorf(api.Denied, "the source belongs to root: what user %d of the container makes there would be root's, programs that run as root too: give the folder another owner, or map ids with idmap=uids=…;gids=…", uid)
	}
	ownNS := usesUserNS(b.spec) != nil
	uids, gids := identity(), identity()
	if ownNS {
		uids, gids = b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings
	} else if st.Uid == uid && st.Gid == gid {
		return nil
	}
	if uids, err = mapOwner(uids, st.Uid, uid, ownNS); err != nil {
		return err
	}
	if st.Gid == 0 { // the host's root group is nobody else's
		gid = 0
	}
	if gids, err = mapOwner(gids, st.Gid, gid, ownNS); err != nil {
		return err
	}
	ns, err := userns.New(uids, gids)
	if err != nil {
		return fmt.Errorf("ID-mapped mount: %w", err)
	}
	defer unix.Close(ns)
	err = mount.IDMap(fd, ns, opts.recMap)
	if err != nil && o.caller >= 0 {
		_ = mount.IDMap(fd, ns, false) // what is mounted below it stays as it is; or all of it
		return nil
	}
	return err
}

// ownerUser is who shall have the owner's files.
func (b *builder) ownerUser(o *ownerOption) (uid, gid uint32, err error) {
	who := o.user
	if who == "" {
		who = b.spec.Annotations[AnnotationOwner]
	}
	if who == "" {
		return uint32(b.uid), uint32(b.gid), nil
	}
	if b.root < 0 {
		return 0, 0, api.Errorf(api.Unsupported, "option %s=user:%s: the user cannot be looked up before the root is mounted: leave the name out", OptionOwner, who)
	}
	u, err := users.Find(b.root, who)
	if err != nil {
		return 0, 0, err
	}
	return uint32(u.Uid), uint32(u.Gid), nil
}

// hasUser reports whether the container's /etc/passwd names a user with that number; so it is taken to where it cannot be read.
func (b *builder) hasUser(uid uint32) bool {
	if b.root < 0 {
		return true
	}
	passwd, err := users.Open(b.root, "etc/passwd", true)
	if err != nil {
		return true
	}
	defer passwd.Close()
	found, err := user.ParsePasswdFilter(passwd, func(u user.User) bool { return u.Uid == int(uid) })
	return err != nil || len(found) > 0
}

// hasOwnerMap reports whether a mount's files are to be the process's user's.
func hasOwnerMap(s *specs.Spec) bool {
	return slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool {
		return slices.ContainsFunc(m.Options, func(o string) bool { return parseOwner(o) != nil })
	})
}
