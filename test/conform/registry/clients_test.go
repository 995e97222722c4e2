package registry

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"brig/test/machine"
)

// image is a docker-archive of a busybox, and its name in there.
func image(t *testing.T) (archive, name string) {
	t.Helper()
	name = "localhost/conform:latest"
	_, archive, err := machine.Busybox(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	return archive, name
}

// pushed puts an image into the registry with skopeo and returns its digest.
func pushed(t *testing.T, s *server, repo string) string {
	t.Helper()
	archive, _ := image(t)
	run(t, "skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "docker-archive:"+archive, "docker://"+s.address+"/"+repo)
	return run(t, "skopeo", "inspect", "--tls-verify=false", "-f", "{{.Digest}}", "docker://"+s.address+"/"+repo)
}

// TestSkopeo copies in and out, between repositories, and deletes.
func TestSkopeo(t *testing.T) {
	gated(t)
	installed(t, "skopeo", "skopeo")
	s := serve(t)
	d := pushed(t, s, "skopeo/a:1")
	at := "docker://" + s.address + "/skopeo/"
	layout := "oci:" + t.TempDir() + ":x"
	run(t, "skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", at+"a:1", layout)
	run(t, "skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", at+"a:1", at+"b:2")
	if got := run(t, "skopeo", "inspect", "--tls-verify=false", "-f", "{{.Digest}} {{.RepoTags}}", at+"b:2"); got != d+" [2]" {
		t.Errorf("skopeo inspect: %s, want %s", got, d)
	}
	run(t, "skopeo", "delete", "--tls-verify=false", at+"b:2")
	if out, err := try("skopeo", "inspect", "--tls-verify=false", at+"b:2"); err == nil {
		t.Errorf("deleted, and there: %s", out)
	}
	run(t, "skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", layout, at+"c:3")
}

// TestCrane pushes, mounts, lists, and looks at what is there.
func TestCrane(t *testing.T) {
	gated(t)
	s := serve(t)
	archive, _ := image(t)
	at := s.address + "/crane/"
	run(t, "crane", "push", archive, at+"a:1")
	run(t, "crane", "tag", at+"a:1", "2")
	if got := run(t, "crane", "ls", at+"a"); got != "1\n2" {
		t.Errorf("crane ls: %q", got)
	}
	run(t, "crane", "copy", at+"a:1", at+"b:1")
	if a, b := run(t, "crane", "digest", at+"a:2"), run(t, "crane", "digest", at+"b:1"); a != b {
		t.Errorf("crane digest: %s and %s", a, b)
	}
	if got := run(t, "crane", "catalog", s.address); got != "crane/a\ncrane/b" {
		t.Errorf("crane catalog: %q", got)
	}
	run(t, "crane", "validate", "--remote", at+"b:1")
	run(t, "crane", "pull", at+"b:1", filepath.Join(t.TempDir(), "x.tar"))
	run(t, "crane", "delete", at+"a:1")
	if got := run(t, "crane", "ls", at+"a"); got != "2" {
		t.Errorf("crane ls after crane delete of one tag: %q", got)
	}
}

// TestDocker pushes and pulls with Debian's dockerd.
func TestDocker(t *testing.T) {
	gated(t)
	installed(t, "docker.io containerd iptables", "dockerd", "containerd", "docker", "iptables")
	dir, err := os.MkdirTemp("", "cd")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	containerd, stop, err := machine.StartContainerd(dir)
	defer stop()
	if err != nil {
		t.Fatal(err)
	}
	socket, stop, err := machine.StartDockerd(dir, containerd, "--storage-driver", "vfs", "--iptables=false", "--bridge=none")
	defer stop()
	if err != nil {
		t.Fatal(err)
	}
	engine(t, serve(t), []string{"docker", "-H", "unix://" + socket}, nil)
	t.Run("login", func(t *testing.T) {
		s := serve(t, "--htpasswd", htpasswd(t, "ann", "secret"))
		docker := []string{"docker", "--config", t.TempDir(), "-H", "unix://" + socket}
		if out, err := try(append(docker, "login", "-u", "ann", "-p", "wrong", s.address)...); err == nil {
			t.Errorf("a wrong password: %s", out)
		}
		run(t, append(docker, "login", "-u", "ann", "-p", "secret", s.address)...)
		engine(t, s, docker, nil)
	})
}

// TestPodman pushes and pulls with Debian's podman.
func TestPodman(t *testing.T) {
	gated(t)
	installed(t, "podman", "podman")
	engine(t, serve(t), append(machine.Podman(t.TempDir()), "--storage-driver", "vfs"), []string{"--tls-verify=false"})
}

// engine pushes an image with docker's command line, pulls it and pushes it to another repository. flags go to push and pull.
func engine(t *testing.T, s *server, client, flags []string) {
	t.Helper()
	archive, name := image(t)
	do := func(verb string, args ...string) string {
		t.Helper()
		argv := append(append([]string{}, client...), verb)
		if verb == "push" || verb == "pull" {
			argv = append(argv, flags...)
		}
		return run(t, append(argv, args...)...)
	}
	first, second := s.address+"/engine/a:1", s.address+"/engine/deep/er/b:2"
	do("load", "-q", "-i", archive)
	do("tag", name, first)
	do("push", "-q", first)
	id := do("inspect", "-f", "{{.Id}}", name)
	do("rmi", "-f", name, first)
	do("pull", "-q", first)
	if got := do("inspect", "-f", "{{.Id}}", first); got != id {
		t.Errorf("pulled %s, pushed %s", got, id)
	}
	do("tag", first, second)
	do("push", "-q", second)
	do("rmi", "-f", first, second)
	do("pull", "-q", second)
	if got := do("inspect", "-f", "{{.Id}}", second); got != id {
		t.Errorf("pulled %s, pushed %s", got, id)
	}
}

// large is a docker-archive of an image with a layer that does not get small, so that Brig keeps it as a file system of its own.
func large(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	data := make([]byte, 6<<20)
	rand.NewChaCha8([32]byte{3}).Read(data)
	if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	layer, archive := filepath.Join(dir, "layer.tar"), filepath.Join(dir, "large.tar")
	run(t, "tar", "-C", dir, "-cf", layer, "file")
	if err := machine.WriteArchive(archive, "localhost/large:latest", layer); err != nil {
		t.Fatal(err)
	}
	return archive
}

// TestBrig pulls what was pushed, into the registry's own store and into another: in its own no blob lies twice, and none is lost when the
// image is removed.
func TestBrig(t *testing.T) {
	gated(t)
	s, archive := serve(t), large(t)
	run(t, "skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "docker-archive:"+archive, "docker://"+s.address+"/team/app:1")
	before := files(t, s)
	s.brig(t, "pull", "-q", s.address+"/team/app:1")
	if after := files(t, s); len(after) > len(before) {
		t.Errorf("a pull from the same store changed its blobs from %v to %v", before, after)
	} else {
		t.Logf("%d blobs are files, %d after a pull", len(before), len(after))
	}
	run(t, "crane", "validate", "--remote", s.address+"/team/app:1")
	// Pushed once more, to another repository, without mounting, it is not stored once more.
	pulled := files(t, s)
	run(t, "skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "docker-archive:"+archive, "docker://"+s.address+"/team/other:1")
	if after := files(t, s); len(after) > len(pulled) {
		t.Errorf("a push of what is there changed the blobs from %v to %v", pulled, after)
	}
	s.brig(t, "rmi", s.address+"/team/app:1")
	run(t, "crane", "validate", "--remote", s.address+"/team/app:1")
	// When nobody needs it any more it goes, whatever form it has.
	for _, repo := range []string{"/team/app", "/team/other"} {
		m := run(t, "crane", "manifest", s.address+repo+":1")
		run(t, "crane", "delete", s.address+repo+"@"+run(t, "crane", "digest", s.address+repo+":1"))
		for _, d := range regexp.MustCompile("sha256:[0-9a-f]{64}").FindAllString(m, -1) {
			if resp, b, err := request(t, "DELETE", "http://"+s.address+"/v2"+repo+"/blobs/"+d, nil); err != nil || resp.StatusCode != 202 {
				t.Errorf("DELETE %s: %v %v %s", d, resp, err, b)
			}
		}
	}
	layers, err := os.ReadDir(filepath.Join(s.root, "snapshot", "layer"))
	if left := files(t, s); len(left) > 0 || len(layers) > 0 || err != nil {
		t.Errorf("left: %v, %v %v", left, layers, err)
	}
	pushed(t, s, "team/app:1")
	other := serve(t)
	other.brig(t, "pull", "-q", s.address+"/team/app:1")

	// What Brig has can be pulled from it, by path and by full name.
	other.brig(t, "tag", s.address+"/team/app:1", "docker.io/library/tool:3")
	for _, name := range []string{"/library/tool:3", "/docker.io/library/tool:3"} {
		run(t, "crane", "validate", "--remote", other.address+name)
	}
	if out, err := try("crane", "delete", other.address+"/library/tool:3"); err == nil {
		t.Errorf("an image of Brig's was deleted: %s", out)
	}
	s.brig(t, "pull", "-q", other.address+"/library/tool:3")
	// Copied to a repository it stays when the image goes.
	run(t, "crane", "copy", other.address+"/library/tool:3", other.address+"/kept:1")
	other.brig(t, "rmi", "-f", "docker.io/library/tool:3")
	other.brig(t, "rmi", "-f", s.address+"/team/app:1")
	run(t, "crane", "validate", "--remote", other.address+"/kept:1")
	if out, err := try("crane", "digest", other.address+"/library/tool:3"); err == nil {
		t.Errorf("a removed image is served: %s", out)
	}
}

// files lists the files of blobs.
func files(t *testing.T, s *server) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(filepath.Join(s.root, "content", "blobs"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			all = append(all, e.Name())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestMirror reads another registry through this one: with skopeo by the full name, with docker as its registry mirror.
func TestMirror(t *testing.T) {
	gated(t)
	origin := serve(t)
	d := pushed(t, origin, "library/app:1")
	s := serve(t, "--mirror", "docker.io=http://"+origin.address, "--read-only")
	for _, name := range []string{"/library/app:1", "/docker.io/library/app:1", "/docker.io/app:1"} {
		if got := run(t, "crane", "digest", s.address+name); got != d {
			t.Errorf("%s: %s, want %s", name, got, d)
		}
	}
	run(t, "crane", "validate", "--remote", s.address+"/library/app:1")
	if out, err := try("crane", "tag", s.address+"/docker.io/library/app:1", "mine"); err == nil {
		t.Errorf("pushed to a mirror: %s", out)
	}
	second := pushed(t, origin, "library/other:1") // never asked for
	run(t, "crane", "copy", origin.address+"/library/other:1", origin.address+"/library/app:2")
	if got := run(t, "crane", "digest", s.address+"/library/app:2"); got != second {
		t.Errorf("a tag that is new: %s, want %s", got, second)
	}
	// Without the origin what came is still there.
	origin.stop(t)
	run(t, "crane", "validate", "--remote", s.address+"/library/app:1")
	if out, err := try("crane", "digest", s.address+"/library/other:1"); err == nil || strings.Contains(err.Error(), "panic") {
		t.Errorf("never fetched, and there: %s, %v", out, err)
	}
	if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", s.cmd.Process.Pid)); err != nil || strings.TrimSpace(string(got)) != "brigd" {
		t.Errorf("brig registry serve is %q, %v", got, err)
	}
}
