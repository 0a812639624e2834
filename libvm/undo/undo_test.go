package undo

import (
	"errors"
	"slices"
	"testing"
)

func TestRunIsLastInFirstOutAndRunsEveryStep(t *testing.T) {
	var order []int
	boom := errors.New("boom")
	var s Stack
	for i := range 3 {
		s.Push(func() error {
			order = append(order, i)
			if i == 1 {
				return boom
			}
			return nil
		})
	}
	if err := s.Run(); !errors.Is(err, boom) {
		t.Errorf("Run() = %v, want %v", err, boom)
	}
	if want := []int{2, 1, 0}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if err := s.Run(); err != nil || len(order) != 3 {
		t.Errorf("second Run() = %v and ran %d steps, want nothing", err, len(order)-3)
	}
}

func TestKeepForgets(t *testing.T) {
	var s Stack
	s.Push(func() error { t.Error("a kept step ran"); return nil })
	s.Keep()
	if err := s.Run(); err != nil {
		t.Error(err)
	}
}
