package oci

import (
	"os"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/mount"
)

// mountCgroup shows the container its own groups, as if they were the roots of the hierarchies: on version 2, or where type cgroup2 asks for that alone,
// one folder; on version 1 and hybrid a tmpfs with a folder a hierarchy and links for controllers that share one. With a cgroup namespace
// of its own that is all that a container could mount itself; without one it is less than what /proc/self/cgroup names.
func (b *builder) mountCgroup(m *specs.Mount, opts *mountOptions) error {
	g, err := b.group()
	if err != nil {
		return err
	}
	if g == nil {
		return api.Errorf(api.Unsupported, "the container has no cgroup of its own to show: leave this mount out")
	}
	paths := g.Paths()
	dir, unified := paths[""]
	if m.Type == "cgroup2" && !unified {
		return api.Errorf(api.Unsupported, "type cgroup2: this host has no version 2 hierarchy mounted: type cgroup shows what it has")
	}
	at, err := mount.MkdirAllInRoot(b.root, destination(m), 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if unified && (len(paths) == 1 || m.Type == "cgroup2") {
		return b.bindGroup(dir, at, opts)
	}
	fd, err := mount.New("tmpfs", "tmpfs", b.labelled("tmpfs", []string{"mode=755"}), int(opts.set&^unix.MOUNT_ATTR_RDONLY))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	hierarchies := map[string]string{}
	for controller, dir := range paths {
		name := path.Base(strings.TrimSuffix(dir, g.Path()))
		hierarchies[name] = dir
		alias := strings.TrimPrefix(controller, "name=")
		if controller == "" || alias == name {
			continue
		}
		if err := unix.Symlinkat(name, fd, alias); err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "symlink", Path: alias, Err: err}
		}
	}
	for name := range hierarchies {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			return &os.PathError{Op: "mkdir", Path: name, Err: err}
		}
	}
	if err := mount.Attach(fd, at); err != nil {
		return err
	}
	for name, dir := range hierarchies {
		group, err := mount.Clone(unix.AT_FDCWD, dir, false)
		if err != nil {
			return err
		}
		// By name: the tmpfs is new and holds nothing but what was made above.
		err = unix.MoveMount(group, "", fd, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
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
