//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/runm/runm/libvm/vmm"
)

// coldTarget is how much longer than the bare machine a container may take.
const coldTarget = 1.8

// machineTime bounds a floor; a machine that does not end is an error.
const machineTime = 2 * time.Minute

// floorConfig is runm's machine with another initramfs, an empty share and no
// network.
func (b *bench) floorConfig(initrd, share string) *vmm.Config {
	c := b.plan.Machine
	c.Initrd, c.NICs = initrd, nil
	c.Shares = []vmm.Share{{Type: c.Shares[0].Type, Tag: c.Shares[0].Tag, Path: share}}
	return &c
}

// bareBoot boots the machine and waits for its end; in milliseconds.
func (b *bench) bareBoot(ctx context.Context) (float64, error) {
	began := time.Now()
	m, err := b.driver.Start(ctx, b.floorConfig(b.exit, b.rootfs))
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, machineTime)
	defer cancel()
	defer context.AfterFunc(ctx, m.Kill)()
	err = m.Wait()
	took := ms(time.Since(began))
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, fmt.Errorf("bare machine: %w; console: %s", err, m.Console())
	}
	return took, nil
}

// runTrue is `runm run` of /bin/true.
func (b *bench) runTrue(ctx context.Context, id string) (float64, error) {
	dir, err := b.bundle("true", "/bin/true")
	if err != nil {
		return 0, err
	}
	return timed(b.command(ctx, "run", "--bundle", dir, id))
}

// cold compares `runm run` of /bin/true with the bare machine.
func cold(ctx context.Context, b *bench, t *table) error {
	all, cpus, err := b.turns(
		func() (float64, error) { return b.bareBoot(ctx) },
		func() (float64, error) { return b.runTrue(ctx, b.id()) })
	if err != nil {
		return err
	}
	r := newRow("`runm run` /bin/true, cold; floor: the machine alone", "ms", all[1], all[0])
	t.Rows = append(t.Rows, r.aim(fmt.Sprintf("<= %.1f", coldTarget), r.ratio() <= coldTarget),
		newRow("the same in processor time", "s", cpus[1], cpus[0]))
	return nil
}

// burst starts many containers at once, and as many bare machines.
func burst(ctx context.Context, b *bench, t *table) error {
	began := time.Now()
	if errs := b.together(func(string) error { _, err := b.bareBoot(ctx); return err }); len(errs) > 0 {
		return errs[0]
	}
	bare := time.Since(began)
	began = time.Now()
	failures := b.together(func(id string) error { _, err := b.runTrue(ctx, id); return err })
	took := time.Since(began)
	ok := float64(b.atOnce - len(failures))
	name := fmt.Sprintf("%d `runm run` at once", b.atOnce)
	t.Rows = append(t.Rows,
		newRow(name+"; floor: as many bare machines", "s", []float64{took.Seconds()}, []float64{bare.Seconds()}),
		newRow(name+": ended well", "", []float64{ok}, nil).aim(fmt.Sprintf("%d", b.atOnce), len(failures) == 0))
	if len(failures) > 0 {
		t.Notes = append(t.Notes, fmt.Sprintf("the first of %d failures: %v", len(failures), failures[0]))
	}
	return ctx.Err()
}

// together calls f at once for as many new ids as asked for, and returns what
// failed.
func (b *bench) together(f func(id string) error) []error {
	var all sync.WaitGroup
	errs := make([]error, b.atOnce)
	for i := range errs {
		id := b.id()
		all.Go(func() { errs[i] = f(id) })
	}
	all.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}
