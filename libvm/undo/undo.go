// Package undo keeps what must be taken back when something half-done fails.
package undo

import "errors"

// Stack holds the steps that undo what was done so far. The zero value is
// ready to use. It belongs to one goroutine.
type Stack struct {
	steps []func() error
}

// Push adds a step. Steps run last in, first out.
func (s *Stack) Push(step func() error) {
	s.steps = append(s.steps, step)
}

// Run runs every step, also after one failed, and joins their errors. The
// stack is empty afterwards, so a second Run does nothing.
func (s *Stack) Run() error {
	var errs []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		errs = append(errs, s.steps[i]())
	}
	s.steps = nil
	return errors.Join(errs...)
}

// Keep forgets the steps: what was done stays.
func (s *Stack) Keep() {
	s.steps = nil
}
