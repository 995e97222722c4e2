// Package runtime holds brig-oci's command line to runc's and to the runtime specification: every verb, hooks, the gate between create and
// start, terminals and descriptors, small limits, crowds, user namespaces, and users without root's rights.
//
// The program is that of bin/ (make build), or of the folder BRIG_TEST_BIN. All runs in private namespaces with a loopback interface only;
// each test must leave no process, mount, cgroup or folder. BRIG_FAULT_SCALE multiplies the numbers of moments and containers (make test-fault).
package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/test/machine"
)

const (
	binEnv   = "BRIG_TEST_BIN"
	patience = 20 * time.Second // of a command
	soon     = 5 * time.Second  // for what the kernel does in the background
)

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 {
		if os.Getenv(binEnv) == "" {
			bin, err := filepath.Abs("../../bin")
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Setenv(binEnv, bin)
		}
		if err := machine.Private(false); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		unix.Umask(0o022)
	}
	code := m.Run()
	if sharedRoot != "" {
		os.RemoveAll(filepath.Dir(sharedRoot))
	}
	os.Exit(code)
}

// scale is how much more than usual is asked.
func scale() int {
	if n, err := strconv.Atoi(os.Getenv("BRIG_FAULT_SCALE")); err == nil && n > 0 {
		return n
	}
	return 1
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers and private namespaces need root")
	}
}

// sharedRoot is a root file system with Debian's busybox, which no test writes to.
var sharedRoot string

// rootFS returns the folder of sharedRoot.
func rootFS(t *testing.T) string {
	t.Helper()
	if sharedRoot != "" {
		return sharedRoot
	}
	dir, err := os.MkdirTemp("", "brig-runtime")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = makeRoot(dir + "/rootfs")
	}
	if err != nil {
		t.Fatal(err)
	}
	sharedRoot = dir + "/rootfs"
	return sharedRoot
}

// makeRoot lays a root file system out in dir.
func makeRoot(dir string) error {
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp", "etc", "brig-here", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("%w: make setup installs it (package busybox-static)", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755); err != nil {
		return err
	}
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	for name, text := range map[string]string{"bin/noexec": "not executable", "bin/badscript": "#!/no/such/interpreter\n", "bin/garbage": "neither program nor script"} {
		mode := os.FileMode(0o755)
		if name == "bin/noexec" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			return err
		}
	}
	return nil
}

// world is a state folder of its own, for one program, and how the machine looked before it.
type world struct {
	t      *testing.T
	prog   string
	root   string   // --root
	flags  []string // before the verb
	env    []string
	user   *syscall.Credential // nil: root
	wrap   []string            // command that runs the program
	before machine.Snapshot
	dir    string // of bundles and other files
}

var worlds atomic.Int64

// newWorld makes a world, which must be as it was at the test's end.
func newWorld(t *testing.T) *world {
	t.Helper()
	needRoot(t)
	prog := filepath.Join(os.Getenv(binEnv), "brig-oci")
	if _, err := os.Stat(prog); err != nil { // go test's cache notices when it changes
		t.Fatalf("%v: make build", err)
	}
	rootFS(t)
	w := &world{t: t, prog: prog}
	var err error
	if w.dir, err = os.MkdirTemp("", "rt"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.root = w.dir + "/state"
	if w.before, err = machine.Take(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	return w
}

// end reports what stays of the world.
func (w *world) end() {
	w.clean()
	os.RemoveAll(w.dir)
}

// clean fails the test over containers, folders, processes, mounts and cgroups that are left.
func (w *world) clean() {
	w.t.Helper()
	if left := w.left(); len(left) > 0 {
		w.t.Errorf("left behind: %q", left)
	}
	if names, err := os.ReadDir(w.root); err == nil && len(names) > 0 {
		w.t.Errorf("left in the state folder: %v", names)
	}
}

// left waits until all is as it was before, and returns what is too much.
func (w *world) left() (left []string) {
	w.t.Helper()
	for deadline := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) {
		now, err := machine.Take()
		if err != nil {
			w.t.Fatal(err)
		}
		left = slices.DeleteFunc(w.before.Left(now), func(s string) bool { // no namespace hides the cgroups of others
			return strings.HasPrefix(s, "control group: ") && !strings.Contains(s, "/"+prefix)
		})
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// prefix of all containers' names. It is also their cgroups', which machine.Snapshot knows by "brig".
const prefix = "brig-rt-"

// name is an ID for a container.
func (w *world) name() string {
	return fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), worlds.Add(1))
}

// bundle writes a bundle whose command is args, with config.json as edit leaves it.
func (w *world) bundle(edit func(*specs.Spec), args ...string) string {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.dir, "b")
	if err != nil {
		w.t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	s := w.config(args...)
	if edit != nil {
		edit(s)
	}
	w.writeConfig(dir, s)
	return dir
}

func (w *world) writeConfig(dir string, s *specs.Spec) {
	w.t.Helper()
	data, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(dir+"/config.json", data, 0o644)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// config is a small configuration: all namespaces but user and time, /proc, /dev and a writable /tmp.
func (w *world) config(args ...string) *specs.Spec {
	caps := []string{"CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT", "CAP_NET_BIND_SERVICE"}
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: sharedRoot, Readonly: true},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin", "TERM=xterm"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Type: "proc", Source: "proc", Destination: "/proc"},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Type: "devpts", Source: "devpts", Destination: "/dev/pts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/tmp", Options: []string{"mode=1777"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
		},
	}
}

// result is how a command ended.
type result struct {
	out, err string
	code     int
}

func (r result) String() string { return fmt.Sprintf("code %d, out %q, err %q", r.code, r.out, r.err) }

// command prepares the program.
func (w *world) command(args ...string) *exec.Cmd {
	all := append([]string{"--root", w.root}, w.flags...)
	all = append(append(slices.Clone(w.wrap), w.prog), append(all, args...)...)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Env = append(os.Environ(), w.env...)
	if w.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.user}
	}
	return cmd
}

// run runs a command to its end, for which it has twenty seconds. Its output goes to files: a container may keep them open.
func (w *world) run(args ...string) result {
	w.t.Helper()
	return w.finish(w.command(args...))
}

func (w *world) finish(cmd *exec.Cmd) result {
	w.t.Helper()
	out, errs := w.file(), w.file()
	defer out.Close()
	defer errs.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = errs
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() {
		w.t.Errorf("%s: no end after %s", strings.Join(cmd.Args, " "), patience)
		cmd.Process.Kill()
	})
	cmd.Wait()
	late.Stop()
	return result{w.read(out.Name()), w.read(errs.Name()), exitCode(cmd)}
}

func exitCode(cmd *exec.Cmd) int {
	ws := cmd.ProcessState.Sys().(interface {
		Signaled() bool
		ExitStatus() int
	})
	if ws.Signaled() {
		return -1
	}
	return ws.ExitStatus()
}

func (w *world) file() *os.File {
	w.t.Helper()
	f, err := os.CreateTemp(w.dir, "out")
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func (w *world) read(path string) string {
	w.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		w.t.Error(err)
	}
	return string(data)
}

// must is run for what must succeed; it returns the trimmed output.
func (w *world) must(args ...string) string {
	w.t.Helper()
	r := w.run(args...)
	if r.code != 0 {
		w.t.Fatalf("%s: %s", strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.out)
}

// fails is run for what must fail with code and all of these words on standard error.
func (w *world) fails(code int, words string, args ...string) {
	w.t.Helper()
	r := w.run(args...)
	if r.code != code {
		w.t.Errorf("%s: %s; want code %d", strings.Join(args, " "), r, code)
	}
	if !strings.Contains(r.err, words) {
		w.t.Errorf("%s: %s; want the words %q", strings.Join(args, " "), r, words)
	}
}

// told is what state says of a container.
type told struct {
	Version     string `json:"ociVersion"`
	ID          string
	Pid         int
	Status      string
	Bundle      string
	Rootfs      string
	Created     time.Time
	Annotations map[string]string
	Owner       *string
}

func (w *world) state(id string) told {
	w.t.Helper()
	var s told
	out := w.must("state", id)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		w.t.Fatalf("state %s: %v: %s", id, err, out)
	}
	return s
}

// becomes waits until the container has this status.
func (w *world) becomes(id, status string) {
	w.t.Helper()
	err := eventually(func() error {
		if s := w.state(id).Status; s != status {
			return fmt.Errorf("container %s is %s, want %s", id, s, status)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// has reports whether the container is known.
func (w *world) has(id string) bool { return w.run("state", id).code == 0 }

// created makes a container that waits, and has it deleted at the test's end if it still is there.
func (w *world) created(bundle string, flags ...string) (id string) {
	w.t.Helper()
	id = w.name()
	w.must(append(append([]string{"create", "--bundle", bundle}, flags...), id)...)
	w.t.Cleanup(func() { w.run("delete", "--force", id) })
	return id
}

// started is created, and started.
func (w *world) started(bundle string) (id string) {
	w.t.Helper()
	id = w.created(bundle)
	w.must("start", id)
	return id
}

// eventually tries for five seconds.
func eventually(try func() error) error {
	var err error
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = try(); err == nil {
			return nil
		}
	}
	return err
}
