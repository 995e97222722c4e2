package criu

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
)

// TestCommandLines: what criu is told, word for word.
func TestCommandLines(t *testing.T) {
	base := Options{Images: "/i", Work: "/w", ManageCgroups: "soft"}
	all := Options{Images: "/i", Work: "/w", ManageCgroups: "strict", TCPEstablished: true, ExtUnixSk: true, ShellJob: true, FileLocks: true, AutoDedup: true,
		LazyPages: true, EmptyNS: "net", External: []string{"mnt[/a]:/a", "net[7]:extRootNetNS"}}
	const allWords = " --tcp-established --ext-unix-sk --shell-job --file-locks --auto-dedup --lazy-pages --manage-cgroups=strict --empty-ns net" +
		" --external mnt[/a]:/a --external net[7]:extRootNetNS"
	for _, c := range []struct {
		args []string
		want string
	}{
		{(&Dump{Options: base, Pid: 5, Root: "/r", StatusFD: -1}).Args(),
			"dump --images-dir /i --work-dir /w --log-file dump.log -v4 --manage-cgroups=soft --tree 5 --root /r"},
		{(&Dump{Options: base, Pid: 5, Root: "/r", StatusFD: -1, LeaveRunning: true, Parent: "../p", LinkRemap: true, SkipInFlight: true}).Args(),
			"dump --images-dir /i --work-dir /w --log-file dump.log -v4 --manage-cgroups=soft --tree 5 --root /r --leave-running --track-mem --prev-images-dir ../p --link-remap --skip-in-flight"},
		{(&Dump{Options: base, Pid: 5, Root: "/r", StatusFD: -1, PreDump: true, LeaveRunning: true}).Args(),
			"pre-dump --images-dir /i --work-dir /w --log-file dump.log -v4 --manage-cgroups=soft --tree 5 --root /r --track-mem"},
		{(&Dump{Options: base, Pid: 5, Root: "/r", StatusFD: -1, Address: "::1", Port: "9"}).Args(),
			"dump --images-dir /i --work-dir /w --log-file dump.log -v4 --manage-cgroups=soft --tree 5 --root /r --page-server --address ::1 --port 9"},
		{(&Dump{Options: all, Pid: 5, Root: "/r", StatusFD: 3, Address: "::1", Port: "9"}).Args(),
			"dump --images-dir /i --work-dir /w --log-file dump.log -v4" + allWords + " --tree 5 --root /r --address ::1 --port 9 --status-fd 3"},
		{(&Restore{Options: base, Root: "/r", PidFile: "/p"}).Args(),
			"restore --images-dir /i --work-dir /w --log-file restore.log -v4 --manage-cgroups=soft --root /r --restore-detached --restore-sibling --leave-stopped --pidfile /p"},
		{(&Restore{Options: all, Root: "/r", PidFile: "/p", First: 3, CgroupRoots: []string{"/c", "cpu:/d"}, Inherit: []string{"pipe:[8]", "extRootNetNS"},
			LSMProfile: "apparmor:x", LSMContext: "y"}).Args(),
			"restore --images-dir /i --work-dir /w --log-file restore.log -v4" + allWords + " --root /r --restore-detached --restore-sibling --leave-stopped --pidfile /p" +
				" --cgroup-root /c --cgroup-root cpu:/d --inherit-fd fd[3]:pipe:[8] --inherit-fd fd[4]:extRootNetNS --lsm-profile apparmor:x --lsm-mount-context y"},
	} {
		if got := strings.Join(c.args, " "); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// TestExternal: the keys are the places in the container at both ends, the sources those of the bundle.
func TestExternal(t *testing.T) {
	s := &specs.Spec{
		Process: &specs.Process{},
		Mounts: []specs.Mount{
			{Type: "tmpfs", Destination: "/tmp"}, {Type: "bind", Source: "data", Destination: "data/"}, {Source: "/x", Destination: "/y/../z", Options: []string{"rbind"}},
			{Type: "cgroup", Destination: "/sys/fs/cgroup"},
		},
		Linux: &specs.Linux{MaskedPaths: []string{"/proc/kcore", "/proc/nothing-here", "/proc/self/fd"}},
	}
	dump, err := DumpExternal(s, nil, os.Getpid())
	if want := []string{"mnt[/data]:/data", "mnt[/z]:/z"}; err != nil || !reflect.DeepEqual(dump[:2], want) {
		t.Errorf("dump %q, %v", dump, err)
	}
	for _, e := range dump[2:] {
		if e != "mnt[/proc/kcore]:/proc/kcore" {
			t.Errorf("dump: %s", e)
		}
	}
	want := []string{"mnt[/data]:/b/data", "mnt[/z]:/x", "mnt[/proc/kcore]:/dev/null", "mnt[/proc/nothing-here]:/dev/null", "mnt[/proc/self/fd]:/dev/null"}
	if got := RestoreExternal(s, "/b", nil); !reflect.DeepEqual(got, want) {
		t.Errorf("restore %q", got)
	}
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: "/proc/self/ns/net"}}
	dump, err = DumpExternal(s, nil, os.Getpid())
	if err != nil || !strings.HasPrefix(dump[len(dump)-1], "net[") || !strings.HasSuffix(dump[len(dump)-1], "]:extRootNetNS") {
		t.Errorf("dump %q, %v", dump, err)
	}
	f, key, err := NetNS(s)
	if err != nil || key != "extRootNetNS" {
		t.Fatalf("%q, %v", key, err)
	}
	f.Close()
}

func TestValidate(t *testing.T) {
	own := specs.LinuxNamespace{Type: specs.MountNamespace}
	for _, c := range []struct {
		words string
		tty   bool
		ns    []specs.LinuxNamespace
	}{
		{"", false, []specs.LinuxNamespace{own}},
		{"", false, []specs.LinuxNamespace{own, {Type: specs.NetworkNamespace, Path: "/n"}}},
		{"process.terminal", true, []specs.LinuxNamespace{own}},
		{"user namespace", false, []specs.LinuxNamespace{own, {Type: specs.UserNamespace}}},
		{"without a mount namespace", false, nil},
		{"joined the ipc namespace /i", false, []specs.LinuxNamespace{own, {Type: specs.IPCNamespace, Path: "/i"}}},
		{"joined the mount namespace /m", false, []specs.LinuxNamespace{{Type: specs.MountNamespace, Path: "/m"}}},
	} {
		err := Validate(&specs.Spec{Process: &specs.Process{Terminal: c.tty}, Linux: &specs.Linux{Namespaces: c.ns}})
		if c.words == "" && err != nil || c.words != "" && (api.KindOf(err) != api.Unsupported || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("%q: %v", c.words, err)
		}
	}
}

// TestStreams: what is written is read again, and nothing but pipes and files by their keys is handed in.
func TestStreams(t *testing.T) {
	dir := t.TempDir()
	s := Streams{"null[1f:4]", "pipe:[77]", "pipe:[77]"}
	if err := s.Save(dir); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "descriptors.json")); string(text) != `["null[1f:4]","pipe:[77]","pipe:[77]"]` {
		t.Errorf("%s", text)
	}
	got, err := LoadStreams(dir)
	if err != nil || got != s {
		t.Fatalf("%q, %v", got, err)
	}
	if ext := s.External(); !reflect.DeepEqual(ext, []string{"file[1f:4]"}) {
		t.Errorf("external %q", ext)
	}
	keys, files, done, err := got.Inherit([3]*os.File{os.Stdin, os.Stdout, os.Stderr})
	if err != nil || !reflect.DeepEqual(keys, []string{"file[1f:4]", "pipe:[77]"}) || files[0].Name() != os.DevNull || files[1] != os.Stdout {
		t.Errorf("keys %q, %v", keys, err)
	}
	done()
	for _, bad := range []string{"/etc/passwd", "socket:[3]", "pipe:[3", "pipe:[3] --external x", "file[1:2]:/etc/shadow", "net[4]", "/dev/null", "null[../x]", ""} {
		if k := key(bad); k != "" {
			t.Errorf("%q has the key %q", bad, k)
		}
	}
	for _, bad := range []string{"", "{}", "[1]", `["a","b","c","d"]`, "[", strings.Repeat("[", 70000)} {
		if err := os.WriteFile(filepath.Join(dir, "descriptors.json"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadStreams(dir); err == nil {
			t.Errorf("%.20q was read as %q", bad, got)
		}
	}
	if err := os.Remove(filepath.Join(dir, "descriptors.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "descriptors.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadStreams(dir); err == nil || !strings.Contains(err.Error(), "too many levels") {
		t.Errorf("a link was followed: %v", err)
	}
}

// TestStreamsOf: a pipe is one, and a file of this mount namespace needs no key.
func TestStreamsOf(t *testing.T) {
	s, err := StreamsOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	link, err := os.Readlink("/proc/self/fd/0")
	if err != nil {
		t.Fatal(err)
	}
	if s[0] != link {
		t.Errorf("%q, its link says %s", s[0], link)
	}
}

func TestFirstError(t *testing.T) {
	for log, want := range map[string]string{
		"": "",
		"(00.1) a\n(00.2) Error (criu/x.c:3): y: Denied\n(00.3) Error (criu/z.c:4): Dumping FAILED.\n": "Error (criu/x.c:3): y: Denied",
		"(00.1) Error (criu/tun.c:85): tun: Unable to create tun: x\n(00.2) Error (criu/x.c:3): y\n":   "Error (criu/x.c:3): y",
		"criu: unrecognized option\nTry it\n\n":                                                        "Try it",
	} {
		if got := firstError([]byte(log)); got != want {
			t.Errorf("%q: %q", log, got)
		}
	}
}

// TestRunFails: a log that an archive has as a link is not written through, and the error names what there is.
func TestRunFails(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, DumpLog)); err != nil {
		t.Fatal(err)
	}
	err := Run("/bin/sh", []string{"-c", "echo 'Error (x): y' >" + dir + "/dump.log; exit 3"}, nil, dir, DumpLog, nil)
	if err == nil || !strings.Contains(err.Error(), "exit status 3: Error (x): y: "+dir+"/dump.log has more") {
		t.Errorf("%v", err)
	}
	if text, _ := os.ReadFile(victim); string(text) != "old" {
		t.Errorf("the link's target is %q", text)
	}
	if err := Run("/bin/sh", []string{"-c", "echo bad option >&2; exit 1"}, nil, dir, RestoreLog, nil); err == nil || !strings.Contains(err.Error(), "bad option") {
		t.Errorf("%v", err)
	}
	if err := Run("/nonexistent/criu", nil, nil, dir, DumpLog, nil); api.KindOf(err) != api.Unsupported || !strings.Contains(err.Error(), "install the package criu") {
		t.Errorf("%v", err)
	}
}

func TestMountTable(t *testing.T) {
	got := mountTable("21 1 0:5 / / rw - overlay overlay rw\n22 21 0:6 /a /x\\040y ro shared:3 - tmpfs tmpfs rw\nbad\n")
	want := map[int]mounted{21: {"/", "overlay"}, 22: {"/x y", "tmpfs"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}
