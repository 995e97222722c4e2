package oci

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/weak"
	"brig/internal/kernel/mount"
)

// destination is where a mount goes. One without a slash in front is taken from the root: config.md, "Mounts".
func destination(m *specs.Mount) string { return path.Clean("/" + m.Destination) }

// mounts makes everything in spec.mounts, in order, and the devices. A mount over the root comes last: until then the root must be writable.
func (b *builder) mounts() error {
	b.planDev()
	for _, last := range []bool{false, true} {
		for i := range b.spec.Mounts {
			m := &b.spec.Mounts[i]
			if (destination(m) == "/") != last {
				continue
			}
			if err := b.mount(i); err != nil {
				return fmt.Errorf("mount %s: %w", m.Destination, err)
			}
		}
		if !last {
			if err := b.devices(); err != nil {
				return err
			}
		}
	}
	return nil
}

// isProc reports whether a mount is a procfs of the container's own, which its child makes.
func isProc(m *specs.Mount) bool {
	if m.Type != "proc" {
		return false
	}
	opts := parseOptions(m)
	return !opts.bind && !opts.remount
}

// countProcs is how many of those there are.
func (b *builder) countProcs() (n int) {
	for i := range b.spec.Mounts {
		if isProc(&b.spec.Mounts[i]) {
			n++
		}
	}
	return n
}

func (b *builder) mount(i int) error {
	m := &b.spec.Mounts[i]
	opts, dest := parseOptions(m), destination(m)
	if opts.beneath != "" {
		fd, err := b.openUnfollowed(opts.beneath)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		root := b.root
		b.root = fd // also for the users that an option names
		defer func() { b.root = root }()
	}
	if opts.place {
		return b.setAside(dest)
	}
	if opts.remount {
		return b.remount(dest, &opts)
	}
	if !opts.bind {
		switch m.Type {
		case "cgroup", "cgroup2":
			return b.mountCgroup(m, &opts)
		case "proc":
			return b.attachProc(dest, &opts)
		}
	}
	// What is still written to is made read-only at the end.
	later := opts.set&unix.MOUNT_ATTR_RDONLY != 0 && (!opts.bind && (m.Type == "tmpfs" || dest == "/dev") || b.holdsOthers(dest))
	if later {
		opts.set &^= unix.MOUNT_ATTR_RDONLY
	}
	fd, err := b.source(m, &opts)
	if err == nil && opts.secret != nil {
		fd, err = b.secret(fd, opts.secret)
	}
	if err != nil {
		return err
	}
	b.held = append(b.held, fd)
	source := fd // what a volume is filled through
	if staged := b.req.staged; staged != nil {
		if locked, ok := staged.locked[i]; ok {
			fd = locked
			b.held = append(b.held, fd)
		}
	}
	if later {
		b.readonly = append(b.readonly, fd)
	}
	if dest == "/proc" && !isProcRoot(fd) && !weak.Places {
		return api.Errorf(api.InvalidArgument, "only a proc file system may be mounted there")
	}
	if i == b.devMount {
		if err := b.furnishDev(fd); err != nil {
			return err
		}
	}
	if dest == "/dev/pts" && m.Type == "devpts" && !opts.bind {
		b.devpts = fd
	}
	target, existed, err := b.target(fd, dest)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if existed && m.Type == "tmpfs" && !opts.bind && i != b.devMount {
		if err := inheritMode(fd, target, opts.data); err != nil {
			return err
		}
	}
	if opts.copyUp {
		fill := func() error { return copyUp(target, source) }
		if opts.bind {
			fill = func() error { return fillVolume(target, source, opts.copySync) }
		}
		if err := fill(); err != nil {
			return fmt.Errorf("copying the image's files into %s: %w", m.Source, err)
		}
	}
	if err := mount.Attach(fd, target); err != nil {
		return err
	}
	if i == b.devMount {
		if err := b.bindPending(); err != nil {
			return err
		}
	}
	if !opts.bind { // what is bound has its own
		if err := b.labelQueues(fd, m.Type); err != nil {
			return err
		}
	}
	return b.attributes(fd, &opts)
}

// setAside makes a folder that somebody else will mount something on, and nobody can write to before: OptionPlace.
func (b *builder) setAside(dest string) error {
	at, err := mount.MkdirAllInRoot(b.root, dest, 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	lid, err := mount.Clone(at, "", false)
	if err != nil {
		return err
	}
	b.held = append(b.held, lid)
	b.readonly = append(b.readonly, lid) // when all is mounted in it
	return mount.Attach(lid, at)
}

// holdsOthers reports whether mounts go into the tree that is mounted at dest, with OptionBeneath.
func (b *builder) holdsOthers(dest string) bool {
	return slices.ContainsFunc(b.spec.Mounts, func(m specs.Mount) bool { return slices.Contains(m.Options, OptionBeneath+dest) })
}

// source makes the detached mount.
func (b *builder) source(m *specs.Mount, opts *mountOptions) (fd int, err error) {
	if staged := b.req.staged; staged != nil {
		for i, fd := range staged.sources {
			if m == &b.spec.Mounts[i] {
				delete(staged.sources, i) // it is the caller's now
				return fd, nil
			}
		}
	}
	switch {
	case opts.bind && opts.from != "":
		err = onThread(func() (err error) {
			fd, err = cloneThere(opts.from, m.Source)
			return err
		})
		return fd, err
	case opts.bind && (opts.idmap || opts.propagation == unix.MS_SHARED && b.sharedWithHost()):
		err = b.onHost(func() (err error) {
			if fd, err = b.cloneSource(m, opts); err == nil && opts.idmap {
				if err = b.idmap(fd, m, opts); err != nil {
					unix.Close(fd)
				}
			}
			return err
		})
		return fd, err
	case opts.bind:
		return b.cloneSource(m, opts)
	}
	from := m.Source
	if from == "" {
		from = m.Type
	}
	opts.data = b.labelled(m.Type, opts.data)
	if opts.legacy() {
		if fd, err = b.legacyMount(m.Type, from, opts); err == nil && opts.idmap {
			// Only what is detached can be mapped.
			var copied int
			copied, err = mount.Clone(fd, "", false)
			unix.Close(fd)
			if fd = copied; err == nil {
				err = unix.Unmount(b.place, unix.MNT_DETACH)
			}
		}
	} else {
		fd, err = mount.New(m.Type, from, fsOptions(from, opts), int(opts.set))
	}
	if err != nil {
		if errors.Is(err, unix.EPERM) && m.Type == "sysfs" {
			return -1, fmt.Errorf("%w: in a user namespace it needs a network namespace of the container's own", err)
		}
		return -1, err
	}
	if err := b.note(fd, m); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if opts.idmap {
		if err := b.onHost(func() error { return b.idmap(fd, m, opts) }); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

// fsOptions are what fsconfig(2) is told. A block device that is mounted read-only may be one that cannot be written to, which the file
// system must know.
func fsOptions(source string, opts *mountOptions) []string {
	list := append(opts.super[:len(opts.super):len(opts.super)], opts.data...)
	if opts.set&unix.MOUNT_ATTR_RDONLY != 0 && strings.HasPrefix(source, "/") {
		var st unix.Stat_t
		if unix.Stat(source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			list = append(list, "ro")
		}
	}
	return list
}

// legacyMount makes a file system with mount(2), for options that fsconfig(2) has no room or no word for. It is mounted over the root for a
// moment, at a path of the runtime's own in a mount namespace that nobody else is in, and moved to its place from there.
func (b *builder) legacyMount(fstype, source string, opts *mountOptions) (int, error) {
	if err := unix.Mount(source, b.place, fstype, opts.legacyFlags(), strings.Join(opts.data, ",")); err != nil {
		return -1, fmt.Errorf("file system %s: %w", fstype, err)
	}
	fd, err := unix.Open(b.place, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: b.place, Err: err}
	}
	return fd, nil
}

// attributes sets what a mount is to be once it is attached and written to.
func (b *builder) attributes(fd int, opts *mountOptions) error {
	if opts.propagation != 0 {
		if err := mount.SetAttr(fd, opts.recPropagation, 0, 0, opts.propagation); err != nil {
			return err
		}
	}
	if opts.bind && opts.set|opts.clr != 0 {
		if err := locked(mount.SetAttr(fd, false, opts.set, opts.clr, 0), fd, opts.set, opts.clr); err != nil {
			return err
		}
	}
	if opts.recSet|opts.recClr != 0 {
		if err := locked(mount.SetAttr(fd, true, opts.recSet, opts.recClr, 0), fd, opts.recSet, opts.recClr); err != nil {
			return err
		}
	}
	return nil
}

// locked explains a refusal that comes from the source's own flags: in a user namespace those that the host set stay (mount_namespaces(7)).
// A flag that is not named in the options is never taken off, so only the options themselves can run into this.
func locked(err error, fd int, set, clr uint64) error {
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return err
	}
	for _, f := range [...]struct {
		st        int64
		attr      uint64
		has, asks string
	}{
		{unix.ST_RDONLY, unix.MOUNT_ATTR_RDONLY, "ro", "rw"}, {unix.ST_NOSUID, unix.MOUNT_ATTR_NOSUID, "nosuid", "suid"},
		{unix.ST_NODEV, unix.MOUNT_ATTR_NODEV, "nodev", "dev"}, {unix.ST_NOEXEC, unix.MOUNT_ATTR_NOEXEC, "noexec", "exec"},
	} {
		if st.Flags&f.st != 0 && clr&^set&f.attr != 0 {
			return fmt.Errorf("option %s: the host mounted the source %s, which a user namespace cannot take back: %w", f.asks, f.has, err)
		}
	}
	if clr&unix.MOUNT_ATTR__ATIME != 0 {
		return fmt.Errorf("access time option: a user namespace cannot change what the host mounted the source with: %w", err)
	}
	return err
}

// sharedWithHost reports whether shared mounts are to be shared with the host: as in runc, that is so when the root is.
func (b *builder) sharedWithHost() bool {
	p := b.spec.Linux.RootfsPropagation
	return (p == "shared" || p == "rshared") && usesUserNS(b.spec) == nil
}

// onHost runs f on a thread that is in the host's namespaces still, and waits for it.
func (*builder) onHost(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }() // the builder's thread is locked, so this is another
	return <-done
}

// cloneThere clones a tmpfs that is mounted in another mount namespace. The thread does not come back from there.
func cloneThere(namespace, source string) (int, error) {
	if err := enterMounts(namespace); err != nil {
		return -1, err
	}
	at, err := unix.Openat2(unix.AT_FDCWD, strings.TrimPrefix(source, "/"), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "the other container's " + source, Err: err}
	}
	defer unix.Close(at)
	var st unix.Statfs_t
	if err := unix.Fstatfs(at, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		return -1, api.Errorf(api.InvalidArgument, "the other container's %s is no tmpfs any more", source)
	}
	return mount.Clone(at, "", false)
}

// cloneSource opens the source of a bind mount: a path of the host, named by the caller.
func (b *builder) cloneSource(m *specs.Mount, opts *mountOptions) (int, error) {
	src := m.Source
	if !strings.HasPrefix(src, "/") {
		src = b.req.Bundle + "/" + src
	}
	fd, err := cloneBelow(src, opts.subpath, opts.recBind)
	switch {
	case api.KindOf(err) != "":
		return -1, err
	case errors.Is(err, unix.ENOENT):
		return -1, api.Errorf(api.InvalidArgument, "source %s does not exist on the host", src)
	case errors.Is(err, unix.EINVAL):
		return -1, api.Errorf(api.InvalidArgument, "source %s cannot be bound: it is mounted unbindable, or, in a user namespace, hides mounts that only rbind may take along: %w", src, err)
	case err != nil:
		return -1, err
	}
	if opts.propagation == 0 { // as runc: a bind is private unless asked otherwise
		if err := mount.SetAttr(fd, true, 0, 0, unix.MS_PRIVATE); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

// cloneBelow opens a source, or what lies below it: looked up with the source as the root, so that no link or exchange of names leads out.
func cloneBelow(src, sub string, recursive bool) (int, error) {
	if sub == "" {
		return mount.Clone(unix.AT_FDCWD, src, recursive)
	}
	top, err := unix.Open(src, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: src, Err: err}
	}
	defer unix.Close(top)
	at, err := mount.OpenInRoot(top, sub, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) {
		return -1, api.Errorf(api.InvalidArgument, "subpath %s does not exist in the volume: make it first", sub)
	}
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	return mount.Clone(at, "", recursive)
}

// isProcRoot reports whether a mount is a procfs, whole: hiding /proc would blind the checks that rely on it (CVE-2019-16884).
func isProcRoot(fd int) bool {
	var fs unix.Statfs_t
	var st unix.Stat_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC && unix.Fstat(fd, &st) == nil && st.Ino == procRootIno
}

// procRootIno is PROC_ROOT_INO of linux/proc_fs.h.
const procRootIno = 1

// target opens the place for mount fd in the root, making it where it is missing: a folder for a folder, an empty file for anything else.
func (b *builder) target(fd int, dest string) (at int, existed bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, false, os.NewSyscallError("fstat", err)
	}
	folder := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if at, err = mount.OpenInRoot(b.root, dest, unix.O_PATH, 0); err == nil {
		existed = true
	} else if folder {
		at, err = mount.MkdirAllInRoot(b.root, dest, 0o755)
	} else {
		at, err = mount.MkfileInRoot(b.root, dest, 0o644)
	}
	if err != nil {
		return -1, false, err
	}
	if existed {
		if err := unix.Fstat(at, &st); err == nil && folder != (st.Mode&unix.S_IFMT == unix.S_IFDIR) {
			unix.Close(at)
			if folder {
				return -1, true, api.Errorf(api.InvalidArgument, "a folder cannot be mounted on what is a file in the container's root: %w", unix.ENOTDIR)
			}
			return -1, true, api.Errorf(api.InvalidArgument, "a file cannot be mounted on what is a folder in the container's root: %w", unix.EISDIR)
		}
	}
	if dest == "/sys" || dest == "/dev" || dest == "/proc" {
		fd, err := b.openUnfollowed(dest)
		if err != nil {
			unix.Close(at)
			return -1, existed, err
		}
		unix.Close(fd)
	}
	return at, existed, nil
}

// inheritMode gives a new tmpfs the mode of the folder that it covers, as runc does, unless the options say what mode it has.
func inheritMode(fd, target int, data []string) error {
	if slices.ContainsFunc(data, func(o string) bool { return strings.HasPrefix(o, "mode=") }) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return os.NewSyscallError("fchmod", unix.Fchmod(dir, st.Mode&0o7777))
}

// openUnfollowed opens a place that must not be reached through a link: a root that has /proc, /sys or /dev as links would have them mounted
// somewhere else, where later checks do not look (CVE-2019-19921, CVE-2026-41579).
func (b *builder) openUnfollowed(dest string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	if weak.Places {
		how.Resolve = unix.RESOLVE_IN_ROOT
	}
	fd, err := unix.Openat2(b.root, strings.Trim(dest, "/"), &how)
	if err == unix.ELOOP {
		return -1, api.Errorf(api.InvalidArgument, "%s is a symbolic link in the image, which could lead the mount astray", dest)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dest, Err: err}
	}
	return fd, nil
}

// attachProc attaches the next procfs that the child has made.
func (b *builder) attachProc(dest string, opts *mountOptions) error {
	at, err := mount.MkdirAllInRoot(b.root, dest, 0o755)
	if err != nil {
		return err
	}
	unix.Close(at)
	if at, err = b.openUnfollowed(dest); err != nil {
		return err
	}
	defer unix.Close(at)
	fd := b.procs[0]
	b.procs = b.procs[1:]
	if dest == "/proc" {
		if b.proc >= 0 {
			unix.Close(b.proc)
		}
		b.proc = fd
	} else {
		b.held = append(b.held, fd)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	b.own = append(b.own, st.Dev)
	if err := mount.Attach(fd, at); err != nil {
		return err
	}
	return b.attributes(fd, opts)
}

// note keeps in mind which file systems are the container's alone. One on a block device, or of a namespace that is the host's, is not.
func (b *builder) note(fd int, m *specs.Mount) error {
	if strings.HasPrefix(m.Source, "/") || m.Type == "sysfs" && !hasNamespace(b.spec, specs.NetworkNamespace) ||
		m.Type == "mqueue" && !hasNamespace(b.spec, specs.IPCNamespace) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	b.own = append(b.own, st.Dev)
	return nil
}

// owns reports whether the file system at fd is the container's alone.
func (b *builder) owns(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && slices.Contains(b.own, st.Dev)
}

// remount changes what is mounted at dest already: as with mount(2), a flag that is not asked for is taken off, and the access time mode stays as it
// is unless one is asked for. With bind only that mount is changed, without it also its file system, which must be the container's own.
func (b *builder) remount(dest string, opts *mountOptions) error {
	fd, err := mount.OpenInRoot(b.root, dest, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return os.NewSyscallError("statx", err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return api.Errorf(api.InvalidArgument, "option remount: nothing is mounted there")
	}
	if !opts.bind {
		if !b.owns(fd) {
			return api.Errorf(api.InvalidArgument, "option remount: that file system (%s) is the host's, which would change too: use bind and remount for this mount alone", mount.FSName(fd))
		}
		list := fsOptions("", opts)
		if len(list) > 0 {
			if err := mount.Reconfigure(fd, list); err != nil {
				return err
			}
		}
	}
	const flags = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NODIRATIME | unix.MOUNT_ATTR_NOSYMFOLLOW
	clr := uint64(flags)&^opts.set | opts.clr&unix.MOUNT_ATTR__ATIME
	if err := locked(mount.SetAttr(fd, false, opts.set, clr, 0), fd, opts.set, clr); err != nil {
		return err
	}
	rest := *opts
	rest.bind, rest.set, rest.clr = false, 0, 0
	return b.attributes(fd, &rest)
}
