package proc

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWritePassesByWhatIsMountedOver: a file over a file of procfs, and a tmpfs over all of it, do not get what is written.
func TestWritePassesByWhatIsMountedOver(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	name := strconv.Itoa(os.Getpid()) + "/oom_score_adj"
	real, err := Detached() // before anything is mounted
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(real)
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread and its mount namespace end
		for _, err := range []error{
			unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount(file, "/proc/"+name, "", unix.MS_BIND, ""),
		} {
			if err != nil {
				t.Error(err)
				return
			}
		}
		for i, over := range []string{"", "tmpfs"} {
			if over != "" {
				if err := unix.Mount(over, "/proc", over, 0, ""); err != nil {
					t.Error(err)
					return
				}
			}
			procfs, err := Open()
			if err != nil {
				t.Error(err)
				return
			}
			want := strconv.Itoa(700 + i)
			if err := Write(procfs, name, want); err != nil {
				t.Error(err)
			}
			unix.Close(procfs)
			fd, err := unix.Openat(real, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			buf := make([]byte, 16)
			n, _ := unix.Read(fd, buf)
			unix.Close(fd)
			if got := strings.TrimSpace(string(buf[:n])); got != want {
				t.Errorf("under %q: oom_score_adj is %q, want %s", over, got, want)
			}
		}
	}()
	<-done
	if data, err := os.ReadFile(file); err != nil || len(data) > 0 {
		t.Errorf("what is mounted over got %q, %v", data, err)
	}
}

// TestCheck tells procfs from what only looks like one.
func TestCheck(t *testing.T) {
	for path, ok := range map[string]bool{"/proc": true, "/proc/self": false, "/proc/sys": false, "/": false, t.TempDir(): false} {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(fd); (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
		unix.Close(fd)
	}
}
