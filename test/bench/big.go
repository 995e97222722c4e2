package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

const (
	bigPullCase = "pull of a big image, from an empty store"
	changedCase = "pull of a big image whose top layer of 5 MB has changed"
	tenCase     = "ten pulls at once of images that share three big layers"
	readCase    = "first and second reading of a big image"

	// bigEnv names the OCI layout of machine.BigImage, made before the namespaces are.
	bigEnv    = "BRIG_BENCH_BIG"
	bigRounds = 5       // at most: a round of all engines takes over a minute
	topSize   = 5 << 20 // bytes of files in a changed top layer
)

// bring is one way to get an image from a registry, or a part of such a way.
type bring struct {
	name   string
	pull   []string
	run    []string     // the first container of it; nil: this way makes nothing to run
	forget func() error // takes it away again, outside of the time; nil: the next round has another store
	stores []string     // folders where it lies
	daemon []int        // processes that do the work
}

// sample is what one pull took.
type sample struct {
	pull, run, sync, cpu time.Duration
	peak, disk           int64 // bytes
}

// cost is how one way did in each round.
type cost struct {
	name    string
	samples []sample
	err     error
}

// brings are the ways of the engines to get ref. With forget they lose it again after each pull.
func (b *bench) brings(ref string, forget bool) []bring {
	var all []bring
	for _, e := range b.pullers() {
		w := bring{name: e.name, pull: e.pull(ref), stores: e.stores, daemon: pids(e.daemons, b.dir)}
		if forget {
			w.forget = func() error { return b.do(e.forget(ref)...) }
		}
		if e.runRef != nil {
			w.run = e.runRef(ref, "bench-first", "/bin/true")
		}
		all = append(all, w)
	}
	return all
}

// parts are ways that do less than an engine must: they tell what the pieces of a pull cost here.
func (b *bench) parts(ref string, blobs []string) []bring {
	dir := filepath.Join(b.dir, "parts")
	one := func(n int) string { return fmt.Sprint(dir, n) }
	sh := func(n int, script string) []string {
		return append([]string{"sh", "-c", "set -e; d=$1; shift; n=0; " + script, "sh", one(n)}, blobs...)
	}
	return []bring{
		{name: "skopeo copy", pull: []string{"skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", "docker://" + ref, "oci:" + one(0) + ":x"},
			stores: []string{one(0)}},
		{name: "tar -xz, 1", pull: sh(1, `for f; do n=$((n+1)); mkdir -p $d/$n; tar -xzf $f -C $d/$n; done`), stores: []string{one(1)}},
		{name: "tar -xz, 4", pull: sh(2, `p=; for f; do n=$((n+1)); mkdir -p $d/$n; tar -xzf $f -C $d/$n & p="$p $!"; done; for i in $p; do wait $i; done`),
			stores: []string{one(2)}},
		{name: "gunzip", pull: sh(3, `for f; do gunzip -c <$f >/dev/null; done`)},
		{name: "sha256sum", pull: sh(4, `sha256sum "$@"`)},
	}
}

// compare has each way pull rounds times, in an order drawn anew each round, after one round that is not counted. ways gives them for a
// round, which frame makes.
func (b *bench) compare(ways func(*bench) []bring, frame func(func(*bench) error) error) []cost {
	var all []cost
	rounds := min(b.rounds, bigRounds)
	for round := range rounds + 1 {
		err := frame(func(in *bench) error {
			now := ways(in)
			if all == nil {
				for _, w := range now {
					all = append(all, cost{name: w.name})
				}
			}
			for _, i := range rand.Perm(len(now)) {
				if all[i].err != nil || b.ctx.Err() != nil {
					continue
				}
				s, err := b.sample(now[i])
				if all[i].err = err; err == nil && round > 0 {
					all[i].samples = append(all[i].samples, s)
				}
			}
			return nil
		})
		if err != nil {
			return []cost{{name: "all", err: err}}
		}
	}
	return all
}

// sample is one pull, the first run of what came, and the removal. Before the pull all that was written is on the disk, so that nobody
// pays for another's writing.
func (b *bench) sample(w bring) (s sample, err error) {
	settle()
	before := diskUse(w.stores)
	cpu := cpuOf(w.daemon)
	for _, pid := range w.daemon {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0) // proc(5): VmHWM begins anew
	}
	u, err := spend(w.pull)
	s.pull, s.cpu, s.peak = u.took, u.cpu+cpuOf(w.daemon)-cpu, u.peak
	for _, pid := range w.daemon {
		s.peak = max(s.peak, highWater(pid))
	}
	if err == nil && w.run != nil {
		s.run, err = clock(w.run)
	}
	begin := time.Now()
	unix.Sync()
	s.sync = time.Since(begin)
	s.disk = diskUse(w.stores) - before
	if w.forget != nil {
		if ferr := w.forget(); err == nil {
			err = ferr
		}
	}
	return s, err
}

// settle waits until what was written before is on the disk.
func settle() {
	unix.Sync()
	time.Sleep(300 * time.Millisecond)
	unix.Sync()
}

// spent is what a command used, with all of its children.
type spent struct {
	took, cpu time.Duration
	peak      int64 // of the process that took most; at least this program's own, which the kernel hands on at exec: some 15 MB
}

// spend is clock, and tells what else the command used.
func spend(argv []string) (spent, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	log, err := os.CreateTemp("", "brig-bench-out")
	if err != nil {
		return spent{}, err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log // a file, not a pipe that somebody would have to read from
	begin := time.Now()
	err = cmd.Run()
	s := spent{took: time.Since(begin)}
	if cmd.ProcessState != nil {
		s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			s.peak = u.Maxrss << 10
		}
	}
	if err != nil {
		out, _ := os.ReadFile(log.Name())
		return s, fmt.Errorf("%v: %w: %s", argv, err, out[max(0, len(out)-400):])
	}
	return s, nil
}

// bigPulls compares pulls of the whole image.
func bigPulls(b *bench, c testcase) error {
	layout := os.Getenv(bigEnv)
	r, err := b.bigRegistry()
	if err != nil {
		return err
	}
	ref := r.Address + "/big:latest"
	if err := r.PushLayout(layout+":latest", ref); err != nil {
		return err
	}
	manifest, err := machine.ReadImage(layout, "latest")
	if err != nil {
		return err
	}
	var blobs []string
	for _, l := range manifest.Layers {
		blobs = append(blobs, machine.BlobPath(layout, l.Digest))
	}
	ways := func(in *bench) []bring { return append(in.brings(ref, false), in.parts(ref, blobs)...) }
	reportCosts(os.Stdout, c.name, b.compare(ways, b.fresh))
	return nil
}

// changedPulls compares pulls of an image of which all but a small layer is there.
func changedPulls(b *bench, c testcase) error {
	r, err := b.bigRegistry()
	if err != nil {
		return err
	}
	refs, err := b.withTops(r, 2, 0)
	if err != nil {
		return err
	}
	for _, e := range b.pullers() {
		if err := b.do(e.pull(refs[0])...); err != nil {
			return err
		}
		defer b.do(e.forget(refs[0])...)
	}
	ways := func(in *bench) []bring { return in.brings(refs[1], true) }
	reportCosts(os.Stdout, c.name, b.compare(ways, func(f func(*bench) error) error { return f(b) }))
	return nil
}

// pullers are the engines that pull, in the order of brings.
func (b *bench) pullers() []*engine {
	var out []*engine
	for _, e := range b.engines {
		if e.pull != nil {
			out = append(out, e)
		}
	}
	return out
}

// bigRegistry starts a registry for the big image, once.
func (b *bench) bigRegistry() (*machine.Registry, error) {
	if b.registry != nil {
		return b.registry, nil
	}
	r, err := machine.StartRegistry(filepath.Join(b.dir, "big-registry"))
	if err != nil {
		return nil, err
	}
	b.registry = r
	b.engines[0].down = append(b.engines[0].down, r.Stop)
	return r, nil
}

// withTops pushes n images of the first layers of the big one (0: all) and a small layer of its own each.
func (b *bench) withTops(r *machine.Registry, n, layers int) (refs []string, err error) {
	layout := os.Getenv(bigEnv)
	manifest, err := machine.ReadImage(layout, "latest")
	if err != nil {
		return nil, err
	}
	config, err := machine.ReadConfig(layout, manifest)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, fmt.Sprintf("tops-%d-%d", n, layers))
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, err
	}
	var below []machine.Layer
	for i, l := range manifest.Layers {
		if layers != 0 && i == layers {
			break
		}
		below = append(below, machine.Layer{Blob: l, DiffID: config.RootFS.DiffIDs[i]})
		if err := os.Symlink(machine.BlobPath(layout, l.Digest), machine.BlobPath(dir, l.Digest)); err != nil {
			return nil, err
		}
	}
	top := filepath.Join(b.dir, "top.tar")
	for i := range n {
		if err := machine.TopLayer(top, machine.BlobPath(layout, manifest.Layers[1].Digest), i, topSize); err != nil {
			return nil, err
		}
		l, err := machine.AddLayer(dir, top, machine.GoGzip)
		if err != nil {
			return nil, err
		}
		tag := fmt.Sprint("top", i)
		if _, err := machine.WriteImage(dir, tag, append(below[:len(below):len(below)], l)); err != nil {
			return nil, err
		}
		ref := fmt.Sprintf("%s/tops-%d-%d:%s", r.Address, n, layers, tag)
		if err := r.PushLayout(dir+":"+tag, ref); err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// reportCosts prints medians, and the ratio of pull and first run to the first way's.
func reportCosts(w io.Writer, title string, all []cost) {
	fmt.Fprintf(w, "\n%s (medians; load %s)\n", title, load())
	fmt.Fprintf(w, "  %-12s %2s %9s %9s %9s %9s %9s %9s   %s\n", "", "n", "pull ms", "run ms", "sync ms", "CPU ms", "peak MB", "disk MB", "pull x "+all[0].name+" [quartiles]")
	pulls := func(c cost) (d []time.Duration) {
		for _, s := range c.samples {
			d = append(d, s.pull)
		}
		return d
	}
	for _, c := range all {
		if c.err != nil {
			fmt.Fprintf(w, "  %-12s %s\n", c.name, strings.TrimSpace(c.err.Error()))
			continue
		}
		median := func(f func(sample) time.Duration) float64 {
			var d []time.Duration
			for _, s := range c.samples {
				d = append(d, f(s))
			}
			return ms(quantile(d, 0.5))
		}
		var peaks []int64
		for _, s := range c.samples {
			peaks = append(peaks, s.peak)
		}
		ratio := ""
		if r := ratios(pulls(c), pulls(all[0])); len(r) > 0 {
			ratio = fmt.Sprintf("%6.2f [%.2f – %.2f]", quantile(r, 0.5), quantile(r, 0.25), quantile(r, 0.75))
		}
		fmt.Fprintf(w, "  %-12s %2d %9.0f %9.0f %9.0f %9.0f %9.0f %9.0f   %s\n", c.name, len(c.samples),
			median(func(s sample) time.Duration { return s.pull }), median(func(s sample) time.Duration { return s.run }),
			median(func(s sample) time.Duration { return s.sync }), median(func(s sample) time.Duration { return s.cpu }),
			float64(quantile(peaks, 0.5))/1e6, float64(c.samples[0].disk)/1e6, ratio)
	}
}
