//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/runm/runm/libvm/store"
)

// event is a line of the monitor's log.
type event struct {
	Time time.Time `json:"time"`
	Msg  string    `json:"msg"`
}

// phases takes `runm run` apart by what its monitor logs. The events of the
// last round give the names and their order.
func phases(ctx context.Context, b *bench, t *table) error {
	at := map[string][]float64{}
	var order []string
	for range b.rounds {
		began, events, ended, err := b.logged(ctx)
		if err != nil {
			return err
		}
		order = order[:0]
		for _, e := range append(events, event{ended, "runm run has ended"}) {
			order = append(order, e.Msg)
			at[e.Msg] = append(at[e.Msg], ms(e.Time.Sub(began)))
		}
	}
	var last float64
	for _, name := range order {
		when := median(at[name])
		t.Phases = append(t.Phases, phase{Until: name, Took: when - last, At: when})
		last = when
	}
	return nil
}

// logged runs /bin/true once and returns what the monitor logged, in order.
func (b *bench) logged(ctx context.Context) (began time.Time, events []event, ended time.Time, err error) {
	dir, err := b.bundle("true", "/bin/true")
	if err != nil {
		return began, nil, ended, err
	}
	id := b.id()
	cmd := b.command(ctx, "--debug", "run", "--keep", "--bundle", dir, id)
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
		events = append(events, e)
	}
	_, err = timed(b.command(ctx, "delete", id))
	return began, events, ended, err
}
