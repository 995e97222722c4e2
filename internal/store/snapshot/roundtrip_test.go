package snapshot

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// tarEnv names an archive of a real root file system for the comparison and the benchmark, beside the one that the test makes.
const tarEnv = "BRIG_TEST_ROOTFS_TAR"

// rich is a shell script that fills a folder with all that an archive can hold.
const rich = `
umask 022
mkdir -p usr/bin usr/lib/x86_64 etc var/tmp opt/empty
ln -s usr/bin bin; ln -s /usr/lib lib; ln -s nowhere dangling
printf hello >usr/bin/hello; chmod 4755 usr/bin/hello; ln usr/bin/hello usr/bin/greet
printf x >etc/shadow; chmod 640 etc/shadow; chown 0:42 etc/shadow; chown 1000:1000 opt/empty; chown -h 33:33 dangling
chmod 1777 var/tmp; chmod 2775 usr/lib
mknod -m 666 etc/null c 1 3; mknod etc/loop b 7 0; mkfifo -m 600 etc/pipe
truncate -s 3M usr/lib/sparse; printf end >>usr/lib/sparse; printf mid | dd of=usr/lib/sparse bs=1 seek=1500000 conv=notrunc status=none
head -c 3000000 /dev/urandom >usr/lib/large
long=$(printf 'n%.0s' $(seq 1 200)); mkdir -p opt/$long/$long; printf y >opt/$long/$long/file
printf 'a b' >"opt/with space"; printf n >"opt/new
line"; printf b >"$(printf 'opt/latin\351')"; printf m >opt/-dash
for i in $(seq 1 400); do printf $i >usr/lib/x86_64/f$i; done
touch -d '2001-02-03 04:05:06.789 UTC' usr/bin/hello etc opt; touch -h -d '1999-01-01 UTC' bin
`

// makeArchive makes the rich tree and packs it with tar.
func makeArchive(t testing.TB, format string) string {
	top := t.TempDir()
	src := filepath.Join(top, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, src, "sh", "-ec", rich)
	for path, attr := range map[string][2]string{
		"usr/bin/greet": {"security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		"etc":           {"user.origin", "here"},
	} {
		if format != "gnu" { // which has no place for attributes
			if err := unix.Setxattr(filepath.Join(src, path), attr[0], []byte(attr[1]), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	out := filepath.Join(top, "rich.tar")
	args := []string{"--format=" + format, "--sparse", "-cf", out, "."}
	if format != "gnu" {
		args = append([]string{"--xattrs", "--xattrs-include=*"}, args...)
	}
	run(t, src, "tar", args...)
	return out
}

func run(t testing.TB, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// describe has a line for each object of a tree: all that extraction sets.
func describe(t testing.TB, root string) map[string]string {
	all := map[string]string{}
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", st.Size, sha256.Sum256(b))
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			line += " -> " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			line += " same as " + first[st.Ino]
		}
		buf := make([]byte, 4096)
		n, _ := unix.Llistxattr(p, buf)
		attrs := strings.Split(strings.TrimSuffix(string(buf[:max(n, 0)]), "\x00"), "\x00")
		slices.Sort(attrs)
		for _, a := range attrs {
			if a != "" {
				m, _ := unix.Lgetxattr(p, a, buf)
				line += fmt.Sprintf(" %s=%q", a, buf[:max(m, 0)])
			}
		}
		all[name] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What Unpack makes of an archive is what tar makes of it.
func TestSameAsTar(t *testing.T) {
	needRoot(t)
	archives := map[string]func() string{}
	for _, format := range []string{"pax", "gnu"} {
		archives[format] = func() string { return makeArchive(t, format) }
	}
	if real := os.Getenv(tarEnv); real != "" {
		archives["real"] = func() string { return real }
	}
	for name, archive := range archives {
		t.Run(name, func(t *testing.T) {
			path := archive()
			dir := t.TempDir()
			want := filepath.Join(dir, "tar")
			if err := os.Mkdir(want, 0o755); err != nil {
				t.Fatal(err)
			}
			run(t, want, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", path)
			s := Open(filepath.Join(dir, "snapshot"))
			d := unpackFile(t, s, path)
			got := s.layerFS(d.Encoded())
			a, b := describe(t, want), describe(t, got)
			for _, p := range slices.Sorted(maps.Keys(a)) {
				if a[p] != b[p] {
					t.Errorf("%q:\ntar    %s\nunpack %s", p, a[p], b[p])
				}
				delete(b, p)
			}
			for p := range b {
				t.Errorf("%q: not of tar", p)
			}
			if name != "real" {
				var st unix.Stat_t
				if err := unix.Stat(got+"/usr/lib/sparse", &st); err != nil || st.Blocks*512 > 1<<20 {
					t.Errorf("the sparse file has %d blocks, %v", st.Blocks, err)
				}
			}
		})
	}
}

func unpackFile(t testing.TB, s *Store, path string) digest.Digest {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := digest.FromReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Unpack(context.Background(), d, f); err != nil {
		t.Fatal(err)
	}
	return d
}

// BenchmarkUnpack stands beside BenchmarkTar: the time for the same archive on the same disk, with the disk's cache written back.
func BenchmarkUnpack(b *testing.B) {
	needRoot(b)
	path := benchArchive(b)
	for b.Loop() {
		s := Open(b.TempDir())
		d := unpackFile(b, s, path)
		b.StopTimer()
		s.RemoveLayer(string(d))
		b.StartTimer()
	}
}

func BenchmarkTar(b *testing.B) {
	needRoot(b)
	path := benchArchive(b)
	for b.Loop() {
		dir := b.TempDir()
		run(b, dir, "tar", "-xf", path)
		run(b, dir, "sync", "-f", ".")
		b.StopTimer()
		os.RemoveAll(dir)
		b.StartTimer()
	}
}

func benchArchive(b *testing.B) string {
	path := os.Getenv(tarEnv)
	if path == "" {
		path = makeArchive(b, "pax")
	}
	fi, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(fi.Size())
	return path
}
