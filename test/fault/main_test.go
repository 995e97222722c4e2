// Package fault kills, crowds and starves Brig, and holds it to what it promises then: what ps says is true, errors name thing and next
// step, and the next command leaves the machine as it was before.
//
// The programs are those of bin/ (make build), or of the folder BRIG_TEST_BIN. All runs in private namespaces with a loopback interface
// only. BRIG_FAULT_SCALE multiplies the numbers of moments and containers (make test-fault).
package fault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/test/machine"
)

const patience = 20 * time.Second // of a command, where nothing else is said

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 {
		if err := errors.Join(machine.Programs("../../bin"), machine.Private(false)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// scale is how much more than usual is asked.
func scale() int {
	if n, err := strconv.Atoi(os.Getenv("BRIG_FAULT_SCALE")); err == nil && n > 0 {
		return n
	}
	return 1
}

// world is a Brig of its own: a root, a state folder, and how the machine looked before it.
type world struct {
	t           *testing.T
	root, state string
	patience    time.Duration // of a command
	before      machine.Snapshot
	base        []string // things of the world after its first container, when bridge and store are made
}

// newWorld makes a world whose store has the base image. At the test's end it must have left nothing.
func newWorld(t *testing.T) *world { return newWorldAt(t, t.TempDir()) }

// newWorldAt is newWorld with a root that the test has prepared.
func newWorldAt(t *testing.T, root string) *world {
	t.Helper()
	needRoot(t)
	for _, p := range []string{"brig", "brig-oci", "brig-image"} { // go test's cache notices when they change
		if _, err := os.Stat(machine.Program(p)); err != nil {
			t.Fatalf("%v: make build", err)
		}
	}
	w := &world{t: t, root: root, patience: patience}
	var err error
	if w.state, err = os.MkdirTemp("", "s"); err != nil {
		t.Fatal(err)
	}
	if w.before, err = machine.Take(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	w.must("run", "--rm", "-p", "1:1", "-v", "/data", "brig/base", "true")
	w.must("run", "--rm", "--isolation", "chroot", "brig/base", "true")
	w.base = w.things()
	return w
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers and private namespaces need root")
	}
}

// end removes the world and reports what stays of it.
func (w *world) end() {
	w.must("system", "reset", "--force")
	left, err := w.before.Settle(5 * time.Second)
	if err != nil || len(left) > 0 {
		w.t.Errorf("left behind after system reset: %q, %v", left, err)
	}
	os.RemoveAll(w.state)
}

// command prepares a brig of this world.
func (w *world) command(args ...string) *exec.Cmd { return machine.Command(w.root, w.state, args...) }

// brig runs a command to its end, for which it has the world's patience.
func (w *world) brig(args ...string) machine.Result {
	cmd := w.command(args...)
	r, err := machine.Run(cmd, w.patience, cmd.Start)
	if err != nil {
		w.t.Error(err)
	}
	return r
}

// must is brig for what must succeed; it returns the trimmed output.
func (w *world) must(args ...string) string {
	w.t.Helper()
	r := w.brig(args...)
	if r.Code != 0 {
		w.t.Errorf("brig %s: %s", strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.Out)
}

// things lists everything that this world has: files, published ports, links, mounts, processes, cgroups.
func (w *world) things() []string {
	var list []string
	for _, dir := range []string{w.root, w.state} {
		filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				list = append(list, "file: "+path)
			}
			return nil
		})
	}
	rules, err := exec.Command("nft", "list", "ruleset").Output()
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(rules)) {
		list = append(list, "nftables: "+strings.TrimSpace(line))
	}
	now, err := machine.Take()
	if err != nil {
		w.t.Fatal(err)
	}
	return append(list, w.before.Left(now)...)
}

// clean waits until the world is as it was after its first container, five seconds at most, and returns what is too much.
func (w *world) clean() []string {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left := slices.DeleteFunc(w.things(), func(s string) bool { return slices.Contains(w.base, s) })
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// mustBeClean fails the test over what is left.
func (w *world) mustBeClean(when string) {
	w.t.Helper()
	if left := w.clean(); len(left) > 0 {
		w.t.Errorf("%s: left behind:\n%s", when, strings.Join(left, "\n"))
	}
}

// containers lists what ps -a knows.
func (w *world) containers() []string { return strings.Fields(w.must("ps", "-aq", "--no-trunc")) }

// removeAll removes what ps -a knows.
func (w *world) removeAll() {
	w.t.Helper()
	if ids := w.containers(); len(ids) > 0 {
		w.must(append([]string{"rm", "-f", "-v"}, ids...)...)
	}
}

// told is what inspect says of a container.
type told struct {
	ID    string `json:"Id"`
	State struct {
		Status   string
		Running  bool
		Pid      int
		ExitCode int
		Error    string
	}
}

func (w *world) inspect(id string) told {
	w.t.Helper()
	var list []told
	if r := w.brig("inspect", id); r.Code == 0 {
		if err := json.Unmarshal([]byte(r.Out), &list); err != nil || len(list) != 1 {
			w.t.Errorf("inspect %s: %v: %s", id, err, r)
		}
	}
	if len(list) == 0 {
		return told{}
	}
	return list[0]
}

// processes are those in the cgroup of a container.
func processes(id string) []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, f := range files {
		groups, err := os.ReadFile(f)
		if err == nil && bytes.Contains(groups, []byte(id)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// eventually tries for five seconds.
func eventually(try func() error) error {
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = try(); err == nil {
			return nil
		}
	}
	return err
}
