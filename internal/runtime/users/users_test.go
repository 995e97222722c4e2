package users

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"brig/api"
)

// rootWith makes a root with files and returns a descriptor of it and its path.
func rootWith(t *testing.T, files map[string]string) (int, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd, dir
}

func TestFind(t *testing.T) {
	root, _ := rootWith(t, map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nann:x:1000:100::/home/ann:\nbroken line\n",
		"etc/group":  "root:x:0:\nusers:x:100:\nwheel:x:10:root,ann\n",
	})
	for who, want := range map[string]struct {
		uid, gid int
		home     string
		groups   []int
	}{
		"root": {0, 0, "/root", []int{10}}, "0": {0, 0, "/root", []int{10}}, "ann": {1000, 100, "/home/ann", []int{10}},
		"ann:wheel": {1000, 10, "/home/ann", nil}, "ann:7": {1000, 7, "/home/ann", nil}, "1000": {1000, 100, "/home/ann", []int{10}},
		"4242": {4242, 0, "/", nil}, "4242:100": {4242, 100, "/", nil}, "2147483647": {2147483647, 0, "/", nil},
	} {
		u, err := Find(root, who)
		if err != nil || u.Uid != want.uid || u.Gid != want.gid || u.Home != want.home || !slices.Equal(u.Sgids, want.groups) {
			t.Errorf("%s: %+v, %v", who, u, err)
		}
	}
	for _, who := range []string{"2147483648", "4294967296", "0:2147483648", "-1", "0:-1", "+0", "0x1", " root", "root ", "root: wheel", "nobody", "root:none", "ROOT"} {
		if u, err := Find(root, who); api.KindOf(err) != api.InvalidArgument {
			t.Errorf("%q: %+v, %v", who, u, err)
		}
	}
}

// TestFilesOfTheImage: what an image has in place of its files neither hangs the runtime nor shows it the host's.
func TestFilesOfTheImage(t *testing.T) {
	root, _ := rootWith(t, nil)
	if u, err := Find(root, "5:6"); err != nil || u.Uid != 5 || u.Gid != 6 {
		t.Errorf("without files: %+v, %v", u, err)
	}
	if _, err := Find(root, "root"); api.KindOf(err) != api.InvalidArgument {
		t.Errorf("a name without files: %v", err)
	}
	for name, place := range map[string]func(string) error{
		"fifo":             func(p string) error { return unix.Mkfifo(p, 0o644) },
		"folder":           func(p string) error { return os.Mkdir(p, 0o755) },
		"link to a folder": func(p string) error { return os.Symlink("/etc", p) },
	} {
		for _, file := range []string{"etc/passwd", "etc/group"} {
			root, dir := rootWith(t, nil)
			if err := place(filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
			if _, err := Find(root, "root:root"); api.KindOf(err) != api.InvalidArgument {
				t.Errorf("%s as %s: %v", name, file, err)
			}
			if u, err := Find(root, "0:7"); err != nil || u.Uid != 0 || u.Gid != 7 { // numbers can do without names
				t.Errorf("%s as %s, numbers: %+v, %v", name, file, u, err)
			}
		}
	}
	// A link is resolved in the image: out of it there is nothing.
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("spy:x:77:77::/spy:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{outside, "../../../../../../.." + outside, "/proc/self/root" + outside} {
		root, dir := rootWith(t, nil)
		if err := os.Symlink(target, filepath.Join(dir, "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		if u, err := Find(root, "spy"); err == nil {
			t.Errorf("link to %s: %+v", target, u)
		}
	}
	root, dir := rootWith(t, map[string]string{"real": "ann:x:5:5::/a:\n"})
	if err := os.Symlink("/real", filepath.Join(dir, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if u, err := Find(root, "ann"); err != nil || u.Uid != 5 {
		t.Errorf("link inside the image: %+v, %v", u, err)
	}
}

// TestMoreGroups: groups behind the user are looked up in the image, or are the caller's.
func TestMoreGroups(t *testing.T) {
	root, _ := rootWith(t, map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\ntty:x:5:\nwheel:x:10:root\n"})
	for who, want := range map[string][]int{"root": {10}, "root,44,tty": {10, 5, 44}, "7:7,5": {5}, "7": nil} {
		u, err := Resolve(root, who)
		if err != nil {
			t.Errorf("%s: %v", who, err)
			continue
		}
		slices.Sort(u.Groups)
		slices.Sort(want)
		if !slices.Equal(u.Groups, want) || u.KeepGroups {
			t.Errorf("%s: groups %v, want %v", who, u.Groups, want)
		}
	}
	if u, err := Resolve(root, "0,"+api.KeepGroups); err != nil || !u.KeepGroups {
		t.Errorf("%s: %+v %v", api.KeepGroups, u, err)
	}
	for _, who := range []string{"0,nosuch", "0,-1", "0,"} {
		if _, err := Resolve(root, who); api.KindOf(err) != api.InvalidArgument {
			t.Errorf("%q: %v", who, err)
		}
	}
}
