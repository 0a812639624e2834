//go:build linux

// Command bench measures runm against bare floors in the same minutes on the
// same machine: what cannot be avoided with this kernel, this VMM and these
// flags. The machine may be busy and is never the same twice, so the ratios
// count, and floor and runm take turns. docs/performance.md explains the rows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// options is the command line.
type options struct {
	runm   string
	rounds int
	atOnce int
	mib    int
	cpus   int
	only   string
	json   string
}

func main() {
	var o options
	flag.StringVar(&o.runm, "runm", "_output/bin/runm", "the `program` to measure")
	flag.IntVar(&o.rounds, "n", 5, "`rounds`: each figure is the median of so many")
	flag.IntVar(&o.atOnce, "at-once", 20, "`containers` that are started at once")
	flag.IntVar(&o.mib, "mib", 1024, "`MiB` that go through a stream")
	flag.IntVar(&o.cpus, "cpus", 0, "`vCPUs` of each guest, floors included (default: as many as runm gives)")
	flag.StringVar(&o.only, "only", "", "measure only what is named: `cold, phases, exec, stream, network, burst or peers`, by commas")
	flag.StringVar(&o.json, "json", "", "write everything measured to `file`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.rounds < 1 || o.atOnce < 1 || o.mib < 1 || o.cpus < 0 || flag.NArg() > 0 {
		return errors.New("usage: bench [-n ROUNDS] [-at-once CONTAINERS] [-mib MIB] [-cpus VCPUS] [-only WHAT] [-json FILE]")
	}
	measures, err := choose(o.only)
	if err != nil {
		return err
	}
	b, err := newBench(o)
	if err != nil {
		return err
	}
	// Also after an interrupt, and also what a failed measure left.
	defer func() { err = errors.Join(err, b.close()) }()
	t := &table{Date: time.Now(), Machine: b.machine()}
	for _, m := range measures {
		fmt.Fprintf(os.Stderr, "bench: %s ...\n", m.name)
		if err := m.take(ctx, b, t); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	t.Machine.LoadAfter = loadAverage()
	if o.json != "" {
		if err := t.save(o.json); err != nil {
			return err
		}
	}
	return t.print(os.Stdout)
}
