//go:build linux

package agent

import (
	"context"
	"strconv"
	"sync"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// maxTraced bounds the calls whose spans wait for the host.
const maxTraced = 256

// traces keeps what was recorded of calls until the host asks for it.
type traces struct {
	mu    sync.Mutex
	calls map[uint64]*api.TracedCall
}

// recorder records the spans of one call. The nil recorder is off.
type recorder struct {
	mu   sync.Mutex
	call api.TracedCall
}

// recorderKey is where a call's context has its recorder.
type recorderKey struct{}

// monotonic is the time of spans. Unlike the wall clock nobody sets it.
func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}

// record begins to record a call if its metadata asks for it. ctx is then that
// of the call, and end is called when it has ended.
func (t *traces) record(ctx context.Context) (_ context.Context, end func()) {
	value, ok := ttrpc.GetMetadataValue(ctx, api.TraceKey)
	if !ok {
		return ctx, nothing
	}
	number, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return ctx, nothing
	}
	r := &recorder{}
	r.call.Call, r.call.Begin = number, monotonic()
	return context.WithValue(ctx, recorderKey{}, r), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		done := &api.TracedCall{Call: number, Begin: r.call.Begin, End: monotonic(), Spans: r.call.Spans}
		r.call.Spans = nil
		t.put(done)
	}
}

func (t *traces) put(c *api.TracedCall) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.calls == nil {
		t.calls = map[uint64]*api.TracedCall{}
	}
	if len(t.calls) < maxTraced {
		t.calls[c.Call] = c
	}
}

func (t *traces) take(numbers []uint64) []*api.TracedCall {
	t.mu.Lock()
	defer t.mu.Unlock()
	var calls []*api.TracedCall
	for _, n := range numbers {
		if c := t.calls[n]; c != nil {
			calls = append(calls, c)
			delete(t.calls, n)
		}
	}
	return calls
}

// span begins a span of the call whose context ctx is. It ends when the returned
// function is called.
func span(ctx context.Context, name string) (end func()) {
	return recorderOf(ctx).span(name)
}

// recorderOf returns the recorder of the call whose context ctx is, nil for none.
func recorderOf(ctx context.Context) *recorder {
	r, _ := ctx.Value(recorderKey{}).(*recorder)
	return r
}

func nothing() {}

func (r *recorder) span(name string) (end func()) {
	if r == nil {
		return nothing
	}
	begin := monotonic()
	return func() { r.add(&api.Span{Name: name, Begin: begin, End: monotonic()}) }
}

func (r *recorder) add(spans ...*api.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.call.Spans)+len(spans) <= api.MaxSpans {
		r.call.Spans = append(r.call.Spans, spans...)
	}
}

// booted adds what the agent did before anybody called, to the first call.
func booted(ctx context.Context, boot *recorder) {
	if r := recorderOf(ctx); r != nil && boot != nil {
		r.add(boot.call.Spans...)
	}
}

func (s *server) Trace(_ context.Context, req *api.TraceRequest) (*api.TraceResponse, error) {
	return &api.TraceResponse{Calls: s.traces.take(req.GetCalls())}, nil
}
