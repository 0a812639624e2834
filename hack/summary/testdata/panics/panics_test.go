package panics

import "testing"

func TestPanics(t *testing.T) {
	t.Log("before it")
	panic("no hope")
}
