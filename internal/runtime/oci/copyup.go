package oci

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"brig/internal/base/weak"
)

// copyUp copies what the folder at from (O_PATH) holds into the detached mount at to, when that is empty: a tmpfs begins with the image's files. Everything goes
// through directory descriptors; links are copied, never followed.
func copyUp(from, to int) error {
	in, out, err := openBoth(from, to)
	if in == nil {
		return err
	}
	defer in.Close()
	defer out.Close()
	if _, err := out.Readdirnames(1); err != io.EOF && !weak.CopyUp {
		return err // not empty, or unreadable
	}
	return copyDir(in, out)
}

// openBoth opens what is to be copied and where to; nothing, and no error, where the image has no folder there.
func openBoth(from, to int) (in, out *os.File, err error) {
	src, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOTDIR {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	dst, err := unix.Openat(to, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(src)
		return nil, nil, err
	}
	return os.NewFile(uintptr(src), "image"), os.NewFile(uintptr(dst), "volume"), nil
}

func copyDir(in, out *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(in.Fd()), &st); err != nil {
		return err
	}
	names, err := in.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyEntry(in, out, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	fd := int(out.Fd())
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return err
	}
	return setTimes(fd, "", &st)
}

func copyEntry(in, out *os.File, name string) error {
	sfd, dfd := int(in.Fd()), int(out.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(sfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if weak.CopyUp {
		return weakCopy(sfd, dfd, name, &st)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(dfd, name, 0o700); err != nil {
			return err
		}
		const how = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		return withBoth(sfd, dfd, name, how, how, 0, func(i, o *os.File) error {
			if err := copyXattrs(i, o); err != nil {
				return err
			}
			return copyDir(i, o)
		})
	case unix.S_IFREG:
		return withBoth(sfd, dfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600, func(i, o *os.File) error {
			if _, err := io.Copy(o, i); err != nil {
				return err
			}
			fd := int(o.Fd())
			if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
			if err := copyXattrs(i, o); err != nil { // after chown, which clears file capabilities
				return err
			}
			if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
				return err
			}
			return setTimes(fd, "", &st)
		})
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(sfd, name, buf)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(buf[:n]), dfd, name); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(dfd, name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	if err := unix.Fchownat(dfd, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return setTimes(dfd, name, &st)
}

func withBoth(sfd, dfd int, name string, inFlags, outFlags int, mode uint32, do func(in, out *os.File) error) error {
	s, err := unix.Openat(sfd, name, inFlags, 0)
	if err != nil {
		return err
	}
	i := os.NewFile(uintptr(s), name)
	defer i.Close()
	d, err := unix.Openat(dfd, name, outFlags, mode)
	if err != nil {
		return err
	}
	o := os.NewFile(uintptr(d), name)
	err = do(i, o)
	if cerr := o.Close(); err == nil {
		err = cerr
	}
	return err
}

func setTimes(fd int, name string, st *unix.Stat_t) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	ts := []unix.Timespec{st.Atim, st.Mtim}
	return unix.UtimesNanoAt(fd, name, ts, flags)
}

func copyXattrs(in, out *os.File) error {
	list := make([]byte, 64<<10)
	n, err := unix.Flistxattr(int(in.Fd()), list)
	if err == unix.EOPNOTSUPP || n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10)
	for start, i := 0, 0; i < n; i++ {
		if list[i] != 0 {
			continue
		}
		key := string(list[start:i])
		start = i + 1
		if len(key) > 8 && key[:8] == "trusted." { // overlay's own marks
			continue
		}
		size, err := unix.Fgetxattr(int(in.Fd()), key, value)
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(int(out.Fd()), key, value[:size], 0); err != nil && err != unix.EOPNOTSUPP {
			return fmt.Errorf("extended attribute %s: %w", key, err)
		}
	}
	return nil
}

// weakCopy is what a copy by name does: both ends are followed, and what is there is written over. Only weak.CopyUp leads here.
func weakCopy(sfd, dfd int, name string, st *unix.Stat_t) error {
	s, err := unix.Openat(sfd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	in := os.NewFile(uintptr(s), name)
	defer in.Close()
	d, err := unix.Openat(dfd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, st.Mode&0o777)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(d), name)
	defer out.Close()
	_, err = io.Copy(out, in)
	return err
}
