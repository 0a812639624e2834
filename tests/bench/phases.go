//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/runm/runm/libvm/store"
	"github.com/runm/runm/tests/bench/report"
)

// event is a line of the monitor's log.
type event struct {
	Time  time.Time `json:"time"`
	Level string    `json:"level"`
	Msg   string    `json:"msg"`
}

// coldPhases takes a cold `run` apart, warmPhases a warm one.
func coldPhases(ctx context.Context, b *bench, s *report.Section) error {
	dir, err := b.coldBundle()
	if err != nil {
		return err
	}
	return b.phases(ctx, s, dir)
}

func warmPhases(ctx context.Context, b *bench, s *report.Section) error {
	dir, err := b.trueBundle()
	if err != nil {
		return err
	}
	return b.phases(ctx, s, dir)
}

// phases takes the run of a bundle apart by what its monitor logs. Some of it
// goes on at the same time: each event is only as late as the one before it
// allows.
func (b *bench) phases(ctx context.Context, s *report.Section, dir string) error {
	at := map[string][]float64{}
	for range b.rounds {
		began, events, ended, err := b.logged(ctx, dir)
		if err != nil {
			return err
		}
		for _, e := range append(events, event{Time: ended, Msg: "runm run has ended"}) {
			at[e.Msg] = append(at[e.Msg], ms(e.Time.Sub(began)))
		}
	}
	for name, all := range at {
		if len(all) < b.rounds {
			continue // logged while runm returned: too late for some rounds
		}
		s.Phases = append(s.Phases, report.Phase{Until: name, At: report.Median(all)})
	}
	slices.SortFunc(s.Phases, func(p, q report.Phase) int { return cmp.Compare(p.At, q.At) })
	var last float64
	for i := range s.Phases {
		p := &s.Phases[i]
		p.Took, last = p.At-last, p.At
	}
	return nil
}

// logged runs a bundle once and returns what the monitor logged, in order.
func (b *bench) logged(ctx context.Context, dir string) (began time.Time, events []event, ended time.Time, err error) {
	id := b.id()
	cmd := b.runm.command(ctx, "--debug", "run", "--keep", "--bundle", dir, id)
	began = time.Now()
	if _, err := timed(cmd); err != nil {
		return began, nil, ended, err
	}
	ended = time.Now()
	log, err := os.ReadFile(filepath.Join(b.root, id, store.LogFile))
	if err != nil {
		return began, nil, ended, err
	}
	for line := range bytes.Lines(log) {
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return began, nil, ended, fmt.Errorf("monitor's log: %w", err)
		}
		if e.Level == "debug" { // warnings are no phases
			events = append(events, e)
		}
	}
	_, err = b.runm.run(ctx, "delete", id)
	return began, events, ended, err
}
