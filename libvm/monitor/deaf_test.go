//go:build linux

package monitor

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
)

// deaf is a guest that does not read its port until hears is closed.
func deaf(t *testing.T) (g *guest, hears chan struct{}) {
	t.Helper()
	ours, theirs := net.Pipe()
	session, err := api.Host(ours)
	if err != nil {
		t.Fatal(err)
	}
	hears = make(chan struct{})
	go func() {
		<-hears
		_, _ = io.Copy(io.Discard, theirs)
	}()
	t.Cleanup(func() {
		theirs.Close()
		session.Close()
	})
	return &guest{session: session, opening: make(chan struct{}, 1)}, hears
}

// A guest that does not read its port holds nobody who wants a stream longer than
// that one's patience, and costs no more however often it is tried.
func TestOpenStreamOfADeafGuest(t *testing.T) {
	g, hears := deaf(t)
	try := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		tried := make(chan error, 1)
		go func() {
			_, err := newStdio(ctx, g, []*os.File{devNull(t), devNull(t), devNull(t)}, false, nil)
			tried <- err
		}()
		select {
		case err := <-tried:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("it waits after its deadline")
			return nil
		}
	}
	if err := try(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	before := runtime.NumGoroutine()
	for range 20 {
		if err := try(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	}
	if more := runtime.NumGoroutine() - before; more > 10 {
		t.Errorf("%d goroutines more after 20 attempts", more)
	}
	close(hears)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := g.open(ctx); err != nil {
		t.Errorf("once the guest reads: %v", err)
	}
}

func devNull(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Requests that the guest leaves unanswered are bounded in number.
func TestUnansweredRequests(t *testing.T) {
	g := &guest{}
	g.unanswered.Store(maxUnanswered - 1)
	req, resp := &ttrpc.Request{Method: "Wait"}, &ttrpc.Response{}
	begun, answer := make(chan struct{}), make(chan struct{})
	ended := make(chan error)
	go func() {
		ended <- g.intercept(t.Context(), req, resp, nil, func(context.Context, *ttrpc.Request, *ttrpc.Response) error {
			close(begun)
			<-answer
			return nil
		})
	}()
	<-begun
	never := func(context.Context, *ttrpc.Request, *ttrpc.Response) error {
		t.Error("one more is sent")
		return nil
	}
	if err := g.intercept(t.Context(), req, resp, nil, never); err == nil {
		t.Error("one more is not refused")
	}
	close(answer)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := g.unanswered.Load(); n != maxUnanswered-1 {
		t.Errorf("%d are counted, want %d", n, maxUnanswered-1)
	}
}

// stubborn is an agent that answers, and does not let a container end.
type stubborn struct{ api.AgentService }

func (stubborn) Signal(context.Context, *api.SignalRequest) (*api.Empty, error) {
	return &api.Empty{}, nil
}

// silent is an agent that answers nothing.
type silent struct{ stubborn }

func (silent) Signal(ctx context.Context, _ *api.SignalRequest) (*api.Empty, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (silent) SetClock(ctx context.Context, _ *api.SetClockRequest) (*api.SetClockResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// endable is a machine that notes when it is ended.
type endable struct{ *switched }

func (e endable) Kill() { e.note("ended") }

func (endable) Console() []byte { return nil }

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// A container is over some time after a SIGKILL, whatever its guest does: kill,
// and delete --force in a pod, end its machine.
func TestKillOfAStubbornGuest(t *testing.T) {
	kill := func(m *monitor, c *container) {
		m.signal(c, Request{Op: OpSignal, ID: c.id, Signal: int(unix.SIGKILL)}, func(Reply) {})
	}
	for name, c := range map[string]struct {
		agent api.AgentService
		do    func(*monitor, *container)
		limit time.Duration
	}{
		"kill, stubborn":   {stubborn{}, kill, killLimit},
		"kill, silent":     {silent{}, kill, killLimit},
		"kill of a paused": {silent{}, kill, killLimit},
		"delete in a pod":  {stubborn{}, func(m *monitor, c *container) { m.destroy(c, nil) }, destroyLimit},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := endable{&switched{}}
			one := &container{id: "c1", setup: &Setup{}, status: specs.StateRunning, stdio: &stdio{}, over: make(chan struct{}), log: quiet()}
			if name == "kill of a paused" {
				one.status = statePaused
			}
			m := &monitor{
				guest: &guest{machine: s, agent: c.agent}, results: make(chan func(), 16),
				containers: map[string]*container{"c1": one, "other": {id: "other"}},
			}
			m.vcpus.stopped = one.status == statePaused
			c.do(m, one)
			time.Sleep(c.limit - time.Second)
			if slices.Contains(s.noted(), "ended") {
				t.Errorf("%s: the machine is ended before %v", name, c.limit)
			}
			time.Sleep(2 * time.Second)
			if !slices.Contains(s.noted(), "ended") {
				t.Errorf("%s: the machine goes on after %v", name, c.limit)
			}
			time.Sleep(time.Hour) // for what else was begun
		})
	}
}

// One that ends takes no machine along.
func TestKillOfOneThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := endable{&switched{}}
		one := &container{id: "c1", status: specs.StateRunning, stdio: &stdio{}, over: make(chan struct{}), log: quiet()}
		m := &monitor{guest: &guest{machine: s, agent: stubborn{}}}
		m.signal(one, Request{Signal: int(unix.SIGKILL)}, func(a Reply) {
			if a.Error != "" {
				t.Error(a.Error)
			}
		})
		time.Sleep(killLimit - time.Second)
		close(one.over)
		time.Sleep(time.Hour)
		if got := s.noted(); len(got) > 0 {
			t.Errorf("%q", got)
		}
	})
}

// Output that never stands still, and never ends, is given up too.
func TestGiveUpOfADrip(t *testing.T) {
	g := streams(t)
	closed, err := g.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g.session.Close()
	synctest.Test(t, func(t *testing.T) {
		o := &output{from: closed}
		o.moved = sync.NewCond(&o.mu)
		given := make(chan struct{})
		s := &stdio{outs: []*output{o}}
		go func() {
			for {
				select {
				case <-given:
					return
				case <-time.After(time.Second):
					o.copied.Add(1)
				}
			}
		}()
		began := time.Now()
		s.giveUp(killLimit)
		close(given)
		if lasted := time.Since(began); lasted < killLimit || lasted > killLimit+2*stall {
			t.Errorf("it is given up after %v, want %v", lasted, killLimit)
		}
		if !o.ended {
			t.Error("it has not ended")
		}
	})
}

// unending is an agent whose execs never end.
type unending struct{ stubborn }

func (unending) Exec(context.Context, *api.ExecRequest) (*api.ExecResponse, error) {
	return &api.ExecResponse{}, nil
}

func (unending) Wait(ctx context.Context, _ *api.WaitRequest) (*api.WaitResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// When what stands for an exec has gone, the exec's files are let go, whatever the
// guest says.
func TestExecOfAStubbornGuest(t *testing.T) {
	g := streams(t)
	g.agent = unending{}
	m := &monitor{guest: g}
	out, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	stub, conn := connection(t)
	m.exec(&container{id: "c1", status: specs.StateRunning, log: quiet()}, request{
		Request: Request{Op: OpExec, ID: "c1", Process: &specs.Process{Args: []string{"true"}, Cwd: "/"}},
		conn:    conn, files: []*os.File{devNull(t), theirs, devNull(t)},
	})
	if a := reply(t, stub); a.Error != "" {
		t.Fatal(a.Error)
	}
	stub.Close()
	ended := make(chan error, 1)
	go func() { _, err := io.ReadAll(out); ended <- err }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(stall + 20*time.Second):
		t.Fatal("its output is held open")
	}
}
