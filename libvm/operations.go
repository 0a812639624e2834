//go:build linux

package libvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/cgroup"
	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/hooks"
	"github.com/runm/runm/libvm/monitor"
	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/libvm/trace"
)

// killGrace is how long a process may take to end after SIGKILL.
const killGrace = 10 * time.Second

// Start lets the container's process execve and returns when it did (runtime.md,
// "Start"). A poststart hook that fails stops the container.
func (c *Container) Start(ctx context.Context) error {
	if err := c.waitCreated(); err != nil {
		return err
	}
	if err := c.start(ctx); err != nil {
		return err
	}
	h := c.State.Spec.Hooks
	if h == nil {
		return nil
	}
	// Without the lock: a hook may take its time, and the container be deleted
	// meanwhile.
	defer trace.Begin(ctx, "hooks: poststart").End()
	err := hooks.Run(ctx, "poststart", h.Poststart, c.ociState(specs.StateRunning))
	if err == nil {
		return nil
	}
	// "the runtime MUST generate an error, stop the container, and continue the
	// lifecycle at step 12": its deletion's hooks.
	derr := c.Delete(context.WithoutCancel(ctx), true)
	if errors.Is(derr, ErrNotExist) {
		derr = nil
	}
	return errors.Join(err, derr)
}

func (c *Container) start(ctx context.Context) error {
	lock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	status, err := c.Status()
	if err != nil {
		return err
	}
	switch status {
	case specs.StateCreated:
	case specs.StateStopped:
		return errors.New("cannot start a container that has stopped")
	case specs.StateRunning:
		return errors.New("cannot start an already running container")
	default:
		return fmt.Errorf("cannot start a container in the %s state", status)
	}
	_, err = c.query(monitor.Request{Op: monitor.OpStart})
	return err
}

// Kill sends sig to init, or to every process of the container. To a stopped
// container the error is ErrNotRunning; with all it is nil, as runc has it.
func (c *Container) Kill(sig unix.Signal, all bool) error {
	_, err := c.query(monitor.Request{Op: monitor.OpSignal, Signal: int(sig), All: all})
	if all && errors.Is(err, ErrNotRunning) {
		return nil
	}
	return err
}

// Pause stops the container and its machine, Resume lets them go on.
func (c *Container) Pause() error { return c.change(monitor.Request{Op: monitor.OpPause}) }

// Resume undoes Pause; of a container that is not paused it is ErrNotPaused.
func (c *Container) Resume() error { return c.change(monitor.Request{Op: monitor.OpResume}) }

// change is query for what must not overlap with a start or another change.
func (c *Container) change(r monitor.Request) error {
	lock, err := c.lock(context.Background())
	if err != nil {
		return err
	}
	defer lock.Close()
	_, err = c.query(r)
	return err
}

// Pids lists the host processes in the container's cgroup; none when stopped.
func (c *Container) Pids() ([]int, error) {
	a, err := c.query(monitor.Request{Op: monitor.OpPids})
	if errors.Is(err, ErrNotRunning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return a.Pids, nil
}

// Processes lists the container's processes as its guest sees them.
func (c *Container) Processes() ([]monitor.Process, error) {
	a, err := c.query(monitor.Request{Op: monitor.OpProcesses})
	if err != nil {
		return nil, err
	}
	return a.Table, nil
}

// Stats returns the guest's counters as the JSON of runc's types.Stats, and how
// often the container ran out of memory.
func (c *Container) Stats() (json.RawMessage, uint64, error) {
	a, err := c.query(monitor.Request{Op: monitor.OpStats})
	if err != nil {
		return nil, 0, err
	}
	return a.Stats, a.OOMKills, nil
}

// Wait returns at the container's end, or ctx's, with how often the container
// ran out of memory. It need not have been started.
func (c *Container) Wait(ctx context.Context) (oomKills uint64, err error) {
	conn, err := control.Dial(string(c.dir))
	if err == nil {
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		var a monitor.Reply
		if err = conn.Send(monitor.Request{Op: monitor.OpWait, ID: c.State.ID}); err == nil {
			_, err = conn.Recv(&a)
		}
		if err == nil {
			return a.OOMKills, replyError(&a)
		}
	}
	// No monitor, or it was killed: then the holder's end is all there is.
	return 0, c.State.Holder.Wait(ctx)
}

// Update changes the container's resources to what is given; the rest stays.
func (c *Container) Update(given *specs.LinuxResources) error {
	lock, err := c.lock(context.Background())
	if err != nil {
		return err
	}
	defer lock.Close()
	// Not before: another update may just have changed the rest.
	if c.State.Spec == nil {
		return ErrNotRunning // it is still being created
	}
	current := &specs.LinuxResources{}
	if l := c.State.Spec.Linux; l != nil && l.Resources != nil {
		current = l.Resources
	}
	r := mergeResources(current, given)
	warnings, err := bundle.CheckResources(r)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		logrus.Warn(w)
	}
	_, err = c.query(monitor.Request{Op: monitor.OpUpdate, Resources: r})
	return err
}

// Delete removes a container that is stopped or created (a created one is
// killed, as clients of runc rely on). With force it ends in nothing left,
// whatever runs and whichever of our processes was killed before.
func (c *Container) Delete(ctx context.Context, force bool) error {
	defer trace.Begin(ctx, "delete").End()
	lock, err := c.lock(ctx)
	switch {
	case err == nil:
		defer lock.Close()
	case force && errors.Is(err, errBusy):
		logrus.Warn(err)
	default:
		return err
	}
	status, ending, err := c.status()
	if err != nil && !force {
		return err
	}
	if !force && ending {
		// `kill ID KILL` and then `delete ID` is what people type, and with
		// runc the one is done when the other comes.
		if err := c.waitEnd(ctx); err == nil {
			status = specs.StateStopped
		}
	}
	if !force && status != specs.StateStopped && status != specs.StateCreated {
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", c.State.ID, status)
	}
	if err := c.destroy(); err != nil {
		return err
	}
	return c.remove(ctx)
}

// destroy ends machine, monitor and holder, and waits until they are gone.
func (c *Container) destroy() error {
	if c.State.Monitor.Alive() {
		// It answers when the machine is gone; if it cannot, its children
		// die with it.
		_, err := c.ask(monitor.Request{Op: monitor.OpDestroy})
		if err == nil || isGone(err) {
			err = c.waitEnd(context.Background())
		}
		if err != nil {
			if err := c.State.Monitor.Kill(killGrace); err != nil {
				return err
			}
		}
	}
	return c.State.Holder.Kill(killGrace)
}

// waitEnd waits for the end of what the container has for itself: its machine's
// monitor, or, in a pod, its holder, which ends after all else of it.
func (c *Container) waitEnd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killGrace)
	defer cancel()
	defer c.trace.Begin(trace.MainLane, "wait: monitor or holder ends").End()
	// Another container may have joined the machine since.
	if err := c.reload(); err != nil && !errors.Is(err, ErrNotExist) {
		return err
	}
	if c.State.Pod {
		return c.State.Holder.Wait(ctx)
	}
	return c.State.Monitor.Wait(ctx)
}

// remove takes away what a dead container left, and runs its last hooks.
func (c *Container) remove(ctx context.Context) error {
	defer trace.Begin(ctx, "cgroup, poststop hooks and state removed").End()
	if _, err := os.Stat(string(c.dir)); errors.Is(err, os.ErrNotExist) {
		return nil // a create that was undone took all along
	}
	if err := c.removeCgroup(); err != nil {
		return err
	}
	poststop(ctx, c.State.Spec, c.ociState(specs.StateStopped))
	return c.removeState()
}

// removeState removes the state directory, and what a monitor that was killed has
// left beside it: empty, for what was mounted there was in its mount namespace.
func (c *Container) removeState() error {
	if id := c.State.Monitor; id.Pid != 0 && !id.Alive() {
		if err := os.Remove(store.ShareDir(filepath.Dir(string(c.dir)), id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("staging directory: %w", err)
		}
	}
	return c.dir.Remove()
}

func (c *Container) removeCgroup() error {
	s := &c.State
	if s.Spec == nil || len(s.CgroupPaths) == 0 {
		return nil
	}
	cg, err := cgroup.New(s.ID, s.Spec, s.Systemd, cgroup.Overhead{}, s.CgroupPaths)
	if err != nil {
		return err
	}
	return cg.Destroy()
}

// poststop runs the hooks of a container that is gone. "the remaining hooks and
// lifecycle continue as if the hook had succeeded" (runtime.md, "Lifecycle" 12).
func poststop(ctx context.Context, spec *specs.Spec, state *specs.State) {
	if spec == nil || spec.Hooks == nil {
		return
	}
	for _, h := range spec.Hooks.Poststop {
		if err := hooks.Run(ctx, "poststop", []specs.Hook{h}, state); err != nil {
			logrus.Warn(err)
		}
	}
}

// Delete removes the container id below root. With force an unknown id is no
// error.
func Delete(ctx context.Context, root, id string, force bool) error {
	c, err := Load(root, id)
	if err == nil {
		c.Trace(ctx)
		err = c.Delete(ctx, force)
	}
	if force && errors.Is(err, store.ErrNotExist) {
		return nil
	}
	return err
}
