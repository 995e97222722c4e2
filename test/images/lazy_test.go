package images

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"brig/test/machine"
)

// chunked has an image of zstd:chunked in a registry of the test's own, which skopeo made, and returns its name. The file /large is not read by anything that a test
// starts with.
func chunked(t *testing.T) (reg *machine.Registry, name string) {
	t.Helper()
	need(t, "skopeo", "skopeo")
	need(t, "docker-registry", "docker-registry")
	top := t.TempDir()
	root, _, err := machine.Busybox(top, "localhost/lazy:latest")
	must(t, err)
	for _, file := range []string{"aside", "large", "zlast"} {
		noise := make([]byte, 4<<20)
		_, _ = rand.Read(noise)
		must(t, os.WriteFile(filepath.Join(root, file), noise, 0o644))
	}
	archive := filepath.Join(top, "root.tar")
	client{"tar"}.do(t, "--numeric-owner", "--sort=name", "--blocking-factor=1", "-C", root, "-cf", archive, ".")
	maker := newBrig(t)
	maker.do(t, "import", archive, "localhost/lazy:1")
	maker.do(t, "save", "--format", "oci-dir", "-o", filepath.Join(top, "layout"), "localhost/lazy:1")
	reg, err = machine.StartRegistry(filepath.Join(top, "registry"))
	must(t, err)
	t.Cleanup(reg.Stop)
	name = reg.Address + "/lazy:1"
	client{"skopeo"}.do(t, "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "--dest-compress-format", "zstd:chunked", "oci:"+filepath.Join(top, "layout")+":localhost/lazy:1", "docker://"+name)
	return reg, name
}

// readers lists the processes that read images for a Brig.
func (c client) readers(t *testing.T) (pids []int) {
	t.Helper()
	all, err := os.ReadDir("/proc")
	must(t, err)
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		line, rerr := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && rerr == nil && strings.Contains(string(line), "brig-image") && strings.Contains(string(line), c[2]) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// nothing waits until no process of a Brig reads an image, and looks that none has left anything.
func (c client) nothing(t *testing.T) {
	t.Helper()
	eventually(t, "the reader goes on", func() bool { return len(c.readers(t)) == 0 })
	for _, dir := range []string{filepath.Join(c[2], "content", "ingest"), filepath.Join(c[2], "lease"), filepath.Join(c[4], "lazy")} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	if strings.Contains(string(mounts), c[4]+"/lazy") {
		t.Errorf("left: %s", mounts)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 300 {
		if ok() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal(what)
}

// TestLazy: a container of an image that is read as it is needed has the files of the image; the image comes in whole while it runs, with its digests, and with the
// container ends who reads it.
func TestLazy(t *testing.T) {
	_, name := chunked(t)
	b, whole := newBrig(t), newBrig(t)
	sums := []string{"--network", "none", "--rm", name, "sh", "-c", "cd /; find . -xdev -type f ! -path './etc/*' ! -path './proc/*' ! -path './sys/*' -exec sha256sum {} + | sort; ls -ln /bin | tail -n +2"}
	want := whole.do(t, append([]string{"run"}, sums...)...)
	out, words, err := b.try(append([]string{"run", "--pull", "lazy"}, sums...)...)
	if err != nil || !strings.Contains(words, "Status: Reading "+name+" as it is needed") {
		t.Fatalf("%v %s", err, words)
	}
	got, wanted := strings.Split(strings.TrimSpace(out), "\n"), strings.Split(want, "\n")
	for i := range min(len(got), len(wanted)) {
		if got[i] != wanted[i] {
			t.Fatalf("%q, want %q", got[i], wanted[i])
		}
	}
	if len(got) != len(wanted) || len(got) < 100 {
		t.Fatalf("%d lines, want %d", len(got), len(wanted))
	}
	b.nothing(t)
	if out := b.do(t, "images", "-q"); out != "" {
		t.Errorf("a short run brought in %s", out)
	}
	if left, _ := os.ReadDir(filepath.Join(b[2], "content", "blobs", "sha256")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	for _, args := range [][]string{{"create", "--pull", "lazy", name, "true"}, {"run", "--pull", "lazy", "--restart", "always", name, "true"}} {
		if _, words, err := b.try(args...); err == nil || !strings.Contains(words, "--pull lazy") {
			t.Errorf("%s: %v %s", args, err, words)
		}
	}
	b.do(t, "run", "-d", "--name", "box", "--network", "none", "--pull", "lazy", "--user", "1000", name, "sleep", "600")
	b.do(t, "system", "check")
	eventually(t, "the image does not come in", func() bool { return b.do(t, "images", "-q") != "" })
	b.do(t, "system", "check")
	digest := []string{"images", "--digests", "--format", "{{.Digest}}"}
	if got, want := b.do(t, digest...), whole.do(t, digest...); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := b.do(t, "exec", "box", "sha256sum", "/large"), whole.do(t, "run", "--rm", "--network", "none", name, "sha256sum", "/large"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	b.do(t, "stop", "-t", "0", "box")
	b.nothing(t)
	b.do(t, "start", "box") // of the layers that have come in
	if got := b.do(t, "exec", "box", "id", "-u"); got != "1000" {
		t.Error(got)
	}
	b.do(t, "rm", "-f", "box")
}

// TestLazyDies: where the registry, or who reads, is gone, reads fail, `inspect` says why, and nothing is left.
func TestLazyDies(t *testing.T) {
	reg, name := chunked(t)
	b := newBrig(t)
	start := func() {
		b.do(t, "run", "-d", "--name", "box", "--network", "none", "--pull", "lazy", name, "sh", "-c", "while :; do :; done")
		b.do(t, "exec", "box", "sh", "-c", "cat /proc/1/exe >/dev/null") // or the container itself ends of a page that cannot be read
	}
	start()
	pids := b.readers(t)
	if len(pids) != 1 {
		t.Fatalf("%d read", len(pids))
	}
	must(t, syscall.Kill(pids[0], syscall.SIGKILL))
	eventually(t, "it lives on", func() bool { return len(b.readers(t)) == 0 })
	if out, words, err := b.try("exec", "box", "sha256sum", "/large"); err == nil {
		t.Errorf("%s%s", out, words)
	}
	b.do(t, "rm", "-f", "box")
	b.do(t, "system", "prune", "-f")
	b.nothing(t)

	start()
	reg.Stop()
	if out, words, err := b.try("exec", "box", "sha256sum", "/large"); err == nil {
		t.Errorf("%s%s", out, words)
	} else if !strings.Contains(fmt.Sprint(words), "nput/output error") {
		t.Errorf("%s", words)
	}
	if why := b.do(t, "inspect", "-f", "{{.State.Error}}", "box"); !strings.Contains(why, "refused") {
		t.Errorf("inspect says %q", why)
	}
	b.do(t, "stop", "-t", "0", "box")
	b.nothing(t)
	if _, words, err := b.try("start", "box"); err == nil || !strings.Contains(words, "brig pull") {
		t.Errorf("%v %s", err, words)
	}
	b.do(t, "system", "check")
	b.do(t, "rm", "-f", "box")
}
