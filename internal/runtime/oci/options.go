package oci

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// OptionMountNS, with the path of a mount namespace behind it, says that the source of a bind mount is a tmpfs there: how a container has
// another's /dev/shm. Nothing on the way to it may be a link.
const OptionMountNS = "org.brig.mntns="

// OptionSubpath is a bind mount's option, brig.subpath=PATH: what is bound lies below the source, whose files may be an attacker's: no link leads out of it.
const OptionSubpath = "brig.subpath"

// OptionBeneath, with the absolute path of a folder in the container's root behind it, says that the mount's destination lies there, as if that folder were the root: no link in it leads
// out of it. The folder itself must not be reached through a link.
const OptionBeneath = "brig.beneath="

// OptionPlace says that nothing of its own is mounted: only the folder is made, where it is missing, that somebody else will mount something on. It is read-only, since what is written
// to it will be beneath that.
const OptionPlace = "brig.place"

// mountOptions are an OCI mount's options, sorted into what the kernel takes where.
type mountOptions struct {
	set, clr       uint64 // MOUNT_ATTR_* of the mount itself
	recSet, recClr uint64 // the same for all mounts below it too (rro, rnosuid, …)
	propagation    uint64 // MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE; 0: as it is
	recPropagation bool
	bind, recBind  bool
	remount        bool   // change what is mounted at the destination
	copyUp         bool   // tmpcopyup, or copyup of a volume: what the image has at the target is copied into an empty mount
	copySync       bool   // it was written copyupsync: what is copied is to survive a power cut
	tmpCopyUp      bool   // it was written tmpcopyup, which is for tmpfs alone
	from           string // of a bind: the mount namespace that the source is in; empty: the host's
	idmap, recMap  bool   // the owners of files are mapped, of those in mounts below it too
	owner          *ownerOption
	secret         *secretOption
	subpath        string   // of a bind mount: what below the source is bound
	place          bool     // only the folder is made
	beneath        string   // the folder in the root that the destination lies in; empty: the root
	super          []string // of the file system as a whole (sync, lazytime, …), in fsconfig(2)'s words
	iversion       bool     // the same, for which fsconfig(2) has no word
	data           []string // the file system's own
}

// parseOptions sorts a mount's options by the table in the OCI runtime specification's config.md ("Linux mount options") and mount(8).
func parseOptions(m *specs.Mount) mountOptions {
	var o mountOptions
	for _, option := range m.Options {
		o.add(option)
	}
	o.bind = o.bind || m.Type == "bind"
	o.idmap = o.idmap || len(m.UIDMappings)+len(m.GIDMappings) > 0
	return o
}

func (m *mountOptions) add(o string) {
	switch o {
	case "defaults", "silent", "loud": // how much the kernel logs about it
		return
	case "norelatime", "rnorelatime", "noiversion": // what the kernel does where nobody asks otherwise
		return
	case "nostrictatime":
		if m.set&unix.MOUNT_ATTR__ATIME == unix.MOUNT_ATTR_STRICTATIME {
			m.set &^= unix.MOUNT_ATTR__ATIME
		}
		return
	case "rnostrictatime":
		if m.recSet&unix.MOUNT_ATTR__ATIME == unix.MOUNT_ATTR_STRICTATIME {
			m.recSet &^= unix.MOUNT_ATTR__ATIME
		}
		return
	case "async", "sync", "dirsync", "lazytime", "nolazytime", "mand", "nomand":
		m.super = append(m.super, o)
		return
	case OptionPlace:
		m.place = true
		return
	case "iversion":
		m.iversion = true
		return
	case "bind":
		m.bind = true
		return
	case "rbind":
		m.bind, m.recBind = true, true
		return
	case "remount":
		m.remount = true
		return
	case "tmpcopyup":
		m.copyUp, m.tmpCopyUp = true, true
		return
	case "copyup":
		m.copyUp = true
		return
	case "copyupsync":
		m.copyUp, m.copySync = true, true
		return
	case "idmap":
		m.idmap = true
		return
	case "ridmap":
		m.idmap, m.recMap = true, true
		return
	}
	if from, ok := strings.CutPrefix(o, OptionMountNS); ok {
		m.from = from
		return
	}
	if owner := parseOwner(o); owner != nil {
		m.idmap, m.owner = true, owner
		return
	}
	if sub, ok := strings.CutPrefix(o, OptionSubpath+"="); ok && sub != "" {
		m.subpath = sub
		return
	}
	if beneath, ok := strings.CutPrefix(o, OptionBeneath); ok {
		m.beneath = beneath
		return
	}
	if secret := parseSecret(o); secret != nil {
		m.secret = secret
		return
	}
	if p, rec, ok := propagationFlag(o); ok {
		m.propagation, m.recPropagation = p, rec
		return
	}
	if set, clr, ok := attrFlag(o); ok {
		m.set, m.clr = m.set&^clr|set, m.clr&^set|clr
		return
	}
	if rest, found := strings.CutPrefix(o, "r"); found {
		if set, clr, ok := attrFlag(rest); ok {
			m.recSet, m.recClr = m.recSet&^clr|set, m.recClr&^set|clr
			return
		}
	}
	m.data = append(m.data, o)
}

// forBind is the first option that a bind mount cannot have, because it belongs to the file system: "" if there is none. Those that ask for
// the default are taken, as runc and mount(8) take them.
func (m *mountOptions) forBind() string {
	for _, o := range m.super {
		switch o {
		case "sync", "dirsync", "lazytime", "mand":
			return o
		}
	}
	if m.iversion {
		return "iversion"
	}
	if len(m.data) > 0 {
		return m.data[0]
	}
	return ""
}

// legacy reports whether fsconfig(2) cannot say what is asked for, and mount(2) can.
func (m *mountOptions) legacy() bool {
	return m.iversion || slices.ContainsFunc(m.data, tooLong)
}

// legacyFlags are the MS_* of mount(2) for the attributes and those options of the file system that are flags there.
func (m *mountOptions) legacyFlags() (flags uintptr) {
	for _, f := range [...]struct {
		attr uint64
		ms   uintptr
	}{
		{unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY}, {unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID}, {unix.MOUNT_ATTR_NODEV, unix.MS_NODEV},
		{unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC}, {unix.MOUNT_ATTR_NODIRATIME, unix.MS_NODIRATIME}, {unix.MOUNT_ATTR_NOSYMFOLLOW, unix.MS_NOSYMFOLLOW},
		{unix.MOUNT_ATTR_NOATIME, unix.MS_NOATIME}, {unix.MOUNT_ATTR_STRICTATIME, unix.MS_STRICTATIME},
	} {
		if m.set&f.attr != 0 {
			flags |= f.ms
		}
	}
	for _, o := range m.super {
		switch o {
		case "sync":
			flags |= unix.MS_SYNCHRONOUS
		case "async":
			flags &^= unix.MS_SYNCHRONOUS
		case "dirsync":
			flags |= unix.MS_DIRSYNC
		case "lazytime":
			flags |= unix.MS_LAZYTIME
		case "nolazytime":
			flags &^= unix.MS_LAZYTIME
		case "mand":
			flags |= unix.MS_MANDLOCK
		case "nomand":
			flags &^= unix.MS_MANDLOCK
		}
	}
	if m.iversion {
		flags |= unix.MS_I_VERSION
	}
	return flags
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
