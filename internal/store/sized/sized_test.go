package sized

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/kernel/loop"
)

func needLoop(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loop devices need root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs /dev/loop-control")
	}
	if err := Check(Min); err != nil {
		t.Skip("a sized folder cannot be made here: ", err)
	}
}

// TestSized: a folder is as full as it was made, can grow, and keeps what is in it over a mount; its file has one device, which is free when nothing is mounted.
func TestSized(t *testing.T) {
	needLoop(t)
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "data")
	if err := Make(image, 16<<20, true); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil || st.Blocks*512 > 4<<20 {
		t.Errorf("an empty folder takes %d bytes, %v", st.Blocks*512, err)
	}
	if err := Attach(image, at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Detach(at) })
	if left, err := os.ReadDir(at); err != nil || len(left) != 0 {
		t.Errorf("a new folder has %v, %v", left, err)
	}
	if err := os.WriteFile(at+"/kept", []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	full := func() (n int64) {
		f, err := os.Create(at + "/big")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for b := make([]byte, 1<<16); ; {
			m, err := f.Write(b)
			if n += int64(m); err != nil {
				if !errors.Is(err, unix.ENOSPC) {
					t.Error(err)
				}
				return n
			}
		}
	}
	if n := full(); n < 8<<20 || n > 16<<20 {
		t.Errorf("16 MiB took %d bytes", n)
	}
	if err := Grow(image, at, 64<<20); errors.Is(err, unix.EPERM) {
		t.Log(err) // and nothing has changed
		if st, err := os.Stat(image); err != nil || st.Size() != 16<<20 {
			t.Error(st.Size(), err)
		}
	} else if err != nil {
		t.Fatal(err)
	} else if n := full(); n < 40<<20 || n > 64<<20 {
		t.Errorf("64 MiB took %d bytes", n)
	}
	if err := Grow(image, at, 8<<20); !errors.Is(err, api.Unsupported) {
		t.Errorf("shrinking: %v", err)
	}
	// What is removed is the disk's again.
	if err := os.Remove(at + "/big"); err != nil {
		t.Fatal(err)
	}
	if d, err := os.Open(at); err == nil {
		unix.Syncfs(int(d.Fd()))
		d.Close()
	}
	for range 100 { // the device does it beside the sync
		if unix.Stat(image, &st) == nil && st.Blocks*512 < 4<<20 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if st.Blocks*512 > 4<<20 {
		t.Errorf("after a removal it takes %d bytes", st.Blocks*512)
	}
	// A second place has the same file system.
	second := filepath.Join(dir, "second")
	if err := Attach(image, second); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(second + "/kept"); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	if n := devices(t, image); n != 1 {
		t.Errorf("%d devices", n)
	}
	for _, place := range []string{second, at} {
		if err := Detach(place); err != nil {
			t.Error(err)
		}
	}
	if n := devices(t, image); n != 0 {
		t.Errorf("%d devices are left", n)
	}
	if err := Attach(image, at); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(at + "/kept"); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
}

func devices(t *testing.T, image string) (n int) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if dev, err := loop.Find(f); err != nil {
		t.Fatal(err)
	} else if dev != nil {
		dev.Close()
	}
	all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range all {
		if b, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(b), image) {
			n++
		}
	}
	return n
}

// TestRefused: sizes that cannot be, half-made files, and files that are something else.
func TestRefused(t *testing.T) {
	needLoop(t)
	dir := t.TempDir()
	for _, size := range []int64{0, -1, Min - 1, Max + 1} {
		if err := Make(dir+"/image", size, true); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%d: %v", size, err)
		}
	}
	// Who died while it was made left a draft, which is no image.
	if err := os.WriteFile(dir+"/image.new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Make(dir+"/image", Min, true); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(dir+"/image", 100<<10); err != nil {
		t.Fatal(err)
	}
	if err := Attach(dir+"/image", dir+"/data"); err == nil {
		Detach(dir + "/data")
		t.Error("a file that was cut was mounted")
	}
	if err := os.Symlink("/dev/null", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := Attach(dir+"/link", dir+"/data"); err == nil {
		t.Error("a link was followed")
	}
	if n := devices(t, dir+"/image"); n != 0 {
		t.Errorf("%d devices are left", n)
	}
}
