//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/tests/bench/report"
)

// execTarget is how many milliseconds an exec may take under TCG.
const execTarget = 150

// execs compares `exec` with the agent asked directly, and with other runtimes,
// each in a container that sleeps.
func execs(ctx context.Context, b *bench, s *report.Section) (err error) {
	defer func() { err = errors.Join(err, b.tidyPeers()) }()
	dir, err := b.sleepBundle()
	if err != nil {
		return err
	}
	direct, err := b.bootAgent(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, direct.close()) }()
	process := *b.plan.Guest.Process
	process.Args = []string{"/bin/true"}
	list := []contender{{name: "the agent", take: func() (float64, error) { return direct.exec(ctx, &process) }}}

	runtimes := append([]oci{b.runm}, b.peers()...)
	var present []oci
	for _, r := range runtimes {
		id := b.id()
		remove, rerr := r.sleeper(ctx, dir, id)
		if rerr != nil && r.name != b.runm.name {
			s.Notes = append(s.Notes, fmt.Sprintf("%s: %v", r.name, rerr))
			continue
		}
		if rerr != nil {
			return rerr
		}
		defer func() { err = errors.Join(err, remove()) }()
		present = append(present, r)
		list = append(list, contender{
			name: r.name, optional: r.name != b.runm.name,
			take: func() (float64, error) { return r.run(ctx, "exec", id, "/bin/true") },
		})
	}
	all, err := b.turns(s, list)
	if err != nil {
		return err
	}
	row := report.Row{
		Name: "`runm exec`", Unit: "ms", Values: all[1].values,
		FloorName: "the agent's Exec and Wait alone", Floor: all[0].values,
	}
	if b.plan.Machine.Accel == vmm.AccelTCG {
		row = row.Within(execTarget, 0)
	}
	s.Rows = append(s.Rows, row)
	// Without processor time, as runm's: what runs in a container that goes on
	// running is not known.
	for _, r := range peerRows("exec", present[1:], all[2:]) {
		r.CPU = nil
		s.Rows = append(s.Rows, r)
	}
	return nil
}
