package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"brig/api"
	"brig/internal/base/lock"
	"brig/internal/kernel/mount"
	"brig/internal/store/cluster"
	"brig/internal/store/erofs"
	"brig/internal/store/lz4"
	"brig/internal/store/packed"
	"brig/internal/store/redeflate"
	"brig/internal/store/snapshot/extract"

	"golang.org/x/sys/unix"
)

// Packed layers are mounted below the state folder when they are first used, each once for all that use it, and stay mounted until they are removed, Brig is
// reset or the machine boots: an unmount would throw away what the kernel has in memory of their files, and the next container would begin cold.
//
//	layer/HEX     where a layer is mounted
//	layer/.lock   held while one is being mounted or unmounted

// In is the store with a folder of boot-lived state, below which layers are mounted.
func (s *Store) In(state string) *Store { return &Store{dir: s.dir, state: state, shifted: s.shifted} }

func (s *Store) mounted(hex string) string { return filepath.Join(s.state, "layer", hex) }

// isPacked reports whether a layer is an image.
func (s *Store) isPacked(hex string) bool {
	return unix.Access(filepath.Join(s.layer(hex), packed.ImageFile), unix.F_OK) == nil
}

// Lowers returns the folders of layers, bottom first. Packed ones are mounted. Those that want other owners are one tree.
func (s *Store) Lowers(diffIDs []string) ([]string, error) {
	paths := make([]string, len(diffIDs))
	for i, d := range diffIDs {
		hex, err := checkDiffID(d)
		if err != nil {
			return nil, err
		}
		if path, ok := s.elsewhere[d]; ok {
			paths[i] = path
			continue
		}
		paths[i] = s.layerFS(hex)
		if unix.Access(paths[i], unix.F_OK) == nil {
			continue
		}
		if !s.isPacked(hex) {
			return nil, api.Errorf(api.Corrupt, "image layer %s is not unpacked in %s; fetch the image again with `brig pull`", d, s.dir)
		}
		if paths[i], err = s.mount(hex); err != nil {
			return nil, err
		}
	}
	if s.shifted != nil && len(diffIDs) > 0 {
		path, err := s.shiftedTree(diffIDs)
		return []string{path}, err
	}
	return paths, nil
}

// mount mounts a packed layer, unless it is mounted, and returns its folder.
func (s *Store) mount(hex string) (string, error) {
	if s.state == "" {
		return "", api.Errorf(api.Unsupported, "layer sha256:%s is an image, and there is no state folder to mount it in", hex)
	}
	at := s.mounted(hex)
	if isErofs(at) {
		return at, nil
	}
	l, err := lockMounts(filepath.Dir(at))
	if err != nil {
		return "", err
	}
	defer l.Release()
	if isErofs(at) {
		return at, nil
	}
	if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	image := filepath.Join(s.layer(hex), packed.ImageFile)
	fetchMetadata(image)
	fd, err := mount.New("erofs", image, nil, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return "", fmt.Errorf("layer sha256:%s: %w; `brig system check` tells whether it is whole", hex, err)
	}
	defer unix.Close(fd)
	place, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: at, Err: err}
	}
	defer unix.Close(place)
	return at, mount.Attach(fd, place)
}

// What fetchMetadata asks for: in pieces that no disk's read-ahead cuts, and not more than is worth it, in bytes.
const fetchPiece, fetchMost = 128 << 10, 16 << 20

// fetchMetadata has the kernel read an image's metadata from the disk, all at once, while the image is being mounted and the container made. Else each block
// is waited for when a name is first looked up. It does not wait, and costs next to nothing where all is in memory.
func fetchMetadata(image string) {
	f, err := os.Open(image)
	if err != nil {
		return // the mount will say it
	}
	defer f.Close()
	at, end, err := erofs.Metadata(f)
	if err != nil {
		return
	}
	for end = min(end, at+fetchMost); at < end; at += fetchPiece {
		if unix.Fadvise(int(f.Fd()), at, min(fetchPiece, end-at), unix.FADV_WILLNEED) != nil {
			return
		}
	}
}

// isErofs reports whether an EROFS is mounted at a folder.
func isErofs(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && uint32(st.Type) == unix.EROFS_SUPER_MAGIC_V1
}

// lockMounts takes the lock of a folder that layers are mounted in.
func lockMounts(dir string) (*lock.Lock, error) {
	path := filepath.Join(dir, ".lock")
	l, err := lock.Take(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		l, err = lock.Take(path)
	}
	return l, err
}

// unmountLayer unmounts a packed layer wherever this mount namespace has it, below whatever state folder. Else its file would take room until the next boot.
func (s *Store) unmountLayer(hex string) error {
	all, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	image := escapeMount(filepath.Join(s.layer(hex), packed.ImageFile))
	for line := range strings.Lines(string(all)) {
		before, after, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		front, back := strings.Fields(before), strings.Fields(after)
		if len(front) < 5 || len(back) < 2 || back[0] != "erofs" || back[1] != image {
			continue
		}
		at := unescapeMount(front[4])
		if filepath.Base(at) != hex { // not Brig's: somebody looks at it
			continue
		}
		if err := unmount(at); err != nil {
			return err
		}
	}
	return nil
}

// unmount takes a layer's mount and its folder away.
func unmount(at string) error {
	l, err := lockMounts(filepath.Dir(at))
	if err != nil {
		return err
	}
	defer l.Release()
	if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return &fs.PathError{Op: "umount", Path: at, Err: err}
	}
	if err := unix.Rmdir(at); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "rmdir", Path: at, Err: err}
	}
	return nil
}

// escapeMount writes a path as mountinfo does, proc(5).
func escapeMount(path string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(path)
}

func unescapeMount(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// UnmountAll unmounts all layers below the state folder, whoever uses them: what is mounted above them goes on.
func (s *Store) UnmountAll() error {
	all, err := readNames(filepath.Join(s.state, "layer"))
	errs := []error{err}
	for _, hex := range all {
		if hex[0] != '.' {
			errs = append(errs, unmount(s.mounted(hex)))
		}
	}
	s.SweepServed()
	return errors.Join(errs...)
}

// Packs reports whether this kernel, and this process, can mount what Pack makes of a stream that becomes clusters of an algorithm, and reads it right. It tries.
func (s *Store) Packs(a erofs.Algorithm) bool {
	if !readsWhole(release()) {
		return false
	}
	if err := s.makeFolders(); err != nil {
		return false
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, "unpack"), ".probe-")
	if err != nil {
		return false
	}
	os.Remove(f.Name()) // it is mounted by its descriptor: nobody who sweeps sees it
	defer f.Close()
	want, err := probe(f, a)
	if err != nil {
		return false
	}
	fd, err := mount.New("erofs", fmt.Sprintf("/proc/self/fd/%d", f.Fd()), nil, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	for name, content := range want {
		in, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return false
		}
		file := os.NewFile(uintptr(in), name)
		got, err := io.ReadAll(file)
		file.Close()
		if err != nil || !bytes.Equal(got, content) {
			return false
		}
	}
	return true
}

// probe makes an image with all that a kernel must know: a file that is a fragment, and a large one with an index of its own, whose last cluster is shared
// with what follows. It returns what they hold.
func probe(image io.WriterAt, a erofs.Algorithm) (map[string][]byte, error) {
	content := make([]byte, cluster.LargeFile+5)
	for i := range content {
		content[i] = byte(i>>12 ^ i)
	}
	want := map[string][]byte{"large": content, "small": content[:10<<10]}
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	for _, name := range []string{"small", "large"} {
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o400, Size: int64(len(want[name]))}); err != nil {
			return nil, err
		}
		if _, err := tw.Write(want[name]); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	w := erofs.NewWriter(image)
	w.Algorithm = a
	plain := archive.Bytes()
	clusters := redeflate.NewStored(bytes.NewReader(plain), func(c cluster.Cluster) error {
		if a == erofs.LZ4 {
			c.Data = lz4.Pack(plain[c.Offset:][:c.Size])
		}
		_, err := w.Cluster(c.Data, c.Size)
		return err
	})
	root, _, err := extract.Nodes(context.Background(), clusters)
	if err != nil {
		return nil, err
	}
	_, _, err = w.Finish(root, [16]byte{})
	return want, err
}
