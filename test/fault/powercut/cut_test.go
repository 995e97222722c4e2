package powercut

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/test/machine"
)

// recording is a story that has been told once.
type recording struct {
	story
	trace  *Trace
	ends   []int   // the operation with which each step was reported done
	told   []facts // what stood after each step; told[0]: before the first
	layers layers
}

// record tells a story on a file system that remembers.
func (w *world) record(s story) *recording {
	w.t.Helper()
	f, dir := w.mounted(NewTree())
	root, state := filepath.Join(dir, rootName), w.place("state")
	r := &recording{story: s, told: []facts{{}}, layers: layers{}}
	for _, step := range s.setup {
		w.must(f, step.command(root, state))
		r.tell(step, 0, root, state)
		r.layers.learn(f.Tree(), rootName+"/")
	}
	if s.packed { // where the probe of the kernel fails, a layer is kept as a folder: so it is on a tmpfs
		plain := filepath.Join(w.ram, fmt.Sprintf("plain%d", w.serial.Add(1)))
		w.must(nil, machine.Command(plain, state, "pull", "-q", w.host+"/x:huge"))
		t, err := ReadTree(plain)
		if err != nil {
			w.t.Fatal(err)
		}
		r.layers.learn(t, "")
	}
	f.Begin()
	for i, step := range s.steps {
		w.must(f, step.command(root, state))
		f.Mark(fmt.Sprint(i))
		r.told = append(r.told, maps.Clone(r.told[i]))
		r.tell(step, i+1, root, state)
		r.layers.learn(f.Tree(), rootName+"/")
	}
	r.trace = f.Trace()
	r.finish()
	if wrong := hold(root, state, r.told[len(s.steps)], nil); len(wrong) > 0 {
		w.t.Fatalf("%s, undisturbed: %v", s.name, wrong)
	}
	if left := dangling(root); len(left) > 0 {
		w.t.Errorf("%s, undisturbed, leaves links to nothing: %v", s.name, left)
	}
	w.drop(state)
	if err := f.Unmount(); err != nil {
		w.t.Error(err)
	}
	return r
}

// finish is what is known of a story when all of it has been told.
func (r *recording) finish() {
	for i := range r.steps {
		r.ends = append(r.ends, r.trace.Find(fmt.Sprint(i)))
	}
	// What no step is about must stay as it is through all of them, and what will come must not be there too early.
	for _, told := range r.told {
		for thing := range told {
			for i := range r.told {
				if _, known := r.told[i][thing]; !known {
					r.told[i][thing] = ""
				}
			}
		}
	}
}

// tell writes down what a step did.
func (r *recording) tell(s step, i int, root, state string) {
	if s.remade {
		r.layers[anyLayer] = nil
	}
	for thing, is := range s.effect {
		if is == "*" {
			is = tell(root, state, thing)
		}
		r.told[i][thing] = is
	}
}

// at is the step that is under way when n operations are done; len(r.steps): none.
func (r *recording) at(n int) int {
	for i, end := range r.ends {
		if n <= end {
			return i
		}
	}
	return len(r.steps)
}

// expand puts what came of a step where its effect says "*".
func (r *recording) expand(i int, effect facts) facts {
	effect = maps.Clone(effect)
	for thing := range effect {
		effect[thing] = r.told[i+1][thing]
	}
	return effect
}

// point is one power cut.
type point struct {
	n    int
	rule Rule
	seed uint64
}

func (r *recording) String() string { return r.name }

// where says where a point is, for whoever has to understand it.
func (r *recording) where(p point) string {
	step, last := "after the last step", "nothing"
	if i := r.at(p.n); i < len(r.steps) {
		step = "brig " + strings.Join(r.steps[i].args, " ")
	}
	if p.n > 0 {
		last = r.trace.Ops[p.n-1].String()
	}
	return fmt.Sprintf("%s cut %s after %d of %d operations (seed %d, in %s, last was %s)", r.name, p.rule, p.n, len(r.trace.Ops), p.seed, step, last)
}

// points are the cuts to try: each n by each rule, and by those that leave something to chance several times; or a sample of them.
func (r *recording) points(share float64) (list []point) {
	random := rand.New(rand.NewPCG(1, uint64(len(r.name))))
	for n := range len(r.trace.Ops) + 1 {
		for _, rule := range Rules() {
			times := 3
			if rule == Killed || rule == Strict {
				times = 1
			}
			for range times {
				if p := (point{n, rule, random.Uint64()}); random.Float64() < share {
					list = append(list, p)
				}
			}
		}
	}
	return list
}

// verdict is what came of one point.
type verdict struct {
	point
	wrong []string
}

// try builds what the cut leaves and judges it. It is not fresh when another cut has left the same.
func (w *world) try(r *recording, c *Cutter, p point, seen *sync.Map, full bool) (wrong []string, fresh bool) {
	t := c.Cut(p.n, p.rule, rand.New(rand.NewPCG(p.seed, 0)), 1)
	i := r.at(p.n)
	if _, again := seen.LoadOrStore([2]uint64{t.Sum(""), uint64(i)}, true); again && !full {
		return nil, false
	}
	dir, state := w.place("cut"), w.place("state")
	defer os.RemoveAll(dir)
	defer w.drop(state)
	if err := t.Write(dir); err != nil {
		return []string{err.Error()}, true
	}
	root := filepath.Join(dir, rootName)
	return w.judge(r, i, t, root, state, full), true
}

// judge looks at what a cut left in step i, t being all that is there, and does with it what a user does next: the same again. With full, that is what the programs
// do, and images are run.
func (w *world) judge(r *recording, i int, t *Tree, root, state string, full bool) (wrong []string) {
	var doing facts
	if i < len(r.steps) {
		doing = r.expand(i, r.steps[i].effect)
	}
	wrong = append(check(root, state, t, rootName+"/", r.layers), hold(root, state, r.told[i], doing)...)
	if i < len(r.steps) {
		wrong = append(wrong, w.again(r, i, root, state, full)...)
	}
	if !full {
		return wrong
	}
	w.containers.Lock() // prune removes them
	defer w.containers.Unlock()
	for _, args := range [][]string{{"system", "check"}, {"system", "prune", "-f"}} {
		if res := w.run(nil, machine.Command(root, state, args...)); res.Code != 0 {
			wrong = append(wrong, fmt.Sprintf("then brig %v: %s", args, res))
		}
	}
	for thing, is := range r.told[min(i+1, len(r.steps))] {
		if name, ok := strings.CutPrefix(thing, "image "); ok && is != "" && is != "untagged" {
			if res := w.run(nil, machine.Command(root, state, "run", "--rm", "--network", "none", "--pull", "never", name, "/bin/alive")); res.Code != 0 || res.Out != "alive\n" {
				wrong = append(wrong, fmt.Sprintf("then brig run of %s: %s", name, res))
			}
		}
	}
	return wrong
}

// again repeats the step that was interrupted.
func (w *world) again(r *recording, i int, root, state string, full bool) (wrong []string) {
	s := r.steps[i]
	inside, err := false, error(nil)
	if !full {
		inside, err = s.again(root, state)
	}
	if !inside {
		w.containers.Lock() // copies of one container have one ID, and one control group
		defer w.containers.Unlock()
		ids := containerIDs(root)
		if s.args[0] == "run" || s.args[0] == "create" { // what the interrupted one has made may be there already
			for thing := range s.effect {
				if name, ok := strings.CutPrefix(thing, "container "); ok {
					w.must(nil, machine.Command(root, state, "rm", "-f", name))
				}
			}
		}
		if res := w.run(nil, s.command(root, state)); !s.ended(res) {
			err = fmt.Errorf("%s", res)
		}
		w.settle(root, state, ids)
	}
	if err != nil {
		return []string{fmt.Sprintf("done again, %v: %v", s.args, err)}
	}
	t, err := ReadTree(root)
	if err != nil {
		return []string{err.Error()}
	}
	told := r.told[i+1]
	if s.remade {
		told = maps.Clone(told)
		for thing := range s.effect {
			if told[thing] = tell(root, state, thing); told[thing] == "" {
				return []string{"done again: there is no " + thing}
			}
		}
	}
	for _, line := range append(check(root, state, t, "", r.layers), hold(root, state, told, nil)...) {
		wrong = append(wrong, "done again: "+line)
	}
	return wrong
}

// TestPowerCut tells each story once and cuts it at every operation, by every rule.
func TestPowerCut(t *testing.T) {
	w := newWorld(t)
	for _, s := range w.stories() {
		t.Run(s.name, func(t *testing.T) {
			w.begin(t, s)
			start := time.Now()
			r := w.record(s)
			recorded := time.Since(start)
			share, fulls := 0.07, 0.01
			if whole() {
				share, fulls = 1, 0.05
			}
			verdicts, tried := w.tryAll(r, r.points(share), fulls)
			t.Logf("%d operations (%s); %d cuts, %d of them different, in %s", len(r.trace.Ops), recorded.Round(time.Millisecond), len(r.points(share)), tried, time.Since(start).Round(time.Millisecond))
			report(t, r, verdicts)
		})
	}
}

// tryAll tries points on two processors.
func (w *world) tryAll(r *recording, list []point, fulls float64) (bad []verdict, tried int) {
	c, seen := NewCutter(r.trace), &sync.Map{}
	var mu sync.Mutex
	var workers sync.WaitGroup
	next := 0
	for range 2 {
		workers.Go(func() {
			for {
				mu.Lock()
				k := next
				next++
				mu.Unlock()
				if k >= len(list) {
					return
				}
				full := float64(list[k].seed%1000) < 1000*fulls
				wrong, fresh := w.try(r, c, list[k], seen, full)
				mu.Lock()
				if fresh {
					tried++
				}
				if len(wrong) > 0 {
					bad = append(bad, verdict{list[k], wrong})
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return bad, tried
}

// report fails the test over what is wrong, the same fault once.
func report(t *testing.T, r *recording, list []verdict) {
	t.Helper()
	count := map[string]int{}
	for _, v := range list {
		key := string(v.rule) + digits.ReplaceAllString(v.wrong[0], "#")
		if count[key]++; count[key] == 1 {
			t.Errorf("%s:\n\t%s", r.where(v.point), strings.Join(v.wrong, "\n\t"))
		}
	}
	if len(list) > 0 {
		t.Errorf("%d cuts end badly", len(list))
	}
}

// digits is what differs between two reports of one fault.
var digits = regexp.MustCompile(`[0-9a-f]{6,}|[0-9]+`)
