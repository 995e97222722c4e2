package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestLast: of options that take each other back the later one is left, since gVisor follows noexec wherever it stands.
func TestLast(t *testing.T) {
	for in, want := range map[string]string{
		"noexec,nosuid,exec": "nosuid,exec", "exec,noexec": "noexec", "ro,rw,size=1m": "rw,size=1m", "mode=700,nodev,dev,nodev": "mode=700,nodev", "": "",
	} {
		if got := strings.Join(last(strings.FieldsFunc(in, func(r rune) bool { return r == ',' })), ","); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// TestCause: what gVisor says becomes docker's exit status, and words that name the command.
func TestCause(t *testing.T) {
	for _, tc := range []struct {
		said, command string
		code          int
		words         string
	}{
		{"starting container: error finding executable \"x\": no such file or directory", "x", 127, "$PATH"},
		{"loading: no such file or directory", "/x", 127, "no such file"},
		{"permission denied", "/x", 126, "permission denied"},
		{"exec format error", "/x", 126, "exec format error"},
		{"not a directory", "/x/y", 127, "not a directory"},
	} {
		err := cause(errors.New(tc.said), &specs.Process{Args: []string{tc.command}})
		var f failure
		if !errors.As(err, &f) || f.code != tc.code || !strings.Contains(err.Error(), tc.words) || !strings.Contains(err.Error(), "exec "+tc.command) {
			t.Errorf("%s: %v", tc.said, err)
		}
	}
	err := cause(errors.New("the sky fell"), &specs.Process{Args: []string{"x"}})
	if f := (failure{}); errors.As(err, &f) || !strings.Contains(err.Error(), "the sky fell") {
		t.Errorf("what is not known: %v", err)
	}
}

// TestAs: a name is looked up in the tree's own files; there is a HOME, unless the user has set one.
func TestAs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0::/root:\nann:x:5:6::/home/ann:\n", "etc/group": "wheel:x:10:ann\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	p := &specs.Process{}
	if err := as(p, "ann", root); err != nil || p.User.UID != 5 || p.User.GID != 6 || !slices.Equal(p.User.AdditionalGids, []uint32{10}) || !slices.Contains(p.Env, "HOME=/home/ann") {
		t.Errorf("ann: %+v, %v", p, err)
	}
	p = &specs.Process{User: specs.User{UID: 5, GID: 7}, Env: []string{"HOME=/mine"}}
	if err := as(p, "", root); err != nil || p.User.GID != 7 || !slices.Equal(p.Env, []string{"HOME=/mine"}) {
		t.Errorf("numbers: %+v, %v", p, err)
	}
	if err := as(&specs.Process{}, "nobody-here", root); err == nil {
		t.Error("a name that is not there is taken")
	}
}

// TestKernels: what is mounted below these is on no file system of the host's.
func TestKernels(t *testing.T) {
	for place, want := range map[string]bool{"/dev": true, "/dev/shm": true, "/proc/x": true, "/sys/fs/cgroup": true, "/device": false, "/data/dev": false} {
		if kernels(place) != want {
			t.Errorf("%s: %t", place, !want)
		}
	}
}

// TestOwnPlaces: a link to where the Sentry would mount /proc is no place for it.
func TestOwnPlaces(t *testing.T) {
	dir := t.TempDir()
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	os.Mkdir(dir+"/proc", 0o755)
	os.Mkdir(dir+"/elsewhere", 0o755)
	if err := ownPlaces(root); err != nil {
		t.Error(err)
	}
	os.Symlink("elsewhere", dir+"/sys")
	if err := ownPlaces(root); err == nil || !strings.Contains(err.Error(), "mount /sys: ") {
		t.Error(err)
	}
}
