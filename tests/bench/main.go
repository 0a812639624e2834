//go:build linux

// Command bench measures runm against bare floors in the same minutes on the
// same machine: what cannot be avoided with this kernel, this VMM and these
// flags. The machine may be busy and is never the same twice, so the ratios
// count, and all that is compared takes turns. docs/performance.md explains the
// rows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/tests/bench/report"
)

// options is the command line.
type options struct {
	runm      string
	rounds    int
	only      string
	cpus      int
	allowLoad bool
	sizes
	json, docs, from string
}

// sizes say how much is done.
type sizes struct {
	atOnce  int
	group   int
	density int
	batch   int
	idle    time.Duration
	files   int
	mib     int
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.runm, "runm", "_output/bin/runm", "the `program` to measure")
	f.IntVar(&o.rounds, "n", 5, "`rounds`: each figure is the median of so many")
	f.StringVar(&o.only, "only", "", "measure only these `parts`, separated by commas")
	f.IntVar(&o.cpus, "cpus", 0, "`vCPUs` of each guest, floors included (default: as many as runm gives)")
	f.BoolVar(&o.allowLoad, "allow-load", false, "measure on a busy machine too; the figures are marked")
	f.IntVar(&o.atOnce, "at-once", 20, "`containers` of the part burst")
	f.IntVar(&o.group, "group", 20, "`containers` of the part memory")
	f.IntVar(&o.density, "density", 100, "`containers` of the part density")
	f.IntVar(&o.batch, "batch", 10, "`containers` that density starts at a time, the second time")
	f.DurationVar(&o.idle, "idle", 100*time.Second, "`time` that containers are left alone before they are weighed")
	f.IntVar(&o.files, "files", 5000, "`files` in the tree of the part files")
	f.IntVar(&o.mib, "mib", 1024, "`MiB` that go through a stream")
	f.StringVar(&o.json, "json", "", "write everything measured to `file`, and take from it the parts that were not measured, if it is there")
	f.StringVar(&o.docs, "docs", "", "write performance.json, its table into performance.md, and its charts, in `directory`; parts that were not measured stay as they are")
	f.StringVar(&o.from, "from", "", "measure nothing: take the figures from `file`, as -json wrote it")
	f.Usage = func() {
		w := f.Output()
		fmt.Fprint(w, "Measures runm against bare machines, and beside runc, crun and runsc where they\nare installed (hack/peers.sh installs them). Needs root and a quiet machine.\n\n")
		fmt.Fprint(w, "  bench                          everything; half an hour\n")
		fmt.Fprint(w, "  bench -only start,exec -n 15   two parts, more rounds\n")
		fmt.Fprint(w, "  bench -docs docs               and write docs/performance.md, with its charts\n\nparts:\n")
		for _, m := range measures() {
			fmt.Fprintf(w, "  %-11s  %s\n", m.name, m.title)
		}
		fmt.Fprint(w, "\nflags:\n")
		f.PrintDefaults()
	}
	return f
}

func main() {
	var o options
	f := o.flags()
	switch err := f.Parse(os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, o, f.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// check refuses numbers that nothing can be measured with.
func (o *options) check(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unknown argument %q; bench -h lists the flags", rest[0])
	}
	for _, n := range []struct {
		flag       string
		value, min int
	}{
		{"n", o.rounds, 1}, {"cpus", o.cpus, 0}, {"at-once", o.atOnce, 1}, {"group", o.group, 1},
		{"density", o.density, 2}, {"batch", o.batch, 1}, {"files", o.files, 1}, {"mib", o.mib, 1},
	} {
		if n.value < n.min {
			return fmt.Errorf("-%s %d: want at least %d", n.flag, n.value, n.min)
		}
	}
	return nil
}

func run(ctx context.Context, o options, rest []string) error {
	if err := o.check(rest); err != nil {
		return err
	}
	r, err := o.figures(ctx)
	if err != nil {
		return err
	}
	err = r.Text(os.Stdout)
	for _, path := range o.data() {
		err = errors.Join(err, complete(r, path))
	}
	if err != nil {
		return err
	}
	if o.json != "" {
		err = r.Save(o.json)
	}
	if o.docs != "" {
		err = errors.Join(err, r.WriteDocs(o.docs))
	}
	return err
}

// data are the files that figures are written to.
func (o *options) data() (paths []string) {
	if o.json != "" {
		paths = append(paths, o.json)
	}
	if o.docs != "" {
		paths = append(paths, report.DataFile(o.docs))
	}
	return paths
}

// complete takes from the file at path, if there is one, the parts that r lacks.
func complete(r *report.Report, path string) error {
	if !slices.ContainsFunc(names(), func(name string) bool { return r.Section(name) == nil }) {
		return nil
	}
	old, err := report.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.Merge(old, names()); err != nil {
		return fmt.Errorf("%s: %w; remove it, or measure everything", path, err)
	}
	return nil
}

// figures measures, or reads what was measured.
func (o *options) figures(ctx context.Context) (_ *report.Report, err error) {
	if o.from != "" {
		return report.Load(o.from)
	}
	chosen, err := choose(o.only)
	if err != nil {
		return nil, err
	}
	b, err := newBench(ctx, *o)
	if err != nil {
		return nil, err
	}
	// Also after an interrupt, and also what a failed measure left.
	defer func() { err = errors.Join(err, b.close()) }()
	r := &report.Report{Machine: b.machine()}
	if len(chosen) < len(measures()) {
		// Now, not when everything is measured.
		for _, path := range o.data() {
			if err := complete(&report.Report{Machine: r.Machine}, path); err != nil {
				return nil, err
			}
		}
	}
	for _, m := range chosen {
		s, err := b.section(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		r.Sections = append(r.Sections, *s)
	}
	return r, nil
}

// section takes one measure on a quiet machine.
func (b *bench) section(ctx context.Context, m measure) (*report.Section, error) {
	busy, err := b.quiet(ctx)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "bench: %s ...\n", m.name)
	s := &report.Section{Name: m.name, Title: m.title, Date: time.Now().Truncate(time.Second), Rounds: b.rounds}
	before, err := now()
	if err != nil {
		return nil, err
	}
	if err := m.take(ctx, b, s); err != nil {
		return nil, err
	}
	reap()
	after, err := now()
	if err != nil {
		return nil, err
	}
	s.Quiet = quietness(before, after)
	s.Quiet.Busy = busy
	return s, ctx.Err()
}

// measure is a part of the table.
type measure struct {
	name, title string
	take        func(context.Context, *bench, *report.Section) error
}

// measures are all there are, in the table's order.
func measures() []measure {
	return []measure{
		{report.StartSection, "`run` of /bin/true, from the command to its end", starts},
		{"exec", "`exec` of /bin/true in a running container", execs},
		{"memory", "Memory of an idle container, in a group", memory},
		{report.DensitySection, "Many idle containers", density},
		{"burst", "Many containers at once", burst},
		{"files", "Files of a volume", files},
		{"stream", "Output", stream},
		{"network", "Network", networks},
		{"phases-warm", "Where the time of a warm `run` goes", warmPhases},
		{"phases-cold", "Where the time of a cold `run` goes", coldPhases},
	}
}

func names() (list []string) {
	for _, m := range measures() {
		list = append(list, m.name)
	}
	return list
}

// choose returns the measures that only, separated by commas, names; all of
// them when it is "".
func choose(only string) ([]measure, error) {
	if only == "" {
		return measures(), nil
	}
	var list []measure
	for _, m := range measures() {
		if contains(only, m.name) {
			list = append(list, m)
		}
	}
	for name := range strings.SplitSeq(only, ",") {
		if !contains(strings.Join(names(), ","), name) {
			return nil, fmt.Errorf("-only: there is no part %q; bench -h lists them", name)
		}
	}
	return list, nil
}

// contains says whether list, separated by commas, has name.
func contains(list, name string) bool {
	for n := range strings.SplitSeq(list, ",") {
		if n == name {
			return true
		}
	}
	return false
}
