//go:build linux

// Package libvm makes and drives containers that are machines: the operations
// of the OCI runtime specification (runtime.md), as runc has them.
//
// A container is its processes plus one state directory. Nothing runs when no
// container does; each operation is a few messages to the container's monitor.
package libvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/monitor"
	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/libvm/trace"
)

// Sentinels. Clients of runc match on these texts.
var (
	ErrNotExist       = store.ErrNotExist
	ErrExist          = store.ErrExist
	ErrNotRunning     = errors.New("container not running")
	ErrNotPaused      = errors.New("container not paused")
	ErrStopped        = errors.New("cannot exec in a stopped container")
	ErrProcessDone    = errors.New("process already finished")
	errMonitorSilent  = errors.New("the container's monitor does not answer")
	errMonitorHasGone = errors.New("the container's monitor has ended")
)

// Container is one container's state directory and what it says.
type Container struct {
	dir store.Dir
	// State is as the monitor last saved it; its zero Monitor means that
	// create has only begun.
	State store.State
	trace *trace.Recorder // nil for none
}

// Trace has what is asked of the monitor from now on in ctx's trace, if it has
// one.
func (c *Container) Trace(ctx context.Context) { c.trace = trace.From(ctx) }

// Load finds the container id below root.
func Load(root, id string) (*Container, error) {
	dir, err := store.Open(root, id)
	if err != nil {
		return nil, err
	}
	s, err := dir.Load()
	if errors.Is(err, os.ErrNotExist) {
		// Between mkdir and the first save, or create was killed there.
		s = &store.State{ID: id}
	} else if err != nil {
		return nil, fmt.Errorf("container %q: %w", id, err)
	}
	return &Container{dir: dir, State: *s}, nil
}

// Each calls f for every container below root, in the order of their ids, with
// the container or with why it cannot be loaded.
func Each(root string, f func(id string, c *Container, err error)) error {
	ids, err := store.List(root)
	if err != nil {
		return err
	}
	for _, id := range ids {
		c, err := Load(root, id)
		if errors.Is(err, ErrNotExist) {
			continue // deleted meanwhile
		}
		f(id, c, err)
	}
	return nil
}

// ID is the container's name.
func (c *Container) ID() string { return c.State.ID }

// Status asks the facts: is the holder alive, and what does the monitor say.
func (c *Container) Status() (specs.ContainerState, error) {
	status, _, err := c.status()
	return status, err
}

// status is Status; ending says that the container is about to be stopped.
func (c *Container) status() (status specs.ContainerState, ending bool, err error) {
	if c.State.Monitor.Alive() {
		a, err := c.ask(monitor.Request{Op: monitor.OpStatus})
		if err == nil {
			return a.Status, a.Ending, nil
		}
		if !isGone(err) {
			return "", false, err
		}
		if c.State.Holder.Pid == 0 {
			return specs.StateCreating, false, nil
		}
	}
	if c.State.Holder.Alive() && c.State.Monitor.Alive() {
		// The monitor no longer answers but has not yet let the holder go.
		return specs.StateRunning, true, nil
	}
	return specs.StateStopped, false, nil
}

// OCIState is the state as runtime.md defines it. Pid is 0 when stopped.
func (c *Container) OCIState() (*specs.State, error) {
	status, err := c.Status()
	if err != nil {
		return nil, err
	}
	return c.ociState(status), nil
}

func (c *Container) ociState(status specs.ContainerState) *specs.State {
	s := &specs.State{Version: specs.Version, ID: c.State.ID, Status: status, Bundle: c.State.Bundle}
	if status != specs.StateStopped {
		s.Pid = c.State.Holder.Pid
	}
	if c.State.Spec != nil {
		s.Annotations = c.State.Spec.Annotations
	}
	return s
}

// askTimeout bounds a monitor's answer. It is longer than the monitor's own
// patience with the guest.
const askTimeout = 60 * time.Second

// ask sends one request to the monitor and returns its answer. The error is
// control.ErrGone when there is no monitor.
func (c *Container) ask(r monitor.Request) (*monitor.Reply, error) {
	defer c.trace.Begin(trace.MainLane, "monitor: "+string(r.Op)).End()
	conn, err := control.Dial(string(c.dir))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	r.ID = c.State.ID
	var files []*os.File
	if c.trace != nil {
		r.Trace, files = &monitor.Trace{}, []*os.File{c.trace.Out()}
	}
	if !c.startsHooks(r.Op) {
		if err := conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
			return nil, err
		}
	}
	if err := conn.Send(r, files...); err != nil {
		return nil, errMonitorHasGone
	}
	var a monitor.Reply
	if _, err := conn.Recv(&a); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, errMonitorSilent
		}
		return nil, errMonitorHasGone
	}
	return &a, replyError(&a)
}

// startsHooks says whether op takes as long as startContainer hooks do. The
// monitor knows how long that may be.
func (c *Container) startsHooks(op monitor.Op) bool {
	return op == monitor.OpStart && c.State.Spec != nil && c.State.Spec.Hooks != nil && len(c.State.Spec.Hooks.StartContainer) > 0
}

// query is ask for a container that must be up. One whose process has just
// ended is not, and its clients know no other text for that.
func (c *Container) query(r monitor.Request) (*monitor.Reply, error) {
	a, err := c.ask(r)
	if isGone(err) || errors.Is(err, ErrProcessDone) {
		return nil, ErrNotRunning
	}
	return a, err
}

func isGone(err error) bool {
	return errors.Is(err, control.ErrGone) || errors.Is(err, errMonitorHasGone)
}

func replyError(a *monitor.Reply) error {
	if a.Error == "" {
		return nil
	}
	switch a.Code {
	case monitor.CodeEnded:
		return ErrNotRunning
	case monitor.CodeGone:
		return ErrProcessDone
	case monitor.CodeNotPaused:
		return ErrNotPaused
	default:
		return errors.New(a.Error)
	}
}

// waitCreated waits while the container is being made: other tools start it
// right after they began to create it. If create fails, lock finds no container.
func (c *Container) waitCreated() error {
	if c.State.Monitor.Pid == 0 {
		return ErrNotExist // create has not got far enough to be waited for
	}
	if _, err := c.ask(monitor.Request{Op: monitor.OpCreated}); err != nil && !isGone(err) {
		return err
	}
	return nil
}

// reload reads again what the container is.
func (c *Container) reload() error {
	fresh, err := Load(filepath.Dir(string(c.dir)), c.State.ID)
	if err != nil {
		return err
	}
	c.State = fresh.State
	return nil
}

// lockPatience is longer than any other command holds the lock, poststop hooks
// apart.
const lockPatience = askTimeout + killGrace

var errBusy = fmt.Errorf("another command has been at work on the container for %v", lockPatience)

// lock takes the container's lock, and reads again what the container is: who had
// the lock, or joined the machine, may have changed it. The error is ErrNotExist
// if it was deleted meanwhile, errBusy after lockPatience.
func (c *Container) lock(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lockPatience, errBusy)
	defer cancel()
	f, err := c.dir.Lock(ctx)
	if err != nil {
		return nil, err
	}
	created := c.State.Created
	err = c.reload()
	if err == nil && !created.IsZero() && !c.State.Created.Equal(created) {
		err = ErrNotExist // another has its id
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
