//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	libnetwork "github.com/runm/runm/libvm/network"
	"github.com/runm/runm/libvm/template"
	"github.com/runm/runm/libvm/vmm"
)

// makeTemplate makes the template that warm containers are cloned from, before
// anything is measured: what a first create does in the background would disturb.
func (b *bench) makeTemplate(ctx context.Context) error {
	before, err := b.templates.List()
	if err != nil {
		return err
	}
	dir, err := b.trueBundle()
	if err != nil {
		return err
	}
	// Also when it fails: it may have come so far.
	_, err = b.runm.run(ctx, "template", "create", "--bundle", dir)
	after, lerr := b.templates.List()
	for _, t := range after {
		if !slices.ContainsFunc(before, func(o template.About) bool { return o.Key == t.Key }) {
			b.made = append(b.made, t.Key)
		}
	}
	return errors.Join(err, lerr)
}

// removeTemplates removes the templates that were not there before.
func (b *bench) removeTemplates() error {
	var errs []error
	for _, key := range b.made {
		if err := b.templates.Remove(key); err != nil && !errors.Is(err, template.ErrNotExist) {
			errs = append(errs, fmt.Errorf("template %s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}

// bareRestore restores the template without runm, until its agent's first
// answer; in milliseconds.
func (b *bench) bareRestore(ctx context.Context) (took float64, err error) {
	ns, err := newNetns()
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	cfg, taps, err := b.withTaps(ns)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, taps.Close()) }()
	shape, err := b.driver.Shape(cfg)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	t, err := b.templates.Find(shape)
	if err != nil {
		return 0, fmt.Errorf("template %s: %w", template.Key(shape), err)
	}
	m, err := b.driver.Clone(ctx, cfg, t, func(_ context.Context, to, from *os.File) error {
		return template.CopyMemory(to, from)
	})
	if err != nil {
		return 0, err
	}
	a, err := greet(ctx, m, cfg.Shares[0])
	if err != nil {
		return 0, err
	}
	took = ms(time.Since(began))
	return took, a.close()
}

// withTaps is runm's machine with another share, and taps in a namespace. The
// caller closes the network; the files are the driver's.
func (b *bench) withTaps(file *os.File) (*vmm.Config, io.Closer, error) {
	cfg := b.plan.Machine
	cfg.Shares = []vmm.Share{{Type: cfg.Shares[0].Type, Tag: cfg.Shares[0].Tag, Path: b.rootfs}}
	ns, err := libnetwork.OpenNamespace(netnsPath(file))
	if err != nil {
		return nil, nil, err
	}
	n, nics, err := libnetwork.Open(ns, cfg.NICs)
	if err != nil {
		return nil, nil, err
	}
	cfg.NICs = nics
	return &cfg, n, nil
}

// templateMiB is what the template takes.
func (b *bench) templateMiB() (float64, error) {
	shape, err := b.driver.Shape(&b.plan.Machine)
	if err != nil {
		return 0, err
	}
	all, err := b.templates.List()
	if err != nil {
		return 0, err
	}
	for _, t := range all {
		if t.Key == template.Key(shape) {
			return float64(t.Bytes) / (1 << 20), nil
		}
	}
	return 0, template.ErrNotExist
}

// checkWarm fails if containers are not cloned: a broken template costs runm time
// and nothing else, and would be measured as warm.
func (b *bench) checkWarm(ctx context.Context) error {
	dir, err := b.trueBundle()
	if err != nil {
		return err
	}
	_, events, _, err := b.logged(ctx, dir)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(events, func(e event) bool { return strings.HasPrefix(e.Msg, clonedMessage) }) {
		return errors.New("containers are booted, not cloned; `runm --debug run --keep` logs why")
	}
	return nil
}

// clonedMessage is how a line of the monitor's log begins that tells of a clone.
const clonedMessage = "machine is cloned from template"
