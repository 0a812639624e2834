//go:build linux

package main

import (
	"context"
	"errors"

	"github.com/runm/runm/tests/bench/report"
)

const (
	// coldTarget is how many times the bare machine's boot a cold run may take.
	coldTarget = 1.5
	// warmTarget is how many times the bare machine's restore a warm run may take,
	// warmStretch what would be better still.
	warmTarget, warmStretch = 5, 3
	// warmColdTarget is how many times the cold run the warm one may take.
	warmColdTarget = 0.5
)

// starts compares `run` of /bin/true with what the machine alone takes, and with
// other runtimes.
func starts(ctx context.Context, b *bench, s *report.Section) (err error) {
	defer func() { err = errors.Join(err, b.tidyPeers()) }()
	if err := b.checkWarm(ctx); err != nil {
		return err
	}
	coldDir, err := b.coldBundle()
	if err != nil {
		return err
	}
	dir, err := b.trueBundle()
	if err != nil {
		return err
	}
	run := func(r oci, dir string) func() (float64, error) {
		return func() (float64, error) { return r.runBundle(ctx, dir, b.id()) }
	}
	list := []contender{
		{name: "bare boot", take: func() (float64, error) { return b.bareBoot(ctx) }},
		{name: "cold run", take: run(b.runm, coldDir)},
		{name: "bare restore", take: func() (float64, error) { return b.bareRestore(ctx) }},
		{name: "warm run", take: run(b.runm, dir)},
	}
	peers := b.peers()
	for _, p := range peers {
		version, err := p.version(ctx)
		if err != nil {
			return err
		}
		s.Notes = append(s.Notes, version)
	}
	first := len(list)
	for _, p := range peers {
		list = append(list, contender{name: p.name, take: run(p, dir), optional: true})
	}
	all, err := b.turns(s, list)
	if err != nil {
		return err
	}
	if err := b.checkWarm(ctx); err != nil { // that they still are
		return err
	}
	cold := report.Row{
		Name: "`runm run`, cold", Unit: "ms", Values: all[1].values, CPU: all[1].cpu,
		FloorName: "bare QEMU, booted", Floor: all[0].values, FloorCPU: all[0].cpu,
	}
	warm := report.Row{
		Name: "`runm run`, warm", Unit: "ms", Values: all[3].values, CPU: all[3].cpu,
		FloorName: "bare QEMU, restored", Floor: all[2].values, FloorCPU: all[2].cpu,
	}
	against := warm
	against.Name, against.NoBar = "the same; floor: the cold one", true
	against.FloorName, against.Floor, against.FloorCPU = "", cold.Values, cold.CPU
	s.Rows = append(s.Rows, warm.AtMost(warmTarget, warmStretch), against.AtMost(warmColdTarget, 0), cold.AtMost(coldTarget, 0))
	s.Rows = append(s.Rows, peerRows("run", peers, all[first:])...)
	return nil
}

// peerRows are what other runtimes took for a command.
func peerRows(command string, peers []oci, all []taken) (rows []report.Row) {
	for i, p := range peers {
		if len(all[i].values) > 0 {
			rows = append(rows, report.Row{
				Name: "`" + p.name + " " + command + "`", Unit: "ms", Kind: report.KindPeer, Values: all[i].values, CPU: all[i].cpu,
			})
		}
	}
	return rows
}
