package extract

import (
	"archive/tar"
	"context"
	"io"
	"math"

	"brig/api"

	"golang.org/x/sys/unix"
)

// Options are for an archive that is no layer.
type Options struct {
	// Mine makes everything belong to this process, instead of to the owners that the archive names.
	Mine bool
	// Owner says whose a file of the archive is to be; nil: whose the archive says.
	Owner func(uid, gid int) (int, int, error)
}

// Into extracts the archive r into the folder root, over what is there, while others may be at work in that folder. It differs from Tree in that
//
//   - names of whiteouts are names like any other;
//   - a folder and something else do not replace each other: api.Conflict;
//   - what is mounted in the folder is entered;
//   - the folder root itself stays as it is.
//
// As with Tree no entry, link or exchange of names leads out of root.
func Into(ctx context.Context, root int, r io.Reader, o Options) (Result, error) {
	x := &extractor{dirs: newDirs(root), space: math.MaxInt64, buf: make([]byte, bufferSize), plain: true, over: &o}
	x.dirs.mounts = true
	defer x.dirs.forget()
	return x.all(ctx, tar.NewReader(r))
}

// mayReplace refuses to put a folder in the place of something else, or the other way round.
func (x *extractor) mayReplace(at object, hdr *tar.Header) error {
	if x.over == nil || at.base == "." {
		return nil
	}
	var st unix.Stat_t
	err := unix.Fstatat(at.dir, at.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	was, is := st.Mode&unix.S_IFMT == unix.S_IFDIR, hdr.Typeflag == tar.TypeDir
	switch {
	case was && !is:
		return api.Errorf(api.Conflict, "cannot overwrite directory %q with non-directory", at.path)
	case is && !was:
		return api.Errorf(api.Conflict, "cannot overwrite non-directory %q with directory", at.path)
	}
	return nil
}

// isMounted reports whether a name is that of something mounted there. The kernel would let us unlink it, since the mount is in another mount namespace than
// ours, and take the mount away there. Kernels before 5.8, which do not tell, tell by the device.
func isMounted(at object) bool {
	var here, there unix.Statx_t
	const mask = unix.STATX_MNT_ID | unix.STATX_TYPE
	if unix.Statx(at.dir, "", unix.AT_EMPTY_PATH, mask, &here) != nil || unix.Statx(at.dir, at.base, unix.AT_SYMLINK_NOFOLLOW, mask, &there) != nil {
		return false
	}
	if here.Mask&there.Mask&unix.STATX_MNT_ID != 0 {
		return here.Mnt_id != there.Mnt_id
	}
	return here.Dev_major != there.Dev_major || here.Dev_minor != there.Dev_minor
}

// openMounted opens a regular file that is mounted, to be written over in its place.
func openMounted(at object) (int, error) {
	found, err := unix.Openat(at.dir, at.base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(found)
	var st unix.Stat_t
	if err := unix.Fstat(found, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG { // whatever it is, opening it may do something
		return -1, unix.EBUSY
	}
	return unix.Open(procPath(found), unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, 0)
}
