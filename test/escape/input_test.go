package escape

import (
	"archive/tar"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An image whose /proc is a symlink (2019-19921), or /dev (2026-41579): the engine's mounts and masks would land elsewhere.
func TestCVE_2019_19921_2026_41579(t *testing.T) {
	loadImage(t, "localhost/control:1", nil)
	must(t, "run", "--rm", "localhost/control:1")
	dir := tar.Header{Typeflag: tar.TypeDir, Name: "elsewhere/", Mode: 0o755}
	for _, name := range []string{"proc", "dev", "sys"} {
		for _, to := range []string{"elsewhere", "/elsewhere", "/", "../../../../../tmp"} {
			loadImage(t, "localhost/symlink:1", nil, dir, tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777})
			if r := brig(t, "run", "--rm", "localhost/symlink:1"); r.code == 0 || r.out != "" {
				t.Errorf("/%s -> %s: %s", name, to, r)
			} else {
				t.Logf("/%s -> %s: %s", name, to, r)
			}
		}
	}
}

// A volume over /proc makes what the engine writes there (the LSM label) a file of the attacker's.
func TestCVE_2019_16884(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"-v", dir + ":/proc"}, {"-v", "evil:/proc"}, {"-v", dir + ":/tmp/../proc"}, {"-v", dir + ":/proc/self"}, {"-v", dir + ":/proc/self/attr"},
		{"--tmpfs", "/proc"}, {"--mount", "type=bind,src=" + dir + ",dst=/proc"},
	} {
		if r := brig(t, append(append([]string{"run", "--rm"}, args...), "brig/base", "true")...); r.code == 0 {
			t.Errorf("%q: %s", args, r)
		}
	}
}

// Users that overflow to root, or only look like it.
func TestCVE_2024_40635(t *testing.T) {
	id := victim(t, "brig/base", "sleep", "1000")
	for _, user := range []string{"2147483648", "-1", "4294967296", "4294967295", "0x0", " root", "0:4294967296", "0:-1", "1:2147483648"} {
		for _, args := range [][]string{{"run", "--rm", "--user=" + user, "brig/base", "id", "-u"}, {"exec", "--user=" + user, id, "id", "-u"}} {
			if r := brig(t, args...); r.code == 0 || r.out != "" || r.err == "" {
				t.Errorf("%s as %q: %s", args[0], user, r)
			}
		}
	}
	if os.Getenv(isolationEnv) == "container,userns" {
		return // its users are some 65,536
	}
	if got := must(t, "exec", "-u", "2147483647", id, "id", "-u"); got != "2147483647" {
		t.Errorf("the greatest user is %q", got)
	}
}

// A passwd file that is a fifo hangs the engine which looks up a name in it.
func TestCVE_2024_9676(t *testing.T) {
	id := victim(t, "brig/base", "sh", "-c", "rm /etc/passwd /etc/group; mkfifo /etc/passwd /etc/group && sleep 100")
	for tries := 0; brig(t, "exec", "-u", "0:0", id, "test", "-p", "/etc/group").code != 0; tries++ {
		if tries > 50 {
			t.Fatal("no fifo was made")
		}
	}
	brig(t, "exec", id, "true")
	for _, user := range []string{"nobody", "0:daemon", "1"} {
		if r := brig(t, "exec", "-u", user, id, "true"); user != "1" && r.code == 0 {
			t.Errorf("exec as %s: %s", user, r)
		}
	}
	loadImage(t, "localhost/fifo:1", nil, tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755},
		tar.Header{Typeflag: tar.TypeFifo, Name: "etc/passwd", Mode: 0o666}, tar.Header{Typeflag: tar.TypeFifo, Name: "etc/group", Mode: 0o666})
	for _, user := range []string{"nobody", "0:daemon"} {
		if r := brig(t, "run", "--rm", "-u", user, "localhost/fifo:1"); r.code == 0 {
			t.Errorf("run as %s: %s", user, r)
		}
	}
	brig(t, "run", "--rm", "localhost/fifo:1")
}

// Labels of an image that reach the engine's own keys.
func TestCVE_2026_53488(t *testing.T) {
	evil := map[string]string{"org.brig.seccomp": "unconfined", "org.brig.user": "0:0", "org.brig.x": "y", "run.oci.hooks": "binary:///bin/sh",
		"io.kubernetes.cri.container-type": "sandbox", "nerdctl/log-uri": "binary:///bin/sh"}
	loadImage(t, "localhost/labels:1", evil)
	loadImage(t, "localhost/labels:0", nil)
	annotations := func(image string) map[string]string {
		id := must(t, "run", "-d", "-u", "7", image, "/probe", "exe")
		defer must(t, "rm", "-f", id)
		var config struct{ Annotations map[string]string }
		if data, err := os.ReadFile(filepath.Join(root, "container", id, "config.json")); err != nil || json.Unmarshal(data, &config) != nil {
			t.Fatalf("%s: %v", data, err)
		}
		return config.Annotations
	}
	with, without := annotations("localhost/labels:1"), annotations("localhost/labels:0")
	if !maps.Equal(with, without) {
		t.Errorf("annotations with labels %v, without %v", with, without)
	}
	if got := must(t, "run", "--rm", "-u", "7", "localhost/labels:1"); !strings.Contains(got, "AF_ALG E") || !strings.Contains(got, "unshare EPERM") {
		t.Errorf("the filter is gone: %s", got)
	}
}

// Folders of the engine that other users of the machine can enter; all of this runs under umask 0.
func TestCVE_2021_41091(t *testing.T) {
	id := victim(t, "-v", "/data", "brig/base", "sleep", "1000")
	seen := map[string]bool{}
	for _, top := range []string{root, state} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // gone meanwhile
			}
			if strings.HasPrefix(path, filepath.Join(state, "root")+"/") {
				return fs.SkipDir // the files of a container of level chroot, below a folder that is closed
			}
			rel, _ := filepath.Rel(root, path)
			switch part := strings.Split(rel, "/"); {
			case part[0] == "snapshot" && len(part) > 3, part[0] == "volume" && len(part) > 2:
				return fs.SkipDir // files of images and volumes, below folders that are closed
			}
			info, err := d.Info()
			if err != nil {
				return nil
			}
			seen[path] = true
			if d.IsDir() && info.Mode().Perm() != 0o700 || info.Mode().IsRegular() && info.Mode().Perm()&0o022 != 0 {
				t.Errorf("%s: %v", path, info.Mode())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{root, state, filepath.Join(root, "container", id)} {
		if !seen[path] {
			t.Errorf("%s was not looked at", path)
		}
	}
	if boxes, _ := filepath.Glob(filepath.Join(state, "sandbox", "*", "shim.sock")); len(boxes) == 0 {
		t.Error("no sandbox was looked at")
	}
}
