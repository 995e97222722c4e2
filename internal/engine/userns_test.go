package engine

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"brig/api"
	"brig/internal/base/id"
	"brig/internal/base/undo"
)

// TestPickRange: what is picked is free, inside of the room, and found as long as there is any.
func TestPickRange(t *testing.T) {
	const room = 20 * autoSize
	var taken []claim
	for n := range 20 {
		at, ok := pickRange(id.New(), taken, room, autoSize)
		if !ok {
			t.Fatalf("the room is full with %d of 20", n)
		}
		for _, c := range taken {
			if at < c.at+c.size && c.at < at+autoSize || at+autoSize > room {
				t.Fatalf("%d is another's (%v), or outside", at, c)
			}
		}
		taken = append(taken, claim{at, autoSize})
	}
	if at, ok := pickRange(id.New(), taken, room, 1); ok {
		t.Errorf("a full room had %d", at)
	}
	for _, size := range []uint64{room + 1, 1 << 32} {
		if _, ok := pickRange("x", nil, room, size); ok {
			t.Errorf("%d ids in a room of %d", size, room)
		}
	}
	if _, ok := pickRange("x", nil, 1000, 1000); !ok {
		t.Error("a small room is no use")
	}
	if _, ok := pickRange("x", nil, 0, 1); ok {
		t.Error("an empty room is some use")
	}
}

// TestClaims: containers that are made at once have different ids; those of a container that was never recorded, as of a process that was killed, are free again.
func TestClaims(t *testing.T) {
	e := New(t.TempDir(), t.TempDir(), "test")
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[uint32]bool{}
	var made []*api.Container
	for n := range 12 {
		wg.Go(func() {
			c := &api.Container{ID: id.New(), Name: fmt.Sprintf("c%d", n), Spec: api.ContainerSpec{UserNS: api.UserNS{Mode: api.UserNSAuto}}}
			var u undo.Stack
			done, err := e.claimIDs(c, &u)
			if err == nil {
				err = e.meta.CreateContainer(*c, false)
				done()
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[c.Spec.UserNS.UIDMap[0].Outside] {
				t.Errorf("%v: %v", c.Spec.UserNS, err)
			}
			seen[c.Spec.UserNS.UIDMap[0].Outside] = true
			made = append(made, c)
		})
	}
	wg.Wait()
	lost := &api.Container{ID: id.New(), Spec: api.ContainerSpec{UserNS: api.UserNS{Mode: api.UserNSAuto}}}
	var u undo.Stack
	done, err := e.claimIDs(lost, &u)
	if err != nil {
		t.Fatal(err)
	}
	done()
	if list, err := e.claims(); err != nil || len(list) != 12 {
		t.Errorf("%d claims, %v", len(list), err)
	}
	for _, c := range made {
		if err := e.releaseIDs(c); err != nil {
			t.Error(err)
		}
	}
	if list, err := e.claims(); err != nil || len(list) != 0 {
		t.Errorf("%v, %v: all were given back", list, err)
	}
}

// TestInnerMaps: keep-id's map has podman's form, and ranges end where those of the user's namespace do.
func TestInnerMaps(t *testing.T) {
	for _, c := range []struct {
		kept, more uint32
		want       []api.IDRange
	}{
		{1000, 65536, []api.IDRange{{Inside: 0, Outside: 1, Size: 1000}, {Inside: 1000, Outside: 0, Size: 1}, {Inside: 1001, Outside: 1001, Size: 64536}}},
		{0, 10, []api.IDRange{{Size: 1}, {Inside: 1, Outside: 1, Size: 10}}},
		{100000, 10, []api.IDRange{{Inside: 0, Outside: 1, Size: 10}, {Inside: 100000, Outside: 0, Size: 1}}},
	} {
		if got := keepMap(c.kept, c.more); !slices.Equal(got, c.want) {
			t.Errorf("%d of %d: %v", c.kept, c.more, got)
		}
	}
	got := splitRanges([]api.IDRange{{Inside: 5, Outside: 0, Size: 100}, {Inside: 200, Outside: 300, Size: 2}}, []uint32{0, 1, 50, 300})
	want := []api.IDRange{{Inside: 5, Outside: 0, Size: 1}, {Inside: 6, Outside: 1, Size: 49}, {Inside: 55, Outside: 50, Size: 50}, {Inside: 200, Outside: 300, Size: 2}}
	if !slices.Equal(got, want) {
		t.Errorf("split into %v", got)
	}
	taken := []claim{{2048, 1024}, {0, 1024}}
	for _, c := range []struct{ size, at uint64 }{{1024, 1024}, {1025, 3072}} {
		if at, ok := firstRange("", taken, 10000, c.size); !ok || at != c.at {
			t.Errorf("%d ids at %d, %t", c.size, at, ok)
		}
	}
	if at, ok := firstRange("", taken, 10000, 9000); ok {
		t.Errorf("9000 ids at %d", at)
	}
}
