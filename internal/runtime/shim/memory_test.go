package shim

import (
	"os"
	"strings"
	"testing"
)

// TestGiveBackAgain: areas of the program that were made small stay so, however often memory is given back.
func TestGiveBackAgain(t *testing.T) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	areas := func() int {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(maps), exe)
	}
	s := new(server)
	whole := areas()
	s.giveBack()
	small := areas()
	s.busy()
	s.giveBack()
	if again := areas(); small < 10*whole || again != small {
		t.Errorf("areas of the program: %d, then %d, and %d after the second time", whole, small, again)
	}
}
