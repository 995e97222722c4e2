package shim

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/kernel/proc"
	"brig/internal/runtime/oci"
)

// A container without a mount namespace has its root among the host's mounts, at STATE/root/ID. It is not in the sandbox's folder, which is removed with all
// that is in it: whoever removes that must not be able to reach files of the host that are mounted in a root.

// rootsName is the folder, beside that of the sandboxes, in which those roots are mounted.
const rootsName = "root"

// RootPlace is where the root of a container without a mount namespace is mounted; dir is its sandbox's folder.
func RootPlace(dir string) string {
	return filepath.Join(filepath.Dir(filepath.Dir(dir)), rootsName, filepath.Base(dir))
}

// makeRootPlace makes the folder for it.
func makeRootPlace(dir string) (string, error) {
	place := RootPlace(dir)
	return place, os.MkdirAll(place, 0o700)
}

// removeLimit is how long RemoveRoot waits for who has the root open, or has just made it anew.
const removeLimit = 2 * time.Second

// RemoveRoot ends who is left of the container in its root, takes the root away from the host's mounts, and its place. Where it is mounted in another mount
// namespace than this process's it goes from there too, with its place: the kernel takes away what is mounted on a folder that is removed.
func RemoveRoot(dir string) error {
	place := RootPlace(dir)
	if _, err := os.Lstat(place); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := proc.KillRooted(place); err != nil {
		return err
	}
	for deadline := time.Now().Add(removeLimit); ; time.Sleep(time.Millisecond) {
		if err := oci.Unmount(place); err != nil {
			return err
		}
		err := unix.Rmdir(place)
		switch {
		case err == nil || err == unix.ENOENT:
			return nil
		case err != unix.EBUSY || time.Now().After(deadline): // busy: more than one mount is on it
			return &os.PathError{Op: "rmdir", Path: place, Err: err}
		}
	}
}

// ownMounts reports whether a container has a mount namespace, of its own or another's.
func ownMounts(spec *specs.Spec) bool {
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.MountNamespace {
			return true
		}
	}
	return false
}
