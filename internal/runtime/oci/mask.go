package oci

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/weak"
	"brig/internal/kernel/mount"
)

// maskPaths hides paths: a folder under an empty read-only file system, a file under the null device. What does not exist needs no mask.
func (b *builder) maskPaths(paths []string) error {
	for _, p := range paths {
		at, err := b.openForCover(p)
		if err != nil {
			return fmt.Errorf("masked path %s: %w", p, err)
		}
		if at < 0 {
			continue
		}
		err = b.hide(at)
		unix.Close(at)
		if err != nil {
			return fmt.Errorf("masked path %s: %w", p, err)
		}
	}
	return nil
}

// openForCover opens what p leads to inside the root; -1 when there is nothing. A path without a slash in front is taken from the root, as runc
// takes it. A link at its end is followed, since what is to be hidden is the content and not the name.
func (b *builder) openForCover(p string) (int, error) {
	p = path.Clean("/" + p)
	if p == "/" {
		return -1, api.Errorf(api.InvalidArgument, "that is the container's root itself")
	}
	base, name := b.root, p[1:]
	if rest, ok := strings.CutPrefix(p, "/proc/"); ok && b.proc >= 0 && !weak.Mask {
		base, name = b.proc, rest // the proc that was mounted, not what a path may lead to
	}
	at, err := mount.OpenInRoot(base, name, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return -1, nil
	}
	return at, err
}

func (b *builder) hide(at int) error {
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return err
	}
	src, err := b.nullDevice()
	if err != nil {
		return err
	}
	if weak.Mask {
		if fd, err := mount.OpenInRoot(b.root, "dev/null", unix.O_PATH, 0); err == nil {
			src = fd
		}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if b.mask < 0 {
			fd, err := mount.New("tmpfs", "tmpfs", b.labelled("tmpfs", []string{"size=0", "nr_inodes=2", "mode=0555"}), unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
			if err != nil {
				return err
			}
			b.mask = fd
		}
		src = b.mask
	}
	// Only a mount that is attached can be copied before Linux 6.15, so the first use attaches the original.
	fd, err := mount.Clone(src, "", false)
	if err != nil {
		if mount.Attach(src, at) == nil {
			return nil
		}
		return err
	}
	defer unix.Close(fd)
	return mount.Attach(fd, at)
}

// readonlyPaths makes paths read-only in place.
func (b *builder) readonlyPaths(paths []string) error {
	for _, p := range paths {
		at, err := b.openForCover(p)
		if err != nil {
			return fmt.Errorf("read-only path %s: %w", p, err)
		}
		if at < 0 {
			continue
		}
		fd, err := mount.Clone(at, "", true)
		if err == nil {
			if err = mount.SetAttr(fd, true, unix.MOUNT_ATTR_RDONLY, 0, 0); err == nil {
				err = mount.Attach(fd, at)
			}
			unix.Close(fd)
		}
		unix.Close(at)
		if err != nil {
			return fmt.Errorf("read-only path %s: %w", p, err)
		}
	}
	return nil
}
