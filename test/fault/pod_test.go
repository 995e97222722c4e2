package fault

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// TestPodKilledAtAnyStep: wherever the making of a pod is killed there is a whole pod or none, and the next of its name is made; wherever its removal is killed it
// is there or gone with its containers.
func TestPodKilledAtAnyStep(t *testing.T) {
	w := newWorld(t)
	create := []string{"pod", "create", "--network", "none", "--name", "kill", "--infra-name", "infra"}
	remove := []string{"pod", "rm", "-f", "kill"}
	inside := []string{"create", "--pod", "kill", "--name", "inside", "brig/base", "true"}
	w.must(create...)
	w.must(inside...)
	w.must(remove...)
	w.base = w.things()
	whole := func() bool { return w.must("pod", "ps", "--format", "{{.Name}} {{.Status}}") == "kill Created" }

	total := killAt(t, w.command(create...), theCommand, 0)
	w.must(remove...)
	moments := 20 * scale()
	for i := range moments {
		n := 1 + total*i/moments + rand.IntN(total/moments)
		when := fmt.Sprintf("pod create killed at stop %d of %d", n, total)
		killAt(t, w.command(create...), theCommand, n)
		if whole() {
			w.must(remove...)
		}
		if left := w.containers(); len(left) > 0 {
			t.Errorf("%s: containers without a pod: %v", when, left)
		}
		w.must(create...)
		w.must(inside...)
		w.must(remove...)
		if w.mustBeClean(when); t.Failed() {
			return
		}
	}

	w.must(create...)
	w.must(inside...)
	total = killAt(t, w.command(remove...), theCommand, 0)
	for i := range moments {
		n := 1 + total*i/moments + rand.IntN(total/moments)
		when := fmt.Sprintf("pod rm killed at stop %d of %d", n, total)
		w.must(create...)
		w.must(inside...)
		killAt(t, w.command(remove...), theCommand, n)
		if whole() {
			if left := w.containers(); len(left) != 2 {
				t.Errorf("%s: the pod is there, with the containers %v", when, left)
			}
			w.must(remove...)
		}
		if left := w.containers(); len(left) > 0 {
			t.Errorf("%s: containers without a pod: %v", when, left)
		}
		if w.mustBeClean(when); t.Failed() {
			return
		}
	}
}

// TestPodRemovedMeanwhile makes containers in a pod beside its removal: none of them is left without it.
func TestPodRemovedMeanwhile(t *testing.T) {
	w := newWorld(t)
	for range 4 * scale() {
		w.must("pod", "create", "--network", "none", "--name", "race")
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					r := w.brig("create", "--pod", "race", "brig/base", "true")
					if r.Code == 0 {
						continue
					}
					if !strings.Contains(r.Err, "pod") && !strings.Contains(r.Err, "no such container") {
						t.Errorf("create: %s", r)
					}
					return
				}
			})
		}
		w.must("pod", "rm", "-f", "race")
		all.Wait()
		if left := w.containers(); len(left) > 0 {
			t.Errorf("containers without a pod: %v", left)
			return
		}
	}
}
