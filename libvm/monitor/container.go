//go:build linux

package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/holder"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/libvm/trace"
	"github.com/runm/runm/libvm/undo"
)

// killed is the status of a container whose machine ended under it.
const killed = 128 + int(unix.SIGKILL)

var (
	errCreateGone = errors.New("create was killed")
	errDestroyed  = errors.New("the container was deleted while it was being created")
	errHolderGone = errors.New("the container's host process was killed")
	// Another one's end can be the machine's, where this one is just being made.
	errMachineEnded = errors.New("the machine has ended with the last container that was in it")
)

// container is one of the machine's containers. Only the owner's goroutine
// touches what is not said to be otherwise.
type container struct {
	setup *Setup
	id    string
	log   *logrus.Logger
	trace *trace.Recorder // nil for none

	create   *control.Conn // nil once the container is committed
	holder   *control.Conn
	listener *net.UnixListener
	dir      store.Dir
	state    *store.State
	cgroup   hostCgroup
	undo     undo.Stack

	// making ends when the container is not wanted any more; its making, which
	// runs beside the owner, delivers once on made; nil before it has begun.
	making context.Context
	cancel context.CancelCauseFunc
	made   chan result

	status specs.ContainerState
	// ending: init has ended or was sent SIGKILL; its output and its files may
	// still be on the way. Set from any goroutine.
	ending atomic.Bool
	// over is closed when init has ended in the guest and was deleted there,
	// or the machine is gone.
	over chan struct{}
	// end is how init ended, nil before that. While the container is being
	// created the end waits for create to be through with it.
	end *ended
	// beforePause is the status that resume restores.
	beforePause specs.ContainerState
	stdio       *stdio // nil until made
	// copied gets the holder's answer to Order.Copy.
	copied chan string
	// pending are signals that came while the machine was paused.
	pending []Request
	// window is the terminal's latest size, until the guest is told of it. The
	// owner alone puts one in.
	window chan holder.Event
	// created, waiters and destroyers are requests: answered when create is
	// through, and at the container's end.
	created, waiters, destroyers []request
}

// result is what making a container came to.
type result struct {
	*made
	err error
}

// ended is the end of a container's init, its output delivered.
type ended struct {
	status   int
	oomKills uint64
}

func newContainer(s *Setup, create, hold *control.Conn, r *trace.Recorder) *container {
	c := &container{
		setup: s, id: s.ID, create: create, holder: hold, status: specs.StateCreating,
		trace: r,
		over:  make(chan struct{}), window: make(chan holder.Event, 1), copied: make(chan string, 1), log: logrus.New(),
	}
	c.making, c.cancel = context.WithCancelCause(trace.With(context.Background(), r, laneBoot))
	return c
}

// admit takes a container in and begins to make it by work, which takes files
// over.
func (m *monitor) admit(c *container, files []*os.File, work func() (*made, error)) {
	if m.containers[c.id] != nil {
		control.CloseAll(files)
		_ = c.create.Send(Step{Kind: StepFailed, Error: store.ErrExist.Error()})
		c.create.Close()
		c.holder.Close()
		return
	}
	m.containers[c.id] = c
	create := c.create
	if err := m.accept(c); err != nil {
		control.CloseAll(files)
		m.fail(c, err)
		return
	}
	forward(m, create, func(s Step) { m.step(c, s) }, func() {
		m.createEnds(c)
		// Not before: create would take it for the monitor's end.
		create.Close()
	})
	forward(m, c.holder, func(e holder.Event) { m.holderEvent(c, e) }, func() { m.holderEnds(c) })
	go m.listen(c.listener, c.id)
	c.made = make(chan result, 1)
	go func() {
		b, err := work()
		c.made <- result{b, err}
		m.results <- func() { m.ready(c) }
	}()
}

// accept takes the id: from here on the state directory is the container's.
func (m *monitor) accept(c *container) error {
	if m.ended {
		return errMachineEnded
	}
	defer c.trace.Begin(laneOwner, "id taken, state saved, cgroup prepared").End()
	dir, err := store.Create(c.setup.Root, c.id)
	if err != nil {
		return err
	}
	c.dir = dir
	c.undo.Push(dir.Remove)
	c.openLog()
	self, err := proc.Self()
	if err != nil {
		return err
	}
	c.state = &store.State{
		ID: c.id, Bundle: c.setup.Bundle, Rootfs: c.setup.Plan.Rootfs.Source,
		Created: time.Now().UTC(), Owner: c.setup.Owner, Spec: c.setup.Spec,
		Systemd: c.setup.Systemd, Monitor: self,
	}
	if err := m.share(c); err != nil {
		return err
	}
	if err := dir.Save(c.state); err != nil {
		return err
	}
	if c.listener, err = control.Listen(string(dir)); err != nil {
		return err
	}
	c.undo.Push(c.listener.Close)
	if m.first(c) {
		m.shareDir = store.ShareDir(filepath.Dir(string(dir)), self)
		if err := os.Mkdir(m.shareDir, 0o700); err != nil {
			return fmt.Errorf("staging directory: %w", err)
		}
		c.undo.Push(m.removeShare)
	}
	c.cgroup, err = m.cgroupOf(c.state)
	if err != nil {
		return err
	}
	c.log.Debug("monitor has accepted the container")
	return c.create.Send(Step{Kind: StepAccepted})
}

// share writes into the states whose the machine is: memory and overhead, and
// who does not have it alone.
func (m *monitor) share(c *container) error {
	if m.first(c) {
		m.log, m.payer = c.log, c
	}
	c.state.GuestMemoryBytes = int64(m.setup.Plan.Machine.MemoryMiB) << 20
	c.state.OverheadBytes = m.overhead(c, c.setup.Spec)
	if m.payer == c {
		return nil
	}
	c.state.Pod = true
	for _, other := range m.containers {
		if other == c || other.state.Pod {
			continue
		}
		other.state.Pod = true
		if err := other.dir.Save(other.state); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) openLog() {
	c.log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	if c.setup.Debug {
		c.log.SetLevel(logrus.DebugLevel)
	}
	f, err := os.OpenFile(filepath.Join(string(c.dir), store.LogFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		f, _ = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	c.log.SetOutput(f)
	// create may have had nowhere to say them.
	for _, w := range c.setup.Plan.Warnings {
		c.log.Warn(w)
	}
}

// step is one of create's.
func (m *monitor) step(c *container, s Step) {
	if c.create == nil || m.containers[c.id] != c {
		return
	}
	err := errMachineEnded
	if !m.ended {
		err = m.take(c, s)
	}
	if err != nil {
		m.fail(c, err)
	}
}

func (m *monitor) take(c *container, s Step) error {
	switch s.Kind {
	case StepHolder:
		return m.holderRuns(c, s.Holder)
	case StepLimit:
		defer c.trace.Begin(laneOwner, "limits").End()
		// Last, when booting no longer suffers from it.
		if err := c.cgroup.Limit(); err != nil {
			return err
		}
		return c.create.Send(Step{Kind: StepLimited})
	case StepCommit:
		if err := c.create.Send(Step{Kind: StepCommitted, Booted: m.first(c) && m.guest.booted}); err != nil {
			return errCreateGone
		}
		m.commit(c)
		if c.life() == nil && c.trace != nil {
			go func() {
				m.guest.collect(c.trace)
				c.trace.Close()
			}()
		}
	}
	return nil
}

// commit makes the container stay, whatever happens to create.
func (m *monitor) commit(c *container) {
	defer c.trace.Begin(laneOwner, "commit").End()
	c.undo.Keep()
	c.status, c.create = specs.StateCreated, nil
	c.log.Debug("create is committed")
	for _, r := range c.created {
		r.reply(Reply{Status: c.status})
	}
	c.created = nil
	// The setup is done with; what is left is waiting.
	c.setup.Spec, c.setup.Plan.Guest = nil, nil
	// Beside the owner: start is waiting.
	go debug.FreeOSMemory()
	if c.end != nil { // killed while it was created
		m.finish(c, *c.end)
	}
}

// holderRuns writes down who the holder is and puts it into the cgroup: in this
// order, for whoever cleans up after a monitor that is killed meanwhile.
func (m *monitor) holderRuns(c *container, id proc.ID) error {
	defer c.trace.Begin(laneOwner, "holder joins its cgroup").End()
	c.undo.Push(c.cgroup.Destroy)
	c.state.Holder, c.state.CgroupPaths = id, c.cgroup.Paths()
	c.undo.Push(c.endHolder)
	if m.first(c) {
		// The machine's taps need not wait for the cgroup.
		if err := m.findNamespace(id.Pid); err != nil {
			return err
		}
	}
	if err := c.dir.Save(c.state); err != nil {
		return err
	}
	if err := c.cgroup.Join(id.Pid); err != nil {
		return err
	}
	if err := errors.Join(m.scoreHolder(c), m.scoreMachine(c)); err != nil {
		return err
	}
	if m.first(c) {
		close(m.joined)
	}
	c.log.Debug("holder is in the cgroup")
	return c.create.Send(Step{Kind: StepJoined})
}

// ready is called when the making of a container has ended.
func (m *monitor) ready(c *container) {
	var r result
	select {
	case r = <-c.made:
	default:
		return // it was waited for already, and undone
	}
	if r.err != nil {
		c.made <- r // for endMaking
		m.fail(c, r.err)
		return
	}
	c.stdio = r.stdio
	if r.guest != nil {
		m.beginGuest(r.made)
	}
	go m.waitInit(c)
	go m.followWindow(c)
	if err := c.create.Send(Step{Kind: StepReady}); err != nil {
		m.fail(c, errCreateGone)
	}
}

// fail undoes a container that never came to be and then tells create why, so
// that when create's user reads the error nothing is left on the host.
func (m *monitor) fail(c *container, cause error) {
	if err := errors.Join(m.endMaking(c), c.undo.Run()); err != nil {
		cause = fmt.Errorf("%w (and while cleaning up: %w)", cause, err)
	}
	m.forget(c)
	_ = c.create.Send(Step{Kind: StepFailed, Error: cause.Error()})
	c.create.Close()
	// Who waits for it to be created sees that there is none, as of a monitor
	// that has ended.
	for _, r := range c.created {
		r.trace.Close()
		r.conn.Close()
	}
	for _, r := range c.destroyers {
		r.reply(Reply{})
	}
	m.failed = m.failed || m.first(c)
}

// endMaking ends the container's making and takes away what it made: the cgroup
// and the holder come after. What the guest of a pod still has to do for that it
// does beside the owner.
func (m *monitor) endMaking(c *container) error {
	c.cancel(errCreateGone)
	switch {
	case c.stdio != nil:
		return m.unmake(c)
	case c.made == nil:
		return nil
	}
	r := <-c.made
	switch {
	case r.err != nil && m.first(c):
		return nil // its whole staging directory goes
	case r.err != nil:
		return m.unstage(c)
	case r.guest != nil:
		return r.end()
	default:
		c.stdio = r.stdio
		go m.waitInit(c)
		return m.unmake(c)
	}
}

// unmake takes a container away that was made and not committed. A first
// container's machine goes with it: nobody can have joined it.
func (m *monitor) unmake(c *container) error {
	if m.first(c) {
		m.endMachine()
		c.stdio.close()
		return nil
	}
	m.kill(c)
	m.guest.leaving.begin(c.id, func() { <-c.over })
	c.stdio.close()
	return m.unstage(c)
}

// kill has the guest kill all of a container's processes.
func (m *monitor) kill(c *container) {
	m.beside(func(ctx context.Context) {
		err := m.awake(ctx, func() error {
			_, err := m.guest.agent.Signal(ctx, &api.SignalRequest{Id: c.id, Signal: uint32(unix.SIGKILL), All: true})
			return rpcError(err)
		})
		if err != nil {
			c.log.Debug("kill in the guest: ", err)
		}
	})
}

const (
	// killLimit is how long a container may take to end after a SIGKILL: its
	// memory may be large, the host slow, and what it had written on the way to
	// the host. Half of it is the output's, whose reader may be slow.
	killLimit = time.Minute
	// destroyLimit is the same for one that is to be gone, whatever it loses.
	destroyLimit = rpcTimeout
)

// mustEnd follows a SIGKILL: a guest in which the container is not over after
// limit is ended, with all that it runs.
func (m *monitor) mustEnd(c *container, limit time.Duration) {
	select {
	case <-c.over:
	case <-time.After(limit):
		c.log.Warnf("the guest has not ended the container for %v after SIGKILL, so the machine is ended", limit)
		m.guest.machine.Kill()
	}
}

// unstage takes the container's files out of a machine that goes on.
func (m *monitor) unstage(c *container) error {
	if m.ended {
		return nil
	}
	var errs []error
	for _, b := range c.setup.Plan.Files() {
		errs = append(errs, m.staging.Detach(b))
	}
	return errors.Join(errs...)
}

// waitInit waits for the end of init and of its output.
func (m *monitor) waitInit(c *container) {
	defer close(c.over)
	traced := trace.With(context.Background(), c.life(), laneWait)
	r, err := m.guest.agent.Wait(traced, &api.WaitRequest{Id: c.id})
	if err != nil {
		// The machine is gone, or the agent is not worth talking to.
		m.guest.machine.Kill()
		return
	}
	c.ending.Store(true)
	c.log.Debug("process has ended")
	output := trace.Begin(traced, "output delivered")
	c.stdio.ended()
	output.End()
	// Writes that the guest's kernel still holds reach the host first.
	ctx, cancel := context.WithTimeout(traced, rpcTimeout)
	defer cancel()
	if _, err := m.guest.agent.Delete(ctx, &api.ContainerRequest{Id: c.id}); err != nil {
		c.log.Warn("delete in the guest: ", rpcError(err))
	}
	c.log.Debug("container is deleted in the guest")
	m.guest.collect(c.life())
	e := ended{int(r.Status & 0xff), r.OomKills}
	m.results <- func() {
		c.end = &e
		if c.create == nil {
			m.finish(c, e)
		}
	}
}

// finish ends a container: first the machine, if nobody else is in it, so that
// whoever sees the holder's end finds nothing left of it, then the holder with
// the status.
func (m *monitor) finish(c *container, e ended) {
	if m.containers[c.id] != c {
		return
	}
	c.status = specs.StateStopped
	c.listener.Close()
	heir := m.heir()
	paid := m.payer == c && heir != nil
	span := c.life().Begin(laneOwner, "machine ended")
	switch {
	case m.last(c), m.payer == c && !paid:
		// Those that are just being created fail with it.
		m.endMachine()
		c.log.Debug("machine is gone")
	case paid:
		if err := m.moveMachine(heir); err != nil {
			c.log.Error("move the machine to another container's cgroup: ", err)
		}
	}
	span.End()
	span = c.life().Begin(laneOwner, "files given back")
	c.stdio.close()
	if err := m.unstage(c); err != nil {
		c.log.Error(err)
	}
	span.End()
	span = c.life().Begin(laneOwner, "holder ended")
	if e.oomKills > 0 {
		c.outOfMemory(paid)
	}
	if err := c.holderExit(e.status); err != nil {
		c.log.Error("end of the host process: ", err)
	}
	span.End()
	c.log.Debug("holder has ended")
	m.forget(c)
	for _, r := range append(c.waiters, c.destroyers...) {
		r.reply(Reply{OOMKills: e.oomKills})
	}
}

// forget is the last that the monitor knows of a container.
func (m *monitor) forget(c *container) {
	c.holder.Close()
	c.trace.Close()
	delete(m.containers, c.id)
	if err := m.scoreMachine(c); err != nil {
		c.log.Error(err)
	}
}

// destroy ends a container at once; r is answered when it is gone.
func (m *monitor) destroy(c *container, r *request) {
	if r != nil {
		c.destroyers = append(c.destroyers, *r)
	}
	switch {
	case c.create != nil:
		m.fail(c, errDestroyed)
	case m.last(c):
		m.finish(c, ended{status: killed})
	default:
		c.ending.Store(true)
		// Its end comes as any other's.
		m.kill(c)
		go c.stdio.giveUp(destroyLimit / 2)
		go m.mustEnd(c, destroyLimit)
	}
}

// createEnds is the end of create's connection.
func (m *monitor) createEnds(c *container) {
	if c.create != nil && m.containers[c.id] == c {
		m.fail(c, errCreateGone)
	}
}

// holderEnds is the end of the holder's connection.
func (m *monitor) holderEnds(c *container) {
	switch {
	case m.containers[c.id] != c || c.status == specs.StateStopped:
	case c.create != nil:
		m.fail(c, errHolderGone)
	default:
		c.log.Warn(errHolderGone)
		m.destroy(c, nil)
	}
}

// endHolder ends the holder of a container that never came to be.
func (c *container) endHolder() error {
	c.holder.Close()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := c.state.Holder.Wait(ctx); err != nil {
		return c.state.Holder.Kill(grace)
	}
	return nil
}

// holderExit is the holder's end with the container's status.
func (c *container) holderExit(status int) error {
	err := c.holder.Send(holder.Order{Status: status})
	if err != nil && !c.state.Holder.Alive() {
		err = nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if werr := c.state.Holder.Wait(ctx); werr != nil {
		err = errors.Join(err, c.state.Holder.Kill(grace))
	}
	return err
}

// holderEvent passes on what happened to the holder.
func (m *monitor) holderEvent(c *container, e holder.Event) {
	switch {
	case m.containers[c.id] != c:
	case e.Copied:
		c.copied <- e.Error
	case e.Signal == 0:
		// The last one counts, also when it comes before the process is made.
		select {
		case <-c.window:
		default:
		}
		c.window <- e
	case c.stdio != nil:
		m.signal(c, Request{Op: OpSignal, ID: c.id, Signal: e.Signal}, func(Reply) {})
	}
}

// followWindow tells the guest the terminal's sizes, one after another, until
// the container's end.
func (m *monitor) followWindow(c *container) {
	for {
		select {
		case e := <-c.window:
			m.guest.resize(c.id, "", e.Width, e.Height)
		case <-c.over:
			return
		}
	}
}

// forward hands what comes on a connection to the owner, and then its end.
func forward[T any](m *monitor, from *control.Conn, each func(T), end func()) {
	go func() {
		for {
			var v T
			if _, err := from.Recv(&v); err != nil {
				m.results <- end
				return
			}
			m.results <- func() { each(v) }
		}
	}()
}
