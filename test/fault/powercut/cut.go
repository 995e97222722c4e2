package powercut

import (
	"math"
	"math/rand/v2"
)

// Rule says what a cut leaves of what was not synced.
type Rule string

// The rules, from everything to nothing and what lies between. In each, what was synced is there.
const (
	Killed  Rule = "killed"  // everything: the program was killed, the machine was not
	Strict  Rule = "strict"  // nothing
	Journal Rule = "journal" // names and attributes up to some moment, in order; of each file's bytes a first part, possibly none: ext4's data=ordered
	Loose   Rule = "loose"   // any of it, in any order
	PlusOne Rule = "plus"    // one operation alone: a name, say, without the bytes
	LessOne Rule = "less"    // all but one operation, and what cannot be without it
)

// Rules are all of them.
func Rules() []Rule { return []Rule{Killed, Strict, Journal, Loose, PlusOne, LessOne} }

// Cutter cuts one trace at many places.
type Cutter struct {
	trace  *Trace
	needs  [][]int // the operations that one cannot be without: the former ones of the same name and of the same inode's names
	synced []int   // the operation that made this one durable
	last   []int   // the last sync of any kind up to each operation, or -1
}

// NewCutter studies a trace.
func NewCutter(t *Trace) *Cutter {
	c := &Cutter{trace: t, needs: make([][]int, len(t.Ops)), synced: make([]int, len(t.Ops)), last: make([]int, len(t.Ops))}
	type key struct {
		ino  uint64
		name string
	}
	former, last := map[key]int{}, -1
	for i := range t.Ops {
		o := &t.Ops[i]
		c.synced[i] = math.MaxInt
		if o.Kind.syncs() {
			last = i
		}
		c.last[i] = last
		if !o.Kind.names() {
			continue
		}
		keys := []key{{o.Dir, "/" + o.Name}, {o.Ino, ""}}
		if o.Kind == Rename || o.Kind == Swap {
			keys = append(keys, key{o.Dir2, "/" + o.Name2})
			if o.Ino2 != 0 {
				keys = append(keys, key{o.Ino2, ""})
			}
		}
		for _, k := range keys {
			if before, ok := former[k]; ok {
				c.needs[i] = append(c.needs[i], before)
			}
			former[k] = i
		}
	}
	for f := range t.Ops {
		if !t.Ops[f].Kind.syncs() {
			continue
		}
		for i := range f {
			if c.synced[i] == math.MaxInt && covers(&t.Ops[f], &t.Ops[i]) {
				c.settle(i, f)
			}
		}
	}
	return c
}

// settle notes that f made i durable, and with it what it needs.
func (c *Cutter) settle(i, f int) {
	if c.synced[i] < math.MaxInt {
		return
	}
	c.synced[i] = f
	for _, j := range c.needs[i] {
		c.settle(j, f)
	}
}

// covers reports whether a sync makes an earlier operation durable.
func covers(sync, o *Op) bool {
	switch {
	case sync.Kind == Syncfs:
		return true
	case o.Kind.names():
		return o.Dir == sync.Ino || (o.Kind == Rename || o.Kind == Swap) && o.Dir2 == sync.Ino
	case o.Ino != sync.Ino:
		return false
	case sync.Kind == Datasync:
		return o.Kind == Write || o.Kind == Punch || o.Kind == Resize
	}
	return o.Kind <= Delxattr
}

// durable reports whether operation i has been synced when the first n are done.
func (c *Cutter) durable(i, n int) bool { return c.synced[i] < n }

// Cut is what a cut after the first n operations leaves by the rule; random decides what the rule leaves open. grain is the number of bytes that are
// written whole or not at all: 1, or a block's 512.
func (c *Cutter) Cut(n int, rule Rule, random *rand.Rand, grain int) *Tree {
	keep := make([]bool, n)
	for i := range keep {
		keep[i] = rule == Killed || c.durable(i, n)
	}
	torn := -1
	switch rule {
	case Journal:
		c.journal(keep, n, random)
	case Loose:
		part := []float64{0.1, 0.5, 0.9}[random.IntN(3)]
		for i := range keep {
			if !keep[i] && random.Float64() < part {
				c.with(keep, i)
				if c.trace.Ops[i].Kind == Write && random.IntN(4) == 0 {
					torn = i
				}
			}
		}
	case PlusOne:
		if i := c.open(n, random); i >= 0 {
			c.with(keep, i)
		}
	case LessOne:
		if i := c.open(n, random); i >= 0 {
			for j := range keep {
				keep[j] = true
			}
			c.without(keep, i)
		}
	}
	return c.build(keep, n, torn, random, grain)
}

// open picks an operation that is not durable, -1 when all are.
func (c *Cutter) open(n int, random *rand.Rand) int {
	var list []int
	for i := range n {
		if o := c.trace.Ops[i].Kind; !c.durable(i, n) && o <= Delxattr {
			list = append(list, i)
		}
	}
	if len(list) == 0 {
		return -1
	}
	return list[random.IntN(len(list))]
}

// with keeps i and what it needs.
func (c *Cutter) with(keep []bool, i int) {
	if keep[i] {
		return
	}
	keep[i] = true
	for _, j := range c.needs[i] {
		c.with(keep, j)
	}
}

// without loses i and what needs it.
func (c *Cutter) without(keep []bool, i int) {
	keep[i] = false
	for j := i + 1; j < len(keep); j++ {
		for _, k := range c.needs[j] {
			keep[j] = keep[j] && keep[k]
		}
	}
}

// journal keeps names and attributes up to a moment that is not before the last sync, which commits them all, and of each file's bytes the first writes.
func (c *Cutter) journal(keep []bool, n int, random *rand.Rand) {
	commit := 0
	if n > 0 {
		commit = c.last[n-1] + 1
	}
	commit += random.IntN(n - commit + 1)
	part := map[uint64]float64{} // of a file's writes that came through
	for i := range keep {
		o := &c.trace.Ops[i]
		if o.Kind != Write && o.Kind != Punch {
			keep[i] = keep[i] || i < commit
			continue
		}
		p, known := part[o.Ino]
		if !known {
			p = []float64{0, 0.7, 0.9, 1}[random.IntN(4)]
			part[o.Ino] = p
		}
		if !keep[i] && random.Float64() >= p {
			part[o.Ino] = 0 // nor anything that was written later
		} else {
			keep[i] = true
		}
	}
}

// build does what is kept, of the write torn only a first part.
func (c *Cutter) build(keep []bool, n, torn int, random *rand.Rand, grain int) *Tree {
	t := c.trace.Base.Clone()
	for i := range n {
		if o := &c.trace.Ops[i]; o.Kind == Create {
			t.make(o)
		}
	}
	for i := range n {
		if !keep[i] {
			continue
		}
		o := &c.trace.Ops[i]
		if i == torn {
			part := *o
			part.Data = o.Data[:random.IntN(len(o.Data)/grain+1)*grain]
			o = &part
		}
		t.apply(o)
	}
	return t
}
