package powercut

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fault is what a disk does.
type fault struct {
	errno syscall.Errno
	once  bool // the next operation goes well again
}

func (f fault) String() string {
	if f.once {
		return f.errno.Error() + ", once"
	}
	return f.errno.Error() + ", from then on"
}

func faults() []fault {
	return []fault{{syscall.EIO, true}, {syscall.EIO, false}, {syscall.ENOSPC, true}, {syscall.ENOSPC, false}, {syscall.EROFS, false}}
}

// strikes reports whether such a fault meets such an operation: a full disk has room for what takes away.
func (f fault) strikes(o *Op) bool {
	if f.errno != syscall.ENOSPC {
		return true
	}
	switch o.Kind {
	case Create, Link, Write, Resize, Setxattr, Swap:
		return true
	case Rename:
		return o.Whiteout != 0 || o.Ino2 == 0
	}
	return false
}

// trial is one command on a disk that fails at the n-th operation that the fault can meet.
type trial struct {
	r    *recording
	step int
	base *Tree // before the step
	n    int
	fault
}

func (t trial) String() string {
	return fmt.Sprintf("brig %s with operation %d failing (%s)", strings.Join(t.r.steps[t.step].args, " "), t.n, t.fault)
}

// TestFailingDisk has each operation of each step fail: the command ends, says which folder has what trouble, and leaves a store with which it succeeds as soon as the
// disk is well again.
func TestFailingDisk(t *testing.T) {
	w := newWorld(t)
	share := 0.02
	if whole() {
		share = 1
	}
	random := rand.New(rand.NewPCG(2, 2))
	for _, s := range w.stories() {
		t.Run(s.name, func(t *testing.T) {
			w.begin(t, s)
			r := w.record(s)
			c := NewCutter(r.trace)
			tried, silent := 0, map[string]string{}
			for i, step := range s.steps {
				if step.args[0][0] == '(' {
					continue
				}
				from := 0
				if i > 0 {
					from = r.ends[i-1]
				}
				base := c.Cut(from, Killed, nil, 1)
				for _, f := range faults() {
					strikes := 0
					for j := from; j < r.ends[i]; j++ {
						if f.strikes(&r.trace.Ops[j]) {
							strikes++
						}
					}
					for n := 1; n <= strikes; n++ {
						if random.Float64() >= share && !(n == 1 && f.errno == syscall.EROFS) {
							continue
						}
						tried++
						at := trial{r, i, base, n, f}
						op, said, wrong := w.fail(at)
						if len(wrong) > 0 {
							t.Errorf("%s, %s:\n\t%s", at, op, strings.Join(wrong, "\n\t"))
						}
						if said != "" {
							silent[digits.ReplaceAllString(said, "#")] = at.String() + ", " + op
						}
					}
				}
			}
			t.Logf("%d trials", tried)
			for _, said := range slices.Sorted(maps.Keys(silent)) {
				t.Errorf("%s:\n\tthe error does not name what is wrong with which folder: %q", silent[said], said)
			}
		})
	}
}

// inside is an error that names a place in the container, where the runtime, which knows nothing of --root, could not make what is to be mounted on.
var inside = regexp.MustCompile(`mount /\S+: create /`)

// fail makes one trial. It returns the operation that failed first, what the command said if that is not enough, and what is wrong else.
func (w *world) fail(at trial) (op, said string, wrong []string) {
	f, dir := w.mounted(at.base.Clone())
	defer f.Unmount()
	root, state := filepath.Join(dir, rootName), w.place("state")
	defer w.drop(state)
	step := at.r.steps[at.step]
	struck, sealed := 0, syscall.Errno(0)
	if at.errno == syscall.EROFS && at.n == 1 {
		sealed = at.errno // also for who opens for writing
	}
	f.Fail(func(_ int, o *Op) syscall.Errno {
		if at.strikes(o) {
			struck++
		}
		if !at.strikes(o) || struck < at.n || struck > at.n && at.once {
			return 0
		}
		if op == "" {
			op = o.String()
		}
		return at.errno
	}, sealed)
	w.containers.Lock()
	ids := containerIDs(root)
	res := w.run(f, step.command(root, state))
	w.settle(root, "", ids) // a sandbox stays as long as the exit status finds no room
	w.containers.Unlock()
	f.Fail(nil, 0)
	w.mustBeUnmounted(state)
	i, doing := at.step, step.effect
	switch {
	case res.Code == 0:
		i++
	case op == "" && sealed == 0:
		wrong = append(wrong, fmt.Sprintf("nothing failed, and it ended with %s", res))
	case res.Code != 1 && res.Code != 125:
		wrong = append(wrong, fmt.Sprintf("it ended with %s", res))
	case !strings.Contains(res.Err, dir) && !inside.MatchString(res.Err):
		said = strings.ReplaceAll(res.Err, root, "ROOT")
	}
	if res.Code == 0 { // a volume that is full and not known to be will be found full
		doing = maps.Clone(doing)
		maps.DeleteFunc(doing, func(thing, _ string) bool { return !strings.HasPrefix(thing, "volume ") })
	}
	told := at.r.told[i]
	if step.remade { // it may be there or not: the last thing that can fail is the sync after it is named
		told = maps.Clone(told)
		maps.DeleteFunc(told, func(thing, _ string) bool { _, remade := step.effect[thing]; return remade })
	}
	// The keeper of a container may still be about to write down how it ended, now that it can.
	var untrue []string
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if untrue = hold(root, state, told, at.r.expand(at.step, doing)); len(untrue) == 0 || time.Now().After(deadline) {
			break
		}
	}
	wrong = append(wrong, untrue...)
	t := f.Tree()
	if err := f.Unmount(); err != nil {
		return op, said, append(wrong, err.Error())
	}
	copied := w.place("left")
	defer os.RemoveAll(copied)
	if err := t.Write(copied); err != nil {
		return op, said, append(wrong, err.Error())
	}
	root = filepath.Join(copied, rootName) // the state folder is the same: no power was cut
	if err := os.Mkdir(root, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return op, said, append(wrong, err.Error())
	}
	wrong = append(wrong, check(root, state, t, rootName+"/", at.r.layers)...)
	if res.Code != 0 {
		wrong = append(wrong, w.again(at.r, at.step, root, state, false)...)
	}
	return op, said, wrong
}
