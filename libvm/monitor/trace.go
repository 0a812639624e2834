//go:build linux

package monitor

import (
	"context"
	"math"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/trace"
)

// Trace of a message says that its last file is where to send spans
// (trace.Recorder).
type Trace struct {
	// ToEnd: until the end of the container or the process that the message
	// makes; otherwise until the message is answered.
	ToEnd bool `json:"toEnd,omitempty"`
	// Began is when the command began to start the process that the message is
	// for, in nanoseconds since 1970 UTC; 0 if that ran already.
	Began int64 `json:"began,omitempty"`
}

// recorder returns what t asks for, and the files that are left. A nil t asks for
// nothing.
func (t *Trace) recorder(files []*os.File) (*trace.Recorder, []*os.File) {
	if t == nil || len(files) == 0 {
		return nil, files
	}
	last := len(files) - 1
	return trace.NewRecorder(files[last], "monitor"), files[:last]
}

// Lanes of the monitor.
const (
	laneOwner = "owner" // the owner's goroutine
	laneBoot  = "boot"  // what makes the container
	laneWait  = "wait"  // what sees it to its end
	// laneInit is added to a lane for what the container's init does beside the
	// agent.
	laneInit = ": init"
)

// life is where the spans of the container's life go, nil for nowhere.
func (c *container) life() *trace.Recorder {
	if c.setup.Trace != nil && c.setup.Trace.ToEnd {
		return c.trace
	}
	return nil
}

const (
	// maxCalls bounds the calls whose spans are asked of the guest at once.
	maxCalls = 128
	// maxName bounds the name of a guest's span in bytes.
	maxName = 64
	// traceTimeout bounds how long a guest may take to tell them.
	traceTimeout = 2 * time.Second
)

// guestPid stands for the agent: one more than a pid can be (PID_MAX_LIMIT,
// linux/threads.h).
const guestPid = 4<<20 + 1

// calls are the calls to the agent that were traced, until they are collected.
type calls struct {
	mu    sync.Mutex
	last  uint64
	begun map[*trace.Recorder][]call
}

// call is one as the host saw it; times are the host's, in nanoseconds.
type call struct {
	number     uint64
	lane, name string
	begin, end int64
}

// traceCall records a call that is about to be made, if its context wants that,
// and asks the agent to do the same. The caller calls end after it.
func (g *guest) traceCall(ctx context.Context, req *ttrpc.Request) (end func()) {
	r := trace.From(ctx)
	if r == nil {
		return func() {}
	}
	g.calls.mu.Lock()
	g.calls.last++
	c := call{number: g.calls.last, lane: trace.LaneOf(ctx), name: req.Method}
	g.calls.mu.Unlock()
	req.Metadata = append(req.Metadata, &ttrpc.KeyValue{Key: api.TraceKey, Value: strconv.FormatUint(c.number, 10)})
	c.begin = trace.Now()
	return func() {
		c.end = trace.Now()
		r.Add(c.lane, "guest: "+c.name, c.begin, c.end)
		g.calls.mu.Lock()
		defer g.calls.mu.Unlock()
		if g.calls.begun == nil {
			g.calls.begun = map[*trace.Recorder][]call{}
		}
		if len(g.calls.begun[r]) < maxCalls {
			g.calls.begun[r] = append(g.calls.begun[r], c)
		}
	}
}

// collect asks the guest what it recorded for r and passes it on. A guest that
// does not tell is not in the trace.
func (g *guest) collect(r *trace.Recorder) {
	if r == nil {
		return
	}
	g.calls.mu.Lock()
	made := g.calls.begun[r]
	delete(g.calls.begun, r)
	g.calls.mu.Unlock()
	if len(made) == 0 {
		return
	}
	defer r.Begin("trace", "collect the guest's spans").End()
	req := &api.TraceRequest{}
	for _, c := range made {
		req.Calls = append(req.Calls, c.number)
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceTimeout)
	defer cancel()
	resp, err := g.agent.Trace(ctx, req)
	if err != nil {
		return
	}
	for _, e := range guestEvents(made, resp.GetCalls()) {
		r.Send(e)
	}
}

// guestEvents are the guest's spans by the host's clock. The guest is not
// believed: a call it reports is one that was made, its spans lie within what the
// host saw of the call, their number is bounded and their names are cleaned.
func guestEvents(made []call, said []*api.TracedCall) []trace.Event {
	by := map[uint64]call{}
	for _, c := range made {
		by[c.number] = c
	}
	var pairs []pair
	for _, s := range said {
		if c, ok := by[s.GetCall()]; ok {
			delete(by, c.number) // once
			pairs = append(pairs, pair{c, s})
		}
	}
	var events []trace.Event
	for i, at := range offsets(pairs) {
		c := pairs[i].call
		add := func(lane, name string, begin, end int64, args map[string]any) {
			begin, end = max(begin+at.nanos, c.begin), min(end+at.nanos, c.end)
			if begin <= end {
				events = append(events, trace.Event{
					Process: "guest", Pid: guestPid, Lane: lane, Name: clean(name[:min(len(name), maxName)]),
					Begin: begin, End: end, Args: args,
				})
			}
		}
		s := pairs[i].said
		add(c.lane, c.name, s.GetBegin(), s.GetEnd(), map[string]any{"clock": "± " + at.within.String()})
		for _, p := range s.GetSpans()[:min(len(s.GetSpans()), api.MaxSpans)] {
			lane := c.lane
			if p.GetInit() {
				lane += laneInit
			}
			add(lane, p.GetName(), p.GetBegin(), p.GetEnd(), nil)
		}
	}
	return events
}

// pair is a call as both sides saw it.
type pair struct {
	call
	said *api.TracedCall
}

// offset is what to add to the guest's monotonic clock for the host's, and how
// wrong that can be.
type offset struct {
	nanos  int64
	within time.Duration
}

// offsets are those of each call. The guest worked on it after the host had sent
// it and before the host had the answer: that bounds the offset. Calls of a guest
// that was not stopped in between have one offset, within all their bounds;
// where there is none, each call is left with its own.
func offsets(pairs []pair) []offset {
	bounds := func(p pair) (least, most int64) {
		return p.begin - p.said.GetBegin(), p.end - p.said.GetEnd()
	}
	least, most := int64(math.MinInt64), int64(math.MaxInt64)
	for _, p := range pairs {
		l, m := bounds(p)
		least, most = max(least, l), min(most, m)
	}
	all := make([]offset, len(pairs))
	for i, p := range pairs {
		l, m := least, most
		if l > m {
			l, m = bounds(p)
		}
		all[i] = offset{l + (m-l)/2, time.Duration((m - l) / 2).Abs().Round(time.Microsecond)}
	}
	return all
}
