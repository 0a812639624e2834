//go:build linux

package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/runm/runm/libvm/control"
	"github.com/runm/runm/libvm/network"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/share"
	"github.com/runm/runm/libvm/trace"
	"github.com/runm/runm/libvm/vmm"
)

// made is a container in the guest, up to its execve, and, for the first one,
// the machine.
type made struct {
	stdio   *stdio
	guest   *guest           // nil where the machine ran already
	network *network.Network // nil without NICs
}

// end gives up what boot or join made, after their container is gone.
func (b *made) end() error {
	if b.guest != nil {
		b.guest.end()
	}
	b.stdio.close()
	if b.network == nil {
		return nil
	}
	return b.network.Close()
}

// boot makes share, taps, machine and container, beside the owner.
func (m *monitor) boot(c *container, files []*os.File) (_ *made, err error) {
	ctx, cancel := c.deadline(c.making)
	defer cancel()
	span := trace.Begin(ctx, "files staged")
	if m.staging, err = share.New(m.shareDir); err != nil {
		return nil, err
	}
	for _, b := range c.setup.Plan.Files() {
		if err := m.staging.Add(b); err != nil {
			return nil, err
		}
	}
	if err := m.staging.Alone(m.hostFiles(c)); err != nil {
		return nil, err
	}
	cfg := c.setup.Plan.Machine
	cfg.Shares[0].Path = m.staging.Dir
	span.End()
	c.log.Debug("files are staged")
	span = trace.Begin(ctx, "taps")
	n, err := m.openTaps(ctx, &cfg)
	span.End()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && n != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	g, err := m.startGuest(ctx, c, &cfg)
	if err != nil {
		return nil, err
	}
	c.log.Debug("agent has answered")
	io, err := g.make(ctx, c, files)
	if err != nil {
		g.end()
		return nil, err
	}
	return &made{stdio: io, guest: g, network: n}, nil
}

// join makes a container in the machine that runs, beside the owner. trees are
// the mounts of its files, in the order of plan.Files, from create's namespace: this
// one may not have them.
func (m *monitor) join(c *container, files, trees []*os.File) (*made, error) {
	ctx, cancel := c.deadline(c.making)
	defer cancel()
	defer control.CloseAll(trees)
	binds := c.setup.Plan.Files()
	if len(binds) != len(trees) {
		control.CloseAll(files)
		return nil, fmt.Errorf("%d mounts were sent for %d files", len(trees), len(binds))
	}
	for i, b := range binds {
		if err := m.staging.Attach(b, trees[i]); err != nil {
			control.CloseAll(files)
			return nil, err
		}
	}
	c.log.Debug("files are staged")
	io, err := m.guest.make(ctx, c, files)
	if err != nil {
		return nil, err
	}
	return &made{stdio: io}, nil
}

// make creates the container in the guest and starts to carry its input and
// output. It takes files over.
func (g *guest) make(ctx context.Context, c *container, files []*os.File) (*stdio, error) {
	io, err := newStdio(ctx, g, files, c.setup.Plan.Guest.Process.Terminal, c.log)
	if err != nil {
		return nil, g.failure(ctx, err)
	}
	io.run()
	defer trace.Begin(ctx, "container made in the guest").End()
	if err := g.create(ctx, c.setup, io); err != nil {
		io.close()
		return nil, err
	}
	c.log.Debug("container is created in the guest")
	return io, nil
}

// hostFiles are what monitor and VMM need of the host besides the share.
func (m *monitor) hostFiles(c *container) (paths, trees []string) {
	paths = []string{"/etc", "/bin", "/lib64", os.TempDir(), filepath.Dir(string(c.dir))}
	if t := m.setup.Templates; t != nil {
		paths = append(paths, t.Dir)
	}
	if m.setup.Systemd {
		paths = append(paths, "/run/systemd", "/run/dbus") // their sockets
	}
	trees = []string{"/proc", "/sys", "/dev", "/usr", "/lib"}
	cfg := &m.setup.Plan.Machine
	for _, file := range []string{m.setup.QEMU, m.setup.Virtiofsd, cfg.Kernel, cfg.Initrd} {
		if real, err := filepath.EvalSymlinks(file); err == nil {
			// A program's libraries lie beside it: <prefix>/bin, <prefix>/lib.
			paths = append(paths, filepath.Dir(filepath.Dir(real)))
		}
	}
	return paths, trees
}

// hostError is an error of the host's, whatever the machine came from.
type hostError struct{ error }

func (e hostError) Unwrap() error { return e.error }

// joinMachine moves the machine's processes into the first container's cgroup,
// which is there when its holder is in it, and gives them its oomScoreAdj.
func (m *monitor) joinMachine(ctx context.Context, c *container, v vmm.Machine) error {
	defer trace.Begin(ctx, "machine joins the cgroup").End()
	if _, ok := v.(vmm.Processes); !ok {
		return nil
	}
	select {
	case <-m.joined:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	err := eachProcess(v, func(id proc.ID) error {
		if err := enter(c.cgroup, id); err != nil {
			return err
		}
		return c.score(id, m.oomScoreAdj(c))
	})
	if err != nil {
		return hostError{err}
	}
	return nil
}

// eachProcess calls f with each host process that carries a machine. One that has
// ended is left out: it will be heard of from the machine, with why.
func eachProcess(v vmm.Machine, f func(proc.ID) error) error {
	p, ok := v.(vmm.Processes)
	if !ok {
		return nil
	}
	var errs []error
	for _, pid := range p.Pids() {
		id, err := proc.Child(pid)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = f(id)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// deadline bounds the making of the container.
func (c *container) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, time.Duration(c.setup.BootSeconds)*time.Second,
		fmt.Errorf("no answer for %d s (boot_timeout_seconds)", c.setup.BootSeconds))
}
