package oci

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/mount"
)

// maxDevices is how many entries of a container's /dev are carried over: what else is there a hostile container has made.
const maxDevices = 512

// lendTools gives this thread, which has joined a container, a mount namespace of its own in which the folder tools is at [api.ToolsDir]. Nothing is written into
// the container's files, and nothing that runs in it sees the mounts: the folder's place is in a new /dev, to which all that was in the old one is bound.
func lendTools(tools int) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/", Err: err}
	}
	defer unix.Close(root)
	if err := mount.SetAttr(root, true, 0, 0, unix.MS_PRIVATE); err != nil {
		return err
	}
	old, err := mount.OpenInRoot(root, "dev", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return api.Errorf(api.Unsupported, "the tools have no place in the container: %w", err)
	}
	dir := os.NewFile(uintptr(old), "/dev")
	defer dir.Close()
	fresh, err := mount.New("tmpfs", "brig-tools", []string{"mode=755", "size=1m"}, unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return err
	}
	defer unix.Close(fresh)
	if err := mount.Attach(fresh, old); err != nil {
		return err
	}
	entries, err := dir.ReadDir(maxDevices) // of what was there: the descriptor is older than the mount
	if err != nil && len(entries) == 0 && !errors.Is(err, fs.ErrNotExist) {
		entries = nil // an empty /dev
	}
	for _, e := range entries {
		if err := carry(old, fresh, e); err != nil {
			return err
		}
	}
	name := api.ToolsDir[len("/dev/"):]
	if err := unix.Mkdirat(fresh, name, 0o755); err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "mkdir", Path: api.ToolsDir, Err: err}
	}
	place, err := unix.Openat(fresh, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: api.ToolsDir, Err: err}
	}
	defer unix.Close(place)
	return mount.Attach(tools, place)
}

// carry brings one entry of the folder old into the folder fresh: a link as a link, all else as a bind mount. What has gone meanwhile is left out.
func carry(old, fresh int, e fs.DirEntry) error {
	name := e.Name()
	failed := func(err error) error {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return &os.PathError{Op: "bind", Path: "/dev/" + name, Err: err}
	}
	if e.Type()&fs.ModeSymlink != 0 {
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(old, name, buf)
		if err != nil {
			return failed(err)
		}
		return failed(unix.Symlinkat(string(buf[:n]), fresh, name))
	}
	tree, err := mount.Clone(old, name, true)
	if err != nil {
		return failed(err)
	}
	defer unix.Close(tree)
	if e.IsDir() {
		err = unix.Mkdirat(fresh, name, 0o755)
	} else {
		err = unix.Mknodat(fresh, name, unix.S_IFREG|0o600, 0)
	}
	if err != nil {
		return failed(err)
	}
	place, err := unix.Openat(fresh, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed(err)
	}
	defer unix.Close(place)
	return failed(mount.Attach(tree, place))
}
