//go:build linux

package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/plan"
	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/libvm/trace"
)

// request is a Request with where the answer goes. reply may be called from
// any goroutine, once; the connection is closed after it, but for an exec's.
type request struct {
	Request
	conn  *control.Conn
	files []*os.File
	// trace gets the request's spans, from began on, and with them the guest's;
	// nil for none.
	trace *trace.Recorder
	began int64
	guest *guest
	// lasting: trace is the container's and goes on.
	lasting bool
}

func (r *request) reply(a Reply) {
	answered := trace.Now() // before the next request can begin
	if err := r.conn.Send(a); err != nil {
		// It may be too long; a client that has gone reads neither.
		_ = r.conn.Send(Reply{Error: "answer: " + err.Error()})
	}
	r.conn.Close()
	control.CloseAll(r.files)
	r.traced(answered)
}

// traced ends the request's trace, if it has one, after which its command need
// not wait any longer.
func (r *request) traced(answered int64) {
	to, g := r.trace, r.guest
	r.trace = nil
	to.Add("request", string(r.Op), r.began, answered)
	if to == nil || r.lasting {
		return
	}
	go func() {
		if g != nil {
			g.collect(to)
		}
		to.Close()
	}()
}

// context is ctx with the request's trace.
func (r *request) context(ctx context.Context) context.Context {
	return trace.With(ctx, r.trace, string(r.Op))
}

func failure(err error) Reply {
	a := Reply{Error: err.Error()}
	if errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, yamux.ErrSessionShutdown) {
		// The machine is ending, and the container with it.
		return Reply{Error: "container not running", Code: CodeEnded}
	}
	if errors.Is(err, errStands) {
		a.Code = CodePaused
	}
	var e *agentError
	if errors.As(err, &e) {
		switch e.code {
		case codes.NotFound:
			a.Code = CodeGone
		case codes.FailedPrecondition:
			a.Code = CodeNotRunning
		}
	}
	return a
}

// handle answers what needs no time, and starts what does. It runs on the
// owner's goroutine.
func (m *monitor) handle(r request) {
	c := m.containers[r.ID]
	r.guest = m.guest
	if c != nil && r.trace != nil && c.life() != nil {
		r.trace.Close()
		r.trace, r.lasting = c.life(), true
	}
	switch {
	case c == nil: // it has just ended: as if nobody listened any more
		r.trace.Close()
		r.conn.Close()
		control.CloseAll(r.files)
		return
	case r.Op == OpDestroy:
		m.destroy(c, &r)
		return
	case r.Op == OpCreated && c.create != nil:
		c.created = append(c.created, r)
		return
	case r.Op != OpStatus && r.Op != OpPids && c.create != nil:
		r.reply(Reply{Error: "container is still being created", Code: CodeNotRunning})
		return
	}
	switch r.Op {
	case OpStatus, OpCreated:
		r.reply(Reply{Status: c.status, Ending: c.ending.Load()})
	case OpPids:
		m.pids(c, r)
	case OpStart:
		m.start(c, r)
	case OpSignal:
		m.signal(c, r.Request, r.reply)
	case OpExec:
		m.exec(c, r)
	case OpPause:
		m.pause(c, r)
	case OpResume:
		m.resume(c, r)
	case OpProcesses, OpStats, OpUpdate:
		m.query(c, r)
	case OpWait:
		m.wait(c, r)
	case OpJoin:
		m.joinRequest(r)
	default:
		r.reply(Reply{Error: fmt.Sprintf("unknown operation %q", r.Op)})
	}
}

// beside runs f, which may take time, next to the owner.
func (m *monitor) beside(f func(ctx context.Context)) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
		defer cancel()
		f(ctx)
	}()
}

// wait keeps the request until the end; its connection closes when the client
// goes before that.
func (m *monitor) wait(c *container, r request) {
	c.waiters = append(c.waiters, r)
	go func() {
		var nothing struct{}
		_, _ = r.conn.Recv(&nothing)
		r.conn.Close()
	}()
}

func (m *monitor) start(c *container, r request) {
	if c.status != specs.StateCreated {
		r.reply(Reply{Error: "cannot start a container in the " + string(c.status) + " state", Code: CodeNotRunning})
		return
	}
	// From here on a second start is refused.
	c.status = specs.StateRunning
	var hooks *specs.Hooks
	if c.state.Spec != nil {
		hooks = c.state.Spec.Hooks
	}
	m.beside(func(ctx context.Context) {
		err := m.beforeStart(r.context(ctx))
		if err == nil {
			err = m.guest.start(r.context(context.Background()), c.id, hooks)
		}
		m.results <- func() {
			switch {
			case err == nil:
				c.log.Debug("container is started")
				r.reply(Reply{})
				return
			case !errors.Is(err, errMayRun):
				c.status = specs.StateCreated
			}
			r.reply(failure(rpcError(err)))
		}
	})
}

// beforeStart is what create left to be done, or what has changed since.
func (m *monitor) beforeStart(ctx context.Context) error {
	// Docker adds interfaces between create and start.
	network := trace.Begin(ctx, "network")
	err := m.wiring.await(ctx)
	network.End()
	if err != nil {
		return err
	}
	defer trace.Begin(ctx, "clock").End()
	return m.guest.followClock(ctx)
}

// errMayRun: the guest was told to start a container, and has not said what came
// of it.
var errMayRun = errors.New("start: the guest has not answered in time, the process may run: delete the container with --force")

// start has the guest run the startContainer hooks, and then the program. ctx
// carries a trace and no deadline.
func (g *guest) start(ctx context.Context, id string, hooks *specs.Hooks) error {
	ctx, cancel := startContext(ctx, hooks)
	defer cancel()
	_, err := g.agent.Start(ctx, &api.StartRequest{Id: id})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", errMayRun, err)
	}
	return err
}

// startContext bounds Start: by the timeouts of the startContainer hooks, and by
// nothing where one has none.
func startContext(ctx context.Context, hooks *specs.Hooks) (context.Context, context.CancelFunc) {
	limit := rpcTimeout
	if hooks != nil {
		for _, h := range hooks.StartContainer {
			if h.Timeout == nil {
				return context.WithCancel(ctx)
			}
			limit += time.Duration(*h.Timeout) * time.Second
		}
	}
	return context.WithTimeout(ctx, limit)
}

// joinRequest takes another container in. The request carries the ends of its
// connections to its create and its holder, and its files for input and output;
// what create has to say comes on its connection.
func (m *monitor) joinRequest(r request) {
	files := r.files
	r.files = nil
	if len(files) != 2+1 && len(files) != 2+3 {
		control.CloseAll(files)
		r.reply(Reply{Error: "join: two connections and a process's files are needed"})
		return
	}
	for _, c := range m.containers {
		if c.status == statePaused {
			control.CloseAll(files)
			r.reply(Reply{Error: fmt.Sprintf("container %q, whose machine it is, is paused: resume it first", c.id)})
			return
		}
	}
	create, err := control.NewConn(files[0])
	if err != nil {
		control.CloseAll(files[1:])
		r.reply(failure(err))
		return
	}
	hold, err := control.NewConn(files[1])
	if err != nil {
		create.Close()
		control.CloseAll(files[2:])
		r.reply(failure(err))
		return
	}
	r.reply(Reply{})
	go func() {
		var s Setup
		_ = create.SetDeadline(time.Now().Add(rpcTimeout))
		trees, err := create.Recv(&s)
		recorder, trees := s.Trace.recorder(trees)
		_ = create.SetDeadline(time.Time{})
		if err != nil {
			create.Close()
			hold.Close()
			control.CloseAll(files[2:])
			return
		}
		m.results <- func() {
			c := newContainer(&s, create, hold, recorder)
			m.admit(c, slices.Concat(files[2:], trees), func() (*made, error) { return m.join(c, files[2:], trees) })
		}
	}()
}

func (m *monitor) signal(c *container, r Request, reply func(Reply)) {
	if r.Signal < 0 || r.Signal > 64 {
		reply(Reply{Error: "invalid signal " + strconv.Itoa(r.Signal)})
		return
	}
	if r.Signal == int(unix.SIGKILL) {
		go m.mustEnd(c, killLimit)
	}
	if c.status == statePaused {
		// As a frozen process has it: delivered when it thaws. SIGKILL
		// thaws it.
		if r.Signal != 0 {
			c.pending = append(c.pending, r)
		}
		if r.Signal == int(unix.SIGKILL) {
			c.ending.Store(true)
			m.thaw(c, reply)
			return
		}
		reply(Reply{})
		return
	}
	m.deliver(c, r, reply)
}

// deliver has the guest send a signal.
func (m *monitor) deliver(c *container, r Request, reply func(Reply)) {
	if r.Signal == int(unix.SIGKILL) {
		go c.stdio.giveUp(killLimit / 2)
	}
	m.beside(func(ctx context.Context) {
		_, err := m.guest.agent.Signal(ctx, &api.SignalRequest{Id: c.id, Signal: uint32(r.Signal), All: r.All})
		if errors.Is(err, context.DeadlineExceeded) && r.Signal == int(unix.SIGKILL) {
			err = fmt.Errorf("the guest has not answered for %v; if the container is not over %v after the signal, its machine is ended", rpcTimeout, killLimit)
		}
		if err != nil {
			reply(failure(rpcError(err)))
			return
		}
		if r.Signal == int(unix.SIGKILL) {
			c.ending.Store(true)
		}
		reply(Reply{})
	})
}

// pids are the host's processes of the container.
func (m *monitor) pids(c *container, r request) {
	pids, err := c.cgroup.Pids()
	if err != nil {
		r.reply(failure(err))
		return
	}
	r.reply(Reply{Pids: pids})
}

// query asks the agent, of a paused container too.
func (m *monitor) query(c *container, r request) {
	switch c.status {
	case statePaused, specs.StateRunning, specs.StateCreated:
	default:
		r.reply(Reply{Error: "container not running", Code: CodeNotRunning})
		return
	}
	if r.Op == OpUpdate {
		m.update(c, r)
		return
	}
	m.beside(func(ctx context.Context) {
		var a Reply
		err := m.awake(ctx, func() (err error) {
			a, err = m.guest.ask(ctx, r.Op, c.id)
			return err
		})
		if err != nil {
			a = failure(err)
		}
		r.reply(a)
	})
}

func (g *guest) ask(ctx context.Context, op Op, id string) (Reply, error) {
	if op == OpStats {
		s, err := g.agent.Stats(ctx, &api.ContainerRequest{Id: id})
		if err != nil {
			return Reply{}, rpcError(err)
		}
		if len(s.Stats) > maxStats {
			return Reply{}, fmt.Errorf("%w: %d bytes of counters, want at most %d", errAnswer, len(s.Stats), maxStats)
		}
		if !json.Valid(s.Stats) {
			return Reply{}, errors.New("the guest's counters are not JSON")
		}
		return Reply{Stats: s.Stats, OOMKills: s.OomKills}, nil
	}
	ps, err := g.agent.Processes(ctx, &api.ContainerRequest{Id: id})
	if err != nil {
		return Reply{}, rpcError(err)
	}
	var a Reply
	for _, p := range ps.Processes {
		a.Table = append(a.Table, Process{
			PID: p.Pid, PPID: p.Ppid, UID: p.Uid, Started: p.StartUnix, CPUMillis: p.CpuMs,
			TTY: clean(p.Tty), Command: clean(p.Command),
		})
	}
	return a, nil
}

// update sets limits in the guest, then on the host. r.Resources is the whole
// of the container's resources as they are to be.
func (m *monitor) update(c *container, r request) {
	// One that is in force and not changed was accepted, with a warning.
	limit := plan.MemoryLimit(r.Resources.Memory)
	if limit > c.state.GuestMemoryBytes && limit != memoryLimit(c.state.Spec) {
		r.reply(failure(fmt.Errorf("memory limit of %d bytes: the machine has %d; its memory cannot grow, create the container with the limit it needs",
			limit, c.state.GuestMemoryBytes)))
		return
	}
	resources, err := json.Marshal(plan.GuestResources(r.Resources))
	if err == nil {
		// What the host would refuse the guest need not hear of.
		_, _, err = m.withResources(c, r.Resources)
	}
	if err != nil {
		r.reply(failure(err))
		return
	}
	m.beside(func(ctx context.Context) {
		err := m.awake(ctx, func() error {
			_, err := m.guest.agent.Update(ctx, &api.UpdateRequest{Id: c.id, Resources: resources})
			return rpcError(err)
		})
		m.results <- func() {
			if m.containers[c.id] != c {
				r.reply(Reply{Error: "container not running", Code: CodeEnded})
				return
			}
			if err == nil {
				err = m.setResources(c, r.Resources)
			}
			if err != nil {
				r.reply(failure(err))
				return
			}
			r.reply(Reply{})
		}
	})
}

// setResources is the host's part of update. It runs on the owner's goroutine:
// meanwhile the container may have come to be in a pod, or to pay for its machine.
func (m *monitor) setResources(c *container, r *specs.LinuxResources) error {
	state, cg, err := m.withResources(c, r)
	if err != nil {
		return err
	}
	if err := cg.Limit(); err != nil {
		return err
	}
	c.state, c.cgroup = state, cg
	return c.dir.Save(state)
}

// withResources is what state and cgroup of a container are with r.
func (m *monitor) withResources(c *container, r *specs.LinuxResources) (*store.State, hostCgroup, error) {
	state, spec, linux := *c.state, *c.state.Spec, specs.Linux{}
	if spec.Linux != nil {
		linux = *spec.Linux
	}
	linux.Resources = r
	spec.Linux, state.Spec = &linux, &spec
	// The guest keeps the memory that it has, however small the limit becomes.
	state.OverheadBytes = m.overhead(c, &spec)
	cg, err := m.cgroupOf(&state)
	return &state, cg, err
}

func (g *guest) resize(id, exec string, width, height uint16) {
	ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	// A process that is gone has no window.
	_, _ = g.agent.Resize(ctx, &api.ResizeRequest{Id: id, ExecId: exec, Width: uint32(width), Height: uint32(height)})
}
