package oci

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// hostRoot cuts this thread's new mount namespace off from the host's: what the host mounts later may come in,
// nothing goes out: what is to be shared with the host is opened in the host's own namespace. It returns the namespace's own root for pivot.
//
// That root is not always "/": Brig may run in a chroot, as in a build system or a rescue shell. A container that took only the place of
// the chroot would have the whole host above its root, and whoever joins its namespace would stand in the host's root. setns(2) with the
// namespace that the thread is in leads to its root.
func hostRoot() (int, error) {
	here, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/", Err: err}
	}
	defer unix.Close(here)
	ns, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/proc/thread-self/ns/mnt", Err: err}
	}
	defer unix.Close(ns)
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("root of the mount namespace: %w", err)
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/", Err: err}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		unix.Close(root)
		return -1, fmt.Errorf("mount propagation of /: %w", err)
	}
	if err := enterRoot(here); err != nil { // paths mean what the caller sees
		unix.Close(root)
		return -1, err
	}
	return root, nil
}

// enterRoot makes the folder of a descriptor this thread's root and working directory.
func enterRoot(fd int) error {
	if err := unix.Fchdir(fd); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	return os.NewSyscallError("chroot", unix.Chroot("."))
}
