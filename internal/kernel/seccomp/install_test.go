package seccomp

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// childEnv holds the profile that this test program, executed again, installs on itself before it tries calls; with bare it installs
// none, since the runtime that started it did.
const (
	childEnv = "BRIG_SECCOMP_TEST_PROFILE"
	bare     = "bare"
)

// tries are calls with arguments that harm nothing where they are allowed, and an error of the kernel's own makes no difference.
var tries = []struct {
	name string
	nr   uintptr
	args [6]uintptr
	want unix.Errno // with docker's default profile and no capabilities
}{
	{"getppid", unix.SYS_GETPPID, [6]uintptr{}, 0},
	{"unshare", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNS}, unix.EPERM},
	{"unshare nothing", unix.SYS_UNSHARE, [6]uintptr{}, unix.EPERM},
	{"keyctl", unix.SYS_KEYCTL, [6]uintptr{0, ^uintptr(2)}, unix.EPERM},
	{"socket AF_UNIX", unix.SYS_SOCKET, [6]uintptr{unix.AF_UNIX, unix.SOCK_STREAM}, 0},
	{"socket AF_INET", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_STREAM}, 0},
	{"socket AF_ALG", unix.SYS_SOCKET, [6]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET}, unix.EPERM},
	{"socket AF_VSOCK", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}, unix.EPERM},
	{"bpf", unix.SYS_BPF, [6]uintptr{99}, unix.EPERM},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{}, unix.EPERM},
	{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{1 << 20}, unix.EPERM},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{}, unix.EPERM},
	{"mount", unix.SYS_MOUNT, [6]uintptr{}, unix.EPERM},
	{"setns", unix.SYS_SETNS, [6]uintptr{^uintptr(0)}, unix.EPERM},
	{"add_key", unix.SYS_ADD_KEY, [6]uintptr{}, unix.EPERM},
	{"clone3", unix.SYS_CLONE3, [6]uintptr{}, unix.ENOSYS},
	{"clone CLONE_NEWUSER", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_SIGHAND}, unix.EPERM},
	{"clone CLONE_SIGHAND", unix.SYS_CLONE, [6]uintptr{unix.CLONE_SIGHAND}, unix.EINVAL},
	{"personality query", unix.SYS_PERSONALITY, [6]uintptr{0xffffffff}, 0},
	{"personality ADDR_NO_RANDOMIZE", unix.SYS_PERSONALITY, [6]uintptr{0x0040000}, unix.EPERM},
	{"ptrace", unix.SYS_PTRACE, [6]uintptr{9999}, unix.ESRCH},
	{"futex", unix.SYS_FUTEX, [6]uintptr{0, 99}, unix.ENOSYS},
	{"call 900", 900, [6]uintptr{}, unix.ENOSYS},
	{"call -1", ^uintptr(0), [6]uintptr{}, unix.ENOSYS},
}

// child installs the profile as a container's init does and prints what each try gave.
func child() {
	runtime.LockOSThread()
	before := cost()
	var installed time.Duration
	if text := os.Getenv(childEnv); text != bare {
		var err error
		if installed, err = install(text); err != nil {
			fmt.Println("child:", err)
			os.Exit(1)
		}
	}
	after := cost()
	var b strings.Builder
	for _, c := range tries {
		r, _, errno := unix.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errno == 0 && c.nr == unix.SYS_CLONE && r == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		fmt.Fprintf(&b, "%s=%d\n", c.name, errno)
	}
	// Calls that the default profile refuses whatever their arguments, so that none is carried out.
	if f, err := Compile(mobyProfile(nil, nativeArchs)); err == nil {
		for nr := range uint32(600) {
			d := data{nr: nr, arch: f.Prog[1].K}
			for i := range d.args {
				d.args[i] = 1<<64 - 1
			}
			if ret, _ := run(nil, f.Prog, &d); ret&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO && nr != unix.SYS_CLONE3 {
				all := ^uintptr(0)
				_, _, errno := unix.RawSyscall6(uintptr(nr), all, all, all, all, all, all)
				fmt.Fprintf(&b, "number %d=%d\n", nr, errno)
			}
		}
	}
	fmt.Fprintf(&b, "# install %v, getppid %v, with the filter %v\n", installed, before, after)
	fmt.Print(b.String())
	os.Exit(0)
}

var nativeArchs = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM}

// cost is the time of a call that does next to nothing.
func cost() time.Duration {
	best := time.Hour
	for range 20 {
		start := time.Now()
		for range 2000 {
			unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		}
		best = min(best, time.Since(start)/2000)
	}
	return best
}

func install(text string) (took time.Duration, err error) {
	var p specs.LinuxSeccomp
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return 0, err
	}
	f, err := Compile(&p)
	if err != nil {
		return 0, err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	prog := unix.SockFprog{Len: uint16(len(f.Prog)), Filter: &f.Prog[0]}
	start := time.Now()
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(f.Flags), uintptr(unsafe.Pointer(&prog)))
	took = time.Since(start)
	if errno != 0 {
		return 0, errno
	}
	return took, nil
}

// runChild executes this program again as child.
func runChild(t *testing.T, p *specs.LinuxSeccomp) map[string]string {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return results(t, out)
}

func results(t *testing.T, out []byte) map[string]string {
	got := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if line[0] == '#' {
			t.Log(strings.TrimSpace(line))
		}
		name, errno, _ := strings.Cut(strings.TrimSpace(line), "=")
		got[name] = errno
	}
	return got
}

func TestInstalled(t *testing.T) {
	if _, err := familyOf(runtime.GOARCH); err != nil {
		t.Skip(err)
	}
	got := runChild(t, mobyProfile(t, nativeArchs))
	for _, c := range tries {
		if want := fmt.Sprint(int(c.want)); got[c.name] != want {
			t.Errorf("%s: errno %s, want %s (%v)", c.name, got[c.name], want, c.want)
		}
	}
	open := runChild(t, &specs.LinuxSeccomp{DefaultAction: specs.ActAllow})
	if open["keyctl"] == "1" || open["personality ADDR_NO_RANDOMIZE"] != "0" {
		t.Errorf("the tries prove nothing: without a profile they are refused too: %v", open)
	}
}

// What runc and crun, with libseccomp, make of the same profile is what we make of it.
func TestSameAsPeers(t *testing.T) {
	if _, err := familyOf(runtime.GOARCH); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and a table for this architecture")
	}
	p := mobyProfile(t, nativeArchs)
	want := runChild(t, p)
	for _, peer := range []string{"runc", "crun"} {
		t.Run(peer, func(t *testing.T) {
			path, err := exec.LookPath(peer)
			if err != nil {
				t.Skip(err)
			}
			bundle := t.TempDir()
			id := fmt.Sprintf("brig-test-seccomp-%s-%d", peer, os.Getpid())
			writeBundle(t, bundle, "/"+id, p)
			root := t.TempDir()
			t.Cleanup(func() { // a crun that cannot start it leaves what it had made of its groups
				left, _ := filepath.Glob("/sys/fs/cgroup/*/" + id)
				for _, dir := range left {
					_ = os.Remove(filepath.Join(dir, "cgroup.procs")) // where no hierarchy is mounted it is a file
					if err := os.Remove(dir); err != nil {
						t.Error(err)
					}
				}
			})
			out, err := exec.Command(path, "--root", root, "run", "--bundle", bundle, id).CombinedOutput()
			exec.Command(path, "--root", root, "delete", "--force", id).Run()
			if err != nil {
				t.Skipf("%s does not run here: %v: %s", peer, err, out)
			}
			got := results(t, out)
			if len(got) < len(tries)+50 {
				t.Fatalf("only %d answers: %s", len(got), out)
			}
			for name, errno := range want {
				// A libseccomp older than a call that the profile names leaves it out, and takes it for newer than the profile.
				var nr int
				if fmt.Sscanf(name, "number %d", &nr); nr > 450 && errno == "1" && got[name] == "38" {
					continue
				}
				// crun has no ENOSYS for calls newer than the profile.
				if peer == "crun" && (nr > 450 || strings.HasPrefix(name, "call ")) && errno == "38" && got[name] == "1" {
					continue
				}
				if got[name] != errno && name[0] != '#' {
					t.Errorf("%s: errno %s here, %s with %s", name, errno, got[name], peer)
				}
			}
		})
	}
}

// writeBundle makes an OCI bundle that runs this test program as child, without capabilities.
func writeBundle(t *testing.T, dir, cgroup string, p *specs.LinuxSeccomp) {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.MkdirAll(dir+"/rootfs/proc", 0o755)
	}
	if err == nil {
		err = os.MkdirAll(dir+"/rootfs/dev", 0o755)
	}
	if err == nil {
		err = os.WriteFile(dir+"/rootfs/child", self, 0o755)
	}
	spec := specs.Spec{
		Version: "1.0.2", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"/child"}, Cwd: "/", Env: []string{childEnv + "=" + bare}, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{CgroupsPath: cgroup, Seccomp: p, Namespaces: []specs.LinuxNamespace{
			{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}}},
	}
	text, jerr := json.Marshal(spec)
	if err == nil {
		err = jerr
	}
	if err == nil {
		err = os.WriteFile(dir+"/config.json", text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
