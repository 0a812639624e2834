//go:build linux

package monitor

import (
	"math"
	"strings"
	"testing"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/trace"
)

// TestGuestEvents: two calls bound the offset better than each alone.
func TestGuestEvents(t *testing.T) {
	// The guest's clock is 1000 behind. The first call's request took 10 and its
	// answer 100; the second one's 100 and 20.
	made := []call{
		{number: 1, lane: "boot", name: "Hello", begin: 5000, end: 5210},
		{number: 2, lane: "boot", name: "Create", begin: 6000, end: 6220},
	}
	said := []*api.TracedCall{
		{Call: 1, Begin: 4010, End: 4110, Spans: []*api.Span{{Name: "clock", Begin: 4020, End: 4030}}},
		{Call: 2, Begin: 5100, End: 5200},
	}
	events := guestEvents(made, said)
	if len(events) != 3 {
		t.Fatalf("%+v", events)
	}
	// Within [990, 1020]: 1005 ± 15.
	for i, want := range []trace.Event{
		{Name: "Hello", Begin: 5015, End: 5115},
		{Name: "clock", Begin: 5025, End: 5035},
		{Name: "Create", Begin: 6105, End: 6205},
	} {
		e := events[i]
		if e.Name != want.Name || e.Begin != want.Begin || e.End != want.End || e.Lane != "boot" || e.Pid != guestPid {
			t.Errorf("%+v, want %+v", e, want)
		}
	}
}

// TestGuestEventsAfterAPause: a guest that was stopped has two offsets.
func TestGuestEventsAfterAPause(t *testing.T) {
	made := []call{{number: 1, begin: 1000, end: 1100}, {number: 2, begin: 9000, end: 9100}}
	said := []*api.TracedCall{{Call: 1, Begin: 20, End: 80}, {Call: 2, Begin: 220, End: 280}}
	events := guestEvents(made, said)
	if len(events) != 2 || events[0].Begin != 1020 || events[1].Begin != 9020 {
		t.Errorf("%+v", events)
	}
}

// TestGuestEventsHostile: nothing that a guest says leaves the call that it was
// said of, is long, or has control characters.
func TestGuestEventsHostile(t *testing.T) {
	made := []call{{number: 1, lane: "boot", name: "Hello", begin: 1000, end: 2000}}
	times := []int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, 1500, math.MaxInt64 - 1, math.MaxInt64}
	shown := 0
	for _, begin := range times {
		for _, end := range times {
			s := &api.TracedCall{Call: 1, Begin: begin, End: end}
			for _, b := range times {
				for _, e := range times {
					s.Spans = append(s.Spans, &api.Span{Name: "\x1b[2J" + strings.Repeat("é", 100), Begin: b, End: e})
				}
			}
			s.Spans = append(s.Spans, s.Spans...)
			events := guestEvents(made, []*api.TracedCall{s, s, {Call: 99, Begin: 1, End: 2}, nil})
			if len(events) > 1+api.MaxSpans {
				t.Fatalf("%d events", len(events))
			}
			for _, e := range events {
				shown++
				if e.Begin < 1000 || e.End > 2000 || e.Begin > e.End {
					t.Fatalf("%+v of %d to %d", e, begin, end)
				}
				if len(e.Name) > 2*maxName || strings.ContainsAny(e.Name, "\x1b\n\ufffd") {
					t.Fatalf("name %q", e.Name)
				}
			}
		}
	}
	if shown == 0 {
		t.Error("nothing was tried")
	}
}
