// Package extract turns the archive of an image layer into files, when the archive is an attacker's.
//
// Nothing is done by path. Every parent folder is opened with openat2(2), RESOLVE_IN_ROOT, so that a symbolic link of the archive
// leads to where it would lead in the container, never out of the layer; then every object is made, and its owner, mode, attributes
// and times are set, by its own name in that folder's descriptor or by its own descriptor, without following a link. Folder
// descriptors are kept for the entries that follow, for archives come folder by folder: most files cost an openat and no look-up.
//
// Entries replace what earlier ones made, a folder by a folder excepted, which merges. Missing parents are made, owned by root, mode
// 0755. OCI whiteouts become overlayfs's: .wh.NAME a character device 0:0, .wh..wh..opq the attribute trusted.overlay.opaque=y.
// A whiteout is about lower layers, so it does not hide what the same archive brings, before it or after.
//
// Attributes trusted.overlay.* from an archive are refused: they would steer overlayfs to other files. Labels of the host's security
// modules (security.*, but for security.capability) are left out, since they belong to the machine that made the archive.
package extract

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"

	"brig/api"

	"golang.org/x/sys/unix"
)

// The limits of an archive. What is beyond them is refused with api.Corrupt.
const (
	// MaxEntries is how many entries an archive may have: ten times the largest distribution image with all its documentation.
	MaxEntries = 4 << 20
	// MaxPath is how long the path of an entry may be, in bytes, as written and with the links in it resolved: PATH_MAX without its NUL.
	MaxPath = 4095
	// MaxDepth is how deep folders may be nested.
	MaxDepth = 512
	// MaxFolderNames bounds the memory for the folders whose times are set at the end, in bytes of their paths.
	MaxFolderNames = 64 << 20
)

const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueMarker   = ".wh..wh..opq"
	bufferSize     = 256 << 10
)

// Result is what an archive held.
type Result struct {
	Entries int
	Bytes   int64 // of file content
}

// Tree extracts the uncompressed archive r into the folder root, up to the archive's end marker. What follows the marker is left in r.
//
// An archive that is malformed, asks for what is not allowed or exceeds a limit is api.Corrupt; a full disk is api.Exhausted; both
// name the entry. What was extracted until then stays, for the caller to remove.
func Tree(ctx context.Context, root int, r io.Reader) (Result, error) {
	return run(ctx, root, r, false)
}

// Files is Tree for an archive that is no layer: a name that would be a whiteout there is a file's.
func Files(ctx context.Context, root int, r io.Reader) (Result, error) {
	return run(ctx, root, r, true)
}

func run(ctx context.Context, root int, r io.Reader, plain bool) (Result, error) {
	space, err := freeSpace(root)
	if err != nil {
		return Result{}, err
	}
	x := &extractor{dirs: newDirs(root), space: space, plain: plain, buf: make([]byte, bufferSize)}
	defer x.dirs.forget()
	return x.all(ctx, tar.NewReader(r))
}

// all extracts an archive up to its end.
func (x *extractor) all(ctx context.Context, tr *tar.Reader) (Result, error) {
	for {
		if err := ctx.Err(); err != nil {
			return x.result, err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return x.result, x.setFolderTimes()
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // names are judged below
			return x.result, archiveError(err)
		}
		if err := x.entry(hdr, tr); err != nil {
			return x.result, err
		}
	}
}

// extractor is one extraction.
type extractor struct {
	dirs   *dirs
	result Result
	space  int64 // bytes that were free at the start
	plain  bool  // no name is a whiteout
	buf    []byte

	folders     []folderTime // set when nothing changes the folders any more
	folderBytes int
	replaced    bool     // some entry replaced an earlier one
	over        *Options // of Into, nil: it is a layer
}

// folderTime is when a folder was changed, as the archive says.
type folderTime struct {
	path  string
	mtime unix.Timespec
}

// object is where an entry goes: a name in an open folder. The folder itself, for the root, has the name ".".
type object struct {
	dir  int
	base string
	path string // for messages
}

// entry extracts one entry.
func (x *extractor) entry(hdr *tar.Header, content io.Reader) error {
	if x.result.Entries++; x.result.Entries > MaxEntries {
		return corrupt(hdr.Name, "more than %d entries", MaxEntries)
	}
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if hdr.Size > x.space-x.result.Bytes {
		return api.Errorf(api.Exhausted, "entry %q: no space left: the archive holds at least %d bytes more than the %d that were free", hdr.Name, x.result.Bytes-x.space+hdr.Size, x.space)
	}
	dir, base := path.Split(name)
	if !x.plain {
		if skip, err := checkMarkers(name, base); skip || err != nil {
			return err
		}
	}
	fd, err := x.dirs.open(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return entryError(hdr.Name, err)
	}
	at := object{dir: fd, base: base, path: name}
	if name == "." {
		at.base = "."
	}
	if !x.plain && strings.HasPrefix(base, whiteoutPrefix) {
		err = x.whiteout(at)
	} else {
		err = x.make(at, hdr, content)
	}
	return entryError(hdr.Name, err)
}

// make extracts one entry that is not a whiteout.
func (x *extractor) make(at object, hdr *tar.Header, content io.Reader) error {
	if at.base == "." && hdr.Typeflag != tar.TypeDir {
		return corrupt(hdr.Name, "the root must be a folder")
	}
	if err := x.mayReplace(at, hdr); err != nil {
		return err
	}
	if x.over != nil && x.over.Mine {
		hdr.Uid, hdr.Gid = os.Geteuid(), os.Getegid()
	}
	if x.over != nil && x.over.Owner != nil {
		var err error
		if hdr.Uid, hdr.Gid, err = x.over.Owner(hdr.Uid, hdr.Gid); err != nil {
			return err
		}
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return x.folder(at, hdr)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return x.file(at, hdr, content)
	case tar.TypeSymlink:
		return x.symlink(at, hdr)
	case tar.TypeLink:
		return x.hardLink(at, hdr)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return x.node(at, hdr)
	}
	return corrupt(hdr.Name, "unknown type %q of entry", hdr.Typeflag)
}

// cleanName makes an entry's name relative to the root, without "." and ".."; the root itself is ".". A name that climbs above the
// root is refused.
func cleanName(name string) (string, error) {
	if len(name) > MaxPath {
		return "", corrupt(name[:64]+"…", "the path has %d bytes, more than %d", len(name), MaxPath)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	switch {
	case name == "":
		return "", corrupt(name, "an entry without a name")
	case strings.IndexByte(name, 0) >= 0:
		return "", corrupt(name, "a NUL in the name")
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return "", corrupt(name, "the path leads out of the layer")
	case strings.Count(clean, "/") >= MaxDepth:
		return "", corrupt(name[:min(64, len(name))]+"…", "folders nested deeper than %d", MaxDepth)
	}
	return clean, nil
}

// checkMarkers judges the reserved names. Those of aufs, from long ago, are skipped.
func checkMarkers(name, base string) (skip bool, err error) {
	if !strings.Contains(name, whiteoutPrefix) {
		return false, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, metaPrefix) && part != opaqueMarker {
			return true, nil
		}
	}
	for part := range strings.SplitSeq(path.Dir(name), "/") {
		if strings.HasPrefix(part, whiteoutPrefix) {
			return false, corrupt(name, "an entry below a whiteout")
		}
	}
	switch strings.TrimPrefix(base, whiteoutPrefix) {
	case "", ".", "..":
		return false, corrupt(name, "a whiteout of no name")
	}
	return false, nil
}

// setFolderTimes gives the folders the times that making their content has changed. A folder that was replaced since has none.
func (x *extractor) setFolderTimes() error {
	for _, f := range x.folders {
		dir, base := path.Split(f.path)
		fd, err := x.dirs.find(strings.TrimSuffix(dir, "/"))
		if err == nil && x.replaced {
			var st unix.Stat_t
			err = unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
			if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
				err = unix.ENOTDIR
			}
		}
		if err == nil {
			err = setTimes(object{dir: fd, base: base}, f.mtime)
		}
		if x.replaced && (err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP) {
			continue
		}
		if err != nil {
			return entryError(f.path, err)
		}
	}
	return nil
}

// freeSpace is how many bytes can be written below a folder.
func freeSpace(fd int) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return 0, err
	}
	if st.Blocks == 0 { // a file system that does not tell
		return math.MaxInt64, nil
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// corrupt is the refusal of an entry.
func corrupt(name, format string, args ...any) error {
	return api.Errorf(api.Corrupt, "entry %q: "+format, append([]any{name}, args...)...)
}

// entryError names the entry that an error is about, and gives the kinds to the system's errors that have one.
func entryError(name string, err error) error {
	switch {
	case err == nil, api.KindOf(err) != "":
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return api.Errorf(api.Exhausted, "entry %q: no space left: %w", name, err)
	case errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR),
		errors.Is(err, unix.ENOENT), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EMLINK), errors.Is(err, unix.EXDEV),
		errors.Is(err, unix.ERANGE), errors.Is(err, unix.E2BIG):
		return api.Errorf(api.Corrupt, "entry %q: %w", name, err)
	}
	return fmt.Errorf("entry %q: %w", name, err)
}

// archiveError tells what is wrong with the archive from what is wrong with its source, whose errors pass as they are.
func archiveError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return api.Errorf(api.Corrupt, "not a whole archive: %w", err)
	}
	return err
}
