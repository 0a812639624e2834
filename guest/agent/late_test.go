package agent

import (
	"os"
	"syscall"
	"testing"
	"time"
)

func TestSettled(t *testing.T) {
	for _, c := range []struct {
		what  string
		minds bool
		quiet int
		age   time.Duration
		want  bool
	}{
		{"has a handler and sleeps", true, fewLooks, 50 * time.Millisecond, true},
		{"has a handler, still at work", true, 0, 50 * time.Millisecond, false},
		{"has a handler, always at work", true, 0, settlingBusy + 1, true},
		{"no handler yet, sleeps", false, manyLooks, 50 * time.Millisecond, false},
		{"no handler, sleeps for good", false, manyLooks, settlingLeast + 1, true},
		{"no handler, at work", false, 0, settlingLeast + 1, false},
		{"no handler, at work for long", false, 0, settlingMost + 1, true},
	} {
		if got := settled(c.minds, c.quiet, c.age); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

func TestMinds(t *testing.T) {
	// The Go runtime catches SIGTERM's kin when asked; SIGURG always.
	if !minds(os.Getpid(), syscall.SIGURG) {
		t.Error("SIGURG is caught by every Go program")
	}
	if minds(os.Getpid(), syscall.SIGSTOP) {
		t.Error("nobody can catch SIGSTOP")
	}
}
