package powercut

import (
	"math/rand/v2"
	"os/exec"
	"testing"

	"brig/test/machine"
)

// TestWithoutSync: of programs that sync neither their records nor the names of folders, the test finds that they lose what they reported done.
func TestWithoutSync(t *testing.T) {
	bin := t.TempDir() // built before newWorld moves $HOME, where the modules are
	build := exec.Command("go", "build", "-tags", "brig_weaken", "-o", bin+"/", "brig/cmd/brig", "brig/cmd/brig-oci", "brig/cmd/brig-image")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w := newWorld(t)
	stories := w.stories()
	t.Setenv(machine.BinEnv, bin)
	t.Setenv("BRIG_WEAKEN", "sync")
	for _, s := range stories {
		if s.packed {
			continue
		}
		w.t = t
		r := w.record(s)
		var list []point
		for _, end := range r.ends {
			for _, rule := range Rules() {
				for range 5 {
					list = append(list, point{end + 1, rule, rand.Uint64()})
				}
			}
		}
		bad, tried := w.tryAll(r, list, 0)
		if len(bad) == 0 {
			t.Errorf("%s: %d cuts, and nothing amiss", s.name, tried)
			continue
		}
		rules := map[Rule]int{}
		for _, v := range bad {
			rules[v.rule]++
		}
		if rules[Killed] > 0 {
			t.Errorf("%s: a kill alone does harm: %v", s.name, rules)
		}
		t.Logf("%s: of %d cuts %d do harm, by rule %v; the first: %s: %s", s.name, tried, len(bad), rules, r.where(bad[0].point), bad[0].wrong[0])
	}
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip(err)
	}
	r := w.recordDisk(stories[0])
	c, bad := NewCutter(r.trace), 0
	for range 40 {
		p := point{rand.IntN(len(r.trace.Ops) + 1), []Rule{Killed, Strict, Loose}[rand.IntN(3)], rand.Uint64()}
		if len(w.tryDisk(r, c, p, false)) > 0 {
			bad++
		}
	}
	t.Logf("%s on ext4: of 40 cuts %d do harm", r.name, bad)
	if bad == 0 {
		t.Errorf("%s on ext4: 40 cuts, and nothing amiss", r.name)
	}
}
