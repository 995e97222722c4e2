package escape

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// secondsEnv is how long each race is run, in seconds.
const secondsEnv = "BRIG_ESCAPE_SECONDS"

// weakened is brig-oci with the tag brig_weaken: TestMain builds it.
var weakened string

// oci is brig-oci under attack: the real one, or one that a defence was taken from.
type oci struct {
	*testing.T
	weak string // names of defences, "" for the real program
	root string // its --root
}

var containers atomic.Int64

// against runs an attack on brig-oci, where it must not succeed, and on brig-oci without the defences of that name, where it must: else it proves nothing. The
// attack returns what it has achieved, "" for nothing.
func against(t *testing.T, defences string, attack func(o *oci) string) {
	t.Helper()
	t.Run("brig-oci", func(t *testing.T) {
		if got := attack(newOCI(t, "")); got != "" {
			t.Errorf("the attack succeeds: %s", got)
		}
	})
	t.Run("without "+defences, func(t *testing.T) {
		needWeakened(t)
		got := attack(newOCI(t, defences))
		if got == "" {
			t.Errorf("the attack fails on brig-oci without %s too, so it proves nothing", defences)
		}
		t.Logf("the attack succeeds, as it must: %s", got)
	})
}

func needWeakened(t *testing.T) {
	if _, err := os.Stat(weakened); err != nil {
		t.Skip("there is no compiler here to build brig-oci without a defence: ", err)
	}
}

func newOCI(t *testing.T, weak string) *oci {
	return &oci{t, weak, filepath.Join(t.TempDir(), "oci")}
}

func (o *oci) command(args ...string) *exec.Cmd {
	name := program("brig-oci")
	if o.weak != "" {
		name = weakened
	}
	cmd := exec.Command(name, append([]string{"--root", o.root}, args...)...)
	cmd.Env = append(os.Environ(), "BRIG_WEAKEN="+o.weak)
	return cmd
}

// run is one command to its end, or patience's.
func (o *oci) run(args ...string) result {
	o.Helper()
	return o.finish(o.command(args...))
}

func (o *oci) finish(cmd *exec.Cmd) result {
	o.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	if err := cmd.Start(); err != nil {
		o.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	cmd.Wait()
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode(), !late.Stop()}
}

func (o *oci) must(args ...string) string {
	o.Helper()
	r := o.run(args...)
	if r.code != 0 {
		o.Fatalf("brig-oci %s: %s", strings.Join(args, " "), r)
	}
	return r.out
}

// bundle is a folder with a root file system (busybox and the probe) and a configuration, as edit leaves it.
func (o *oci) bundle(edit func(dir string, s *specs.Spec)) string {
	o.Helper()
	dir := o.TempDir()
	os.Chmod(dir, 0o755)
	rootfs := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp", "etc", "vol"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			o.Fatal(err)
		}
	}
	for from, to := range map[string]string{"/bin/busybox": "bin/busybox", probe: "probe"} {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(rootfs, to), data, 0o755)
		}
		if err != nil {
			o.Fatal(err)
		}
	}
	os.Chmod(rootfs, 0o755)
	for _, name := range strings.Fields("sh id ls cat sleep stat head mknod mount test echo true yes umask rm") {
		if err := os.Symlink("busybox", filepath.Join(rootfs, "bin", name)); err != nil {
			o.Fatal(err)
		}
	}
	s := baseSpec()
	if edit != nil {
		edit(dir, s)
	}
	o.write(dir, s)
	return dir
}

func readSpec(o *oci, bundle string, s *specs.Spec) {
	o.Helper()
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err == nil {
		err = json.Unmarshal(data, s)
	}
	if err != nil {
		o.Fatal(err)
	}
}

func (o *oci) write(dir string, s *specs.Spec) {
	o.Helper()
	data, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644)
	}
	if err != nil {
		o.Fatal(err)
	}
}

func baseSpec() *specs.Spec {
	caps := strings.Fields("CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP CAP_SETPCAP " +
		"CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE")
	fs := func(fstype, at string, options ...string) specs.Mount {
		return specs.Mount{Type: fstype, Source: fstype, Destination: at, Options: options}
	}
	return &specs.Spec{
		Version: "1.3.0",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin", "HOME=/"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: slices.Clone(caps), Permitted: slices.Clone(caps)},
		},
		Mounts: []specs.Mount{
			fs("proc", "/proc"),
			fs("tmpfs", "/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
			fs("devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
			fs("sysfs", "/sys", "nosuid", "noexec", "nodev", "ro"),
		},
		Linux: &specs.Linux{
			Namespaces:  []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"}, {Type: "network"}},
			MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"},
			ReadonlyPaths: []string{
				"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}

// command is a bundle whose process is a shell script.
func shell(s *specs.Spec, script string) { s.Process.Args = []string{"sh", "-c", script} }

// inUserNS gives the container a user namespace of host ids that nobody has.
func inUserNS(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1 << 20, Size: 1 << 16}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
}

// grant adds capabilities to all sets but the inheritable and ambient ones; none: every one that there is.
func grant(s *specs.Spec, names ...string) {
	if len(names) == 0 {
		names = strings.Fields("CAP_SYS_PTRACE CAP_SYS_ADMIN CAP_NET_ADMIN CAP_SYS_CHROOT CAP_DAC_READ_SEARCH CAP_IPC_LOCK CAP_SYS_NICE")
	}
	for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted} {
		*set = append(*set, names...)
	}
}

func (o *oci) id() string {
	id := fmt.Sprintf("escape-%d-%d", os.Getpid(), containers.Add(1))
	o.Cleanup(func() { (&oci{o.T, "", o.root}).run("delete", "--force", id) })
	return id
}

// once runs the bundle's container to its end.
func (o *oci) once(bundle string) result {
	o.Helper()
	return o.run("run", "--bundle", bundle, o.id())
}

// background runs the bundle's container detached, until the test's end; its output goes to the file that is returned.
func (o *oci) background(bundle string) (id, output string) {
	o.Helper()
	id, output = o.id(), filepath.Join(o.TempDir(), "out")
	out, err := os.Create(output)
	if err != nil {
		o.Fatal(err)
	}
	defer out.Close()
	cmd := o.command("run", "--detach", "--bundle", bundle, id)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(output)
		o.Fatalf("%v: %s", err, said)
	}
	return id, output
}

// process starts an attacker of the host's side, until the test's end: one that has a folder of the root file system or a volume in its hands.
func (o *oci) process(args ...string) {
	o.Helper()
	cmd := exec.Command(probe, args...)
	if err := cmd.Start(); err != nil {
		o.Fatal(err)
	}
	o.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// hold begins an exec that is stopped where its process is in the container and has not executed: the runtime waits at a socket of ours. It ends
// with the test.
func (o *oci) hold(args ...string) *exec.Cmd {
	o.Helper()
	path := filepath.Join(o.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
			err = unix.Listen(fd, 0)
		}
	}
	first, serr := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil && serr == nil {
		err = unix.Connect(first, &unix.SockaddrUnix{Name: path}) // takes the only place, the runtime waits for the next
	}
	if err != nil || serr != nil {
		o.Fatal(err, serr)
	}
	cmd := o.command(append([]string{"exec", "--pidfd-socket", path}, args...)...)
	if err := cmd.Start(); err != nil {
		o.Fatal(err)
	}
	o.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		unix.Close(first)
		unix.Close(fd)
	})
	for range 500 { // until it waits in connect(2)
		if data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", cmd.Process.Pid)); strings.Contains(string(data), "unix_wait") {
			break
		}
		if inSyscall(cmd.Process.Pid, unix.SYS_CONNECT) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return cmd
}

// inSyscall reports whether a thread of pid is in system call nr: proc_pid_syscall(5).
func inSyscall(pid int, nr int) bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(data), strconv.Itoa(nr)+" ") {
			return true
		}
	}
	return false
}

// seconds is how long a race goes on.
func seconds(normal time.Duration) time.Duration {
	if n, err := strconv.Atoi(os.Getenv(secondsEnv)); err == nil && n > 0 {
		return time.Duration(n) * time.Second
	}
	return normal
}

// lines returns those of a file that contain part.
func lines(file, part string) string {
	data, _ := os.ReadFile(file)
	var found []string
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, part) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return strings.Join(found, "; ")
}
