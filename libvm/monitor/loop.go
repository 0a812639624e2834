//go:build linux

package monitor

import (
	"context"
	"errors"
	"os"
	"runtime/debug"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/holder"
	"github.com/runm/runm/libvm/network"
)

// killed is the status of a container whose machine ended under it.
const killed = 128 + int(unix.SIGKILL)

var (
	errCreateGone = errors.New("create was killed")
	errDestroyed  = errors.New("the container was deleted while it was being created")
	errHolderGone = errors.New("the container's host process was killed")
)

// booted is what boot came to: all of it, or an error.
type booted struct {
	guest   *guest
	stdio   *stdio
	network *network.Network // nil without NICs
	err     error
}

// end gives up what boot made.
func (b *booted) end() error {
	b.guest.end()
	b.stdio.close()
	if b.network == nil {
		return nil
	}
	return b.network.Close()
}

// ended is the end of a container's init, its output delivered.
type ended struct {
	status   int
	oomKills uint64
}

// run owns the state until the container's end. An error means that the
// container never came to be and everything is to be undone.
func (m *monitor) run(files []*os.File) error {
	c := &container{id: m.setup.ID, status: specs.StateCreating}
	m.containers[c.id] = c

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	steps := receive[Step](m.create)
	events := receive[holder.Event](m.holder)
	go m.acceptRequests()
	boots := make(chan booted, 1)
	go func() {
		b, err := m.boot(ctx, files)
		if err != nil {
			b = &booted{err: err}
		}
		boots <- *b
	}()
	// However boot ends, it has ended before anything is undone.
	booting := true
	m.undo.Push(func() error {
		cancel(errCreateGone)
		if booting {
			if b := <-boots; b.err == nil {
				return b.end()
			}
		}
		return nil
	})
	ends := make(chan ended, 1)
	var gone chan error
	for {
		// A container that ends before it is committed, killed while created,
		// is ended when create is through with it.
		var committed <-chan ended
		if m.create == nil {
			committed = ends
		}
		select {
		case s, ok := <-steps:
			if !ok && m.create != nil {
				return errCreateGone
			}
			if !ok {
				steps = nil
				continue
			}
			if err := m.step(c, s); err != nil {
				return err
			}
		case b := <-boots:
			booting = false
			if b.err != nil {
				return b.err
			}
			m.guest, c.stdio, gone = b.guest, b.stdio, b.guest.gone
			if b.network != nil {
				m.wiring = m.wire(b.network)
			}
			m.undo.Push(func() error {
				m.guest.end()
				c.stdio.close()
				m.wiring.close()
				return nil
			})
			go m.waitInit(c, ends)
			if err := m.create.Send(Step{Kind: StepReady}); err != nil {
				return errCreateGone
			}
		case e, ok := <-events:
			if !ok {
				if m.create != nil {
					return errHolderGone
				}
				m.log.Warn(errHolderGone)
				return m.finish(c, ended{status: killed})
			}
			m.holderEvent(c, e)
		case r := <-m.requests:
			if r.Op == OpDestroy {
				defer r.reply(Reply{})
				if m.create != nil {
					return errDestroyed
				}
				return m.finish(c, ended{status: killed})
			}
			m.handle(c, r)
		case f := <-m.results:
			f()
		case e := <-committed:
			return m.finish(c, e)
		case err := <-gone:
			gone <- err
			gone = nil
			if m.create != nil {
				return withConsole(err, m.guest.machine)
			}
			select {
			case e := <-ends: // it had ended in time
				return m.finish(c, e)
			default:
			}
			m.log.WithField("console", consoleTail(m.guest.machine.Console())).Warn("the machine has ended: ", err)
			return m.finish(c, ended{status: killed})
		}
	}
}

// step is one of create's.
func (m *monitor) step(c *container, s Step) error {
	switch s.Kind {
	case StepHolder:
		return m.holderRuns(s.Holder)
	case StepLimit:
		// Last, when booting no longer suffers from it.
		if err := m.cgroup.Limit(); err != nil {
			return err
		}
		return m.create.Send(Step{Kind: StepLimited})
	case StepCommit:
		c.status = specs.StateCreated
		if err := m.create.Send(Step{Kind: StepCommitted}); err != nil {
			return errCreateGone
		}
		m.undo.Keep()
		m.create = nil
		m.log.Debug("create is committed")
		for _, r := range m.waiting {
			r.reply(Reply{Status: c.status})
		}
		m.waiting = nil
		// The setup is done with; what is left is waiting.
		m.setup.Spec, m.setup.Plan.Guest = nil, nil
		debug.FreeOSMemory()
	}
	return nil
}

// waitInit waits for the end of init and of its output.
func (m *monitor) waitInit(c *container, ends chan<- ended) {
	r, err := m.guest.agent.Wait(context.Background(), &api.WaitRequest{Id: c.id})
	if err != nil {
		// The machine is gone, or the agent is not worth talking to.
		m.guest.machine.Kill()
		return
	}
	c.ending.Store(true)
	m.log.Debug("process has ended")
	c.stdio.ended()
	// Writes that the guest's kernel still holds reach the host first.
	ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	if _, err := m.guest.agent.Delete(ctx, &api.ContainerRequest{Id: c.id}); err != nil {
		m.log.Warn("delete in the guest: ", rpcError(err))
	}
	m.log.Debug("container is deleted in the guest")
	ends <- ended{int(r.Status & 0xff), r.OomKills}
}

// finish ends everything: first the machine, so that whoever sees the holder's
// end finds nothing left of it, then the holder with the status.
func (m *monitor) finish(c *container, e ended) error {
	c.status = specs.StateStopped
	m.listener.Close()
	if m.guest != nil {
		m.guest.end()
	}
	if c.stdio != nil {
		c.stdio.close()
	}
	m.log.Debug("machine is gone")
	m.wiring.close()
	if e.oomKills > 0 {
		m.outOfMemory()
	}
	if err := m.holderExit(e.status); err != nil {
		m.log.Error("end of the host process: ", err)
	}
	m.log.Debug("holder has ended")
	for _, r := range c.waiters {
		r.reply(Reply{OOMKills: e.oomKills})
	}
	return nil
}

// outOfMemory shows on the host that the guest was out of memory, as long as
// the container's client watches: until its holder ends.
func (m *monitor) outOfMemory() {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := m.cgroup.OutOfMemory(ctx); err != nil {
		m.log.Warn("the container's client will not hear that it was out of memory: ", err)
	}
}

// holderEvent passes on what happened to the holder.
func (m *monitor) holderEvent(c *container, e holder.Event) {
	if m.guest == nil {
		return
	}
	if e.Signal != 0 {
		m.signal(c, Request{Op: OpSignal, ID: c.id, Signal: e.Signal}, func(Reply) {})
		return
	}
	go m.guest.resize(c.id, "", e.Width, e.Height)
}

// receive turns a connection into a channel, closed at its end.
func receive[T any](c *control.Conn) <-chan T {
	ch := make(chan T)
	go func() {
		defer close(ch)
		for {
			var v T
			if _, err := c.Recv(&v); err != nil {
				return
			}
			ch <- v
		}
	}()
	return ch
}
