// Package trace records where time goes: spans of runm's processes and of the
// guest, on one clock, in a file of Chrome's trace event format
// (docs/tracing.md).
//
// The command that was given --trace makes the File and is the only one that
// writes it. Whoever works for the command gets the other end of a socket and
// sends its spans there; it never blocks on it and never has the file.
//
// A context carries the Recorder, as it carries a deadline: it is about one
// request, whoever serves it, and nothing depends on it.
package trace

import (
	"context"
	"time"
)

// Event is a span that has ended. Times are nanoseconds since 1970 UTC by the
// host's clock.
type Event struct {
	Process string `json:"process"`
	Pid     int    `json:"pid"`
	// Lane is what runs one after another in a process: spans of one lane are
	// nested or apart. Viewers call it a thread.
	Lane  string         `json:"lane"`
	Name  string         `json:"name"`
	Begin int64          `json:"begin"`
	End   int64          `json:"end"`
	Args  map[string]any `json:"args,omitempty"`
}

// MainLane is the lane of what has no other.
const MainLane = "main"

// place is where in a trace a context is.
type place struct {
	recorder *Recorder
	lane     string
}

type key struct{}

// With returns a context whose spans r records on lane. A nil r records nothing.
func With(ctx context.Context, r *Recorder, lane string) context.Context {
	if r == nil {
		return ctx
	}
	return context.WithValue(ctx, key{}, place{r, lane})
}

// Lane returns a context whose spans are on another lane of the same process.
func Lane(ctx context.Context, lane string) context.Context { return With(ctx, From(ctx), lane) }

// From returns the context's recorder, nil for none.
func From(ctx context.Context) *Recorder { return at(ctx).recorder }

// LaneOf returns the context's lane, "" without a recorder.
func LaneOf(ctx context.Context) string { return at(ctx).lane }

func at(ctx context.Context) place {
	p, _ := ctx.Value(key{}).(place)
	return p
}

// Span is a piece of work that has begun. The zero Span records nothing.
type Span struct {
	place
	name  string
	begin int64
}

// Begin begins a span of ctx's recorder. It costs a look into ctx where there is
// none.
func Begin(ctx context.Context, name string) Span { return at(ctx).begin(name) }

// Begin begins a span without a context.
func (r *Recorder) Begin(lane, name string) Span { return place{r, lane}.begin(name) }

func (p place) begin(name string) Span {
	if p.recorder == nil {
		return Span{}
	}
	return Span{p, name, Now()}
}

// End ends the span.
func (s Span) End() {
	if s.recorder != nil {
		s.recorder.Add(s.lane, s.name, s.begin, Now())
	}
}

// Now is the time by which spans are recorded. It is the wall clock, because
// monotonic ones differ between time namespaces (time_namespaces(7)).
func Now() int64 { return time.Now().UnixNano() }
