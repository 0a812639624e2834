//go:build linux

package monitor

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runm/runm/guest/api"
)

// wrongClock is an agent whose clock is behind the host's.
type wrongClock struct {
	api.AgentService
	behind, trip time.Duration
	asked        int
	moved        []*api.SetClockRequest
	fails        error
}

func (w *wrongClock) SetClock(_ context.Context, r *api.SetClockRequest) (*api.SetClockResponse, error) {
	if w.fails != nil {
		return nil, w.fails
	}
	w.asked++
	if r.StepNano != 0 {
		w.moved = append(w.moved, r)
	}
	now := time.Now()
	time.Sleep(w.trip) // all of it on the way back: the least that can be known
	return &api.SetClockResponse{UnixNano: now.Add(-w.behind).UnixNano()}, nil
}

func TestKeepClock(t *testing.T) {
	const slow = clockTrip + 30*time.Millisecond
	for name, c := range map[string]struct {
		behind, trip time.Duration
		moved, slew  bool
	}{
		"right":              {0, 0, false, false},
		"right, slow answer": {0, slow, false, false},
		"drifted":            {8 * time.Millisecond, 0, true, true},
		"drifted, ahead":     {-8 * time.Millisecond, 0, true, true},
		"set back":           {time.Hour, 0, true, false},
		"set ahead":          {-time.Hour, slow, true, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &wrongClock{behind: c.behind, trip: c.trip}
			if err := (&guest{agent: w}).keepClock(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if (len(w.moved) == 1) != c.moved {
				t.Errorf("%s: %v", name, w.moved)
			}
			for _, r := range w.moved {
				if wrong := time.Duration(r.StepNano) - c.behind; r.Slew != c.slew || wrong.Abs() > c.trip/2 {
					t.Errorf("%s: moved by %v", name, r)
				}
			}
		})
	}
}

// start sets the guest's clock if nobody did, and then asks only if the host's
// clock was set since.
func TestFollowClock(t *testing.T) {
	w := &wrongClock{behind: 5 * time.Millisecond}
	g := &guest{agent: w}
	w.fails = errors.New("no answer")
	if err := g.followClock(context.Background()); err != w.fails {
		t.Errorf("%v, want %v", err, w.fails)
	}
	w.fails = nil
	if err := g.followClock(context.Background()); err != nil || len(w.moved) != 1 || w.moved[0].Slew {
		t.Fatalf("%v, %v", w.moved, err)
	}
	w.behind = time.Hour
	w.asked = 0
	if err := g.followClock(context.Background()); err != nil || w.asked != 0 {
		t.Errorf("asked %d times, %v", w.asked, err)
	}
	g.clock.base += time.Hour // as if the host's had been set back
	for range 2 {
		if err := g.followClock(context.Background()); err != nil || len(w.moved) != 2 {
			t.Errorf("%v, %v", w.moved, err)
		}
	}
}

// That it is woken when the clock is set, tests/faults has.
func TestAlarm(t *testing.T) {
	a, err := newAlarm()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.wait(time.Millisecond); err != nil {
		t.Errorf("nothing happens: %v", err)
	}
	ended := make(chan error)
	go func() {
		_, err := a.wait(time.Hour)
		ended <- err
	}()
	a.close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
