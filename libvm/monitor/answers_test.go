//go:build linux

package monitor

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/trace"
)

// teller is an agent that answers what it is told to.
type teller struct {
	greeter
	processes *api.ProcessesResponse
	stats     *api.StatsResponse
	trace     *api.TraceResponse
}

func (a teller) Processes(context.Context, *api.ContainerRequest) (*api.ProcessesResponse, error) {
	return a.processes, nil
}
func (a teller) Stats(context.Context, *api.ContainerRequest) (*api.StatsResponse, error) {
	return a.stats, nil
}
func (a teller) Trace(context.Context, *api.TraceRequest) (*api.TraceResponse, error) {
	return a.trace, nil
}

func TestAsk(t *testing.T) {
	many := func(n int) *api.ProcessesResponse {
		p := &api.ProcessesResponse{}
		for range n {
			p.Processes = append(p.Processes, &api.Process{})
		}
		return p
	}
	for name, c := range map[string]struct {
		teller
		op   Op
		fine bool
	}{
		"no processes":       {teller{processes: many(0)}, OpProcesses, true},
		"all a kernel has":   {teller{processes: many(maxElements)}, OpProcesses, true},
		"one more":           {teller{processes: many(maxElements + 1)}, OpProcesses, false},
		"all of a message":   {teller{processes: many(api.MaxMessage/2 - 100)}, OpProcesses, false},
		"counters":           {teller{stats: &api.StatsResponse{Stats: []byte(`{"pids":{"current":1}}`)}}, OpStats, true},
		"counters, no JSON":  {teller{stats: &api.StatsResponse{Stats: []byte(`{`)}}, OpStats, false},
		"counters, too many": {teller{stats: &api.StatsResponse{Stats: []byte("[" + strings.Repeat("0,", maxStats/2) + "0]")}}, OpStats, false},
	} {
		a, err := agentOf(t, c.teller).ask(context.Background(), c.op, "c1")
		if (err == nil) != c.fine {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && len(a.Table)+len(a.Stats) > 0 {
			t.Errorf("%s: an answer and an error", name)
		}
		if want := len(c.processes.GetProcesses()); c.fine && len(a.Table) != want {
			t.Errorf("%s: %d processes, want %d", name, len(a.Table), want)
		}
	}
}

// Spans are bounded, too: they are two levels down.
func TestTraceIsBounded(t *testing.T) {
	spans := make([]*api.Span, maxElements)
	for i := range spans {
		spans[i] = &api.Span{}
	}
	g := agentOf(t, teller{trace: &api.TraceResponse{Calls: []*api.TracedCall{{Spans: spans}}}})
	if _, err := g.agent.Trace(context.Background(), &api.TraceRequest{}); !errors.Is(err, errAnswer) {
		t.Errorf("%v", err)
	}
	g = agentOf(t, teller{trace: &api.TraceResponse{Calls: []*api.TracedCall{{Spans: spans[1:]}}}})
	if r, err := g.agent.Trace(context.Background(), &api.TraceRequest{}); err != nil || len(r.Calls[0].Spans) != len(spans)-1 {
		t.Errorf("%v", err)
	}
}

// No bytes are an answer that panics, and what is refused is refused by what
// would decode it, or has too many elements.
func FuzzAnswer(f *testing.F) {
	whole, err := proto.Marshal(&api.TraceResponse{Calls: []*api.TracedCall{{Call: 1, Spans: []*api.Span{{Name: "x"}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte{0x0a, 0x02, 0x22, 0x00})
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, want := checkAnswer("Trace", payload), proto.Unmarshal(payload, &api.TraceResponse{})
		if got != nil && want == nil && len(payload) < 2*maxElements {
			t.Errorf("%v of %x, which can be decoded", got, payload)
		}
	})
}

// An answer that is too long is an error that the user reads.
func TestReplyTooLong(t *testing.T) {
	conn := func(f *os.File) *control.Conn {
		c, err := control.NewConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	one, other, err := control.Pair()
	if err != nil {
		t.Fatal(err)
	}
	client := conn(one)
	r := request{conn: conn(other), began: trace.Now()}
	r.reply(Reply{Table: []Process{{Command: strings.Repeat("x", 9<<20)}}})
	var a Reply
	if _, err := client.Recv(&a); err != nil || !strings.Contains(a.Error, "at most 8388608 can be sent") {
		t.Errorf("%q, %v", a.Error, err)
	}
}

// A guest that does not read its port holds nobody longer than the call's
// deadline, and neither do the calls behind it.
func TestDeadlineOfADeafGuest(t *testing.T) {
	host, deaf := net.Pipe()
	defer deaf.Close()
	g := &guest{}
	g.client = ttrpc.NewClient(host, ttrpc.WithUnaryClientInterceptor(g.intercept))
	defer g.client.Close()
	g.agent = api.NewAgentClient(g.client)
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		ended := make(chan error, 1)
		go func() {
			_, err := g.agent.Signal(ctx, &api.SignalRequest{Id: "c1", Signal: 9})
			ended <- err
		}()
		select {
		case err := <-ended:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the call goes on after its deadline")
		}
		cancel()
	}
}

func TestStartContext(t *testing.T) {
	one, two := 1, 100
	for name, c := range map[string]struct {
		hooks *specs.Hooks
		want  time.Duration // 0 for no bound
	}{
		"no hooks":  {nil, rpcTimeout},
		"others":    {&specs.Hooks{Poststart: []specs.Hook{{}}}, rpcTimeout},
		"timeouts":  {&specs.Hooks{StartContainer: []specs.Hook{{Timeout: &one}, {Timeout: &two}}}, rpcTimeout + 101*time.Second},
		"unbounded": {&specs.Hooks{StartContainer: []specs.Hook{{Timeout: &one}, {}}}, 0},
	} {
		ctx, cancel := startContext(t.Context(), c.hooks)
		until, bounded := ctx.Deadline()
		if bounded != (c.want > 0) || bounded && (time.Until(until)-c.want).Abs() > time.Second {
			t.Errorf("%s: %v, %v; want %v", name, time.Until(until), bounded, c.want)
		}
		cancel()
	}
}
