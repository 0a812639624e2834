//go:build linux

package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/libvm/holder"
	"github.com/runm/runm/libvm/template"
	"github.com/runm/runm/libvm/trace"
	"github.com/runm/runm/libvm/vmm"
)

// startGuest clones the machine that cfg describes, or boots it: whatever is
// wrong with a template costs time and nothing else. cfg's files are taken over.
func (m *monitor) startGuest(ctx context.Context, c *container, cfg *vmm.Config) (*guest, error) {
	started := func(v vmm.Machine) error {
		c.log.Debug("machine executes")
		return m.joinMachine(ctx, c, v)
	}
	g, failed, err := m.cloneGuest(ctx, c, cfg, started)
	if g != nil || err != nil {
		closeNICs(cfg)
		return g, err
	}
	g, err = m.bootGuest(ctx, c, cfg, started)
	if failed != nil {
		failed.judge(c, err)
	}
	return g, err
}

func (m *monitor) bootGuest(ctx context.Context, c *container, cfg *vmm.Config, started func(vmm.Machine) error) (*guest, error) {
	span := trace.Begin(ctx, "machine launched, to boot")
	machine, err := m.driver.Start(ctx, cfg)
	span.End()
	if err != nil {
		return nil, fmt.Errorf("start the machine: %w", err)
	}
	g, err := newGuest(ctx, machine, cfg.Shares[0], c.setup.Debug, started)
	if err != nil {
		return nil, err
	}
	g.booted = true
	return g, nil
}

// failedClone is a machine that could not be cloned.
type failedClone struct {
	key   string // the template's
	cause error
}

// judge finds the template guilty if the same machine was booted. Where that
// failed too, in a cgroup that leaves it too little memory or time, another's
// clone may well succeed.
func (f *failedClone) judge(c *container, boot error) {
	if boot != nil {
		c.log.Warnf("nor was the machine cloned from template %s: %v", f.key, f.cause)
		return
	}
	c.log.Warnf("template %s is removed, and the machine booted: %v", f.key, f.cause)
	if err := c.setup.Templates.Discard(f.key, f.cause); err != nil && !errors.Is(err, template.ErrNotExist) {
		c.log.Warn(err)
	}
}

// cloneGuest starts the machine from its template. It returns nil where there is
// none, or none that is good, and what went wrong with a good one. The error is
// for what no boot would make better.
func (m *monitor) cloneGuest(ctx context.Context, c *container, cfg *vmm.Config, started func(vmm.Machine) error) (*guest, *failedClone, error) {
	cloner, ok := m.driver.(vmm.Cloner)
	if !ok || c.setup.Templates == nil {
		return nil, nil, nil
	}
	key, t, err := findTemplate(ctx, c.setup.Templates, cloner, cfg)
	if err == nil {
		g, err := m.clone(ctx, c, cloner, cfg, t, started)
		var host hostError
		switch {
		case err == nil:
			c.log.Debugf("machine is cloned from template %s", key)
			return g, nil, nil
		case ctx.Err() != nil:
			return nil, nil, context.Cause(ctx)
		case errors.As(err, &host):
			return nil, nil, err
		default:
			return nil, &failedClone{key, err}, nil
		}
	}
	if errors.Is(err, template.ErrBroken) {
		c.log.Warnf("template %s is removed, and the machine booted: %v", key, err)
		err = c.setup.Templates.Remove(key)
	}
	if err != nil && !errors.Is(err, template.ErrNotExist) {
		c.log.Warn(err)
	}
	return nil, nil, context.Cause(ctx)
}

// findTemplate opens the template for cfg's machine. Its key is told, too, where
// it is broken.
func findTemplate(ctx context.Context, s *template.Store, d vmm.Cloner, cfg *vmm.Config) (key string, t vmm.Template, err error) {
	defer trace.Begin(ctx, "template found").End()
	shape, err := d.Shape(cfg)
	if err != nil {
		return "", t, fmt.Errorf("no clone: %w", err)
	}
	t, err = s.Find(shape)
	return template.Key(shape), t, err
}

// clone takes t over.
func (m *monitor) clone(ctx context.Context, c *container, d vmm.Cloner, cfg *vmm.Config, t vmm.Template, started func(vmm.Machine) error) (*guest, error) {
	// The machine that is booted if this one fails wants the taps, too.
	copied, err := copyNICs(cfg)
	if err != nil {
		t.Close()
		return nil, err
	}
	// Half of the time, so that one that never answers leaves the other.
	limit := time.Duration(c.setup.BootSeconds) * time.Second / 2
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer for %v", limit))
	defer cancel()
	span := trace.Begin(ctx, "machine launched, to be cloned")
	machine, err := d.Clone(ctx, copied, t, func(ctx context.Context, to, from *os.File) error {
		return m.copyMemory(ctx, c, to, from)
	})
	span.End()
	if err != nil {
		return nil, err
	}
	return newGuest(ctx, machine, cfg.Shares[0], c.setup.Debug, started)
}

// copyMemory lets the holder, which is in the container's cgroup, copy.
func (m *monitor) copyMemory(ctx context.Context, c *container, to, from *os.File) error {
	select {
	case <-m.joined:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := c.holder.Send(holder.Order{Copy: true}, to, from); err != nil {
		return fmt.Errorf("the container's host process: %w", err)
	}
	select {
	case text := <-c.copied:
		if text != "" {
			return errors.New(text)
		}
		c.log.Debug("template's memory is copied")
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// copyNICs returns cfg with copies of its NICs' files.
func copyNICs(cfg *vmm.Config) (*vmm.Config, error) {
	c := *cfg
	c.NICs = slices.Clone(cfg.NICs)
	for i, n := range cfg.NICs {
		fd, err := unix.FcntlInt(n.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			c.NICs = c.NICs[:i]
			closeNICs(&c)
			return nil, fmt.Errorf("tap: %w", err)
		}
		c.NICs[i].File = os.NewFile(uintptr(fd), n.File.Name())
	}
	return &c, nil
}

func closeNICs(cfg *vmm.Config) {
	for _, n := range cfg.NICs {
		n.File.Close()
	}
}
