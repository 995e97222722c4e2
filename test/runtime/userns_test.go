package runtime

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const mappedRoot = 100000 // who a container's root is outside

// mapUsers gives the container a user namespace, and a root file system that belongs to its root.
func (w *world) mapUsers(s *specs.Spec) {
	w.t.Helper()
	root := w.dir + "/mapped"
	if _, err := os.Stat(root); err != nil {
		if err := makeRoot(root); err != nil {
			w.t.Fatal(err)
		}
		w.chown(root, mappedRoot)
	}
	s.Root.Path = root
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}
}

// chown gives a folder and all below it to a user and group.
func (w *world) chown(dir string, id int) {
	w.t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return unix.Lchown(path, id, id)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// owner is who owns a file, as user:group.
func owner(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

// TestUserNamespace: root inside is nobody outside; users, groups, files and capabilities are as the mapping says.
func TestUserNamespace(t *testing.T) {
	w := newWorld(t)
	dir := w.logFolder()
	bind := specs.Mount{Type: "bind", Source: dir, Destination: "/brig-here", Options: []string{"rbind"}}
	bundle := w.bundle(func(s *specs.Spec) { w.mapUsers(s); s.Mounts = append(s.Mounts, bind) }, "sh", "-c",
		`id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; cat /proc/self/setgroups; touch /brig-here/by-root; ls -ln /bin/busybox | cut -d' ' -f1-20 | tr -s ' ' | cut -d' ' -f3,4
		hostname x 2>&1; echo >/dev/null && echo null; exit 3`)
	r := w.run("run", "--bundle", bundle, w.name())
	want := "0\n0\n 0 100000 65536\n 0 100000 65536\nallow\n0 0\n"
	if r.code != 3 || !strings.HasPrefix(r.out, want) || !strings.HasSuffix(r.out, "null\n") {
		t.Errorf("run: %s, want %q", r, want)
	}
	if got := owner(t, dir+"/by-root"); got != "100000:100000" {
		t.Errorf("a file of root's belongs to %s", got)
	}
	other := w.bundle(func(s *specs.Spec) {
		w.mapUsers(s)
		s.Mounts = append(s.Mounts, bind)
		s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 8}}
	}, "sh", "-c", "id; touch /brig-here/by-user; grep CapEff /proc/self/status")
	r = w.run("run", "--bundle", other, w.name())
	if r.code != 0 || !strings.HasPrefix(r.out, "uid=1000 gid=1001 groups=7,8\n") {
		t.Errorf("run as a user: %s", r)
	}
	if got := owner(t, dir+"/by-user"); got != "101000:101001" {
		t.Errorf("a file of the user's belongs to %s", got)
	}
}

// TestUserNamespaceLife: the verbs on a container with a user namespace.
func TestUserNamespaceLife(t *testing.T) {
	w := newWorld(t)
	id := w.created(w.bundle(func(s *specs.Spec) { w.mapUsers(s) }, "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"))
	if s := w.state(id); s.Status != "created" || s.Pid == 0 {
		t.Errorf("created: %+v", s)
	}
	w.must("start", id)
	pid := w.state(id).Pid
	if status := w.read(fmt.Sprintf("/proc/%d/status", pid)); !strings.Contains(status, "Uid:\t100000\t100000\t100000\t100000\n") {
		t.Errorf("the process: %s", status)
	}
	for _, file := range []string{"pids", "memory", "freezer"} {
		if _, err := os.Stat("/sys/fs/cgroup/" + file + "/" + id); err == nil {
			if procs := w.read("/sys/fs/cgroup/" + file + "/" + id + "/cgroup.procs"); !strings.Contains(procs, fmt.Sprint(pid)) {
				t.Errorf("cgroup %s holds %q, want %d", file, procs, pid)
			}
		}
	}
	if out := w.must("exec", id, "sh", "-c", "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; cat /proc/self/cgroup | head -1"); !strings.HasPrefix(out, "0\n") {
		t.Errorf("exec: %q", out)
	}
	if out := w.must("exec", "--user", "5:6", id, "id"); !strings.HasPrefix(out, "uid=5 gid=6") {
		t.Errorf("exec --user: %q", out)
	}
	w.fails(255, "", "exec", "--user", "70000", id, "id")
	w.must("pause", id)
	w.becomes(id, "paused")
	w.must("resume", id)
	w.must("kill", id)
	w.becomes(id, "stopped")
	w.must("delete", id)
}

// TestUserNamespaceTerminals: of run, of create and of exec.
func TestUserNamespaceTerminals(t *testing.T) {
	w := newWorld(t)
	r := w.receiver(w.dir + "/console")
	id := w.created(w.bundle(func(s *specs.Spec) { w.mapUsers(s); withTerminal(s) }, "sh", "-c", "tty; ls -ln $(tty); echo yes >/dev/tty; sleep 100"), "--console-socket", r.path)
	master, _ := r.take(t)
	defer master.Close()
	w.must("start", id)
	x := &terminal{t: t, master: master}
	x.expect("/dev/pts/0")
	x.expect("yes")
	w.must("exec", "--detach", "--tty", "--console-socket", r.path, id, "sh", "-c", "tty; echo again >/dev/tty; sleep 100")
	second, _ := r.take(t)
	defer second.Close()
	y := &terminal{t: t, master: second}
	y.expect("/dev/pts/1")
	y.expect("again")
	w.must("delete", "--force", id)
}

// TestUserNamespaceMounts: what root of the namespace could not reach is opened from outside, with what is mounted below it.
func TestUserNamespaceMounts(t *testing.T) {
	w := newWorld(t)
	secret := w.dir + "/secret" // root's alone
	for _, d := range []string{secret, secret + "/in", secret + "/in/nested"} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{secret + "/in", secret + "/in/nested"} {
		os.Chmod(d, 0o755)
	}
	if err := unix.Mount("tmpfs", secret+"/in/nested", "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(secret+"/in/nested", unix.MNT_DETACH)
	os.WriteFile(secret+"/in/file", []byte("outer\n"), 0o644)
	os.WriteFile(secret+"/in/nested/file", []byte("nested\n"), 0o644)
	for _, c := range []struct{ option, want string }{{"rbind", "outer\nnested\n"}, {"bind", "outer\n"}} {
		bundle := w.bundle(func(s *specs.Spec) {
			w.mapUsers(s)
			s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: secret + "/in", Destination: "/brig-here", Options: []string{c.option, "ro"}})
		}, "sh", "-c", "cat /brig-here/file /brig-here/nested/file 2>/dev/null; touch /brig-here/x 2>/dev/null && echo writable; umount /brig-here 2>/dev/null && echo unmounted; true")
		if r := w.run("run", "--bundle", bundle, w.name()); r.code != 0 || r.out != c.want {
			t.Errorf("%s: %s, want %q", c.option, r, c.want)
		}
	}
	os.Chmod(w.dir, 0o700) // the root file system itself is behind a closed door
	defer os.Chmod(w.dir, 0o755)
	if out := w.must("run", "--bundle", w.bundle(func(s *specs.Spec) { w.mapUsers(s) }, "echo", "reached"), w.name()); out != "reached" {
		t.Errorf("behind a closed door: %q", out)
	}
}

// TestUserNamespaceJoined: namespaces of others, by path: network from outside, user with all of its own.
func TestUserNamespaceJoined(t *testing.T) {
	w := newWorld(t)
	holder := exec.Command("/bin/busybox", "sleep", "100")
	err := make(chan error)
	go func() {
		runtime.LockOSThread()
		e := unix.Unshare(unix.CLONE_NEWNET)
		if e == nil {
			e = holder.Start()
		}
		err <- e
	}()
	if e := <-err; e != nil {
		t.Fatal(e)
	}
	defer func() { holder.Process.Kill(); holder.Wait() }()
	net := fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	want, _ := os.Readlink(net)
	first := w.started(w.bundle(func(s *specs.Spec) { w.mapUsers(s); s.Linux.Namespaces[1].Path = net }, "sleep", "100"))
	if got, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", w.state(first).Pid)); got != want {
		t.Errorf("it is in network %s, want %s", got, want)
	}
	pid := w.state(first).Pid
	for _, c := range []struct {
		name string
		join []specs.LinuxNamespaceType
	}{{"user", []specs.LinuxNamespaceType{specs.UserNamespace}}, {"a pod's", []specs.LinuxNamespaceType{specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace}}} {
		second := w.started(w.bundle(func(s *specs.Spec) {
			w.mapUsers(s)
			s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
			for i := range s.Linux.Namespaces {
				n := &s.Linux.Namespaces[i]
				for _, j := range c.join {
					if n.Type == j {
						n.Path = fmt.Sprintf("/proc/%d/ns/%s", pid, map[specs.LinuxNamespaceType]string{"user": "user", "network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}[j])
					}
				}
			}
		}, "sleep", "100"))
		for _, j := range c.join {
			name := map[specs.LinuxNamespaceType]string{"user": "user", "network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}[j]
			a, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
			if b, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", w.state(second).Pid, name)); a != b || a == "" {
				t.Errorf("%s: %s namespace %s, want %s", c.name, name, b, a)
			}
		}
		if out := w.must("exec", second, "id", "-u"); out != "0" {
			t.Errorf("%s: exec: %q", c.name, out)
		}
		w.must("delete", "--force", second)
	}
	w.must("delete", "--force", first)
}

// TestUserNamespaceRefused: mappings that cannot be are told by their field, and nothing is left.
func TestUserNamespaceRefused(t *testing.T) {
	w := newWorld(t)
	m := func(list ...uint32) (l []specs.LinuxIDMapping) {
		for i := 0; i < len(list); i += 3 {
			l = append(l, specs.LinuxIDMapping{ContainerID: list[i], HostID: list[i+1], Size: list[i+2]})
		}
		return l
	}
	plain := w.started(w.bundle(nil, "sleep", "100"))
	foreign := fmt.Sprintf("/proc/%d/ns/pid", w.state(plain).Pid)
	for _, c := range []struct {
		words string
		uids  []specs.LinuxIDMapping
		edit  func(*specs.Spec)
	}{
		{"linux.uidMappings", nil, nil},
		{"linux.uidMappings[0].size", m(0, 100000, 0), nil},
		{"linux.uidMappings[1] overlaps", m(0, 100000, 10, 5, 200000, 10), nil},
		{"linux.uidMappings[0]: the range", m(0, 4294967290, 10), nil},
		{"process.user.uid", m(1, 100001, 10), nil},
		{"process.user.uid", m(0, 100000, 10), func(s *specs.Spec) { s.Process.User.UID = 10 }},
		{"0 is not mapped", m(5, 100005, 10), func(s *specs.Spec) { s.Process.User.UID = 5 }},
		{"no user namespace", m(0, 100000, 10), func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:len(s.Linux.Namespaces)-1] }},
		{"does not belong to the container's user namespace", m(0, 100000, 10), func(s *specs.Spec) { s.Linux.Namespaces[0].Path = foreign }},
		{"/no/such/ns", m(0, 100000, 10), func(s *specs.Spec) { s.Linux.Namespaces[len(s.Linux.Namespaces)-1].Path = "/no/such/ns" }},
	} {
		bundle := w.bundle(func(s *specs.Spec) {
			w.mapUsers(s)
			s.Linux.UIDMappings = c.uids
			if c.edit != nil {
				c.edit(s)
			}
		}, "true")
		w.fails(1, c.words, "run", "--bundle", bundle, w.name())
	}
	w.must("delete", "--force", plain)
}

// TestUserNamespaceLimits: limits that only the host's root may raise are raised, and the container's cgroup holds it.
func TestUserNamespaceLimits(t *testing.T) {
	w := newWorld(t)
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	memory := int64(64 << 20)
	adj := 300
	bundle := w.bundle(func(s *specs.Spec) {
		w.mapUsers(s)
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: now.Max, Hard: now.Max}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}}
		s.Process.OOMScoreAdj = &adj
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}}
		s.Hostname = "mapped"
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "99"}
	}, "sh", "-c", "ulimit -n; ulimit -c; cat /proc/self/oom_score_adj; hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
	want := fmt.Sprintf("%d\n0\n300\nmapped\n99\n", now.Max)
	if r := w.run("run", "--bundle", bundle, w.name()); r.code != 0 || r.out != want {
		t.Errorf("%s, want %q", r, want)
	}
}
