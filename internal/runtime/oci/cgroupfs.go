package oci

import (
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/weak"
	"brig/internal/kernel/cgroup"
	"brig/internal/kernel/mount"
)

// AnnotationCgroup with the value CgroupEntrusted gives the container a part of its version 2 cgroup to rule, with a group for its first process in it
// (cgroup.Group.Entrust): for who mounts it writable, as type cgroup2, with a cgroup namespace of the container's own.
const (
	AnnotationCgroup = "org.brig.cgroup"
	CgroupEntrusted  = "entrusted"
)

// Entrusted reports whether a configuration's annotations ask for that.
func Entrusted(annotations map[string]string) bool {
	return annotations[AnnotationCgroup] == CgroupEntrusted
}

// mountCgroup shows the container its own groups, as if they were the roots of the hierarchies: on version 2, or where type cgroup2 asks for that alone,
// one folder; on version 1 and hybrid a tmpfs with a folder a hierarchy and links for controllers that share one. With a cgroup namespace
// of its own that is all that a container could mount itself; without one it is less than what /proc/self/cgroup names.
func (b *builder) mountCgroup(m *specs.Mount, opts *mountOptions) error {
	g := b.group
	if g == nil {
		return api.Errorf(api.Unsupported, "the container has no cgroup of its own to show: leave this mount out")
	}
	list := g.Hierarchies()
	if weak.Cgroup {
		opts.set = 0
		for i := range list {
			list[i].Dir = list[i].Mount
		}
	}
	two := slices.IndexFunc(list, func(h cgroup.Hierarchy) bool { return h.Controllers == nil })
	if m.Type == "cgroup2" && two < 0 {
		return api.Errorf(api.Unsupported, "type cgroup2: this host has no version 2 hierarchy mounted: type cgroup shows what it has")
	}
	at, err := mount.MkdirAllInRoot(b.root, destination(m), 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if two >= 0 && (len(list) == 1 || m.Type == "cgroup2") {
		return b.bindGroup(list[two].Dir, at, opts)
	}
	fd, err := mount.New("tmpfs", "tmpfs", b.labelled("tmpfs", []string{"mode=755"}), int(opts.set&^unix.MOUNT_ATTR_RDONLY))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := cgroupFolders(fd, list); err != nil {
		return err
	}
	if err := mount.Attach(fd, at); err != nil {
		return err
	}
	for _, h := range list {
		group, err := mount.Clone(unix.AT_FDCWD, h.Dir, false)
		if err != nil {
			return err
		}
		// By name: the tmpfs is new and holds nothing but what was made above.
		err = unix.MoveMount(group, "", fd, path.Base(h.Mount), unix.MOVE_MOUNT_F_EMPTY_PATH)
		unix.Close(group)
		if err != nil {
			return os.NewSyscallError("move_mount", err)
		}
	}
	if err := mount.SetAttr(fd, true, opts.set, opts.clr, unix.MS_PRIVATE); err != nil {
		return err
	}
	rest := *opts
	rest.set, rest.clr = 0, 0
	return b.attributes(fd, &rest)
}

// cgroupFolders makes a folder for each hierarchy, named as on the host, and a link for each controller that has another name.
func cgroupFolders(fd int, list []cgroup.Hierarchy) error {
	for _, h := range list {
		name := path.Base(h.Mount)
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			return &os.PathError{Op: "mkdir", Path: name, Err: err}
		}
	}
	for _, h := range list {
		for _, controller := range h.Controllers {
			alias := strings.TrimPrefix(controller, "name=")
			if err := unix.Symlinkat(path.Base(h.Mount), fd, alias); err != nil && err != unix.EEXIST {
				return &os.PathError{Op: "symlink", Path: alias, Err: err}
			}
		}
	}
	return nil
}

func (b *builder) bindGroup(dir string, at int, opts *mountOptions) error {
	fd, err := mount.Clone(unix.AT_FDCWD, dir, false)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := mount.SetAttr(fd, false, opts.set, opts.clr, unix.MS_PRIVATE); err != nil {
		return err
	}
	if err := mount.Attach(fd, at); err != nil {
		return err
	}
	rest := *opts
	rest.set, rest.clr = 0, 0
	return b.attributes(fd, &rest)
}
