package transfer

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/mount"
	marks "brig/internal/store/overlay"
	"brig/internal/store/snapshot"
)

// rootAttr is how a container's files are mounted to be read: nothing in them can be a device or be executed by way of that mount.
const rootAttr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOATIME

// maxJoined is how long the options of mount(2) may be, in bytes.
const maxJoined = 4000

// upper is the folder of what a container has changed, "" where it was never started.
func (t *Transfer) upper(c *api.Container) (string, error) {
	dir, err := t.stores.Snapshot.Upper(c.ID)
	if errors.Is(err, api.NotFound) {
		return "", nil
	}
	return dir, err
}

// lowers are the folders of a container's layers, top first, and the layer of data that they need, if they do.
func (t *Transfer) lowers(c *api.Container) (all []string, data string, err error) {
	layers := t.stores.Snapshot.Of(c)
	all, err = layers.Lowers(c.Layers)
	slices.Reverse(all)
	return all, layers.Data(all), err
}

// ownersOf turns the owners of a container's files into those that it sees; nil: they are the same.
func ownersOf(c *api.Container) func(uid, gid uint32) (uint32, uint32) {
	if m, ok := snapshot.Owners(c); ok {
		return m.Inside
	}
	return nil
}

// openRoot mounts a container's root file system, read-only and where nobody else sees it, and opens it. What the container goes on
// changing is seen. Closing the file ends the mount.
func (t *Transfer) openRoot(c *api.Container) (*os.File, error) {
	fd, err := t.mountRoot(c)
	if err != nil {
		return nil, api.Errorf(api.KindOf(err), "container %s: its root file system: %w", c.Name, err)
	}
	return os.NewFile(uintptr(fd), "root of "+c.Name), nil
}

func (t *Transfer) mountRoot(c *api.Container) (int, error) {
	upper, err := t.upper(c)
	if err != nil {
		return -1, err
	}
	all, data, err := t.lowers(c)
	if err != nil {
		return -1, err
	}
	if dir := c.Spec.Rootfs.Dir; dir != "" {
		all = append(all, dir)
	}
	if upper != "" {
		all = append([]string{upper}, all...)
	}
	switch {
	case len(all) == 0:
		return -1, api.Errorf(api.NotFound, "it was never started, and its image has no files")
	case len(all) == 1 && data == "": // overlayfs wants two
		return cloneRoot(all[0])
	}
	return overlay(all, data, t.stores.Root)
}

// cloneRoot is a mount of one folder.
func cloneRoot(dir string) (int, error) {
	fd, err := mount.Clone(unix.AT_FDCWD, dir, false)
	if err != nil {
		return -1, err
	}
	set, clr := uint64(rootAttr), uint64(unix.MOUNT_ATTR__ATIME)
	if rootless.Active() { // the kernel locks how the host's mounts count accesses: user_namespaces(7)
		set, clr = set&^unix.MOUNT_ATTR_NOATIME, 0
	}
	if err := mount.SetAttr(fd, false, set, clr, unix.MS_PRIVATE); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// overlay mounts folders, top first, one above the other; data is a layer of data for them. All are lower layers, so that overlayfs writes to none of them: the upper one may be in
// use by the container, which "index=off" allows. place is a folder to mount on in a namespace of its own, for kernels before 6.5.
func overlay(layers []string, data, place string) (int, error) {
	own := append(marks.Options(), "index=off")
	options := slices.Clone(own)
	for _, l := range layers {
		options = append(options, "lowerdir+="+l)
	}
	if data != "" {
		options = append(options, "datadir+="+data)
	}
	fd, err := mount.New("overlay", "overlay", options, rootAttr)
	if err == nil || data != "" {
		return fd, err
	}
	joined := strings.Join(own, ",") + ",lowerdir=" + strings.Join(layers, ":")
	if len(joined) > maxJoined || slices.ContainsFunc(layers, func(l string) bool { return strings.ContainsAny(l, `:,\`) }) {
		return -1, err
	}
	return overlayInPlace(joined, place)
}

// overlayInPlace is overlay with mount(2), which needs a place: one in a mount namespace that ends with the thread that it is made for. What is
// mounted there is detached at once, and lives as long as the descriptor.
func overlayInPlace(options, place string) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		fd, err := func() (int, error) {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return -1, os.NewSyscallError("unshare", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return -1, os.NewSyscallError("mount", err)
			}
			flags := uintptr(unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOATIME)
			if err := unix.Mount("overlay", place, "overlay", flags, options); err != nil {
				return -1, &os.PathError{Op: "mount overlay", Path: place, Err: err}
			}
			fd, err := unix.Open(place, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if uerr := unix.Unmount(place, unix.MNT_DETACH); err == nil && uerr != nil {
				unix.Close(fd)
				err = uerr
			}
			return fd, err
		}()
		done <- result{fd, err}
	}()
	r := <-done
	return r.fd, r.err
}
