//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/runm/runm/tests/bench/report"
)

// burst starts many containers at once, and as many bare machines. It is not
// repeated: it is many already.
func burst(ctx context.Context, b *bench, s *report.Section) error {
	s.Rounds = 1
	dir, err := b.trueBundle()
	if err != nil {
		return err
	}
	began := time.Now()
	if errs := together(b.ids(b.atOnce), func(string) error { _, err := b.bareBoot(ctx); return err }); len(errs) > 0 {
		return errs[0]
	}
	bare := time.Since(began)
	began = time.Now()
	failures := together(b.ids(b.atOnce), func(id string) error { _, err := b.runm.runBundle(ctx, dir, id); return err })
	took := time.Since(began)
	name := fmt.Sprintf("%d `runm run` at once", b.atOnce)
	s.Rows = append(s.Rows,
		report.Row{
			Name: name, Unit: "s", Values: []float64{took.Seconds()},
			FloorName: "as many bare boots", Floor: []float64{bare.Seconds()},
		},
		endedWell(name, b.atOnce-len(failures), b.atOnce))
	noteFailures(s, failures)
	return ctx.Err()
}

// endedWell is the row that says how many of all did.
func endedWell(name string, ok, all int) report.Row {
	return report.Row{Name: name + ": ended well", Values: []float64{float64(ok)}}.Aim(fmt.Sprintf("all %d", all), ok == all)
}

func noteFailures(s *report.Section, failures []error) {
	if len(failures) > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("the first of %d failures: %v", len(failures), failures[0]))
	}
}

// ids are n new ones.
func (b *bench) ids(n int) (list []string) {
	for range n {
		list = append(list, b.id())
	}
	return list
}

// together calls f at once for all ids, and returns what failed.
func together(ids []string, f func(id string) error) []error {
	var all sync.WaitGroup
	errs := make([]error, len(ids))
	for i, id := range ids {
		all.Go(func() { errs[i] = f(id) })
	}
	all.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}
