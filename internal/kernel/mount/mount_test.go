package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

// openRoot makes a folder with files and links to lead astray, and opens it. Beside it lies "outside", which nothing may reach.
func openRoot(t *testing.T) (fd int, dir string) {
	t.Helper()
	top := t.TempDir()
	dir = filepath.Join(top, "root")
	for _, d := range []string{dir + "/etc", dir + "/a/b", top + "/outside"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"abs": "/etc", "up": "../../../../../../outside", "updir": "../outside", "loop": "loop", "dangling": "/nowhere/at/all", "into": "a",
		"magic": "/proc/self/root", "filelink": "etc/passwd", "outfile": top + "/outside/new",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/etc/passwd", []byte("inside"), 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd, dir
}

// where is the path that a descriptor stands for.
func where(fd int) string {
	s, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return s
}

func TestOpenInRootStaysInside(t *testing.T) {
	root, dir := openRoot(t)
	for name, want := range map[string]string{
		"": "", "/": "", ".": "", "..": "", "../../..": "", "/etc/passwd": "/etc/passwd", "abs": "/etc", "abs/passwd": "/etc/passwd",
		"into/b/../../etc": "/etc", "filelink": "/etc/passwd", "a/../../../etc": "/etc",
	} {
		fd, err := OpenInRoot(root, name, unix.O_PATH, 0)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if got := where(fd); got != dir+want {
			t.Errorf("%q led to %s, want %s", name, got, dir+want)
		}
		unix.Close(fd)
	}
	for name, want := range map[string]error{
		"up": unix.ENOENT, "updir": unix.ENOENT, "loop": unix.ELOOP, "dangling": unix.ENOENT, "etc/passwd/x": unix.ENOTDIR, "gone": unix.ENOENT,
	} {
		if fd, err := OpenInRoot(root, name, unix.O_PATH, 0); !errors.Is(err, want) {
			t.Errorf("%q: %s, %v; want %v", name, where(fd), err, want)
		}
	}
}

// TestMagicLinksAreRefused: below a real /proc, a link whose target is no path would lead out.
func TestMagicLinksAreRefused(t *testing.T) {
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	for _, name := range []string{"proc/self/root", "proc/self/cwd", "proc/self/fd/0", "proc/self/exe"} {
		if fd, err := OpenInRoot(root, name, unix.O_PATH, 0); !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: %s, %v; want ELOOP", name, where(fd), err)
		}
	}
}

func TestMkdirAllInRoot(t *testing.T) {
	root, dir := openRoot(t)
	for name, want := range map[string]string{
		"x/y/z": "/x/y/z", "/x/y/z": "/x/y/z", "abs/new/er": "/etc/new/er", "into/c": "/a/c", "../../p": "/p", "a/b": "/a/b", "trailing/": "/trailing",
		"dangling": "/nowhere/at/all", "dangling/x": "/nowhere/at/all/x", "up/x": "/outside/x", "outfile": filepath.Join(dir, "../outside/new"), "abs/../q": "/q",
	} {
		fd, err := MkdirAllInRoot(root, name, 0o750)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if got := where(fd); got != dir+want {
			t.Errorf("%q made %s, want %s", name, got, dir+want)
		}
		unix.Close(fd)
	}
	for _, name := range []string{"loop", "loop/x", "etc/passwd", "etc/passwd/x"} {
		if fd, err := MkdirAllInRoot(root, name, 0o750); err == nil {
			t.Errorf("%q gave %s", name, where(fd))
		}
	}
	nothingOutside(t, dir)
}

func TestMkfileInRoot(t *testing.T) {
	root, dir := openRoot(t)
	for name, want := range map[string]string{"new/dir/file": "/new/dir/file", "abs/conf": "/etc/conf", "filelink": "/etc/passwd", "a/b": "/a/b",
		"dangling": "/nowhere/at/all", "updir": "/outside", "outfile": filepath.Join(dir, "../outside/new")} {
		fd, err := MkfileInRoot(root, name, 0o644)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if got := where(fd); got != dir+want {
			t.Errorf("%q made %s, want %s", name, got, dir+want)
		}
		unix.Close(fd)
	}
	if got, err := os.ReadFile(dir + "/etc/passwd"); err != nil || string(got) != "inside" {
		t.Errorf("a file that was there is %q now, %v", got, err)
	}
	for _, name := range []string{"loop", "etc/passwd/x", "new/dir/file/x"} {
		if fd, err := MkfileInRoot(root, name, 0o644); err == nil {
			t.Errorf("%q gave %s", name, where(fd))
		}
	}
	nothingOutside(t, dir)
}

func nothingOutside(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(filepath.Join(dir, "../outside")); err != nil || len(left) > 0 {
		t.Errorf("outside of the root there is %v, %v", left, err)
	}
}

// TestRaceStaysInside: while somebody exchanges a folder for a link, everything that is made is made inside (CVE-2024-45310).
func TestRaceStaysInside(t *testing.T) {
	root, dir := openRoot(t)
	if err := os.Mkdir(dir+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "../outside"), dir+"/l"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, dir+"/d", unix.AT_FDCWD, dir+"/l", unix.RENAME_EXCHANGE)
			}
		}
	}()
	made := 0
	for i := range 500 {
		if fd, err := MkfileInRoot(root, fmt.Sprintf("d/f%d", i), 0o644); err == nil {
			made++
			unix.Close(fd)
		}
		if fd, err := MkdirAllInRoot(root, fmt.Sprintf("l/s%d/t", i), 0o755); err == nil {
			made++
			unix.Close(fd)
		}
	}
	close(stop)
	<-done
	if made == 0 {
		t.Error("nothing was made at all: the race was not run")
	}
	nothingOutside(t, dir)
}

func TestNewAndAttach(t *testing.T) {
	ownMounts(t)
	fd, err := New("tmpfs", "name", []string{"size=64k", "mode=0711", ""}, unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Mkdirat(fd, "inside", 0o755); err != nil {
		t.Errorf("a detached mount cannot be written to: %v", err)
	}
	dir := t.TempDir()
	at, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(at)
	if err := Attach(fd, at); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if _, err := os.Stat(dir + "/inside"); err != nil {
		t.Error(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Blocks*uint64(st.Bsize) != 64<<10 || st.Flags&unix.ST_NOEXEC == 0 {
		t.Errorf("%d blocks, flags %x, %v", st.Blocks, st.Flags, err)
	}
	if err := SetAttr(fd, false, unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Statfs(dir, &st); err != nil || st.Flags&unix.ST_RDONLY == 0 || st.Flags&unix.ST_NOEXEC != 0 {
		t.Errorf("after SetAttr: flags %x, %v", st.Flags, err)
	}
}

// TestCloneLeavesTheSourceAlone: what is set on the copy is not set on the original, and the copy shows mounts below only when asked.
func TestCloneLeavesTheSourceAlone(t *testing.T) {
	ownMounts(t)
	dir := t.TempDir()
	if err := unix.Mount("t", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := os.Mkdir(dir+"/below", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("t", dir+"/below", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/below/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, recursive := range []bool{false, true} {
		fd, err := Clone(unix.AT_FDCWD, dir, recursive)
		if err != nil {
			t.Fatal(err)
		}
		if err := SetAttr(fd, recursive, unix.MOUNT_ATTR_RDONLY, 0, unix.MS_PRIVATE); err != nil {
			t.Error(err)
		}
		if err := unix.Mkdirat(fd, "x", 0o755); err != unix.EROFS {
			t.Errorf("the read-only copy took a folder: %v", err)
		}
		err = unix.Faccessat(fd, "below/f", unix.F_OK, 0)
		if (err == nil) != recursive {
			t.Errorf("recursive %v: the mount below: %v", recursive, err)
		}
		if recursive {
			if err := unix.Mkdirat(fd, "below/x", 0o755); err != unix.EROFS {
				t.Errorf("below the read-only copy: %v, want EROFS", err)
			}
		}
		unix.Close(fd)
	}
	if err := os.WriteFile(dir+"/still", nil, 0o644); err != nil {
		t.Errorf("the original: %v", err)
	}
	if _, err := Clone(unix.AT_FDCWD, dir+"/gone", false); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "gone") {
		t.Errorf("a missing source: %v", err)
	}
}

// TestErrorsSayWhy: the file system, the option and the kernel's own words.
func TestErrorsSayWhy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("fsopen(2) needs root")
	}
	if _, err := New("nofs", "", nil, 0); err == nil || !strings.Contains(err.Error(), "nofs: this kernel does not have it") {
		t.Errorf("unknown file system: %v", err)
	}
	if _, err := New("tmpfs", "t", []string{"bogus=1"}, 0); err == nil || !strings.Contains(err.Error(), "option bogus=1") || !strings.Contains(err.Error(), "Unknown parameter") {
		t.Errorf("unknown option: %v", err)
	}
	if _, err := New("overlay", "o", []string{"lowerdir=/gone"}, 0); err == nil {
		t.Error("an overlay of nothing")
	}
	if err := Attach(-1, -1); err == nil || !strings.Contains(err.Error(), "move_mount") {
		t.Errorf("Attach of nothing: %v", err)
	}
	if err := SetAttr(-1, false, unix.MOUNT_ATTR_NOEXEC, 0, 0); err == nil || !strings.Contains(err.Error(), "mount_setattr") {
		t.Errorf("SetAttr of nothing: %v", err)
	}
}

// ownMounts gives the test a mount namespace. Its thread ends with it.
func ownMounts(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	runtime.LockOSThread()
	if err := machine.OwnMounts(); err != nil {
		t.Fatal(err)
	}
}
