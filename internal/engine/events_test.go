package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"brig/api"
)

// TestJournal has many write at a time, beyond the size at which the journal is put aside: no line is torn, the newest are there, and the files stay small.
func TestJournal(t *testing.T) {
	e := New(t.TempDir(), t.TempDir(), "")
	began := time.Now()
	const writers, each = 8, 600
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			c := api.Container{ID: fmt.Sprint(w), Name: "web", Spec: api.ContainerSpec{Labels: map[string]string{"filler": string(make([]byte, 300))}}}
			for i := range each {
				e.note(happened(&c, "start", "n", fmt.Sprint(i)))
			}
		})
	}
	wg.Wait()
	e.note(happened(&api.Container{ID: "last"}, "die"))
	newest := ""
	lines := 0
	err := e.Events(t.Context(), api.EventOptions{Since: began, Until: time.Now()}, func(ev api.Event) error {
		lines++
		newest = ev.ID
		if ev.ID != "last" && (ev.Action != "start" || ev.Attributes["name"] != "web") {
			t.Errorf("not an event that was written: %+v", ev)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if newest != "last" || lines < 100 {
		t.Errorf("%d events, the last of %q", lines, newest)
	}
	for _, name := range []string{"events", "events.1"} {
		if fi, err := os.Stat(filepath.Join(e.state, name)); err != nil && name == "events.1" || err == nil && fi.Size() > 2*eventsMax {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	t.Logf("%d of %d events are kept", lines, writers*each)
}
