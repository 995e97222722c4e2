// Package script runs the stories of testdata/: what a user types and what must come of it.
//
// The programs are those of bin/ (make build), or of the folder BRIG_TEST_BIN, or are built. All runs in private namespaces with a
// loopback interface only, one story at a time: after each the machine must be as it was before.
//
// Beside testscript's own, a story may use these commands (commands_test.go):
//
//	exit CODE PROGRAM ARGS…         runs the program; it must end with CODE
//	eventually PATTERN PROGRAM ARGS…  runs it again and again until its output matches, ten seconds at most
//	pty SCRIPT CODE PROGRAM ARGS…   runs it on a terminal and types and expects what the file SCRIPT says, a step a line
//	fetch URL                       GET, until it answers, five seconds at most; the body is the standard output
//	registry                        starts a registry in memory; its address is $REGISTRY
//	push ARCHIVE NAME               puts the image of a docker-archive into it
//	udpecho PIDFILE PORT            answers "got TEXT" on a UDP port in a container's network
//	udpask ADDRESS TEXT             sends TEXT over UDP and prints the answer
package script

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"brig/test/machine"
)

// binEnv names the folder with the programs.
const binEnv = "BRIG_TEST_BIN"

var programs = []string{"brig", "brig-oci", "brig-image", "brigd"}

func TestMain(m *testing.M) {
	machine.Forbid()
	echoProgram()
	aclProgram()
	if os.Geteuid() == 0 {
		if err := findPrograms(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := machine.Private(false); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// findPrograms points binEnv at the programs, building them where there are none.
func findPrograms() error {
	if os.Getenv(binEnv) != "" {
		return nil
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(bin, "brig")); err != nil {
		bin = filepath.Join(filepath.Dir(bin), ".cache/bin")
		if err := os.MkdirAll(bin, 0o755); err != nil {
			return err
		}
		args := []string{"build", "-trimpath", "-o", bin + "/"}
		for _, p := range programs {
			args = append(args, "brig/cmd/"+p)
		}
		build := exec.Command("go", args...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	return os.Setenv(binEnv, bin)
}

// testProgram is this program's path.
func testProgram() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

// needRoot skips where the stories cannot run. It also looks at the programs, so that go test's cache notices when they change.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers and private namespaces need root")
	}
	for _, p := range programs {
		if _, err := os.Stat(filepath.Join(os.Getenv(binEnv), p)); err != nil {
			t.Fatalf("%v: make build", err)
		}
	}
}

// brigEnv gives env a Brig of its own. The state folder has a short name: sockets below it may not be longer than 107 bytes.
func brigEnv(root string, setenv func(string, string)) (state string, err error) {
	state, err = os.MkdirTemp("", "s")
	if err != nil {
		return "", err
	}
	setenv("PATH", os.Getenv(binEnv)+string(os.PathListSeparator)+os.Getenv("PATH"))
	setenv("BRIG_ROOT", root)
	setenv("BRIG_STATE", state)
	setenv("BRIG_VM_TEMPLATE", "off")               // each story has a store of its own: it would make one for one machine
	setenv("BRIG_LAYERS", os.Getenv("BRIG_LAYERS")) // =image runs all stories on layers that are images
	return state, nil
}

// stories are the files of this part, without those left out.
func stories(t *testing.T, without map[string]string) (list []string) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	untold := len(without)
	for _, f := range files {
		if _, not := without[strings.TrimSuffix(filepath.Base(f), ".txtar")]; not {
			untold--
			continue
		}
		list = append(list, f)
	}
	if untold != 0 {
		t.Errorf("the table of stories that are not told has %d that do not exist", untold)
	}
	return machine.Share(list)
}

// TestStories runs every testdata/*.txtar.
func TestStories(t *testing.T) {
	needRoot(t)
	tell(t, stories(t, nil), "", "")
}

// tell runs stories as root; level is that of their containers, empty: the usual one. templates is a folder of those that machines start from, empty: they start from nothing.
func tell(t *testing.T, files []string, level, templates string) {
	testscript.RunT(serial{t}, testscript.Params{
		Files: files,
		Setup: func(env *testscript.Env) error {
			before, err := machine.Take()
			if err != nil {
				return err
			}
			root := filepath.Join(env.WorkDir, ".brig")
			state, err := brigEnv(root, env.Setenv)
			if err != nil {
				return err
			}
			if templates != "" {
				env.Setenv("BRIG_VM_TEMPLATE", "on")
				if err := linkAll(templates, filepath.Join(root, "vm/templates")); err != nil {
					return err
				}
			}
			// The image's own name, for stories that need no other.
			env.Setenv("IMAGE", "brig/base")
			env.Setenv("BRIG_BIN", os.Getenv(binEnv))
			env.Setenv("BRIG_ISOLATION", level)
			env.Setenv("KERNEL_PACKAGE", kernelPackage)
			env.Setenv("TEST_PROGRAM", testProgram()) // without-namespaces PROGRAM ARGS…, or without-mounts: see machine.Forbid; udp-echo PORT; give-all FILE
			env.Defer(func() {
				leaveNothing(env.T().(serial).T, before, filepath.Join(os.Getenv(binEnv), "brig"), env.Vars)
				os.RemoveAll(state)
			})
			return nil
		},
		Cmds: commands,
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "chroot", "gvisor":
				return level == cond, nil
			case "machine":
				return level == "vm", nil
			}
			return condition(cond)
		},
	})
}

// leaveNothing removes the story's containers and then its whole Brig, and fails the test over what is left each time.
func leaveNothing(t *testing.T, before machine.Snapshot, program string, env []string) {
	t.Helper()
	brig := func(args ...string) string {
		cmd := exec.Command(program, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("brig %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	if ids := strings.Fields(brig("ps", "-aq")); len(ids) > 0 {
		brig(append([]string{"rm", "-f"}, ids...)...)
	}
	check := func(when string, kinds ...string) {
		left, err := before.Settle(machine.Patience(5*time.Second), kinds...)
		if err != nil {
			t.Error(err)
		}
		for _, l := range left {
			t.Errorf("left behind %s: %s", when, l)
		}
	}
	check("with all containers removed", "mount", "process")
	brig("system", "reset", "--force")
	check("after system reset")
}

// serial is a *testing.T whose stories run one after the other, so that what one leaves behind is not taken for another's.
type serial struct{ *testing.T }

func (s serial) Parallel()     {}
func (s serial) Verbose() bool { return testing.Verbose() }
func (s serial) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) { f(serial{t}) })
}

// kernelPackage is a package of Debian's with a kernel, which `make setup` fetches.
var kernelPackage, _ = filepath.Abs("../../.cache/kernel.deb")

// condition says what a story can ask of this machine: [cgroup1], [cgroup2], [erofs], [ipv6], whether it is told as a normal user: [rootless], at level
// chroot: [chroot], at level gvisor: [gvisor], at level vm: [machine], whether containers have control groups: [groups], whether brig-sentry is built: [sentry];
// whether there can be virtual machines: [vm], or could, with a kernel: [qemu]; and whether there is a package with one: [package].
func condition(cond string) (bool, error) {
	exists := func(path string) (bool, error) { _, err := os.Stat(path); return err == nil, nil }
	switch cond {
	case "cgroup1":
		return exists("/sys/fs/cgroup/memory/tasks")
	case "cgroup2":
		return exists("/sys/fs/cgroup/cgroup.controllers")
	case "erofs":
		all, err := os.ReadFile("/proc/filesystems")
		return strings.Contains(string(all), "\terofs\n"), err
	case "rootless", "chroot", "gvisor", "machine":
		return false, nil
	case "sentry":
		return exists(filepath.Join(os.Getenv(binEnv), "brig-sentry"))
	case "groups":
		return true, nil
	case "qemu":
		for _, f := range []string{"/usr/bin/qemu-system-x86_64", "/usr/lib/qemu/virtiofsd"} {
			if there, err := exists(f); !there {
				return false, err
			}
		}
		return true, nil
	case "package":
		return exists(kernelPackage)
	case "vm":
		for _, f := range []string{"/usr/bin/qemu-system-x86_64", "/usr/lib/qemu/virtiofsd", filepath.Join(os.Getenv(binEnv), "vm-kernel"), filepath.Join(os.Getenv(binEnv), "brig-vm")} {
			if there, _ := exists(f); !there {
				return false, nil
			}
		}
		return true, nil
	case "ipv6":
		return exists("/proc/net/if_inet6")
	}
	return false, fmt.Errorf("unknown condition %q", cond)
}
