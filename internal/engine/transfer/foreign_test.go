package transfer

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/api"
	"brig/internal/image/imagetest"
)

// need skips the test where a program is missing, and names the Debian package.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed: apt-get install %s", p, p)
		}
	}
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// registry starts Debian's docker-registry on a free port of loopback.
func registry(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	conf := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", dir, host), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 100 {
		if c, err := net.Dial("tcp", host); err == nil {
			c.Close()
			return host
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("docker-registry does not listen")
	return ""
}

// TestRegistry pulls from docker's registry what skopeo pushed: OCI and docker's format, gzip and zstd.
func TestRegistry(t *testing.T) {
	need(t, "docker-registry", "skopeo")
	w, debian, _ := pulled(t)
	host := registry(t)
	layout := filepath.Join(t.TempDir(), "layout")
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{debian.Name}, File: layout, Format: "oci-dir"}); err != nil {
		t.Fatal(err)
	}
	for tag, args := range map[string][]string{
		"oci":  {"--format", "oci"},
		"v2s2": {"--format", "v2s2"},
		"gzip": {"--format", "oci", "--dest-compress", "--dest-compress-format", "gzip"},
		"zstd": {"--format", "oci", "--dest-compress", "--dest-compress-format", "zstd"},
	} {
		run(t, "skopeo", append([]string{"copy", "-q", "--dest-tls-verify=false", "oci:" + layout, "docker://" + host + "/debian:" + tag}, args...)...)
		f := w.fresh()
		reply, _, _, err := f.do(api.TransferRequest{Op: "pull", Refs: []string{host + "/debian:" + tag}})
		if err != nil {
			t.Errorf("%s: %v", tag, err)
			continue
		}
		rec := reply.Images[0]
		if f.file(rec.Layers[0].DiffID, "etc/debian_version") != "12" || len(rec.Layers) != 2 || rec.Layers[0].DiffID != debian.Layers[0].DiffID {
			t.Errorf("%s: %+v", tag, rec)
		}
		if tag == "v2s2" && !strings.Contains(rec.Manifest.MediaType, "docker") {
			t.Errorf("%s: %s", tag, rec.Manifest.MediaType)
		}
	}
	_, _, _, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{host + "/nosuch:1"}})
	if want := fmt.Sprintf("image %s/nosuch:1: not found in registry %s (manifest unknown)", host, host); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestSkopeo takes images through skopeo both ways: docker-archive, oci-archive, oci.
func TestSkopeo(t *testing.T) {
	need(t, "skopeo")
	w, debian, _ := pulled(t)
	for format, transport := range map[string]string{"docker-archive": "docker-archive", "oci-archive": "oci-archive", "oci-dir": "oci"} {
		out, back := filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "back")
		if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{debian.Name}, File: out, Format: format}); err != nil {
			t.Fatal(err)
		}
		name := "docker.io/library/again:1"
		run(t, "skopeo", "copy", "-q", transport+":"+out, transport+":"+back+":"+name)
		f := w.fresh()
		reply, stdout, _, err := f.do(api.TransferRequest{Op: "load", File: back})
		if err != nil || stdout != "Loaded image: again:1\n" {
			t.Errorf("%s: %q, %v", format, stdout, err)
			continue
		}
		rec := reply.Images[0]
		if rec.ID != debian.ID || f.file(rec.Layers[1].DiffID, "a") != "1" {
			t.Errorf("%s: %+v", format, rec)
		}
	}
}

// TestPodman: podman loads what brig saves, and brig what podman saves.
func TestPodman(t *testing.T) {
	need(t, "podman")
	w, debian, other := pulled(t)
	dir := t.TempDir()
	podman := func(args ...string) string {
		return run(t, "podman", append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"}, args...)...)
	}
	file := filepath.Join(dir, "brig.tar")
	if _, _, _, err := w.do(api.TransferRequest{Op: "save", Refs: []string{debian.Name, other.Name}, File: file}); err != nil {
		t.Fatal(err)
	}
	if out := podman("load", "-q", "-i", file); !strings.Contains(out, debian.Name) || !strings.Contains(out, other.Name) {
		t.Errorf("podman load: %s", out)
	}
	for _, format := range []string{"docker-archive", "oci-archive"} {
		saved := filepath.Join(dir, format)
		podman("save", "-q", "--format", format, "-o", saved, debian.Name)
		f := w.fresh()
		reply, _, _, err := f.do(api.TransferRequest{Op: "load", File: saved})
		if err != nil || reply.Images[0].Name != debian.Name || f.file(reply.Images[0].Layers[0].DiffID, "etc/debian_version") != "12" {
			t.Errorf("%s: %+v, %v", format, reply, err)
		}
	}
}

// TestUmoci: the store's own folder of blobs is an OCI layout that other programs read.
func TestUmoci(t *testing.T) {
	need(t, "umoci")
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(imagetest.Gzip, imagetest.Layer("a", "b")), "1")
	if _, err := w.pull("x:1"); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "umoci", "list", "--layout", filepath.Join(w.root, "content")); strings.TrimSpace(out) != w.host+"/x:1" {
		t.Errorf("umoci list: %q", out)
	}
}
