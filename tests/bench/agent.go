//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/vmm"
)

// floorID is the container of the floor's plan.
const floorID = "floor"

// agent is a machine whose agent this program talks to itself, without runm's
// processes between them.
type agent struct {
	api.AgentService
	machine vmm.Machine
	session *yamux.Session
	ended   chan error
	execs   int
}

// bootAgent boots runm's machine and starts a container in it that sleeps.
func (b *bench) bootAgent(ctx context.Context) (_ *agent, err error) {
	share := filepath.Join(b.dir, "share")
	if err := makeRootfs(filepath.Join(share, b.plan.Rootfs.Target)); err != nil {
		return nil, err
	}
	m, err := b.driver.Start(ctx, b.floorConfig(b.plan.Machine.Initrd, share))
	if err != nil {
		return nil, err
	}
	a, err := greet(ctx, m, b.plan.Machine.Shares[0])
	if err != nil {
		return nil, err
	}
	if err := a.sleep(ctx, *b.plan.Guest); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

// greet takes m over and returns when its agent has answered for the first time.
func greet(ctx context.Context, m vmm.Machine, share vmm.Share) (_ *agent, err error) {
	a := &agent{machine: m, ended: make(chan error, 1)}
	go func() { a.ended <- m.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, machineTime)
	defer cancel()
	defer context.AfterFunc(ctx, m.Kill)() // a call ends with its machine
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w; console: %s", errors.Join(err, a.close()), m.Console())
		}
	}()
	stream, err := m.Dial(ctx)
	if err != nil {
		return nil, err
	}
	if a.session, err = api.Host(stream); err != nil {
		return nil, errors.Join(err, stream.Close())
	}
	rpc, err := a.session.OpenStream()
	if err != nil {
		return nil, err
	}
	a.AgentService = api.NewAgentClient(ttrpc.NewClient(rpc))
	entropy := make([]byte, 64)
	if _, err := rand.Read(entropy); err != nil {
		return nil, err
	}
	_, err = a.Hello(ctx, &api.HelloRequest{
		Version: api.Version, UnixNano: time.Now().UnixNano(), Entropy: entropy,
		ShareType: string(share.Type), ShareTag: share.Tag,
	})
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	return a, nil
}

// sleep starts the container.
func (a *agent) sleep(ctx context.Context, spec specs.Spec) error {
	ctx, cancel := context.WithTimeout(ctx, machineTime)
	defer cancel()
	process := *spec.Process
	process.Args = sleepArgs()
	spec.Process = &process
	data, err := json.Marshal(&spec)
	if err != nil {
		return err
	}
	if _, err := a.Create(ctx, &api.CreateRequest{Id: floorID, Spec: data, Stdio: &api.Stdio{}}); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if _, err := a.Start(ctx, &api.StartRequest{Id: floorID}); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	return nil
}

// exec runs the process to its end, without output; in milliseconds.
func (a *agent) exec(ctx context.Context, p *specs.Process) (float64, error) {
	data, err := json.Marshal(p)
	if err != nil {
		return 0, err
	}
	a.execs++
	id := fmt.Sprintf("floor-%d", a.execs)
	began := time.Now()
	if _, err := a.Exec(ctx, &api.ExecRequest{Id: floorID, ExecId: id, Process: data, Stdio: &api.Stdio{}}); err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	end, err := a.Wait(ctx, &api.WaitRequest{Id: floorID, ExecId: id})
	if err != nil {
		return 0, fmt.Errorf("wait: %w", err)
	}
	if end.Status != 0 {
		return 0, fmt.Errorf("%v ended with status %d", p.Args, end.Status)
	}
	return ms(time.Since(began)), nil
}

// close ends the machine.
func (a *agent) close() error {
	if a.session != nil {
		a.session.Close()
	}
	a.machine.Kill()
	return <-a.ended
}
