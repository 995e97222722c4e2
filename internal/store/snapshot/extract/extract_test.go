package extract

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"brig/api"

	"brig/internal/store/overlay"

	"golang.org/x/sys/unix"
)

var stamp = time.Unix(1_600_000_000, 123_000_000)

func dir(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}
}
func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
func link(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
}
func hard(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
}

// archive writes the entries; the content of a file is its own name.
func archive(t testing.TB, entries ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if h.ModTime.IsZero() {
			h.ModTime = stamp
		}
		h.Format = tar.FormatPAX
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, h.Name)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// extractTo extracts into a new folder and returns its path. Beside it lies the file "outside", which must stay as it is.
func extractTo(t testing.TB, r io.Reader) (string, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("owners, devices and trusted attributes need root")
	}
	top := t.TempDir()
	root := filepath.Join(top, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(top, "outside")
	if err := os.Mkdir(outside, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(outside, 0o750); err != nil { // whatever the umask
		t.Fatal(err)
	}
	if err := os.Chtimes(outside, stamp, stamp); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, err = Tree(context.Background(), fd, r)
	names, _ := os.ReadDir(top)
	inside, _ := os.ReadDir(outside)
	fi, serr := os.Lstat(outside)
	if len(names) != 2 || len(inside) != 0 || serr != nil || fi.Mode() != 0o750|os.ModeDir || !fi.ModTime().Equal(stamp) {
		t.Fatalf("the archive reached outside: %v %v %v", names, inside, fi)
	}
	return root, err
}

// list describes a tree, a line an object.
func list(t testing.TB, root string) string {
	var lines []string
	err := filepath.Walk(root, func(p string, fi os.FileInfo, err error) error {
		if err != nil || p == root {
			return err
		}
		st := lstat(t, p)
		what := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			what = "/"
			if opaque(p) {
				what = "/ opaque"
			}
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			what = " -> " + to
		case unix.S_IFREG:
			b, _ := os.ReadFile(p)
			what = " = " + string(b)
		case unix.S_IFCHR:
			what = fmt.Sprintf(" c%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case unix.S_IFBLK:
			what = fmt.Sprintf(" b%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case unix.S_IFIFO:
			what = " |"
		}
		lines = append(lines, strings.TrimPrefix(p, root+"/")+what)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func lstat(t testing.TB, p string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	return st
}

func opaque(p string) bool {
	var b [8]byte
	n, err := unix.Lgetxattr(p, overlay.Opaque(), b[:])
	return err == nil && string(b[:n]) == "y"
}

func TestShapes(t *testing.T) {
	for name, c := range map[string]struct {
		in   []tar.Header
		want string
	}{
		"missing parents":           {[]tar.Header{file("a/b/c")}, "a/\na/b/\na/b/c = a/b/c"},
		"absolute":                  {[]tar.Header{file("//etc/x")}, "etc/\netc/x = //etc/x"},
		"inner dots":                {[]tar.Header{file("a/./b/../c")}, "a/\na/c = a/./b/../c"},
		"file replaces folder":      {[]tar.Header{dir("a"), file("a/x"), dir("a/d"), file("a/d/y"), file("a")}, "a = a"},
		"folder replaces file":      {[]tar.Header{file("a"), dir("a"), file("a/x")}, "a/\na/x = a/x"},
		"folder merges":             {[]tar.Header{dir("a"), file("a/x"), dir("a"), file("a/y")}, "a/\na/x = a/x\na/y = a/y"},
		"folder replaces link":      {[]tar.Header{dir("a"), link("l", "a"), file("l/x"), dir("l"), file("l/y")}, "a/\na/x = l/x\nl/\nl/y = l/y"},
		"link replaces folder":      {[]tar.Header{dir("a"), dir("b"), file("b/x"), link("b", "a"), file("b/y")}, "a/\na/y = b/y\nb -> a"},
		"link replaces link":        {[]tar.Header{dir("a"), dir("b"), link("l", "a"), file("l/x"), link("l", "b"), file("l/y")}, "a/\na/x = l/x\nb/\nb/y = l/y\nl -> b"},
		"file replaces link":        {[]tar.Header{file("a"), link("l", "a"), file("l")}, "a = a\nl = l"},
		"below link":                {[]tar.Header{dir("usr"), dir("usr/lib"), link("lib", "usr/lib"), file("lib/x")}, "lib -> usr/lib\nusr/\nusr/lib/\nusr/lib/x = lib/x"},
		"below absolute link":       {[]tar.Header{dir("usr"), link("l", "/usr"), file("l/n/x")}, "l -> /usr\nusr/\nusr/n/\nusr/n/x = l/n/x"},
		"below link that climbs":    {[]tar.Header{link("l", "../../.."), file("l/x")}, "l -> ../../..\nx = l/x"},
		"link to outside":           {[]tar.Header{dir("outside"), link("l", "/../outside"), file("l/x")}, "l -> /../outside\noutside/\noutside/x = l/x"},
		"hard link":                 {[]tar.Header{file("a"), hard("d/b", "/a")}, "a = a\nd/\nd/b = a"},
		"hard link to link":         {[]tar.Header{link("l", "/etc/passwd"), hard("b", "l")}, "b -> /etc/passwd\nl -> /etc/passwd"},
		"hard link below link":      {[]tar.Header{file("a/x"), link("l", "/a"), hard("b", "l/x")}, "a/\na/x = a/x\nb = a/x\nl -> /a"},
		"hard link to itself":       {[]tar.Header{file("a"), hard("a", "a")}, "a = a"},
		"hard link replaces file":   {[]tar.Header{file("a"), file("b"), hard("b", "a")}, "a = a\nb = a"},
		"hard link replaces folder": {[]tar.Header{file("a"), dir("b"), file("b/x"), hard("b", "a")}, "a = a\nb = a"},
		"whiteout":                  {[]tar.Header{dir("a"), file("a/.wh.gone")}, "a/\na/gone c0:0"},
		"whiteout of own file":      {[]tar.Header{file("x"), file(".wh.x")}, "x = x"},
		"whiteout, then file":       {[]tar.Header{file(".wh.x"), file("x")}, "x = x"},
		"whiteout of own folder":    {[]tar.Header{dir("x"), file("x/y"), file(".wh.x")}, "x/ opaque\nx/y = x/y"},
		"whiteout, then folder":     {[]tar.Header{file(".wh.x"), dir("x"), file("x/y")}, "x/ opaque\nx/y = x/y"},
		"opaque":                    {[]tar.Header{dir("a"), file("a/.wh..wh..opq"), file("a/x")}, "a/ opaque\na/x = a/x"},
		"aufs":                      {[]tar.Header{dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2"), file(".wh..wh.aufs"), file("a")}, "a = a"},
		"duplicates":                {[]tar.Header{file("a"), file("./a"), file("/a")}, "a = /a"},
		"nodes": {[]tar.Header{{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}, {Typeflag: tar.TypeBlock, Name: "b", Devmajor: 259, Devminor: 70000},
			{Typeflag: tar.TypeFifo, Name: "f"}, {Typeflag: tar.TypeFifo, Name: "f"}}, "b b259:70000\nf |\nnull c1:3"},
		"root": {[]tar.Header{{Typeflag: tar.TypeDir, Name: "./", Mode: 0o700}, file("a")}, "a = a"},
	} {
		t.Run(name, func(t *testing.T) {
			root, err := extractTo(t, bytes.NewReader(archive(t, c.in...)))
			if err != nil {
				t.Fatal(err)
			}
			if got := list(t, root); got != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("x/", MaxPath/2) + "yy"
	attr := func(name string) tar.Header {
		h := file("a")
		h.PAXRecords = map[string]string{xattrPrefix + name: "y"}
		return h
	}
	for name, c := range map[string]struct {
		in   []tar.Header
		says string
	}{
		"dot dot":               {[]tar.Header{file("../outside/x")}, "out of the layer"},
		"dot dot, late":         {[]tar.Header{file("a/../../outside/x")}, "out of the layer"},
		"only dot dot":          {[]tar.Header{dir("..")}, "out of the layer"},
		"too long":              {[]tar.Header{file(long)}, "more than 4095"},
		"long name":             {[]tar.Header{file(strings.Repeat("n", 256))}, "name too long"},
		"too deep":              {[]tar.Header{file(strings.Repeat("x/", MaxDepth) + "y")}, "deeper than"},
		"below file":            {[]tar.Header{file("a"), file("a/b")}, "not a directory"},
		"below dangling link":   {[]tar.Header{link("l", "nowhere"), file("l/x")}, "exists"},
		"link loop":             {[]tar.Header{link("a", "b"), link("b", "a"), file("a/x")}, "symbolic links"},
		"hard link to nothing":  {[]tar.Header{hard("a", "b")}, "not in the layer"},
		"hard link out":         {[]tar.Header{hard("a", "../outside")}, "out of the layer"},
		"hard link by link":     {[]tar.Header{link("l", ".."), hard("a", "l/outside")}, "not in the layer"},
		"hard link to folder":   {[]tar.Header{dir("d"), hard("a", "d")}, "is a folder"},
		"hard link over by dir": {[]tar.Header{dir("d"), file("a"), hard("a", "d")}, "is a folder"},
		"hard link to the root": {[]tar.Header{hard("a", "/")}, "the root"},
		"root as file":          {[]tar.Header{file(".")}, "root must be a folder"},
		"root as link":          {[]tar.Header{link("./", "/etc")}, "root must be a folder"},
		"root as hard link":     {[]tar.Header{file("a"), hard(".", "a")}, "root must be a folder"},
		"empty link":            {[]tar.Header{link("a", "")}, "nowhere"},
		"whiteout of nothing":   {[]tar.Header{file(".wh.")}, "no name"},
		"whiteout of dot":       {[]tar.Header{file("a/.wh..")}, "no name"},
		"whiteout of dot dot":   {[]tar.Header{file("a/.wh...")}, "no name"},
		"below whiteout":        {[]tar.Header{file(".wh.a/b")}, "below a whiteout"},
		"owner -1":              {[]tar.Header{{Typeflag: tar.TypeReg, Name: "a", Uid: 1<<32 - 1}}, "owner"},
		"owner too big":         {[]tar.Header{{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "b", Gid: 1 << 40}}, "owner"},
		"negative owner":        {[]tar.Header{{Typeflag: tar.TypeDir, Name: "a/", Uid: -7}}, "owner"},
		"device number":         {[]tar.Header{{Typeflag: tar.TypeChar, Name: "a", Devmajor: 4096}}, "number"},
		"opaque attribute":      {[]tar.Header{attr("trusted.overlay.opaque")}, "not for archives"},
		"redirect attribute":    {[]tar.Header{attr("trusted.overlay.redirect")}, "not for archives"},
		"malformed capability":  {[]tar.Header{attr("security.capability")}, "security.capability"},
		"unknown type":          {[]tar.Header{{Typeflag: 'V', Name: "volume"}}, "unknown type"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := extractTo(t, bytes.NewReader(rawArchive(t, c.in)))
			if !errors.Is(err, api.Corrupt) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q in it", err, c.says)
			}
		})
	}
}

// rawArchive is archive for entries that package tar will not write as they are: numbers and lengths out of range.
func rawArchive(t *testing.T, entries []tar.Header) []byte {
	for i := range entries {
		if entries[i].Uid < 0 || entries[i].Typeflag == 'V' {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			h := entries[i]
			h.Format, h.ModTime = tar.FormatGNU, stamp
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			return b.Bytes()
		}
	}
	return archive(t, entries...)
}

func TestMetadata(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	suid := tar.Header{Typeflag: tar.TypeReg, Name: "su", Mode: 0o6755, Uid: 12, Gid: 70000,
		PAXRecords: map[string]string{xattrPrefix + "user.x": "1", xattrPrefix + "security.capability": capability, xattrPrefix + "security.selinux": "host_t"}}
	root, err := extractTo(t, bytes.NewReader(archive(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777, Uid: 5, Gid: 6, PAXRecords: map[string]string{xattrPrefix + "user.d": "2"}},
		tar.Header{Typeflag: tar.TypeReg, Name: "tmp/f", Mode: 0o400, Uid: 7, Gid: 8},
		suid,
		tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "tmp/f", Uid: 9, Gid: 10},
		tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o622, Uid: 1, Gid: 2},
		tar.Header{Typeflag: tar.TypeChar, Name: "c", Mode: 0o666, Devmajor: 1, Devminor: 5},
		file("late/f"), tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o555, Uid: 3, Gid: 4},
	)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name          string
		mode, uid, id uint32
	}{
		{"tmp", unix.S_IFDIR | 0o1777, 5, 6}, {"tmp/f", unix.S_IFREG | 0o400, 7, 8}, {"su", unix.S_IFREG | 0o6755, 12, 70000},
		{"l", unix.S_IFLNK | 0o777, 9, 10}, {"p", unix.S_IFIFO | 0o622, 1, 2}, {"c", unix.S_IFCHR | 0o666, 0, 0},
		{"late/f", unix.S_IFREG | 0o644, 0, 0}, {".", unix.S_IFDIR | 0o555, 3, 4},
	} {
		st := lstat(t, filepath.Join(root, c.name))
		if st.Mode != c.mode || st.Uid != c.uid || st.Gid != c.id || st.Mtim.Nano() != stamp.UnixNano() {
			t.Errorf("%s: mode %o of %d:%d at %d", c.name, st.Mode, st.Uid, st.Gid, st.Mtim.Nano())
		}
	}
	if st := lstat(t, filepath.Join(root, "late")); st.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("missing parent has mode %o", st.Mode)
	}
	for _, c := range [][3]string{{"su", "user.x", "1"}, {"su", "security.capability", capability}, {"tmp", "user.d", "2"}, {"su", "security.selinux", ""}} {
		var b [64]byte
		n, _ := unix.Lgetxattr(filepath.Join(root, c[0]), c[1], b[:])
		if string(b[:max(n, 0)]) != c[2] {
			t.Errorf("%s of %s is %q", c[1], c[0], b[:max(n, 0)])
		}
	}
}

func TestTooLargeIsRefusedBeforeItIsWritten(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "bomb", Size: 1 << 60, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	root, err := extractTo(t, io.MultiReader(&b, zeros{}))
	if !errors.Is(err, api.Exhausted) || !strings.Contains(err.Error(), "bomb") {
		t.Error(err)
	}
	if got := list(t, root); got != "" {
		t.Error(got)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Links to links must not nest folders deeper than any path reaches.
func TestDepthByLinks(t *testing.T) {
	deep := strings.TrimSuffix(strings.Repeat("x/", MaxDepth/2), "/")
	var in []tar.Header
	at := ""
	for i := range 8 {
		in = append(in, dir(at+deep))
		name := fmt.Sprintf("l%d", i)
		in = append(in, link(name, at+deep))
		at = name + "/"
	}
	_, err := extractTo(t, bytes.NewReader(archive(t, in...)))
	if !errors.Is(err, api.Corrupt) || !errors.Is(err, unix.ENAMETOOLONG) {
		t.Error(err)
	}
}

func TestTruncated(t *testing.T) {
	whole := archive(t, dir("a"), file("a/b"), file("c"))
	for n := range len(whole) {
		if n%97 != 0 || n >= len(whole)-1024 {
			continue
		}
		// Without an end marker an archive may still end between two entries: the layer's digest tells.
		if _, err := extractTo(t, bytes.NewReader(whole[:n])); err != nil && !errors.Is(err, api.Corrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	want := errors.New("the line is cut")
	if _, err := extractTo(t, io.MultiReader(bytes.NewReader(whole[:700]), broken{want})); !errors.Is(err, want) || errors.Is(err, api.Corrupt) {
		t.Errorf("the source's own error became %v", err)
	}
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

func TestManyFolders(t *testing.T) {
	var in []tar.Header
	for i := range 3 * maxOpen {
		in = append(in, file(fmt.Sprintf("d%d/f", i)))
	}
	for i := range 3 * maxOpen { // again in another order, with hard links across
		in = append(in, hard(fmt.Sprintf("d%d/g", 3*maxOpen-1-i), fmt.Sprintf("d%d/f", i)))
	}
	before := openFiles(t)
	root, err := extractTo(t, bytes.NewReader(archive(t, in...)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxOpen {
		b, err := os.ReadFile(filepath.Join(root, fmt.Sprintf("d%d/g", 3*maxOpen-1-i)))
		if err != nil || string(b) != fmt.Sprintf("d%d/f", i) {
			t.Fatalf("%s %v", b, err)
		}
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d files open before, %d after", before, after)
	}
}

func openFiles(t *testing.T) int {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func FuzzTree(f *testing.F) {
	f.Add(archive(f, dir("a"), file("a/.wh.x"), link("l", "../.."), file("l/x"), hard("h", "a/../l/x")))
	f.Add(archive(f, file("../x")))
	f.Add(archive(f, tar.Header{Typeflag: tar.TypeChar, Name: "c"}, dir("c"), file("c/.wh..wh..opq")))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := extractTo(t, bytes.NewReader(b))
		if err != nil && !errors.Is(err, api.Corrupt) && !errors.Is(err, api.Exhausted) {
			t.Error(err) // whatever is in an archive, it is the archive's fault
		}
	})
}
