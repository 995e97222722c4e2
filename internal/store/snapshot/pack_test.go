package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/internal/store/cluster"
	"brig/internal/store/packed"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// mountImage mounts an EROFS image from its file, or skips.
func mountImage(t *testing.T, image string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount(image, dir, "erofs", unix.MS_RDONLY, ""); err == unix.ENODEV || err == unix.ENOTBLK || err == unix.EOPNOTSUPP {
		t.Skip("this kernel mounts no EROFS image with deflate from a file:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// describeTree writes down all that can be seen of the files below dir: kind, mode, owner, number, length, time, links, attributes, content.
func describeTree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		line := fmt.Sprintf("%q %o %d:%d %x links %d", rel, st.Mode, st.Uid, st.Gid, st.Rdev, st.Nlink)
		kind := st.Mode & unix.S_IFMT
		if kind == unix.S_IFREG || kind == unix.S_IFLNK {
			line += fmt.Sprintf(" size %d", st.Size)
		}
		if st.Mtim.Sec > 0 && st.Mtim.Sec < time.Now().Unix()-3600 { // else nobody set it
			line += fmt.Sprintf(" time %d.%d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch kind {
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " to " + to
		case unix.S_IFREG:
			if was := first[st.Ino]; was != "" && st.Nlink > 1 {
				line += " same as " + was
			}
			first[st.Ino] = rel
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			sum, err := digest.FromReader(f)
			f.Close()
			if err != nil {
				return err
			}
			line += " " + sum.Encoded()[:16]
		}
		names := make([]byte, 64<<10)
		n, err := unix.Llistxattr(path, names)
		if err != nil {
			return err
		}
		list := strings.Split(strings.Trim(string(names[:n]), "\x00"), "\x00")
		slices.Sort(list)
		for _, name := range list {
			if name == "" {
				continue
			}
			value := make([]byte, 64<<10)
			n, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", name, path, err)
			}
			line += fmt.Sprintf(" %s=%q", name, value[:n])
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// packAndUnpack brings one archive in by both ways and compares what the kernel shows of them.
func packAndUnpack(t *testing.T, plain, blob []byte) {
	t.Helper()
	diffID, blobID := digest.FromBytes(plain), digest.FromBytes(blob)
	folders, images := Open(filepath.Join(t.TempDir(), "a")), Open(filepath.Join(t.TempDir(), "b"))
	n, err := folders.Unpack(context.Background(), diffID, bytes.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	c, err := images.Claim(context.Background(), diffID)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	m, err := c.Pack(context.Background(), Source{Blob: blobID, Size: int64(len(blob)), Open: func(context.Context, int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(blob)), nil
	}, Zstd: always}, func(string) error { return nil })
	if err != nil || n != m {
		t.Fatalf("%d bytes, want %d: %v", m, n, err)
	}
	dir := images.layer(diffID.Encoded())
	b, err := packed.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(again, blob) {
		t.Fatalf("the blob is not had back: %d bytes of %d, %v", len(again), len(blob), err)
	}
	b.Close()
	if _, _, err := images.VerifyPacked(t.Context(), diffID); err != nil {
		t.Error(err)
	}
	want := describeTree(t, folders.layerFS(diffID.Encoded()))
	got := describeTree(t, mountImage(t, filepath.Join(dir, packed.ImageFile)))
	if !slices.Equal(got, want) {
		shown := 0
		for i := range max(len(got), len(want)) {
			var g, w string
			if i < len(got) {
				g = got[i]
			}
			if i < len(want) {
				w = want[i]
			}
			if g != w {
				t.Errorf("image:  %s\nfolder: %s", g, w)
				if shown++; shown == 10 {
					break
				}
			}
		}
	}
}

func always() bool { return true }

// zst compresses as podman, buildah and docker do.
func zst(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(plain)
	w.Close()
	return b.Bytes()
}

func zip(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(plain)
	w.Close()
	return b.Bytes()
}

// TestPack: an image shows what a folder shows, whatever an archive may hold.
func TestPack(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	when := time.Unix(1600000000, 123456789)
	put := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.ModTime.IsZero() {
			h.ModTime = when
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(content))
	}
	words := strings.Repeat("some words of a file, ", 4000)
	put(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	put(tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 7, Gid: 8}, "")
	put(tar.Header{Name: "etc/passwd", Mode: 0o644, Uid: 70000, Gid: 1<<31 + 5}, "root:x:0:0\n")
	put(tar.Header{Name: "etc/empty", Mode: 0o4711}, "")
	put(tar.Header{Name: "etc/acl", Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.b": strings.Repeat("v", 300),
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "SCHILY.xattr.trusted.x": "y"}}, words[:5000])
	put(tar.Header{Name: "usr/bin/big", Mode: 0o755}, words)
	put(tar.Header{Name: "usr/bin/one", Typeflag: tar.TypeLink, Linkname: "usr/bin/big"}, "")
	put(tar.Header{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin", Mode: 0o777}, "")
	put(tar.Header{Name: "bin/through", Mode: 0o700}, "through a link")
	put(tar.Header{Name: "abs", Typeflag: tar.TypeSymlink, Linkname: "/usr/../etc", Mode: 0o777}, "")
	put(tar.Header{Name: "abs/also", Mode: 0o600}, "through an absolute link")
	put(tar.Header{Name: "long", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("x/", 2000) + "y", Mode: 0o777}, "")
	put(tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}, "")
	put(tar.Header{Name: "dev/odd", Typeflag: tar.TypeBlock, Mode: 0o660, Devmajor: 259, Devminor: 70000}, "")
	put(tar.Header{Name: "dev/fifo", Typeflag: tar.TypeFifo, Mode: 0o622}, "")
	put(tar.Header{Name: "gone/.wh.file"}, "")
	put(tar.Header{Name: "opaque/", Typeflag: tar.TypeDir, Mode: 0o711}, "")
	put(tar.Header{Name: "opaque/.wh..wh..opq"}, "")
	put(tar.Header{Name: "both/sub/x", Mode: 0o644}, "x")
	put(tar.Header{Name: "both/.wh.sub"}, "")
	put(tar.Header{Name: "was/.wh.dir"}, "")
	put(tar.Header{Name: "was/dir/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	put(tar.Header{Name: "replaced/a/b", Mode: 0o644}, "b")
	put(tar.Header{Name: "replaced/a", Mode: 0o644}, "a file where a folder was")
	put(tar.Header{Name: "old", Mode: 0o644, ModTime: time.Unix(1, 5)}, "1")
	for i := range 700 { // folders of more than one block
		put(tar.Header{Name: fmt.Sprintf("many/%d-%s", i, strings.Repeat("n", i%200)), Mode: 0o644}, words[:i*7])
	}
	for i := range 60 { // a folder that just fits, or just not
		put(tar.Header{Name: fmt.Sprintf("fit/%02d/", i), Typeflag: tar.TypeDir, Mode: 0o755}, "")
		put(tar.Header{Name: fmt.Sprintf("fit/%02d/%s", i, strings.Repeat("q", 180+i)), Mode: 0o644}, "q")
		for j := range 17 {
			put(tar.Header{Name: fmt.Sprintf("fit/%02d/%02d-%s", i, j, strings.Repeat("r", 200+i/10)), Mode: 0o644}, "r")
		}
	}
	put(tar.Header{Name: "names/" + strings.Repeat("ü", 127), Mode: 0o644}, "a name of 254 bytes")
	put(tar.Header{Name: "names/!before dot", Mode: 0o644}, "!")
	put(tar.Header{Name: "names/..x", Mode: 0o644}, "..x")
	put(tar.Header{Name: "names/-", Mode: 0o644}, "-")
	w.Close()
	plain := b.Bytes()
	packAndUnpack(t, plain, zip(t, plain))
	packAndUnpack(t, plain, zst(t, plain))
	packAndUnpack(t, plain, plain)

	// An archive of the machine's own, to look at by hand: PACK_FILE=layer.tar.gz
	if name := os.Getenv("PACK_FILE"); name != "" {
		blob, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		packAndUnpack(t, plain, blob)
	}
}

// TestPackLarge: files with an index of their own show what a folder shows, whatever lies beside them and wherever clusters end; the kernel tells.
func TestPackLarge(t *testing.T) {
	const large, cluster = cluster.LargeFile, cluster.Size
	sizes := []int{9000, large - 1, large, large + 1, 20, 30, large + 4096, large, large, cluster - 1, cluster, cluster + 1, cluster + 4095, cluster + 4096, 5,
		cluster + 31<<10, cluster + 32<<10, cluster + 33<<10, cluster + 40<<10, large, 3*cluster + 12345, 8000, 2*cluster - 512, 2*cluster - 1024, large}
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, content []byte) {
		h.Size, h.Mode, h.ModTime = int64(len(content)), 0o644, time.Unix(1600000000, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	for i, size := range sizes {
		content := make([]byte, size)
		for at := i % 3 * 700; at < len(content); { // noise, zeros, and what was there before
			n := min(1+r.IntN(9000), len(content)-at)
			switch r.IntN(3) {
			case 0:
				for j := range n {
					content[at+j] = byte(r.Uint32())
				}
			case 1:
				copy(content[at:at+n], content[r.IntN(at+1):])
			}
			at += n
		}
		name := fmt.Sprintf("file%02d", i)
		put(tar.Header{Name: name, Typeflag: tar.TypeReg}, content)
		if i%4 == 2 {
			put(tar.Header{Name: "links/" + name, Typeflag: tar.TypeLink, Linkname: name}, nil)
		}
		if i%7 == 3 { // attributes lie between an inode and its index
			put(tar.Header{Name: name + "x", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 100*i)}}, content)
		}
	}
	w.Close()
	plain := b.Bytes()
	packAndUnpack(t, plain, zip(t, plain))
	packAndUnpack(t, plain, zst(t, plain))
	packAndUnpack(t, plain, plain)

	readInAnyOrder(t, plain, zip(t, plain))
	readInAnyOrder(t, plain, zst(t, plain))
}

// readInAnyOrder reads the files of an archive as programs are read: from a mapping.
func readInAnyOrder(t *testing.T, plain, blob []byte) {
	r := rand.New(rand.NewPCG(3, 4))
	diffID := digest.FromBytes(plain)
	s := Open(t.TempDir())
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
	dir := mountImage(t, filepath.Join(s.layer(diffID.Encoded()), packed.ImageFile))
	in := bytes.NewReader(plain)
	for tr := tar.NewReader(in); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		want := plain[len(plain)-in.Len():][:h.Size]
		f, err := os.Open(filepath.Join(dir, h.Name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := unix.Mmap(int(f.Fd()), 0, int(h.Size), unix.PROT_READ, unix.MAP_PRIVATE)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Madvise(got, unix.MADV_RANDOM); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if at := r.IntN(len(want)); got[at] != want[at] {
				t.Errorf("%s: byte %d is another", h.Name, at)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s has other bytes", h.Name)
		}
		unix.Munmap(got)
	}
}

// TestFragmentsOnly: layers that were written before large files had an index of their own are read, verified and given back.
func TestFragmentsOnly(t *testing.T) {
	blob, err := os.ReadFile("testdata/fragments/layer.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	diffID := digest.FromBytes(plain)
	s, folders := Open(filepath.Join(t.TempDir(), "a")), Open(filepath.Join(t.TempDir(), "b"))
	dir := s.layer(diffID.Encoded())
	if err := os.CopyFS(dir, os.DirFS("testdata/fragments")); err != nil {
		t.Fatal(err)
	}
	if d, n, err := s.VerifyPacked(t.Context(), diffID); err != nil || d != digest.FromBytes(blob) || n != int64(len(blob)) {
		t.Errorf("%s, %d bytes: %v", d, n, err)
	}
	for name, open := range map[string]func(string) (*packed.Blob, error){"whole": packed.Open, "partial": packed.Partial} {
		b, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		again, err := io.ReadAll(b)
		b.Close()
		if err != nil && name == "whole" || !bytes.Equal(again, blob) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(again), len(blob), err)
		}
	}
	if _, err := folders.Unpack(t.Context(), diffID, bytes.NewReader(plain)); err != nil {
		t.Fatal(err)
	}
	want := describeTree(t, folders.layerFS(diffID.Encoded()))
	if got := describeTree(t, mountImage(t, filepath.Join(dir, packed.ImageFile))); !slices.Equal(got, want) {
		t.Errorf("image: %q\nfolder: %q", got, want)
	}
}

// brokenReader gives the first n bytes, and then an error.
type brokenReader struct {
	r io.Reader
	n int
}

var errBroke = errors.New("the source broke off")

func (b *brokenReader) Read(p []byte) (int, error) {
	if b.n == 0 {
		return 0, errBroke
	}
	n, err := b.r.Read(p[:min(len(p), b.n)])
	b.n -= n
	return n, err
}

func (b *brokenReader) Close() error { return nil }

// TestResumeLarge: a layer whose source broke off anywhere is gone on with, whatever its clusters' boundaries, and becomes the same files.
func TestResumeLarge(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	r := rand.New(rand.NewPCG(5, 6))
	for i, size := range []int{9000, cluster.LargeFile, 500, cluster.Size + 5000, cluster.LargeFile, 2 * cluster.Size} {
		content := make([]byte, size)
		for j := 2000; j < size; j++ {
			content[j] = byte(r.IntN(1 + i*3))
		}
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint("file", i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	w.Close()
	plain := b.Bytes()
	for name, compress := range map[string]func(testing.TB, []byte) []byte{"gzip": zip, "zstd": zst} {
		t.Run(name, func(t *testing.T) { resumes(t, plain, compress(t, plain)) })
	}
}

func resumes(t *testing.T, plain, blob []byte) {
	diffID := digest.FromBytes(plain)
	pack := func(s *Store, breaks int) (known int, err error) {
		c, err := s.Claim(t.Context(), diffID)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		src := Source{Blob: digest.FromBytes(blob), Size: int64(len(blob)), Resumes: true, Known: func(n int) { known += n }, Zstd: always}
		src.Open = func(_ context.Context, at int64) (io.ReadCloser, error) {
			if at != int64(known) {
				t.Errorf("asked for the blob from %d on, with %d bytes there", at, known)
			}
			return &brokenReader{bytes.NewReader(blob[at:]), breaks - int(at)}, nil
		}
		_, err = c.Pack(t.Context(), src, func(string) error { return nil })
		return known, err
	}
	files := func(s *Store) (all [2][]byte) {
		for i, name := range []string{packed.ImageFile, packed.RecipeFile} {
			var err error
			if all[i], err = os.ReadFile(filepath.Join(s.layer(diffID.Encoded()), name)); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	s := Open(t.TempDir())
	if _, err := pack(s, len(blob)+1); err != nil {
		t.Fatal(err)
	}
	want, most := files(s), 0
	for i := range 12 {
		s := Open(t.TempDir())
		for _, breaks := range []int{len(blob) * i / 12, len(blob) * (i + 1) / 13, len(blob) * 12 / 13} { // it breaks more than once
			if known, err := pack(s, breaks); !errors.Is(err, errBroke) && known < breaks {
				t.Fatalf("broken at %d: %v", breaks, err)
			}
		}
		known, err := pack(s, len(blob)+1)
		if err != nil {
			t.Fatal(err)
		}
		if got := files(s); !bytes.Equal(got[0], want[0]) || !bytes.Equal(got[1], want[1]) {
			t.Errorf("gone on with at %d it is another image", known)
		}
		most = max(most, known)
	}
	if most < len(blob)/2 {
		t.Errorf("of %d bytes at most %d were kept", len(blob), most)
	}
}
