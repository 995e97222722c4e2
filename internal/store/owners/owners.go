// Package owners turns the numbers of users and groups that files have into those that a user namespace has for them, and back: as owners, in access lists, and in
// capabilities, which name the root that they are for.
package owners

import (
	"encoding/binary"
	"slices"

	"brig/api"
)

// Nobody is who has what belongs to nobody in a user namespace: the default of /proc/sys/fs/overflowuid.
const Nobody = 65534

// Map is a user namespace's: its ids are the inner ones. Without ranges it maps nothing.
type Map struct{ UIDs, GIDs []api.IDRange }

// Inside is what a container has for an owner of files; Nobody where it has no number.
func (m Map) Inside(uid, gid uint32) (uint32, uint32) {
	return inside(m.UIDs, uid), inside(m.GIDs, gid)
}

func inside(list []api.IDRange, id uint32) uint32 {
	for _, r := range list {
		if id >= r.Outside && id-r.Outside < r.Size {
			return r.Inside + id - r.Outside
		}
	}
	return Nobody
}

// Outside is an id of the container on the disk. One that it does not have is not ok.
func Outside(list []api.IDRange, id uint32) (uint32, bool) {
	for _, r := range list {
		if id >= r.Inside && id-r.Inside < r.Size {
			return r.Outside + id - r.Inside, true
		}
	}
	return 0, false
}

// Stranger is the smallest id outside that a container does not have: whose file has it belongs to nobody there.
func Stranger(list []api.IDRange) uint32 {
	taken := slices.Clone(list)
	slices.SortFunc(taken, func(a, b api.IDRange) int { return int(int64(a.Outside) - int64(b.Outside)) })
	free := uint32(0)
	for _, r := range taken {
		if r.Outside > free {
			break
		}
		free = max(free, r.Outside+r.Size)
	}
	return free
}

// Same reports whether every id is the same on both sides.
func (m Map) Same() bool {
	changes := func(r api.IDRange) bool { return r.Inside != r.Outside }
	return !slices.ContainsFunc(m.UIDs, changes) && !slices.ContainsFunc(m.GIDs, changes)
}

// Attribute is the value of an extended attribute with other numbers in it: those of access lists, acl(5), and the root of a file capability, which is left
// out where it becomes 0 (struct vfs_ns_cap_data of linux/capability.h). What is no such attribute, or none that is whole, stays as it is.
func Attribute(name string, value []byte, to func(uid, gid uint32) (uint32, uint32)) []byte {
	switch name {
	case "system.posix_acl_access", "system.posix_acl_default":
		return list(value, to)
	case "security.capability":
		return capability(value, to)
	}
	return value
}

// list is linux/posix_acl_xattr.h: a version, then entries of a tag, permissions and an id.
func list(value []byte, to func(uid, gid uint32) (uint32, uint32)) []byte {
	const version, head, entry, user, group = 2, 4, 8, 0x02, 0x08
	if len(value) < head || (len(value)-head)%entry != 0 || binary.LittleEndian.Uint32(value) != version {
		return value
	}
	value = slices.Clone(value)
	for e := value[head:]; len(e) > 0; e = e[entry:] {
		id := binary.LittleEndian.Uint32(e[4:])
		switch binary.LittleEndian.Uint16(e) {
		case user:
			id, _ = to(id, 0)
		case group:
			_, id = to(0, id)
		}
		binary.LittleEndian.PutUint32(e[4:], id)
	}
	return value
}

func capability(value []byte, to func(uid, gid uint32) (uint32, uint32)) []byte {
	const version2, version3, versions, whole, root = 0x02000000, 0x03000000, 0xff000000, 24, 20
	magic := uint32(0)
	if len(value) == whole {
		magic = binary.LittleEndian.Uint32(value)
	}
	if magic&versions != version3 {
		return value
	}
	value = slices.Clone(value)
	id, _ := to(binary.LittleEndian.Uint32(value[root:]), 0)
	if id != 0 {
		binary.LittleEndian.PutUint32(value[root:], id)
		return value
	}
	binary.LittleEndian.PutUint32(value, magic&^versions|version2)
	return value[:root]
}
