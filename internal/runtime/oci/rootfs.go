package oci

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/mount"
)

// builder makes a container's file system on a thread of its own. Its descriptors are closed by close.
type builder struct {
	spec   *specs.Spec
	req    *Request
	host   int // the mount namespace's root before pivot, O_PATH
	root   int // the container's root, O_PATH
	null   int // the container's /dev/null, checked: source of masks; -1 before /dev is made
	dev    int // detached /dev, -1 when the spec mounts none
	devpts int
	proc   int // the container's procfs, once its child has mounted it

	procPlace int // where the child mounts it, -1: nowhere
	procOpts  mountOptions
	late      []*specs.Mount // those below /proc, which come after it
	mask      int            // read-only empty tmpfs, made on first use
	group     func() (*cgroup.Group, error)

	rootInPlace bool // the root was attached by mount(2)
}

func (b *builder) close() {
	for _, fd := range []int{b.host, b.root, b.null, b.dev, b.devpts, b.proc, b.procPlace, b.mask} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// mountRoot makes the root file system a mount of this thread's namespace and opens it.
func (b *builder) mountRoot() error {
	propagation := uintptr(unix.MS_SLAVE)
	switch b.spec.Linux.RootfsPropagation {
	case "", "slave", "rslave", "private", "rprivate":
	case "shared", "rshared":
		propagation = unix.MS_SHARED
	default:
		return api.Errorf(api.InvalidArgument, "config.json: linux.rootfsPropagation: unknown value %q", b.spec.Linux.RootfsPropagation)
	}
	var err error
	if b.host, err = hostRoot(propagation); err != nil {
		return err
	}
	var fd int
	switch staged := b.req.staged; {
	case staged != nil && staged.root >= 0:
		fd = staged.root
	case len(b.req.Root) == 0:
		fd, err = mount.Clone(unix.AT_FDCWD, b.req.RootPath, true)
	case len(b.req.Root) == 1:
		fd, err = b.newRoot(&b.req.Root[0])
	default:
		return api.Errorf(api.Unsupported, "root file system of %d mounts", len(b.req.Root))
	}
	if err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	if err := mount.SetAttr(fd, true, 0, 0, unix.MS_PRIVATE); err != nil {
		unix.Close(fd)
		return fmt.Errorf("root file system: %w", err)
	}
	b.root = fd
	if b.rootInPlace {
		return nil
	}
	at, err := b.openMountPoint()
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return mount.Attach(fd, at)
}

// openMountPoint opens a folder for the root to be mounted on, which nobody else will see. The root user of a user namespace may not be able to reach the one
// that was given.
func (b *builder) openMountPoint() (int, error) {
	at, err := unix.Open(b.req.MountPoint, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil && b.req.staged != nil {
		for _, dir := range []string{"/tmp", "/var/tmp", "/mnt", "/run"} {
			if at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
				return at, nil
			}
		}
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: b.req.MountPoint, Err: err}
	}
	return at, nil
}

// maxFsconfig is the longest value that fsconfig(2) takes, in bytes.
const maxFsconfig = 255

func tooLong(option string) bool { return len(option) > maxFsconfig }

// newRoot makes the root's file system: detached, or in place with mount(2) where an option is too long for fsconfig(2), as an overlay's lowerdir is
// with some layers. The place is in this thread's own mount namespace, at a path of the engine's own.
func (b *builder) newRoot(m *api.Mount) (int, error) {
	long := slices.ContainsFunc(m.Options, tooLong)
	bind := slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
	switch {
	case bind:
		return mount.Clone(unix.AT_FDCWD, m.Source, true)
	case !long:
		return mount.New(m.Type, m.Source, m.Options, 0)
	}
	if err := unix.Mount(m.Source, b.req.MountPoint, m.Type, 0, strings.Join(m.Options, ",")); err != nil {
		return -1, fmt.Errorf("%s: %w", m.Type, err)
	}
	b.rootInPlace = true
	return unix.Open(b.req.MountPoint, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// mounts makes everything in spec.mounts, in order.
func (b *builder) mounts() error {
	for i := range b.spec.Mounts {
		m := &b.spec.Mounts[i]
		if b.procPlace >= 0 && strings.HasPrefix(m.Destination, "/proc/") {
			b.late = append(b.late, m)
			continue
		}
		if err := b.mount(m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	if b.null < 0 { // the spec mounts no /dev; masks need a null device that the image cannot have planted
		fd, err := mount.Clone(unix.AT_FDCWD, "/dev/null", false)
		if err != nil {
			return err
		}
		b.null = fd
	}
	return nil
}

func (b *builder) mount(m *specs.Mount) error {
	opts, err := parseOptions(m.Destination, m.Options)
	if err != nil {
		return err
	}
	switch m.Type {
	case "cgroup":
		return b.mountCgroup(m, opts)
	case "proc":
		return b.placeProc(m, opts)
	}
	var fd int
	if opts.bind || m.Type == "bind" {
		fd, err = b.cloneSource(m, opts)
	} else {
		source := m.Source
		if source == "" {
			source = m.Type
		}
		fd, err = mount.New(m.Type, source, b.labelled(m.Type, opts.data), int(opts.set))
	}
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep {
			unix.Close(fd)
		}
	}()
	if err := checkDestination(m); err != nil {
		return err
	}
	dest := strings.TrimRight(m.Destination, "/")
	switch {
	case dest == "/dev" && m.Type == "tmpfs":
		if err := b.furnishDev(fd); err != nil {
			return err
		}
		b.dev, keep = fd, true
	case dest == "/dev/pts" && m.Type == "devpts":
		b.devpts, keep = fd, true
	}
	target, err := b.target(fd, m.Destination)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if opts.copyUp {
		if err := copyUp(target, fd); err != nil {
			return fmt.Errorf("copying the image's files into it: %w", err)
		}
	}
	if err := mount.Attach(fd, target); err != nil {
		return err
	}
	if err := b.labelQueues(fd, m.Type); err != nil {
		return err
	}
	return b.attributes(fd, opts)
}

// attributes sets what a mount is to be once it is attached and written to.
func (*builder) attributes(fd int, opts mountOptions) error {
	if opts.propagation != 0 {
		if err := mount.SetAttr(fd, opts.recPropagation, 0, 0, opts.propagation); err != nil {
			return err
		}
	}
	if opts.bind && opts.set|opts.clr != 0 {
		if err := mount.SetAttr(fd, false, opts.set, opts.clr, 0); err != nil {
			return err
		}
	}
	if opts.recSet|opts.recClr != 0 {
		if err := mount.SetAttr(fd, true, opts.recSet, opts.recClr, 0); err != nil {
			return err
		}
	}
	return nil
}

// cloneSource opens the source of a bind mount: a path of the host, named by the caller.
func (b *builder) cloneSource(m *specs.Mount, opts mountOptions) (int, error) {
	if staged := b.req.staged; staged != nil {
		for i, fd := range staged.sources {
			if m == &b.spec.Mounts[i] {
				delete(staged.sources, i) // it is the caller's now
				return fd, nil
			}
		}
	}
	if m.Source == "" {
		return -1, api.Errorf(api.InvalidArgument, "bind mount without a source")
	}
	src := m.Source
	if !strings.HasPrefix(src, "/") {
		src = b.req.Bundle + "/" + src
	}
	fd, err := mount.Clone(unix.AT_FDCWD, src, opts.recBind)
	if errors.Is(err, unix.ENOENT) {
		return -1, api.Errorf(api.InvalidArgument, "source %s does not exist on the host", src)
	}
	if err != nil {
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

// checkDestination refuses a mount that would hide /proc from the checks that rely on it (CVE-2019-16884).
func checkDestination(m *specs.Mount) error {
	d := strings.TrimRight(m.Destination, "/")
	if d == "" {
		return api.Errorf(api.InvalidArgument, "a mount may not replace the container's root")
	}
	if d == "/proc" && m.Type != "proc" {
		return api.Errorf(api.InvalidArgument, "only a proc file system may be mounted there")
	}
	return nil
}

// target opens the place for mount fd in the root, making it where it is missing: a folder for a folder, an empty file for anything else.
func (b *builder) target(fd int, dest string) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, os.NewSyscallError("fstat", err)
	}
	var at int
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		at, err = mount.MkdirAllInRoot(b.root, dest, 0o755)
	} else {
		at, err = mount.MkfileInRoot(b.root, dest, 0o644)
	}
	if err != nil {
		return -1, err
	}
	if dest == "/sys" || dest == "/dev" {
		fd, err := b.openUnfollowed(dest)
		if err != nil {
			unix.Close(at)
			return -1, err
		}
		unix.Close(fd)
	}
	return at, nil
}

// openUnfollowed opens a place that must not be reached through a link: a root that has /proc, /sys or /dev as links would have them mounted
// somewhere else, where later checks do not look (CVE-2019-19921, CVE-2026-41579).
func (b *builder) openUnfollowed(dest string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(b.root, strings.Trim(dest, "/"), &how)
	if err == unix.ELOOP {
		return -1, api.Errorf(api.InvalidArgument, "%s is a symbolic link in the image, which could lead the mount astray", dest)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dest, Err: err}
	}
	return fd, nil
}

// placeProc makes the place for a procfs. The mount itself is the child's: a procfs shows the PID namespace of the process that mounts it.
func (b *builder) placeProc(m *specs.Mount, opts mountOptions) error {
	if b.procPlace >= 0 {
		return api.Errorf(api.Unsupported, "a second proc file system in one container")
	}
	if err := checkDestination(m); err != nil {
		return err
	}
	at, err := mount.MkdirAllInRoot(b.root, m.Destination, 0o755)
	if err != nil {
		return err
	}
	unix.Close(at)
	b.procOpts = opts
	b.procPlace, err = b.openUnfollowed(m.Destination)
	return err
}

// procMagic is PROC_SUPER_MAGIC of linux/magic.h.
const procMagic = 0x9fa0

// afterProc opens the container's procfs, which its child has mounted by now, and makes the mounts below it.
func (b *builder) afterProc() error {
	if b.procPlace >= 0 {
		fd, err := b.openUnfollowed("/proc")
		if err != nil {
			return err
		}
		b.proc = fd
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err != nil || st.Type != procMagic {
			return fmt.Errorf("/proc of the container is not the procfs that was mounted there")
		}
	}
	for _, m := range b.late {
		if err := b.mount(m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	return nil
}

// cover hides and makes read-only what the spec says.
func (b *builder) cover() error {
	if err := b.sysctls(); err != nil {
		return err
	}
	if err := b.maskPaths(b.spec.Linux.MaskedPaths); err != nil {
		return err
	}
	if err := b.readonlyPaths(b.spec.Linux.ReadonlyPaths); err != nil {
		return err
	}
	if !b.spec.Root.Readonly {
		return nil
	}
	if err := mount.SetAttr(b.root, false, unix.MOUNT_ATTR_RDONLY, 0, 0); err != nil {
		return fmt.Errorf("read-only root: %w", err)
	}
	return nil
}

// maskPaths hides paths: a folder under an empty read-only file system, a file under the null device. What does not exist needs no mask.
func (b *builder) maskPaths(paths []string) error {
	for _, p := range paths {
		at, err := b.openForCover(p)
		if err != nil {
			return fmt.Errorf("masked path %s: %w", p, err)
		}
		if at < 0 {
			continue
		}
		err = b.hide(at)
		unix.Close(at)
		if err != nil {
			return fmt.Errorf("masked path %s: %w", p, err)
		}
	}
	return nil
}

// openForCover opens p without following a link at its end; -1 when there is nothing.
func (b *builder) openForCover(p string) (int, error) {
	base, name := b.root, strings.TrimPrefix(p, "/")
	if rest, ok := strings.CutPrefix(p, "/proc/"); ok && b.proc >= 0 {
		base, name = b.proc, rest // the proc that was mounted, not what a path may lead to
	}
	at, err := mount.OpenInRoot(base, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return -1, nil
	}
	return at, err
}

func (b *builder) hide(at int) error {
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return err
	}
	src := b.null
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if b.mask < 0 {
			fd, err := mount.New("tmpfs", "tmpfs", b.labelled("tmpfs", []string{"size=0", "nr_inodes=2", "mode=0555"}), unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
			if err != nil {
				return err
			}
			b.mask = fd
		}
		src = b.mask
	}
	// Only a mount that is attached can be copied before Linux 6.15, so the first use attaches the original.
	fd, err := mount.Clone(src, "", false)
	if err != nil {
		if src == b.mask {
			err = mount.Attach(src, at)
		}
		return err
	}
	defer unix.Close(fd)
	return mount.Attach(fd, at)
}

// readonlyPaths makes paths read-only in place.
func (b *builder) readonlyPaths(paths []string) error {
	for _, p := range paths {
		at, err := b.openForCover(p)
		if err != nil {
			return fmt.Errorf("read-only path %s: %w", p, err)
		}
		if at < 0 {
			continue
		}
		fd, err := mount.Clone(at, "", true)
		if err == nil {
			if err = mount.SetAttr(fd, true, unix.MOUNT_ATTR_RDONLY, 0, 0); err == nil {
				err = mount.Attach(fd, at)
			}
			unix.Close(fd)
		}
		unix.Close(at)
		if err != nil {
			return fmt.Errorf("read-only path %s: %w", p, err)
		}
	}
	return nil
}

// pivot makes the root the thread's root and lets go of the host's mounts.
func (b *builder) pivot() error {
	if err := enterRoot(b.host); err != nil {
		return err
	}
	if err := unix.Fchdir(b.root); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	// "." twice stacks the old root on the new one, from where it is detached: pivot_root(2), NOTES.
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detaching the host's mounts: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("the container's root: %w", err)
	}
	return nil
}
