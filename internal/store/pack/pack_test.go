package pack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"brig/internal/store/overlay"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/store/snapshot/extract"
)

var stamp = time.Unix(981173106, 123456789)

// capability is cap_net_raw+ep in the form of version 2.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("owners, devices and trusted attributes need root")
	}
}

// must is for the steps of a test that cannot fail on a sound machine.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// everything makes a tree with a file of each kind and the names and attributes that are hard to keep.
func everything(t testing.TB) string {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	for _, d := range []string{"a", "a/empty", "deep", "new\nline", "esc\x1b[31m", "caf\xe9", strings.Repeat("n", 200)} {
		must(t, os.Mkdir(at(d), 0o755))
	}
	for name, content := range map[string]string{
		"a/file": "hello", "new\nline/file": "x", "esc\x1b[31m/a b": "y", "caf\xe9/\xff\xfe": "z", "a/none": "", "quote\"s'": "q", "back\\slash": "b",
		strings.Repeat("n", 200) + "/" + strings.Repeat("m", 200): "long", "-rf": "dash", "trailing ": "t",
	} {
		must(t, os.WriteFile(at(name), []byte(content), 0o640))
	}
	must(t, os.Link(at("a/file"), at("a/hard")))
	must(t, os.Link(at("a/file"), at("zhard")))
	must(t, os.Symlink("/etc/passwd", at("absolute")))
	must(t, os.Symlink("../../..", at("a/up")))
	must(t, os.Symlink(strings.Repeat("l/", 2000), at("longlink")))
	must(t, unix.Mkfifo(at("fifo"), 0o622))
	must(t, unix.Link(at("fifo"), at("fifo2")))
	must(t, unix.Mknod(at("char"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	must(t, unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	must(t, os.Chown(at("a/none"), 3_000_000, 4_000_000_000))
	must(t, os.Lchown(at("absolute"), 12, 13))
	must(t, os.Chmod(at("a/none"), 0o444|os.ModeSetuid|os.ModeSetgid))
	must(t, os.Chmod(at("deep"), 0o700|os.ModeSticky))
	for file, attrs := range map[string]map[string]string{
		"a/file": {"user.k": "v", "user.bin": "\x00\xff\n=", "trusted.t": "1", "security.capability": capability}, "a": {"user.d": "2"}, "absolute": {"trusted.link": "3"},
		"a/none": {"user.empty": ""}, "fifo": {"trusted.f": "4"},
	} {
		for k, v := range attrs {
			must(t, unix.Lsetxattr(at(file), k, []byte(v), 0))
		}
	}
	must(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ts := unix.NsecToTimespec(stamp.UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}))
	old := unix.NsecToTimespec(-5_500_000_000) // before 1970, with a fraction
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at("-rf"), []unix.Timespec{old, old}, 0))
	return root
}

// list describes a tree, a line an object, with all that an archive keeps.
func list(t testing.TB, root string) string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		name := strings.TrimPrefix(strings.TrimPrefix(p, root), "/")
		line := fmt.Sprintf("%q %o %d:%d %d.%09d", name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			must(t, err)
			line += fmt.Sprintf(" %q", b)
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			must(t, err)
			line += " -> " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" dev %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Rdev == 0 {
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			line += fmt.Sprintf(" link of %q", first[st.Ino])
		}
		b := make([]byte, 4096)
		n, _ := unix.Llistxattr(p, b)
		var attrs []string
		for _, a := range strings.Split(string(b[:max(n, 0)]), "\x00") {
			if a == "" || strings.HasPrefix(a, overlay.Prefix()) && a != overlay.Prefix()+"opaque" {
				continue
			}
			v := make([]byte, 4096)
			n, err := unix.Lgetxattr(p, a, v)
			must(t, err)
			attrs = append(attrs, fmt.Sprintf(" %s=%q", a, v[:n]))
		}
		sort.Strings(attrs)
		lines = append(lines, line+strings.Join(attrs, ""))
		return nil
	}))
	return strings.Join(lines, "\n")
}

func pack(t testing.TB, root string, o Options) ([]byte, Result) {
	t.Helper()
	var b bytes.Buffer
	r, err := Root(context.Background(), open(t, root), &b, o)
	must(t, err)
	return b.Bytes(), r
}

func unpack(t testing.TB, archive []byte) string {
	t.Helper()
	to := t.TempDir()
	must(t, os.Chmod(to, 0o755))
	_, err := extract.Tree(context.Background(), open(t, to), bytes.NewReader(archive))
	must(t, err)
	return to
}

func same(t testing.TB, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Fatalf("line %d:\n%.600s\nwant\n%.600s", i, a, b)
		}
	}
}

// TestRoundTrip: what is packed and unpacked again is the same in all that a tree has, and packs to the same bytes.
func TestRoundTrip(t *testing.T) {
	root := everything(t)
	archive, r := pack(t, root, Options{})
	back := unpack(t, archive)
	same(t, list(t, back), list(t, root))
	again, _ := pack(t, back, Options{})
	if !bytes.Equal(again, archive) {
		t.Error("what came back packs to other bytes")
	}
	if n := strings.Count(list(t, root), "\n") + 1; r.Entries != n {
		t.Errorf("%d entries, want %d", r.Entries, n)
	}
}

// TestTarCompare: GNU tar finds no difference, and extracts what Brig's own reader does.
func TestTarCompare(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip(err)
	}
	root := everything(t)
	archive, _ := pack(t, root, Options{})
	file := filepath.Join(t.TempDir(), "a.tar")
	must(t, os.WriteFile(file, archive, 0o600))
	if out, err := exec.Command("tar", "--compare", "--xattrs", "--xattrs-include=*", "-f", file, "-C", root).CombinedOutput(); err != nil {
		t.Errorf("tar --compare: %v\n%s", err, out)
	}
	to := t.TempDir()
	if out, err := exec.Command("tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f", file, "-C", to).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	same(t, list(t, to), list(t, root))
}

func TestSocketIsLeftOut(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(root, "so\ncket"))
	must(t, err)
	defer l.Close()
	var words string
	archive, r := pack(t, root, Options{Warn: func(f string, a ...any) { words += fmt.Sprintf(f, a...) }})
	if r.Entries != 1 || bytes.Contains(archive, []byte("cket")) || words != `"so\ncket": a socket cannot be archived: left out` {
		t.Errorf("%d entries, %q", r.Entries, words)
	}
}

// TestLayer: the upper folder that the kernel's overlay leaves becomes a layer, and that the same upper folder again.
func TestLayer(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	at := func(name string) string { return filepath.Join(top, name) }
	for _, d := range []string{"lower/gone", "lower/opaque", "lower/kept", "upper", "work", "root"} {
		must(t, os.MkdirAll(at(d), 0o755))
	}
	for _, f := range []string{"lower/gone/x", "lower/opaque/x", "lower/kept/x", "lower/kept/y", "lower/tofolder"} {
		must(t, os.WriteFile(at(f), []byte(f), 0o644))
	}
	if err := unix.Mount("overlay", at("root"), "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", at("lower"), at("upper"), at("work"))); err != nil {
		t.Skip("overlay: ", err)
	}
	defer func() { must(t, unix.Unmount(at("root"), 0)) }()
	empty := layerOf(t, at("upper"))
	if len(empty) != 1024 {
		t.Errorf("a container that changed nothing has a layer of %d bytes", len(empty))
	}
	must(t, os.RemoveAll(at("root/gone")))
	must(t, os.RemoveAll(at("root/opaque")))
	must(t, os.Mkdir(at("root/opaque"), 0o750))
	must(t, os.WriteFile(at("root/opaque/new"), []byte("n"), 0o600))
	must(t, os.Remove(at("root/kept/x")))
	must(t, os.Remove(at("root/kept/y")))
	must(t, os.Remove(at("root/tofolder")))
	must(t, os.Mkdir(at("root/tofolder"), 0o755))
	must(t, os.WriteFile(at("root/new"), []byte("1"), 0o644))
	must(t, os.Link(at("root/new"), at("root/new2")))
	archive := layerOf(t, at("upper"))
	var names []string
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		names = append(names, h.Name)
	}
	want := "./ .wh.gone kept/ kept/.wh.x kept/.wh.y new new2 opaque/ opaque/.wh..wh..opq opaque/new tofolder/ tofolder/.wh..wh..opq"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("the layer has %s\nwant %s", got, want)
	}
	// Marks have no times and owners of their own in a layer.
	marks := func(s string) string {
		lines := strings.Split(s, "\n")
		for i, l := range lines {
			if strings.Contains(l, " dev 0:0") {
				lines[i], _, _ = strings.Cut(l, " ")
			}
		}
		return strings.Join(lines, "\n")
	}
	same(t, marks(list(t, unpack(t, archive))), marks(list(t, at("upper"))))
	if again := layerOf(t, at("upper")); !bytes.Equal(again, archive) {
		t.Error("the same folder packs to other bytes")
	}
}

func layerOf(t testing.TB, upper string) []byte {
	t.Helper()
	var b bytes.Buffer
	_, err := Layer(context.Background(), open(t, upper), &b, Options{})
	must(t, err)
	return b.Bytes()
}

// TestLayerRefused: what a layer cannot say is no layer.
func TestLayerRefused(t *testing.T) {
	needRoot(t)
	for name, prepare := range map[string]func(dir string) error{
		".wh.":     func(d string) error { return os.WriteFile(d+"/.wh.passwd", nil, 0o600) },
		"redirect": func(d string) error { return unix.Setxattr(d, overlay.Prefix()+"redirect", []byte("/etc"), 0) },
		"metacopy": func(d string) error {
			must(t, os.WriteFile(d+"/f", nil, 0o600))
			return unix.Setxattr(d+"/f", overlay.Prefix()+"metacopy", nil, 0)
		},
		"opaque": func(d string) error { return unix.Setxattr(d, overlay.Prefix()+"opaque", []byte("x"), 0) },
	} {
		dir := t.TempDir()
		must(t, prepare(dir))
		if _, err := Layer(context.Background(), open(t, dir), io.Discard, Options{}); !errors.Is(err, api.Unsupported) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Root(context.Background(), open(t, dir), io.Discard, Options{}); err != nil {
			t.Errorf("%s as a root: %v", name, err)
		}
	}
}

// TestSwap: while a tree is packed, a folder in it is exchanged for a link out of it, and a file for a FIFO, again and again. Nothing of
// outside gets in, and no FIFO is waited for.
func TestSwap(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	at := func(name string) string { return filepath.Join(top, name) }
	must(t, os.MkdirAll(at("outside/d"), 0o755))
	must(t, os.WriteFile(at("outside/secret"), []byte("SECRET"), 0o600))
	must(t, os.WriteFile(at("outside/d/secret"), []byte("SECRET"), 0o600))
	must(t, os.MkdirAll(at("root/dir/d"), 0o755))
	must(t, os.WriteFile(at("root/dir/d/secret"), []byte("public"), 0o600))
	must(t, os.WriteFile(at("root/file"), []byte("public"), 0o600))
	must(t, os.Symlink(at("outside"), at("root/dir.link")))
	must(t, os.Symlink(at("outside/secret"), at("root/file.link")))
	must(t, unix.Mkfifo(at("root/file.fifo"), 0o600))
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			for _, pair := range [][2]string{{"root/dir", "root/dir.link"}, {"root/file", "root/file.link"}, {"root/file", "root/file.fifo"}} {
				_ = unix.Renameat2(unix.AT_FDCWD, at(pair[0]), unix.AT_FDCWD, at(pair[1]), unix.RENAME_EXCHANGE)
			}
		}
	}()
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		var b bytes.Buffer
		_, err := Root(context.Background(), open(t, at("root")), &b, Options{})
		if err != nil || bytes.Contains(b.Bytes(), []byte("SECRET")) {
			t.Errorf("%v, or something of outside is in it", err)
			break
		}
	}
	stop.Store(true)
	<-done
}

// TestChanging: a file that grows, and one that shrinks, while it is read has the length that its header says.
func TestChanging(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	must(t, os.WriteFile(root+"/grows", make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(root+"/shrinks", bytes.Repeat([]byte("x"), 1<<20), 0o600))
	pr, pw := io.Pipe()
	var words string
	go func() {
		_, err := Root(context.Background(), open(t, root), pw, Options{Warn: func(f string, a ...any) { words += fmt.Sprintf(f, a...) }})
		pw.CloseWithError(err)
	}()
	sizes := map[string]int64{}
	tr := tar.NewReader(pr)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		switch h.Name { // the packer stands at this file's beginning: the pipe holds nothing
		case "grows":
			must(t, os.WriteFile(root+"/grows", make([]byte, 3<<20), 0o600))
		case "shrinks":
			must(t, os.Truncate(root+"/shrinks", 5))
		}
		sizes[h.Name], err = io.Copy(io.Discard, tr)
		must(t, err)
	}
	if sizes["grows"] != 1<<20 || sizes["shrinks"] != 1<<20 || !strings.Contains(words, "shorter") {
		t.Errorf("%v, %q", sizes, words)
	}
}

// TestDeep: 300 folders deep goes in and comes back, with a path longer than any system call takes; beyond the limits is an error, no hang and no crash.
func TestDeep(t *testing.T) {
	needRoot(t)
	nest := func(name string, n int) string {
		root := t.TempDir()
		fd := open(t, root)
		for range n {
			must(t, unix.Mkdirat(fd, name, 0o755))
			next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			must(t, err)
			t.Cleanup(func() { unix.Close(next) })
			fd = next
		}
		return root
	}
	root := nest("ab", 300)
	archive, r := pack(t, root, Options{})
	if r.Entries != 301 {
		t.Errorf("%d entries", r.Entries)
	}
	back, _ := pack(t, unpack(t, archive), Options{})
	if len(back) != len(archive) {
		t.Error("it did not come back")
	}
	for name, root := range map[string]string{"deeper than 512": nest("x", 520), "more than 4095 bytes": nest(strings.Repeat("y", 200), 25)} {
		if _, err := Root(context.Background(), open(t, root), io.Discard, Options{}); !errors.Is(err, api.Unsupported) || !strings.Contains(err.Error(), name) || len(err.Error()) > 600 {
			t.Errorf("%s: %v", name, err)
		}
		if out, err := exec.Command("rm", "-rf", root).CombinedOutput(); err != nil { // os.RemoveAll goes by path
			t.Error(string(out))
		}
	}
}

func TestMany(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	const n = 20_000
	fd := open(t, root)
	for i := range n {
		must(t, unix.Mknodat(fd, fmt.Sprintf("f%06d", i), unix.S_IFREG|0o600, 0))
	}
	begin := time.Now()
	r, err := Root(context.Background(), open(t, root), io.Discard, Options{})
	if err != nil || r.Entries != n+1 {
		t.Errorf("%d entries, %v", r.Entries, err)
	}
	if d := time.Since(begin); d > 60*time.Second {
		t.Errorf("%s for %d files", d, n)
	} else {
		t.Logf("%s for %d files", d, n)
	}
}

// TestSparse: the holes of a large file take no room in the archive, and readers give the same bytes.
func TestSparse(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	const size = 192 << 20
	f, err := os.Create(filepath.Join(root, "disk"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	for _, offset := range []int64{1 << 20, 100 << 20, size - 5} {
		_, err := f.WriteAt([]byte("DATA!"), offset)
		must(t, err)
	}
	must(t, os.Chown(f.Name(), 3_000_000, 7))
	must(t, unix.Setxattr(f.Name(), "user.k", []byte("v"), 0))
	must(t, os.WriteFile(filepath.Join(root, "z"), []byte("after"), 0o600))
	must(t, os.Chtimes(f.Name(), stamp, stamp))
	archive, _ := pack(t, root, Options{Sparse: true})
	if len(archive) > 1<<20 {
		t.Errorf("%d bytes", len(archive))
	}
	tr := tar.NewReader(bytes.NewReader(archive))
	sum := int64(0)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		n, err := io.Copy(io.Discard, tr)
		must(t, err)
		if sum += n; h.Name == "disk" && (h.Size != size || n != size || h.Uid != 3_000_000 || !h.ModTime.Equal(stamp) || h.PAXRecords[xattrPrefix+"user.k"] != "v") {
			t.Errorf("%+v", h)
		}
	}
	if sum != size+5 {
		t.Errorf("%d bytes of content", sum)
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	must(t, os.WriteFile(file, archive, 0o600))
	if out, err := exec.Command("tar", "--compare", "--xattrs", "-f", file, "-C", root).CombinedOutput(); err != nil {
		t.Errorf("tar --compare: %v\n%s", err, out)
	}
	// As zeros, where holes are not asked for; and more than there is room for is refused before a byte is written.
	if _, err := Root(context.Background(), open(t, root), io.Discard, Options{MaxBytes: size - 1}); !errors.Is(err, api.Exhausted) {
		t.Error(err)
	}
	var n count
	_, err = Root(context.Background(), open(t, root), &n, Options{})
	if must(t, err); n < size {
		t.Errorf("%d bytes with zeros", n)
	}
}

type count int64

func (c *count) Write(p []byte) (int, error) { *c += count(len(p)); return len(p), nil }

func TestCancelled(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	must(t, os.WriteFile(root+"/f", make([]byte, 1<<20), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Root(ctx, open(t, root), io.Discard, Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	full := errors.New("full")
	if _, err := Root(context.Background(), open(t, root), failing{full}, Options{}); !errors.Is(err, full) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestAttributesTooLarge: a PAX header that no reader takes is refused.
func TestAttributesNames(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	must(t, os.WriteFile(root+"/f", nil, 0o600))
	must(t, unix.Setxattr(root+"/f", "user.a=b", []byte("x"), 0))
	var words string
	archive, _ := pack(t, root, Options{Warn: func(f string, a ...any) { words += fmt.Sprintf(f, a...) }})
	if !strings.Contains(words, `"user.a=b"`) || bytes.Contains(archive, []byte("user.a=b")) {
		t.Errorf("%q", words)
	}
	if err := syscall.Setxattr(root+"/f", "security.selinux", []byte("x"), 0); err == nil {
		if archive, _ := pack(t, root, Options{Warn: func(string, ...any) {}}); bytes.Contains(archive, []byte("selinux")) {
			t.Error("a label of this machine is in the archive")
		}
	}
}

// FuzzPAX: records come out as package tar reads them.
func FuzzPAX(f *testing.F) {
	f.Add("mtime", "1.5", "SCHILY.xattr.user.a", "b\x00\n")
	f.Add("k", strings.Repeat("v", 94), "kk", strings.Repeat("v", 993))
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		want := map[string]string{"SCHILY.xattr.a" + k1: v1, "SCHILY.xattr.b" + k2: v2}
		for k := range want {
			if strings.ContainsAny(k, "=\x00") || len(v1)+len(v2)+len(k) > 1<<19 {
				return
			}
		}
		var b bytes.Buffer
		p := &packer{out: &b}
		pax := paxRecords(want)
		h := &tar.Header{Name: "n", ModTime: stamp}
		must(t, p.block('x', h, int64(len(pax))))
		must(t, p.padded(pax))
		must(t, p.block('0', h, 0))
		b.Write(make([]byte, 1024))
		got, err := tar.NewReader(&b).Next()
		must(t, err)
		for k, v := range want {
			if got.PAXRecords[k] != v {
				t.Errorf("%q is %q, want %q", k, got.PAXRecords[k], v)
			}
		}
	})
}
