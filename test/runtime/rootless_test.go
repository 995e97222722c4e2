package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	userID    = 54321 // of a user that exists in this test's /etc alone
	subIDs    = 300000
	subIDSize = 65536
)

// newUserWorld is newWorld for a normal user, who has a home, a runtime folder, a root file system and a range of further ids.
func newUserWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	etc := w.dir + "/etc"
	if out, err := exec.Command("cp", "-a", "/etc", etc).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for file, line := range map[string]string{
		"passwd": fmt.Sprintf("brigtest:x:%d:%d::%s/home:/bin/sh", userID, userID, w.dir), "group": fmt.Sprintf("brigtest:x:%d:", userID),
		"subuid": fmt.Sprintf("brigtest:%d:%d", subIDs, subIDSize), "subgid": fmt.Sprintf("brigtest:%d:%d", subIDs, subIDSize),
	} {
		f, err := os.OpenFile(etc+"/"+file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err == nil {
			_, err = fmt.Fprintln(f, line)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(etc, "/etc", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/etc", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	home := w.dir + "/home"
	if err := makeRoot(home + "/rootfs"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(home+"/run", 0o700); err != nil {
		t.Fatal(err)
	}
	w.chown(home, userID)
	program, err := os.ReadFile(w.prog) // a checkout may lie where the user cannot go
	if err == nil {
		w.prog = w.dir + "/brig-oci"
		err = os.WriteFile(w.prog, program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.root = home + "/run/brig-oci"
	w.env = []string{"XDG_RUNTIME_DIR=" + home + "/run", "HOME=" + home, "USER=brigtest"}
	w.user = &syscall.Credential{Uid: userID, Gid: userID}
	return w
}

// rootless is a bundle as spec --rootless writes it, for a command.
func (w *world) rootless(edit func(*specs.Spec), args ...string) string {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.dir+"/home", "bundle")
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chown(dir, userID, userID); err != nil {
		w.t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	w.must("spec", "--rootless", "--bundle", dir)
	var s specs.Spec
	if err := json.Unmarshal([]byte(w.read(dir+"/config.json")), &s); err != nil {
		w.t.Fatal(err)
	}
	s.Process.Terminal, s.Process.Args, s.Root.Path = false, args, w.dir+"/home/rootfs"
	if edit != nil {
		edit(&s)
	}
	w.writeConfig(dir, &s)
	return dir
}

// ranges maps root to the user and all other ids to those of the user's range, as podman does.
func ranges(s *specs.Spec) {
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: userID, Size: 1}, {ContainerID: 1, HostID: subIDs, Size: subIDSize}}
	s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
}

// needHelpers skips without newuidmap.
func needHelpers(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("newuidmap"); err != nil {
		t.Skip("newuidmap is not installed: make setup (package uidmap)")
	}
}

// TestRootlessRun: with the user's own id alone, and with a range.
func TestRootlessRun(t *testing.T) {
	w := newUserWorld(t)
	home := w.dir + "/home"
	writable := func(s *specs.Spec) {
		s.Root.Readonly = false
		s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_CHOWN")
		s.Process.Capabilities.Effective, s.Process.Capabilities.Permitted = s.Process.Capabilities.Bounding, s.Process.Capabilities.Bounding
	}
	const look = "id -u; id -g; echo $(cat /proc/self/uid_map); cat /proc/self/setgroups; touch /by-root; "
	r := w.run("run", "--bundle", w.rootless(writable, "sh", "-c", look+"chown 5:6 /by-root 2>/dev/null || echo no chown; exit 7"), w.name())
	if want := fmt.Sprintf("0\n0\n0 %d 1\ndeny\nno chown\n", userID); r.code != 7 || r.out != want {
		t.Errorf("own id: %s, want %q", r, want)
	}
	if got, want := owner(t, home+"/rootfs/by-root"), fmt.Sprintf("%d:%d", userID, userID); got != want {
		t.Errorf("own id: a file of root's belongs to %s, want %s", got, want)
	}
	needHelpers(t)
	r = w.run("run", "--bundle", w.rootless(func(s *specs.Spec) { writable(s); ranges(s) }, "sh", "-c", look+"chown 5:6 /by-root; exit 8"), w.name())
	if want := fmt.Sprintf("0\n0\n0 %d 1 1 %d %d\nallow\n", userID, subIDs, subIDSize); r.code != 8 || r.out != want {
		t.Errorf("range: %s, want %q", r, want)
	}
	if got, want := owner(t, home+"/rootfs/by-root"), fmt.Sprintf("%d:%d", subIDs+4, subIDs+5); got != want {
		t.Errorf("range: the file belongs to %s, want %s", got, want)
	}
	r = w.run("run", "--bundle", w.rootless(func(s *specs.Spec) {
		ranges(s)
		s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{7}}
	}, "id"), w.name())
	if r.code != 0 || r.out != "uid=1000 gid=1000 groups=7\n" {
		t.Errorf("range, another user: %s", r)
	}
}

// TestRootlessLife: all verbs, with the user's own id alone and with a range; no cgroup is made.
func TestRootlessLife(t *testing.T) {
	for name, edit := range map[string]func(*specs.Spec){"own id": func(*specs.Spec) {}, "range": ranges} {
		t.Run(name, func(t *testing.T) {
			if name == "range" {
				needHelpers(t)
			}
			w := newUserWorld(t)
			id := w.name()
			bundle := w.rootless(edit, "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done")
			w.must("create", "--bundle", bundle, id)
			t.Cleanup(func() { w.run("delete", "--force", id) })
			if s := w.state(id); s.Status != "created" {
				t.Errorf("created, it is %+v", s)
			}
			w.must("start", id)
			if s := w.state(id); s.Status != "running" {
				t.Errorf("started, it is %+v", s)
			}
			if out := w.must("list"); !strings.Contains(out, id) || !strings.Contains(out, "brigtest") {
				t.Errorf("list: %s", out)
			}
			if r := w.run("exec", id, "sh", "-c", "id -u; cat /proc/1/comm; exit 4"); r.code != 4 || r.out != "0\nsh\n" {
				t.Errorf("exec: %s", r)
			}
			w.fails(255, "no such file", "exec", id, "/no/such")
			cmd := w.command("exec", "--tty", id, "sh", "-c", "echo $(tty) $(stty size); read x; echo got $x; exit 6")
			x, slave := newTerminal(t)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			x.expect("/dev/pts/0 24 80")
			x.send("word\r")
			x.expect("got word")
			if err := waitFor(cmd); err != nil || exitCode(cmd) != 6 {
				t.Errorf("exec --tty: %v, code %d", err, exitCode(cmd))
			}
			for _, args := range [][]string{{"ps", id}, {"pause", id}, {"resume", id}, {"update", "--pids-limit", "5", id}} {
				w.fails(1, "no cgroup", args...)
			}
			w.must("kill", id)
			w.becomes(id, "stopped")
			w.must("delete", id)
			id = w.name()
			w.must("run", "--detach", "--bundle", bundle, id)
			w.must("delete", "--force", id)
			if out := w.must("list", "-q"); out != "" {
				t.Errorf("list: %s", out)
			}
		})
	}
}

// TestRootlessRefusals: what a user without root's rights cannot have is told in words that help.
func TestRootlessRefusals(t *testing.T) {
	w := newUserWorld(t)
	memory := int64(1 << 26)
	plain := w.rootless(nil, "true")
	for _, c := range []struct {
		words string
		flags []string
		edit  func(*specs.Spec)
	}{
		{"linux.resources.memory.limit", nil, func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}}
		}},
		{"no cgroup is delegated", nil, func(s *specs.Spec) { s.Linux.CgroupsPath = "/" + prefix + "x" }},
		{"cgroup", []string{"--rootless", "false"}, nil},
		{"user namespace", nil, func(s *specs.Spec) {
			s.Linux.Namespaces = s.Linux.Namespaces[:len(s.Linux.Namespaces)-1]
			s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
		}},
		{"/etc/subuid", nil, func(s *specs.Spec) { ranges(s); s.Linux.UIDMappings[1].HostID = 900000 }},
		{"", nil, func(s *specs.Spec) { s.Linux.UIDMappings[0].HostID = 0 }},
	} {
		bundle := w.rootless(c.edit, "true")
		w.flags = c.flags
		w.fails(1, c.words, "run", "--bundle", bundle, w.name())
		w.flags = nil
	}
	for _, flag := range []string{"true", "auto"} {
		w.flags = []string{"--rootless", flag}
		w.must("run", "--bundle", plain, w.name())
	}
	w.flags = nil
	if names, err := os.ReadDir(w.root); err != nil || len(names) > 0 {
		t.Errorf("left in the state folder: %v, %v", names, err)
	}
}

// TestRootInUserNamespace: root of a user namespace that somebody else has made, with one id, as `unshare -Ur` gives it. A bundle without a user namespace
// of its own is what podman hands its runtime then.
func TestRootInUserNamespace(t *testing.T) {
	w := newUserWorld(t)
	for name, edit := range map[string]func(*specs.Spec){
		"none of its own": func(s *specs.Spec) {
			s.Linux.Namespaces = s.Linux.Namespaces[:len(s.Linux.Namespaces)-1]
			s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
		},
		"nested": func(s *specs.Spec) { s.Linux.UIDMappings[0].HostID, s.Linux.GIDMappings[0].HostID = 0, 0 },
	} {
		w.wrap = nil
		bundle := w.rootless(edit, "sh", "-c", "id -u; exit 5")
		w.wrap = []string{"unshare", "--user", "--map-root-user"}
		if r := w.run("run", "--bundle", bundle, w.name()); r.code != 5 || r.out != "0\n" {
			t.Errorf("%s: %s", name, r)
		}
	}
}
