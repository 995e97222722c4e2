package script

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"brig/test/machine"
)

// notRootless are the stories that a normal user's Brig cannot tell, and why.
var notRootless = map[string]string{
	"chroot":           "the kernel makes no user namespace in a chroot",
	"inspect":          "it limits memory",
	"layers-as-images": "the kernel mounts EROFS for root only",
	"limits":           "no control group is delegated to the user",
	"memory":           "no control group is delegated to the user",
	"network-bridge":   "a normal user's containers are on no bridge",
	"ports-udp":        "programs that carry packets lose the answers to what comes from the host's loopback; rootless-network asks from elsewhere",
	"push-ssh":         "its ssh keeps the far store where root made the folder",
}

// TestRootlessStories runs every story as a normal user, with the folders that such a user has by default: brig is a program that drops root's rights first.
func TestRootlessStories(t *testing.T) {
	needRoot(t)
	user := newUser(t)
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	untold := len(notRootless)
	for _, f := range files {
		if _, not := notRootless[strings.TrimSuffix(filepath.Base(f), ".txtar")]; not {
			untold--
			continue
		}
		told = append(told, f)
	}
	if untold != 0 {
		t.Errorf("the table of stories that are not told has %d that do not exist", untold)
	}
	testscript.RunT(serial{t}, testscript.Params{
		Files: told,
		Setup: func(env *testscript.Env) error {
			before, err := machine.Take()
			if err != nil {
				return err
			}
			run, err := user.env(env)
			if err != nil {
				return err
			}
			env.Defer(func() {
				leaveNothing(env.T().(serial).T, before, user.brig(), env.Vars)
				os.RemoveAll(run)
			})
			return nil
		},
		Cmds: commands,
		Condition: func(cond string) (bool, error) {
			if cond == "rootless" {
				return true, nil
			}
			return condition(cond)
		},
	})
}

// user is a normal user with subordinate ids, whom only this test's mounts know.
type user struct {
	id  int
	dir string // holds a program brig that becomes the user
}

func (u *user) brig() string { return filepath.Join(u.dir, "brig") }

// newUser makes the user, a way out of this network for programs to copy, and a /dev/net/tun that all may open, as distributions have it. All ends with the test.
func newUser(t *testing.T) *user {
	t.Helper()
	u := &user{id: 54321}
	var err error
	if u.dir, err = os.MkdirTemp("", "rootless"); err != nil {
		t.Fatal(err)
	}
	mount := func(source, target, kind string, flags uintptr, data string) {
		t.Helper()
		if err := unix.Mount(source, target, kind, flags, data); err != nil {
			t.Fatalf("mount %s: %v", target, err)
		}
		t.Cleanup(func() { unix.Unmount(target, unix.MNT_DETACH) })
	}
	t.Cleanup(func() { os.RemoveAll(u.dir) })
	mount("tmpfs", u.dir, "tmpfs", 0, "mode=755")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"bin", "etc", "work"} {
		must(os.Mkdir(filepath.Join(u.dir, d), 0o755))
	}
	mount(os.Getenv(binEnv), filepath.Join(u.dir, "bin"), "", unix.MS_BIND, "") // the user may not be able to reach that folder
	must(os.WriteFile(u.brig(), []byte(fmt.Sprintf("#!/bin/sh\nunset BRIG_ROOT BRIG_STATE\n"+
		"exec setpriv --reuid=%d --regid=%d --clear-groups --inh-caps=-all -- %s/bin/brig \"$@\"\n", u.id, u.id, u.dir)), 0o755))
	mount("overlay", "/etc", "overlay", 0, fmt.Sprintf("lowerdir=/etc,upperdir=%s/etc,workdir=%s/work", u.dir, u.dir))
	for file, line := range map[string]string{
		"passwd": fmt.Sprintf("brigtest:x:%d:%d::/nonexistent:/bin/sh", u.id, u.id), "group": fmt.Sprintf("brigtest:x:%d:", u.id),
		"subuid": "brigtest:5000000:65536", "subgid": "brigtest:6000000:65536",
	} {
		f, err := os.OpenFile("/etc/"+file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		must(err)
		_, err = f.WriteString(line + "\n")
		must(err)
		must(f.Close())
	}
	tun := filepath.Join(u.dir, "tun")
	must(unix.Mknod(tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))))
	must(os.Chmod(tun, 0o666))
	mount(tun, "/dev/net/tun", "", unix.MS_BIND, "")
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	ip("link", "add", "out0", "type", "veth", "peer", "name", "out1")
	t.Cleanup(func() { exec.Command("ip", "link", "del", "out0").Run() })
	ip("address", "add", "192.0.2.1/24", "dev", "out0")
	ip("link", "set", "out0", "up")
	ip("link", "set", "out1", "up")
	ip("route", "add", "default", "via", "192.0.2.254")
	if six, _ := condition("ipv6"); six {
		ip("address", "add", "2001:db8::1/64", "dev", "out0", "nodad")
		ip("route", "add", "default", "via", "2001:db8::fe", "dev", "out0")
	}
	return u
}

// env gives a story the user's folders, and the run-time one back, which has a short name.
func (u *user) env(env *testscript.Env) (run string, err error) {
	if run, err = os.MkdirTemp("", "r"); err != nil {
		return "", err
	}
	data := filepath.Join(env.WorkDir, ".data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return run, err
	}
	for _, d := range []string{run, data, env.WorkDir} {
		if err := os.Chown(d, u.id, u.id); err != nil {
			return run, err
		}
	}
	for dir := env.WorkDir; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			return run, err
		}
	}
	env.Setenv("PATH", u.dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	env.Setenv("XDG_DATA_HOME", data)
	env.Setenv("XDG_RUNTIME_DIR", run)
	env.Setenv("BRIG_ROOT", filepath.Join(data, "brig")) // for stories that look there; brig itself is not told
	env.Setenv("BRIG_STATE", filepath.Join(run, "brig"))
	env.Setenv("BRIG_BIN", os.Getenv(binEnv))
	env.Setenv("IMAGE", "brig/base")
	return run, nil
}
