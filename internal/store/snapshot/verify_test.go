package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/store/cluster"
	"brig/internal/store/packed"
)

func unpackRich(t *testing.T, format string) (*Store, digest.Digest, []byte, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("devices and owners need root")
	}
	b, err := os.ReadFile(makeArchive(t, format))
	if err != nil {
		t.Fatal(err)
	}
	s := Open(filepath.Join(t.TempDir(), "snapshot"))
	d := digest.FromBytes(b)
	if _, err := s.Unpack(t.Context(), d, strings.NewReader(string(b))); err != nil {
		t.Fatal(err)
	}
	return s, d, b, s.layerFS(d.Encoded())
}

func TestVerifyFolder(t *testing.T) {
	for _, format := range []string{"gnu", "pax"} {
		s, d, b, _ := unpackRich(t, format)
		if err := s.VerifyFolder(t.Context(), d, strings.NewReader(string(b))); err != nil {
			t.Errorf("%s: %v", format, err)
		}
	}
}

// TestVerifyFolderFinds: every way in which a layer can be other than its archive.
func TestVerifyFolderFinds(t *testing.T) {
	s, d, b, root := unpackRich(t, "pax")
	keepTime := func(p string, do func() error) error {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		err := do()
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW))
	}
	flip := func(p string) func() error {
		return func() error {
			return keepTime(p, func() error {
				f, err := os.OpenFile(p, os.O_RDWR, 0)
				if err != nil {
					return err
				}
				defer f.Close()
				one := make([]byte, 1)
				if _, err := f.ReadAt(one, 2); err != nil {
					return err
				}
				one[0] ^= 0x10
				_, err = f.WriteAt(one, 2)
				return err
			})
		}
	}
	at := func(name string) string { return filepath.Join(root, name) }
	capability := make([]byte, 64) // which a write takes away
	n, err := unix.Lgetxattr(at("usr/bin/hello"), "security.capability", capability)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what     string
		do, undo func() error
		says     string
	}{
		{"a bit of a large file", flip(at("usr/lib/large")), flip(at("usr/lib/large")), "usr/lib/large"},
		{"a bit of a file with two names", flip(at("usr/bin/greet")), func() error {
			return errors.Join(flip(at("usr/bin/hello"))(), unix.Setxattr(at("usr/bin/hello"), "security.capability", capability[:n], 0))
		}, "usr/bin/"},
		{"one more file", func() error { return os.WriteFile(at("etc/more"), nil, 0o600) }, func() error { return os.Remove(at("etc/more")) }, "etc/more"},
		{"a file less", func() error { return os.Rename(at("opt/-dash"), filepath.Join(root, "../x")) },
			func() error { return os.Rename(filepath.Join(root, "../x"), at("opt/-dash")) }, "opt/-dash"},
		{"an empty folder less", func() error { return os.Rename(at("opt/empty"), filepath.Join(root, "../x")) },
			func() error { return os.Rename(filepath.Join(root, "../x"), at("opt/empty")) }, "opt/empty"},
		{"a mode", func() error { return os.Chmod(at("etc/shadow"), 0o644) }, func() error { return os.Chmod(at("etc/shadow"), 0o640) }, "mode"},
		{"an owner", func() error { return os.Lchown(at("dangling"), 0, 0) }, func() error { return os.Lchown(at("dangling"), 33, 33) }, "owner"},
		{"an attribute", func() error { return unix.Setxattr(at("etc"), "user.origin", []byte("herf"), 0) },
			func() error { return unix.Setxattr(at("etc"), "user.origin", []byte("here"), 0) }, "user.origin"},
		{"the size", func() error { return os.Rename(filepath.Join(root, "../size"), filepath.Join(root, "../y")) },
			func() error { return os.Rename(filepath.Join(root, "../y"), filepath.Join(root, "../size")) }, "size"},
	} {
		if err := c.do(); err != nil {
			t.Fatal(c.what, err)
		}
		err := s.VerifyFolder(t.Context(), d, strings.NewReader(string(b)))
		if !errors.Is(err, api.Corrupt) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
		if err := c.undo(); err != nil {
			t.Fatal(c.what, err)
		}
		if err := s.VerifyFolder(t.Context(), d, strings.NewReader(string(b))); err != nil {
			t.Errorf("after %s: %v", c.what, err)
		}
	}
	if err := s.VerifyFolder(t.Context(), d, strings.NewReader(string(b[:len(b)-20000]))); !errors.Is(err, api.Corrupt) {
		t.Errorf("an archive cut short: %v", err)
	}
	if err := s.VerifyFolder(t.Context(), digest.FromString("none"), strings.NewReader("")); !errors.Is(err, api.NotFound) {
		t.Errorf("no layer: %v", err)
	}
}

// TestVerifyFolderWhiteouts: marks of removed files, and entries that replace one another or come through links.
func TestVerifyFolderWhiteouts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("devices need root")
	}
	s := Open(filepath.Join(t.TempDir(), "snapshot"))
	b := oddArchive(t)
	d := digest.FromBytes(b)
	if _, err := s.Unpack(t.Context(), d, strings.NewReader(string(b))); err != nil {
		t.Fatal(err)
	}
	if err := s.VerifyFolder(t.Context(), d, strings.NewReader(string(b))); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(s.layerFS(d.Encoded()), "gone")); err != nil {
		t.Fatal(err)
	}
	if err := s.VerifyFolder(t.Context(), d, strings.NewReader(string(b))); !errors.Is(err, api.Corrupt) {
		t.Errorf("a mark less: %v", err)
	}
}

// oddArchive has a file twice, a file that a folder replaces, a hard link to what is replaced later, whiteouts, and a way through a link.
func oddArchive(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, content string) {
		h.Size, h.ModTime = int64(len(content)), time.Unix(1e9, 0)
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(content))
	}
	put(tar.Header{Name: "usr/lib/x", Typeflag: tar.TypeReg}, "parents are not mentioned")
	put(tar.Header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "/usr/lib", Mode: 0o777}, "")
	put(tar.Header{Name: "lib/y", Typeflag: tar.TypeReg}, "through a link")
	put(tar.Header{Name: "a", Typeflag: tar.TypeReg}, "first")
	put(tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}, "")
	put(tar.Header{Name: "a", Typeflag: tar.TypeReg}, "second")
	put(tar.Header{Name: "f", Typeflag: tar.TypeReg}, "file")
	put(tar.Header{Name: "f", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	put(tar.Header{Name: "f/in", Typeflag: tar.TypeReg}, "in")
	put(tar.Header{Name: ".wh.gone", Typeflag: tar.TypeReg}, "")
	put(tar.Header{Name: "o/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	put(tar.Header{Name: "o/.wh..wh..opq", Typeflag: tar.TypeReg}, "")
	put(tar.Header{Name: "o/.wh.own", Typeflag: tar.TypeReg}, "")
	put(tar.Header{Name: "o/own", Typeflag: tar.TypeReg}, "own")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzVerifyFolder: whatever an archive says, it is compared and nothing is changed or left.
func FuzzVerifyFolder(f *testing.F) {
	s := Open(filepath.Join(f.TempDir(), "snapshot"))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "a/b", Typeflag: tar.TypeReg, Size: 3, Mode: 0o644})
	w.Write([]byte("abc"))
	w.WriteHeader(&tar.Header{Name: "../../c", Typeflag: tar.TypeLink, Linkname: "../a/b"})
	w.Close()
	f.Add(b.Bytes())
	layer := digest.FromString("layer")
	if err := os.MkdirAll(filepath.Join(s.layerFS(layer.Encoded()), "a"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		if err := s.VerifyFolder(t.Context(), layer, bytes.NewReader(archive)); err == nil {
			t.Error("it is of no archive")
		}
	})
}

// TestVerifyPackedSeesEveryByte: of a layer that is an image no byte can be another, of neither file, nor more or fewer bytes.
func TestVerifyPackedSeesEveryByte(t *testing.T) {
	t.Run("fragments", func(t *testing.T) { seesEveryByte(t, 0, 1, zip) })
	t.Run("zstd", func(t *testing.T) { seesEveryByte(t, 0, 1, zst) })
	// In clusters of its own, the first of which begins within a match. Every eleventh byte, so that it does not take long.
	t.Run("large", func(t *testing.T) { seesEveryByte(t, cluster.LargeFile, 11, zip) })
}

// seesEveryByte looks at a layer with a file of large bytes among others, one byte in step.
func seesEveryByte(t *testing.T, large int64, step int, compress func(testing.TB, []byte) []byte) {
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for i := range 30 {
		text := strings.Repeat("content ", 200+i)
		w.WriteHeader(&tar.Header{Name: "dir/file" + strconv.Itoa(i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))})
		w.Write([]byte(text))
	}
	w.WriteHeader(&tar.Header{Name: "large", Typeflag: tar.TypeReg, Mode: 0o644, Size: large})
	w.Write(make([]byte, large))
	w.WriteHeader(&tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "dir/file1", Mode: 0o777})
	w.Close()
	s := Open(filepath.Join(t.TempDir(), "snapshot"))
	diffID, blob := digest.FromBytes(plain.Bytes()), compress(t, plain.Bytes())
	c, err := s.Claim(t.Context(), diffID)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	if _, err := c.Pack(t.Context(), Source{Blob: digest.FromBytes(blob), Size: int64(len(blob)), Open: func(context.Context, int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(blob)), nil
	}, Zstd: always}, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if d, n, err := s.VerifyPacked(t.Context(), diffID); err != nil || d != digest.FromBytes(blob) || n != int64(len(blob)) {
		t.Fatalf("%s, %d, %v", d, n, err)
	}
	for _, name := range []string{packed.ImageFile, packed.RecipeFile} {
		file := filepath.Join(s.layer(diffID.Encoded()), name)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		try := func(what string, b []byte) {
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.VerifyPacked(t.Context(), diffID); !errors.Is(err, api.Corrupt) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		bad := bytes.Clone(whole)
		for i := 0; i < len(bad); i += step {
			bad[i] ^= 1 << (i % 8)
			try("byte "+strconv.Itoa(i), bad)
			bad[i] = whole[i]
			if t.Failed() {
				return
			}
		}
		try("a byte more", append(bytes.Clone(whole), 0))
		try("a byte less", whole[:len(whole)-1])
		try("nothing", nil)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.VerifyPacked(t.Context(), diffID); !errors.Is(err, api.Corrupt) {
			t.Errorf("%s is not there: %v", name, err)
		}
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.VerifyPacked(ctx, diffID); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, _, err := s.VerifyPacked(t.Context(), digest.FromString("none")); !errors.Is(err, api.NotFound) {
		t.Errorf("no layer: %v", err)
	}
}
