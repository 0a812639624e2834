//go:build linux

package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/plan"
	"github.com/runm/runm/libvm/trace"
)

// exec starts one more process. Its connection stays: the stub sends what
// happens to it, and gets the end. When the stub is killed, so is the process.
func (m *monitor) exec(c *container, r request) {
	switch {
	case c.status == statePaused && !r.IgnorePaused:
		r.reply(Reply{Error: "cannot exec in a paused container (use --ignore-paused to override)", Code: CodePaused})
		return
	case c.status == statePaused:
		r.reply(failure(errStands))
		return
	case c.status != specs.StateRunning && c.status != specs.StateCreated:
		r.reply(Reply{Error: "cannot exec in a stopped container", Code: CodeNotRunning})
		return
	case r.Process == nil || len(r.files) != stdioFiles(r.Process.Terminal):
		r.reply(Reply{Error: "exec: a process and its files are needed"})
		return
	}
	for _, w := range r.Warnings {
		c.log.Warn("exec: ", w)
	}
	id := "exec-" + strconv.FormatInt(m.execs.Add(1), 10)
	go func() {
		if err := m.runExec(c.id, id, &r, c.log); err != nil {
			a := failure(err)
			if a.Code == CodeNotRunning {
				c.ending.Store(true) // the guest knows before we do
			}
			r.reply(a)
		}
	}()
}

func stdioFiles(terminal bool) int {
	if terminal {
		return 1
	}
	return 3
}

// runExec runs the process to its end. An error means that it was not started.
func (m *monitor) runExec(container, id string, r *request, log *logrus.Logger) error {
	g := m.guest
	p, err := plan.GuestProcess(r.Process)
	if err != nil {
		return err
	}
	process, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode the process: %w", err)
	}
	files := r.files
	r.files = nil // stdio's from here on
	opening, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	io, err := newStdio(opening, g, files, p.Terminal, log)
	cancel()
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	defer io.close()
	io.run()
	err = m.vcpus.running(func() error {
		return g.startExec(r.context(context.Background()), &api.ExecRequest{
			Id: container, ExecId: id, Process: process, Stdio: io.api, Cgroup: r.Cgroup,
		})
	})
	if err != nil {
		return err
	}
	defer func() { r.traced(trace.Now()) }()
	defer r.conn.Close()
	began := trace.Now()
	if err := r.conn.Send(Reply{}); err != nil {
		go g.killExec(container, id)
		return nil
	}
	if r.Trace != nil && !r.Trace.ToEnd {
		r.traced(began)
	}
	traced, leave := context.WithCancel(r.context(context.Background()))
	defer leave()
	var over atomic.Bool
	go func() {
		g.execEvents(container, id, r)
		if !over.Load() { // the stub has gone
			go g.killExec(container, id)
			io.giveUp(killLimit / 2)
			leave()
		}
	}()
	end, err := g.agent.Wait(traced, &api.WaitRequest{Id: container, ExecId: id})
	if err != nil {
		return nil // the machine or the stub is gone, which sees its connection end
	}
	output := trace.Begin(traced, "output delivered")
	io.drained(end)
	over.Store(true)
	output.End()
	answered := trace.Now()
	_ = r.conn.Send(ExecExit{Status: int(end.Status & 0xff)})
	r.conn.Close()
	r.traced(answered)
	io.background()
	return nil
}

// startExec starts the process, within rpcTimeout. A guest that was only slow may
// start one that was given up: it is killed then, and did nothing that anybody
// read. ctx carries a trace and no deadline.
func (g *guest) startExec(ctx context.Context, req *api.ExecRequest) error {
	answer := make(chan error, 1)
	go func() {
		_, err := g.agent.Exec(ctx, req)
		answer <- err
	}()
	select {
	case err := <-answer:
		return rpcError(err)
	case <-time.After(rpcTimeout):
		go func() {
			if err := <-answer; err == nil {
				g.killExec(req.Id, req.ExecId)
			}
		}()
		return fmt.Errorf("exec: the guest has not answered for %v", rpcTimeout)
	}
}

// execEvents passes on what happens to the stub, until it or the exec ends.
func (g *guest) execEvents(container, id string, r *request) {
	for {
		var e ExecEvent
		if _, err := r.conn.Recv(&e); err != nil {
			return
		}
		switch {
		case e.Signal != 0:
			g.signalExec(container, id, uint32(e.Signal))
		case e.Width != 0 || e.Height != 0:
			g.resize(container, id, e.Width, e.Height)
		}
	}
}

// killExec returns when the guest has done it, however long that takes: nobody
// else would.
func (g *guest) killExec(container, id string) {
	_, _ = g.agent.Signal(context.Background(), &api.SignalRequest{Id: container, ExecId: id, Signal: uint32(unix.SIGKILL)})
}

func (g *guest) signalExec(container, id string, sig uint32) {
	ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	// A process that has ended gets no signals.
	_, _ = g.agent.Signal(ctx, &api.SignalRequest{Id: container, ExecId: id, Signal: sig})
}
