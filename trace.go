//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/trace"
)

// tracing is --trace.
type tracing struct {
	began time.Time // main
	file  *trace.File
	// whole is the command, from when its process began.
	name  string
	whole int64
}

// open makes the file, before anything else is made, and gives the commands a
// context that records.
func (t *tracing) open(c *cli.Context) error {
	if !c.IsSet("trace") {
		return nil
	}
	began, err := proc.Began()
	if err != nil {
		return err
	}
	t.whole, t.name = began.UnixNano(), "runm "+c.Args().First()
	if t.file, err = trace.Create(c.String("trace"), "runm", t.whole); err != nil {
		return fmt.Errorf("--trace: %w", err)
	}
	r := t.file.Recorder
	r.Add(trace.MainLane, "process started", t.whole, t.began.UnixNano())
	r.Add(trace.MainLane, "command line", t.began.UnixNano(), trace.Now())
	c.Context = trace.With(c.Context, r, trace.MainLane)
	return nil
}

// close ends the file.
func (t *tracing) close() error {
	if t.file == nil {
		return nil
	}
	t.file.Recorder.Add(trace.MainLane, t.name, t.whole, trace.Now())
	return t.file.Close()
}
