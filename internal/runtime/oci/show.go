package oci

import (
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/mount"
)

// AnnotationShow has a tree of the container's, with all that is mounted in it, mounted in another mount namespace too: ShowValue. It is there until somebody unmounts it, or removes the folder
// that it is mounted on by a path that is in neither namespace.
const AnnotationShow = "org.brig.show"

// ShowValue is the value of AnnotationShow: the tree, an absolute path in the container, and where it is to appear: the path of a mount namespace, and in that a folder. No link leads to
// either.
func ShowValue(tree, namespace, place string) string {
	return strings.Join([]string{tree, namespace, place}, "\x00")
}

// show does what AnnotationShow says, when all else is mounted.
func (b *builder) show() error {
	value, ok := b.spec.Annotations[AnnotationShow]
	if !ok {
		return nil
	}
	f := strings.Split(value, "\x00")
	if len(f) != 3 || !hasNamespace(b.spec, specs.MountNamespace) {
		return api.Errorf(api.InvalidArgument, "config.json: annotation %s: %q is no value of it", AnnotationShow, value)
	}
	tree, err := b.openUnfollowed(f[0])
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	fd, err := mount.Clone(tree, "", true)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := onThread(func() error { return attachThere(fd, f[1], f[2]) }); err != nil {
		return fmt.Errorf("showing the container's tree to another: %w", err)
	}
	return nil
}

// attachThere attaches a detached mount in another mount namespace. The thread does not come back from there.
func attachThere(fd int, namespace, place string) error {
	if err := enterMounts(namespace); err != nil {
		return err
	}
	at, err := unix.Openat2(unix.AT_FDCWD, strings.TrimPrefix(place, "/"), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return &os.PathError{Op: "open", Path: "the other's " + place, Err: err}
	}
	defer unix.Close(at)
	return mount.Attach(fd, at)
}

// enterMounts takes this thread, for good, into another mount namespace: root and current folder are that namespace's root then.
func enterMounts(namespace string) error {
	ns, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: namespace, Err: err}
	}
	defer unix.Close(ns)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("joining the mount namespace %s: %w", namespace, err)
	}
	return nil
}
