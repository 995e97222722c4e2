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
	null   int // the container's /dev/null, checked: source of masks; -1 until it is needed or made
	dev    int // the container's own /dev, -1 before it is made and where the spec binds one
	devpts int
	proc   int // the container's procfs at /proc, once it is attached
	mask   int // read-only empty tmpfs, made on first use

	devMount  int         // index in spec.mounts of the file system that is furnished while it is detached; -1: none
	devBound  bool        // /dev is bound: nothing is made in it
	bindNodes bool        // mknod(2) is not allowed here
	nodes     []boundNode // placeholders that wait for their /dev to be attached

	procs    []int         // those that the child has made, still to be attached
	uid, gid int           // of the process
	readonly []int         // mounts that are made read-only at the end
	own      []uint64      // device numbers of file systems that are this container's alone
	held     []int         // descriptors to close
	group    *cgroup.Group // nil: it has none

	place       string // the folder that the root is mounted on
	rootInPlace bool   // the root was attached by mount(2)
	ownMounts   bool   // in a mount namespace of the container's; else the mounts are the host's, and the child's root is changed with chroot(2)
	onTheHost   bool   // the root is mounted among the host's mounts
}

func (b *builder) close() {
	for _, fd := range []int{b.host, b.root, b.null, b.proc, b.mask} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	for _, fd := range append(b.held, b.procs...) {
		unix.Close(fd)
	}
}

// mountRoot makes the root file system a mount of this thread's namespace and opens it.
func (b *builder) mountRoot() error {
	var err error
	if b.ownMounts {
		if b.host, err = hostRoot(); err != nil {
			return err
		}
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
	b.onTheHost = b.rootInPlace && !b.ownMounts
	if !b.rootInPlace {
		at, err := b.openMountPoint()
		if err != nil {
			return err
		}
		defer unix.Close(at)
		if err := mount.Attach(fd, at); err != nil {
			return err
		}
		b.onTheHost = !b.ownMounts
	}
	if !b.onTheHost {
		return nil
	}
	// What is attached below a shared mount, as the host's mostly are, becomes shared: then each mount in the root would go to everybody who has a copy of the host's.
	if err := mount.SetAttr(fd, true, 0, 0, unix.MS_PRIVATE); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	return nil
}

// unmountHost takes back what was mounted among the host's mounts.
func (b *builder) unmountHost() {
	if b.onTheHost {
		unix.Unmount(b.place, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) //nolint:errcheck // best effort: the error that led here is told
	}
}

// openMountPoint opens a folder for the root to be mounted on, which nobody else will see. The root user of a user namespace may not be able to reach the one
// that was given.
func (b *builder) openMountPoint() (int, error) {
	b.place = b.req.MountPoint
	at, err := unix.Open(b.place, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil && b.req.staged != nil {
		for _, dir := range []string{"/tmp", "/var/tmp", "/mnt", "/run"} {
			if at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
				b.place = dir
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

// newRoot makes the root's file system. Where some write to the disk has failed since it was last synced, whoever's it was, overlayfs refuses to do without syncing.
func (b *builder) newRoot(m *api.Mount) (int, error) {
	fd, err := b.tryRoot(m)
	if i := slices.Index(m.Options, "volatile"); i >= 0 && errors.Is(err, unix.EIO) {
		synced := *m
		synced.Options = slices.Delete(slices.Clone(m.Options), i, i+1)
		fd, err = b.tryRoot(&synced)
	}
	if i := slices.IndexFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "upperdir=") }); i >= 0 && err != nil {
		err = fmt.Errorf("%w (%s)", err, m.Options[i]) // whose disk may be what is wrong
	}
	return fd, err
}

// tryRoot makes the root's file system: detached, or in place with mount(2) where an option is too long for fsconfig(2), as an overlay's lowerdir is
// with some layers. The place is in this thread's own mount namespace, at a path of the engine's own.
func (b *builder) tryRoot(m *api.Mount) (int, error) {
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
	b.rootInPlace, b.place = true, b.req.MountPoint
	return unix.Open(b.req.MountPoint, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
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
	for _, fd := range b.readonly {
		if err := mount.SetAttr(fd, false, unix.MOUNT_ATTR_RDONLY, 0, 0); err != nil {
			return fmt.Errorf("read-only mount: %w", err)
		}
	}
	if !b.spec.Root.Readonly {
		return nil
	}
	if err := mount.SetAttr(b.root, false, unix.MOUNT_ATTR_RDONLY, 0, 0); err != nil {
		return fmt.Errorf("read-only root: %w", err)
	}
	return nil
}

// pivot makes the root the thread's root and lets go of the host's mounts. It is the last that is done to the mounts.
func (b *builder) pivot() error {
	if !b.ownMounts {
		return nil
	}
	if err := enterRoot(b.host); err != nil {
		return err
	}
	if err := unix.Fchdir(b.root); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if b.req.NoPivot {
		if err := b.move(); err != nil {
			return err
		}
	} else {
		// "." twice stacks the old root on the new one, from where it is detached: pivot_root(2), NOTES.
		if err := unix.PivotRoot(".", "."); err != nil {
			if err == unix.EINVAL {
				return fmt.Errorf("pivot_root: %w: the host's root is the initial ramfs perhaps, which only --no-pivot can leave", err)
			}
			return os.NewSyscallError("pivot_root", err)
		}
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("detaching the host's mounts: %w", err)
		}
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("the container's root: %w", err)
	}
	// Not before: pivot_root(2) takes no shared root, and what is unbindable cannot be copied.
	flag, recursive, ok := propagationFlag(b.spec.Linux.RootfsPropagation)
	if !ok || flag == unix.MS_PRIVATE && !recursive {
		return nil // private is what it is
	}
	if err := mount.SetAttr(b.root, recursive, 0, 0, flag); err != nil {
		return fmt.Errorf("linux.rootfsPropagation: %w", err)
	}
	return nil
}

// move puts the root over the namespace's root and changes into it with chroot(2), for hosts that run from the initial ramfs (--no-pivot).
//
// It is weaker than pivot_root(2): the host's mounts stay in the container's mount namespace, out of sight of its paths only, and whoever gets
// out of a chroot, as a process with CAP_SYS_CHROOT can, has them. The host's procfs and sysfs are taken away first, since the kernel lets
// nobody mount a procfs with fewer masks than the one that is there, and would count the host's, which has none.
func (b *builder) move() error {
	table, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	var places []string
	for line := range strings.Lines(string(table)) {
		// ID parent major:minor root place options [optional fields] - type source options: proc_pid_mountinfo(5)
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 || !strings.HasPrefix(after, "proc ") && !strings.HasPrefix(after, "sysfs ") {
			continue
		}
		places = append(places, unescape(fields[4]))
	}
	slices.Reverse(places) // what is mounted on another comes after it
	for _, place := range places {
		if place == b.place || strings.HasPrefix(place, strings.TrimRight(b.place, "/")+"/") {
			continue // the container's own
		}
		if err := unix.Unmount(place, unix.MNT_DETACH); err == nil || err == unix.ENOENT { // gone with one above it
			continue
		}
		if err := unix.Mount("tmpfs", place, "tmpfs", unix.MS_RDONLY, "size=0"); err != nil {
			return fmt.Errorf("--no-pivot: hiding the host's %s: %w", place, err)
		}
	}
	if err := mount.Attach(b.root, b.host); err != nil {
		return fmt.Errorf("--no-pivot: %w", err)
	}
	return enterRoot(b.root)
}

// unescape undoes what the kernel writes for a space, tab, line feed and backslash in a mount table.
func unescape(s string) string {
	if !strings.Contains(s, "\\") {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
