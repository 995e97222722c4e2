package oci

import (
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/mount"
	"brig/internal/kernel/userns"
)

// idmap maps the owners of a detached mount's files, by the mount's own mappings or, where it has none, by the container's user namespace.
// It must be called on a thread of the host.
func (b *builder) idmap(fd int, m *specs.Mount, opts *mountOptions) error {
	if opts.owner != nil {
		return b.ownerMap(fd, opts)
	}
	uids, gids := m.UIDMappings, m.GIDMappings
	if len(uids)+len(gids) == 0 {
		for _, n := range b.spec.Linux.Namespaces {
			if n.Type == specs.UserNamespace && n.Path != "" {
				ns, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return &os.PathError{Op: "open", Path: n.Path, Err: err}
				}
				defer unix.Close(ns)
				return mount.IDMap(fd, ns, opts.recMap)
			}
		}
		uids, gids = b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings
	}
	ns, err := userns.New(uids, gids)
	if err != nil {
		return fmt.Errorf("ID-mapped mount: %w", err)
	}
	defer unix.Close(ns)
	return mount.IDMap(fd, ns, opts.recMap)
}
