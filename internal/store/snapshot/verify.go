package snapshot

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/store/packed"
	"brig/internal/store/snapshot/extract"
)

// VerifyPacked holds a layer that is kept as an image against what was written, every bit of it, and returns the blob that it gives and its length in bytes.
// What is wrong is api.Corrupt. A layer that is kept as a folder, or not there, is api.NotFound.
func (s *Store) VerifyPacked(ctx context.Context, diffID digest.Digest) (blob digest.Digest, size int64, err error) {
	hex, err := checkDiffID(string(diffID))
	if err != nil {
		return "", 0, err
	}
	if !s.Packed(diffID) {
		return "", 0, api.Errorf(api.NotFound, "layer %s: not in the store as an image", diffID)
	}
	info, err := packed.Verify(ctx, s.layer(hex))
	if errors.Is(err, fs.ErrNotExist) && s.Has(diffID) {
		err = api.Errorf(api.Corrupt, "%w", err)
	}
	if err == nil && info.Archive != "" && info.Archive != diffID {
		err = api.Errorf(api.Corrupt, "layer %s: its image holds an archive with the digest %s; `brig system check --repair` fetches the layer again", diffID, info.Archive)
	}
	return info.Blob, info.BlobSize, err
}

// Packed reports whether a layer is kept as an image: it has one of the two files of that, for the other may be what is missing.
func (s *Store) Packed(diffID digest.Digest) bool {
	hex, err := checkDiffID(string(diffID))
	if err != nil {
		return false
	}
	return s.isPacked(hex) || unix.Access(filepath.Join(s.layer(hex), packed.RecipeFile), unix.F_OK) == nil
}

// PutAside moves a layer, which is damaged, to a path on the same file system, and unmounts it: what was read of it must not be read again. No container
// that uses it may run.
func (s *Store) PutAside(diffID digest.Digest, to string) error {
	hex, err := checkDiffID(string(diffID))
	if err != nil {
		return err
	}
	l, err := s.lockUnpack(hex)
	if err != nil {
		return err
	}
	defer s.unlockUnpack(hex, l)
	if s.Packed(diffID) {
		if err := s.unmountLayer(hex); err != nil {
			return err
		}
	}
	return os.Rename(s.layer(hex), to)
}

// VerifyFolder holds the files of an unpacked layer against the layer's uncompressed archive: names, types, owners, modes, times of files,
// attributes and every byte. What differs is api.Corrupt and says which file and how; what the archive is if it is not the layer's is api.Corrupt too. A
// layer that is not there is api.NotFound. Nothing is written.
func (s *Store) VerifyFolder(ctx context.Context, diffID digest.Digest, archive io.Reader) error {
	hex, err := checkDiffID(string(diffID))
	if err != nil {
		return err
	}
	root, err := unix.Open(s.layerFS(hex), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT && !s.Has(diffID) {
		return api.Errorf(api.NotFound, "layer %s: not in the store", diffID)
	}
	if err != nil {
		return api.Errorf(api.Corrupt, "layer %s: its folder: %w", diffID, err)
	}
	defer unix.Close(root)
	v := &verifier{root: root, want: map[place]*object{}, sums: map[uint64][sha256.Size]byte{}}
	h := sha256.New()
	if err := v.archive(ctx, io.TeeReader(archive, h)); err != nil {
		return api.Errorf(kindOr(err, api.KindOf(err)), "layer %s: its archive: %w", diffID, err)
	}
	if _, err := io.Copy(h, archive); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, h); got != diffID {
		return api.Errorf(api.Corrupt, "layer %s: the archive that it was to be compared with has the digest %s", diffID, got)
	}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return err
	}
	if err := v.compare(ctx, root, place{}, ".", &st); err != nil {
		return differs(diffID, err)
	}
	if err := v.folder(ctx, root, st.Ino, "", 0); err != nil {
		return differs(diffID, err)
	}
	for p, o := range v.want {
		if !o.seen && p != (place{}) {
			return api.Errorf(api.Corrupt, "layer %s: %q is missing", diffID, o.path)
		}
	}
	size, err := s.LayerSize(string(diffID))
	if err != nil || size != v.bytes {
		return api.Errorf(api.Corrupt, "layer %s: its file size says %d, not %d", diffID, size, v.bytes)
	}
	return nil
}

func kindOr(err error, k api.Kind) api.Kind {
	if k == "" && !errors.Is(err, context.Canceled) {
		return api.Corrupt
	}
	return k
}

func differs(d digest.Digest, err error) error {
	return api.Errorf(kindOr(err, api.KindOf(err)), "layer %s: %w", d, err)
}

// place is a name in a folder of the layer, which is known by its inode; the zero place is the root.
type place struct {
	dir  uint64
	base string
}

// object is what an archive says of a name. Of a nil header nothing is known but that it is a folder.
type object struct {
	path string
	hdr  *tar.Header
	sum  [sha256.Size]byte // of a file's content
	size int64
	seen bool
}

type verifier struct {
	root  int
	want  map[place]*object
	sums  map[uint64][sha256.Size]byte // by inode, of files with several names
	bytes int64
}

// archive learns what the layer must be. Later entries replace earlier ones as they do when they are extracted.
func (v *verifier) archive(ctx context.Context, r io.Reader) error {
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return err
		}
		if n > extract.MaxEntries {
			return fmt.Errorf("more than %d entries", extract.MaxEntries)
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		o := &object{path: strings.TrimLeft(path.Clean("/"+hdr.Name), "/"), hdr: hdr}
		if isRegular(hdr) {
			h := sha256.New()
			if o.size, err = io.Copy(h, tr); err != nil {
				return err
			}
			v.bytes += o.size
			h.Sum(o.sum[:0])
		}
		v.entry(o)
	}
}

func isRegular(hdr *tar.Header) bool {
	return hdr.Typeflag == tar.TypeReg || hdr.Typeflag == tar.TypeCont || hdr.Typeflag == tar.TypeGNUSparse
}

// entry notes one entry at its place.
func (v *verifier) entry(o *object) {
	const whiteout, meta = ".wh.", ".wh..wh."
	if o.path == "" {
		v.want[place{}] = o
		return
	}
	dir, base := path.Split(o.path)
	for part := range strings.SplitSeq(o.path, "/") {
		if strings.HasPrefix(part, meta) {
			return // a mark of this folder, or aufs's own
		}
	}
	at, ok := v.placeOf(dir, base)
	if !ok {
		v.want[place{0, o.path}] = o // its folder is not there: so it is missing
		return
	}
	if name, ok := strings.CutPrefix(base, whiteout); ok {
		at.base = name
		if v.want[at] == nil { // else the archive brings the name itself
			v.want[at] = &object{path: path.Join(dir, name), hdr: &tar.Header{Typeflag: tar.TypeChar, Mode: -1}}
		}
		return
	}
	if o.hdr.Typeflag == tar.TypeLink {
		from, name := path.Split(strings.TrimLeft(path.Clean("/"+o.hdr.Linkname), "/"))
		if p, ok := v.placeOf(from, name); ok && v.want[p] != nil {
			same := *v.want[p]
			same.path, same.seen = o.path, false
			o = &same
		}
	}
	if rootless.Active() && (o.hdr.Typeflag == tar.TypeChar || o.hdr.Typeflag == tar.TypeBlock) { // extracted as the mark of a missing file
		o.hdr = &tar.Header{Typeflag: tar.TypeChar, Mode: -1}
	}
	v.want[at] = o
}

// placeOf finds the folder dir in the layer, with links led as when it was extracted.
func (v *verifier) placeOf(dir, base string) (place, bool) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	name := strings.TrimSuffix(dir, "/")
	if name == "" {
		name = "."
	}
	fd, err := unix.Openat2(v.root, name, &how)
	if err != nil {
		return place{}, false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return place{}, false
	}
	return place{st.Ino, base}, true
}

// folder compares all that is in an open folder.
func (v *verifier) folder(ctx context.Context, fd int, ino uint64, name string, depth int) error {
	if depth > extract.MaxDepth {
		return fmt.Errorf("%q: folders nested deeper than %d", name, extract.MaxDepth)
	}
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(again), name)
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return &fs.PathError{Op: "read", Path: name, Err: err}
	}
	for _, base := range names {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		full := path.Join(name, base)
		var st unix.Stat_t
		if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "stat", Path: full, Err: err}
		}
		if err := v.compare(ctx, fd, place{ino, base}, full, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		sub, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return &fs.PathError{Op: "open", Path: full, Err: err}
		}
		err = v.folder(ctx, sub, st.Ino, full, depth+1)
		unix.Close(sub)
		if err != nil {
			return err
		}
	}
	return nil
}

// compare holds one object against what the archive says.
func (v *verifier) compare(ctx context.Context, dir int, at place, name string, st *unix.Stat_t) error {
	o := v.want[at]
	if o == nil {
		if st.Mode&unix.S_IFMT == unix.S_IFDIR { // the archive need not mention the root and parents
			return nil
		}
		return fmt.Errorf("%q is not in the archive", name)
	}
	o.seen = true
	hdr := o.hdr
	if want := modeType(hdr); st.Mode&unix.S_IFMT != want {
		return fmt.Errorf("%q has the type %o, not %o", name, st.Mode&unix.S_IFMT, want)
	}
	if hdr.Mode == -1 { // a whiteout
		if st.Rdev != 0 {
			return fmt.Errorf("%q is not the mark of a removed file", name)
		}
		return nil
	}
	if int(st.Uid) != hdr.Uid || int(st.Gid) != hdr.Gid {
		return fmt.Errorf("%q has the owner %d:%d, not %d:%d", name, st.Uid, st.Gid, hdr.Uid, hdr.Gid)
	}
	if hdr.Typeflag != tar.TypeSymlink && st.Mode&0o7777 != uint32(hdr.Mode)&0o7777 {
		return fmt.Errorf("%q has the mode %o, not %o", name, st.Mode&0o7777, hdr.Mode&0o7777)
	}
	if hdr.Typeflag != tar.TypeDir && (st.Mtim.Sec != hdr.ModTime.Unix() || int(st.Mtim.Nsec) != hdr.ModTime.Nanosecond()) {
		return fmt.Errorf("%q was changed", name)
	}
	switch {
	case hdr.Typeflag == tar.TypeSymlink:
		buf := make([]byte, len(hdr.Linkname)+1)
		n, err := unix.Readlinkat(dir, at.base, buf)
		if err != nil || string(buf[:n]) != hdr.Linkname {
			return fmt.Errorf("%q leads to %q, not to %q", name, buf[:max(n, 0)], hdr.Linkname)
		}
	case hdr.Typeflag == tar.TypeChar || hdr.Typeflag == tar.TypeBlock:
		if int64(unix.Major(st.Rdev)) != hdr.Devmajor || int64(unix.Minor(st.Rdev)) != hdr.Devminor {
			return fmt.Errorf("%q is device %d:%d, not %d:%d", name, unix.Major(st.Rdev), unix.Minor(st.Rdev), hdr.Devmajor, hdr.Devminor)
		}
	case isRegular(hdr):
		if st.Size != o.size {
			return fmt.Errorf("%q has %d bytes, not %d", name, st.Size, o.size)
		}
		sum, err := v.sum(ctx, dir, at.base, st)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if sum != o.sum {
			return fmt.Errorf("%q has other bytes than in the archive", name)
		}
	}
	if at == (place{}) {
		return nil
	}
	return attributes(dir, at.base, name, hdr)
}

func modeType(hdr *tar.Header) uint32 {
	switch hdr.Typeflag {
	case tar.TypeDir:
		return unix.S_IFDIR
	case tar.TypeSymlink:
		return unix.S_IFLNK
	case tar.TypeChar:
		return unix.S_IFCHR
	case tar.TypeBlock:
		return unix.S_IFBLK
	case tar.TypeFifo:
		return unix.S_IFIFO
	}
	return unix.S_IFREG
}

// sum hashes a file, one with several names once.
func (v *verifier) sum(ctx context.Context, dir int, base string, st *unix.Stat_t) (sum [sha256.Size]byte, err error) {
	if sum, ok := v.sums[st.Ino]; ok {
		return sum, nil
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return sum, err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(untilDone{ctx, h}, f); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	if st.Nlink > 1 {
		v.sums[st.Ino] = sum
	}
	return sum, nil
}

// untilDone hashes until ctx is cancelled.
type untilDone struct {
	ctx context.Context
	h   hash.Hash
}

func (u untilDone) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.h.Write(p)
}

// attributes compares those that the archive brings and this file system can keep.
func attributes(dir int, base, name string, hdr *tar.Header) error {
	const prefix = "SCHILY.xattr."
	for key, want := range hdr.PAXRecords {
		attr, ok := strings.CutPrefix(key, prefix)
		if !ok || strings.HasPrefix(attr, "security.") && attr != "security.capability" {
			continue
		}
		buf := make([]byte, len(want)+1)
		n, err := unix.Lgetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir, base), attr, buf)
		hidden := err == unix.ENODATA && rootless.Active() && strings.HasPrefix(attr, "trusted.")
		if hidden || err == unix.ENOTSUP || err == unix.EPERM || err == unix.ENODATA && strings.HasPrefix(attr, "user.") && hdr.Typeflag != tar.TypeReg && hdr.Typeflag != tar.TypeDir {
			continue // it could not be set either
		}
		if err != nil || string(buf[:n]) != want {
			return fmt.Errorf("%q has another attribute %s than in the archive", name, attr)
		}
	}
	return nil
}
