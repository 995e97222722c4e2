package images

import (
	"crypto/rand"
	"fmt"
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

// probe says what a process sees of its root: names, modes, owners, sizes, times and contents.
const probe = `cd /; for d in bin data etc odd tmp; do find $d -xdev -type d -exec stat -c '%n %a %u %g %Y' {} +; find $d -xdev ! -type d -exec stat -c '%n %a %u %g %s %Y %F' {} +
find $d -xdev -type f -exec sha256sum {} +; done | grep -v -E '(^|  )etc(/hosts|/hostname|/resolv.conf|/mtab)?( |$)' | sort | sha256sum`

// changes are what a container does to the root before it is committed: each way that a layer has to tell of.
const changes = `set -e; cd /; echo new >/data/new; rm /data/file; rm -r /data/gone; rm -r /data/replaced; mkdir /data/replaced; echo x >/data/replaced/x
chmod 4755 /data/mode; chown 7:8 /data/owner; ln /data/new /data/new.link; ln -sf /elsewhere /data/symlink; rm /data/tofolder; mkdir /data/tofolder; rm -r /data/tofile; echo y >/data/tofile
mkfifo /data/fifo2; mknod /data/null2 c 1 3; mkdir -p "/odd/new
line"; touch -d '2001-02-03 04:05:06' /data/old /data/new; mv /data/moved /odd/moved`

// rootfs makes a root file system with all that is hard to keep.
func rootfs(t *testing.T) (dir, archive string) {
	t.Helper()
	top := t.TempDir()
	root, _, err := machine.Busybox(top, "localhost/images:latest")
	must(t, err)
	at := func(name string) string { return filepath.Join(root, name) }
	for _, d := range []string{"data/gone", "data/replaced", "data/tofile", "data/moved/deep", "odd/caf\xc3\xa9", "odd/new\nline\x1b[31m", "tmp", "etc", "data/sgid"} {
		must(t, os.MkdirAll(at(d), 0o755))
	}
	for _, f := range []string{"data/file", "data/gone/x", "data/replaced/old", "data/mode", "data/owner", "data/tofolder", "data/tofile/z", "data/moved/deep/f", "odd/caf\xc3\xa9/x", "odd/a b", "odd/" + strings.Repeat("long", 50)} {
		must(t, os.WriteFile(at(f), []byte("content of "+f), 0o644))
	}
	noise := make([]byte, 4<<20) // a layer of some size is kept otherwise than a small one
	_, _ = rand.Read(noise)
	must(t, os.WriteFile(at("data/noise"), noise, 0o644))
	must(t, os.Link(at("data/mode"), at("odd/mode.link")))
	must(t, os.Symlink("../../../..", at("data/symlink")))
	must(t, os.Symlink("/etc/passwd", at("data/absolute")))
	must(t, unix.Mkfifo(at("data/fifo"), 0o622))
	must(t, unix.Mknod(at("data/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(at("data/disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(8, 1))))
	must(t, os.Chown(at("data/owner"), 100_000, 200_000))
	must(t, os.Chmod(at("tmp"), 0o777|os.ModeSticky))
	must(t, os.Chmod(at("data/sgid"), 0o775|os.ModeSetgid))
	must(t, os.Chmod(at("data/owner"), 0o755|os.ModeSetuid))
	must(t, unix.Setxattr(at("data/file"), "user.note", []byte("a\x00b"), 0))
	must(t, unix.Setxattr(at("odd/a b"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	must(t, filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		ts := unix.NsecToTimespec(1_000_000_000_000_000_000)
		if err == nil {
			err = unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
		}
		return err
	}))
	archive = filepath.Join(top, "root.tar")
	client{"tar"}.do(t, "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", root, "-cf", archive, ".")
	return root, archive
}

// podman is one that keeps all that it has below a folder of the test's.
func podman(t *testing.T) client {
	t.Helper()
	need(t, "podman", "podman")
	dir, err := os.MkdirTemp("", "p")
	must(t, err)
	c := client(append(machine.Podman(dir), "--storage-driver=overlay"))
	t.Cleanup(func() {
		_, _, _ = c.try("rm", "-af")
		_ = unix.Unmount(filepath.Join(dir, "podman", "overlay"), unix.MNT_DETACH)
		client{"rm"}.do(t, "-rf", dir)
	})
	return c
}

// buildah is one that keeps all that it has below a folder of the test's.
func buildah(t *testing.T) client {
	t.Helper()
	need(t, "buildah", "buildah")
	dir, err := os.MkdirTemp("", "b")
	must(t, err)
	t.Cleanup(func() {
		_ = unix.Unmount(filepath.Join(dir, "root", "overlay"), unix.MNT_DETACH)
		client{"rm"}.do(t, "-rf", dir)
	})
	return client{"buildah", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "overlay"}
}

// docker is one with a daemon of its own.
func docker(t *testing.T) client {
	t.Helper()
	need(t, "docker.io containerd iptables", "dockerd", "containerd", "docker", "iptables")
	dir, err := os.MkdirTemp("", "d")
	must(t, err)
	t.Cleanup(func() { client{"rm"}.do(t, "-rf", dir) })
	containerd, stop, err := machine.StartContainerd(dir)
	t.Cleanup(stop)
	must(t, err)
	socket, stop, err := machine.StartDockerd(dir, containerd, "--iptables=false", "--bridge=none")
	t.Cleanup(stop)
	must(t, err)
	return client{"docker", "-H", "unix://" + socket}
}

// TestRoundTrip: a container that is exported and imported is the same, and GNU tar finds no difference to the tree that it came from.
func TestRoundTrip(t *testing.T) {
	root, archive := rootfs(t)
	b := newBrig(t)
	b.do(t, "import", archive, "one")
	one := b.export(t, "one")
	same(t, one, listDir(t, root), nil)
	b.do(t, "create", "--name", "box", "one", "true")
	out := filepath.Join(t.TempDir(), "out.tar")
	b.do(t, "export", "-o", out, "box")
	client{"tar"}.do(t, "--compare", "--xattrs", "--xattrs-include=*", "-f", out, "-C", root)
	b.do(t, "import", out, "two")
	same(t, b.export(t, "two"), one, nil)
}

// TestMadeByOthers: the same root file system, made to an image by each of the others, is the same in Brig, and a process in it sees the same.
func TestMadeByOthers(t *testing.T) {
	_, archive := rootfs(t)
	b := newBrig(t)
	b.do(t, "import", archive, "mine")
	want := b.export(t, "mine")
	seen := b.do(t, "run", "--rm", "mine", "sh", "-c", probe)
	check := func(t *testing.T, image string, drop func(string, string) string) {
		t.Helper()
		same(t, b.export(t, image), want, drop)
		if got := b.do(t, "run", "--rm", image, "sh", "-c", probe); got != seen {
			t.Errorf("a process sees %s, want %s", got, seen)
		}
	}
	t.Run("umoci", func(t *testing.T) {
		need(t, "umoci", "umoci")
		dir := t.TempDir()
		u, image := client{"umoci"}, filepath.Join(dir, "layout")+":made"
		u.do(t, "init", "--layout", filepath.Join(dir, "layout"))
		u.do(t, "new", "--image", image)
		u.do(t, "unpack", "--image", image, filepath.Join(dir, "bundle"))
		client{"tar"}.do(t, "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f", archive, "-C", filepath.Join(dir, "bundle", "rootfs"))
		u.do(t, "repack", "--image", image, filepath.Join(dir, "bundle"))
		out := b.do(t, "load", "-i", filepath.Join(dir, "layout"))
		check(t, loaded(t, out), nil)
	})
	t.Run("podman", func(t *testing.T) {
		p := podman(t)
		p.do(t, "import", archive, "localhost/made:1")
		for _, format := range []string{"docker-archive", "oci-archive"} {
			file := filepath.Join(t.TempDir(), "saved.tar")
			p.do(t, "save", "--format", format, "-o", file, "localhost/made:1")
			check(t, loaded(t, b.do(t, "load", "-i", file)), withoutAttributes)
			b.do(t, "rmi", "localhost/made:1")
		}
	})
	t.Run("buildah", func(t *testing.T) {
		bu := buildah(t)
		box := bu.do(t, "from", "scratch")
		bu.do(t, "add", "-q", box, archive, "/")
		for format, as := range map[string]string{"docker": "docker-archive", "oci": "oci-archive"} {
			file := filepath.Join(t.TempDir(), "saved.tar")
			bu.do(t, "commit", "-q", "--format", format, box, as+":"+file+":docker.io/library/buildah:"+format)
			check(t, loaded(t, b.do(t, "load", "-i", file)), withoutAttributes)
		}
		bu.do(t, "rm", box)
	})
	t.Run("docker", func(t *testing.T) {
		d := docker(t)
		d.do(t, "import", archive, "made:docker")
		file := filepath.Join(t.TempDir(), "saved.tar")
		d.do(t, "save", "-o", file, "made:docker")
		check(t, loaded(t, b.do(t, "load", "-i", file)), withoutAttributes)
	})
	t.Run("skopeo", func(t *testing.T) {
		need(t, "skopeo", "skopeo")
		dir := t.TempDir()
		saved := filepath.Join(dir, "saved")
		b.do(t, "save", "-o", saved, "mine")
		for transport, format := range map[string]string{"oci": "oci", "docker-archive": "v2s2", "oci-archive": "oci"} {
			made := filepath.Join(dir, transport)
			client{"skopeo"}.do(t, "copy", "-q", "--format", format, "docker-archive:"+saved, transport+":"+made+":docker.io/library/skopeo:"+transport)
			check(t, loaded(t, b.do(t, "load", "-i", made)), nil)
		}
	})
}

// loaded is the name that brig load printed.
func loaded(t *testing.T, out string) string {
	t.Helper()
	lines := strings.Split(out, "\n")
	_, name, ok := strings.Cut(lines[len(lines)-1], ": ")
	if !ok {
		t.Fatalf("brig load: %q", out)
	}
	return name
}

// TestCommitted: what a container changed, committed and saved, is the same to the others.
func TestCommitted(t *testing.T) {
	_, archive := rootfs(t)
	b := newBrig(t)
	b.do(t, "import", "-c", "ENV A=1", archive, "base")
	b.do(t, "run", "--name", "box", "base", "sh", "-c", changes)
	b.do(t, "commit", "-m", "changes", "-c", `CMD ["true"]`, "box", "changed:1")
	boxed := filepath.Join(t.TempDir(), "box.tar")
	b.do(t, "export", "-o", boxed, "box")
	want := b.export(t, "changed:1")
	same(t, want, listFile(t, boxed), nil)
	for _, name := range []string{"data/file", "data/gone", "data/gone/x", "data/replaced/old", "data/moved", "data/tofile/z"} {
		if line := want[name]; line != "" {
			t.Errorf("%s was removed: %s", name, line)
		}
	}
	seen := b.do(t, "run", "--rm", "changed:1", "sh", "-c", probe)
	saved := map[string]string{}
	for _, format := range []string{"docker-archive", "oci-archive", "oci-dir"} {
		saved[format] = filepath.Join(t.TempDir(), format)
		b.do(t, "save", "--format", format, "-o", saved[format], "changed:1")
	}
	id := b.do(t, "image", "inspect", "-f", "{{.Id}}", "changed:1")

	t.Run("brig", func(t *testing.T) {
		for format, file := range saved {
			other := newBrig(t)
			other.do(t, "load", "-i", file)
			if got := other.do(t, "image", "inspect", "-f", "{{.Id}}", "changed:1"); got != id {
				t.Errorf("%s: it is %s, was %s", format, got, id)
			}
			same(t, other.export(t, "changed:1"), want, nil)
		}
	})
	t.Run("umoci", func(t *testing.T) {
		need(t, "umoci", "umoci")
		bundle := filepath.Join(t.TempDir(), "bundle")
		client{"umoci"}.do(t, "unpack", "--image", saved["oci-dir"]+":docker.io/library/changed:1", bundle)
		same(t, listDir(t, filepath.Join(bundle, "rootfs")), want, nil)
	})
	t.Run("skopeo", func(t *testing.T) {
		need(t, "skopeo", "skopeo")
		for transport, format := range map[string]string{"docker-archive": "docker-archive", "oci-archive": "oci-archive", "oci": "oci-dir"} {
			back := filepath.Join(t.TempDir(), "back")
			client{"skopeo"}.do(t, "copy", "-q", transport+":"+saved[format], "oci:"+back+":docker.io/library/back:"+transport)
			image := loaded(t, b.do(t, "load", "-i", back))
			same(t, b.export(t, image), want, nil)
			if got := b.do(t, "run", "--rm", image, "sh", "-c", probe); got != seen {
				t.Errorf("%s: a process sees %s, want %s", transport, got, seen)
			}
		}
	})
	t.Run("podman", func(t *testing.T) {
		p := podman(t)
		for _, format := range []string{"docker-archive", "oci-archive"} {
			p.do(t, "load", "-q", "-i", saved[format])
			same(t, p.export(t, "docker.io/library/changed:1"), want, withoutAttributes)
			run := append(append([]string{"run", "--rm", "--network", "none"}, machine.PodmanLimits()...), "docker.io/library/changed:1", "sh", "-c", probe)
			if got := p.do(t, run...); got != seen {
				t.Errorf("%s: a process sees %s, want %s", format, got, seen)
			}
			p.do(t, "rmi", "docker.io/library/changed:1")
		}
	})
	t.Run("buildah", func(t *testing.T) {
		bu := buildah(t)
		for _, format := range []string{"docker-archive", "oci-archive"} {
			box := bu.do(t, "from", "-q", format+":"+saved[format])
			dir := bu.do(t, "mount", box)
			same(t, listDir(t, dir), want, withoutAttributes)
			bu.do(t, "rm", box)
			bu.do(t, "rmi", "-a", "-f")
		}
	})
	t.Run("docker", func(t *testing.T) {
		d := docker(t)
		d.do(t, "load", "-q", "-i", saved["docker-archive"])
		same(t, d.export(t, "changed:1"), want, withoutAttributes)
		if got := d.do(t, "run", "--rm", "--network", "none", "changed:1", "sh", "-c", probe); got != seen {
			t.Errorf("a process sees %s, want %s", got, seen)
		}
		if got := d.do(t, "history", "--no-trunc", "--format", "{{.Comment}}", "changed:1"); !strings.HasPrefix(got, "changes\n") {
			t.Errorf("docker history: %q", got)
		}
	})
	t.Run("registry", func(t *testing.T) {
		need(t, "skopeo docker-registry", "skopeo", "docker-registry")
		reg, err := machine.StartRegistry(t.TempDir())
		must(t, err)
		defer reg.Stop()
		name := reg.Address + "/changed:1"
		client{"skopeo"}.do(t, "copy", "-q", "--dest-tls-verify=false", "oci-archive:"+saved["oci-archive"], "docker://"+name)
		other := newBrig(t)
		other.do(t, "pull", name)
		if got := other.do(t, "image", "inspect", "-f", "{{.Id}}", name); got != id {
			t.Errorf("it is %s, was %s", got, id)
		}
		same(t, other.export(t, name), want, nil)
	})
}

// TestHostile: a container that fights its export and commit, with links that change places all the time, 300 folders in one another, names made to
// confuse, and 100 000 files, gets nothing of the host and holds nobody up.
func TestHostile(t *testing.T) {
	_, archive := rootfs(t)
	b := newBrig(t)
	b.do(t, "import", archive, "base")
	secret := "a secret of the host " + fmt.Sprint(time.Now().UnixNano())
	outside := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(outside, []byte(secret), 0o600))
	b.do(t, "run", "-d", "--name", "box", "base", "sh", "-c", fmt.Sprintf(`
		mkdir -p /h/d/e; echo inside >/h/d/secret; ln -s %s /h/l; ln -s / /h/r; mkfifo /h/p; echo x >/h/f
		cd /h; i=0; while [ $i -lt 300 ]; do mkdir n; cd n; i=$((i+1)); done
		cd /h; mkdir many; cd many; seq 1 100000 | xargs touch; touch "$(printf 'a\nb\033[2J\001')"
		touch /ready; cd /h
		while :; do mv d d2; ln -s %s d; rm d; ln -s / d; rm d; mv d2 d; mv f f2; ln p f; rm f; ln -s %s f; rm f; mv f2 f; dd if=/dev/zero of=g bs=1k count=$((RANDOM %% 200)) 2>/dev/null; done`,
		outside, filepath.Dir(outside), outside))
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if out, _, err := b.try("exec", "box", "ls", "/ready"); err == nil && strings.Contains(out, "ready") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the container is not ready")
		}
	}
	file := filepath.Join(t.TempDir(), "box.tar")
	b.do(t, "export", "-o", file, "box")
	if n := (client{"grep"}).count(secret, file); n != 0 {
		t.Fatal("the secret is in the archive")
	}
	l := listFile(t, file)
	deepest := "h" + strings.Repeat("/n", 300)
	if len(l) < 100_000 || l[deepest] == "" || l["h/many/a\nb\x1b[2J\x01"] == "" {
		t.Errorf("%d names, or some are missing", len(l))
	}
	b.do(t, "commit", "box", "hostile:1")
	b.do(t, "commit", "--pause=false", "box", "hostile:2")
	if state := b.do(t, "inspect", "-f", "{{.State.Status}}", "box"); state != "running" {
		t.Errorf("the container is %s after its commit", state)
	}
	b.do(t, "rm", "-f", "box")
	for _, image := range []string{"hostile:1", "hostile:2"} {
		if got := b.do(t, "run", "--rm", image, "sh", "-c", "ls /h/many | wc -l"); !slices.Contains([]string{"100001", "100002"}, got) { // a line break counts
			t.Errorf("%s has %s files", image, got)
		}
	}
}

// TestCommitKilled: whoever of a commit is killed, the container runs on, and there is the whole image or none.
func TestCommitKilled(t *testing.T) {
	_, archive := rootfs(t)
	b := newBrig(t)
	b.do(t, "import", archive, "base")
	b.do(t, "run", "-d", "--name", "box", "base", "sh", "-c", "dd if=/dev/urandom of=/big bs=1M count=96 2>/dev/null; touch /ready; while :; do date +%s%N >/tick; sleep 0.02; done")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if out, _, _ := b.try("exec", "box", "cat", "/ready", "/tick"); out != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the container is not ready")
		}
	}
	upper := filepath.Join(b[2], "snapshot", "active", b.do(t, "inspect", "-f", "{{.Id}}", "box"), "fs", "tick")
	tick := func() string {
		text, err := os.ReadFile(upper)
		must(t, err)
		return string(text)
	}
	for round, victim := range []string{"brig", "brig-image", "brig", "brig-image"} {
		cmd := exec.Command(b[0], append(slices.Clone(b[1:]), "commit", "box", fmt.Sprintf("killed:%d", round))...)
		must(t, cmd.Start())
		time.Sleep(time.Duration(100+200*round) * time.Millisecond)
		pid := cmd.Process.Pid
		if victim == "brig-image" {
			pid = childOf(pid)
		}
		if pid > 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = cmd.Wait()
		for deadline, at := time.Now().Add(time.Minute), tick(); tick() == at; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("round %d: %s was killed, and the container stands still", round, victim)
			}
		}
		if _, _, err := b.try("image", "inspect", fmt.Sprintf("killed:%d", round)); err == nil {
			if n := b.do(t, "run", "--rm", fmt.Sprintf("killed:%d", round), "sh", "-c", "wc -c </big"); n != fmt.Sprint(96<<20) {
				t.Errorf("round %d: half an image: %s bytes", round, n)
			}
		}
	}
	b.do(t, "commit", "box", "whole:1")
	// Both of them killed leave it frozen, and it can be removed still.
	cmd := exec.Command(b[0], append(slices.Clone(b[1:]), "commit", "box", "killed:both")...)
	must(t, cmd.Start())
	time.Sleep(300 * time.Millisecond)
	if pid := childOf(cmd.Process.Pid); pid > 0 {
		_ = unix.Kill(cmd.Process.Pid, unix.SIGSTOP) // so that it does not thaw what the other leaves
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	_ = unix.Kill(cmd.Process.Pid, unix.SIGKILL)
	_ = cmd.Wait()
	b.do(t, "rm", "-f", "box")
}

// childOf is the first child of a process, 0 where it has none.
func childOf(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	var child int
	if _, err := fmt.Sscan(string(text), &child); err != nil {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, task := range tasks { // the thread that started it
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
			if _, err := fmt.Sscan(string(text), &child); err == nil {
				return child
			}
		}
	}
	return child
}

// count is how many lines of a file have a text.
func (c client) count(text, file string) int {
	out, _, err := c.try("-c", "-a", "-F", text, file)
	var n int
	if _, serr := fmt.Sscan(out, &n); serr != nil && err != nil {
		return -1
	}
	return n
}
