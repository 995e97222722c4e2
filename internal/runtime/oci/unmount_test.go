package oci

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnmountKeeps takes a root away that a folder of the host's is mounted in, shared: what the host has mounted below that stays.
func TestUnmountKeeps(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := t.TempDir()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // it ends with its mounts
		done <- func() error {
			if err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")); err != nil {
				return err
			}
			host, place := filepath.Join(dir, "host"), filepath.Join(dir, "place")
			if err := errors.Join(os.Mkdir(host, 0o700), os.Mkdir(place, 0o700), unix.Mount("h", host, "tmpfs", 0, ""), unix.Mount("", host, "", unix.MS_SHARED, "")); err != nil {
				return err
			}
			sub, in := filepath.Join(host, "sub"), filepath.Join(place, "in")
			if err := errors.Join(os.Mkdir(sub, 0o700), unix.Mount("s", sub, "tmpfs", 0, ""), os.WriteFile(sub+"/f", nil, 0o600), unix.Mount("p", place, "tmpfs", 0, ""),
				os.Mkdir(in, 0o700), unix.Mount(host, in, "", unix.MS_BIND|unix.MS_REC, "")); err != nil {
				return err
			}
			if err := Unmount(place); err != nil {
				return err
			}
			if _, err := os.Stat(in); err == nil {
				return errors.New("the root is mounted still")
			}
			_, err := os.Stat(sub + "/f")
			return err
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := Unmount(filepath.Join(dir, "place")); err != nil { // nothing is mounted there
		t.Error(err)
	}
}
