// Package images holds Brig's images against those of others: the same root file system, made to an image by umoci, podman, buildah, docker
// and skopeo, is the same in Brig, and what Brig makes of it, imported or committed, is the same to them.
//
// What is compared is a listing of the whole tree: types, modes, owners, times, sizes, contents, link targets, devices, hard links and
// extended attributes, as far as the other engine keeps them. A program that is not installed skips its part. The programs are those of
// bin/ (make build), or of the folder BRIG_TEST_BIN. All runs in private namespaces with a loopback interface only.
package images

import (
	"archive/tar"
	"bytes"
	"cmp"
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
	"time"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

const binEnv = "BRIG_TEST_BIN"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: containers and private namespaces need root")
		return
	}
	bin, err := filepath.Abs(cmp.Or(os.Getenv(binEnv), "../../bin"))
	if err == nil {
		os.Setenv(binEnv, bin)
		err = machine.Private(false)
	}
	if err == nil {
		_, err = machine.Hugetlb() // for podman's crun
	}
	if err == nil { // docker and podman have folders of theirs there
		err = unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// must is for the steps of a test that cannot fail on a sound machine.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// need skips a part whose program is missing, and names the Debian package.
func need(t *testing.T, pkg string, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed: apt-get install %s", p, pkg)
		}
	}
}

// client is a command line up to its verb.
type client []string

// do runs a command, which must succeed, and returns what it printed.
func (c client) do(t testing.TB, args ...string) string {
	t.Helper()
	out, words, err := c.try(args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(c[0]), strings.Join(args, " "), err, out, words)
	}
	return strings.TrimSpace(out)
}

func (c client) try(args ...string) (out, words string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c[0], append(slices.Clone(c[1:]), args...)...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &o, &e, time.Second
	err = cmd.Run()
	return o.String(), e.String(), err
}

// newBrig is a Brig of the test's own, which leaves nothing.
func newBrig(t *testing.T) client {
	t.Helper()
	state, err := os.MkdirTemp("", "s") // short: sockets lie in it
	must(t, err)
	c := client{filepath.Join(os.Getenv(binEnv), "brig"), "--root", filepath.Join(t.TempDir(), "root"), "--state", state}
	if _, err := os.Stat(c[0]); err != nil {
		t.Fatalf("%v: make build", err)
	}
	t.Cleanup(func() {
		c.do(t, "system", "reset", "--force")
		os.RemoveAll(state)
	})
	return c
}

// export lists the root file system of a new container of an image, of Brig, podman or docker.
func (c client) export(t *testing.T, image string) listing {
	t.Helper()
	c.do(t, "create", "--name", "exported", image, "true")
	defer c.do(t, "rm", "exported")
	file := filepath.Join(t.TempDir(), "export.tar")
	c.do(t, "export", "-o", file, "exported")
	return listFile(t, file)
}

// listing is a tree: what is known of each name.
type listing map[string]string

// listFile lists a tar.
func listFile(t *testing.T, file string) listing {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	return list(t, f)
}

// listDir lists a folder, by way of GNU tar.
func listDir(t *testing.T, dir string) listing {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dir.tar")
	client{"tar"}.do(t, "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name", "-C", dir, "-cf", file, ".")
	return listFile(t, file)
}

func list(t *testing.T, r io.Reader) listing {
	t.Helper()
	l := listing{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return l
		}
		must(t, err)
		name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
		line := fmt.Sprintf("%c %o %d:%d %d", h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid, h.ModTime.Unix())
		switch h.Typeflag {
		case tar.TypeReg:
			sum := sha256.New()
			n, err := io.Copy(sum, tr)
			must(t, err)
			line += fmt.Sprintf(" %d %x", n, sum.Sum(nil)[:6])
		case tar.TypeSymlink:
			line += " -> " + h.Linkname
		case tar.TypeLink: // which name comes first is up to who writes the archive
			line = "link of " + strings.TrimPrefix(h.Linkname, "./")
		case tar.TypeChar, tar.TypeBlock:
			line += fmt.Sprintf(" %d:%d", h.Devmajor, h.Devminor)
		}
		var attrs []string
		for k, v := range h.PAXRecords {
			if a, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && h.Typeflag != tar.TypeLink {
				attrs = append(attrs, fmt.Sprintf(" %s=%x", a, v))
			}
		}
		slices.Sort(attrs)
		l[name] = line + strings.Join(attrs, "")
	}
}

// links makes the lines of hard links independent of which of the names came first.
func (l listing) links() listing {
	n := maps.Clone(l)
	groups := map[string][]string{}
	for name, line := range l {
		if first, ok := strings.CutPrefix(line, "link of "); ok {
			groups[first] = append(groups[first], name)
		}
	}
	for first, names := range groups {
		names = append(names, first)
		slices.Sort(names)
		for _, name := range names {
			n[name] = l[first] + " linked " + strings.Join(names, ",")
		}
	}
	return n
}

// same fails unless two trees are equal but for the names, and what is below them, that engines make themselves, and for the parts of a line
// that drop takes away.
func same(t *testing.T, got, want listing, drop func(name, line string) string) {
	t.Helper()
	own := []string{"", "dev", "proc", "sys", "run", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", ".dockerenv", "etc"}
	differ := 0
	got, want = got.links(), want.links()
	for _, name := range slices.Sorted(maps.Keys(union(got, want))) {
		if slices.ContainsFunc(own, func(o string) bool { return name == o || o != "" && o != "etc" && strings.HasPrefix(name, o+"/") }) {
			continue
		}
		g, w := got[name], want[name]
		if drop != nil {
			g, w = drop(name, g), drop(name, w)
		}
		if g != w {
			if differ++; differ > 10 {
				t.Fatal("and more")
			}
			t.Errorf("%q:\n%s\nwant\n%s", name, g, w)
		}
	}
	if len(got) < 20 {
		t.Errorf("only %d names", len(got))
	}
}

func union(a, b listing) listing {
	u := maps.Clone(a)
	maps.Copy(u, b)
	return u
}

// withoutAttributes drops the extended attributes but for capabilities, which all engines keep, and of links, devices and FIFOs those too.
func withoutAttributes(_, line string) string {
	var kept []string
	for word := range strings.SplitSeq(line, " ") {
		if strings.HasPrefix(word, "user.") || strings.HasPrefix(word, "trusted.") || strings.HasPrefix(word, "system.") {
			continue
		}
		kept = append(kept, word)
	}
	return strings.Join(kept, " ")
}
