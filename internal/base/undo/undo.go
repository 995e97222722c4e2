// Package undo takes back what was done, in reverse, unless it is released.
package undo

// Stack holds the steps that take back what has been done so far. The zero value is ready.
//
//	var u undo.Stack
//	defer u.Run()
//	…; u.Add(func() { … })
//	u.Release()
type Stack struct{ steps []func() }

// Add puts a step on top.
func (s *Stack) Add(step func()) { s.steps = append(s.steps, step) }

// Run takes the steps from the top; a second call does nothing.
func (s *Stack) Run() {
	for len(s.steps) > 0 {
		last := s.steps[len(s.steps)-1]
		s.steps = s.steps[:len(s.steps)-1]
		last()
	}
}

// Release forgets the steps: what was done stays.
func (s *Stack) Release() { s.steps = nil }
