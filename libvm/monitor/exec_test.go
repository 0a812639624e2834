//go:build linux

package monitor

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
)

// slowly is an agent that takes its time to exec, and notes what it did.
type slowly struct {
	api.AgentService
	*switched
	takes time.Duration
	fails error
}

func (a *slowly) Exec(context.Context, *api.ExecRequest) (*api.ExecResponse, error) {
	time.Sleep(a.takes)
	a.note("started")
	return &api.ExecResponse{}, a.fails
}

func (a *slowly) Signal(_ context.Context, r *api.SignalRequest) (*api.Empty, error) {
	if r.Id == "c1" && r.ExecId == "exec-1" && r.Signal == 9 && !r.All {
		a.note("killed")
	}
	return &api.Empty{}, nil
}

func (a *slowly) Pause(context.Context, *api.ContainerRequest) (*api.Empty, error) {
	a.note("frozen")
	return &api.Empty{}, nil
}

func (a *slowly) Resume(ctx context.Context, _ *api.ContainerRequest) (*api.Empty, error) {
	a.note("thawed")
	return &api.Empty{}, ctx.Err()
}

// A process that was given up does not stay when the guest starts it later.
func TestSlowExec(t *testing.T) {
	for name, c := range map[string]struct {
		takes time.Duration
		fails error
		fine  bool
		want  []string
	}{
		"in time":        {rpcTimeout - time.Second, nil, true, []string{"started"}},
		"too late":       {3 * rpcTimeout, nil, false, []string{"started", "killed"}},
		"fails too late": {3 * rpcTimeout, errors.New("no such program"), false, []string{"started"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := &slowly{switched: &switched{}, takes: c.takes, fails: c.fails}
			began := time.Now()
			err := (&guest{agent: a}).startExec(t.Context(), &api.ExecRequest{Id: "c1", ExecId: "exec-1"})
			if (err == nil) != c.fine || time.Since(began) > rpcTimeout {
				t.Errorf("%s: %v after %v", name, err, time.Since(began))
			}
			time.Sleep(4 * rpcTimeout)
			if got := a.noted(); !slices.Equal(got, c.want) {
				t.Errorf("%s: %q, want %q", name, got, c.want)
			}
		})
	}
}

// A pause waits for an exec that is under way, and one that comes after it is
// refused: none is started by resume, when its client has gone.
func TestExecAndPause(t *testing.T) {
	s := &switched{}
	a := &held{slowly: slowly{switched: s}, asked: make(chan struct{}), answer: make(chan struct{})}
	m := &monitor{guest: &guest{machine: s, agent: a}, results: make(chan func(), 1), containers: map[string]*container{}}
	c := &container{id: "c1", status: specs.StateRunning}
	m.containers["c1"] = c
	exec := func() error {
		return m.vcpus.running(func() error {
			return m.guest.startExec(t.Context(), &api.ExecRequest{Id: "c1", ExecId: "exec-1"})
		})
	}
	began := make(chan error)
	go func() { began <- exec() }()
	<-a.asked
	m.pause(c, request{})
	select {
	case <-m.results:
		t.Error("the machine is stopped under an exec")
	case <-time.After(100 * time.Millisecond):
	}
	close(a.answer)
	if err := <-began; err != nil {
		t.Error(err)
	}
	<-m.results
	want := []string{"started", "frozen", "pause"}
	if got := s.noted(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := exec(); !errors.Is(err, errStands) || failure(err).Code != CodePaused {
		t.Errorf("exec in a machine that was stopped: %v", err)
	}
	if got := s.noted(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// held is an agent whose Exec waits.
type held struct {
	slowly
	asked, answer chan struct{}
}

func (a *held) Exec(ctx context.Context, r *api.ExecRequest) (*api.ExecResponse, error) {
	close(a.asked)
	<-a.answer
	return a.slowly.Exec(ctx, r)
}

// brokenPause is a machine that cannot be stopped in time.
type brokenPause struct{ *switched }

func (b brokenPause) Pause(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// What was frozen is thawed when the machine could not be stopped in time.
func TestPauseTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &slowly{switched: &switched{}}
		ctx, cancel := context.WithTimeout(t.Context(), rpcTimeout)
		defer cancel()
		err := (&guest{agent: a}).freeze(ctx, brokenPause{a.switched}, "c1")
		if !errors.Is(err, context.DeadlineExceeded) || len(err.(interface{ Unwrap() []error }).Unwrap()) != 1 {
			t.Errorf("%v", err)
		}
		if want := []string{"frozen", "thawed"}; !slices.Equal(a.events, want) {
			t.Errorf("%q, want %q", a.events, want)
		}
	})
}
