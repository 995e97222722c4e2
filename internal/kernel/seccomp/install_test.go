package seccomp

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// childEnv holds the profile that this test program, executed again, installs on itself before it tries calls.
const childEnv = "BRIG_SECCOMP_TEST_PROFILE"

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
	var p specs.LinuxSeccomp
	err := json.Unmarshal([]byte(os.Getenv(childEnv)), &p)
	var f *Filter
	if err == nil {
		f, err = Compile(&p)
	}
	if err == nil {
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if err != nil {
		fmt.Println("child:", err)
		os.Exit(1)
	}
	cost := func() time.Duration {
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
	before := cost()
	prog := unix.SockFprog{Len: uint16(len(f.Prog)), Filter: &f.Prog[0]}
	start := time.Now()
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(f.Flags), uintptr(unsafe.Pointer(&prog)))
	installed := time.Since(start)
	if errno != 0 {
		fmt.Println("child: seccomp:", errno)
		os.Exit(1)
	}
	after := cost()
	var b strings.Builder
	for _, c := range tries {
		r, _, errno := unix.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errno == 0 && (c.nr == unix.SYS_CLONE || c.nr == unix.SYS_CLONE3) && r == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		fmt.Fprintf(&b, "%s=%d\n", c.name, errno)
	}
	fmt.Fprintf(&b, "# install %v, getppid %v, with the filter %v\n", installed, before, after)
	fmt.Print(b.String())
	os.Exit(0)
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
	got := runChild(t, mobyProfile(t, []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM}))
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
