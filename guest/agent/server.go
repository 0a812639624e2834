//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runc/libcontainer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runm/runm/guest/agent/internal/mux"
	"github.com/runm/runm/guest/api"
)

// server is the agent's side of the protocol.
type server struct {
	rpc          *ttrpc.Server
	streams      *streams
	reap         *reaper
	shm          *shms
	spare        spare
	filters      *deviceFilters
	spareCgroups spareCgroups
	debug        atomic.Bool
	traces       traces
	boot         *recorder // what was done before anybody called

	about    *api.HelloResponse // the same for every Hello
	resolver resolver

	hello sync.Mutex // one Hello at a time
	share share

	mu         sync.Mutex
	containers map[string]*container // nil while it is created
}

var _ api.AgentService = (*server)(nil)

func newServer(nics []*api.NIC) (*server, error) {
	s := &server{streams: newStreams(), reap: newReaper(), shm: newShms(api.ShmDir), filters: newDeviceFilters(), containers: map[string]*container{}}
	s.spare.reap, s.spareCgroups.filters = s.reap, s.filters
	var err error
	if s.about, err = describe(nics); err != nil {
		return nil, err
	}
	if s.rpc, err = ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(s.intercept)); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	api.RegisterAgentService(s.rpc, s)
	go s.reap.run()
	return s, nil
}

// serve answers the host until the session is lost.
func (s *server) serve(session *mux.Session) error {
	first, err := session.Accept()
	if err != nil {
		return fmt.Errorf("%w: %w", errSessionLost, err)
	}
	lost := make(chan error, 1)
	go func() { lost <- s.rpc.Serve(context.Background(), newOneConn(first, lost)) }()
	go func() { lost <- s.accept(session) }()
	return <-lost
}

// accept collects stdio streams until the session is lost.
func (s *server) accept(session *mux.Session) error {
	for {
		st, err := session.Accept()
		if err != nil {
			return fmt.Errorf("%w: %w", errSessionLost, err)
		}
		s.streams.put(st)
	}
}

// oneConn is a listener that has one connection and reports its end.
type oneConn struct {
	conn net.Conn
	once sync.Once
	next chan net.Conn
	lost chan<- error
}

func newOneConn(conn net.Conn, lost chan<- error) *oneConn {
	l := &oneConn{conn: conn, next: make(chan net.Conn, 1), lost: lost}
	l.next <- &watchedConn{Conn: conn, closed: l.end}
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.next
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *oneConn) end() {
	l.once.Do(func() {
		select {
		case l.lost <- errSessionLost:
		default: // somebody was first
		}
		close(l.next)
	})
}

func (l *oneConn) Close() error   { l.end(); return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

type watchedConn struct {
	net.Conn
	closed func()
}

func (c *watchedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// intercept logs, turns a panic into an error, and gives errors their code.
func (s *server) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			logf("%s: panic: %v\n%s", info.FullMethod, r, debug.Stack())
			resp, err = nil, status.Errorf(codes.Internal, "agent: %s: %v", info.FullMethod, r)
		}
	}()
	ctx, end := s.traces.record(ctx)
	defer end()
	resp, err = method(ctx, unmarshal)
	if s.debug.Load() {
		logf("%s: %v", info.FullMethod, err)
	}
	if err != nil {
		return nil, status.Error(code(err), err.Error())
	}
	return resp, nil
}

// code classifies an error; its text is what users see.
func code(err error) codes.Code {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(errFinished, errNoContainer, errNoProcess):
		return codes.NotFound
	case is(libcontainer.ErrExist, errProcessExists):
		return codes.AlreadyExists
	case is(errExecStopped, errExecPaused, libcontainer.ErrNotRunning, libcontainer.ErrNotPaused,
		libcontainer.ErrPaused, libcontainer.ErrRunning, errNoTerminal, errVersion, errShareBusy):
		return codes.FailedPrecondition
	case is(errID, libcontainer.ErrInvalidID, errRootfs, errProcess, errEntropy, errShareType, errNamespace, errShm, errAddress):
		return codes.InvalidArgument
	case is(context.DeadlineExceeded):
		return codes.DeadlineExceeded
	default:
		return codes.Unknown
	}
}

func (s *server) Hello(ctx context.Context, req *api.HelloRequest) (*api.HelloResponse, error) {
	s.hello.Lock()
	defer s.hello.Unlock()
	if err := checkVersion(req.GetVersion()); err != nil {
		return nil, err
	}
	s.debug.Store(req.GetDebug())
	booted(ctx, s.boot)
	end := span(ctx, "clock")
	if err := setClock(req.GetUnixNano()); err != nil {
		return nil, err
	}
	end()
	end = span(ctx, "entropy")
	if err := addEntropy(req.GetEntropy()); err != nil {
		return nil, err
	}
	end()
	end = span(ctx, "share mounted")
	if err := s.share.mount(req.GetShareType(), req.GetShareTag()); err != nil {
		return nil, err
	}
	end()
	return s.about, nil
}

func (s *server) Create(ctx context.Context, req *api.CreateRequest) (*api.CreateResponse, error) {
	end := span(ctx, "streams")
	st, err := s.streams.claim(ctx, req.GetStdio())
	end()
	if err != nil {
		return nil, err
	}
	c, err := s.create(ctx, st, req)
	if err != nil {
		st.close()
		return nil, err
	}
	init, err := c.proc("")
	if err != nil {
		return nil, err
	}
	return &api.CreateResponse{Pid: uint32(init.pid)}, nil
}

// create makes the container and enters it under its id.
func (s *server) create(ctx context.Context, st *stdioStreams, req *api.CreateRequest) (c *container, err error) {
	id := req.GetId()
	if err := checkID(id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	if _, ok := s.containers[id]; ok {
		s.mu.Unlock()
		return nil, libcontainer.ErrExist
	}
	s.containers[id] = nil
	s.mu.Unlock()
	defer func() { // also after a panic
		s.mu.Lock()
		defer s.mu.Unlock()
		if c == nil {
			delete(s.containers, id)
		} else {
			s.containers[id] = c
		}
	}()
	return s.newContainer(ctx, st, req)
}

// container returns a created container.
func (s *server) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		return nil, errNoContainer
	}
	return c, nil
}

func (s *server) Start(ctx context.Context, req *api.StartRequest) (*api.Empty, error) {
	return s.do(req.GetId(), func(c *container) error { return c.start(ctx) })
}

func (s *server) Exec(ctx context.Context, req *api.ExecRequest) (*api.ExecResponse, error) {
	st, err := s.streams.claim(ctx, req.GetStdio())
	if err != nil {
		return nil, err
	}
	p, err := s.exec(ctx, st, req)
	if err != nil {
		st.close()
		return nil, err
	}
	return &api.ExecResponse{Pid: uint32(p.pid)}, nil
}

func (s *server) exec(ctx context.Context, st *stdioStreams, req *api.ExecRequest) (*proc, error) {
	c, err := s.container(req.GetId())
	if err != nil {
		return nil, err
	}
	return c.exec(ctx, st, req)
}

func (s *server) Wait(ctx context.Context, req *api.WaitRequest) (*api.WaitResponse, error) {
	c, err := s.container(req.GetId())
	if err != nil {
		return nil, err
	}
	p, err := c.proc(req.GetExecId())
	if err != nil {
		return nil, err
	}
	select {
	case <-p.sent:
		return &api.WaitResponse{
			Status: p.status, OomKills: c.oomKills(),
			StdoutBytes: p.io.flushed(p.io.want.GetStdout()), StderrBytes: p.io.flushed(p.io.want.GetStderr()),
		}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *server) Signal(_ context.Context, req *api.SignalRequest) (*api.Empty, error) {
	sig := syscall.Signal(req.GetSignal())
	return s.do(req.GetId(), func(c *container) error {
		if req.GetAll() {
			return c.signalAll(sig)
		}
		return c.signal(req.GetExecId(), sig)
	})
}

func (s *server) Resize(_ context.Context, req *api.ResizeRequest) (*api.Empty, error) {
	return s.do(req.GetId(), func(c *container) error {
		p, err := c.proc(req.GetExecId())
		if err != nil {
			return err
		}
		return p.io.resize(req.GetWidth(), req.GetHeight())
	})
}

func (s *server) Pause(_ context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return s.do(req.GetId(), func(c *container) error { return c.lc.Pause() })
}

func (s *server) Resume(_ context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return s.do(req.GetId(), func(c *container) error { return c.lc.Resume() })
}

func (s *server) Processes(_ context.Context, req *api.ContainerRequest) (*api.ProcessesResponse, error) {
	c, err := s.container(req.GetId())
	if err != nil {
		return nil, err
	}
	pids, err := c.lc.Processes()
	if err != nil {
		return nil, err
	}
	return &api.ProcessesResponse{Processes: processes(pids)}, nil
}

func (s *server) Stats(_ context.Context, req *api.ContainerRequest) (*api.StatsResponse, error) {
	c, err := s.container(req.GetId())
	if err != nil {
		return nil, err
	}
	counters, err := c.lc.Stats()
	if err != nil {
		return nil, err
	}
	if counters.Interfaces, err = interfaceCounters(); err != nil {
		return nil, err
	}
	encoded, err := encodeStats(counters)
	if err != nil {
		return nil, err
	}
	return &api.StatsResponse{Stats: encoded, OomKills: c.oomKills()}, nil
}

func (s *server) Update(_ context.Context, req *api.UpdateRequest) (*api.Empty, error) {
	return s.do(req.GetId(), func(c *container) error { return c.update(req.GetResources()) })
}

func (s *server) SetClock(_ context.Context, req *api.SetClockRequest) (*api.SetClockResponse, error) {
	if err := moveClock(time.Duration(req.GetStepNano()), req.GetSlew()); err != nil {
		return nil, err
	}
	return &api.SetClockResponse{UnixNano: time.Now().UnixNano()}, nil
}

func (s *server) Delete(_ context.Context, req *api.ContainerRequest) (*api.Empty, error) {
	return s.do(req.GetId(), func(c *container) error {
		if err := c.delete(); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.containers, c.id)
		return nil
	})
}

// do calls f with the container called id.
func (s *server) do(id string, f func(*container) error) (*api.Empty, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	if err := f(c); err != nil {
		return nil, err
	}
	return &api.Empty{}, nil
}
