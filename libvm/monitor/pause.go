//go:build linux

package monitor

import (
	"context"
	"errors"
	"fmt"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/vmm"
)

// statePaused is runc's; the specification has no such status.
const statePaused specs.ContainerState = "paused"

// vcpus orders those who stop and start the machine and those who need it to
// run, all of them beside the owner. Its zero value is a machine that runs.
type vcpus struct {
	mu      sync.RWMutex
	stopped bool
}

// errStands: nothing runs in a machine that was stopped.
var errStands = errors.New("cannot exec in a paused container: its machine stands still; resume it first")

// running calls f unless the machine was stopped. It is not stopped before f has
// returned.
func (v *vcpus) running(f func() error) error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.stopped {
		return errStands
	}
	return f()
}

// awake calls f while the machine runs. A paused one runs for as long as f
// does: its container stays frozen by the guest's cgroup.
func (m *monitor) awake(ctx context.Context, f func() error) error {
	v := &m.vcpus
	v.mu.RLock()
	if !v.stopped {
		defer v.mu.RUnlock()
		return f()
	}
	v.mu.RUnlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.stopped {
		return f()
	}
	p := m.guest.machine.(vmm.Pauser)
	if err := p.Resume(ctx); err != nil {
		return fmt.Errorf("wake the machine: %w", err)
	}
	err := f()
	again, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	if perr := p.Pause(again); perr != nil {
		err = errors.Join(err, fmt.Errorf("stop the machine again: %w", perr))
	}
	return err
}

// pause freezes the container in the guest, then stops the vCPUs, if no other
// container needs them. As for runc, one that is paused already does not run.
func (m *monitor) pause(c *container, r request) {
	p, ok := m.guest.machine.(vmm.Pauser)
	switch {
	case c.status != specs.StateRunning && c.status != specs.StateCreated:
		r.reply(Reply{Error: "container not running", Code: CodeNotRunning})
		return
	case !ok:
		r.reply(failure(fmt.Errorf("pause: %w", vmm.ErrNotSupported)))
		return
	}
	alone := m.last(c)
	freeze := m.guest.freeze
	switch {
	case !alone && c.status == specs.StateCreated:
		r.reply(Reply{Error: "cannot pause a container that was not started while others run in its machine", Code: CodeNotRunning})
		return
	case !alone:
		freeze = m.guest.freezeOnly
	case c.status == specs.StateCreated:
		freeze = stopOnly
	}
	m.beside(func(context.Context) {
		m.vcpus.mu.Lock()
		defer m.vcpus.mu.Unlock()
		// From here on: who needs the machine may have needed it for long.
		ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
		defer cancel()
		var err error
		if !m.vcpus.stopped {
			err = freeze(ctx, p, c.id)
			m.vcpus.stopped = err == nil && alone
		}
		// Under the lock, so that the owner hears of it before it hears of a
		// resume.
		m.results <- func() {
			switch {
			case err != nil:
				r.reply(failure(fmt.Errorf("pause: %w", err)))
				return
			case c.status != statePaused:
				c.beforePause, c.status = c.status, statePaused
			}
			r.reply(Reply{})
		}
	})
}

// stopOnly is freeze for a container whose process waits to be started:
// libcontainer cannot make it a created one again.
func stopOnly(ctx context.Context, p vmm.Pauser, _ string) error { return p.Pause(ctx) }

// freezeOnly is freeze for a machine that others are in.
func (g *guest) freezeOnly(ctx context.Context, _ vmm.Pauser, id string) error {
	_, err := g.agent.Pause(ctx, &api.ContainerRequest{Id: id})
	return rpcError(err)
}

// freeze freezes the container and stops the machine, or neither.
func (g *guest) freeze(ctx context.Context, p vmm.Pauser, id string) error {
	if _, err := g.agent.Pause(ctx, &api.ContainerRequest{Id: id}); err != nil {
		return rpcError(err)
	}
	err := p.Pause(ctx)
	if err != nil {
		again, cancel := context.WithTimeout(context.Background(), rpcTimeout)
		defer cancel()
		_, terr := g.agent.Resume(again, &api.ContainerRequest{Id: id})
		err = errors.Join(err, rpcError(terr))
	}
	return err
}

func (m *monitor) resume(c *container, r request) {
	if c.status != statePaused {
		r.reply(Reply{Error: "container not paused", Code: CodeNotPaused})
		return
	}
	m.thaw(c, r.reply)
}

// thaw lets the machine run on, sets its clock, which stood still, thaws the
// container and delivers the signals that came meanwhile.
func (m *monitor) thaw(c *container, reply func(Reply)) {
	frozen := c.beforePause != specs.StateCreated
	m.beside(func(ctx context.Context) {
		m.vcpus.mu.Lock()
		defer m.vcpus.mu.Unlock()
		var err error
		if m.vcpus.stopped {
			if err = m.guest.machine.(vmm.Pauser).Resume(ctx); err == nil {
				m.vcpus.stopped = false
			}
		}
		if err == nil {
			err = m.guest.setClock(ctx)
		}
		if err == nil && frozen {
			_, err = m.guest.agent.Resume(ctx, &api.ContainerRequest{Id: c.id})
		}
		m.results <- func() {
			if err != nil {
				reply(failure(fmt.Errorf("resume: %w", rpcError(err))))
				return
			}
			if c.status == statePaused {
				c.status = c.beforePause
			}
			pending := c.pending
			c.pending = nil
			for _, r := range pending {
				m.deliver(c, r, func(Reply) {})
			}
			reply(Reply{})
		}
	})
}
