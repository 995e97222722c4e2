package fault

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// TestStoreLimit pulls more than the store may take, one after another and at the same time. It never takes more, what is in use stays, and what
// cannot come in says what holds the space.
func TestStoreLimit(t *testing.T) {
	w := newWorld(t)
	d := stock(w, 8, 1_500_000)
	const limit, slack = 24 << 20, 3 << 20 // 1 MiB a transfer
	w.must("system", "limit", strconv.Itoa(limit))
	w.must("pull", "-q", d.image(0))
	if _, err := os.Stat(filepath.Join(w.root, "reserve")); err != nil {
		t.Skip("transfers reserve no room yet: they are not held to the limit")
	}
	w.must("create", "--name", "uses", d.image(0), "true")
	stop, most := make(chan struct{}), int64(0)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				out, _ := exec.Command("du", "-s", "--block-size=1", w.root).Output() // fails over what goes meanwhile
				n, _ := strconv.ParseInt(strings.Fields(string(out) + "0")[0], 10, 64)
				most = max(most, n)
			}
		}
	})
	for i := range 8 {
		w.must("pull", "-q", d.image(i))
	}
	var all sync.WaitGroup
	for n := range 3 {
		all.Go(func() {
			for i := range 8 {
				if r := w.brig("pull", "-q", d.image((i+3*n)%8)); r.Code != 0 && !strings.Contains(r.Err, "limit") {
					t.Errorf("%s", r)
				}
			}
		})
	}
	all.Wait()
	close(stop)
	watcher.Wait()
	if most > limit+slack || most < limit/2 {
		t.Errorf("%d bytes at most, the limit is %d", most, limit)
	}
	w.must("start", "-a", "uses")
	w.addsUp("under a limit")

	// With all in use nothing more comes in, and nothing is lost.
	images := w.must("images", "-q")
	for i, id := range strings.Fields(images) {
		w.must("create", "--name", "all"+strconv.Itoa(i), id, "true")
	}
	refused := 0
	for i := range 8 {
		if r := w.brig("pull", "-q", d.image(i)); r.Code != 0 {
			refused++
			for _, word := range []string{"images in use", "brig system limit", "brig system df"} {
				if !strings.Contains(r.Err, word) {
					t.Errorf("no %q in %s", word, r)
				}
			}
		}
	}
	if refused == 0 {
		t.Error("all came in")
	}
	for i := range strings.Fields(images) {
		w.must("start", "-a", "all"+strconv.Itoa(i))
	}
	w.removeAll()
	w.must("system", "limit", "none")
	w.isEmpty()
}
