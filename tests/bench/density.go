//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/tests/bench/report"
	"github.com/runm/runm/tests/internal/leak"
)

const (
	// densityTarget is how many times the first containers' start that of the
	// last ones may take.
	densityTarget = 1.5
	// ends is how many of the first and of the last containers are compared: one
	// start alone is an accident.
	ends = 5
	// reserve is what the machine keeps, in MiB: no more containers than that.
	reserve = 1024
	// goneTime bounds the end of what is on its way out.
	goneTime = 30 * time.Second
	// politeStatus is how a container ends that was asked to.
	politeStatus = 42
)

// density fills the machine with idle containers, one after another, and again,
// some at a time. The ones that were started keep running until all are there.
func density(ctx context.Context, b *bench, s *report.Section) error {
	s.Rounds = 1
	one, err := b.fill(ctx, s, 1)
	if err != nil {
		return err
	}
	many, err := b.fill(ctx, s, b.batch)
	if err != nil {
		return err
	}
	n := min(ends, max(1, len(one.took)/2))
	first := one.took[:min(n, len(one.took))]
	s.Rows = append(s.Rows, report.Row{
		Name: fmt.Sprintf("start of the last %d of %d, one after another", n, b.density), Unit: "ms", Values: last(one.took, n),
		FloorName: fmt.Sprintf("the first %d", n), Floor: first,
	}.AtMost(densityTarget, 0))
	s.Rows = append(append(s.Rows, one.rows(b.density)...), many.rows(b.density)...)
	s.Series = []report.Series{
		{Name: one.name, Unit: "ms", Values: one.took, Limit: densityTarget * report.Median(first)},
		{Name: many.name, Unit: "ms", Values: many.took},
	}
	return nil
}

func last(values []float64, n int) []float64 { return values[max(0, len(values)-n):] }

// filling is a machine that was filled with containers and emptied again.
type filling struct {
	name string
	// took is each one's start in milliseconds, in their order.
	took []float64
	all  time.Duration // until the last was started
	// memory is what the machine lost of its available memory to all, in MiB.
	memory float64
	well   int // how many ended as they should
	left   []string
}

func (f filling) rows(want int) []report.Row {
	n := float64(len(f.took))
	return []report.Row{
		{Name: fmt.Sprintf("%d containers, %s: until the last was started", want, f.name), Unit: "s", Values: []float64{f.all.Seconds()}},
		{Name: "memory of the machine, all together", Unit: "MiB", Values: []float64{f.memory}},
		{Name: "and for each", Unit: "MiB", Values: []float64{f.memory / n}},
		endedWell("containers", f.well, want),
		report.Row{Name: "processes, mounts, cgroups and files left", Values: []float64{float64(len(f.left))}}.Aim("none", len(f.left) == 0),
	}
}

// fill starts containers, batch at a time, lets them rest and ends them.
func (b *bench) fill(ctx context.Context, s *report.Section, batch int) (f filling, err error) {
	f.name = "one after another"
	if batch > 1 {
		f.name = fmt.Sprintf("%d at a time", batch)
	}
	scope, err := leak.New(b.dir, b.idPrefix())
	if err != nil {
		return f, err
	}
	dir, err := b.bundle("polite", "/bin/sh", "-c",
		fmt.Sprintf("trap 'exit %d' TERM; while :; do sleep 1000000 & wait $!; done", politeStatus))
	if err != nil {
		return f, err
	}
	before, err := available()
	if err != nil {
		return f, err
	}
	var running []string
	// Whatever happens, none of them is left.
	defer func() {
		for _, id := range running {
			err = errors.Join(err, b.forceDelete(id))
		}
	}()
	var failures []error
	began := time.Now()
	for len(running)+len(failures) < b.density && len(failures) == 0 {
		if free, err := available(); err != nil {
			return f, err
		} else if free < reserve {
			s.Notes = append(s.Notes, fmt.Sprintf("%s: no more than %d, the machine has %.0f MiB left", f.name, len(running), free))
			break
		}
		ids := b.ids(min(batch, b.density-len(running)))
		took := make([]float64, len(ids))
		var all sync.WaitGroup
		errs := make([]error, len(ids))
		for i, id := range ids {
			all.Go(func() { took[i], errs[i] = b.runm.run(ctx, "run", "--detach", "--bundle", dir, id) })
		}
		all.Wait()
		running = append(running, ids...)
		for i, err := range errs {
			if err != nil {
				failures = append(failures, err)
				continue
			}
			f.took = append(f.took, took[i])
		}
	}
	f.all = time.Since(began)
	if err := rest(ctx, b.idle); err != nil {
		return f, err
	}
	after, err := available()
	if err != nil {
		return f, err
	}
	f.memory = before - after
	var unwell []error
	// Not all at once: how a crowd ends is not asked here.
	for ids := range slices.Chunk(running, b.batch) {
		unwell = append(unwell, together(ids, func(id string) error { return b.endPolitely(ctx, id) })...)
	}
	f.well = len(running) - len(unwell)
	failures = append(failures, unwell...)
	for _, id := range running {
		if _, err := b.runm.run(ctx, "delete", "--force", id); err != nil {
			failures = append(failures, err)
		}
	}
	running = nil
	noteFailures(s, failures)
	reap()
	if f.left, err = scope.Wait(goneTime); err != nil {
		return f, err
	}
	if len(f.left) > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("%s: the first of what is left: %s", f.name, f.left[0]))
	}
	return f, ctx.Err()
}

// endPolitely asks a container to end and waits for its status. This process is
// the parent of the containers whose command has ended.
func (b *bench) endPolitely(ctx context.Context, id string) error {
	state, err := b.state(id)
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if _, err := b.runm.run(ctx, "kill", id, "TERM"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, machineTime)
	defer cancel()
	if err := state.Holder.Wait(ctx); err != nil {
		return fmt.Errorf("%s: its end: %w", id, err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(state.Holder.Pid, &status, 0, nil); err != nil {
		return fmt.Errorf("%s: its status: %w", id, err)
	}
	if !status.Exited() || status.ExitStatus() != politeStatus {
		return fmt.Errorf("%s: ended with %#x, want status %d", id, int(status), politeStatus)
	}
	return nil
}

// rest lets what was started come to rest.
func rest(ctx context.Context, long time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(long):
		return nil
	}
}
