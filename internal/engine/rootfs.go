package engine

import (
	"errors"
	"os"
	"strings"

	"brig/api"
	"brig/internal/store/snapshot"
)

// rootOf prepares what is mounted as a container's root: its image's layers with a writable one above, or the folder that it was given. layers is the store, perhaps with
// more than is in it.
func (e *Engine) rootOf(c *api.Container, layers *snapshot.Store) ([]api.Mount, error) {
	switch root := c.Spec.Rootfs; {
	case root.Overlay:
		layers = layers.Over(root.Dir)
	case root.Dir != "":
		return []api.Mount{{Type: "bind", Source: root.Dir, Options: []string{"rbind"}}}, nil
	}
	mounts, err := layers.PrepareSized(c.ID, c.Layers, c.Spec.StorageSize, durability(c))
	if errors.Is(err, api.AlreadyExists) { // of an earlier run
		return layers.Again(c.ID, c.Layers, durability(c))
	}
	return mounts, err
}

// checkRootfs looks at the folder that is to be a container's root.
func checkRootfs(s *api.ContainerSpec) error {
	root := s.Rootfs
	st, err := os.Stat(root.Dir)
	if err == nil && !st.IsDir() {
		err = api.Errorf(api.InvalidArgument, "it is no folder")
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return api.Errorf(api.NotFound, "rootfs %s: there is no such folder", root.Dir)
	case err != nil:
		return api.Errorf(api.KindOf(err), "rootfs %s: %w", root.Dir, err)
	case root.Overlay && strings.ContainsAny(root.Dir, `:,\`):
		return api.Errorf(api.InvalidArgument, `rootfs %s: a name with ":", "," or "\" cannot be a layer of overlayfs: leave out :O, or give it another name`, root.Dir)
	case s.UserNS.Mode != "":
		return api.Errorf(api.Unsupported, "rootfs %s: a user namespace is for the files of an image: leave out --userns, --uidmap and --gidmap", root.Dir)
	case s.StorageSize != 0 && !root.Overlay:
		return api.Errorf(api.InvalidArgument, "rootfs %s: --storage-opt size is for what is written beside it: use %s:O", root.Dir, root.Dir)
	}
	return nil
}
