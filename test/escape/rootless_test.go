package escape

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/test/machine"
)

// asUser returns a function that runs brig as a normal user, and the user's folders.
func asUser(t *testing.T) (run func(args ...string) result, folders []string) {
	t.Helper()
	u, remove, err := machine.NormalUser(os.Getenv(binEnv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	env := os.Environ()
	set := map[string]string{}
	home := t.TempDir()
	env = append(env, "HOME="+home)
	state, err := u.Folders(home, func(k, v string) { env, set[k] = append(env, k+"="+v), v })
	if err != nil {
		t.Fatal(err)
	}
	run = func(args ...string) result {
		t.Helper()
		cmd := exec.Command(u.Brig(), args...)
		var out, errs bytes.Buffer
		cmd.Env, cmd.Stdout, cmd.Stderr = env, &out, &errs
		cmd.Run()
		return result{out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
	}
	t.Cleanup(func() {
		if r := run("system", "reset", "--force"); r.code != 0 {
			t.Error(r)
		}
		os.RemoveAll(state)
	})
	return run, []string{set["XDG_DATA_HOME"] + "/brig", state + "/brig"}
}

// CVE-2023-25809: a rootless container that shares the host's namespaces could write to the user's own control groups.
func TestRootlessCgroups(t *testing.T) {
	brig, _ := asUser(t)
	for _, network := range []string{"none", "host"} {
		for _, privileged := range []bool{false, true} {
			args := []string{"run", "--rm", "--network", network}
			if privileged {
				args = append(args, "--privileged")
			}
			r := brig(append(args, "brig/base", "sh", "-c", `
				find /sys/fs/cgroup -maxdepth 2 -type d 2>/dev/null | while read d; do
					mkdir $d/escape 2>/dev/null && echo "made $d/escape"
					[ -w $d/cgroup.procs ] && (echo $$ >$d/cgroup.procs) 2>/dev/null && echo "joined $d"
				done
				mkdir /tmp/c; mount -t cgroup -o memory none /tmp/c 2>/dev/null && echo "mounted version 1"
				echo tried`)...)
			if r.code != 0 || strings.TrimSpace(r.out) != "tried" {
				t.Errorf("network %s, privileged %t: %s", network, privileged, r)
			}
		}
	}
}

// What a normal user's Brig keeps is nobody else's to see; all of this runs under umask 0.
func TestRootlessStateIsClosed(t *testing.T) {
	brig, folders := asUser(t)
	if r := brig("run", "-d", "--network", "none", "-v", "/data", "brig/base", "sleep", "100"); r.code != 0 {
		t.Fatal(r)
	}
	seen := 0
	for _, top := range folders {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(top, path)
			switch part := strings.Split(rel, "/"); {
			case part[0] == "snapshot" && len(part) > 3, part[0] == "volume" && len(part) > 2:
				return fs.SkipDir // files of images and volumes, below folders that are closed
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			seen++
			perm := info.Mode().Perm()
			if d.IsDir() && perm != 0o700 || info.Mode().IsRegular() && perm&0o022 != 0 || info.Mode()&fs.ModeSocket != 0 && perm&0o077 != 0 {
				t.Errorf("%s: %v", path, info.Mode())
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if seen < 30 {
		t.Errorf("%d files seen", seen)
	}
}

// A state folder below /tmp that somebody else has made first is refused.
func TestRootlessStateIsOnesOwn(t *testing.T) {
	brig, _ := asUser(t)
	theirs := t.TempDir()
	if err := os.Chmod(theirs, 0o777); err != nil {
		t.Fatal(err)
	}
	if r := brig("--state", theirs, "ps"); r.code != 125 || !strings.Contains(r.err, "belongs to user 0") {
		t.Error(r)
	}
	if err := os.Chown(theirs, machine.UserID, machine.UserID); err != nil {
		t.Fatal(err)
	}
	if r := brig("--state", theirs, "ps"); r.code != 125 || !strings.Contains(r.err, "written by others") {
		t.Error(r)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(theirs, link); err != nil {
		t.Fatal(err)
	}
	if r := brig("--state", link, "ps"); r.code != 125 || !strings.Contains(r.err, "not a folder") {
		t.Error(r)
	}
}
