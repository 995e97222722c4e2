package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/api"
	"brig/internal/base/atomicfile"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// mountOverlay mounts as the package comment says: joined options by mount(2), single ones by fsconfig(2).
func mountOverlay(m api.Mount, target string) error {
	if strings.HasPrefix(m.Options[0], "lowerdir=") {
		return unix.Mount(m.Source, target, m.Type, 0, strings.Join(m.Options, ","))
	}
	fs, err := unix.Fsopen(m.Type, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for _, o := range m.Options {
		key, value, valued := strings.Cut(o, "=")
		err := unix.FsconfigSetFlag(fs, key)
		if valued {
			err = unix.FsconfigSetString(fs, key, value)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", o, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// rootEntry is a layer with one entry for its root.
func rootEntry(t *testing.T, mode int64) (digest.Digest, []byte) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "./", Mode: mode, Typeflag: tar.TypeDir, Uid: 1, Gid: 2}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return digest.FromBytes(b.Bytes()), b.Bytes()
}

// One overlay shows what the layers say, however many there are.
func TestPreparedRootMounts(t *testing.T) {
	for _, count := range []int{1, 3, maxLayers} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			onSmallDisk(t, "16m", func(dir string) {
				s := Open(dir + "/snapshot")
				ids := []string{unpack(t, s, "gone/f", "opaque/f", "kept/f")}
				for i := range count - 1 {
					ids = append(ids, unpack(t, s, fmt.Sprint("kept/", i), ".wh.gone", "opaque/.wh..wh..opq", "opaque/new"))
				}
				mounts, err := s.Prepare("c", ids, atomicfile.Durable)
				if err != nil || len(mounts) != 1 {
					t.Error(mounts, err)
					return
				}
				if joined := strings.HasPrefix(mounts[0].Options[0], "lowerdir="); joined != (count < 10) {
					t.Errorf("%d layers: %d options", count, len(mounts[0].Options))
				}
				target := dir + "/mnt"
				if err := os.Mkdir(target, 0o700); err != nil {
					t.Error(err)
				}
				if err := mountOverlay(mounts[0], target); err != nil {
					t.Error(err)
					return
				}
				defer unix.Unmount(target, 0)
				_, gone := os.Lstat(target + "/gone")
				_, hidden := os.Lstat(target + "/opaque/f")
				kept, _ := os.ReadDir(target + "/kept")
				if upper := count > 1; os.IsNotExist(gone) != upper || os.IsNotExist(hidden) != upper || len(kept) != count {
					t.Errorf("%d layers: gone: %v; opaque/f: %v; kept: %d", count, gone, hidden, len(kept))
				}
				if err := os.WriteFile(target+"/written", make([]byte, 8192), 0o600); err != nil {
					t.Error(err)
				}
				if n, err := s.Usage("c"); n != 8192 || err != nil {
					t.Error(n, err)
				}
			})
		})
	}
}

// TestVolatileRootMountsAgain: what the kernel marks as never synced can be mounted once more, with all that was written.
func TestVolatileRootMountsAgain(t *testing.T) {
	onSmallDisk(t, "16m", func(dir string) {
		s := Open(dir + "/snapshot")
		ids := []string{unpack(t, s, "f")}
		mounts, err := s.Prepare("c", ids, atomicfile.Volatile)
		target := dir + "/mnt"
		if err := errors.Join(err, os.Mkdir(target, 0o700)); err != nil {
			t.Error(err)
			return
		}
		for round := range 3 {
			if err := mountOverlay(mounts[0], target); err != nil {
				t.Errorf("round %d: %v", round, err)
				return
			}
			_, err := os.Lstat(fmt.Sprint(target, "/written", round-1))
			if err != nil && round > 0 {
				t.Error(err)
			}
			err = os.WriteFile(fmt.Sprint(target, "/written", round), nil, 0o600)
			if err := errors.Join(err, unix.Unmount(target, 0)); err != nil {
				t.Error(err)
			}
			if round == 0 && mountOverlay(mounts[0], target) == nil {
				t.Error("it mounts without Again: is it volatile?")
				unix.Unmount(target, 0)
			}
			if mounts, err = s.Again("c", ids, atomicfile.Volatile); err != nil {
				t.Error(err)
				return
			}
		}
	})
}

func TestPrepare(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	s := Open(dir)
	low := unpack(t, s, "a")
	top, b := rootEntry(t, 0o1555)
	if _, err := s.Unpack(context.Background(), top, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	got, err := s.Prepare("c1", []string{low, string(top)}, atomicfile.Durable)
	if err != nil {
		t.Fatal(err)
	}
	want := []api.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + dir + "/layer/" + top.Encoded() + "/fs:" + dir + "/layer/" + low[7:] + "/fs",
		"upperdir=" + dir + "/active/c1/fs", "workdir=" + dir + "/active/c1/work"}}}
	again, err := s.Again("c1", []string{low, string(top)}, atomicfile.Durable)
	if fmt.Sprint(got) != fmt.Sprint(want) || fmt.Sprint(again) != fmt.Sprint(want) || err != nil {
		t.Errorf("got %v, then %v, %v", got, again, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir+"/active/c1/fs", &st); err != nil || st.Mode&0o7777 != 0o1555 || st.Uid != 1 || st.Gid != 2 {
		t.Errorf("root has mode %o of %d:%d, %v", st.Mode, st.Uid, st.Gid, err)
	}
	if m, err := s.Prepare("empty", nil, atomicfile.Volatile); err != nil || m[0].Type != "bind" || m[0].Source != dir+"/active/empty/fs" {
		t.Error(m, err)
	}

	// What is there already stays as it is.
	if err := os.WriteFile(dir+"/active/c1/fs/mine", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare("c1", []string{low}, atomicfile.Durable); !errors.Is(err, api.AlreadyExists) {
		t.Error(err)
	}
	if _, err := os.Lstat(dir + "/active/c1/fs/mine"); err != nil {
		t.Error(err)
	}
	if ids, err := s.Active(); fmt.Sprint(ids) != "[c1 empty]" || err != nil {
		t.Error(ids, err)
	}
	for range 2 {
		for _, id := range []string{"c1", "empty"} {
			if err := s.Remove(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	if ids, _ := s.Active(); len(ids) != 0 {
		t.Error(ids)
	}
	if _, err := s.Usage("c1"); !errors.Is(err, api.NotFound) {
		t.Error(err)
	}
}

func TestPrepareRefuses(t *testing.T) {
	needRoot(t)
	s := Open(t.TempDir())
	low := unpack(t, s, "a")
	lost, _ := layer(t, "lost")
	for name, c := range map[string]struct {
		s    *Store
		id   string
		ids  []string
		kind api.Kind
		says string
	}{
		"missing layer": {s, "c", []string{low, string(lost)}, api.Corrupt, "brig pull"},
		"bad layer":     {s, "c", []string{"sha256:../../x"}, api.InvalidArgument, "diff ID"},
		"bad ID":        {s, "../c", []string{low}, api.InvalidArgument, "../c"},
		"dot":           {s, "..", []string{low}, api.InvalidArgument, ".."},
		"many layers":   {s, "c", strings.Split(strings.Repeat(low+" ", maxLayers)+low, " "), api.Unsupported, "121"},
		"colon":         {Open("/a:b"), "c", []string{low}, api.InvalidArgument, "/a:b"},
		"comma":         {Open("/a,b"), "c", []string{low}, api.InvalidArgument, "/a,b"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.s.Prepare(c.id, c.ids, atomicfile.Durable)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Error(err)
			}
			if ids, _ := s.Active(); len(ids) != 0 {
				t.Error("left:", ids)
			}
		})
	}
	for _, id := range []string{"", ".", "..", "a/b"} {
		if err := s.Remove(id); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("Remove(%q): %v", id, err)
		}
	}
}

func BenchmarkPrepareRemove(b *testing.B) {
	needRoot(b)
	s := Open(b.TempDir())
	ids := []string{unpack(b, s, "a"), unpack(b, s, "b")}
	for i := 0; b.Loop(); i++ {
		id := filepath.Base(fmt.Sprint(i))
		if _, err := s.Prepare(id, ids, atomicfile.Durable); err != nil {
			b.Fatal(err)
		}
		if err := s.Remove(id); err != nil {
			b.Fatal(err)
		}
	}
}
