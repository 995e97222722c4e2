package oci

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/weak"
)

const (
	// filling marks the folder of a volume whose files are on their way in. It is trusted, so that no container can set it.
	filling = "trusted.brig.filling"
	// fillLimit is how long a container waits for another that fills the volume of both.
	fillLimit = time.Minute
	fillPoll  = 10 * time.Millisecond
)

// fillVolume is [copyUp] for a volume, which outlives the container and may be killed, or lose power, half filled: what is in it then is not the user's, and the next
// container fills it anew. The mark is there before the first file is, and gone when all of them are: a volume with files and without it is left alone. It is locked
// meanwhile, for two containers may start with one new volume. durable says that it is to survive a power cut: then each step is synced before the next one.
func fillVolume(from, to int, durable bool) error {
	in, out, err := openBoth(from, to)
	if in == nil {
		return err
	}
	defer in.Close()
	defer out.Close()
	if err := lockFolder(out); err != nil {
		return err
	}
	_, err = unix.Fgetxattr(int(out.Fd()), filling, nil)
	half := err == nil
	if err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
		return err
	}
	if half {
		if err := empty(out); err != nil {
			return err
		}
	} else if _, err := out.Readdirnames(1); err != io.EOF && !weak.CopyUp {
		return err // not empty, or unreadable
	}
	_, err = in.Readdirnames(1)
	if _, serr := in.Seek(0, io.SeekStart); serr != nil {
		return serr
	}
	if err == io.EOF && !half {
		return copyDir(in, out) // owner and mode alone
	}
	// Rootless there are no trusted attributes, and some file systems have none: what is killed then stays half filled.
	err = unix.Fsetxattr(int(out.Fd()), filling, nil, 0)
	marked := err == nil
	if err != nil && err != unix.EPERM && err != unix.EOPNOTSUPP {
		return err
	}
	if durable {
		if err := out.Sync(); err != nil {
			return err
		}
	}
	if err := copyDir(in, out); err != nil {
		return err
	}
	if durable {
		if err := unix.Syncfs(int(out.Fd())); err != nil { // costs less than an fsync(2) a file
			return os.NewSyscallError("syncfs", err)
		}
	}
	if !marked {
		return nil
	}
	if err := unix.Fremovexattr(int(out.Fd()), filling); err != nil {
		return err
	}
	if durable { // before the container writes: what it writes must not be taken for half a copy
		return out.Sync()
	}
	return nil
}

// lockFolder takes a lock that ends with f.
func lockFolder(f *os.File) error {
	for deadline := time.Now().Add(fillLimit); ; time.Sleep(fillPoll) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK {
			return os.NewSyscallError("flock", err)
		}
		if time.Now().After(deadline) {
			return api.Errorf(api.Conflict, "another process has kept the volume locked for %s: it is being filled, or a container locks its top folder", fillLimit)
		}
	}
}

// empty removes all that is in a folder, by descriptors, links not followed.
func empty(dir *os.File) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := unix.Unlinkat(int(dir.Fd()), name, 0)
		if errors.Is(err, unix.EISDIR) {
			err = emptyAndRemove(dir, name)
		}
		if err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "remove", Path: name, Err: err}
		}
	}
	_, err = dir.Seek(0, io.SeekStart)
	return err
}

func emptyAndRemove(dir *os.File, name string) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	sub := os.NewFile(uintptr(fd), name)
	defer sub.Close()
	if err := empty(sub); err != nil {
		return err
	}
	return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
}
