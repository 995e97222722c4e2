package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func openPath(t *testing.T, p string) int {
	t.Helper()
	fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCopyUp(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: copied files keep their owner")
	}
	from, to := t.TempDir(), t.TempDir()
	in := func(name string) string { return filepath.Join(from, name) }
	old := time.Unix(1_000_000_000, 500)
	must(t, os.Mkdir(in("dir"), 0o750), os.WriteFile(in("dir/suid"), []byte("data"), 0o600), os.Chown(in("dir/suid"), 5, 6), os.Chmod(in("dir/suid"), 0o4711|os.ModeSetuid),
		os.Symlink("/etc/shadow", in("link")), os.Lchown(in("link"), 7, 8), unix.Mkfifo(in("fifo"), 0o620), os.WriteFile(in("empty"), nil, 0o444),
		os.Chtimes(in("dir/suid"), old, old), os.Chown(in("dir"), 9, 10), os.Chtimes(in("dir"), old, old), os.Chmod(from, 0o1777|os.ModeSticky))
	must(t, copyUp(openPath(t, from), openPath(t, to)))
	for _, name := range []string{".", "dir", "dir/suid", "link", "fifo", "empty"} {
		var a, b unix.Stat_t
		must(t, unix.Lstat(in(name), &a), unix.Lstat(filepath.Join(to, name), &b))
		if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim != b.Mtim {
			t.Errorf("%s: mode %o owner %d:%d time %v, want %o %d:%d %v", name, b.Mode, b.Uid, b.Gid, b.Mtim, a.Mode, a.Uid, a.Gid, a.Mtim)
		}
	}
	if b, err := os.ReadFile(filepath.Join(to, "dir/suid")); err != nil || string(b) != "data" {
		t.Errorf("file: %q, %v", b, err)
	}
	if l, err := os.Readlink(filepath.Join(to, "link")); err != nil || l != "/etc/shadow" {
		t.Errorf("link: %q, %v", l, err)
	}
}

// TestCopyUpOnlyIntoEmpty: a volume that has something keeps just that, and a file in the image is no folder to copy.
func TestCopyUpOnlyIntoEmpty(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(from, "a"), []byte("image"), 0o644), os.WriteFile(filepath.Join(to, "mine"), []byte("volume"), 0o644), os.Chmod(to, 0o711))
	must(t, copyUp(openPath(t, from), openPath(t, to)))
	list, err := os.ReadDir(to)
	st, err2 := os.Stat(to)
	if err != nil || err2 != nil || len(list) != 1 || list[0].Name() != "mine" || st.Mode().Perm() != 0o711 {
		t.Errorf("%v, %v, %v", list, err, st)
	}
	empty := t.TempDir()
	must(t, copyUp(openPath(t, filepath.Join(from, "a")), openPath(t, empty)))
	if list, err := os.ReadDir(empty); err != nil || len(list) != 0 {
		t.Errorf("from a file: %v, %v", list, err)
	}
}

// TestFillVolume: what a killed copy left is copied anew, what a container wrote stays, and a folder of the image that is empty fills nothing.
func TestFillVolume(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: trusted attributes")
	}
	from := t.TempDir()
	must(t, os.Mkdir(filepath.Join(from, "dir"), 0o755), os.WriteFile(filepath.Join(from, "dir/file"), []byte("whole"), 0o644), os.Symlink("/etc", filepath.Join(from, "link")))
	marked := func(dir string) bool { _, err := unix.Getxattr(dir, filling, nil); return err == nil }
	for _, durable := range []bool{false, true} {
		to := t.TempDir()
		outside := filepath.Join(t.TempDir(), "outside")
		must(t, os.WriteFile(outside, nil, 0o600), unix.Setxattr(to, filling, nil, 0), os.MkdirAll(filepath.Join(to, "dir/more"), 0o755), os.WriteFile(filepath.Join(to, "dir/file"), []byte("wh"), 0o644),
			os.Symlink(filepath.Dir(outside), filepath.Join(to, "dir/away")))
		must(t, fillVolume(openPath(t, from), openPath(t, to), durable))
		if b, err := os.ReadFile(filepath.Join(to, "dir/file")); string(b) != "whole" || marked(to) {
			t.Errorf("half filled: %q, %v, marked %t", b, err, marked(to))
		}
		for _, gone := range []string{"dir/more", "dir/away"} {
			if _, err := os.Lstat(filepath.Join(to, gone)); !os.IsNotExist(err) {
				t.Errorf("%s is still there: %v", gone, err)
			}
		}
		if _, err := os.Stat(outside); err != nil {
			t.Error(err)
		}
		must(t, os.WriteFile(filepath.Join(to, "dir/file"), []byte("mine"), 0o644), fillVolume(openPath(t, from), openPath(t, to), durable))
		if b, err := os.ReadFile(filepath.Join(to, "dir/file")); string(b) != "mine" {
			t.Errorf("a container's file: %q, %v", b, err)
		}
		bare := t.TempDir()
		must(t, fillVolume(openPath(t, t.TempDir()), openPath(t, bare), durable))
		if marked(bare) {
			t.Error("an empty folder leaves a mark")
		}
	}
}

// TestFillVolumeWaits: two containers that begin with one new volume both find it whole.
func TestFillVolumeWaits(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for i := range 50 {
		must(t, os.WriteFile(filepath.Join(from, fmt.Sprint(i)), make([]byte, 100_000), 0o644))
	}
	done := make(chan error)
	for range 4 {
		go func() {
			in, err := unix.Open(from, unix.O_PATH|unix.O_CLOEXEC, 0)
			out, err2 := unix.Open(to, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err := errors.Join(err, err2, fillVolume(in, out, false)); err != nil {
				done <- err
				return
			}
			entries, err := os.ReadDir(to)
			if err == nil && len(entries) != 50 {
				err = fmt.Errorf("%d files", len(entries))
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
