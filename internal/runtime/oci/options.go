package oci

import (
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
)

// mountOptions are an OCI mount's options, sorted into what the kernel takes where.
type mountOptions struct {
	set, clr       uint64 // MOUNT_ATTR_* of the mount itself
	recSet, recClr uint64 // the same for all mounts below it too (rro, rnosuid, …)
	propagation    uint64 // MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE; 0: as it is
	recPropagation bool
	bind, recBind  bool
	copyUp         bool     // tmpcopyup, or copyup of a volume: what the image has at the target is copied into an empty mount
	data           []string // the file system's own
}

// parseOptions sorts options by the table in the OCI runtime specification's config.md ("Linux mount options") and mount(8).
func parseOptions(target string, options []string) (mountOptions, error) {
	var m mountOptions
	for _, o := range options {
		switch o {
		case "defaults", "async", "nomand", "norelatime", "noiversion", "silent", "loud":
			continue
		case "bind":
			m.bind = true
			continue
		case "rbind":
			m.bind, m.recBind = true, true
			continue
		case "tmpcopyup", "copyup":
			m.copyUp = true
			continue
		case "idmap", "ridmap", "remount":
			return m, api.Errorf(api.Unsupported, "mount %s: option %s is not supported", target, o)
		}
		if p, rec, ok := propagationFlag(o); ok {
			m.propagation, m.recPropagation = p, rec
			continue
		}
		if set, clr, ok := attrFlag(o); ok {
			m.set, m.clr = m.set&^clr|set, m.clr&^set|clr
			continue
		}
		if rest, found := strings.CutPrefix(o, "r"); found {
			if set, clr, ok := attrFlag(rest); ok {
				m.recSet, m.recClr = m.recSet&^clr|set, m.recClr&^set|clr
				continue
			}
		}
		m.data = append(m.data, o)
	}
	return m, nil
}

func propagationFlag(o string) (flag uint64, recursive, ok bool) {
	name, rec := strings.CutPrefix(o, "r")
	switch name {
	case "private":
		flag = unix.MS_PRIVATE
	case "shared":
		flag = unix.MS_SHARED
	case "slave":
		flag = unix.MS_SLAVE
	case "unbindable":
		flag = unix.MS_UNBINDABLE
	default:
		return 0, false, false
	}
	return flag, rec, true
}

func attrFlag(o string) (set, clr uint64, ok bool) {
	switch o {
	case "ro":
		set = unix.MOUNT_ATTR_RDONLY
	case "rw":
		clr = unix.MOUNT_ATTR_RDONLY
	case "nosuid":
		set = unix.MOUNT_ATTR_NOSUID
	case "suid":
		clr = unix.MOUNT_ATTR_NOSUID
	case "nodev":
		set = unix.MOUNT_ATTR_NODEV
	case "dev":
		clr = unix.MOUNT_ATTR_NODEV
	case "noexec":
		set = unix.MOUNT_ATTR_NOEXEC
	case "exec":
		clr = unix.MOUNT_ATTR_NOEXEC
	case "nosymfollow":
		set = unix.MOUNT_ATTR_NOSYMFOLLOW
	case "symfollow":
		clr = unix.MOUNT_ATTR_NOSYMFOLLOW
	case "nodiratime":
		set = unix.MOUNT_ATTR_NODIRATIME
	case "diratime":
		clr = unix.MOUNT_ATTR_NODIRATIME
	case "noatime": // the three access time modes are one field: mount_setattr(2) wants it cleared when set
		set, clr = unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME
	case "strictatime":
		set, clr = unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME
	case "relatime", "atime":
		set, clr = unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME
	default:
		return 0, 0, false
	}
	return set, clr, true
}
