package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"brig/api"
	"brig/internal/base/rootless"
	"brig/internal/kernel/mount"
	"brig/internal/store/overlay"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// keepID is a container as --userns keep-id of user 1000 makes it, of two layers with all kinds of files.
func keepID(t *testing.T, s *Store) *api.Container {
	t.Helper()
	needRoot(t)
	t.Setenv(rootless.Env, "1000:9")
	const access = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x21\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	c := new(api.Container)
	for _, layer := range [][]tar.Header{
		{
			{Name: "gone", Typeflag: tar.TypeReg, Mode: 0o644, Size: 3}, {Name: "new/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "new/old", Typeflag: tar.TypeReg, Mode: 0o644, Size: 3},
			{Name: "both/", Typeflag: tar.TypeDir, Mode: 0o700}, {Name: "both/below", Typeflag: tar.TypeReg, Mode: 0o644, Size: 5}, {Name: "both/x", Typeflag: tar.TypeReg, Mode: 0o644, Size: 3},
			{Name: "both/sub/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "both/sub/old", Typeflag: tar.TypeReg, Mode: 0o644}, {Name: "flat", Typeflag: tar.TypeReg, Mode: 0o644, Size: 3},
		},
		{
			{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "bin/su", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 5},
			{Name: "bin/hard", Typeflag: tar.TypeLink, Linkname: "bin/su"},
			{Name: "bin/soft", Typeflag: tar.TypeSymlink, Linkname: "su"},
			{Name: "his", Typeflag: tar.TypeReg, Uid: 1000, Gid: 1000, Mode: 0o600, Size: 5, PAXRecords: map[string]string{"SCHILY.xattr.user.note": "kept", "SCHILY.xattr.system.posix_acl_access": access}},
			{Name: "far", Typeflag: tar.TypeReg, Uid: 70000, Gid: 33, Mode: 0o640},
			{Name: "fifo", Typeflag: tar.TypeFifo, Uid: 33, Gid: 34, Mode: 0o620},
			{Name: "new/", Typeflag: tar.TypeDir, Uid: 33, Gid: 33, Mode: 0o2775},
			{Name: "new/.wh..wh..opq", Typeflag: tar.TypeReg},
			{Name: ".wh.gone", Typeflag: tar.TypeReg},
			{Name: "both/", Typeflag: tar.TypeDir, Mode: 0o711},
			{Name: "both/x", Typeflag: tar.TypeReg, Mode: 0o644, Size: 5},
			{Name: "both/sub", Typeflag: tar.TypeReg, Mode: 0o644},
			{Name: "flat/", Typeflag: tar.TypeDir, Mode: 0o755},
		},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range layer {
			h.Format = tar.FormatPAX
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			w.Write([]byte("hello")[:h.Size])
		}
		w.Close()
		d := digest.FromBytes(b.Bytes())
		if _, err := s.Unpack(context.Background(), d, &b); err != nil {
			t.Fatal(err)
		}
		c.Layers = append(c.Layers, d.String())
	}
	list := []api.IDRange{{Inside: 0, Outside: 1, Size: 1000}, {Inside: 1000, Outside: 0, Size: 1}, {Inside: 1001, Outside: 1001, Size: 64535}}
	c.Spec.UserNS = api.UserNS{Mode: api.UserNSKeepID, UIDMap: list, GIDMap: list}
	return c
}

// TestShifted: whether files refer to the layer's or are copied, the tree for a user namespace is what overlayfs would show of the layers, with other owners, and these stay as they are.
func TestShifted(t *testing.T) {
	for _, kind := range []string{kindRefer, kindCopy} {
		t.Run(kind, func(t *testing.T) {
			s := Open(t.TempDir())
			c := keepID(t, s)
			if kind == kindRefer && !refers(release()) {
				t.Skip("files of a user namespace may refer to others since Linux 6.16")
			}
			of := s.Of(c)
			hex, _ := checkDiffID(c.Layers[1])
			path, err := of.shift(c.Layers, []string{kind})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(path, kind+"/fs") {
				t.Fatalf("made %s", path)
			}
			options := append(overlay.Options(), "lowerdir+="+t.TempDir(), "lowerdir+="+path)
			if data := of.Data([]string{path}); data != "" {
				options = append(options, "datadir+="+data)
			} else if kind == kindRefer {
				t.Fatal("no layer of data")
			}
			root, err := mount.New("overlay", "overlay", options, unix.MOUNT_ATTR_RDONLY)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(root)
			shows(t, root, path)
			names, err := of.Lowers(c.Layers)
			if kind == kindRefer && (err != nil || !slices.Equal(names, []string{path})) {
				t.Errorf("found %v (%v), not %s", names, err, path)
			}
			if plain, err := s.Lowers(c.Layers); err != nil || plain[1] != s.layerFS(hex) {
				t.Errorf("others have %v (%v)", plain, err)
			}
			var st unix.Stat_t
			if err := unix.Stat(s.layerFS(hex)+"/his", &st); err != nil || st.Uid != 1000 || st.Size != 5 {
				t.Errorf("the layer has changed: %+v (%v)", st, err)
			}
			if err := s.RemoveLayer(c.Layers[0]); err != nil {
				t.Error(err)
			}
			if left, err := s.ShiftedTrees(); len(left) > 0 || err != nil {
				t.Errorf("left with the layer gone: %v (%v)", left, err)
			}
			noDebris(t, s.dir)
		})
	}
}

func shows(t *testing.T, root int, path string) {
	t.Helper()
	for name, want := range map[string]struct {
		uid, gid, mode uint32
		size           int64
		links          uint64
	}{
		"bin": {1, 1, unix.S_IFDIR | 0o755, -1, 0}, "bin/su": {1, 1, unix.S_IFREG | 0o4755, 5, 2}, "bin/hard": {1, 1, unix.S_IFREG | 0o4755, 5, 2},
		"bin/soft": {1, 1, unix.S_IFLNK | 0o777, 2, 1}, "his": {0, 0, unix.S_IFREG | 0o644, 5, 1}, "far": {65536, 34, unix.S_IFREG | 0o640, 0, 1},
		"fifo": {34, 35, unix.S_IFIFO | 0o620, 0, 1}, "new": {34, 34, unix.S_IFDIR | 0o2775, -1, 0}, "both": {1, 1, unix.S_IFDIR | 0o711, -1, 0}, "both/below": {1, 1, unix.S_IFREG | 0o644, 5, 1}, "both/x": {1, 1, unix.S_IFREG | 0o644, 5, 1},
		"both/sub": {1, 1, unix.S_IFREG | 0o644, 0, 1}, "flat": {1, 1, unix.S_IFDIR | 0o755, -1, 0},
	} {
		var st unix.Stat_t
		if err := unix.Fstatat(root, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if st.Uid != want.uid || st.Gid != want.gid || st.Mode != want.mode || want.size >= 0 && (st.Size != want.size || st.Nlink != want.links) { //nolint:unconvert // not of this type on every architecture
			t.Errorf("%s: %d:%d %o, %d bytes, %d names, want %+v", name, st.Uid, st.Gid, st.Mode, st.Size, st.Nlink, want)
		}
	}
	for _, name := range []string{"bin/su", "bin/hard", "his", "both/below", "both/x"} {
		fd, err := unix.Openat(root, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var b [9]byte
		if n, err := unix.Read(fd, b[:]); err != nil || string(b[:n]) != "hello" {
			t.Errorf("%s: %q (%v)", name, b[:max(n, 0)], err)
		}
		unix.Close(fd)
	}
	var note [16]byte
	if n, err := unix.Lgetxattr(path+"/his", "user.note", note[:]); err != nil || string(note[:n]) != "kept" {
		t.Errorf("attribute: %q (%v)", note[:max(n, 0)], err)
	}
	var acl [64]byte
	if n, err := unix.Lgetxattr(path+"/his", "system.posix_acl_access", acl[:]); err != nil || n < 20 || acl[16] != 0x22 {
		t.Errorf("access list: %x (%v)", acl[:max(n, 0)], err)
	}
	for _, name := range []string{"gone", "new/old"} {
		var st unix.Stat_t
		if err := unix.Lstat(path+"/"+name, &st); err != unix.ENOENT {
			t.Errorf("%s is there (%v)", name, err)
		}
	}
}

// TestShiftedHalfMade: what a process left that died on the way is not used, and many that want a tree at once make one.
func TestShiftedHalfMade(t *testing.T) {
	s := Open(t.TempDir())
	c := keepID(t, s)
	name := Shifted(c)
	if err := os.MkdirAll(filepath.Join(s.unpacking(name), "fs", "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	found := map[string]int{}
	for range 6 {
		wg.Go(func() {
			paths, err := s.Of(c).Lowers(c.Layers)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found[paths[0]]++
		})
	}
	wg.Wait()
	if len(found) != 1 {
		t.Fatalf("found %v", found)
	}
	for path := range found {
		if _, err := os.Lstat(path + "/half"); err == nil {
			t.Error("what was half made is in use")
		}
		if _, err := os.Lstat(path + "/bin/soft"); err != nil {
			t.Error(err)
		}
	}
	noDebris(t, s.dir)
	if all, err := s.ShiftedTrees(); err != nil || len(all) != 1 || ShiftedName(all[0]) != name {
		t.Errorf("trees %v (%v), wanted one of %s", all, err, name)
	}
	for _, bad := range []string{"", "../layer", ".", "a/b"} {
		if err := s.RemoveShifted(bad); err == nil {
			t.Errorf("removed %q", bad)
		}
	}
	// A map that changes nothing needs no tree, nor has root of the machine any.
	same := *c
	same.Spec.UserNS.UIDMap, same.Spec.UserNS.GIDMap = []api.IDRange{{Size: 1000}}, []api.IDRange{{Size: 1000}}
	if got := Shifted(&same); got != "" {
		t.Errorf("trees of a map that changes nothing: %v", got)
	}
	t.Setenv(rootless.Env, "")
	if got := Shifted(c); got != "" {
		t.Errorf("trees of root's: %v", got)
	}
}
