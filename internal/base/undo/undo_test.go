package undo

import (
	"slices"
	"testing"
)

func TestRunsInReverseOnce(t *testing.T) {
	var u Stack
	var did []int
	for i := range 3 {
		u.Add(func() { did = append(did, i) })
	}
	u.Run()
	u.Run()
	if want := []int{2, 1, 0}; !slices.Equal(did, want) {
		t.Errorf("undone %v, want %v", did, want)
	}
}

func TestReleasedStepsStay(t *testing.T) {
	var u Stack
	u.Add(func() { t.Error("a released step ran") })
	u.Release()
	ran := false
	u.Add(func() { ran = true })
	u.Run()
	if !ran {
		t.Error("a step that came after Release did not run")
	}
}

// TestStepsMayAddSteps: what a step finds to undo is undone next.
func TestStepsMayAddSteps(t *testing.T) {
	var u Stack
	var did []string
	u.Add(func() { did = append(did, "first") })
	u.Add(func() {
		did = append(did, "last")
		u.Add(func() { did = append(did, "found") })
	})
	u.Run()
	if want := []string{"last", "found", "first"}; !slices.Equal(did, want) {
		t.Errorf("undone %v, want %v", did, want)
	}
}

// TestAPanicDoesNotRepeatAStep: Run is deferred, and may be run again by a caller that recovers.
func TestAPanicDoesNotRepeatAStep(t *testing.T) {
	var u Stack
	runs := 0
	u.Add(func() { runs++ })
	u.Add(func() { panic("step") })
	func() {
		defer func() { recover() }()
		u.Run()
	}()
	u.Run()
	if runs != 1 {
		t.Errorf("the other step ran %d times, want once", runs)
	}
}
