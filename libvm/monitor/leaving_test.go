//go:build linux

package monitor

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/share"
)

// late is an agent that makes each container when it is told to, and notes what
// it does.
type late struct {
	api.AgentService
	noted  *switched
	create chan error
}

func (a late) Create(_ context.Context, r *api.CreateRequest) (*api.CreateResponse, error) {
	err := <-a.create
	a.noted.note("create " + r.Id)
	return &api.CreateResponse{}, err
}

func (a late) Signal(_ context.Context, r *api.SignalRequest) (*api.Empty, error) {
	if r.Signal == uint32(unix.SIGKILL) && r.All {
		a.noted.note("kill " + r.Id)
	}
	return &api.Empty{}, nil
}

func (a late) Wait(_ context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	time.Sleep(time.Minute)
	a.noted.note("wait " + r.Id)
	return &api.WaitResponse{}, nil
}

func (a late) Delete(_ context.Context, r *api.ContainerRequest) (*api.Empty, error) {
	a.noted.note("delete " + r.Id)
	return &api.Empty{}, nil
}

// A container that the guest makes after it was given up is removed there, and
// then another can have its id.
func TestMadeTooLate(t *testing.T) {
	for name, c := range map[string]struct {
		made error
		want []string
	}{
		"made":     {nil, []string{"create c1", "kill c1", "wait c1", "delete c1"}},
		"not made": {errors.New("no such program"), []string{"create c1"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := late{noted: &switched{}, create: make(chan error)}
			g := &guest{agent: a, machine: endable{a.noted}}
			create := func(id string, patience time.Duration) error {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				began := time.Now()
				err := g.create(ctx, &Setup{ID: id}, &stdio{})
				if lasted := time.Since(began); lasted > patience {
					t.Errorf("%s: it takes %v, want %v", name, lasted, patience)
				}
				return err
			}
			if err := create("c1", time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			if err := create("c1", time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: another while it is still in the guest: %v", name, err)
			}
			if got := a.noted.noted(); len(got) > 0 {
				t.Errorf("%s: %q before the guest has answered", name, got)
			}
			again := make(chan error)
			go func() { again <- create("c1", time.Hour) }()
			synctest.Wait()
			a.create <- c.made
			a.create <- nil // only then
			if err := <-again; err != nil {
				t.Errorf("%s: another when it is gone: %v", name, err)
			}
			if got, want := a.noted.noted(), append(slices.Clone(c.want), "create c1"); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		})
	}
}

// When a member's create fails, the owner waits for nothing in the guest: neither
// before the guest has made the container, nor after.
func TestFailedMemberOfASilentGuest(t *testing.T) {
	for name, made := range map[string]bool{"being made": false, "made": true} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t)
			p.add("first", 64*mib)
			p.staging = &share.Staging{Dir: t.TempDir()}
			a := late{noted: &switched{}, create: make(chan error)}
			p.guest = streams(t)
			p.guest.agent, p.guest.machine = a, endable{a.noted}
			c := p.add("second", 64*mib)
			c.log = quiet()
			ours, theirs := connection(t)
			c.create, c.status, c.over = theirs, specs.StateCreating, make(chan struct{})
			c.making, c.cancel = context.WithCancelCause(t.Context())
			c.setup.BootSeconds = 3600
			io, err := newStdio(t.Context(), p.guest, []*os.File{devNull(t), devNull(t), devNull(t)}, false, c.log)
			if err != nil {
				t.Fatal(err)
			}
			if made {
				io.run()
				c.stdio = io
			} else {
				c.made = make(chan result, 1)
				go func() {
					ctx, cancel := c.deadline(c.making)
					defer cancel()
					c.made <- result{err: p.guest.create(ctx, c.setup, io)}
				}()
			}
			began := time.Now()
			p.fail(c, errHolderGone)
			if lasted := time.Since(began); lasted > 5*time.Second {
				t.Errorf("the owner is held up for %v", lasted)
			}
			var answer Step
			if _, err := ours.Recv(&answer); err != nil || answer.Kind != StepFailed || answer.Error != errHolderGone.Error() {
				t.Errorf("create is told %+v, %v", answer, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := p.guest.leaving.wait(ctx, c.id); err == nil {
				t.Error("its id is free while the guest still has it")
			}
			if made {
				close(c.over) // as when it was deleted there
			} else {
				a.create <- errors.New("not made")
			}
			if err := p.guest.leaving.wait(t.Context(), c.id); err != nil {
				t.Error(err)
			}
			if slices.Contains(a.noted.noted(), "ended") {
				t.Error("the pod's machine is ended")
			}
		})
	}
}
