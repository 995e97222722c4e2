package extract

import (
	"archive/tar"
	"errors"
	"io"
	"path"
	"strings"
	"time"

	"brig/internal/base/rootless"
	"brig/internal/store/overlay"
	"brig/internal/store/snapshot/tree"

	"golang.org/x/sys/unix"
)

// folder makes a folder, or takes the one that is there, and sets what the archive says of it; its times come at the end.
func (x *extractor) folder(at object, hdr *tar.Header) error {
	opaque := false
	if at.base != "." {
		err := unix.Mkdirat(at.dir, at.base, 0o700)
		if err == unix.EEXIST {
			var st unix.Stat_t
			if err := unix.Fstatat(at.dir, at.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				err = nil
			} else {
				opaque = isWhiteout(&st)
				if err = x.remove(at); err == nil {
					err = unix.Mkdirat(at.dir, at.base, 0o700)
				}
			}
		}
		if err != nil {
			return err
		}
	}
	fd, err := unix.Openat(at.dir, at.base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if opaque {
		if err := unix.Fsetxattr(fd, overlay.Opaque(), []byte("y"), 0); err != nil {
			return err
		}
	}
	if x.over != nil && at.base == "." { // the folder that all goes into stays as it is, as with docker cp
		return nil
	}
	if err := setByDescriptor(fd, hdr); err != nil {
		return err
	}
	if x.folderBytes += len(at.path); x.folderBytes > MaxFolderNames {
		return corrupt(hdr.Name, "the names of its folders have more than %d bytes", MaxFolderNames)
	}
	x.folders = append(x.folders, folderTime{at.path, timespec(hdr.ModTime)})
	return nil
}

// file makes a regular file.
func (x *extractor) file(at object, hdr *tar.Header, content io.Reader) error {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(at.dir, at.base, flags, 0o600)
	if err == unix.EEXIST {
		if err = x.remove(at); err == nil {
			fd, err = unix.Openat(at.dir, at.base, flags, 0o600)
		} else if err == unix.EBUSY && x.over != nil {
			fd, err = openMounted(at)
		}
	}
	if err != nil {
		return err
	}
	err = x.copy(fd, hdr, content)
	if err == nil {
		err = setByDescriptor(fd, hdr)
	}
	if err == nil {
		err = setTimes(at, timespec(hdr.ModTime))
	}
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	return err
}

// copy writes a file's content. What the archive leaves out of a sparse file is left out of the file.
func (x *extractor) copy(fd int, hdr *tar.Header, content io.Reader) error {
	if hdr.Size == 0 {
		return nil
	}
	sparse := isSparse(hdr)
	hole := false
	for {
		n, err := content.Read(x.buf)
		b := x.buf[:n]
		x.result.Bytes += int64(n)
		if hole = sparse && n > 0 && isZero(b); hole {
			if _, err := unix.Seek(fd, int64(n), io.SeekCurrent); err != nil {
				return err
			}
			b = nil
		}
		for len(b) > 0 {
			m, err := unix.Write(fd, b)
			if err != nil && err != unix.EINTR {
				return err
			}
			b = b[max(m, 0):]
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return archiveError(err)
		}
	}
	if sparse {
		return unix.Ftruncate(fd, hdr.Size)
	}
	return nil
}

// symlink makes a symbolic link, wherever it leads.
func (x *extractor) symlink(at object, hdr *tar.Header) error {
	if hdr.Linkname == "" {
		return corrupt(hdr.Name, "a symbolic link to nowhere")
	}
	err := unix.Symlinkat(hdr.Linkname, at.dir, at.base)
	if err == unix.EEXIST {
		if err = x.remove(at); err == nil {
			err = unix.Symlinkat(hdr.Linkname, at.dir, at.base)
		}
	}
	if err != nil {
		return err
	}
	return setByName(at, hdr)
}

// hardLink gives one more name to a file of this archive.
func (x *extractor) hardLink(at object, hdr *tar.Header) error {
	target, err := cleanName(hdr.Linkname)
	if err != nil {
		return err
	}
	dir, base := path.Split(target)
	if target == "." {
		return corrupt(hdr.Name, "a hard link to the root")
	}
	from, err := x.dirs.find(strings.TrimSuffix(dir, "/"))
	if err == nil {
		here, _ := path.Split(at.path)
		at.dir, err = x.dirs.find(strings.TrimSuffix(here, "/")) // the search before may have closed it
	}
	if err == nil {
		err = unix.Linkat(from, base, at.dir, at.base, 0)
	}
	if err == unix.EEXIST {
		var old, this unix.Stat_t
		err = errors.Join(unix.Fstatat(from, base, &this, unix.AT_SYMLINK_NOFOLLOW), unix.Fstatat(at.dir, at.base, &old, unix.AT_SYMLINK_NOFOLLOW))
		if err == nil && old.Ino == this.Ino {
			return nil
		}
		if err == nil && this.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = unix.EPERM // before anything is removed for it
		}
		if err == nil {
			if err = x.remove(at); err == nil {
				err = unix.Linkat(from, base, at.dir, at.base, 0)
			}
		}
	}
	switch err {
	case unix.ENOENT:
		return corrupt(hdr.Name, "a hard link to %q, which is not in the layer", hdr.Linkname)
	case unix.EPERM:
		return corrupt(hdr.Name, "a hard link to %q, which is a folder", hdr.Linkname)
	}
	return err
}

// node makes a device or a FIFO.
func (x *extractor) node(at object, hdr *tar.Header) error {
	number, err := device(hdr)
	if err != nil {
		return err
	}
	mode := uint32(unix.S_IFIFO)
	switch hdr.Typeflag {
	case tar.TypeChar:
		mode = unix.S_IFCHR
	case tar.TypeBlock:
		mode = unix.S_IFBLK
	}
	if mode != unix.S_IFIFO && rootless.Active() {
		// The kernel lets root of a user namespace make no device, nor open one that others made there. Other engines leave it out too; the mark of a
		// missing file also hides a device's name in lower layers, as the device itself would.
		return x.whiteout(object{dir: at.dir, base: whiteoutPrefix + at.base})
	}
	dev := int(number)
	err = unix.Mknodat(at.dir, at.base, mode|0o600, dev)
	if err == unix.EEXIST {
		if err = x.remove(at); err == nil {
			err = unix.Mknodat(at.dir, at.base, mode|0o600, dev)
		}
	}
	if err != nil {
		return err
	}
	return setByName(at, hdr)
}

// device is the number of a device, as the kernel encodes it in 32 bits; a FIFO's is 0.
func device(hdr *tar.Header) (uint32, error) {
	if hdr.Typeflag == tar.TypeFifo {
		return 0, nil
	}
	const maxMajor, maxMinor = 1<<12 - 1, 1<<20 - 1 // dev_t of the kernel
	if hdr.Devmajor < 0 || hdr.Devmajor > maxMajor || hdr.Devminor < 0 || hdr.Devminor > maxMinor {
		return 0, corrupt(hdr.Name, "no device can have the number %d:%d", hdr.Devmajor, hdr.Devminor)
	}
	return uint32(unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))), nil
}

// whiteout hides what lower layers have: one name, or all that a folder holds.
func (x *extractor) whiteout(at object) error {
	if at.base == opaqueMarker {
		return setOpaque(at.dir, ".")
	}
	at.base = strings.TrimPrefix(at.base, whiteoutPrefix)
	err := unix.Mknodat(at.dir, at.base, unix.S_IFCHR|0o600, 0)
	if err != unix.EEXIST {
		return err
	}
	// The archive brings the name itself. A file hides what is below as it is; a folder would merge with it.
	var st unix.Stat_t
	if err := unix.Fstatat(at.dir, at.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return setOpaque(at.dir, at.base)
	}
	return nil
}

// remove takes away what an entry replaces.
func (x *extractor) remove(at object) error {
	if x.over != nil && isMounted(at) {
		return unix.EBUSY
	}
	x.replaced = true
	x.dirs.outdated()
	return tree.RemoveAt(at.dir, at.base)
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// isSparse reports whether the archive leaves parts of the file out, in one of GNU tar's ways.
func isSparse(hdr *tar.Header) bool {
	return hdr.Typeflag == tar.TypeGNUSparse || hdr.PAXRecords["GNU.sparse.major"] != "" || hdr.PAXRecords["GNU.sparse.map"] != "" || hdr.PAXRecords["GNU.sparse.size"] != ""
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}
