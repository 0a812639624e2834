//go:build linux

package agent

import (
	"context"
	"fmt"
	"testing"

	"github.com/containerd/ttrpc"

	"github.com/runm/runm/guest/api"
)

func traced(number string) context.Context {
	return ttrpc.WithMetadata(context.Background(), ttrpc.MD{api.TraceKey: {number}})
}

func TestTraces(t *testing.T) {
	var ts traces
	ctx, end := ts.record(traced("7"))
	boot := &recorder{}
	boot.span("kernel")()
	booted(ctx, boot)
	done := span(ctx, "clock")
	done()
	_ = span(ctx, "cut off")
	end()
	got := ts.take([]uint64{6, 7})
	if len(got) != 1 || got[0].GetCall() != 7 {
		t.Fatalf("%v", got)
	}
	c := got[0]
	if s := c.GetSpans(); len(s) != 2 || s[0].GetName() != "kernel" || s[1].GetName() != "clock" ||
		s[1].GetBegin() < c.GetBegin() || s[1].GetEnd() < s[1].GetBegin() || c.GetEnd() < s[1].GetEnd() {
		t.Errorf("%v", c)
	}
	if again := ts.take([]uint64{7}); again != nil {
		t.Errorf("told twice: %v", again)
	}
}

// TestTracesAreBounded: a host that asks for nothing back costs no memory.
func TestTracesAreBounded(t *testing.T) {
	var ts traces
	for i := range 2 * maxTraced {
		ctx, end := ts.record(traced(fmt.Sprint(i)))
		for range 2 * api.MaxSpans {
			span(ctx, "span")()
		}
		end()
	}
	if len(ts.calls) != maxTraced {
		t.Errorf("%d calls are kept, want %d", len(ts.calls), maxTraced)
	}
	for _, c := range ts.calls {
		if len(c.GetSpans()) != api.MaxSpans {
			t.Fatalf("%d spans are kept, want %d", len(c.GetSpans()), api.MaxSpans)
		}
	}
}

// TestNotTraced: calls that nobody traces record nothing.
func TestNotTraced(t *testing.T) {
	var ts traces
	for _, ctx := range []context.Context{context.Background(), traced("no number"), traced("-1")} {
		got, end := ts.record(ctx)
		if got != ctx {
			t.Error("another context")
		}
		if n := testing.AllocsPerRun(100, func() { span(got, "span")() }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		end()
	}
	if len(ts.calls) != 0 {
		t.Errorf("%v", ts.calls)
	}
}
