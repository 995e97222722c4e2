package powercut

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sector is what a disk writes whole, bytes. ext4 counts on it for its superblock, whose checksum covers 1024: cut after 512 of them it does not mount.
const sector = 4096

// diskName is the file that a loop device shows as a disk.
const diskName = "disk"

// TestPowerCutOfExt4 cuts below the kernel's own ext4: the disk is a loop device over a file of the file system that remembers, so the trace is one of blocks and flushes.
// Each cut is a disk on which what was not flushed may be there or not, in any order; ext4 replays its journal, and the store has to be as after any other cut.
func TestPowerCutOfExt4(t *testing.T) {
	w := newWorld(t)
	for _, tool := range []string{"mke2fs", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v: apt-get install e2fsprogs mount", err)
		}
	}
	limit := 12
	if whole() {
		limit = 400
	}
	for _, s := range w.stories() {
		t.Run(s.name, func(t *testing.T) {
			w.begin(t, s)
			start := time.Now()
			r := w.recordDisk(s)
			blocks := r.trace
			c := NewCutter(blocks)
			random := rand.New(rand.NewPCG(3, uint64(len(s.name))))
			rules := []Rule{Killed, Strict, Loose, LessOne}
			bad := 0
			for k := range limit {
				// Spread over the whole, each at a random place of its part.
				n := min((k*len(blocks.Ops)+random.IntN(len(blocks.Ops)))/limit, len(blocks.Ops))
				p := point{n, rules[random.IntN(len(rules))], random.Uint64()}
				if wrong := w.tryDisk(r, c, p, k%10 == 0); len(wrong) > 0 {
					bad++
					t.Errorf("%s:\n\t%s", r.where(p), strings.Join(wrong, "\n\t"))
				}
			}
			t.Logf("%d writes and flushes; %d cuts in %s, %d end badly", len(blocks.Ops), limit, time.Since(start).Round(time.Millisecond), bad)
		})
	}
}

// recordDisk tells a story on an ext4 whose blocks are recorded.
func (w *world) recordDisk(s story) *recording {
	w.t.Helper()
	f, dir := w.mounted(NewTree())
	defer f.Unmount()
	file := filepath.Join(dir, diskName)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Truncate(file, 48<<20); err != nil {
		w.t.Fatal(err)
	}
	w.tool("mke2fs", "-q", "-F", "-t", "ext4", "-b", fmt.Sprint(sector), "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0", file)
	disk := w.place("ext4")
	w.tool("mount", "-o", "loop,commit=1", file, disk)
	root, state := filepath.Join(disk, rootName), w.place("state")
	r := &recording{story: s, told: []facts{{}}, layers: layers{}}
	learn := func() {
		t, err := ReadTree(root)
		if err != nil {
			w.t.Fatal(err)
		}
		r.layers.learn(t, "")
	}
	for _, step := range s.setup {
		w.must(nil, step.command(root, state))
		r.tell(step, 0, root, state)
		learn()
	}
	unix.Sync()
	f.Begin()
	for i, step := range s.steps {
		w.must(nil, step.command(root, state))
		f.Mark(fmt.Sprint(i))
		r.told = append(r.told, maps.Clone(r.told[i]))
		r.tell(step, i+1, root, state)
		learn()
	}
	r.trace = f.Trace()
	r.finish()
	w.settle(root, state, containerIDs(root))
	w.drop(state)
	w.unmountDisk(disk)
	return r
}

// tryDisk is try for a disk: what a cut leaves is mounted.
func (w *world) tryDisk(r *recording, c *Cutter, p point, full bool) (wrong []string) {
	t := c.Cut(p.n, p.rule, rand.New(rand.NewPCG(p.seed, 0)), sector)
	dir, disk, state := w.place("cut"), w.place("ext4"), w.place("state")
	defer os.RemoveAll(dir)
	if err := t.Write(dir); err != nil {
		return []string{err.Error()}
	}
	if out, err := exec.Command("mount", "-o", "loop", filepath.Join(dir, diskName), disk).CombinedOutput(); err != nil {
		return []string{fmt.Sprintf("mount: %v: %s", err, out)}
	}
	defer w.unmountDisk(disk)
	defer w.drop(state)
	root := filepath.Join(disk, rootName)
	now, err := ReadTree(disk)
	if err != nil {
		return []string{err.Error()}
	}
	return w.judge(r, r.at(p.n), now, root, state, full)
}

// unmountDisk unmounts a disk as soon as the last container's keeper has left it, and the layers that were mounted from it.
func (w *world) unmountDisk(disk string) {
	w.t.Helper()
	all, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Error(err)
	}
	for line := range strings.Lines(string(all)) {
		if f := strings.Fields(line); strings.Contains(line, " - erofs "+disk+"/") {
			unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Unmount(disk, 0)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Errorf("unmount %s: %v", disk, err)
			unix.Unmount(disk, unix.MNT_DETACH)
			return
		}
	}
}

func (w *world) tool(name string, args ...string) {
	w.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		w.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}
