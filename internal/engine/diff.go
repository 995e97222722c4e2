package engine

import (
	"context"

	"golang.org/x/sys/unix"

	"brig/api"
)

// Diff tells what a container has changed of its image's files.
func (e *Engine) Diff(ctx context.Context, name string) ([]api.Change, error) {
	c, err := e.meta.Container(name)
	if err != nil {
		return nil, err
	}
	layers := e.snapshot.Of(&c)
	switch root := c.Spec.Rootfs; {
	case root.Overlay:
		layers = layers.Over(root.Dir)
	case root.Dir != "":
		return nil, api.Errorf(api.Unsupported, "container %s: its root is the folder %s itself, and nobody knows what was in it before: --rootfs %s:O keeps changes apart", c.Name, root.Dir, root.Dir)
	}
	changes, err := layers.Changes(ctx, c.ID, c.Layers, brigsOwn)
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "container %s: %w", c.Name, err)
	}
	return changes, nil
}

// brigsOwn says that an entry is a place that Brig made to mount on, and that docker does not show either.
func brigsOwn(path string, st *unix.Stat_t) bool {
	switch path {
	case "etc/hosts", "etc/hostname", "etc/resolv.conf":
		return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0
	case "dev", "proc", "sys", "sbin/brig-init":
		return true
	}
	return false
}
