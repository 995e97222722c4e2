package machine

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// OwnMounts moves the calling thread into a mount namespace of its own, cut off from the machine's. The thread must be locked to its
// goroutine and never unlocked; it ends with it, and so do the mounts. The working directory becomes /.
func OwnMounts() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	return cutOff()
}

// OnThread runs f on a thread of its own, which is ended afterwards: f may take it into other namespaces. The main thread will not do,
// since Go parks it instead of ending it.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return
		}
		done <- OnThread(f)
		runtime.UnlockOSThread()
	}()
	return <-done
}

// CutOffMounts keeps what is mounted in the program's mount namespace from now on from the namespace that it was made from.
func CutOffMounts() error {
	return OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		return cutOff()
	})
}

// cutOff makes all mounts of this thread's namespace private. They are not all below "/" where the tests run in a chroot, which need not
// even be a mount itself; setns(2) with the namespace that the thread is in leads to its root.
func cutOff() error {
	here, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(here)
	ns, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("root of the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Fchdir(here); err != nil {
		return err
	}
	return unix.Chroot(".")
}
