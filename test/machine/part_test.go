package machine

import (
	"slices"
	"testing"
	"time"
)

func TestShare(t *testing.T) {
	list := []int{1, 2, 3, 4, 5, 6, 7}
	for value, want := range map[string][]int{"": list, "1/3": {1, 4, 7}, "3/3": {3, 6}, "4/3": list, "0/3": list, "x/3": list, "2": list, "8/8": nil} {
		t.Setenv(PartEnv, value)
		if got := Share(list); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	t.Setenv(PartEnv, "2/3")
	if First() {
		t.Error("part 2 of 3 is not the first")
	}
}

func TestPatience(t *testing.T) {
	for value, want := range map[string]time.Duration{"": time.Second, "8": 8 * time.Second, "0": time.Second, "-3": time.Second, "x": time.Second} {
		t.Setenv(SlowEnv, value)
		if got := Patience(time.Second); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}
