package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/store/overlay"
	"brig/internal/store/sized"
	"brig/internal/store/snapshot/tree"

	"golang.org/x/sys/unix"
)

const (
	// maxJoined is how long the joined options may be, in bytes: mount(2) takes a page, and the driver may add options of its own.
	maxJoined = 4000
	// maxLayers bounds the lower layers; the kernel's own limit, OVL_MAX_STACK, is 500.
	maxLayers = 120
)

// Prepare makes the writable layer of container id above the layers diffIDs, bottom first, and returns what to mount as its root: an
// overlay, or for an image without layers a bind mount of the writable layer. The root folder has owner and mode of the top layer's.
//
// With atomicfile.Volatile the layer is one that goes with its process: the kernel need not write it to the disk when it is unmounted, for which it would sync
// the whole file system. A layer that is not unpacked is api.Corrupt, an id that has a writable layer already api.AlreadyExists. On error nothing is left.
func (s *Store) Prepare(id string, diffIDs []string, sync atomicfile.Sync) ([]api.Mount, error) {
	return s.PrepareSized(id, diffIDs, 0, sync)
}

// PrepareSized is Prepare for a writable layer that holds size bytes and no more: a file system of its own. 0: what the disk has.
func (s *Store) PrepareSized(id string, diffIDs []string, size int64, sync atomicfile.Sync) ([]api.Mount, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if len(diffIDs) > maxLayers {
		return nil, api.Errorf(api.Unsupported, "container %s: its image has %d layers, more than the %d that can be mounted; squash the image", id, len(diffIDs), maxLayers)
	}
	// overlayfs and mount(2) give these characters a meaning of their own.
	if strings.ContainsAny(s.dir, `:,\`) {
		return nil, api.Errorf(api.InvalidArgument, `folder %s: its name must not contain ":", "," or "\", which overlayfs cannot take; choose another --root`, s.dir)
	}
	paths, err := s.Lowers(diffIDs)
	if err != nil {
		return nil, err
	}
	if s.below != "" {
		paths = append(paths, s.below)
	}
	if err := s.makeActive(id, paths, size, sync); err != nil {
		return nil, err
	}
	return s.mounts(id, paths, sync), nil
}

// Again returns what Prepare returned, for a container that is started again. The diff IDs must be those of Prepare.
func (s *Store) Again(id string, diffIDs []string, sync atomicfile.Sync) ([]api.Mount, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	place, err := s.attached(id)
	if err != nil {
		return nil, err
	}
	if sync == atomicfile.Volatile { // the mark of a layer that was never synced: it is as it was left, or a power cut has taken its process too
		mark := filepath.Join(place, "work", "work", "incompat", "volatile")
		if err := os.RemoveAll(mark); err != nil {
			return nil, err
		}
	}
	paths, err := s.Lowers(diffIDs)
	if err != nil {
		return nil, err
	}
	if s.below != "" {
		paths = append(paths, s.below)
	}
	// Whoever made it was killed and never mounted it, or a power cut took a folder that was not on the disk yet.
	if unix.Access(place+"/work", unix.F_OK) == unix.ENOENT || unix.Access(place+"/fs", unix.F_OK) == unix.ENOENT {
		if err := s.fillActive(place, paths); err != nil {
			return nil, err
		}
	}
	return s.mounts(id, paths, sync), nil
}

// makeActive makes the folders of a writable layer above the folders lowers.
func (s *Store) makeActive(id string, lowers []string, size int64, sync atomicfile.Sync) (err error) {
	dir := s.active(id)
	err = os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(dir), 0o700); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return api.Errorf(api.AlreadyExists, "snapshot of container %s: already exists", id)
	}
	if err != nil {
		return err
	}
	place := dir
	if size > 0 {
		place = s.disk(id)
		if err = sized.Make(s.image(id), size, sync); err == nil {
			err = sized.Attach(s.image(id), place)
		}
	}
	if err == nil {
		err = s.fillActive(place, lowers)
	}
	if err != nil {
		s.Remove(id) //nolint:errcheck // the error that led here is told
		return err
	}
	return nil
}

// fillActive makes what is in the folder of a writable layer, as far as it is missing. Its root has owner and mode of the top layer's. The folder work
// comes last: a layer that has it is whole.
func (s *Store) fillActive(dir string, lowers []string) error {
	root := unix.Stat_t{Mode: 0o755}
	if s.shifted != nil {
		root.Uid, root.Gid = diskOwner(*s.shifted)(0, 0)
	}
	if n := len(lowers); n > 0 {
		if err := unix.Lstat(lowers[n-1], &root); err != nil {
			return &fs.PathError{Op: "lstat", Path: lowers[n-1], Err: err}
		}
	}
	upper := dir + "/fs"
	if err := unix.Mkdir(upper, 0o700); err != nil && err != unix.EEXIST {
		return &fs.PathError{Op: "mkdir", Path: upper, Err: err}
	}
	if root.Uid != 0 || root.Gid != 0 {
		if err := unix.Lchown(upper, int(root.Uid), int(root.Gid)); err != nil {
			return &fs.PathError{Op: "lchown", Path: upper, Err: err}
		}
	}
	if err := unix.Chmod(upper, root.Mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: upper, Err: err}
	}
	if err := unix.Mkdir(dir+"/work", 0o700); err != nil && err != unix.EEXIST {
		return &fs.PathError{Op: "mkdir", Path: dir + "/work", Err: err}
	}
	return nil
}

// mounts is the overlay over the folders lowers, bottom first.
func (s *Store) mounts(id string, lowers []string, sync atomicfile.Sync) []api.Mount {
	dir := s.place(id)
	if len(lowers) == 0 {
		return []api.Mount{{Type: "bind", Source: dir + "/fs", Options: []string{"bind"}}}
	}
	const lower, plus = "lowerdir=", "lowerdir+="
	upper := append(overlay.Options(), "upperdir="+dir+"/fs", "workdir="+dir+"/work")
	if sync == atomicfile.Volatile {
		upper = append(upper, "volatile")
	}
	layers := make([]string, len(lowers)) // top first, as overlayfs has them
	length := len(lower)
	for _, option := range upper {
		length += len(option) + 1
	}
	for i, path := range lowers {
		layers[len(lowers)-1-i] = path
		length += len(path) + 1
	}
	data := s.Data(lowers)
	if length <= maxJoined && data == "" {
		return []api.Mount{{Type: "overlay", Source: "overlay", Options: append([]string{lower + strings.Join(layers, ":")}, upper...)}}
	}
	for i := range layers {
		layers[i] = plus + layers[i]
	}
	if data != "" {
		layers = append(layers, "datadir+="+data)
	}
	return []api.Mount{{Type: "overlay", Source: "overlay", Options: append(layers, upper...)}}
}

// Remove removes a container's writable layer, which must not be mounted. That it is not there is no error, and it may be called
// again after it was killed.
func (s *Store) Remove(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	dir := s.active(id)
	if err := s.detach(id); err != nil {
		return err
	}
	// A container that changed nothing left four empty folders.
	for _, sub := range [...]string{"/fs", "/work/work", "/work", ""} {
		if err := unix.Rmdir(dir + sub); err != nil && err != unix.ENOENT {
			return tree.Remove(dir)
		}
	}
	return nil
}

// Discard moves a container's writable layer to trash, a path on the same file system. What is left is to remove trash.
func (s *Store) Discard(id, trash string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := s.detach(id); err != nil {
		return err
	}
	if err := os.Rename(s.active(id), trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *Store) layerFS(hex string) string { return filepath.Join(s.dir, "layer", hex, "fs") }

// A writable layer with a size is a file, mounted beside it.
func (s *Store) image(id string) string { return filepath.Join(s.active(id), "image") }
func (s *Store) disk(id string) string  { return filepath.Join(s.active(id), "disk") }

// place is where a container's writable layer has its folders.
func (s *Store) place(id string) string {
	if unix.Access(s.disk(id), unix.F_OK) == nil {
		return s.disk(id)
	}
	return s.active(id)
}

// attached is place, and has a layer with a size be mounted there.
func (s *Store) attached(id string) (string, error) {
	place := s.place(id)
	if place == s.active(id) {
		return place, nil
	}
	return place, sized.Attach(s.image(id), place)
}

// detach unmounts a layer with a size.
func (s *Store) detach(id string) error {
	if place := s.place(id); place != s.active(id) {
		return sized.Detach(place)
	}
	return nil
}
