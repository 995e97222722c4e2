package escape

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSubpathRace: a container that swaps a part of a volume for a link to a folder of the host, while others mount that part, never gets that folder mounted.
func TestSubpathRace(t *testing.T) {
	out := t.TempDir()
	if err := os.WriteFile(out+"/secret", []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	victim(t, "-v", "shared:/v", "brig/base", "sh", "-c", `mkdir -p /v/d; echo inside >/v/d/secret; ln -s "`+out+`" /v/l; while :; do mv /v/d /v/x; mv /v/l /v/d; mv /v/d /v/l; mv /v/x /v/d; done`)
	for end := time.Now().Add(seconds(3 * time.Second)); time.Now().Before(end); {
		r := brig(t, "run", "--rm", "--network", "none", "--mount", "type=volume,source=shared,target=/m,volume-subpath=d", "brig/base", "sh", "-c", "cat /m/secret; touch /m/made")
		if strings.Contains(r.out, "host") {
			t.Fatal("a file of the host was read")
		}
		if names, _ := os.ReadDir(out); len(names) != 1 {
			t.Fatalf("made on the host: %v", names)
		}
	}
}

// TestTargetsOfSecretsAndDevices: where the image has links in the way of a secret's or a CDI mount's target, they lead to places in the image.
func TestTargetsOfSecretsAndDevices(t *testing.T) {
	out := t.TempDir()
	loadImage(t, "targets:1", nil,
		tar.Header{Name: "run/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "run/secrets", Typeflag: tar.TypeSymlink, Linkname: out},
		tar.Header{Name: "opt", Typeflag: tar.TypeSymlink, Linkname: "../../../../../.." + out})
	value := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(value, []byte("hidden"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "secret", "create", "--replace", "escape", value)
	defer brig(t, "secret", "rm", "escape")
	specs := t.TempDir()
	spec := fmt.Sprintf("cdiVersion: 0.6.0\nkind: v.com/c\ndevices:\n- {name: x, containerEdits: {mounts: [{hostPath: %s, containerPath: /opt/deep/file}]}}\n", value)
	if err := os.WriteFile(specs+"/v.yaml", []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(specs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--secret", "escape"}, {"--secret", "escape,target=/opt/deep/secret"}, {"--cdi-spec-dir", specs, "--device", "v.com/c=x"}} {
		brig(t, append(append([]string{"run", "--rm", "--network", "none"}, args...), "targets:1", "true")...)
		if names, _ := os.ReadDir(out); len(names) != 0 {
			t.Fatalf("%v: made on the host: %v", args, names)
		}
	}
}

// TestUserNSIsNobodyOutside: root of a container with ids of its own has no rights over a file of the host's root, whatever it does to the folder, its own files or links in it.
func TestUserNSIsNobodyOutside(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/roots", []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	r := brig(t, "run", "--rm", "--network", "none", "--userns", "auto", "-v", dir+":/m", "brig/base", "sh", "-c",
		"cat /m/roots; chmod 777 /m/roots; chown 0 /m/roots; touch /m/mine; chmod 4755 /m/mine; ln /m/roots /m/hard; mknod /m/null c 1 3; mount -t tmpfs none /mnt; true")
	if strings.Contains(r.out, "root's") {
		t.Error("a file of root's was read")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		owner := ownerOf(st)
		switch {
		case e.Name() == "roots" && (owner != 0 || st.Mode().Perm() != 0o600):
			t.Errorf("root's file is %d's now, mode %v", owner, st.Mode())
		case e.Name() != "roots" && owner == 0:
			t.Errorf("%s belongs to the host's root: %v", e.Name(), st.Mode())
		case st.Mode()&os.ModeDevice != 0:
			t.Errorf("%s is a device", e.Name())
		}
	}
}

// TestMappedFoldersMakeNoRootsFiles: by an ID-mapped folder no user of a container but root makes a file of the host's root, nor one with whose number the folder's owner is.
func TestMappedFoldersMakeNoRootsFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"0", "1", "1000", "65534"} {
		brig(t, "run", "--rm", "--network", "none", "-u", user, "-v", dir+":/m:owneridmap", "brig/base", "sh", "-c", "touch /m/by-"+user+"; chmod 4755 /m/by-"+user+"; true")
	}
	// Root of one in which root has the owner's files becomes the user with the owner's number.
	brig(t, "run", "--rm", "--network", "none", "-v", dir+":/m:owneridmap", "brig/base", "su", "-s", "/bin/sh", "www-data", "-c", "touch /m/by-www")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 4 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if ownerOf(st) == 0 {
			t.Errorf("%s belongs to the host's root", e.Name())
		}
	}
}

// TestCraftedSizes: the file of a volume with a size that was cut, or made something else, is an error, and no device is left.
func TestCraftedSizes(t *testing.T) {
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs loop devices")
	}
	for name, craft := range map[string]func(image string) error{
		"cut":     func(image string) error { return os.Truncate(image, 64<<10) },
		"garbage": func(image string) error { return os.WriteFile(image, []byte(strings.Repeat("x", 4<<20)), 0o600) },
		"link": func(image string) error {
			if err := os.Remove(image); err != nil {
				return err
			}
			return os.Symlink("/dev/zero", image)
		},
	} {
		must(t, "volume", "create", "--opt", "size=4m", "crafted")
		if err := craft(filepath.Join(root, "volume", "crafted", "image")); err != nil {
			t.Fatal(err)
		}
		if r := brig(t, "run", "--rm", "--network", "none", "-v", "crafted:/v", "brig/base", "true"); r.code == 0 {
			t.Errorf("%s: it was mounted", name)
		}
		must(t, "volume", "rm", "crafted")
		files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.Contains(string(b), root) {
				t.Errorf("%s: a device is left: %s", name, b)
			}
		}
	}
}

func ownerOf(st os.FileInfo) uint32 { return st.Sys().(*syscall.Stat_t).Uid }
