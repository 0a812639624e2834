//go:build linux

package monitor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/runm/runm/libvm/vmm"
)

// switched is a machine that notes when it is stopped and started.
type switched struct {
	vmm.Machine
	mu     sync.Mutex
	events []string
	err    error // of Pause
}

func (s *switched) note(event string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, event)
}

func (s *switched) noted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

func (s *switched) Pause(context.Context) error  { s.note("pause"); return s.err }
func (s *switched) Resume(context.Context) error { s.note("resume"); return nil }

func TestAwake(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name    string
		stopped bool
		asked   error // of what is done meanwhile
		pause   error
		want    []string
	}{
		{"running", false, nil, nil, []string{"asked"}},
		{"stopped", true, nil, nil, []string{"resume", "asked", "pause"}},
		{"failing", true, broken, nil, []string{"resume", "asked", "pause"}},
		{"not stopped again", true, nil, broken, []string{"resume", "asked", "pause"}},
	} {
		s := &switched{err: c.pause}
		m := &monitor{guest: &guest{machine: s}, vcpus: vcpus{stopped: c.stopped}}
		err := m.awake(context.Background(), func() error {
			s.note("asked")
			return c.asked
		})
		if !slices.Equal(s.events, c.want) {
			t.Errorf("%s: %q, want %q", c.name, s.events, c.want)
		}
		if want := errors.Join(c.asked, c.pause); (err == nil) != (want == nil) || want != nil && !errors.Is(err, broken) {
			t.Errorf("%s: %v, want %v", c.name, err, want)
		}
	}
}

// Two at once must not stop the machine under each other.
func TestAwakeTakesTurns(t *testing.T) {
	s := &switched{}
	m := &monitor{guest: &guest{machine: s}, vcpus: vcpus{stopped: true}}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_ = m.awake(context.Background(), func() error { s.note("asked"); return nil })
		})
	}
	all.Wait()
	for turn := range slices.Chunk(s.events, 3) {
		if !slices.Equal(turn, []string{"resume", "asked", "pause"}) {
			t.Fatalf("%q", s.events)
		}
	}
}
