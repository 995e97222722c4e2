package runtime

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// small limits a container's memory, in bytes, and its processes.
func small(memory, pids int64) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids}}
	}
}

// TestOneMebibyteAndOneProcess: nothing of the runtime's counts, so a program runs that fits itself.
func TestOneMebibyteAndOneProcess(t *testing.T) {
	w := newWorld(t)
	for range 10 {
		w.must("run", "--bundle", w.bundle(small(1<<20, 1), "true"), w.name())
	}
	if out := w.must("run", "--bundle", w.bundle(small(1<<20, 1), "echo", "fits"), w.name()); out != "fits" {
		t.Errorf("it printed %q", out)
	}
	id := w.created(w.bundle(small(1<<20, 1), "sleep", "100"))
	w.must("start", id)
	w.must("exec", id, "true") // joining is no fork, which is what the limit counts: cgroups(7), "pids"
	w.fails(2, "fork", "exec", id, "sh", "-c", "true; (true); true")
	if s := w.state(id).Status; s != "running" {
		t.Errorf("after the failed exec it is %s", s)
	}
	w.must("delete", "--force", id)
	id = w.started(w.bundle(small(1<<20, 2), "sleep", "100"))
	if out := w.must("exec", id, "echo", "fits"); out != "fits" {
		t.Errorf("exec printed %q", out)
	}
	w.must("delete", "--force", id)
}

// TestLeastMemory finds the smallest limit under which true runs. A limit that is too small is told as what it is.
func TestLeastMemory(t *testing.T) {
	w := newWorld(t)
	least := int64(0)
	for _, kib := range []int64{1024, 768, 512, 384, 256, 192, 128, 64, 32, 16} {
		r := w.run("run", "--bundle", w.bundle(small(kib<<10, 1), "true"), w.name())
		if r.code == 0 {
			least = kib
			continue
		}
		t.Logf("%d KiB: %s", kib, r)
		if r.code != 137 && !strings.Contains(r.err, "memory limit") {
			t.Errorf("%d KiB: %s: the memory limit is not named", kib, r)
		}
	}
	t.Logf("true runs under %d KiB", least)
	if least == 0 || least > 512 {
		t.Errorf("true needs a limit of %d KiB, want 512 at most", least)
	}
}

// TestNothingOfTheRuntimeIsCharged: when a container has been created its cgroup has paid for one forked child alone.
func TestNothingOfTheRuntimeIsCharged(t *testing.T) {
	w := newWorld(t)
	id := w.created(w.bundle(small(64<<20, 10), "sleep", "100"))
	dir := "/sys/fs/cgroup/memory/" + id
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the memory controller is not version 1's")
	}
	number := func(file string) int {
		n, err := strconv.Atoi(strings.TrimSpace(w.read(file)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	used, peak := number(dir+"/memory.usage_in_bytes"), number(dir+"/memory.max_usage_in_bytes")
	t.Logf("created: %d KiB, at most %d KiB", used>>10, peak>>10)
	if peak > 512<<10 {
		t.Errorf("created, its memory was %d KiB at most, %d KiB now", peak>>10, used>>10)
	}
	if tasks := strings.Fields(w.read(dir + "/tasks")); len(tasks) != 1 {
		t.Errorf("created, it has threads %v", tasks)
	}
	if n := number("/sys/fs/cgroup/pids/" + id + "/pids.current"); n != 1 {
		t.Errorf("created, it has %d processes", n)
	}
	w.must("start", id)
	w.must("delete", "--force", id)
}

// TestCrowd creates, starts and deletes many containers, eight at a time: all work, none takes much longer than the first, nothing is left.
func TestCrowd(t *testing.T) {
	w := newWorld(t)
	total := 80
	if scale() > 1 {
		total = 200 * scale()
	}
	bundle := w.bundle(nil, "true")
	times := make([]time.Duration, total)
	next := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range next {
				id := w.name()
				began := time.Now()
				for _, args := range [][]string{{"create", "--bundle", bundle, id}, {"start", id}, {"delete", "--force", id}} {
					if r := w.run(args...); r.code != 0 {
						t.Errorf("container %d: %s: %s", i, args[0], r)
					}
				}
				times[i] = time.Since(began)
			}
		})
	}
	for i := range total {
		next <- i
	}
	close(next)
	wg.Wait()
	tenth := total / 10
	first, last := median(times[:tenth]), median(times[total-tenth:])
	t.Logf("%d containers; median of the first %d: %s, of the last: %s", total, tenth, first, last)
	if last > 5*first+100*time.Millisecond {
		t.Errorf("the last took %s each, the first %s", last, first)
	}
}

func median(times []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[len(sorted)/2]
}

// TestCrowdListed: list and state do not mind many containers that wait.
func TestCrowdListed(t *testing.T) {
	w := newWorld(t)
	bundle := w.bundle(nil, "true")
	var ids []string
	for range 30 * scale() {
		ids = append(ids, w.created(bundle))
	}
	slices.Sort(ids)
	if got := strings.Fields(w.must("list", "-q")); !slices.Equal(got, ids) {
		t.Errorf("list has %d of %d: %v", len(got), len(ids), got)
	}
	for _, id := range ids {
		w.must("delete", id)
	}
	if got := w.must("list", "-q"); got != "" {
		t.Errorf("list has %s", got)
	}
}
