package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/kernel/mount"
	"brig/internal/store/erofs"
	"brig/internal/store/packed"

	"golang.org/x/sys/unix"
)

// Packed layers are mounted below the state folder, each once for all that use it, so that the kernel keeps one copy of their files in memory:
//
//	layer/HEX/fs         where the layer is mounted
//	layer/HEX/users/ID   one for each container, or whoever else, that uses it
//	layer/.lock          shared: a user is being added; exclusive: a layer is being mounted or unmounted
//
// The last user's leaving unmounts it.

// In is the store with a folder of boot-lived state, below which layers are mounted.
func (s *Store) In(state string) *Store { return &Store{dir: s.dir, state: state} }

func (s *Store) mounted(hex string) string { return filepath.Join(s.state, "layer", hex) }

// isPacked reports whether a layer is an image.
func (s *Store) isPacked(hex string) bool {
	return unix.Access(filepath.Join(s.layer(hex), packed.ImageFile), unix.F_OK) == nil
}

// attach mounts a packed layer for a user, unless it is mounted, and returns its folder.
func (s *Store) attach(id, hex string) (string, error) {
	if s.state == "" {
		return "", api.Errorf(api.Unsupported, "layer sha256:%s is an image, and there is no state folder to mount it in", hex)
	}
	at := filepath.Join(s.mounted(hex), "fs")
	l, err := s.lockMounts(lock.Shared)
	if err != nil {
		return "", err
	}
	err = s.join(id, hex)
	there := isErofs(at)
	l.Release()
	if err != nil || there {
		return at, err
	}
	if l, err = s.lockMounts(lock.Take); err != nil {
		return "", err
	}
	defer l.Release()
	if isErofs(at) {
		return at, nil
	}
	image := filepath.Join(s.layer(hex), packed.ImageFile)
	fd, err := mount.New("erofs", image, nil, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return "", fmt.Errorf("layer sha256:%s: %w; `brig system check` tells whether it is whole", hex, err)
	}
	defer unix.Close(fd)
	place, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: at, Err: err}
	}
	defer unix.Close(place)
	return at, mount.Attach(fd, place)
}

// join adds a user of a layer. The caller has the lock, so that nobody takes the folders away.
func (s *Store) join(id, hex string) error {
	dir := s.mounted(hex)
	user := filepath.Join(dir, "users", id)
	fd, err := unix.Open(user, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err == unix.ENOENT {
		for _, sub := range []string{"users", "fs"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
				return err
			}
		}
		fd, err = unix.Open(user, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	}
	if err != nil {
		return &fs.PathError{Op: "create", Path: user, Err: err}
	}
	return unix.Close(fd)
}

// isErofs reports whether an EROFS is mounted at a folder.
func isErofs(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && uint32(st.Type) == unix.EROFS_SUPER_MAGIC_V1
}

// lockMounts takes layer/.lock.
func (s *Store) lockMounts(take func(string) (*lock.Lock, error)) (*lock.Lock, error) {
	path := filepath.Join(s.state, "layer", ".lock")
	l, err := take(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		l, err = take(path)
	}
	return l, err
}

// Detach says that a container uses its layers no more. That it uses none is no error.
func (s *Store) Detach(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	all, err := readNames(filepath.Join(s.state, "layer"))
	if err != nil {
		return err
	}
	var errs []error
	for _, hex := range all {
		if hex[0] == '.' {
			continue
		}
		users := filepath.Join(s.mounted(hex), "users")
		if unix.Unlink(filepath.Join(users, id)) == nil && unix.Rmdir(users) == nil {
			errs = append(errs, s.unmount(hex))
		}
	}
	return errors.Join(errs...)
}

// unmount takes away a layer's mount that has no users.
func (s *Store) unmount(hex string) error {
	l, err := s.lockMounts(lock.Take)
	if err != nil {
		return err
	}
	defer l.Release()
	dir := s.mounted(hex)
	if err := unix.Rmdir(filepath.Join(dir, "users")); err != nil && err != unix.ENOENT {
		return nil //nolint:nilerr // somebody uses it again
	}
	at := filepath.Join(dir, "fs")
	if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return &fs.PathError{Op: "umount", Path: at, Err: err}
	}
	for _, d := range []string{at, dir} {
		if err := unix.Rmdir(d); err != nil && err != unix.ENOENT {
			return &fs.PathError{Op: "rmdir", Path: d, Err: err}
		}
	}
	return nil
}

// DetachAll unmounts all layers, whoever uses them.
func (s *Store) DetachAll() error {
	all, err := readNames(filepath.Join(s.state, "layer"))
	var errs []error
	for _, hex := range all {
		if hex[0] == '.' {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.mounted(hex), "users")); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, s.unmount(hex))
	}
	return errors.Join(append(errs, err)...)
}

// View mounts layers read-only for a user that is no container, bottom first, and returns what to mount to see them as one. Detach ends it.
func (s *Store) View(id string, diffIDs []string) ([]api.Mount, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	paths, err := s.lowers(id, diffIDs)
	if err != nil {
		return nil, err
	}
	options := make([]string, len(paths))
	for i, p := range paths {
		options[len(paths)-1-i] = "lowerdir+=" + p
	}
	switch len(paths) {
	case 0:
		return nil, api.Errorf(api.NotFound, "there are no layers to look at")
	case 1:
		return []api.Mount{{Type: "bind", Source: paths[0], Options: []string{"bind", "ro"}}}, nil
	}
	return []api.Mount{{Type: "overlay", Source: "overlay", Options: append(options, "ro")}}, nil
}

// lowers returns the folders of layers, bottom first; packed ones are mounted for the user.
func (s *Store) lowers(id string, diffIDs []string) ([]string, error) {
	paths := make([]string, len(diffIDs))
	for i, d := range diffIDs {
		hex, err := checkDiffID(d)
		if err != nil {
			return nil, err
		}
		paths[i] = s.layerFS(hex)
		if unix.Access(paths[i], unix.F_OK) == nil {
			continue
		}
		if !s.isPacked(hex) {
			return nil, api.Errorf(api.Corrupt, "image layer %s is not unpacked in %s; fetch the image again with `brig pull`", d, s.dir)
		}
		if paths[i], err = s.attach(id, hex); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// Packs reports whether this kernel, and this process, can mount what Pack makes. It tries.
func (s *Store) Packs() bool {
	if err := s.makeFolders(); err != nil {
		return false
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, "unpack"), ".probe-")
	if err != nil {
		return false
	}
	defer os.Remove(f.Name())
	defer f.Close()
	w := erofs.NewWriter(f)
	// An empty block, and the last one, which is stored, of five bytes.
	if _, err := w.Cluster([]byte{2, 4, 5, 0, 0xfa, 0xff, 'p', 'r', 'o', 'b', 'e'}, 5); err != nil {
		return false
	}
	file := &erofs.Node{Mode: erofs.ModeFile | 0o400, Size: 5}
	if _, _, err := w.Finish(&erofs.Node{Mode: erofs.ModeDir | 0o500, Children: map[string]*erofs.Node{"probe": file}}, [16]byte{}); err != nil {
		return false
	}
	fd, err := mount.New("erofs", f.Name(), nil, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	in, err := unix.Openat(fd, "probe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(in)
	b := make([]byte, 8)
	n, err := unix.Read(in, b)
	return err == nil && string(b[:n]) == "probe"
}
