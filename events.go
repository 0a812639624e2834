//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/opencontainers/runc/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name:        "events",
		Usage:       "print a container's counters and out-of-memory events as JSON, until it ends",
		ArgsUsage:   "<container-id>",
		Description: "The counters are the guest's: what the container uses in its machine.",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "interval", Value: 5 * time.Second, Usage: "time between two lines of counters"},
			&cli.BoolFlag{Name: "stats", Usage: "print the counters once"},
		},
		Action: func(c *cli.Context) error {
			id, err := containerID(c)
			if err != nil {
				return err
			}
			interval := c.Duration("interval")
			if interval <= 0 {
				return errors.New("duration interval must be greater than 0")
			}
			container, err := load(c)
			if err != nil {
				return fmt.Errorf("events %q: %w", id, err)
			}
			status, err := container.Status()
			if err != nil {
				return fmt.Errorf("events %q: %w", id, err)
			}
			if status == specs.StateStopped {
				return fmt.Errorf("container with id %s is not running", id)
			}
			e := events{id: id, out: c.App.Writer, source: container}
			if c.Bool("stats") {
				err = e.stats()
			} else {
				err = e.watch(c.Context, interval)
			}
			if err != nil {
				return fmt.Errorf("events %q: %w", id, err)
			}
			return nil
		},
	}
}

// eventSource is the container as events sees it.
type eventSource interface {
	Stats() (json.RawMessage, uint64, error)
	Wait(ctx context.Context) (oomKills uint64, err error)
}

// events prints lines of runc's types.Event.
type events struct {
	id     string
	out    io.Writer
	source eventSource
	// oomKills were there before, or were printed.
	oomKills uint64
}

// watch prints until the container's end. Out-of-memory events come with the
// counters, or at the end.
func (e *events) watch(ctx context.Context, interval time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type end struct {
		oomKills uint64
		err      error
	}
	ended := make(chan end, 1)
	go func() {
		n, err := e.source.Wait(ctx)
		ended <- end{n, err}
	}()
	if _, n, err := e.source.Stats(); err == nil {
		e.oomKills = n
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case end := <-ended:
			if err := e.oom(end.oomKills); err != nil {
				return err
			}
			return end.err
		case <-tick.C:
			switch err := e.look(); {
			case errors.Is(err, errOutput):
				return err
			case errors.Is(err, libvm.ErrNotRunning):
				// The end is on its way.
			case err != nil:
				logrus.Warn(err)
			}
		}
	}
}

// errOutput: nobody reads the events.
var errOutput = errors.New("cannot print")

// stats prints the counters and nothing else: who calls decodes one line.
func (e *events) stats() error {
	data, _, err := e.counters()
	if err != nil {
		return err
	}
	return e.print(types.Event{Type: "stats", ID: e.id, Data: data})
}

// look prints the counters, after what they tell of memory.
func (e *events) look() error {
	data, oomKills, err := e.counters()
	if err != nil {
		return err
	}
	if err := e.oom(oomKills); err != nil {
		return err
	}
	return e.print(types.Event{Type: "stats", ID: e.id, Data: data})
}

// counters are the guest's: decoded, so that of what it sends only they pass.
func (e *events) counters() (data *types.Stats, oomKills uint64, err error) {
	raw, oomKills, err := e.source.Stats()
	if err != nil {
		return nil, 0, err
	}
	data = new(types.Stats)
	if err := json.Unmarshal(raw, data); err != nil {
		return nil, 0, fmt.Errorf("the guest's counters: %w", err)
	}
	return data, oomKills, nil
}

// maxOOM bounds the lines that one look at the guest's count can print.
const maxOOM = 1000

// oom prints an event for each time that is new.
func (e *events) oom(total uint64) error {
	for n := 0; e.oomKills < total && n < maxOOM; n++ {
		e.oomKills++
		if err := e.print(types.Event{Type: "oom", ID: e.id}); err != nil {
			return err
		}
	}
	e.oomKills = max(e.oomKills, total)
	return nil
}

func (e *events) print(event types.Event) error {
	line, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encode the event: %w", err)
	}
	if _, err := fmt.Fprintln(e.out, ascii(line)); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

// ascii is JSON in ASCII, all else escaped: names in a guest's counters are the
// guest's, and encoding/json passes what a terminal would obey.
func ascii(encoded []byte) string {
	var b strings.Builder
	for _, r := range string(encoded) {
		switch {
		case r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
