package script

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/test/machine"
)

// notChroot are the stories that level chroot cannot tell, and why. Those that use no network where they might as well have the host's are told with that.
var notChroot = map[string]string{
	"chroot":           "it is about namespaces in a chroot",
	"isolation":        "it chooses levels itself",
	"isolation-chroot": "it is told at that level in any case",
	"isolation-gvisor": "it is told at that level in any case",
	"network-priority": "it has no network of its own",
	"selftest":         "it chooses levels itself",
	"isolation-userns": "it needs a user namespace",
	"nesting":          "it needs a user namespace",
	"network-bridge":   "it has no network of its own",
	"network-connect":  "it has no network of its own",
	"network-none":     "it has no network of its own",
	"network-own":      "it has no network of its own",
	"pods":             "a pod shares namespaces",
	"pods-gvisor":      "it chooses levels itself",
	"pods-limits":      "a pod shares namespaces",
	"pods-vm":          "it chooses levels itself",
	"ports-random":     "it publishes ports",
	"ports-tcp":        "it publishes ports",
	"ports-udp":        "it publishes ports",
	"rootfs":           "its root is a folder that others may have as theirs",
	"share":            "it shares namespaces",
	"systemd":          "systemd needs a PID namespace",
	"userns":           "it needs a user namespace",
	"userns-rootless":  "it needs a user namespace",

	"isolation-gvisor-checkpoint": "it chooses levels itself",
	"vm-kernel":                   "it chooses levels itself",
	"vm-kernel-package":           "it chooses levels itself",
	"vm-killed":                   "it chooses levels itself",
	"vm-network":                  "it chooses levels itself",
	"vm-template":                 "it chooses levels itself",
}

// TestChrootStories runs the stories with containers of level chroot.
func TestChrootStories(t *testing.T) {
	needRoot(t)
	var files []string
	dir := t.TempDir()
	for _, f := range levelStories(t, notChroot, coreStories) {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		told := strings.NewReplacer("--network none", "--network host", "--net none", "--net host").Replace(string(text))
		to := filepath.Join(dir, filepath.Base(f))
		if err := os.WriteFile(to, []byte(told), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, to)
	}
	tell(t, files, "chroot", "")
}

// notGVisor are the stories that level gvisor cannot tell, and why.
var notGVisor = map[string]string{
	"cdi":               "it gives devices",
	"debug":             "it brings tools in",
	"devices":           "it gives devices",
	"isolation":         "it chooses levels itself",
	"isolation-chroot":  "it is told at that level in any case",
	"isolation-userns":  "it needs a user namespace",
	"nesting":           "it needs a user namespace",
	"network-connect":   "it changes networks of a container that runs",
	"network-host":      "it has no interface of the host's",
	"no-new-privileges": "nothing gains rights at this level, asked for or not, and /proc/PID/status does not say so",
	"pods":              "it makes pods that share less than the containers of a Sentry do",
	"pods-gvisor":       "it is told at that level in any case",
	"pods-vm":           "it chooses levels itself",
	"preserve-fds":      "it hands open files of the host's in",
	"privileged":        "it has no rights over the host",
	"seccomp":           "the filter is the box's",
	"selftest":          "it chooses levels itself",
	"share":             "it shares namespaces",
	"systemd":           "systemd needs control groups of the host's",
	"userns":            "it needs a user namespace",
	"userns-rootless":   "it needs a user namespace",

	"isolation-gvisor":            "it is told at that level in any case",
	"isolation-gvisor-checkpoint": "it is told at that level in any case",
	"vm-kernel":                   "it chooses levels itself",
	"vm-kernel-package":           "it chooses levels itself",
	"vm-killed":                   "it chooses levels itself",
	"vm-network":                  "it chooses levels itself",
	"vm-template":                 "it chooses levels itself",
}

// TestGVisorStories runs the stories with containers of level gvisor.
func TestGVisorStories(t *testing.T) {
	needRoot(t)
	if _, err := os.Stat(filepath.Join(os.Getenv(binEnv), "brig-sentry")); err != nil {
		t.Skip("brig-sentry is not built: make build")
	}
	tell(t, levelStories(t, notGVisor, coreStories), "gvisor", "")
}

// notVM are the stories that level vm cannot tell, and why.
var notVM = map[string]string{
	"debug-ended":      "it brings tools in",
	"isolation":        "it chooses levels itself",
	"isolation-chroot": "it is told at that level in any case",
	"isolation-gvisor": "it is told at that level in any case",
	"isolation-userns": "it needs a user namespace",
	"pods":             "it makes pods that do not share their network",
	"selftest":         "it chooses levels itself",
	"userns-rootless":  "it needs a user namespace",

	"isolation-gvisor-checkpoint": "it chooses levels itself",
}

// coreStories are those that `make test` tells at levels chroot and gvisor: what is done to containers, not to images and registries. `make test-levels` tells all.
var coreStories = []string{
	"acl", "attach-detach", "auto-remove", "bad-image", "bind-mounts", "bind-owner", "capabilities", "copy", "cp", "debug", "detached", "devices", "entrypoint", "env", "events", "exec",
	"exec-many", "exec-tty", "exit-codes", "files-kinds", "flags-limits", "flags-run", "flags-small", "groups", "health", "hello", "hostname", "hosts-and-dns", "init", "jobs",
	"kill", "limits", "logs", "loopback", "masked-paths", "memory", "mounts-more", "namespaces", "network-bridge", "network-none", "network-own", "pause", "pick", "pods-limits",
	"ports-tcp", "ports-udp", "privileged", "proc", "processes", "ps", "read-only", "refusals", "restart", "restart-policy", "rootfs", "seccomp", "secrets", "shim-killed", "signals",
	"start-again", "stats", "stop", "streams", "terminal", "tmpfs", "top", "ulimit", "update", "user", "users-inside", "volumes", "wait", "why-not", "workdir",
}

// vmStories are those that it tells at level vm: a machine takes a second to start, with an emulator on a busy host ten.
var vmStories = []string{"acl", "bind-mounts", "copy", "exec-tty", "groups", "hello", "read-only", "signals", "terminal", "tmpfs", "user", "users-inside"}

// levelsEnv asks for all of them.
const levelsEnv = "BRIG_TEST_LEVELS"

// levelStories are the files of the stories that a level can tell: of those of core, or of all where all are asked for.
func levelStories(t *testing.T, not map[string]string, core []string) []string {
	t.Helper()
	files := stories(t, not)
	if os.Getenv(levelsEnv) != "" {
		return files
	}
	for _, name := range core {
		if _, err := os.Stat("testdata/" + name + ".txtar"); err != nil {
			t.Errorf("the list of stories has one that does not exist: %v", err)
		}
	}
	return slices.DeleteFunc(files, func(f string) bool {
		return !slices.Contains(core, strings.TrimSuffix(filepath.Base(f), ".txtar"))
	})
}

// TestVMStories runs the stories with containers of level vm.
func TestVMStories(t *testing.T) {
	needRoot(t)
	if there, err := condition("vm"); err != nil || !there {
		t.Skip("virtual machines need QEMU, virtiofsd and bin/vm-kernel: make setup-vm guest-kernel")
	}
	if os.Getenv(machine.SlowEnv) == "" {
		t.Setenv(machine.SlowEnv, "6") // an emulator's machine is
	}
	tell(t, levelStories(t, notVM, vmStories), "vm", vmTemplates(t))
	if os.Getenv(levelsEnv) != "" { // from nothing files come another way
		tell(t, []string{"testdata/cp.txtar", "testdata/exec.txtar", "testdata/volumes.txtar"}, "vm", "")
	}
}

// vmTemplates makes the template that machines of the usual size start from, as those of users do, and returns a folder that has it. Where there is KVM there is none.
func vmTemplates(t *testing.T) string {
	t.Helper()
	soon, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	if exec.CommandContext(soon, filepath.Join(os.Getenv(binEnv), "brig-vm"), "probe").Run() == nil {
		return ""
	}
	root := t.TempDir()
	var env []string
	state, err := brigEnv(root, func(name, value string) { env = append(env, name+"="+value) })
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(state)
	env = append(os.Environ(), append(env, "BRIG_VM_TEMPLATE=on")...)
	brig := func(args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(os.Getenv(binEnv), "brig"), args...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("brig %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	templates, made := t.TempDir(), filepath.Join(root, "vm/templates")
	brig("run", "--rm", "--isolation", "vm", "brig/base", "true")
	for deadline := time.Now().Add(machine.Patience(20 * time.Second)); ; time.Sleep(100 * time.Millisecond) {
		names, err := filepath.Glob(filepath.Join(made, "[0-9a-f]*"))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("no template of a virtual machine was made in %s: %v", made, err)
		}
		if len(names) > 0 {
			break
		}
	}
	why, err := filepath.Glob(filepath.Join(made, "*.failed"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range why {
		reason, err := os.ReadFile(name)
		t.Fatalf("there can be no template of a virtual machine: %s, %v", reason, err)
	}
	if err := linkAll(made, templates); err != nil {
		t.Fatal(err)
	}
	brig("system", "reset", "--force")
	return templates
}

// linkAll has the files of the folders below one folder in such below another, too: those that are large are the same files.
func linkAll(from, to string) error {
	files, err := filepath.Glob(filepath.Join(from, "[0-9a-f]*", "*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		dir := filepath.Join(to, filepath.Base(filepath.Dir(f)))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.Base(f))
		info, err := os.Stat(f)
		switch {
		case err != nil:
		case info.Size() > 1<<20:
			err = os.Link(f, to)
		default:
			var b []byte
			if b, err = os.ReadFile(f); err == nil {
				err = os.WriteFile(to, b, info.Mode().Perm())
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
